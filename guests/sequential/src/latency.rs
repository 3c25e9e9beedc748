//! What counts as slow: slower than V1's own 99th percentile of the minutes before, operation by operation.
//!
//! The limit is taken from V1's calls *before* those that are judged, so it cannot depend on them; whatever it is, both
//! pools are held against the same one, and a rough one costs power but no validity.
//!
//! Five slices slide over the window. A slice that is full keeps its slowest tenth in buckets and the rest as a number
//! in one: the percentile of five slices of about the same size lies within their slowest twentieths.

use cutover_contract::histogram::{self, Sum};
use cutover_policy::memory::{Fields, Packed, Text};
use cutover_policy::{Calls, Histogram, packed};
use serde::{Deserialize, Serialize};

use crate::process::Plain;

/// Slices of the window.
const SLICES: u64 = 5;

/// Where the part of a slice begins that is kept in buckets.
const KEPT_PPM: u32 = 900_000;

/// The 99th percentile.
const QUANTILE_PPM: u32 = 990_000;

/// Calls of V1 that a percentile is taken from, at least: two of them are beyond it.
const MIN_CALLS: u64 = 200;

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
    /// Adds V1's calls from `start_ms` on, and forgets what is older than the window.
    pub fn add(&mut self, calls: &Calls, start_ms: u64, window_ms: u64) {
        self.0.retain(|slice| slice.start_ms.saturating_add(window_ms) > start_ms);
        if calls.latency.is_empty() {
            return;
        }
        let length_ms = (window_ms / SLICES).max(1);
        if self.0.last().is_none_or(|slice| start_ms >= slice.start_ms.saturating_add(length_ms)) {
            if let Some(full) = self.0.last_mut() {
                full.fold();
            }
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
        self.0.iter().flat_map(|slice| &slice.calls).map(|&(_, count)| count).fold(0, u64::saturating_add)
    }

    /// The limits that it gives; none from too few calls. `ratio_ppm` is what V2's percentile may be of V1's, and
    /// nothing faster than `floor_us` is slow.
    #[must_use]
    pub fn limits(&self, ratio_ppm: u32, floor_us: u64) -> Option<Limits> {
        let mut all = Sum::default();
        self.0.iter().flat_map(|slice| &slice.calls).for_each(|&(index, count)| all.add(index, count));
        let p99_us = all.quantile_us(QUANTILE_PPM).filter(|_| all.total() >= MIN_CALLS)?.max(floor_us);
        let doubled = u128::from(p99_us) * u128::from(ratio_ppm) / 1_000_000;
        Some(Limits { p99_us, doubled_us: u64::try_from(doubled).unwrap_or(u64::MAX) })
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
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
    use cutover_policy::LatencyBucket;
    use cutover_policy::testing::calls;

    use super::*;

    const WINDOW_MS: u64 = 300_000;

    /// As many calls of `from..to` milliseconds.
    fn spread(from: u64, to: u64) -> Calls {
        let all: Histogram = (from..to).map(|ms| (histogram::index(ms * 1_000), 1)).collect();
        let latency = all.buckets().iter().map(|&(index, count)| LatencyBucket { index, count }).collect();
        Calls { latency, ..calls(0, 0, 0) }
    }

    fn filled(seconds: u64) -> Baseline {
        let mut baseline = Baseline::default();
        (0..seconds).for_each(|s| baseline.add(&spread(0, 100), s * 1_000, WINDOW_MS));
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
        baseline.add(&spread(0, 1_000), 1_000_000, WINDOW_MS);
        assert!(baseline.limits(2_000_000, 0).unwrap().p99_us > 980_000);
        baseline.add(&calls(0, 0, 0), 2_000_000, WINDOW_MS);
        assert!(baseline.is_empty());
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
