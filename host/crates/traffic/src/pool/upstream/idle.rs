//! Connections that wait for their next request, apart for each thread that serves requests.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{Inner, connection::Sender, member::Member};
use crate::{descriptors, proxy_protocol::Ends};
use cutover_model::clock::{self, Mono};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// How often connections that waited too long are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// Connections to a member that wait if each is one caller's: few of those who sent a request will send another.
const OWN: usize = 64;

/// Says which of the serving threads this is, from 1 on. All other threads share lane 0.
pub fn enter(lane: usize) {
    HERE.set(lane);
}

/// The lane of this thread, or the one that all other threads share.
pub(super) fn of<T>(lanes: &[T]) -> Option<&T> {
    lanes.get(HERE.get()).or_else(|| lanes.first())
}

/// What one thread keeps of a pool. Aligned, so that threads do not share a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct IdlePool {
    /// At the index of their member.
    idle: Vec<Mutex<Vec<Idle>>>,
    last_dispatch: AtomicU64,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Mono,
}

impl IdlePool {
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

    fn sweep(&self, members: &[Member], before: Mono, now: Mono) {
        for (idle, member) in self.idle.iter().zip(members) {
            let mut idle = idle.lock();
            let is_fresh = |i: &mut Idle| {
                i.since >= before && member.places.keeps(i.sender.origin(), now) && !i.sender.is_closed()
            };
            let all = std::mem::take(&mut *idle);
            let (fresh, gone): (Vec<_>, Vec<_>) =
                all.into_iter().map(|mut i| (is_fresh(&mut i), i)).partition(|(f, _)| *f);
            idle.extend(fresh.into_iter().map(|(_, i)| i));
            drop(idle);
            drop(gone);
        }
    }

    /// Closes connections to a member that lead where it is no more.
    fn forget_stale(&self, at: usize, member: &Member, now: Mono) {
        let Some(idle) = self.idle.get(at) else { return };
        let mut idle = idle.lock();
        let all = std::mem::take(&mut *idle);
        let (stays, goes) = all.into_iter().partition(|i| member.places.keeps(i.sender.origin(), now));
        *idle = stays;
        drop(idle);
        drop::<Vec<Idle>>(goes);
    }
}

impl Inner {
    /// Closes connections that wait and lead where a member is no more; those in use end after what they carry.
    pub(super) fn forget_stale(&self, at: usize) {
        let now = clock::mono();
        if let Some(member) = self.members.get(at) {
            self.lanes.iter().for_each(|lane| lane.forget_stale(at, member, now));
        }
    }

    fn lane(&self) -> Option<&IdlePool> {
        of(&self.lanes)
    }

    /// A request is about to be sent.
    pub(super) fn dispatched(&self, now: Mono) {
        if let Some(lane) = self.lane() {
            lane.last_dispatch.fetch_max(now.nanos(), Ordering::AcqRel);
        }
    }

    /// The connection to a member that was used last, if one waits here; one of the caller's own, if they are not shared.
    pub(super) fn reuse(&self, member: usize, ends: Option<&Ends>, now: Mono) -> Option<Sender> {
        let idle = self.lane()?.idle.get(member)?;
        let places = &self.members.get(member)?.places;
        let is_shared = self.spec.proxy_protocol.is_none();
        loop {
            let Idle { mut sender, .. } =
                if is_shared { idle.lock().pop()? } else { take_own(&mut idle.lock(), ends.map(|ends| ends.source))? };
            if places.keeps(sender.origin(), now) && !sender.is_closed() {
                // One connection of HTTP/2 has room for more than one request.
                if let Some(shared) = sender.share() {
                    idle.lock().push(Idle { sender: shared, since: now });
                }
                return Some(sender);
            }
        }
    }

    /// Keeps a connection for the next request, unless descriptors are short.
    pub(super) fn keep(&self, member: usize, mut sender: Sender, since: Mono) {
        if descriptors::is_short() {
            return;
        }
        let Some(idle) = self.lane().and_then(|lane| lane.idle.get(member)) else { return };
        if !self.members.get(member).is_some_and(|member| member.places.keeps(sender.origin(), since)) {
            return;
        }
        if let Sender::Wire(wire) = &mut sender {
            wire.rest();
        }
        let mut idle = idle.lock();
        let oldest = (self.spec.proxy_protocol.is_some() && idle.len() >= OWN).then(|| idle.remove(0));
        idle.push(Idle { sender, since });
        drop(idle);
        drop(oldest);
    }
}

/// The last of those that wait for a caller's next request.
fn take_own(idle: &mut Vec<Idle>, caller: Option<SocketAddr>) -> Option<Idle> {
    let at = idle.iter().rposition(|idle| idle.sender.origin().caller() == caller)?;
    Some(idle.remove(at))
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
        pool.lanes.iter().for_each(|lane| lane.sweep(&pool.members, before, now));
        pool.cuts.lock().retain(|cut| cut.strong_count() > 0);
    }
}
