//! How many files and sockets the host may have open.
//!
//! The limit that programs usually start with (1,024) is there for those that use `select`; the host raises its own to
//! what it is allowed, and gives workers the one that it was started with. Callers get no more connections than leave
//! descriptors for everything else: the others wait in the kernel's queue, which is better than to accept none at all.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for anything but callers and upstreams: the store, workers' pipes, the admin plane.
const RESERVE: u64 = 256;

/// Connections that callers may have, however few descriptors there are.
const LEAST: usize = 16;

static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit to what is allowed, and returns it; none if there is none.
pub fn raise() -> Option<u64> {
    let before = *BEFORE.get_or_init(|| getrlimit(Resource::Nofile));
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => before.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            before.current
        }
    }
}

/// The limit that the host was started with, if it has raised it since.
pub fn before() -> Option<u64> {
    BEFORE.get().and_then(|before| before.current)
}

/// Sets the limit back for a program that this process becomes.
///
/// # Errors
/// What the system says.
pub fn lower(to: u64) -> rustix::io::Result<()> {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(to), maximum: now.maximum })
}

/// How many of the connections that callers may have the limit has room for: each may need one to an upstream, too.
pub fn room(wanted: usize, limit: Option<u64>) -> usize {
    let Some(limit) = limit else { return wanted };
    let most = usize::try_from(limit.saturating_sub(RESERVE) / 2).unwrap_or(usize::MAX);
    wanted.min(most.max(LEAST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_get_what_leaves_descriptors_for_the_rest() {
        assert_eq!(room(10_000, None), 10_000);
        assert_eq!(room(10_000, Some(65_536)), 10_000);
        assert_eq!(room(10_000, Some(1_024)), 384);
        assert_eq!(room(10, Some(1_024)), 10);
        assert_eq!(room(10_000, Some(100)), LEAST, "a host that takes nobody is of no use");
    }
}
