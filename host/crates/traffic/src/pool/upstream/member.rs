//! One upstream of a pool: its address, its places, and what is known of its health.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use super::{
    address::Address,
    balance::{self, Latency},
    reach::Reach,
    resolve::Places,
};
use crate::pool::upstream::outlier::{Checks, Ejection, MemberHealth};
use cutover_model::clock::Mono;

/// Counts one that waits, however the waiting ends.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a member shows of itself.
#[derive(Debug, Serialize)]
pub struct MemberView {
    /// Its URL, or `unix:` and the path of its socket.
    pub address: String,
    /// Whether it is sent requests.
    pub usable: bool,
    /// Requests and streams that it has.
    pub in_flight: usize,
    /// Its moving average of the time to the first byte, in microseconds; `None` before it answered.
    pub latency_us: Option<u64>,
    /// The last that was wrong with it, if it is not usable.
    pub why: Option<String>,
}

/// What the pool knows of one upstream; all threads share it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) address: Address,
    in_flight: AtomicUsize,
    /// Requests that it is sent at once.
    most: usize,
    /// Requests that wait for another one to end; later requests wait behind them.
    waiting: AtomicUsize,
    freed: Notify,
    latency: Latency,
    standing: Mutex<MemberHealth>,
    /// What the standing says, for those who look at each request.
    down: AtomicBool,
    out_until: AtomicU64,
    /// Whether its last answer was a failure: then the next success has something to forgive.
    troubled: AtomicBool,
    failures: AtomicU32,
    why: Mutex<String>,
    pub(super) reach: Reach,
    pub(super) places: Places,
}

impl Member {
    pub(super) fn new(address: Address, most: usize, unseen: bool) -> Self {
        let standing = if unseen { MemberHealth::unseen() } else { MemberHealth::default() };
        Self {
            places: Places::of(&address),
            address,
            in_flight: AtomicUsize::new(0),
            most,
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            latency: Latency::default(),
            standing: Mutex::new(standing),
            down: AtomicBool::new(standing.is_down()),
            out_until: AtomicU64::new(0),
            troubled: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            why: Mutex::new("was not reached yet".into()),
            reach: Reach::default(),
        }
    }

    /// It was replaced by another: nothing that is known of it counts any more.
    pub(super) fn forget(&self, is_checked: bool) {
        let mut standing = self.standing.lock();
        *standing = if is_checked { MemberHealth::unseen() } else { MemberHealth::default() };
        self.down.store(standing.is_down(), Ordering::Relaxed);
        self.out_until.store(0, Ordering::Relaxed);
        drop(standing);
        "was not reached yet since it was replaced".clone_into(&mut self.why.lock());
    }

    pub(super) fn is_usable(&self, now: Mono) -> bool {
        !self.down.load(Ordering::Relaxed) && self.out_until.load(Ordering::Relaxed) <= now.nanos()
    }

    /// Whether the member can be reached, whatever its answers are.
    pub(super) fn is_there(&self) -> bool {
        !self.down.load(Ordering::Relaxed) && !self.reach.is_lost()
    }

    /// No connection could be made.
    pub(super) fn miss(&self, why: &str) {
        if self.reach.miss() {
            why.clone_into(&mut self.why.lock());
        }
    }

    /// Takes a place, if one is free and no request waits for it.
    pub(super) fn enter(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0 && self.try_enter()
    }

    fn try_enter(&self) -> bool {
        let more = |in_flight: usize| (in_flight < self.most).then(|| in_flight + 1);
        self.in_flight.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// Takes a place once one is free.
    pub(super) async fn enter_in_turn(&self) {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if self.try_enter() {
                return;
            }
            freed.await;
        }
    }

    /// Frees a place, and wakes a request that waits for one.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        // A request that waits has said so before it looked: one of the two sees the other.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_one();
        }
    }

    /// Requests that it has.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Places that are free.
    pub(super) fn free(&self) -> usize {
        self.most.saturating_sub(self.in_flight.load(Ordering::Relaxed))
    }

    /// What one more request costs.
    pub(super) fn cost(&self, now: Mono) -> u64 {
        balance::cost(self.in_flight.load(Ordering::Relaxed), self.latency.average_ns(now))
    }

    /// It answered after this time.
    pub(super) fn answered(&self, took: Duration, now: Mono) {
        self.latency.add(took, now);
        self.reach.meet(now);
    }

    pub(super) fn succeeded(&self) {
        if self.troubled.load(Ordering::Relaxed) {
            self.troubled.store(false, Ordering::Relaxed);
            self.standing.lock().succeeded();
        }
    }

    /// True if it is ejected now.
    pub(super) fn failed(&self, rule: Ejection, may_go: bool, why: &str, now: Mono) -> bool {
        self.troubled.store(true, Ordering::Relaxed);
        let mut standing = self.standing.lock();
        let ejected = standing.failed(rule, may_go, now);
        self.out_until.store(standing.out_until().nanos(), Ordering::Relaxed);
        drop(standing);
        why.clone_into(&mut self.why.lock());
        if ejected {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        ejected
    }

    /// What an active check said. True if that changed whether it is down.
    pub(super) fn checked(&self, rule: Checks, result: Result<(), String>) -> bool {
        let mut standing = self.standing.lock();
        let changed = standing.checked(rule, result.is_ok());
        let down = standing.is_down();
        self.down.store(down, Ordering::Relaxed);
        drop(standing);
        if changed && down {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(why) = result {
            *self.why.lock() = why;
        }
        changed
    }

    /// How often it went down or was ejected since the last time that this was asked.
    pub(super) fn take_failures(&self) -> u32 {
        self.failures.swap(0, Ordering::Relaxed)
    }

    pub(super) fn view(&self, now: Mono) -> MemberView {
        let usable = self.is_usable(now);
        MemberView {
            address: self.address.to_string(),
            usable,
            in_flight: self.in_flight(),
            latency_us: self.latency.average_ns(now).map(|ns| ns / 1_000),
            why: (!usable).then(|| self.why.lock().clone()),
        }
    }

    pub(super) fn why_out(&self) -> String {
        format!("{}: {}", self.address, self.why.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn places_are_never_overdrawn_and_everybody_has_a_turn() {
        let member = std::sync::Arc::new(Member::new(Address::parse("http://a:1").unwrap(), 3, false));
        let most = std::sync::Arc::new(AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200 {
            let (member, most) = (std::sync::Arc::clone(&member), std::sync::Arc::clone(&most));
            tasks.spawn(async move {
                if !member.enter() {
                    member.enter_in_turn().await;
                }
                most.fetch_max(member.in_flight(), Ordering::SeqCst);
                for _ in 0..n % 7 {
                    tokio::task::yield_now().await;
                }
                member.leave();
            });
        }
        tokio::time::timeout(Duration::from_secs(30), tasks.join_all()).await.expect("nobody waits for ever");
        assert_eq!((most.load(Ordering::SeqCst), member.in_flight()), (3, 0));
    }

    #[tokio::test]
    async fn who_comes_later_waits_behind_those_who_wait() {
        let member = Member::new(Address::parse("http://a:1").unwrap(), 1, false);
        assert!(member.enter() && !member.enter());
        let mut waits = std::pin::pin!(member.enter_in_turn());
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        member.leave();
        assert!(!member.enter(), "the place is not free for others");
        waits.await;
        member.leave();
        assert!(member.enter());
    }
}
