//! How many requests may be tried again: a part of those that came, so that retries cannot double the load of a pool
//! that is already failing.
//!
//! A token bucket as Finagle's retry budget has it: each request pays in a part of a token, each retry takes a whole one.

use std::sync::atomic::{AtomicI64, Ordering};

/// A token, in parts.
const TOKEN: i64 = 100;

/// Tokens that a pool has at first, and at most: what a quiet pool may retry at once.
const MOST: i64 = 100;

/// The tokens of one pool, which requests pay in and retries take.
#[derive(Debug)]
pub struct Budget {
    parts: AtomicI64,
    percent: i64,
}

impl Budget {
    /// Retries are at most this part of requests, in percent, and some more at first.
    pub const fn new(percent: u32) -> Self {
        Self { parts: AtomicI64::new(if percent == 0 { 0 } else { MOST / 10 * TOKEN }), percent: percent as i64 }
    }

    /// Pays in for a request that came.
    pub fn pay_in(&self) {
        // The budget is full most of the time, and then no thread writes.
        if self.parts.load(Ordering::Relaxed) < MOST * TOKEN {
            self.parts.fetch_add(self.percent, Ordering::Relaxed);
        }
    }

    /// Takes a retry; false if there is none.
    pub fn take(&self) -> bool {
        let taken = self.parts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |p| (p >= TOKEN).then(|| p - TOKEN));
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_part_of_requests() {
        let budget = Budget::new(20);
        let mut retried = 0;
        for _ in 0..1_000 {
            budget.pay_in();
            retried += u32::from(budget.take());
        }
        assert!((200..=210).contains(&retried), "{retried}");
        let none = Budget::new(0);
        none.pay_in();
        assert!(!none.take());
    }

    #[test]
    fn quiet_times_save_up_only_so_much() {
        let budget = Budget::new(100);
        (0..10_000).for_each(|_| budget.pay_in());
        assert_eq!((0..1_000).filter(|_| budget.take()).count(), 100);
    }
}
