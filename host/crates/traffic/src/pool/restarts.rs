//! When the next worker may be started after one that is gone: at once, after a while, or seldom.
//!
//! A worker that had proven itself is replaced at once. After one that had not, the next waits, twice as long each
//! time, with chance in it so that the workers of many pools do not start in step. And all restarts of a pool after
//! crashes have a budget: within any stretch of time there are so many and no more, but for one attempt each
//! [`MAX_BACKOFF`]. So a pool of workers that crash on every call neither takes the machine nor stays dead for ever.
//!
//! Two cases are outside the budget. A worker that the host killed because a call missed its deadline did not crash:
//! its restart costs nothing of the budget and waits [`OVERDUE_BACKOFF`] at most. There cannot be many of these,
//! because each takes a call's whole time first. And a pool that no other pool stands behind is restarted once each
//! [`ALONE_BACKOFF`] whatever its budget says, because keeping it down does more harm than starting a process each
//! second. Pure: time and chance are passed in.

use std::{collections::VecDeque, time::Duration};

use super::breaker::Backing;
use cutover_model::clock::Mono;

/// The longest wait between two attempts to start a worker.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// The longest wait after a worker that was killed for a deadline. With the deadline before it, a slot whose every call
/// hangs starts less than one process a second, and loses little of its time to waiting once calls are answered again.
pub const OVERDUE_BACKOFF: Duration = Duration::from_secs(1);

/// The longest wait between two attempts to start a worker of a pool without another one behind it: a pool of 16 is
/// whole
/// in a quarter of a minute once its workers start again, and a process started each second takes a few percent of a
/// processor.
pub const ALONE_BACKOFF: Duration = Duration::from_secs(1);

/// What the second attempt in a row waits; each further one waits twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// How many restarts there may be in what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The most restarts after crashes; with 0, each waits as if the budget were spent.
    pub count: usize,
    /// The stretch of time in which they are counted.
    pub within: Duration,
}

/// How the worker before came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// How many, one after the other, ended without having proven themselves.
    pub failed: u32,
    /// Whether it was killed because a call missed its deadline.
    pub overdue: bool,
}

/// The restarts of one pool.
#[derive(Debug)]
pub struct Restarts {
    budget: Budget,
    /// When the last `budget.count` restarts after crashes were or will be, oldest first.
    planned: VecDeque<Mono>,
}

/// When a worker may be restarted, and why so late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// The moment from which on it may start.
    pub at: Mono,
    /// The time until then.
    pub wait: Duration,
    /// Whether it has to wait because the budget is spent.
    pub spent: bool,
}

impl Restarts {
    /// The restarts of a pool in which nothing was restarted yet.
    pub const fn new(budget: Budget) -> Self {
        Self { budget, planned: VecDeque::new() }
    }

    /// Plans a restart after a `death`. `backing` says whether anybody answers while the pool cannot; `chance` is any number.
    pub fn plan(&mut self, death: Death, backing: Backing, chance: u64, now: Mono) -> Planned {
        let alone = backing == Backing::Alone;
        let wait = backoff(death.failed, chance);
        if death.overdue {
            let wait = wait.min(OVERDUE_BACKOFF);
            return Planned { at: now + wait, wait, spent: false };
        }
        let due = now + if alone { wait.min(ALONE_BACKOFF) } else { wait };
        let spent = self.budget.count == 0 || self.is_spent(due);
        let at = if spent { due.max(self.next_when_spent(alone, now)) } else { due };
        let after = self.planned.partition_point(|planned| *planned <= at);
        self.planned.insert(after, at);
        if self.planned.len() > self.budget.count.max(1) {
            self.planned.pop_front();
        }
        Planned { at, wait: at.since(now), spent }
    }

    /// Takes a plan back, because it is made anew.
    pub fn take_back(&mut self, planned: Planned) {
        if let Some(place) = self.planned.iter().position(|at| *at == planned.at) {
            self.planned.remove(place);
        }
    }

    /// Whether a restart at `now` would have to wait for the budget.
    pub fn is_spent(&self, now: Mono) -> bool {
        let recent = self.planned.iter().filter(|at| **at + self.budget.within > now).count();
        recent >= self.budget.count.max(1)
    }

    /// The earlier of: when a restart leaves the budget's time; one attempt after the last.
    fn next_when_spent(&self, alone: bool, now: Mono) -> Mono {
        let pace = if alone { ALONE_BACKOFF } else { MAX_BACKOFF };
        let freed = self.planned.front().map_or(now, |at| *at + self.budget.within);
        let attempt = self.planned.back().map_or(now, |at| *at).max(now) + pace;
        if self.budget.count == 0 { attempt } else { freed.min(attempt) }
    }
}

/// Nothing after a worker that had proven itself; then 100 ms, 200 ms and so on, each less a chance of up to half.
fn backoff(failed: u32, chance: u64) -> Duration {
    let Some(doublings) = failed.checked_sub(1) else { return Duration::ZERO };
    let whole = FIRST_BACKOFF.saturating_mul(1 << doublings.min(16)).min(MAX_BACKOFF);
    let half = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX);
    whole.saturating_sub(Duration::from_nanos(chance % (half + 1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * SECOND)
    }

    fn crash(failed: u32) -> Death {
        Death { failed, overdue: false }
    }

    fn of(count: usize, seconds: u64) -> Restarts {
        Restarts::new(Budget { count, within: Duration::from_secs(seconds) })
    }

    #[test]
    fn a_proven_worker_is_replaced_at_once_and_others_wait_longer_each_time() {
        let mut restarts = of(100, 60);
        assert_eq!(
            restarts.plan(crash(0), Backing::Other, 7, at(1)),
            Planned { at: at(1), wait: Duration::ZERO, spent: false }
        );
        let waits: Vec<_> =
            (1..=11).map(|failed| restarts.plan(crash(failed), Backing::Other, 0, at(1)).wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(
            restarts.plan(crash(1), Backing::Other, 50_000_000, at(1)).wait.as_millis(),
            50,
            "half of it is left to chance"
        );
        assert_eq!(restarts.plan(crash(1), Backing::Other, 50_000_001, at(1)).wait.as_millis(), 100);
    }

    #[test]
    fn a_spent_budget_leaves_one_attempt_each_half_minute_until_it_is_whole_again() {
        let mut restarts = of(3, 600);
        for _ in 0..3 {
            assert!(!restarts.plan(crash(0), Backing::Other, 0, at(1)).spent);
        }
        let spent = |seconds| Planned { at: at(2 + seconds), wait: Duration::from_secs(seconds), spent: true };
        assert_eq!(restarts.plan(crash(0), Backing::Other, 0, at(2)), spent(30));
        assert_eq!(restarts.plan(crash(0), Backing::Other, 0, at(2)), spent(60), "another worker's turn comes after");
        assert!(restarts.is_spent(at(500)) && !restarts.is_spent(at(700)));
        assert_eq!(
            restarts.plan(crash(0), Backing::Other, 0, at(700)),
            Planned { at: at(700), wait: Duration::ZERO, spent: false }
        );
    }

    #[test]
    fn without_a_budget_there_are_attempts_alone() {
        let mut restarts = of(0, 60);
        assert!(!restarts.is_spent(at(1)), "nothing has died");
        assert_eq!(
            restarts.plan(crash(0), Backing::Other, 0, at(1)),
            Planned { at: at(31), wait: MAX_BACKOFF, spent: true }
        );
        assert!(restarts.is_spent(at(2)));
    }

    #[test]
    fn a_worker_that_was_killed_for_a_deadline_costs_nothing_of_the_budget() {
        let mut restarts = of(2, 600);
        for failed in [0, 1, 2, 9, 30].repeat(20) {
            let planned = restarts.plan(Death { failed, overdue: true }, Backing::Other, 0, at(1));
            assert!(!planned.spent && planned.wait <= OVERDUE_BACKOFF);
        }
        assert!(!restarts.is_spent(at(1)));
        assert_eq!(restarts.plan(crash(0), Backing::Other, 0, at(1)).wait, Duration::ZERO);
    }

    #[test]
    fn a_pool_that_nobody_stands_behind_is_tried_each_second_when_its_budget_is_spent() {
        let mut restarts = of(3, 600);
        for _ in 0..3 {
            restarts.plan(crash(0), Backing::Other, 0, at(1));
        }
        let asleep = restarts.plan(crash(0), Backing::Other, 0, at(1));
        assert_eq!(asleep.wait, MAX_BACKOFF);
        restarts.take_back(asleep);
        let waits: Vec<_> = (0..3).map(|_| restarts.plan(crash(8), Backing::Alone, 0, at(2)).wait.as_secs()).collect();
        assert_eq!(waits, [1, 2, 3], "the others' turns come after");
        assert!(restarts.is_spent(at(2)), "it is said all the same");
    }

    proptest! {
        /// A pool that nobody stands behind gets its next worker within a second for each of its slots, whatever died before.
        #[test]
        fn the_last_pool_is_never_given_up(
            count in 0_usize..6, within in 1_u64..3_600, slots in 1_usize..8,
            deaths in prop::collection::vec((0_u64..3, 0_u32..40, any::<bool>(), any::<u64>()), 1..60),
        ) {
            let (mut restarts, mut now) = (of(count, within), 0);
            let mut due = vec![at(0); slots];
            for (n, (later, failed, overdue, chance)) in deaths.into_iter().enumerate() {
                now += later;
                // A slot has one restart at a time.
                let slot = n % slots;
                if due[slot] > at(now) {
                    continue;
                }
                let planned = restarts.plan(Death { failed, overdue }, Backing::Alone, chance, at(now));
                prop_assert!(planned.wait <= ALONE_BACKOFF * u32::try_from(slots).unwrap(), "{planned:?}");
                due[slot] = planned.at;
            }
        }

        /// Within any stretch of the budget's time there are no more restarts than the budget has, and one attempt each
        /// half minute.
        #[test]
        fn the_budget_is_kept_whatever_happens(
            count in 1_usize..6, within in 1_u64..300, deaths in prop::collection::vec((0_u64..20, 0_u32..4, any::<u64>()), 1..60),
        ) {
            let (mut restarts, mut now, mut starts) = (of(count, within), 0, Vec::new());
            for (later, failed, chance) in deaths {
                now += later;
                let planned = restarts.plan(crash(failed), Backing::Other, chance, at(now));
                starts.push(at(now) + planned.wait);
            }
            starts.sort_unstable();
            let within = Duration::from_secs(within);
            for (n, first) in starts.iter().enumerate() {
                let in_it = starts[n..].iter().filter(|s| s.since(*first) < within).count();
                let attempts = usize::try_from(within.as_secs() / MAX_BACKOFF.as_secs()).unwrap() + 1;
                prop_assert!(in_it <= count + attempts, "{in_it} of {count}");
            }
        }
    }
}
