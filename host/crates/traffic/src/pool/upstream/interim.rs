//! Interim answers on their way to a caller: early hints, and that an answer takes long (RFC 9110, 15.2; RFC 8297).
//!
//! Whoever reads an answer leaves them here, and whoever waits for it passes them on. What is not passed on is lost, which is
//! allowed: they promise nothing.

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

/// See the module.
#[derive(Debug, Default)]
pub struct Interims {
    has_some: AtomicBool,
    heads: Mutex<Vec<ReplyHead>>,
    waker: AtomicWaker,
}

impl Interims {
    /// One came. That a body is wanted is for whoever has it.
    pub fn leave(&self, head: ReplyHead) {
        let mut heads = self.heads.lock();
        if head.status != StatusCode::CONTINUE && heads.len() < MOST {
            heads.push(head);
            self.has_some.store(true, Ordering::Release);
            self.waker.wake();
        }
    }

    /// Whether any wait; whoever asks is woken when one comes.
    pub fn poll_some(&self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.has_some()
    }

    /// Whether any wait.
    pub fn has_some(&self) -> bool {
        self.has_some.load(Ordering::Acquire)
    }

    /// Those that wait.
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
