//! Sums over the last minutes or days, which the guest remembers for a script: `window("calls", check, "1h")`.
//!
//! A window is kept in slices of a second, or of a sixtieth of it if that is longer, so that its memory stays small
//! however long it is; latencies are most of it, and windows that need none leave them out. What is asked for twice in
//! one question is counted once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::{Comparisons, packed};
use rhai::{Dynamic, Engine, EvalAltResult};
use serde::{Deserialize, Serialize};

use super::calls::{Calls, Tally};
use super::check::{Batch, Check, comparisons};
use super::int;
use crate::helpers::units;

/// Slices of a window.
const SLICES: u64 = 60;

/// Windows of one script; each is some kilobytes of memory, with latencies some tens.
const MAX_WINDOWS: usize = 16;

/// Counts stop here, a million million, so that products of three of them fit into 128 bits.
const MOST: u64 = 1 << 40;

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

    fn slide(&self, name: &str, check: &Check, span: &Dynamic, keep: Keep) -> Result<Sums, Box<EvalAltResult>> {
        let span_ms = units::span(span)?;
        if span_ms < 1_000 {
            return Err(format!("the window `{name}` is shorter than 1s, the length of a batch").into());
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_WINDOWS && !kept.contains_key(name) {
            return Err(format!("the window `{name}` is one more than the {MAX_WINDOWS} that a script may have").into());
        }
        Ok(kept.entry(name.to_owned()).or_default().slide(check, span_ms, keep))
    }
}

impl Window {
    fn slide(&mut self, check: &Check, span_ms: u64, keep: Keep) -> Sums {
        let by_stage = keep == Keep::Stage;
        let mirrored = check.mirrors();
        let stage = Stage { mirrored, number: check.stage, started_ms: check.stage_started_ms };
        let stage = by_stage.then_some(stage);
        let begun = self.stage != stage || (self.slices.is_empty() && self.latest_ms.is_none());
        if self.stage != stage {
            *self = Self { stage, ..Self::default() };
        }
        let mut from = check.now_ms.saturating_sub(span_ms);
        if by_stage {
            // Batches from before the stage mix shares.
            from = from.max(check.stage_started_ms);
        }
        self.slices.retain(|slice| slice.start_ms >= from);
        let length_ms = (span_ms / SLICES).max(1_000);
        for batch in check.batches.iter() {
            let start_ms = batch.span().start_ms;
            if start_ms < from || self.latest_ms.is_some_and(|latest| start_ms <= latest) {
                continue;
            }
            self.latest_ms = Some(start_ms);
            match self.slices.last_mut() {
                Some(slice) if start_ms < slice.start_ms.saturating_add(length_ms) => {
                    slice.add(batch, mirrored, keep);
                }
                _ => {
                    let mut slice = Slice { start_ms, ..Slice::default() };
                    slice.add(batch, mirrored, keep);
                    self.slices.push(slice);
                }
            }
        }
        self.sums(check.now_ms, begun)
    }

    fn sums(&self, now_ms: u64, begun: bool) -> Sums {
        let (mut v1, mut v2, mut counts, mut failures) = (Tally::default(), Tally::default(), [0_u64; 4], 0_u64);
        for slice in &self.slices {
            v1.add(&slice.v1);
            v2.add(&slice.v2);
            failures = failures.saturating_add(slice.failures);
            counts.iter_mut().zip(slice.comparisons).for_each(|(sum, n)| *sum = sum.saturating_add(n));
        }
        let [same, ignored, different, incomparable] = counts;
        Sums {
            v1: bounded(v1).into(),
            v2: bounded(v2).into(),
            failures: failures.min(MOST),
            wanted: self.slices.last().map_or(0, |slice| slice.wanted),
            comparisons: Comparisons { same, ignored, different, incomparable },
            covered_ms: self.slices.first().map_or(0, |slice| now_ms.saturating_sub(slice.start_ms)),
            begun,
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
    }
}

fn bounded(mut tally: Tally) -> Tally {
    tally.requests = tally.requests.max(tally.errors).min(MOST);
    tally.errors = tally.errors.min(MOST);
    tally
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
        self.comparisons.into_iter().for_each(|count| _ = text.number(count));
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let start_ms = fields.number()?;
        let mut tally = || Some(Tally::new(fields.numbers()?, fields.buckets()?));
        let (v1, v2) = (tally()?, tally()?);
        let (failures, wanted) = (fields.number()?, fields.number()?.try_into().ok()?);
        Some(Self { start_ms, v1, v2, failures, wanted, comparisons: fields.numbers()? })
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
        .register_get("begun", |s: &mut Sums| s.begun);
}

/// `window`, `stage_window` and `count_window`, over the windows of the question that is being answered.
pub(crate) fn register_windows(engine: &mut Engine, windows: &Windows) {
    for (name, keep) in [("window", Keep::Everything), ("stage_window", Keep::Stage), ("count_window", Keep::Counts)] {
        let windows = windows.clone();
        engine
            .register_fn(name, move |name: &str, check: Check, span: Dynamic| windows.slide(name, &check, &span, keep));
    }
}
