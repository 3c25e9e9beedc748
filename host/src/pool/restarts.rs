//! When the next worker may be started after one that died: at once, after a while, or hardly ever.
//!
//! A worker that had proven itself is replaced at once. One that had not has its successor wait, twice as long each
//! time, with chance in it so that the workers of many pools do not start in step. And all of a pool's restarts have a
//! budget: within any stretch of time there are so many and no more, but for one attempt each [`MAX_BACKOFF`], so that
//! a pool of workers that crash on every call neither takes the machine nor stays dead for ever. Pure: time and chance
//! are passed in.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Mono;

/// The longest wait between two attempts to start a worker.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// What the second attempt in a row waits; each further one waits twice as long.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);

/// So many restarts within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many,
    pub count: usize,
    /// within this time.
    pub within: Duration,
}

/// The restarts of one pool.
#[derive(Debug)]
pub struct Restarts {
    budget: Budget,
    /// When the last `budget.count` restarts were or will be, oldest first.
    planned: VecDeque<Mono>,
}

/// A restart, planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// How long to wait.
    pub wait: Duration,
    /// Whether it has to wait because the budget is spent.
    pub spent: bool,
}

impl Restarts {
    /// Nothing restarted yet.
    pub const fn new(budget: Budget) -> Self {
        Self { budget, planned: VecDeque::new() }
    }

    /// Plans a restart. `failed` workers before it, one after the other, died without having proven themselves;
    /// `chance` is any number.
    pub fn plan(&mut self, now: Mono, failed: u32, chance: u64) -> Planned {
        let due = now + backoff(failed, chance);
        let spent = self.budget.count == 0 || self.is_spent(due);
        let at = if spent { due.max(self.next_when_spent(now)) } else { due };
        let after = self.planned.partition_point(|planned| *planned <= at);
        self.planned.insert(after, at);
        if self.planned.len() > self.budget.count.max(1) {
            self.planned.pop_front();
        }
        Planned { wait: at.since(now), spent }
    }

    /// Whether a restart at `now` would have to wait for the budget.
    pub fn is_spent(&self, now: Mono) -> bool {
        let recent = self.planned.iter().filter(|at| **at + self.budget.within > now).count();
        recent >= self.budget.count.max(1)
    }

    /// The earlier of: when a restart leaves the budget's time; one attempt after the last.
    fn next_when_spent(&self, now: Mono) -> Mono {
        let freed = self.planned.front().map_or(now, |at| *at + self.budget.within);
        let attempt = self.planned.back().map_or(now, |at| *at).max(now) + MAX_BACKOFF;
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

    fn of(count: usize, seconds: u64) -> Restarts {
        Restarts::new(Budget { count, within: Duration::from_secs(seconds) })
    }

    #[test]
    fn a_proven_worker_is_replaced_at_once_and_others_wait_longer_each_time() {
        let mut restarts = of(100, 60);
        assert_eq!(restarts.plan(at(1), 0, 7), Planned { wait: Duration::ZERO, spent: false });
        let waits: Vec<_> = (1..=11).map(|failed| restarts.plan(at(1), failed, 0).wait.as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(restarts.plan(at(1), 1, 50_000_000).wait.as_millis(), 50, "half of it is left to chance");
        assert_eq!(restarts.plan(at(1), 1, 50_000_001).wait.as_millis(), 100);
    }

    #[test]
    fn a_spent_budget_leaves_one_attempt_each_half_minute_until_it_is_whole_again() {
        let mut restarts = of(3, 600);
        for _ in 0..3 {
            assert!(!restarts.plan(at(1), 0, 0).spent);
        }
        let spent = |seconds| Planned { wait: Duration::from_secs(seconds), spent: true };
        assert_eq!(restarts.plan(at(2), 0, 0), spent(30));
        assert_eq!(restarts.plan(at(2), 0, 0), spent(60), "another worker's turn comes after");
        assert!(restarts.is_spent(at(500)) && !restarts.is_spent(at(700)));
        assert_eq!(restarts.plan(at(700), 0, 0), Planned { wait: Duration::ZERO, spent: false });
    }

    #[test]
    fn without_a_budget_there_are_attempts_alone() {
        let mut restarts = of(0, 60);
        assert!(!restarts.is_spent(at(1)), "nothing has died");
        assert_eq!(restarts.plan(at(1), 0, 0), Planned { wait: MAX_BACKOFF, spent: true });
        assert!(restarts.is_spent(at(2)));
    }

    proptest! {
        /// Within any stretch of the budget's time there are no more restarts than the budget has, and one attempt each
        /// half minute.
        #[test]
        fn the_budget_is_kept_whatever_happens(
            count in 1_usize..6, within in 1_u64..300, deaths in prop::collection::vec((0_u64..20, 0_u32..4, any::<u64>()), 1..60),
        ) {
            let (mut restarts, mut now, mut starts) = (of(count, within), 0, Vec::new());
            for (later, failed, chance) in deaths {
                now += later;
                let planned = restarts.plan(at(now), failed, chance);
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
