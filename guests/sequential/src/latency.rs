//! What counts as slow: slower than V1's own 99th percentile of the minutes before, operation by operation.
//!
//! The limit is taken from V1's calls *before* those that are judged, so it cannot depend on them; whatever it is, both
//! pools are held against the same one, and a rough one costs power but no validity.
//!
//! Five slices slide over the window. A slice that is full keeps its slowest tenth in buckets and the rest as a number
//! in one: the percentile of five slices of about the same size lies within their slowest twentieths.
//!
//! Where calls are few the window reaches back until it has enough of them, for a day at most: slices are longer then,
//! until they have a fifth of what is enough, and an old one is forgotten once those after it have enough. So there are
//! about a dozen at most, however few the calls are.

use cutover_contract::histogram::{self, Sum};
use cutover_policy::{
    Calls, Histogram,
    memory::{Fields, Packed, Text},
    packed,
};
use serde::{Deserialize, Serialize};

use crate::process::Plain;

/// Slices of the window.
const SLICES: u64 = 5;

/// Where the part of a slice begins that is kept in buckets.
const KEPT_PPM: u32 = 900_000;

/// The 99th percentile.
const QUANTILE_PPM: u32 = 990_000;

/// Calls of V1 that a percentile is taken from, at least: two of them are beyond it.
pub const MIN_CALLS: u64 = 200;

/// The window reaches back so far at most: what calls took at the same hour of the day before still tells something.
const LONGEST_MS: u64 = 86_400_000;

/// Latencies of V1's calls of one operation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Baseline(Vec<Slice>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Slice {
    start_ms: u64,
    /// Bucket and count, ascending.
    calls: Vec<(u32, u64)>,
}

/// Limits of latency in microseconds; a call beyond is slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// V1's 99th percentile.
    pub p99_us: u64,
    /// That many times the ratio that V2's may be.
    pub doubled_us: u64,
}

impl Baseline {
    /// Goes on to a span that begins at `start_ms`: forgets what is older than the window, as long as what is left has
    /// `enough` calls.
    pub fn slide(&mut self, start_ms: u64, window_ms: u64, enough: u64) {
        let mut younger = self.calls();
        self.0.retain(|slice| {
            younger = younger.saturating_sub(slice.count());
            let ends = |after_ms: u64| slice.start_ms.saturating_add(after_ms) <= start_ms;
            !ends(LONGEST_MS) && (!ends(window_ms) || younger < enough)
        });
        if let Some(last) = self.0.last_mut() {
            let lasts = |length_ms: u64| start_ms >= last.start_ms.saturating_add(length_ms);
            let has_part = last.count() >= enough / SLICES;
            if lasts(LONGEST_MS / SLICES) || (has_part && lasts((window_ms / SLICES).max(1))) {
                last.fold();
                self.0.push(Slice { start_ms, calls: Vec::new() });
            }
        }
    }

    /// Adds calls of the span that began at `start_ms`.
    pub fn add(&mut self, calls: &Calls, start_ms: u64) {
        if calls.latency.is_empty() {
            return;
        }
        if self.0.is_empty() {
            self.0.push(Slice { start_ms, calls: Vec::new() });
        }
        if let Some(slice) = self.0.last_mut() {
            let mut all = slice.histogram();
            all.merge(&cutover_policy::histogram(&calls.latency));
            slice.calls = all.buckets().to_vec();
        }
    }

    /// Calls that it holds.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.0.iter().map(Slice::count).fold(0, u64::saturating_add)
    }

    /// The limits that it gives; none from too few calls. `ratio_ppm` is what V2's percentile may be of V1's, and
    /// nothing faster than `floor_us` is slow.
    #[must_use]
    pub fn limits(&self, ratio_ppm: u32, floor_us: u64) -> Option<Limits> {
        let mut all = Sum::default();
        self.0.iter().flat_map(|slice| &slice.calls).for_each(|&(index, count)| all.add(index, count));
        let p99_us = all.quantile_us(QUANTILE_PPM).filter(|_| all.total() >= MIN_CALLS)?.max(floor_us);
        Some(Limits::of(p99_us, ratio_ppm))
    }
}

impl Limits {
    /// Those of a p99; `ratio_ppm` is what V2's may be of it.
    #[must_use]
    pub fn of(p99_us: u64, ratio_ppm: u32) -> Self {
        let doubled = u128::from(p99_us) * u128::from(ratio_ppm) / 1_000_000;
        Self { p99_us, doubled_us: u64::try_from(doubled).unwrap_or(u64::MAX) }
    }
}

impl From<Plain> for Slice {
    fn from(plain: Plain) -> Self {
        match plain {}
    }
}

impl Packed for Slice {
    type Plain = Plain;

    fn write(&self, text: &mut Text) {
        text.number(self.start_ms).buckets(&self.calls);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { start_ms: fields.number()?, calls: fields.buckets()? })
    }
}

packed!(Slice);

impl Slice {
    fn histogram(&self) -> Histogram {
        self.calls.iter().copied().collect()
    }

    fn count(&self) -> u64 {
        self.calls.iter().map(|&(_, count)| count).fold(0, u64::saturating_add)
    }

    /// Puts the faster nine tenths into one bucket.
    fn fold(&mut self) {
        let total: u128 = self.calls.iter().map(|&(_, n)| u128::from(n)).sum();
        let fast = total * u128::from(KEPT_PPM) / 1_000_000;
        let mut seen = 0_u64;
        let kept = self.calls.iter().position(|&(_, n)| {
            seen = seen.saturating_add(n);
            u128::from(seen) >= fast
        });
        self.calls.drain(..kept.unwrap_or(0));
        if let Some((_, count)) = self.calls.first_mut() {
            *count = seen;
        }
    }
}

/// Calls, and those of them that are slower than a limit. A bucket counts as slow when all of it is.
#[must_use]
pub fn slow(calls: &Calls, limit_us: u64) -> [u64; 2] {
    let bucket = histogram::index(limit_us);
    let sum =
        |from: u32| calls.latency.iter().filter(|b| b.index >= from).map(|b| b.count).fold(0, u64::saturating_add);
    [sum(0), sum(bucket + 1)]
}

#[cfg(test)]
mod tests {
    use cutover_policy::{LatencyBucket, testing::calls};

    use super::*;

    const WINDOW_MS: u64 = 300_000;

    /// As many calls of `from..to` milliseconds.
    fn spread(from: u64, to: u64) -> Calls {
        let all: Histogram = (from..to).map(|ms| (histogram::index(ms * 1_000), 1)).collect();
        let latency = all.buckets().iter().map(|&(index, count)| LatencyBucket { index, count }).collect();
        Calls { latency, ..calls(0, 0, 0) }
    }

    fn add(baseline: &mut Baseline, calls: &Calls, start_ms: u64) {
        baseline.slide(start_ms, WINDOW_MS, MIN_CALLS);
        baseline.add(calls, start_ms);
    }

    fn filled(seconds: u64) -> Baseline {
        let mut baseline = Baseline::default();
        (0..seconds).for_each(|s| add(&mut baseline, &spread(0, 100), s * 1_000));
        baseline
    }

    #[test]
    fn limits_are_the_percentile_and_its_double() {
        let Limits { p99_us, doubled_us } = filled(20).limits(2_000_000, 0).unwrap();
        assert!((98_000..=99_000 + 99_000 / 32).contains(&p99_us), "{p99_us}");
        assert_eq!(doubled_us, 2 * p99_us);
        assert_eq!(filled(20).limits(1_500_000, 400_000), Some(Limits { p99_us: 400_000, doubled_us: 600_000 }));
    }

    #[test]
    fn too_few_calls_give_no_limit() {
        assert_eq!(filled(1).limits(2_000_000, 0), None);
        assert!(filled(2).limits(2_000_000, 0).is_some());
    }

    #[test]
    fn folding_keeps_the_percentile() {
        let short = filled(50).limits(2_000_000, 0);
        assert_eq!(filled(290).limits(2_000_000, 0), short);
        let bytes = serde_json::to_vec(&filled(290)).unwrap().len();
        assert!(bytes < 1_600, "{bytes} bytes");
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut baseline = filled(100);
        add(&mut baseline, &spread(0, 1_000), 1_000_000);
        add(&mut baseline, &calls(0, 0, 0), 2_000_000);
        assert!(baseline.limits(2_000_000, 0).unwrap().p99_us > 980_000);
        add(&mut baseline, &calls(0, 0, 0), LONGEST_MS + 1_000_000);
        assert_eq!(baseline.calls(), 0);
    }

    /// One call in so many seconds, of 50 ms; later ones take 80 ms.
    #[test]
    fn few_calls_are_kept_until_there_are_enough_of_them() {
        for seconds in [2, 20, 120, 300] {
            let mut baseline = Baseline::default();
            let mut most = 0;
            for n in 0..1_000 {
                let us = if n < 500 { 50_000 } else { 80_000 };
                add(&mut baseline, &calls(1, 0, us), n * seconds * 1_000);
                most = most.max(baseline.0.len());
                assert_eq!(baseline.limits(2_000_000, 0).is_some(), n >= 199, "{n} calls, one in {seconds} s");
            }
            assert!(most <= 12 && baseline.calls() < 400, "{most} slices, {} calls", baseline.calls());
            assert!(baseline.limits(2_000_000, 0).unwrap().p99_us >= 80_000);
        }
        let mut baseline = Baseline::default();
        (0..1_000).for_each(|n| add(&mut baseline, &calls(1, 0, 50_000), n * 600_000));
        assert!(baseline.limits(2_000_000, 0).is_none() && baseline.0.len() <= 12, "less than 200 in a day");
    }

    #[test]
    fn slow_calls_are_those_of_the_buckets_beyond() {
        let calls = spread(0, 100);
        let limit = filled(20).limits(2_000_000, 0).unwrap();
        assert_eq!(slow(&calls, limit.doubled_us), [100, 0]);
        let [all, slow] = slow(&calls, 49_000);
        assert!(all == 100 && (48..=50).contains(&slow), "{slow}");
    }
}
