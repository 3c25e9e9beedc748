//! Connections that wait for their next request, apart for each thread that serves requests.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{Inner, connection::Sender};
use crate::clock::{self, Mono};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// How often connections that waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Says which of the serving threads this is, from 1 on. All other threads share lane 0.
pub fn enter(lane: usize) {
    HERE.set(lane);
}

/// What belongs to this thread.
pub(super) fn of<T>(lanes: &[T]) -> Option<&T> {
    lanes.get(HERE.get()).or_else(|| lanes.first())
}

/// What one thread keeps of a pool. Aligned, so that threads do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Lane {
    /// For each member.
    idle: Vec<Mutex<Vec<Idle>>>,
    last_dispatch: AtomicU64,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Mono,
}

impl Lane {
    pub(super) fn new(members: usize) -> Self {
        let idle = (0..members).map(|_| Mutex::default()).collect();
        Self { idle, last_dispatch: AtomicU64::new(0) }
    }

    pub(super) fn last_dispatch(&self) -> Mono {
        Mono::from_nanos(self.last_dispatch.load(Ordering::Acquire))
    }

    /// Closes all of its connections that wait.
    pub(super) fn clear(&self) {
        for idle in &self.idle {
            drop(std::mem::take(&mut *idle.lock()));
        }
    }

    fn sweep(&self, before: Mono) {
        for idle in &self.idle {
            let mut idle = idle.lock();
            let fresh = idle.iter_mut().position(|i| i.since >= before && !i.sender.is_closed());
            let fresh = fresh.unwrap_or(idle.len());
            let gone: Vec<_> = idle.drain(..fresh).collect();
            drop(idle);
            drop(gone);
        }
    }
}

impl Inner {
    fn lane(&self) -> Option<&Lane> {
        of(&self.lanes)
    }

    /// A request is about to be sent.
    pub(super) fn dispatched(&self, now: Mono) {
        if let Some(lane) = self.lane() {
            lane.last_dispatch.fetch_max(now.nanos(), Ordering::AcqRel);
        }
    }

    /// The connection to a member that was used last, if one waits here.
    pub(super) fn reuse(&self, member: usize) -> Option<Sender> {
        let idle = self.lane()?.idle.get(member)?;
        loop {
            let Idle { mut sender, .. } = idle.lock().pop()?;
            if !sender.is_closed() {
                // One connection of HTTP/2 has room for more than one request.
                if let Some(shared) = sender.share() {
                    idle.lock().push(Idle { sender: shared, since: clock::mono() });
                }
                return Some(sender);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, member: usize, mut sender: Sender, since: Mono) {
        let Some(idle) = self.lane().and_then(|lane| lane.idle.get(member)) else { return };
        if let Sender::Wire(wire) = &mut sender {
            wire.rest();
        }
        idle.lock().push(Idle { sender, since });
    }
}

/// Closes connections that have waited longer than the pool's idle timeout.
pub(super) async fn keep_idle_short(pool: Arc<Inner>) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = pool.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let now = clock::mono();
        let before = Mono::from_nanos(
            now.nanos().saturating_sub(u64::try_from(pool.spec.idle_timeout.as_nanos()).unwrap_or(u64::MAX)),
        );
        pool.lanes.iter().for_each(|lane| lane.sweep(before));
        pool.cuts.lock().retain(|cut| cut.strong_count() > 0);
    }
}
