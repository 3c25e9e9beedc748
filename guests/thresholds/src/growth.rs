//! Does the memory of V2's workers grow? A line through samples of their mean resident size, and of how much more than
//! V1's it is of what it was.
//!
//! The slope is that of least squares, which a single spike hardly moves; growth is what remains of it when three times its
//! standard error is taken away, so that the ups and downs of a garbage collector are none. Workers fill their caches when they start and
//! when they get more callers, so nothing is sampled before they have had time for that.

use cutover_policy::{
    Batch, Check,
    line::{self, Rise},
    memory::{Fields, Packed, Text},
};

/// Samples that are kept: one a minute for an hour, and the one that begins it.
const KEPT: usize = 61;

/// Sizes are held against the smallest, in parts per million, up to a thousand times of it.
const MOST: u64 = 1_000_000_000;

/// Standard errors that are taken away: chance alone is beyond that once in 741 times.
const ERRORS: i64 = 3;

/// What growth is looked for in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// How long workers may fill their caches, in milliseconds.
    pub(crate) warm_up_ms: u64,
    /// The shortest span over which growth is measured.
    pub(crate) span_ms: u64,
}

/// Growth per hour, in parts per million of the smallest sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Growth {
    /// As the line has it; 0 if it falls.
    pub ppm: u64,
    /// What is sure of it, beside V1's: the least of both.
    pub sure_ppm: u64,
}

/// Mean resident bytes of a ready worker of V2 and of V1, each with when they were taken.
///
/// Most checks come between two samples. They need only what the samples said when the last one was taken, so the
/// samples themselves stay as they were packed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// When V2's workers began to fill their caches; none before there are any.
    begun_ms: Option<u64>,
    first_ms: u64,
    last_ms: u64,
    growth: Option<Growth>,
    /// Buckets of memory: milliseconds since the first, and bytes. Empty if there are none.
    v2: String,
    /// The same of V1; 0 where it is not known.
    v1: String,
}

impl Samples {
    /// Takes at most one sample a minute, or ten over the span if that is more often. Begins anew with a stage, with workers
    /// that begin anew, and when the clock was set back.
    pub(crate) fn add(&mut self, check: &Check, plan: Plan, begun: bool) {
        if begun || self.last_ms > check.now_ms || self.begun_ms.is_some_and(|at| at > check.now_ms) {
            *self = Self::default();
        }
        let every_ms = (plan.span_ms / 10).clamp(1_000, 60_000);
        let mut all = None;
        for batch in &check.batches {
            let at = batch.start_ms.min(check.now_ms);
            if batch.v2.ready == 0 {
                *self = Self::default();
                all = None;
                continue;
            }
            let warm = self.begun_ms.get_or_insert(at).saturating_add(plan.warm_up_ms);
            let is_first = self.v2.is_empty() && all.is_none();
            if batch.v2.rss_bytes > 0 && at >= warm && (is_first || at >= self.last_ms.saturating_add(every_ms)) {
                let samples = all.get_or_insert_with(|| self.all());
                samples.push(sample(at, batch));
                self.last_ms = at;
            }
        }
        let Some(mut all) = all else { return };
        // A pause does not stretch the line over what was long ago.
        let oldest = self.last_ms.saturating_sub(every_ms.saturating_mul(KEPT as u64));
        all.retain(|&(at, ..)| at >= oldest);
        all.drain(..all.len().saturating_sub(KEPT));
        self.growth = growth(&all, plan.span_ms);
        self.pack(&all);
    }

    /// None before samples span what [`add`](Self::add) was told.
    pub(crate) const fn growth(&self) -> Option<Growth> {
        self.growth
    }

    /// Oldest first: when, V2's bytes, V1's.
    fn all(&self) -> Vec<(u64, u64, u64)> {
        let list = |packed: &str| Fields::new(packed).buckets().unwrap_or_default();
        let both = list(&self.v2).into_iter().zip(list(&self.v1));
        both.map(|((at, v2), (_, v1))| (self.first_ms.saturating_add(at.into()), v2, v1)).collect()
    }

    fn pack(&mut self, all: &[(u64, u64, u64)]) {
        self.first_ms = all.first().map_or(0, |&(at, ..)| at);
        // An hour of milliseconds is far below 32 bits.
        let at = |at: u64| u32::try_from(at.saturating_sub(self.first_ms)).unwrap_or(u32::MAX);
        let packed = |of: fn(&(u64, u64, u64)) -> u64| {
            let buckets: Vec<_> = all.iter().map(|sample| (at(sample.0), of(sample))).collect();
            let mut text = Text::default();
            text.buckets(&buckets);
            String::from(text)
        };
        (self.v2, self.v1) = (packed(|s| s.1), packed(|s| s.2));
    }
}

impl Packed for Samples {
    /// There was no plain form of these.
    type Plain = crate::window::Never;

    fn write(&self, text: &mut Text) {
        // None is 0, so that one more is written.
        let Growth { ppm, sure_ppm } = self.growth.unwrap_or_default();
        let growth = [self.growth.map_or(0, |_| ppm.saturating_add(1)), sure_ppm];
        let begun_ms = self.begun_ms.map_or(0, |at| at.saturating_add(1));
        for number in [begun_ms, self.first_ms, self.last_ms].into_iter().chain(growth) {
            text.number(number);
        }
        text.raw(&self.v2).raw(&self.v1);
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [begun, first_ms, last_ms, ppm, sure_ppm] = fields.numbers()?;
        let growth = ppm.checked_sub(1).map(|ppm| Growth { ppm, sure_ppm });
        let (v2, v1) = (fields.raw()?.to_owned(), fields.raw()?.to_owned());
        Some(Self { begun_ms: begun.checked_sub(1), first_ms, last_ms, growth, v2, v1 })
    }
}

impl From<crate::window::Never> for Samples {
    fn from(never: crate::window::Never) -> Self {
        match never {}
    }
}

cutover_policy::packed!(Samples);

fn sample(at: u64, batch: &Batch) -> (u64, u64, u64) {
    let mean = |bytes: u64, ready: u32| bytes.checked_div(ready.into()).unwrap_or(0);
    (at, mean(batch.v2.rss_bytes, batch.v2.ready), mean(batch.v1.rss_bytes, batch.v1.ready))
}

fn growth(samples: &[(u64, u64, u64)], span_ms: u64) -> Option<Growth> {
    let (&(first, ..), &(last, ..)) = (samples.first()?, samples.last()?);
    if last.saturating_sub(first) < span_ms {
        return None;
    }
    let seconds = |at: u64| i64::try_from((at - first) / 1_000).unwrap_or(i64::MAX);
    let v2 = relative(samples.iter().map(|s| s.1));
    let v1 = relative(samples.iter().map(|s| s.2));
    let line = |sizes: &mut dyn Iterator<Item = i64>| {
        let points: Vec<_> = samples.iter().map(|s| seconds(s.0)).zip(sizes).collect();
        line::rise(&points, 3_600)
    };
    let own = line(&mut v2.iter().copied())?;
    let beside = line(&mut v2.iter().zip(&v1).map(|(v2, v1)| v2 - v1))?;
    let sure = |Rise { rise, error }: Rise| rise.saturating_sub(error.saturating_mul(ERRORS));
    let whole = |ppm: i64| u64::try_from(ppm).unwrap_or(0);
    Some(Growth { ppm: whole(own.rise), sure_ppm: whole(sure(own).min(sure(beside))) })
}

/// Sizes in parts per million of the smallest; all 0 if one of them is not known.
fn relative(sizes: impl Iterator<Item = u64> + Clone) -> Vec<i64> {
    let smallest = u128::from(sizes.clone().min().unwrap_or(0));
    let ppm = |size: u64| (u128::from(size) * 1_000_000).checked_div(smallest).unwrap_or(0).min(MOST.into());
    sizes.map(|size| i64::try_from(ppm(size)).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use cutover_policy::{Phase, testing::batch};
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60_000;
    const MB: u64 = 1 << 20;
    const TEN: Plan = Plan { warm_up_ms: 0, span_ms: 10 * MINUTE };

    fn sample(start_ms: u64, v2: u64, v1: u64) -> Batch {
        let mut batch = batch(start_ms);
        (batch.v2.ready, batch.v2.rss_bytes) = (4, 4 * v2);
        (batch.v1.ready, batch.v1.rss_bytes) = (2, 2 * v1);
        batch
    }

    fn check(batches: Vec<Batch>) -> Check {
        let now_ms = batches.last().map_or(0, |b| b.start_ms + 1_000);
        Check { now_ms, phase: Phase::Ramping, stage: 0, share: 0, stage_started_ms: 0, batches }
    }

    fn beside(v2: impl IntoIterator<Item = u64>, v1: impl IntoIterator<Item = u64>) -> Samples {
        let sizes = v2.into_iter().zip(v1);
        let batches = (0..).map(|i| i * MINUTE).zip(sizes).map(|(at, (v2, v1))| sample(at, v2, v1)).collect();
        let mut samples = Samples::default();
        samples.add(&check(batches), TEN, true);
        samples
    }

    fn of(sizes: impl IntoIterator<Item = u64>) -> Samples {
        beside(sizes, std::iter::repeat(0))
    }

    fn is_about(samples: &Samples, ppm: u64, sure_ppm: u64) -> bool {
        let growth = samples.growth().unwrap();
        growth.ppm.abs_diff(ppm) < 100 && growth.sure_ppm.abs_diff(sure_ppm) < 100
    }

    #[test]
    fn growth_is_measured_per_hour() {
        assert!(is_about(&of((0..=10).map(|i| 100 * MB + i * MB)), 600_000, 600_000));
        assert!(is_about(&of((0..=10).map(|_| 100 * MB)), 0, 0));
        assert!(is_about(&of((0..=10).map(|i| 100 * MB - i * MB)), 0, 0));
    }

    #[test]
    fn growth_that_v1_shows_too_is_none_of_v2s() {
        let both = beside((0..=10).map(|i| 100 * MB + i * MB), (0..=10).map(|i| 50 * MB + i * MB / 2));
        assert!(is_about(&both, 600_000, 0), "{both:?}");
        let half = beside((0..=10).map(|i| 100 * MB + i * MB), (0..=10).map(|i| 100 * MB + i * MB / 2));
        assert!(is_about(&half, 600_000, 300_000), "{half:?}");
        let v1_shrinks = beside((0..=10).map(|_| 100 * MB), (0..=10).map(|i| 100 * MB - i * MB));
        assert!(is_about(&v1_shrinks, 0, 0), "{v1_shrinks:?}");
    }

    #[test]
    fn ups_and_downs_are_no_growth() {
        // A collector that runs each six minutes, and a spike.
        let saw = of((0..=60).map(|i| 100 * MB + i % 6 * 4 * MB));
        assert_eq!(saw.growth().unwrap().sure_ppm, 0, "{:?}", saw.growth());
        let short = of((0..=10).map(|i| 100 * MB + i % 6 * 4 * MB));
        assert_eq!(short.growth().unwrap().sure_ppm, 0, "{:?}", short.growth());
        let spike = of((0..=10).map(|i| if i == 9 { 300 * MB } else { 100 * MB }));
        assert_eq!(spike.growth().unwrap().sure_ppm, 0, "{:?}", spike.growth());
        // The same collector above a leak of 60 % an hour.
        let leak = of((0..=60).map(|i| 100 * MB + i % 6 * 4 * MB + i * MB));
        assert!(leak.growth().unwrap().sure_ppm > 400_000, "{:?}", leak.growth());
    }

    #[test]
    fn a_short_span_says_nothing() {
        assert_eq!(of((0..10).map(|i| 100 * MB + i * MB)).growth(), None);
        assert_eq!(Samples::default().growth(), None);
    }

    #[test]
    fn nothing_is_sampled_before_caches_are_full_and_workers_that_start_anew_fill_them_anew() {
        let plan = Plan { warm_up_ms: 30 * MINUTE, ..TEN };
        let mut samples = Samples::default();
        let mut at = |minute: u64, ready, begun| {
            let mut batch = sample(minute * MINUTE, (100 + minute) * MB, 0);
            batch.v2.ready = ready;
            samples.add(&check(vec![batch]), plan, begun);
            (samples.all().len(), samples.growth().is_some())
        };
        for minute in 0..30 {
            assert_eq!(at(minute, 4, minute == 0), (0, false));
        }
        for minute in 30..40 {
            assert_eq!(at(minute, 4, false), (usize::try_from(minute).unwrap() - 29, false));
        }
        assert_eq!(at(40, 4, false), (11, true));
        assert_eq!(at(41, 0, false), (0, false));
        assert_eq!(at(71, 4, false), (0, false));
        assert_eq!(at(101, 4, false), (1, false));
        assert_eq!(at(111, 4, false), (2, false), "two samples have no error");
        assert_eq!(at(112, 4, true), (0, false), "a stage has other callers");
    }

    #[test]
    fn one_sample_a_minute_for_an_hour_is_kept() {
        let batches = (0..7_200).map(|i| sample(i * 1_000, MB, 0)).collect();
        let mut samples = Samples::default();
        samples.add(&check(batches), TEN, true);
        assert_eq!((samples.all().len(), samples.first_ms), (61, 59 * MINUTE));
        samples.add(&check(vec![sample(1_000 * MINUTE, MB, 0)]), TEN, false);
        assert_eq!(samples.all().len(), 1, "what was before a long pause is forgotten");
        samples.add(&check(vec![sample(500 * MINUTE, MB, 0)]), TEN, false);
        assert_eq!((samples.all().len(), samples.last_ms), (1, 500 * MINUTE), "so is what is in the future");
    }

    #[test]
    fn members_without_known_memory_are_left_out() {
        let mut samples = Samples::default();
        samples.add(&check(vec![batch(0), sample(1, 0, 0)]), TEN, true);
        assert_eq!((samples.all(), samples.begun_ms), (vec![], Some(1)));
    }

    proptest! {
        #[test]
        fn samples_come_back_as_they_were_and_say_the_same(
            sizes in prop::collection::vec((1_u64..1 << 50, 0_u64..1 << 50), 0..90), every in 1_000_u64..90_000,
        ) {
            let (mut kept, mut written) = (Samples::default(), Samples::default());
            for (n, (v2, v1)) in (1..).zip(sizes) {
                let next = check(vec![sample(n * every, v2, v1)]);
                kept.add(&next, TEN, n == 1);
                let text = serde_json::to_string(&written).unwrap();
                written = serde_json::from_str(&text).unwrap();
                written.add(&next, TEN, n == 1);
                prop_assert_eq!(&kept, &written);
                prop_assert_eq!(kept.growth(), growth(&kept.all(), TEN.span_ms));
                prop_assert_eq!(kept.all().last().map(|&(at, ..)| at), Some(kept.last_ms));
            }
        }

        #[test]
        fn any_samples_are_measured_without_overflow(sizes in prop::collection::vec((any::<u64>(), any::<u64>()), 11..61)) {
            let samples = beside(sizes.iter().map(|s| s.0 / 4), sizes.iter().map(|s| s.1 / 4));
            prop_assert!(samples.growth().is_some() || samples.all().len() < 11);
        }
    }
}
