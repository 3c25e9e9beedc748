//! Latency buckets: log-linear, mergeable, integer.
//!
//! Values below 64 us have a bucket each; above, every power of two is cut into 32 buckets, so that a bucket is at most
//! 1/32 (3.2 %) of its lower bound wide. Merging adds counts, which loses nothing; quantiles are as exact as a bucket.

/// The number of buckets.
pub const BUCKETS: u32 = 928;

/// Sub-buckets in each power of two.
const SUB: u32 = 32;

/// The bucket of a latency in microseconds. What is longer than 2.3 hours is in the last one.
#[must_use]
pub fn index(us: u64) -> u32 {
    let us = us.min(lower_bound(BUCKETS - 1));
    // With 6 bits or fewer the value is its own index; beyond that the top 6 bits are kept.
    let shift = (u64::BITS - us.leading_zeros()).saturating_sub(6);
    shift * SUB + u32::try_from(us >> shift).unwrap_or(u32::MAX)
}

/// The smallest latency in a bucket, in microseconds.
#[must_use]
pub fn lower_bound(index: u32) -> u64 {
    let index = index.min(BUCKETS - 1);
    if index < 2 * SUB { u64::from(index) } else { u64::from(SUB + index % SUB) << (index / SUB - 1) }
}

/// The largest latency in a bucket, in microseconds.
#[must_use]
pub fn upper_bound(index: u32) -> u64 {
    if index + 1 >= BUCKETS { lower_bound(index) } else { lower_bound(index + 1) - 1 }
}

/// A histogram that keeps only the buckets that hold something, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<(u32, u64)>,
    total: u64,
}

impl Histogram {
    /// Adds `count` calls to a bucket. Buckets beyond the last are counted in the last.
    pub fn add(&mut self, index: u32, count: u64) {
        if count == 0 {
            return;
        }
        let index = index.min(BUCKETS - 1);
        self.total = self.total.saturating_add(count);
        if self.buckets.last().is_none_or(|&(last, _)| last < index) {
            self.buckets.push((index, count));
            return;
        }
        match self.buckets.binary_search_by_key(&index, |&(i, _)| i) {
            Ok(at) => {
                if let Some((_, n)) = self.buckets.get_mut(at) {
                    *n = n.saturating_add(count);
                }
            }
            Err(at) => self.buckets.insert(at, (index, count)),
        }
    }

    /// Records one latency in microseconds.
    pub fn record(&mut self, us: u64) {
        self.add(index(us), 1);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for &(index, count) in &other.buckets {
            self.add(index, count);
        }
    }

    /// How many calls it holds.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// The buckets that hold something, ascending: index and count.
    #[must_use]
    pub fn buckets(&self) -> &[(u32, u64)] {
        &self.buckets
    }

    /// The latency in microseconds that `ppm` parts per million of the calls do not exceed: the upper bound of the
    /// bucket of the ceil(total * ppm / 1e6)-th smallest (the nearest-rank definition). None when empty.
    #[must_use]
    pub fn quantile_us(&self, ppm: u32) -> Option<u64> {
        quantile_us(self.buckets.iter().copied(), self.total, ppm)
    }
}

/// The sum of many histograms: a count for every bucket up to one beyond the last that holds something, so that adding
/// takes no search.
#[derive(Debug, Clone, Default)]
pub struct Sum {
    counts: Vec<u64>,
    total: u64,
}

impl Sum {
    /// Adds `count` calls to a bucket. Buckets beyond the last are counted in the last.
    pub fn add(&mut self, index: u32, count: u64) {
        self.total = self.total.saturating_add(count);
        let index = index.min(BUCKETS - 1) as usize;
        if index >= self.counts.len() {
            // Two powers of two at a time: latencies lie close together.
            self.counts.resize((index + 2 * SUB as usize).min(BUCKETS as usize), 0);
        }
        if let Some(n) = self.counts.get_mut(index) {
            *n = n.saturating_add(count);
        }
    }

    /// How many calls it holds.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// How many took longer than the whole bucket that `us` falls into.
    #[must_use]
    pub fn beyond(&self, us: u64) -> u64 {
        let slower = self.counts.iter().skip(index(us) as usize + 1);
        slower.fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    /// As [`Histogram::quantile_us`].
    #[must_use]
    pub fn quantile_us(&self, ppm: u32) -> Option<u64> {
        quantile_us((0..).zip(self.counts.iter().copied()), self.total, ppm)
    }
}

fn quantile_us(buckets: impl Iterator<Item = (u32, u64)>, total: u64, ppm: u32) -> Option<u64> {
    let rank = match total.checked_mul(ppm.into()) {
        Some(parts) => parts.div_ceil(1_000_000),
        // More than ten million million calls: the rare case may be slow.
        None => u64::try_from((u128::from(total) * u128::from(ppm)).div_ceil(1_000_000)).unwrap_or(u64::MAX),
    };
    let rank = rank.max(1);
    let mut seen = 0_u64;
    for (index, count) in buckets {
        seen = seen.saturating_add(count);
        if seen >= rank {
            return Some(upper_bound(index));
        }
    }
    None
}

impl FromIterator<(u32, u64)> for Histogram {
    fn from_iter<T: IntoIterator<Item = (u32, u64)>>(buckets: T) -> Self {
        let mut histogram = Self::default();
        for (index, count) in buckets {
            histogram.add(index, count);
        }
        histogram
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bounds_meet_and_indices_agree() {
        assert_eq!((index(0), index(63), index(64), index(65)), (0, 63, 64, 64));
        assert_eq!(index(u64::MAX), BUCKETS - 1);
        for i in 0..BUCKETS {
            assert_eq!(index(lower_bound(i)), i);
            assert_eq!(index(upper_bound(i)), i);
        }
        assert_eq!(Histogram::default().quantile_us(990_000), None);
    }

    proptest! {
        #[test]
        fn a_quantile_is_at_most_one_bucket_off(mut values in prop::collection::vec(0_u64..5_000_000_000, 1..200), ppm in 1_u32..=1_000_000) {
            let mut h = Histogram::default();
            for &value in &values {
                h.record(value);
            }
            values.sort_unstable();
            let rank = (values.len() as u64 * u64::from(ppm)).div_ceil(1_000_000).max(1);
            let exact = values[usize::try_from(rank).unwrap() - 1];
            let got = h.quantile_us(ppm).unwrap();
            prop_assert!(got >= exact && got <= exact + exact / 32 + 1, "{got} for {exact}");
        }

        #[test]
        fn merging_is_recording_everything(a in prop::collection::vec(0_u64..1_000_000, 0..50), b in prop::collection::vec(0_u64..1_000_000, 0..50)) {
            let of = |values: &[u64]| {
                let mut h = Histogram::default();
                for &value in values {
                    h.record(value);
                }
                h
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            let all: Vec<_> = a.iter().chain(&b).copied().collect();
            let mut sum = Sum::default();
            merged.buckets().iter().for_each(|&(index, count)| sum.add(index, count));
            for ppm in [1, 500_000, 990_000, 1_000_000] {
                prop_assert_eq!(sum.quantile_us(ppm), merged.quantile_us(ppm));
            }
            for us in [0, 63, 1_000, 500_000] {
                let slower = all.iter().filter(|&&value| index(value) > index(us)).count() as u64;
                prop_assert_eq!(sum.beyond(us), slower);
            }
            prop_assert_eq!((sum.total(), &merged), (merged.total(), &of(&all)));
        }
    }
}
