//! Who computes for long takes turns: one for each processor, first come, first served.
//!
//! Migrations ask their policies at the same moments, and a policy has so much wall-clock time. If fifty that compute for
//! a tenth of a second began at once, none would be done in time, and orders, callers and the judges of others would wait
//! for a processor with them. So they wait for each other, and their time begins with their turn. A policy is quick until
//! several of its questions in a row took long, and those that are quick wait for nobody.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// What takes longer is long: a compiled judge takes a tenth of a millisecond, and a script two.
const LONG: Duration = Duration::from_millis(10);

/// One or two may be the machine's fault.
const IN_A_ROW: u32 = 3;

/// Turns of those who compute for long.
#[derive(Debug)]
pub(super) struct Lanes {
    at_once: u64,
    tickets: Mutex<Tickets>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Tickets {
    given: u64,
    /// Turns that are over.
    over: u64,
}

/// A turn; it is over when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Lanes);

/// How long a policy's questions took lately.
#[derive(Debug, Default)]
pub(super) struct Habit(AtomicU32);

impl Lanes {
    /// So many have a turn at once.
    pub(super) fn new(lanes: usize) -> Self {
        let at_once = u64::try_from(lanes.max(1)).unwrap_or(u64::MAX);
        Self { at_once, tickets: Mutex::default(), left: Condvar::new() }
    }

    /// Waits for a turn. Blocks this thread.
    pub(super) fn turn(&self) -> Turn<'_> {
        let mut tickets = self.tickets.lock();
        let mine = tickets.given;
        tickets.given += 1;
        while mine >= tickets.over.saturating_add(self.at_once) {
            self.left.wait(&mut tickets);
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.tickets.lock().over += 1;
        self.0.left.notify_all();
    }
}

impl Habit {
    /// Whether it takes turns.
    pub(super) fn is_slow(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= IN_A_ROW
    }

    /// Learns how long a question took.
    pub(super) fn learn(&self, took: Duration) {
        if took > LONG {
            // Up to there, so that it cannot overflow; two at once may count as one.
            self.0.store((self.0.load(Ordering::Relaxed) + 1).min(IN_A_ROW), Ordering::Relaxed);
        } else {
            self.0.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use super::*;

    #[test]
    fn a_policy_is_slow_after_three_long_questions_and_quick_after_one_that_is_short() {
        let (habit, long) = (Habit::default(), LONG + Duration::from_nanos(1));
        habit.learn(long);
        habit.learn(LONG);
        for _ in 0..2 {
            habit.learn(long);
            assert!(!habit.is_slow());
        }
        habit.learn(long);
        assert!(habit.is_slow());
        habit.learn(LONG);
        assert!(!habit.is_slow());
    }

    #[test]
    fn no_more_have_a_turn_at_once_than_there_are_lanes() {
        let (lanes, at_once, had) = (Lanes::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let _turn = lanes.turn();
                    assert!(at_once.fetch_add(1, Ordering::SeqCst) < 2);
                    thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    had.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(had.into_inner(), 20);
    }

    #[test]
    fn who_came_first_is_first() {
        let (lanes, order) = (Lanes::new(1), Mutex::new(Vec::new()));
        let taken = lanes.turn();
        thread::scope(|scope| {
            for n in 0..20 {
                let (lanes, order) = (&lanes, &order);
                scope.spawn(move || {
                    let _turn = lanes.turn();
                    order.lock().push(n);
                });
                // The next one comes when this one waits.
                while lanes.tickets.lock().given < n + 2 {
                    thread::yield_now();
                }
            }
            assert_eq!(order.lock().len(), 0);
            drop(taken);
        });
        assert_eq!(order.into_inner(), (0..20).collect::<Vec<_>>());
    }
}
