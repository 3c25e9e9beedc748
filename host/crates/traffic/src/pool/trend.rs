//! How fast something grows, and how sure that is: a straight line through samples, by least squares.
//!
//! With n samples (t, y), Sxx = sum (t - mean t)^2 and Sxy = sum (t - mean t)(y - mean y), the slope is b = Sxy / Sxx, and
//! its standard error is sqrt(s^2 / Sxx) with s^2 = sum (y - a - b t)^2 / (n - 2) (Draper and Smith, *Applied Regression
//! Analysis*, 3rd ed., 1998, sections 1.2 and 1.4). Samples of memory are not independent of each other, so the error is
//! rather too small than too large; it tells a leak from noise, not five percent from six.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use cutover_model::clock::Mono;

/// Samples that are kept. When there are more, every other one goes and from then on only every other one is taken.
const KEPT: usize = 240;

/// How far back they reach: a leak that begins late must not disappear in the months before it.
const HORIZON: Duration = Duration::from_hours(6);

/// The least number of samples that a line says something about.
const ENOUGH: usize = 10;

/// The least time that they cover: what a program does in its first minutes is no trend.
const LEAST: Duration = Duration::from_mins(2);

/// Samples of one series.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    samples: VecDeque<(Mono, u64)>,
    /// The least time between two; none at the beginning.
    spacing: Duration,
}

/// A line through samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Trend {
    /// Growth per hour, in the samples' unit.
    pub per_hour: f64,
    /// The standard error of `per_hour`, in the same unit.
    pub standard_error: f64,
    /// The mean of the samples.
    pub mean: f64,
    /// How many samples the line goes through.
    pub samples: usize,
}

impl Samples {
    /// Adds a sample; it is left out if it comes too early after the last.
    pub fn add(&mut self, at: Mono, value: u64) {
        if self.samples.back().is_some_and(|(last, _)| at.since(*last) < self.spacing) {
            return;
        }
        self.samples.push_back((at, value));
        while self.samples.front().is_some_and(|(first, _)| at.since(*first) > HORIZON) {
            self.samples.pop_front();
        }
        if self.samples.len() <= KEPT {
            return;
        }
        let mut keep = false;
        self.samples.retain(|_| {
            keep = !keep;
            keep
        });
        if let (Some((first, _)), Some((last, _))) = (self.samples.front(), self.samples.back()) {
            let gaps = u32::try_from(self.samples.len() - 1).unwrap_or(u32::MAX).max(1);
            // A little less than the mean, so that a sample that comes a moment early is not lost.
            self.spacing = last.since(*first) / gaps * 9 / 10;
        }
    }

    /// Forgets everything: what is measured is not the same any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The line through them; none if they are too few or all of one moment.
    pub fn trend(&self) -> Option<Trend> {
        let ((first, _), (last, _)) = (*self.samples.front()?, *self.samples.back()?);
        if last.since(first) < LEAST {
            return None;
        }
        let points = self.samples.iter().map(|(at, value)| (at.since(first).as_secs_f64() / 3_600.0, float(*value)));
        let points: Vec<(f64, f64)> = points.collect();
        (points.len() >= ENOUGH).then(|| line(&points)).flatten()
    }
}

impl Trend {
    /// Growth per hour and its standard error as parts per million of the mean; none if the mean is 0.
    pub fn ppm(&self) -> Option<(i64, i64)> {
        (self.mean > 0.0)
            .then(|| (whole(self.per_hour / self.mean * 1e6), whole(self.standard_error / self.mean * 1e6)))
    }
}

/// The line of least squares.
fn line(points: &[(f64, f64)]) -> Option<Trend> {
    let n = float(points.len() as u64);
    let (sum_t, sum_y) = points.iter().fold((0.0, 0.0), |(t, y), p| (t + p.0, y + p.1));
    let (mean_t, mean) = (sum_t / n, sum_y / n);
    let (sxx, sxy) = points.iter().fold((0.0, 0.0), |(sxx, sxy), (t, y)| {
        let from_mean = t - mean_t;
        (f64::mul_add(from_mean, from_mean, sxx), f64::mul_add(from_mean, y - mean, sxy))
    });
    if sxx <= 0.0 || points.len() < 3 {
        return None;
    }
    let slope = sxy / sxx;
    let residual = |(t, y): &(f64, f64)| (y - mean) - slope * (t - mean_t);
    let rss: f64 = points.iter().map(|p| residual(p).powi(2)).sum();
    let standard_error = (rss / (n - 2.0) / sxx).sqrt();
    Some(Trend { per_hour: slope, standard_error, mean, samples: points.len() })
}

#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53: 9 petabytes")]
const fn float(value: u64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a float beyond an integer's range becomes the range's end")]
const fn whole(value: f64) -> i64 {
    value.round() as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    fn of(values: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        for (minute, value) in (0..).zip(values) {
            samples.add(Mono::from_nanos(minute * MINUTE), value);
        }
        samples
    }

    #[test]
    fn a_line_is_found_exactly() {
        let trend = of((0..20).map(|n| 1_000 + 10 * n)).trend().unwrap();
        assert!((trend.per_hour - 600.0).abs() < 1e-6 && trend.standard_error < 1e-6, "{trend:?}");
        assert_eq!(trend.ppm().map(|(growth, _)| growth), Some(547_945), "600 of a mean of 1095");
        let flat = of([7; 20]).trend().unwrap();
        assert_eq!(flat.ppm(), Some((0, 0)));
    }

    /// Filip's and Longley's are harder; this is Norris, the first of NIST's Statistical Reference Datasets for linear
    /// regression (<https://www.itl.nist.gov/div898/strd/lls/data/Norris.shtml>), with its certified values.
    #[test]
    fn a_reference_series_gives_its_certified_values() {
        let norris = [
            (0.2, 0.1),
            (337.4, 338.8),
            (118.2, 118.1),
            (884.6, 888.0),
            (10.1, 9.2),
            (226.5, 228.1),
            (666.3, 668.5),
            (996.3, 998.5),
            (448.6, 449.1),
            (777.0, 778.9),
            (558.2, 559.2),
            (0.4, 0.3),
            (0.6, 0.1),
            (775.5, 778.1),
            (666.9, 668.8),
            (338.0, 339.3),
            (447.5, 448.9),
            (11.6, 10.8),
            (556.0, 557.7),
            (228.1, 228.3),
            (995.8, 998.0),
            (887.6, 888.8),
            (120.2, 119.6),
            (0.3, 0.3),
            (0.3, 0.6),
            (556.8, 557.6),
            (339.1, 339.3),
            (887.2, 888.0),
            (999.0, 998.5),
            (779.0, 778.9),
            (11.1, 10.2),
            (118.3, 117.6),
            (229.2, 228.9),
            (669.1, 668.4),
            (448.9, 449.2),
            (0.5, 0.2),
        ];
        let trend = line(&norris).unwrap();
        assert!((trend.per_hour - 1.002_116_818_020_45).abs() < 1e-12, "{trend:?}");
        assert!((trend.standard_error - 0.429_796_848_199_937e-3).abs() < 1e-12, "{trend:?}");
    }

    #[test]
    fn few_samples_say_nothing() {
        assert_eq!(of([1, 2, 3]).trend(), None);
        let mut one_moment = Samples::default();
        (0..20).for_each(|n| one_moment.add(Mono::from_nanos(5), n));
        assert_eq!(one_moment.trend(), None);
    }

    proptest! {
        /// However many samples come, few are kept, they reach back as far as they should, and the line stays the same.
        #[test]
        fn long_series_are_thinned_out(count in 10_u64..5_000, slope in 0_u64..100) {
            let samples = of((0..count).map(|n| 1_000 + slope * n));
            prop_assert!(samples.samples.len() <= KEPT);
            let span = samples.samples.back().unwrap().0.since(samples.samples.front().unwrap().0);
            let whole = Duration::from_secs(60 * (count - 1)).min(HORIZON);
            prop_assert!(span <= HORIZON && span >= whole.saturating_sub(Duration::from_mins(6)), "{:?}", span);
            let trend = samples.trend().unwrap();
            prop_assert!((trend.per_hour - 60.0 * float(slope)).abs() < 1e-3, "{:?}", trend);
        }
    }
}
