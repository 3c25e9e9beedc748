//! Work that may take any time, on threads of its own: reading what strangers laid out, admitting what they wrote.
//!
//! A disk that hangs holds whoever reads from it, and nothing can end that. So such work runs neither on the threads of
//! the runtime, which orders and judges need, nor on those that it keeps for questions to policies. There are few threads of
//! each sort; who comes when all are taken waits for a while and is refused then. Who has waited for an answer as long as
//! is sensible is told so, and the thread stays behind: it counts until it ends, so that there are never more of them.

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

/// Those who may wait for a thread; each holds what it wants done.
const MAX_WAITING: usize = 256;

/// Threads for one sort of work.
#[derive(Debug, Clone)]
pub struct Blocking(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What is done there, as messages say it.
    what: &'static str,
    threads: usize,
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// How long one may wait for a thread.
    turn: Duration,
    /// How long one may wait for the work.
    limit: Duration,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// All threads are taken.
    #[error("the host is busy {what}: all {threads} of its threads for that are taken; try again later")]
    Busy {
        /// What the host is busy with, as a phrase of the message.
        what: &'static str,
        /// How many there are.
        threads: usize,
    },
    /// It took too long, and may still go on.
    #[error("{what} took longer than {limit:?}; is it on a disk that hangs?")]
    Late {
        /// What was to be done, as a phrase of the message.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// It did not come to its end.
    #[error("{what} broke off: {why}")]
    Failed {
        /// What was to be done, as a phrase of the message.
        what: &'static str,
        /// What the panic or the system said.
        why: String,
    },
}

impl Blocking {
    /// Threads for some work.
    pub fn new(what: &'static str, threads: usize, turn: Duration, limit: Duration) -> Self {
        let (free, waiting) = (Arc::new(Semaphore::new(threads)), AtomicUsize::new(0));
        Self(Arc::new(Inner { what, threads, free, waiting, turn, limit }))
    }

    /// How many wait for a thread.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    /// Does something on a thread of its own. If nobody waits for it any more, it goes on all the same.
    ///
    /// # Errors
    /// Why there is no result.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, BlockingError> {
        let Inner { what, threads, free, turn, limit, .. } = &*self.0;
        let busy = || BlockingError::Busy { what, threads: *threads };
        let place = match Arc::clone(free).try_acquire_owned() {
            Ok(place) => place,
            Err(_taken) => {
                let _waits = Waits::with(&self.0).ok_or_else(busy)?;
                let acquired = timeout(*turn, Arc::clone(free).acquire_owned()).await;
                acquired.ok().and_then(Result::ok).ok_or_else(busy)?
            }
        };
        let (done, result) = oneshot::channel();
        let failed = |why: &dyn fmt::Display| BlockingError::Failed { what, why: why.to_string() };
        let started: io::Result<_> = thread::Builder::new().name("cutover-blocking".into()).spawn(move || {
            let _place = place;
            // Who asked may have gone.
            drop(done.send(work()));
        });
        started.map_err(|e| failed(&e))?;
        match timeout(*limit, result).await {
            Ok(result) => result.map_err(|_panicked| failed(&"it panicked")),
            Err(_elapsed) => Err(BlockingError::Late { what, limit: *limit }),
        }
    }
}

/// One of those who wait.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn with(inner: &'a Inner) -> Option<Self> {
        let one_more = |waiting: usize| (waiting < MAX_WAITING).then_some(waiting + 1);
        let waiting = &inner.waiting;
        waiting.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok().then(|| Self(waiting))
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn work_that_hangs_keeps_its_thread_and_those_after_it_are_refused() {
        let blocking = Blocking::new("reading", 2, SOON, SOON);
        let (release, hang) = mpsc::channel::<()>();
        let hang = Arc::new(parking_lot::Mutex::new(hang));
        for _ in 0..2 {
            let hang = Arc::clone(&hang);
            let late = blocking.run(move || hang.lock().recv().is_ok()).await;
            assert_eq!(late, Err(BlockingError::Late { what: "reading", limit: SOON }));
        }
        assert_eq!(blocking.run(|| 1).await, Err(BlockingError::Busy { what: "reading", threads: 2 }));
        drop(release);
        while blocking.run(|| 1).await != Ok(1) {}
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_gives_its_thread_back() {
        let blocking = Blocking::new("reading", 1, SOON, Duration::from_secs(10));
        let failed = blocking.run(|| assert_eq!(1, 2, "on purpose")).await;
        assert!(matches!(failed, Err(BlockingError::Failed { .. })), "{failed:?}");
        while blocking.run(|| 1).await != Ok(1) {}
    }

    #[tokio::test]
    async fn more_than_may_wait_are_refused_at_once() {
        let blocking = Blocking::new("reading", 1, Duration::from_secs(10), Duration::from_secs(10));
        let held: Vec<_> = std::iter::from_fn(|| Waits::with(&blocking.0)).collect();
        assert_eq!(held.len(), MAX_WAITING);
        let (release, hang) = mpsc::channel::<()>();
        let first = blocking.run(move || hang.recv().is_ok());
        let second = async {
            let refused = blocking.run(|| 1).await.map(|_| false);
            drop(release);
            refused
        };
        let (first, second) = tokio::join!(first, second);
        assert_eq!((first, second), (Ok(false), Err(BlockingError::Busy { what: "reading", threads: 1 })));
    }
}
