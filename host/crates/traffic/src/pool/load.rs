//! How much a pool has to do, second by second: pure, with `now` passed in.

use std::{collections::VecDeque, time::Duration};

use cutover_contract::histogram::Histogram;
use serde::Serialize;

use cutover_model::clock::Mono;

/// Seconds that are looked back on.
const KEPT: usize = 60;

/// What is being counted.
#[derive(Debug, Default)]
pub struct Meter {
    last: Mono,
    current: Span,
}

/// What was counted in a second or so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    /// How long it was.
    pub length: Duration,
    /// The time that workers had calls, summed over workers.
    pub busy: Duration,
    /// The time that workers could have had calls, summed over workers.
    pub able: Duration,
    /// How long calls waited for a worker, in microseconds.
    pub waits: Histogram,
    /// The same, summed over calls.
    pub waited: Duration,
    /// Calls that waited at its end.
    pub waiting: usize,
    /// Workers that became ready for the first time.
    pub created: u64,
    /// Workers whose process ended.
    pub ended: u64,
}

/// The spans of the last minute, oldest first.
#[derive(Debug, Default)]
pub struct Recent(VecDeque<Span>);

/// What several spans add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Load {
    /// The part of the workers' time that they had calls, in parts per million; none if there were no workers.
    pub utilisation_ppm: Option<u32>,
    /// Calls that got a worker.
    pub served: u64,
    /// How long these calls waited for it on average, in microseconds; 0 without calls.
    pub wait_mean_us: u64,
    /// The median of that wait, in microseconds; 0 without calls.
    pub wait_p50_us: u64,
    /// The 99th percentile of that wait, in microseconds; 0 without calls.
    pub wait_p99_us: u64,
    /// The most calls that waited at the end of a second.
    pub max_waiting: usize,
    /// Calls that waited at the end.
    pub waiting: usize,
    /// Workers that were created, per minute.
    pub created_per_minute: u64,
    /// Workers that ended, per minute.
    pub ended_per_minute: u64,
}

impl Meter {
    /// Time has passed, in which so many workers had calls and so many could have had.
    pub fn pass(&mut self, now: Mono, busy: usize, able: usize) {
        let passed = now.since(self.last);
        if self.last > Mono::default() {
            let times = |workers: usize| passed.saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX));
            self.current.length += passed;
            self.current.busy += times(busy);
            self.current.able += times(able.max(busy));
        }
        self.last = self.last.max(now);
    }

    /// A call got a worker after a time.
    pub fn served(&mut self, waited: Duration) {
        self.current.waits.record(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        self.current.waited += waited;
    }

    /// A worker is ready for the first time.
    pub const fn created(&mut self) {
        self.current.created += 1;
    }

    /// A worker's process ended.
    pub const fn ended(&mut self) {
        self.current.ended += 1;
    }

    /// Ends the span, in which `waiting` calls are left waiting, and begins the next.
    pub fn cut(&mut self, waiting: usize) -> Span {
        self.current.waiting = waiting;
        std::mem::take(&mut self.current)
    }
}

impl Recent {
    /// Adds a span; beyond a minute of them, the oldest goes.
    pub fn push(&mut self, span: Span) {
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back(span);
    }

    /// Everything that is kept.
    pub fn all(&self) -> Load {
        self.last(KEPT)
    }

    /// The last so many spans.
    pub fn last(&self, spans: usize) -> Load {
        let first = self.0.len().saturating_sub(spans);
        Load::of(self.0.range(first..))
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Load {
    fn of<'a>(spans: impl Iterator<Item = &'a Span>) -> Self {
        let (mut sum, mut max_waiting) = (Span::default(), 0);
        for span in spans {
            sum.length += span.length;
            sum.busy += span.busy;
            sum.able += span.able;
            sum.waits.merge(&span.waits);
            sum.waited += span.waited;
            sum.waiting = span.waiting;
            sum.created += span.created;
            sum.ended += span.ended;
            max_waiting = max_waiting.max(span.waiting);
        }
        let part = (sum.busy.as_nanos() * 1_000_000).checked_div(sum.able.as_nanos());
        let served = sum.waits.total();
        let per_minute = |count: u64| {
            (u128::from(count) * 60_000)
                .checked_div(sum.length.as_millis())
                .map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
        };
        let mean = sum.waited.as_micros().checked_div(u128::from(served)).unwrap_or(0);
        Self {
            utilisation_ppm: part.map(|ppm| u32::try_from(ppm).unwrap_or(u32::MAX).min(1_000_000)),
            served,
            wait_mean_us: u64::try_from(mean).unwrap_or(u64::MAX),
            wait_p50_us: sum.waits.quantile_us(500_000).unwrap_or(0),
            wait_p99_us: sum.waits.quantile_us(990_000).unwrap_or(0),
            max_waiting,
            waiting: sum.waiting,
            created_per_minute: per_minute(sum.created),
            ended_per_minute: per_minute(sum.ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn utilisation_is_the_part_of_the_time_that_workers_had_calls() {
        let mut meter = Meter::default();
        meter.pass(at(1_000), 9, 9);
        meter.pass(at(1_250), 1, 2);
        meter.pass(at(2_000), 0, 2);
        let mut recent = Recent::default();
        recent.push(meter.cut(3));
        assert_eq!(recent.all().utilisation_ppm, Some(125_000), "a quarter of a second of two workers' one");
        assert_eq!((recent.all().waiting, Recent::default().all().utilisation_ppm), (3, None));
    }

    #[test]
    fn waits_and_workers_are_counted_over_the_last_spans() {
        let mut recent = Recent::default();
        for second in 1..=100_u64 {
            let mut meter = Meter::default();
            meter.pass(at(1_000), 0, 1);
            meter.pass(at(2_000), 1, 1);
            meter.served(Duration::from_millis(second));
            if second % 30 == 0 {
                meter.created();
            }
            recent.push(meter.cut(usize::try_from(100 - second).unwrap()));
        }
        let (all, last) = (recent.all(), recent.last(10));
        assert_eq!((recent.len(), all.served, last.served), (60, 60, 10));
        assert_eq!((last.wait_mean_us, last.max_waiting, last.waiting), (95_500, 9, 0));
        assert!((95_000..99_000).contains(&last.wait_p50_us), "{last:?}");
        assert_eq!((all.created_per_minute, all.ended_per_minute, all.utilisation_ppm), (2, 0, Some(1_000_000)));
    }
}
