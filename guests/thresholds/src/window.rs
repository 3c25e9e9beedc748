//! What the policy remembers of calls and worker failures: sums over slices of the window, never across stages.
//!
//! A slice is a second, or a sixtieth of the window if that is longer, so that memory stays small however long it is.

use cutover_contract::histogram::Sum;
use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::{Batch, Calls, Check, Histogram, Phase, packed};
use serde::{Deserialize, Serialize};

/// Slices of a window.
const SLICES: u64 = 60;

/// Counts stop here, a million million, so that no product of three of them leaves 128 bits.
const MOST: u64 = 1 << 40;

/// The calls within the window, of the current stage only.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    stage: Stage,
    slices: Vec<Slice>,
}

/// What tells one stage from another; calls made at different shares do not compare.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Workers of V2 that failed.
    failures: u64,
    /// Workers that V2 was meant to have.
    wanted: u32,
}

/// A slice as plain JSON, which it was before it was packed.
#[derive(Deserialize)]
struct PlainSlice {
    start_ms: u64,
    v1: Tally,
    v2: Tally,
    failures: u64,
    wanted: u32,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
struct Tally {
    requests: u64,
    errors: u64,
    /// Bucket and count, ascending.
    latency: Vec<(u32, u64)>,
}

/// One pool over the whole window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Total {
    /// Answered calls.
    pub requests: u64,
    /// Those that failed; never more than `requests`.
    pub errors: u64,
    /// The 99th percentile of latency in microseconds; none without calls.
    pub p99_us: Option<u64>,
}

/// The whole window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// V1, as its callers saw it.
    pub v1: Total,
    /// V2, as its callers saw it, or as mirrored calls did in the phase `shadow`.
    pub v2: Total,
    /// Workers of V2 that failed.
    pub failures: u64,
    /// Workers that V2 is meant to have.
    pub wanted: u32,
}

impl Window {
    /// Slides to `check`, `span_ms` long. True if it is another stage than before, and all is forgotten.
    ///
    /// Batches that began before the stage did are left out: they mix shares.
    pub(crate) fn slide(&mut self, check: &Check, span_ms: u64) -> bool {
        let mirrored = check.phase == Phase::Shadow;
        let stage = Stage { mirrored, number: check.stage, started_ms: check.stage_started_ms };
        let other = self.stage != stage;
        if other {
            *self = Self { stage, slices: Vec::new() };
        }
        let from = check.now_ms.saturating_sub(span_ms).max(check.stage_started_ms);
        self.slices.retain(|slice| slice.start_ms >= from);
        let length_ms = (span_ms / SLICES).max(1_000);
        for batch in check.batches.iter().filter(|batch| batch.start_ms >= from) {
            match self.slices.last_mut() {
                Some(slice) if batch.start_ms < slice.start_ms.saturating_add(length_ms) => slice.add(batch, mirrored),
                _ => {
                    let mut slice = Slice { start_ms: batch.start_ms, ..Slice::default() };
                    slice.add(batch, mirrored);
                    self.slices.push(slice);
                }
            }
        }
        other
    }

    /// Sums it up.
    pub(crate) fn totals(&self) -> Totals {
        Totals {
            v1: total(self.slices.iter().map(|s| &s.v1)),
            v2: total(self.slices.iter().map(|s| &s.v2)),
            failures: self.slices.iter().fold(0, |n: u64, s| n.saturating_add(s.failures)).min(MOST),
            wanted: self.slices.last().map_or(0, |s| s.wanted),
        }
    }
}

impl From<PlainSlice> for Slice {
    fn from(PlainSlice { start_ms, v1, v2, failures, wanted }: PlainSlice) -> Self {
        Self { start_ms, v1, v2, failures, wanted }
    }
}

impl Packed for Slice {
    type Plain = PlainSlice;

    fn write(&self, text: &mut Text) {
        text.number(self.start_ms);
        for tally in [&self.v1, &self.v2] {
            text.number(tally.requests).number(tally.errors).buckets(&tally.latency);
        }
        text.number(self.failures).number(self.wanted.into());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let start_ms = fields.number()?;
        let (v1, v2) = (Tally::read(fields)?, Tally::read(fields)?);
        let (failures, wanted) = (fields.number()?, u32::try_from(fields.number()?).ok()?);
        Some(Self { start_ms, v1, v2, failures, wanted })
    }
}

packed!(Slice);

impl Slice {
    /// Mirrored calls are held against V1's calls of the same operations: V1 serves others too, and they take their own
    /// time.
    fn add(&mut self, batch: &Batch, mirrored: bool) {
        for operation in &batch.operations {
            let v2 = if mirrored { &operation.shadow } else { &operation.v2 };
            self.v2.add(v2);
            if !mirrored || v2.requests > 0 {
                self.v1.add(&operation.v1);
            }
        }
        self.failures = self.failures.saturating_add(batch.v2.failures.into());
        self.wanted = batch.v2.wanted;
    }
}

impl Tally {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [requests, errors] = fields.numbers()?;
        Some(Self { requests, errors, latency: fields.buckets()? })
    }

    fn add(&mut self, calls: &Calls) {
        self.requests = self.requests.saturating_add(calls.requests);
        self.errors = self.errors.saturating_add(calls.errors);
        let mut latency: Histogram = self.latency.iter().copied().collect();
        latency.merge(&cutover_policy::histogram(&calls.latency));
        self.latency = latency.buckets().to_vec();
    }
}

fn total<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Total {
    let mut total = Total::default();
    let mut latency = Sum::default();
    for tally in tallies {
        total.requests = total.requests.saturating_add(tally.requests);
        total.errors = total.errors.saturating_add(tally.errors);
        tally.latency.iter().for_each(|&(index, count)| latency.add(index, count));
    }
    total.requests = total.requests.max(total.errors).min(MOST);
    total.errors = total.errors.min(MOST);
    Total { p99_us: latency.quantile_us(990_000), ..total }
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};
    use proptest::prelude::*;

    use super::*;

    fn check(now_ms: u64, phase: Phase, stage: u32, stage_started_ms: u64, batches: Vec<Batch>) -> Check {
        Check { now_ms, phase, stage, share: 0, stage_started_ms, batches }
    }

    fn served(start_ms: u64, requests: u64) -> Batch {
        let mut batch = batch(start_ms);
        batch.operations.push(operation("execute"));
        batch.operations[0].v1 = calls(2 * requests, 0, 100);
        batch.operations[0].v2 = calls(requests, 1, 100);
        batch.operations[0].shadow = calls(1, 0, 100);
        batch
    }

    #[test]
    fn calls_leave_with_the_window() {
        let mut window = Window::default();
        let batches = (0..90).map(|i| served(i * 1_000, 1)).collect();
        window.slide(&check(90_000, Phase::Ramping, 0, 0, batches), 60_000);
        assert_eq!(window.totals().v2.requests, 60);
        window.slide(&check(120_000, Phase::Ramping, 0, 0, Vec::new()), 60_000);
        assert_eq!(window.totals().v2.requests, 30);
    }

    #[test]
    fn stages_do_not_mix() {
        let mut window = Window::default();
        assert!(window.slide(&check(5_000, Phase::Ramping, 0, 1, vec![served(1, 50)]), 60_000));
        assert!(!window.slide(&check(6_000, Phase::Ramping, 0, 1, vec![]), 60_000));
        let batches = vec![served(6_500, 7), served(7_500, 5)];
        assert!(window.slide(&check(9_000, Phase::Ramping, 1, 7_000, batches), 60_000));
        assert_eq!(window.totals().v2.requests, 5);
    }

    #[test]
    fn shadow_is_judged_by_mirrored_operations() {
        let mut batch = served(0, 50);
        batch.operations.push(operation("write"));
        batch.operations[1].v1 = calls(1_000, 0, 100);
        let mut window = Window::default();
        window.slide(&check(1_000, Phase::Shadow, 0, 0, vec![batch]), 60_000);
        let totals = window.totals();
        assert_eq!((totals.v1.requests, totals.v2.requests), (100, 1));
    }

    #[test]
    fn a_long_window_is_remembered_in_sixty_slices() {
        let mut window = Window::default();
        let batches = (0..3_600).map(|i| served(i * 1_000, 1)).collect();
        window.slide(&check(3_600_000, Phase::Ramping, 0, 0, batches), 3_600_000);
        assert_eq!((window.slices.len(), window.totals().v2.requests), (60, 3_600));
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        let mut window = Window::default();
        let batches = vec![served(0, u64::MAX / 2), served(1, u64::MAX / 2)];
        window.slide(&check(1_000, Phase::Ramping, 0, 0, batches), 60_000);
        assert_eq!(window.totals().v2.requests, MOST);
    }

    proptest! {
        #[test]
        fn how_batches_are_dealt_to_checks_does_not_matter(counts in prop::collection::vec(0_u64..50, 1..40), cut in 0_usize..40) {
            let batches: Vec<_> = (0..).map(|i| i * 1_000).zip(&counts).map(|(at, &n)| served(at, n)).collect();
            let mut at_once = Window::default();
            at_once.slide(&check(40_000, Phase::Ramping, 0, 0, batches.clone()), 60_000);
            let mut in_two = Window::default();
            let (early, late) = batches.split_at(cut.min(batches.len()));
            in_two.slide(&check(20_000, Phase::Ramping, 0, 0, early.to_vec()), 60_000);
            let stored = serde_json::to_vec(&in_two).unwrap();
            let mut in_two: Window = serde_json::from_slice(&stored).unwrap();
            in_two.slide(&check(40_000, Phase::Ramping, 0, 0, late.to_vec()), 60_000);
            prop_assert_eq!(in_two, at_once);
        }
    }
}
