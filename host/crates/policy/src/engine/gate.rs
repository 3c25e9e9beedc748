//! What keeps a policy that is asked per request from taking the machine when it does not answer.
//!
//! A policy that runs into its time limit costs a thread that long, for every request that comes. So it is asked on few
//! threads at once, and after [`IN_A_ROW`] questions in a row without an answer in time it rests: until it has rested
//! for [`REST`] times its limit, requests get the same error at once. Then one question more is tried. That holds such a
//! policy to about 2 % of a thread, whatever the load, and leaves the rest to the other migrations.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::PolicyError;
use cutover_model::clock::{self, Mono};

/// One or two may be the machine's fault.
const IN_A_ROW: u32 = 3;

/// A rest, in time limits.
const REST: u32 = 50;

#[derive(Debug)]
pub(super) struct Gate {
    /// When the rest ends, as [`Mono::nanos`]; 0 while there is none, so that a request that need not wait reads no
    /// clock.
    until: AtomicU64,
    /// Questions without an answer in time since the last one with.
    in_a_row: AtomicU32,
    /// What the last of them failed with.
    error: Mutex<Option<PolicyError>>,
    /// Questions that may be under way.
    places: Mutex<usize>,
    left: Condvar,
}

/// A question that is under way.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Gate);

impl Gate {
    /// With room for `at_once` questions.
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            until: AtomicU64::new(0),
            in_a_row: AtomicU32::new(0),
            error: Mutex::default(),
            places: Mutex::new(at_once.max(1)),
            left: Condvar::new(),
        }
    }

    /// Refuses while the policy rests.
    ///
    /// # Errors
    /// What it failed with before it began to rest.
    pub(super) fn open(&self) -> Result<(), PolicyError> {
        let until = self.until.load(Ordering::Relaxed);
        if until == 0 {
            return Ok(());
        }
        if clock::mono() < Mono::from_nanos(until) {
            return self.refuse();
        }
        // Who finds the rest over first is the one who tries; the others rest on until it knows more.
        let longer = Mono::from_nanos(until) + Duration::from_secs(1);
        let mine = self.until.compare_exchange(until, longer.nanos(), Ordering::Relaxed, Ordering::Relaxed);
        if mine.is_ok() { Ok(()) } else { self.refuse() }
    }

    /// Waits for a place among the questions under way.
    ///
    /// # Errors
    /// The policy rests.
    pub(super) fn enter(&self) -> Result<Place<'_>, PolicyError> {
        let mut places = self.places.lock();
        while *places == 0 {
            self.left.wait(&mut places);
        }
        *places -= 1;
        drop(places);
        let place = Place(self);
        self.open()?;
        Ok(place)
    }

    /// Learns what became of a question with this time limit.
    pub(super) fn learn<T>(&self, answer: &Result<T, PolicyError>, limit: Duration) {
        if let Err(error @ PolicyError::Deadline { .. }) = answer {
            if self.in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= IN_A_ROW {
                *self.error.lock() = Some(error.clone());
                self.until.store((clock::mono() + limit * REST).nanos(), Ordering::Relaxed);
            }
        } else if self.in_a_row.load(Ordering::Relaxed) > 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
            self.until.store(0, Ordering::Relaxed);
        }
    }

    fn refuse(&self) -> Result<(), PolicyError> {
        self.error.lock().clone().map_or(Ok(()), Err)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.places.lock() += 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    const LATE: Result<(), PolicyError> = Err(PolicyError::Deadline { limit_ms: 5, setting: "time" });

    #[test]
    fn a_policy_that_never_answers_in_time_rests_and_is_tried_again() {
        let gate = Gate::new(1);
        let limit = Duration::from_millis(2);
        for _ in 0..IN_A_ROW {
            assert_eq!(gate.open(), Ok(()));
            gate.learn(&LATE, limit);
        }
        assert_eq!(gate.open(), LATE);
        let waited = clock::mono();
        while gate.open() == LATE {
            thread::yield_now();
        }
        assert!(clock::mono().since(waited) > limit * (REST / 2), "it rests for about {REST} limits");
        assert_eq!(gate.open(), LATE, "one question is tried, not all that wait");
        gate.learn(&Ok(()), limit);
        assert_eq!((gate.open(), gate.open()), (Ok(()), Ok(())));
    }

    #[test]
    fn other_failures_are_no_reason_to_rest() {
        let gate = Gate::new(1);
        let trap: Result<(), _> = Err(PolicyError::StackOverflow);
        for _ in 0..10 * IN_A_ROW {
            gate.learn(&trap, Duration::from_millis(5));
            assert_eq!(gate.open(), Ok(()));
        }
    }

    #[test]
    fn no_more_questions_are_under_way_than_there_are_places() {
        let (gate, most) = (Arc::new(Gate::new(2)), Arc::new((AtomicU32::new(0), AtomicU32::new(0))));
        let ask = || {
            for _ in 0..100 {
                let _place = gate.enter().unwrap();
                let now = most.0.fetch_add(1, Ordering::SeqCst) + 1;
                most.1.fetch_max(now, Ordering::SeqCst);
                thread::yield_now();
                most.0.fetch_sub(1, Ordering::SeqCst);
            }
        };
        thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(ask))));
        assert!((1..=2).contains(&most.1.load(Ordering::SeqCst)));
    }
}
