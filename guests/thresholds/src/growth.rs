//! Does the memory of V2's workers grow? A line through samples of their mean resident size.
//!
//! The slope is that of least squares, which a single spike hardly moves, over the smallest sample. A share of traffic
//! says little about memory, so samples outlive the stage.

use cutover_policy::{
    Batch,
    memory::{Fields, Packed, Text},
};

/// Samples that are kept: one a minute for an hour, and the one that begins it.
const KEPT: usize = 61;

const HOUR_MS: i128 = 3_600_000;

/// Mean resident bytes of a ready worker of V2, each with when it was taken.
///
/// Most checks come between two samples. They need only what the samples said when the last one was taken, so the
/// samples themselves stay as they were packed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Samples {
    first_ms: u64,
    last_ms: u64,
    growth_ppm: Option<u64>,
    /// Buckets of memory: milliseconds since the first, and bytes. Empty if there are none.
    packed: String,
}

impl Samples {
    /// Takes at most one sample a minute, or ten over `span_ms` if that is more often.
    pub(crate) fn add(&mut self, batches: &[Batch], span_ms: u64) {
        let every_ms = (span_ms / 10).clamp(1_000, 60_000);
        let mut all = None;
        for batch in batches.iter().filter(|b| b.v2.ready > 0 && b.v2.rss_bytes > 0) {
            if self.packed.is_empty() && all.is_none() || batch.start_ms >= self.last_ms.saturating_add(every_ms) {
                let samples = all.get_or_insert_with(|| self.all());
                samples.push((batch.start_ms, batch.v2.rss_bytes / u64::from(batch.v2.ready)));
                self.last_ms = batch.start_ms;
            }
        }
        let Some(mut all) = all else { return };
        // A pause does not stretch the line over what was long ago.
        let oldest = self.last_ms.saturating_sub(every_ms.saturating_mul(KEPT as u64));
        all.retain(|&(at, _)| at >= oldest);
        all.drain(..all.len().saturating_sub(KEPT));
        self.growth_ppm = per_hour_ppm(&all, span_ms);
        self.pack(&all);
    }

    /// Growth per hour in parts per million of the smallest sample; 0 if it shrinks. None before samples span what
    /// [`add`](Self::add) was told.
    pub(crate) const fn growth_ppm(&self) -> Option<u64> {
        self.growth_ppm
    }

    /// Oldest first.
    fn all(&self) -> Vec<(u64, u64)> {
        let buckets = Fields::new(&self.packed).buckets().unwrap_or_default();
        buckets.into_iter().map(|(at, bytes)| (self.first_ms.saturating_add(at.into()), bytes)).collect()
    }

    fn pack(&mut self, all: &[(u64, u64)]) {
        self.first_ms = all.first().map_or(0, |&(at, _)| at);
        // An hour of milliseconds is far below 32 bits.
        let at = |at: u64| u32::try_from(at.saturating_sub(self.first_ms)).unwrap_or(u32::MAX);
        let buckets: Vec<_> = all.iter().map(|&(ms, bytes)| (at(ms), bytes)).collect();
        let mut text = Text::default();
        text.buckets(&buckets);
        self.packed = text.into();
    }
}

impl Packed for Samples {
    /// When each was taken, and its bytes.
    type Plain = Vec<(u64, u64)>;

    fn write(&self, text: &mut Text) {
        // No growth is 0, so that one more is written.
        let growth = self.growth_ppm.map_or(0, |ppm| ppm.saturating_add(1));
        text.number(self.first_ms).number(self.last_ms).number(growth).raw(&self.packed);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [first_ms, last_ms, growth] = fields.numbers()?;
        let packed = fields.raw()?.to_owned();
        Some(Self { first_ms, last_ms, growth_ppm: growth.checked_sub(1), packed })
    }
}

impl From<Vec<(u64, u64)>> for Samples {
    fn from(all: Vec<(u64, u64)>) -> Self {
        let mut samples = Self { last_ms: all.last().map_or(0, |&(at, _)| at), ..Self::default() };
        samples.pack(&all);
        samples
    }
}

cutover_policy::packed!(Samples);

fn per_hour_ppm(samples: &[(u64, u64)], span_ms: u64) -> Option<u64> {
    let (&(first, _), &(last, _)) = (samples.first()?, samples.last()?);
    if last.saturating_sub(first) < span_ms {
        return None;
    }
    // In KiB, from the first sample on: 61 samples of an hour stay far below 128 bits.
    let points = || samples.iter().map(|&(at, bytes)| (i128::from(at - first), i128::from(bytes / 1_024)));
    let smallest = points().map(|(_, y)| y).min()?.max(1);
    let (n, sx, sy) = points().fold((0, 0, 0), |(n, sx, sy), (x, y)| (n + 1, sx + x, sy + y));
    let (sxx, sxy) = points().fold((0, 0), |(sxx, sxy), (x, y)| (sxx + x * x, sxy + x * y));
    let rise: i128 = n * sxy - sx * sy;
    let run = (n * sxx - sx * sx).saturating_mul(smallest);
    let ppm = rise.max(0).saturating_mul(HOUR_MS * 1_000_000).checked_div(run)?;
    Some(u64::try_from(ppm).unwrap_or(u64::MAX))
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
        assert_eq!(of((0..=10).map(|i| 100 * MB + i * MB)).growth_ppm(), Some(600_000));
        assert_eq!(of((0..=10).map(|_| 100 * MB)).growth_ppm(), Some(0));
        assert_eq!(of((0..=10).map(|i| 100 * MB - i * MB)).growth_ppm(), Some(0));
    }

    #[test]
    fn a_short_span_says_nothing() {
        assert_eq!(of((0..10).map(|i| 100 * MB + i * MB)).growth_ppm(), None);
        assert_eq!(Samples::default().growth_ppm(), None);
    }

    #[test]
    fn one_sample_a_minute_for_an_hour_is_kept() {
        let batches: Vec<_> = (0..7_200).map(|i| sample(i * 1_000, MB)).collect();
        let mut samples = Samples::default();
        samples.add(&batches, TEN);
        assert_eq!((samples.all().len(), samples.first_ms), (61, 59 * MINUTE));
        samples.add(&[sample(1_000 * MINUTE, MB)], TEN);
        assert_eq!(samples.all().len(), 1, "what was before a long pause is forgotten");
    }

    #[test]
    fn members_without_known_memory_are_left_out() {
        let mut samples = Samples::default();
        samples.add(&[batch(0), sample(1, 0)], TEN);
        assert_eq!(samples, Samples::default());
    }

    proptest! {
        #[test]
        fn samples_come_back_as_they_were_and_say_the_same(
            sizes in prop::collection::vec(1_u64..1 << 50, 0..90), every in 1_000_u64..90_000,
        ) {
            let (mut kept, mut written) = (Samples::default(), Samples::default());
            for (n, size) in (1..).zip(sizes) {
                let next = [sample(n * every, size)];
                kept.add(&next, TEN);
                let text = serde_json::to_string(&written).unwrap();
                written = serde_json::from_str(&text).unwrap();
                written.add(&next, TEN);
                prop_assert_eq!(&kept, &written);
                prop_assert_eq!(kept.growth_ppm(), per_hour_ppm(&kept.all(), TEN));
                prop_assert_eq!(kept.all().last().map(|&(at, _)| at), Some(kept.last_ms));
            }
            let plain = serde_json::to_string(&kept.all()).unwrap();
            let old: Samples = serde_json::from_str(&plain).unwrap();
            prop_assert_eq!(old.all(), kept.all());
        }

        #[test]
        fn any_samples_are_measured_without_overflow(sizes in prop::collection::vec(any::<u64>(), 11..61)) {
            prop_assert!(of(sizes.into_iter().map(|s| s / 4)).growth_ppm().is_some());
        }
    }
}
