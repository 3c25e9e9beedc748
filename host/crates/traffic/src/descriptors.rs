//! How many files and sockets the host may have open.
//!
//! The limit that programs usually start with (1,024) is there for those that use `select`. The host raises its own to
//! what it is allowed, and gives workers the limit that it was started with. Callers get only as many connections as
//! leave descriptors for everything else: the others wait in the kernel's queue, which is better than accepting none at
//! all. Connections to upstreams do not take what the rest needs either, however many requests come over each
//! connection of a caller.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use cutover_model::environment;

/// Descriptors of the host itself: the store, listening sockets, runtimes, policies that are compiled, notices.
const OWN: u64 = 128;

/// Descriptors of a worker: its pipes, and what tells that it has ended.
const OF_WORKER: u64 = 4;

/// Connections that callers may have, however few descriptors there are.
const LEAST: usize = 16;

/// Connections to upstreams are not kept for the next request above this part of those that there may be, in percent.
const KEPT: usize = 90;

/// Connections to upstreams, and how many there may be: of all pools and hosts of this process, as its limit is.
static UPSTREAMS: AtomicUsize = AtomicUsize::new(0);
static MOST_UPSTREAMS: AtomicUsize = AtomicUsize::new(usize::MAX);

/// A descriptor for a connection to an upstream; dropping it gives it back.
#[derive(Debug)]
pub struct OfUpstream(());

static BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the limit to what is allowed, and returns it; none if there is none.
pub fn raise() -> Option<u64> {
    let now = getrlimit(Resource::Nofile);
    BEFORE.get_or_init(|| environment::descriptors().or(now.current));
    match setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }) {
        Ok(()) => now.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            now.current
        }
    }
}

/// The limit that the host was started with, if it has raised it since.
pub fn before() -> Option<u64> {
    BEFORE.get().copied().flatten()
}

/// Sets the limit back, right before this process becomes another program.
///
/// # Errors
/// What the system says.
pub fn lower(to: u64) -> rustix::io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum: now.maximum })
}

/// Descriptors that neither callers nor upstreams get: for the host, as many operators as may come in, and workers.
pub fn reserve(operators: usize, workers: usize) -> u64 {
    OWN + operators as u64 + OF_WORKER * workers as u64
}

/// How many of the connections that callers may have the limit has room for besides what is reserved: each may need one to
/// an upstream, too.
pub fn room(wanted: usize, reserve: u64, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let most = usize::try_from(limit.saturating_sub(reserve) / 2).unwrap_or(usize::MAX);
    wanted.min(most.max(LEAST))
}

/// Sets how many connections to upstreams there may be: as many as the rest leaves.
pub fn leave_to_upstreams(reserve: u64, callers: usize, limit: Option<u64>) {
    let left = limit.map(|limit| limit.saturating_sub(reserve).saturating_sub(callers as u64));
    let most = left.map_or(usize::MAX, |left| usize::try_from(left).unwrap_or(usize::MAX).max(LEAST));
    MOST_UPSTREAMS.store(most, Ordering::Relaxed);
}

/// Takes a descriptor for a connection to an upstream; `None` if all are taken.
pub fn for_upstream() -> Option<OfUpstream> {
    let taken = OfUpstream(());
    let others = UPSTREAMS.fetch_add(1, Ordering::Relaxed);
    (others < MOST_UPSTREAMS.load(Ordering::Relaxed)).then_some(taken)
}

/// Whether there are so many connections to upstreams that those without a request are closed.
pub fn is_short() -> bool {
    UPSTREAMS.load(Ordering::Relaxed) > MOST_UPSTREAMS.load(Ordering::Relaxed).saturating_mul(KEPT) / 100
}

impl Drop for OfUpstream {
    fn drop(&mut self) {
        UPSTREAMS.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_leaves_descriptors_for_the_rest() {
        assert_eq!(room(10_000, 256, None), 10_000);
        assert_eq!(room(10_000, 256, Some(65_536)), 10_000);
        assert_eq!(room(10_000, 256, Some(1_024)), 384);
        assert_eq!(room(10, 256, Some(1_024)), 10);
        assert_eq!(reserve(64, 16), 256, "operators and workers come first");
        assert_eq!(room(10_000, 256, Some(100)), LEAST, "a host that takes nobody is of no use");
    }
}
