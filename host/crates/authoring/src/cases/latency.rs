//! Quantiles become a histogram, and the histogram is dealt to seconds.

use cutover_contract::histogram::{Histogram, index};

use super::notation::Span;

/// What calls take where a case does not care.
const DEFAULT_US: u64 = 10_000;

/// Points between two quantiles: finer than that is not seen through buckets of 3 %.
const POINTS: u64 = 16;

/// Golden ratio in 65536ths: multiples of it are spread evenly, so that leftovers do not pile up in some seconds.
const GOLDEN: u64 = 40_503;

/// Quantiles in ascending order: parts per million and microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Latency(Vec<(u32, u64)>);

/// Calls that were not dealt yet.
#[derive(Debug)]
pub(super) struct Rest(Vec<(u32, u64)>);

impl Default for Latency {
    fn default() -> Self {
        Self(vec![(0, DEFAULT_US)])
    }
}

impl Latency {
    /// Checks what was written.
    ///
    /// # Errors
    /// What contradicts itself, as a sentence that begins after the calls' name.
    pub(super) fn of(all: Option<Span>, quantiles: &[(&str, u32, Option<Span>)]) -> Result<Self, String> {
        let mut named = quantiles.iter().filter_map(|&(name, ppm, span)| Some((name, ppm, span?))).peekable();
        match (all, named.peek()) {
            (Some(_), Some((name, ..))) => return Err(format!("has both a `latency` and a `{name}`")),
            (Some(all), None) => return Ok(Self(vec![(0, all.micros())])),
            (None, None) => return Ok(Self::default()),
            (None, Some(_)) => {}
        }
        let mut points: Vec<(u32, u64)> = Vec::new();
        let mut before: Option<(&str, Span)> = None;
        for (name, ppm, span) in named {
            if let Some((lower, at)) = before.filter(|(_, at)| *at > span) {
                let [span, at] = [span, at].map(|s| humantime::format_duration(s.0));
                return Err(format!("has a `{name}` of {span} below its `{lower}` of {at}"));
            }
            points.push((ppm, span.micros()));
            before = Some((name, span));
        }
        Ok(Self(points))
    }

    /// `requests` calls whose quantiles, by nearest rank, are in the buckets of those that were named.
    pub(super) fn histogram(&self, requests: u64) -> Rest {
        let mut histogram = Histogram::default();
        let first = self.0.first().copied().unwrap_or((0, DEFAULT_US));
        let (mut done, mut below_us) = (0, if first.0 == 0 { first.1 } else { first.1 / 2 });
        for &(ppm, us) in &self.0 {
            let rank = (u128::from(requests) * u128::from(ppm)).div_ceil(1_000_000);
            let calls = u64::try_from(rank).unwrap_or(u64::MAX).saturating_sub(done);
            let points = calls.min(POINTS);
            for point in 1..=points {
                let at = |n: u64| calls / points * n + (calls % points).min(n);
                let rise = u128::from(us - below_us.min(us)) * u128::from(point) / u128::from(points);
                let us = below_us.saturating_add(u64::try_from(rise).unwrap_or(u64::MAX));
                histogram.add(index(us), at(point) - at(point - 1));
            }
            (done, below_us) = (done + calls, us);
        }
        histogram.add(index(below_us), requests - done);
        Rest(histogram.buckets().to_vec())
    }
}

impl Rest {
    /// Takes `calls` of them: every so-manieth in the order of their latency (systematic sampling), beginning elsewhere
    /// in each second. No bucket gives more than it has, and the last second gets just what is left.
    pub(super) fn take(&mut self, calls: u64, second: u64) -> Histogram {
        let left: u128 = self.0.iter().map(|&(_, count)| u128::from(count)).sum();
        let offset = u128::from(second.wrapping_mul(GOLDEN) % 65_536);
        let upto = |seen: u128| (u128::from(calls) * seen * 65_536 + offset * left) / (left.max(1) * 65_536);
        let (mut seen, mut taken) = (0, Histogram::default());
        for (bucket, count) in &mut self.0 {
            let before = upto(seen);
            seen += u128::from(*count);
            let here = u64::try_from(upto(seen) - before).unwrap_or(0).min(*count);
            taken.add(*bucket, here);
            *count -= here;
        }
        taken
    }
}
