//! Whether a member can be reached at all. Connections for calls show it; if there are none for a while, probes do.
//!
//! [Health](super::outlier) says which member gets the next request; this says whether anybody is there. The two
//! differ: the only member of a pool is never ejected, and a member that answers everything with an error can still be
//! reached.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use cutover_model::clock::Mono;

/// Attempts in a row that came to nothing: a member that restarts misses one or two.
const LOST: u32 = 3;

/// How long a member is taken to be as it was when it last answered; after that it is probed as often.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// How often it is probed while it is missed.
const MISSED: Duration = Duration::from_secs(1);

/// How often in a row no connection could be made, and when the member was last reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    missed: AtomicU32,
    met: AtomicU64,
}

impl Reach {
    /// It answered, or let itself be connected to.
    pub(super) fn meet(&self, now: Mono) {
        self.met.store(now.nanos(), Ordering::Relaxed);
        // Written only where it changes something: each answer comes by here.
        if self.missed.load(Ordering::Relaxed) > 0 {
            self.missed.store(0, Ordering::Relaxed);
        }
    }

    /// No connection could be made. True if it is lost now and was not before.
    pub(super) fn miss(&self) -> bool {
        let missed = self.missed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_add(1)));
        missed.is_ok_and(|before| before + 1 == LOST)
    }

    /// Whether the member cannot be reached.
    pub(super) fn is_lost(&self) -> bool {
        self.missed.load(Ordering::Relaxed) >= LOST
    }

    /// How long until it has to be probed; zero for now.
    pub(super) fn wait(&self, probed: Mono, now: Mono) -> Duration {
        let (last, wait) = if self.missed.load(Ordering::Relaxed) > 0 {
            (probed, MISSED)
        } else {
            (probed.max(Mono::from_nanos(self.met.load(Ordering::Relaxed))), QUIET)
        };
        (last + wait).since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn three_attempts_in_a_row_say_that_nobody_is_there_and_one_that_somebody_is() {
        let reach = Reach::default();
        assert_eq!([reach.miss(), reach.miss(), reach.is_lost()], [false, false, false]);
        reach.meet(at(1));
        assert_eq!([reach.miss(), reach.miss(), reach.miss(), reach.miss()], [false, false, true, false]);
        assert!(reach.is_lost());
        reach.meet(at(2));
        assert!(!reach.is_lost());
    }

    #[test]
    fn who_answers_is_not_probed_and_who_is_missed_is_probed_soon() {
        let reach = Reach::default();
        reach.meet(at(10));
        assert_eq!(reach.wait(at(1), at(12)), Duration::from_secs(3));
        assert_eq!(reach.wait(at(1), at(15)), Duration::ZERO);
        assert_eq!(reach.wait(at(15), at(15)), QUIET);
        reach.miss();
        assert_eq!(reach.wait(at(15), at(15)), MISSED);
    }
}
