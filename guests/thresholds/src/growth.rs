//! Does the memory of V2's workers grow? A line through samples of their mean resident size.
//!
//! The slope is that of least squares, which a single spike hardly moves, over the smallest sample. A share of traffic
//! says little about memory, so samples outlive the stage.

use cutover_policy::Batch;
use serde::{Deserialize, Serialize};

/// Samples that are kept: one a minute for an hour, and the one that begins it.
const KEPT: usize = 61;

const HOUR_MS: i128 = 3_600_000;

/// Mean resident bytes of a ready worker of V2, each with when it was taken, oldest first.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Samples(Vec<(u64, u64)>);

impl Samples {
    /// Takes at most one sample a minute, or ten over `span_ms` if that is more often.
    pub(crate) fn add(&mut self, batches: &[Batch], span_ms: u64) {
        let every_ms = (span_ms / 10).clamp(1_000, 60_000);
        for batch in batches.iter().filter(|b| b.v2.ready > 0 && b.v2.rss_bytes > 0) {
            if self.0.last().is_none_or(|&(at, _)| batch.start_ms >= at.saturating_add(every_ms)) {
                self.0.push((batch.start_ms, batch.v2.rss_bytes / u64::from(batch.v2.ready)));
            }
        }
        // A pause does not stretch the line over what was long ago.
        let newest = self.0.last().map_or(0, |&(at, _)| at);
        let oldest = newest.saturating_sub(every_ms.saturating_mul(KEPT as u64));
        self.0.retain(|&(at, _)| at >= oldest);
        self.0.drain(..self.0.len().saturating_sub(KEPT));
    }

    /// Growth per hour in parts per million of the smallest sample; 0 if it shrinks. None before samples span `span_ms`.
    pub(crate) fn per_hour_ppm(&self, span_ms: u64) -> Option<u64> {
        let (&(first, _), &(last, _)) = (self.0.first()?, self.0.last()?);
        if last.saturating_sub(first) < span_ms {
            return None;
        }
        // In KiB, from the first sample on: 61 samples of an hour stay far below 128 bits.
        let points = || self.0.iter().map(|&(at, bytes)| (i128::from(at - first), i128::from(bytes / 1_024)));
        let smallest = points().map(|(_, y)| y).min()?.max(1);
        let (n, sx, sy) = points().fold((0, 0, 0), |(n, sx, sy), (x, y)| (n + 1, sx + x, sy + y));
        let (sxx, sxy) = points().fold((0, 0), |(sxx, sxy), (x, y)| (sxx + x * x, sxy + x * y));
        let rise: i128 = n * sxy - sx * sy;
        let run = (n * sxx - sx * sx).saturating_mul(smallest);
        let ppm = rise.max(0).saturating_mul(HOUR_MS * 1_000_000).checked_div(run)?;
        Some(u64::try_from(ppm).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::batch;
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60_000;
    const TEN: u64 = 10 * MINUTE;
    const MB: u64 = 1 << 20;

    fn sample(start_ms: u64, rss_bytes: u64) -> Batch {
        let mut batch = batch(start_ms);
        (batch.v2.ready, batch.v2.rss_bytes) = (4, 4 * rss_bytes);
        batch
    }

    fn of(sizes: impl IntoIterator<Item = u64>) -> Samples {
        let batches: Vec<_> = (0..).map(|i| i * MINUTE).zip(sizes).map(|(at, rss)| sample(at, rss)).collect();
        let mut samples = Samples::default();
        samples.add(&batches, TEN);
        samples
    }

    #[test]
    fn growth_is_measured_per_hour() {
        assert_eq!(of((0..=10).map(|i| 100 * MB + i * MB)).per_hour_ppm(TEN), Some(600_000));
        assert_eq!(of((0..=10).map(|_| 100 * MB)).per_hour_ppm(TEN), Some(0));
        assert_eq!(of((0..=10).map(|i| 100 * MB - i * MB)).per_hour_ppm(TEN), Some(0));
    }

    #[test]
    fn a_short_span_says_nothing() {
        assert_eq!(of((0..10).map(|i| 100 * MB + i * MB)).per_hour_ppm(TEN), None);
        assert_eq!(Samples::default().per_hour_ppm(TEN), None);
    }

    #[test]
    fn one_sample_a_minute_for_an_hour_is_kept() {
        let batches: Vec<_> = (0..7_200).map(|i| sample(i * 1_000, MB)).collect();
        let mut samples = Samples::default();
        samples.add(&batches, TEN);
        assert_eq!((samples.0.len(), samples.0[0].0), (61, 59 * MINUTE));
        samples.add(&[sample(1_000 * MINUTE, MB)], TEN);
        assert_eq!(samples.0.len(), 1, "what was before a long pause is forgotten");
    }

    #[test]
    fn members_without_known_memory_are_left_out() {
        let mut samples = Samples::default();
        samples.add(&[batch(0), sample(1, 0)], TEN);
        assert_eq!(samples, Samples::default());
    }

    proptest! {
        #[test]
        fn any_samples_are_measured_without_overflow(sizes in prop::collection::vec(any::<u64>(), 11..61)) {
            prop_assert!(of(sizes.into_iter().map(|s| s / 4)).per_hour_ppm(TEN).is_some());
        }
    }
}
