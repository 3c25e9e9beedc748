//! Sums over the last minutes or days, which the guest remembers for a script: `window("calls", check, "1h")`.
//!
//! A window is kept in slices of a second, or of a sixtieth of it if that is longer, so that its memory stays small
//! however long it is; latencies are most of it, and windows that need none leave them out. A window of a stage may reach
//! further back, in sixty coarser slices, where V2 has few calls. What is asked for twice in one question is counted once,
//! and a clock that is set back leaves nothing in the future.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use cutover_policy::{
    Comparisons,
    memory::{Fields, Packed, Text},
    packed,
};
use rhai::{Dynamic, Engine, EvalAltResult, INT, Map};
use serde::{Deserialize, Serialize};

use super::{
    calls::{Calls, Tally},
    check::{Batch, Check, comparisons},
    int,
};
use crate::helpers::units;

/// Slices of a window.
const SLICES: u64 = 60;

/// Windows of one script; each is some kilobytes of memory, with latencies some tens.
const MAX_WINDOWS: usize = 16;

/// Counts of a window stop here, a million million, so that products of three of them fit into 128 bits; and those of a
/// batch, so that sums over a day of batches are exact. What is larger is halved together: cut one by one, counts would be
/// another rate.
const MOST: u64 = 1 << 40;
const MOST_OF_A_BATCH: u64 = 1 << 46;

/// The windows of a script between questions, by name.
pub(crate) type Kept = BTreeMap<String, Window>;

/// The windows of the question that is being answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Windows(Arc<Mutex<Kept>>);

/// One window.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Window {
    /// The stage that it is about; none for one that goes on over stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stage: Option<Stage>,
    /// When the latest batch in it began.
    #[serde(default)]
    latest_ms: Option<u64>,
    slices: Vec<Slice>,
    /// What goes on for longer than the window of a stage.
    #[serde(default, skip_serializing_if = "Lasting::is_nothing")]
    lasting: Lasting,
}

/// What a stage has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lasting {
    /// Since V2 last answered a call well: its calls, sessions that failed for the first time among them, and V1's calls and
    /// failures meanwhile.
    run: [u64; 4],
    /// V2's sessions, and those that failed.
    sessions: [u64; 2],
}

/// How far back a window reaches: as a rule, and at most while V2 has fewer calls than enough.
#[derive(Debug, Clone, Copy)]
struct Reach {
    span_ms: u64,
    longest_ms: u64,
    enough: u64,
}

/// What tells one stage from another: calls made at different shares do not compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stage {
    mirrored: bool,
    number: u32,
    started_ms: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Slice {
    start_ms: u64,
    v1: Tally,
    v2: Tally,
    failures: u64,
    wanted: u32,
    /// Same, ignored, different, incomparable.
    comparisons: [u64; 4],
    /// Sessions of V1 and of V2 that failed for the first time.
    failed: [u64; 2],
}

/// What a window is about, and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    /// Counts and latencies, over stages.
    Everything,
    /// The same of the current stage alone.
    Stage,
    /// Counts, over stages.
    Counts,
}

/// There was no plain form of slices before the packed one.
#[derive(Deserialize)]
enum Plain {}

/// A window's sums, as a script sees them.
#[derive(Debug, Clone)]
pub(crate) struct Sums {
    v1: Calls,
    v2: Calls,
    failures: u64,
    wanted: u32,
    comparisons: Comparisons,
    covered_ms: u64,
    begun: bool,
    failed: [u64; 2],
    latest: Calls,
    lasting: Lasting,
}

impl Windows {
    /// Puts what was remembered in place of what is there.
    pub(crate) fn load(&self, kept: Kept) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// Takes out what is to be remembered.
    pub(crate) fn take(&self) -> Kept {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn slide(
        &self,
        name: &str,
        check: &Check,
        [span, longest]: [&Dynamic; 2],
        enough: INT,
        keep: Keep,
    ) -> Result<Sums, Box<EvalAltResult>> {
        let span_ms = units::span(span)?;
        if span_ms < 1_000 {
            return Err(format!("the window `{name}` is shorter than 1s, the length of a batch").into());
        }
        let longest_ms = units::span(longest)?.max(span_ms);
        let reach = Reach { span_ms, longest_ms, enough: enough.try_into().unwrap_or_default() };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_WINDOWS && !kept.contains_key(name) {
            return Err(format!("the window `{name}` is one more than the {MAX_WINDOWS} that a script may have").into());
        }
        Ok(kept.entry(name.to_owned()).or_default().slide(check, reach, keep))
    }
}

impl Window {
    fn slide(&mut self, check: &Check, reach: Reach, keep: Keep) -> Sums {
        let (mirrored, now_ms) = (check.mirrors(), check.now_ms);
        let stage = Stage { mirrored, number: check.stage, started_ms: check.stage_started_ms };
        let stage = (keep == Keep::Stage).then_some(stage);
        let begun = self.stage != stage || (self.slices.is_empty() && self.latest_ms.is_none());
        if self.stage != stage {
            *self = Self { stage, ..Self::default() };
        }
        self.latest_ms = self.latest_ms.filter(|&latest| latest <= now_ms);
        for slice in &mut self.slices {
            slice.start_ms = slice.start_ms.min(now_ms);
        }
        let length_ms = (reach.span_ms / SLICES).max(1_000);
        let mut latest = Tally::default();
        for batch in check.batches.iter().filter(|batch| check.covers(batch, keep == Keep::Stage)) {
            let start_ms = batch.span().start_ms.min(now_ms);
            let mut slice = Slice { start_ms, ..Slice::default() };
            slice.add(batch, mirrored, keep);
            if keep == Keep::Stage {
                latest.add(&slice.v2);
            }
            if self.latest_ms.is_some_and(|latest| start_ms <= latest) {
                continue;
            }
            self.latest_ms = Some(start_ms);
            if keep == Keep::Stage {
                self.lasting.add(batch, &slice);
            }
            match self.slices.last_mut() {
                Some(last) if start_ms < last.start_ms.saturating_add(length_ms) => last.merge(&slice),
                _ => self.slices.push(slice),
            }
        }
        self.forget(now_ms, reach);
        Sums { latest: bounded(latest, 0).0.into(), ..self.sums(now_ms, begun) }
    }

    /// Drops what is too old, and makes slices beyond the usual span coarser.
    fn forget(&mut self, now_ms: u64, reach: Reach) {
        let (from, oldest) = (now_ms.saturating_sub(reach.span_ms), now_ms.saturating_sub(reach.longest_ms));
        let mut calls = 0_u64;
        let is_kept = |slice: &&Slice| {
            let is_kept = slice.start_ms >= from || (slice.start_ms >= oldest && calls < reach.enough);
            calls = calls.saturating_add(slice.v2.requests);
            is_kept
        };
        let kept = self.slices.iter().rev().take_while(is_kept).count();
        self.slices.drain(..self.slices.len() - kept);
        let coarse_ms = (reach.longest_ms / SLICES).max(1_000);
        let end = self.slices.iter().position(|slice| slice.start_ms >= from).unwrap_or(self.slices.len());
        let mut coarse: Vec<Slice> = Vec::new();
        for slice in self.slices.drain(..end) {
            match coarse.last_mut() {
                Some(last) if slice.start_ms < last.start_ms.saturating_add(coarse_ms) => last.merge(&slice),
                _ => coarse.push(slice),
            }
        }
        self.slices.splice(..0, coarse);
    }

    fn sums(&self, now_ms: u64, begun: bool) -> Sums {
        let (mut v1, mut v2, mut counts, mut failures) = (Tally::default(), Tally::default(), [0_u64; 4], 0_u64);
        let mut failed = [0_u64; 2];
        for slice in &self.slices {
            v1.add(&slice.v1);
            v2.add(&slice.v2);
            failures = failures.saturating_add(slice.failures);
            counts.iter_mut().zip(slice.comparisons).for_each(|(sum, n)| *sum = sum.saturating_add(n));
            failed.iter_mut().zip(slice.failed).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        // Failed ones are units, too, where the host counts them by operation.
        (v1.units, v2.units) = (v1.units.max(failed[0]), v2.units.max(failed[1]));
        let [same, ignored, different, incomparable] = counts;
        let [failed_v1, failed_v2] = failed;
        let ((v1, failed_v1), (v2, failed_v2)) = (bounded(v1, failed_v1), bounded(v2, failed_v2));
        Sums {
            v1: v1.into(),
            v2: v2.into(),
            failures: failures.min(MOST),
            wanted: self.slices.last().map_or(0, |slice| slice.wanted),
            comparisons: Comparisons { same, ignored, different, incomparable },
            covered_ms: self.slices.first().map_or(0, |slice| now_ms.saturating_sub(slice.start_ms)),
            begun,
            failed: [failed_v1, failed_v2],
            latest: Calls::default(),
            lasting: self.lasting,
        }
    }
}

impl Slice {
    /// Mirrored calls are held against V1's calls of the same operations: V1 serves others too, and they take their own
    /// time.
    fn add(&mut self, batch: &Batch, mirrored: bool, keep: Keep) {
        let span = batch.span();
        for operation in &span.operations {
            let v2 = if mirrored { &operation.shadow } else { &operation.v2 }.tally();
            self.v2.add_counts(v2);
            if !mirrored || v2.requests > 0 {
                self.v1.add_counts(operation.v1.tally());
            }
            if keep != Keep::Counts {
                self.v2.latency.merge(&v2.latency);
                if !mirrored || v2.requests > 0 {
                    self.v1.latency.merge(&operation.v1.tally().latency);
                }
            }
        }
        self.failures = self.failures.saturating_add(span.v2.failures.into());
        self.wanted = span.v2.wanted;
        let Comparisons { same, ignored, different, incomparable } = span.comparisons;
        let counts = [same, ignored, different, incomparable];
        self.comparisons.iter_mut().zip(counts).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        // A session that fails in two operations is one, where the host counts them.
        let failed = if batch.counts_sessions() && !mirrored {
            ["v1.failed-sessions", "v2.failed-sessions"].map(|name| batch.count(name).try_into().unwrap_or_default())
        } else {
            [self.v1.unit_errors, self.v2.unit_errors]
        };
        for ((own, tally), failed) in self.failed.iter_mut().zip([&mut self.v1, &mut self.v2]).zip(failed) {
            // Sessions are known by their calls: there are at most as many.
            tally.units = tally.units.min(tally.requests);
            *own = own.saturating_add(failed.min(tally.requests));
            *own = tally.halve(*own, MOST_OF_A_BATCH);
        }
    }

    fn merge(&mut self, other: &Self) {
        self.v1.add(&other.v1);
        self.v2.add(&other.v2);
        self.failures = self.failures.saturating_add(other.failures);
        self.wanted = other.wanted;
        self.comparisons.iter_mut().zip(other.comparisons).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        self.failed.iter_mut().zip(other.failed).for_each(|(sum, n)| *sum = sum.saturating_add(n));
    }
}

impl Lasting {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    fn add(&mut self, batch: &Batch, slice: &Slice) {
        let (v1, v2, failed) = (&slice.v1, &slice.v2, slice.failed[1]);
        let sessions = || u64::try_from(batch.count("v2.sessions")).unwrap_or_default().min(v2.requests);
        let seen = if batch.counts_sessions() { sessions() } else { v2.units };
        self.sessions = [self.sessions[0].saturating_add(seen), self.sessions[1].saturating_add(failed)];
        if v2.errors < v2.requests {
            self.run = [0; 4];
        } else if v2.requests > 0 {
            let more = [v2.requests, failed, v1.requests, v1.errors];
            self.run.iter_mut().zip(more).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
    }
}

/// Counts of calls, and of sessions that failed, as a script sees them.
fn bounded(mut tally: Tally, failed: u64) -> (Tally, u64) {
    tally.requests = tally.requests.max(tally.errors);
    let failed = tally.halve(failed, MOST);
    (tally, failed)
}

impl From<Plain> for Slice {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}

impl Packed for Slice {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        text.number(self.start_ms);
        for tally in [&self.v1, &self.v2] {
            tally.counts().into_iter().for_each(|count| _ = text.number(count));
            text.buckets(tally.latency.buckets());
        }
        text.number(self.failures).number(self.wanted.into());
        self.comparisons.into_iter().chain(self.failed).for_each(|count| _ = text.number(count));
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let start_ms = fields.number()?;
        let mut tally = || Some(Tally::new(fields.numbers()?, fields.buckets()?));
        let (v1, v2) = (tally()?, tally()?);
        let (failures, wanted) = (fields.number()?, fields.number()?.try_into().ok()?);
        let comparisons = fields.numbers()?;
        // That of versions before ends here.
        let failed = if fields.is_over() { [0; 2] } else { fields.numbers()? };
        Some(Self { start_ms, v1, v2, failures, wanted, comparisons, failed })
    }
}

packed!(Slice);

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Sums>("Window")
        .register_get("v1", |s: &mut Sums| s.v1.clone())
        .register_get("v2", |s: &mut Sums| s.v2.clone())
        .register_get("failures", |s: &mut Sums| int(s.failures))
        .register_get("wanted", |s: &mut Sums| int(s.wanted.into()))
        .register_get("comparisons", |s: &mut Sums| comparisons(s.comparisons))
        .register_get("covered_ms", |s: &mut Sums| int(s.covered_ms))
        .register_get("begun", |s: &mut Sums| s.begun)
        .register_get("latest", |s: &mut Sums| s.latest.clone())
        .register_get("failed_v1", |s: &mut Sums| int(s.failed[0]))
        .register_get("failed_v2", |s: &mut Sums| int(s.failed[1]))
        .register_get("sessions", |s: &mut Sums| int(s.lasting.sessions[0]))
        .register_get("failed_sessions", |s: &mut Sums| int(s.lasting.sessions[1]))
        .register_get("run", |s: &mut Sums| {
            let names = ["calls", "failed", "v1_requests", "v1_errors"];
            names.into_iter().zip(s.lasting.run).map(|(name, n)| (name.into(), int(n).into())).collect::<Map>()
        });
}

/// `window`, `stage_window` and `count_window`, over the windows of the question that is being answered.
pub(crate) fn register_windows(engine: &mut Engine, windows: &Windows) {
    for (name, keep) in [("window", Keep::Everything), ("stage_window", Keep::Stage), ("count_window", Keep::Counts)] {
        let windows = windows.clone();
        engine.register_fn(name, move |name: &str, check: Check, span: Dynamic| {
            windows.slide(name, &check, [&span, &span], 0, keep)
        });
    }
    let windows = windows.clone();
    engine.register_fn(
        "stage_window",
        move |name: &str, check: Check, span: Dynamic, longest: Dynamic, enough: INT| {
            windows.slide(name, &check, [&span, &longest], enough, Keep::Stage)
        },
    );
}
