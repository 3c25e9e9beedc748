//! Interim answers on their way to a caller: early hints, and news that an answer takes long (RFC 9110, 15.2; RFC
//! 8297).
//!
//! The reader of an answer leaves them here, and the connection that waits for the answer passes them on. One that is
//! not passed on is lost, which is allowed: interim answers promise nothing.

use std::{
    mem,
    sync::atomic::{AtomicBool, Ordering},
    task::Context,
};

use futures_util::task::AtomicWaker;
use hyper::StatusCode;
use parking_lot::Mutex;

use crate::message::ReplyHead;

/// How many wait; more are dropped.
const MOST: usize = 16;

/// The interim answers that wait to be passed on to one caller.
#[derive(Debug, Default)]
pub struct Interims {
    has_some: AtomicBool,
    heads: Mutex<Vec<ReplyHead>>,
    waker: AtomicWaker,
}

impl Interims {
    /// Leaves an interim answer; if too many wait already, it is dropped. `100 Continue` is left out: it is for the
    /// body.
    pub fn leave(&self, head: ReplyHead) {
        let mut heads = self.heads.lock();
        if head.status != StatusCode::CONTINUE && heads.len() < MOST {
            heads.push(head);
            self.has_some.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Whether any wait; the task is woken when one comes.
    pub fn poll_some(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.has_some()
    }

    /// Whether any of them waits.
    pub fn has_some(&self) -> bool {
        self.has_some.load(Ordering::Acquire)
    }

    /// Takes those that wait, in their order.
    pub fn take(&self) -> Vec<ReplyHead> {
        if !self.has_some.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        mem::take(&mut self.heads.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_wait_and_the_rest_is_dropped() {
        let interims = Interims::default();
        interims.leave(ReplyHead::of(StatusCode::CONTINUE));
        assert!(!interims.has_some() && interims.take().is_empty());
        for _ in 0..20 {
            interims.leave(ReplyHead::of(StatusCode::EARLY_HINTS));
        }
        assert_eq!((interims.has_some(), interims.take().len(), interims.has_some()), (true, MOST, false));
    }
}
