//! What the policy remembers of calls: sums over slices of a window, never across stages.
//!
//! A slice is a second, or a sixtieth of the window if that is longer. Where V2 has few calls the window reaches further
//! back, in sixty coarser slices, so that a service with little traffic is judged too. So memory stays small however long
//! and however empty the window is. A clock that is set back leaves nothing in the future: what was there is now.

use cutover_contract::histogram::Sum;
use cutover_policy::{
    Batch, Calls, Check, Histogram, Phase,
    memory::{Fields, Packed, Text},
    packed,
};
use serde::{Deserialize, Serialize};

/// Slices of a window, and of what it reaches further back.
const SLICES: u64 = 60;

/// Counts of a window stop here, a million million, so that no product of three of them leaves 128 bits; and those of a
/// batch, so that sums over a day of batches are exact. What is larger is halved together: cut one by one, counts would be
/// another rate.
const MOST: u64 = 1 << 40;
const MOST_OF_A_BATCH: u64 = 1 << 46;

/// How far back a window reaches.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// As a rule, in milliseconds.
    pub span_ms: u64,
    /// At most.
    pub longest_ms: u64,
    /// While V2 has fewer calls than this.
    pub enough: u64,
}

/// The calls within the window, of the current stage only.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    stage: Stage,
    slices: Vec<Slice>,
    run: Run,
    sessions: Sessions,
}

/// What tells one stage from another; calls made at different shares do not compare.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Stage {
    mirrored: bool,
    number: u32,
    started_ms: u64,
}

/// What happened since V2 last answered a call well: nothing but failures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Calls of V2 in a row that failed.
    pub calls: u64,
    /// Sessions that failed for the first time among them.
    pub failed: u64,
    /// V1's calls meanwhile, of the batches in which V2 had some.
    pub v1_requests: u64,
    /// Those that failed.
    pub v1_errors: u64,
}

/// V2's sessions in this stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    /// Distinct ones; where the host does not count them, more.
    pub seen: u64,
    /// Those that had a failed call.
    pub failed: u64,
}

#[derive(Debug, Default, PartialEq)]
struct Slice {
    start_ms: u64,
    v1: Tally,
    v2: Tally,
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    requests: u64,
    errors: u64,
    /// Sessions that had not failed before, counted anew in each batch.
    units: u64,
    /// Those that failed for the first time.
    failed: u64,
    /// Bucket and count, ascending.
    latency: Vec<(u32, u64)>,
}

/// One pool over a span.
#[derive(Debug, Clone, Default)]
pub struct Total {
    /// Answered calls.
    pub requests: u64,
    /// Those that failed; never more than `requests`.
    pub errors: u64,
    /// Sessions that had not failed before, counted anew in each batch.
    pub units: u64,
    /// Those that failed for the first time; never more than `units`.
    pub failed: u64,
    /// How long calls took.
    pub latency: Sum,
}

/// What a check alone showed.
#[derive(Debug)]
pub(crate) struct Slid {
    /// Whether it is another stage than before, and all was forgotten.
    pub(crate) begun: bool,
    /// Its calls.
    pub(crate) latest: Totals,
}

/// Both pools over a span.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// V1, as its callers saw it.
    pub v1: Total,
    /// V2, as its callers saw it, or as mirrored calls did in the phase `shadow`.
    pub v2: Total,
}

impl Window {
    /// Slides to `check`.
    ///
    /// Batches that began before the stage did are left out: they mix shares.
    pub(crate) fn slide(&mut self, check: &Check, reach: Reach) -> Slid {
        let mirrored = check.phase == Phase::Shadow;
        let stage = Stage { mirrored, number: check.stage, started_ms: check.stage_started_ms };
        let begun = self.stage != stage;
        if begun {
            *self = Self { stage, ..Self::default() };
        }
        for slice in &mut self.slices {
            slice.start_ms = slice.start_ms.min(check.now_ms);
        }
        let length_ms = (reach.span_ms / SLICES).max(1_000);
        let mut latest = Totals::default();
        for batch in of_stage(check) {
            let slice = Slice::of(batch, check.now_ms, mirrored);
            self.count(batch, &slice);
            latest.v1.add(&slice.v1);
            latest.v2.add(&slice.v2);
            match self.slices.last_mut() {
                Some(last) if slice.start_ms < last.start_ms.saturating_add(length_ms) => last.merge(&slice),
                _ => self.slices.push(slice),
            }
        }
        self.forget(check.now_ms, reach);
        Slid { begun, latest: Totals { v1: latest.v1.bounded(), v2: latest.v2.bounded() } }
    }

    /// Sums it up.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for slice in &self.slices {
            totals.v1.add(&slice.v1);
            totals.v2.add(&slice.v2);
        }
        Totals { v1: totals.v1.bounded(), v2: totals.v2.bounded() }
    }

    pub(crate) const fn run(&self) -> Run {
        self.run
    }

    pub(crate) const fn sessions(&self) -> Sessions {
        self.sessions
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
        let is_coarse = |slice: &Slice| slice.start_ms < from;
        let end = self.slices.iter().position(|slice| !is_coarse(slice)).unwrap_or(self.slices.len());
        let mut coarse: Vec<Slice> = Vec::new();
        for slice in self.slices.drain(..end) {
            match coarse.last_mut() {
                Some(last) if slice.start_ms < last.start_ms.saturating_add(coarse_ms) => last.merge(&slice),
                _ => coarse.push(slice),
            }
        }
        self.slices.splice(..0, coarse);
    }

    /// Counts what goes on for longer than a window does.
    fn count(&mut self, batch: &Batch, Slice { v1, v2, .. }: &Slice) {
        let seen = if is_counted(batch) { batch.count("v2.sessions").min(v2.requests) } else { v2.units };
        self.sessions.seen = self.sessions.seen.saturating_add(seen);
        self.sessions.failed = self.sessions.failed.saturating_add(v2.failed);
        if v2.errors < v2.requests {
            self.run = Run::default();
        } else if v2.requests > 0 {
            self.run = Run {
                calls: self.run.calls.saturating_add(v2.requests),
                failed: self.run.failed.saturating_add(v2.failed),
                v1_requests: self.run.v1_requests.saturating_add(v1.requests),
                v1_errors: self.run.v1_errors.saturating_add(v1.errors),
            };
        }
    }
}

/// The batches of the check's stage. One that begins in the future began before a clock was set back, and says nothing.
pub(crate) fn of_stage(check: &Check) -> impl Iterator<Item = &Batch> {
    let started_ms = if check.stage_started_ms > check.now_ms { 0 } else { check.stage_started_ms };
    check.batches.iter().filter(move |batch| batch.start_ms >= started_ms)
}

/// Whether the host counts distinct sessions; those of old history did not.
fn is_counted(batch: &Batch) -> bool {
    batch.gauge("v2.sessions").is_some()
}

impl Slice {
    /// Mirrored calls are held against V1's calls of the same operations: V1 serves others too, and they take their own
    /// time.
    fn of(batch: &Batch, now_ms: u64, mirrored: bool) -> Self {
        let mut slice = Self { start_ms: batch.start_ms.min(now_ms), ..Self::default() };
        for operation in &batch.operations {
            let calls = if mirrored { &operation.shadow } else { &operation.v2 };
            slice.v2.add(calls);
            if !mirrored || calls.requests > 0 {
                slice.v1.add(&operation.v1);
            }
        }
        if is_counted(batch) && !mirrored {
            // A session that fails in two operations is one.
            slice.v1.failed = batch.count("v1.failed-sessions");
            slice.v2.failed = batch.count("v2.failed-sessions");
        }
        slice.v1.bound();
        slice.v2.bound();
        slice
    }

    fn merge(&mut self, other: &Self) {
        self.v1.merge(&other.v1);
        self.v2.merge(&other.v2);
    }
}

impl Packed for Slice {
    /// There was no plain form of these.
    type Plain = Never;

    fn write(&self, text: &mut Text) {
        text.number(self.start_ms);
        for tally in [&self.v1, &self.v2] {
            for count in [tally.requests, tally.errors, tally.units, tally.failed] {
                text.number(count);
            }
            text.buckets(&tally.latency);
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { start_ms: fields.number()?, v1: Tally::read(fields)?, v2: Tally::read(fields)? })
    }
}

packed!(Slice);

/// No value.
#[derive(Debug, Deserialize)]
pub enum Never {}

impl From<Never> for Slice {
    fn from(never: Never) -> Self {
        match never {}
    }
}

impl Tally {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [requests, errors, units, failed] = fields.numbers()?;
        Some(Self { requests, errors, units, failed, latency: fields.buckets()? })
    }

    fn add(&mut self, calls: &Calls) {
        self.requests = self.requests.saturating_add(calls.requests);
        self.errors = self.errors.saturating_add(calls.errors);
        self.units = self.units.saturating_add(calls.units);
        self.failed = self.failed.saturating_add(calls.unit_errors);
        self.add_latency(&cutover_policy::histogram(&calls.latency));
    }

    /// Sessions are known by their calls: there are at most as many.
    fn bound(&mut self) {
        self.units = self.units.min(self.requests);
        self.failed = self.failed.min(self.requests);
        let counts = [self.requests, self.errors, self.units, self.failed];
        [self.requests, self.errors, self.units, self.failed] = few(counts, MOST_OF_A_BATCH);
    }

    fn merge(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.units = self.units.saturating_add(other.units);
        self.failed = self.failed.saturating_add(other.failed);
        self.add_latency(&other.latency.iter().copied().collect());
    }

    fn add_latency(&mut self, other: &Histogram) {
        let mut latency: Histogram = self.latency.iter().copied().collect();
        latency.merge(other);
        self.latency = latency.buckets().to_vec();
    }
}

impl Total {
    fn add(&mut self, tally: &Tally) {
        self.requests = self.requests.saturating_add(tally.requests);
        self.errors = self.errors.saturating_add(tally.errors);
        self.units = self.units.saturating_add(tally.units);
        self.failed = self.failed.saturating_add(tally.failed);
        tally.latency.iter().for_each(|&(index, count)| self.latency.add(index, count));
    }

    fn bounded(self) -> Self {
        let counts = [self.requests.max(self.errors), self.errors, self.units.max(self.failed), self.failed];
        let [requests, errors, units, failed] = few(counts, MOST);
        Self { requests, errors, units, failed, latency: self.latency }
    }
}

/// Counts halved together until none is above `most`.
fn few(counts: [u64; 4], most: u64) -> [u64; 4] {
    let largest = counts.iter().copied().max().unwrap_or(0);
    // `most` is a power of two.
    let halvings = (most.leading_zeros() + 1).saturating_sub(largest.saturating_sub(1).leading_zeros());
    counts.map(|count| count.div_ceil(1 << halvings))
}

#[cfg(test)]
mod tests;
