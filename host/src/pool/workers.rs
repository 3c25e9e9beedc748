//! A pool of worker processes: checkout, session state, restarts, drain and stop.

mod lease;
mod supervise;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::{sync::Notify, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    checkout::Checkout,
    journal::Journal,
    process::{Worker, WorkerCommand},
    spawner::Spawner,
};
use crate::{
    clock::{self, Mono},
    policy::{facts::Members, trial::Trials},
    request::{Answer, Failure, FailureKind, PoolId},
};

/// Sessions whose worker is remembered. Beyond that a session is brought up to date on each call, which is slower.
const MAX_AFFINITIES: usize = 100_000;

/// The operation that every worker answers in its own shape.
const HEALTH_CHECK: &str = "health_check";

/// A worker that ran this long was healthy: its successor starts at once.
const PROVEN: Duration = Duration::from_secs(10);

/// The longest wait between two attempts to start a worker.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How many calls a pool serves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One at a time, however many workers: every operation goes through one owner.
    Serialized,
    /// One for each worker.
    Concurrent,
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Whose pool it is, for logs: `programs/v2`.
    pub label: String,
    /// Which of the two.
    pub id: PoolId,
    /// How many calls it serves at once.
    pub mode: Mode,
    /// How many workers.
    pub workers: usize,
    /// How to start one.
    pub command: WorkerCommand,
    /// Calls that may wait for a worker.
    pub max_waiting: usize,
    /// How often idle workers are asked how they are.
    pub health_interval: Duration,
    /// Failed health checks in a row until a worker is replaced.
    pub health_failures: u32,
    /// How long calls in flight may take when the pool is drained.
    pub drain_timeout: Duration,
}

/// A pool; clones are the same pool.
#[derive(Debug, Clone)]
pub struct WorkerPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: PoolSpec,
    spawner: Spawner,
    journal: Arc<Journal>,
    trials: Trials,
    checkout: Mutex<Checkout<Worker>>,
    /// A slot is down, or the last call in flight ended, or the pool was opened or closed.
    changed: Notify,
    /// Calls in flight are to be given up at once.
    give_up: Notify,
    affinities: DashMap<Arc<str>, Affinity>,
    starts: Mutex<Vec<Starts>>,
    /// How much of the state without a session each slot's worker knows: generation and version.
    shared: Mutex<Vec<(u64, u64)>>,
    last_failure: Mutex<Option<String>>,
    failures: AtomicU32,
    last_dispatch: AtomicU64,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// Where a session's state is, and how much of it.
#[derive(Debug, Clone, Copy)]
struct Affinity {
    slot: usize,
    generation: u64,
    applied: u64,
}

/// A slot's history, for backing off and for health.
#[derive(Debug, Clone, Copy, Default)]
struct Starts {
    pid: Option<u32>,
    started: Mono,
    attempts: u32,
    unhealthy: u32,
}

/// One call of a worker.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The operation.
    pub operation: &'a str,
    /// Its arguments.
    pub arguments: &'a Map<String, Value>,
    /// The session whose state it needs.
    pub session: Option<&'a Arc<str>>,
    /// When the caller stops waiting.
    pub deadline: Mono,
}

impl WorkerPool {
    /// A pool that is closed and has no workers yet.
    pub fn new(spec: PoolSpec, spawner: Spawner, journal: Arc<Journal>, trials: Trials) -> Self {
        let lanes = match spec.mode {
            Mode::Serialized => 1,
            Mode::Concurrent => spec.workers,
        };
        let inner = Arc::new(Inner {
            checkout: Mutex::new(Checkout::new(spec.workers, lanes, spec.max_waiting)),
            starts: Mutex::new(vec![Starts::default(); spec.workers]),
            shared: Mutex::new(vec![(0, 0); spec.workers]),
            spec,
            spawner,
            journal,
            trials,
            changed: Notify::new(),
            give_up: Notify::new(),
            affinities: DashMap::new(),
            last_failure: Mutex::default(),
            failures: AtomicU32::new(0),
            last_dispatch: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        let supervised = Arc::clone(&inner);
        inner.tasks.spawn(supervised.supervise());
        Self(inner)
    }

    /// Lets calls in and starts workers. Calls wait until the first is ready.
    pub fn open(&self) {
        self.0.checkout.lock().open();
        self.0.changed.notify_waiters();
    }

    /// Whether it lets calls in.
    pub fn is_open(&self) -> bool {
        self.0.checkout.lock().is_open()
    }

    /// Waits until every worker is ready.
    ///
    /// # Errors
    /// How many are, and why the last start failed.
    pub async fn ready_by(&self, deadline: Mono) -> Result<(), Failure> {
        loop {
            let changed = self.0.changed.notified();
            let (ready, open) = {
                let checkout = self.0.checkout.lock();
                (checkout.ready(), checkout.is_open())
            };
            if ready >= self.0.spec.workers {
                return Ok(());
            }
            if !open || timeout_at(deadline.timer(), changed).await.is_err() {
                let why = self.0.last_failure.lock().clone().unwrap_or_else(|| "they are still starting".into());
                let (label, wanted) = (&self.0.spec.label, self.0.spec.workers);
                let message = format!("{label} has {ready} of {wanted} workers: {why}");
                return Err(Failure::unsent(FailureKind::Initialization, message));
            }
        }
    }

    /// Makes a call: waits for the session's worker or any, brings it up to the session's latest state, asks.
    ///
    /// # Errors
    /// By cause; `sent` says whether a worker may have seen the call.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let mut lease = self.0.lease(call.session, call.deadline).await?;
        let asked = async {
            lease.catch_up(call).await?;
            self.0.last_dispatch.fetch_max(clock::mono().nanos(), Ordering::AcqRel);
            lease.call(call).await
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.0.give_up.notified() => {
                Err(Failure::sent(FailureKind::System, format!("{} was stopped", self.0.spec.label)))
            }
        }
    }

    /// Brings the session's worker up to date without asking it anything.
    ///
    /// # Errors
    /// By cause.
    pub async fn sync(&self, session: &Arc<str>, deadline: Mono) -> Result<(), Failure> {
        let nothing = Map::new();
        let call = Call { operation: "", arguments: &nothing, session: Some(session), deadline };
        self.0.lease(Some(session), deadline).await?.catch_up(call).await
    }

    /// When a call was last sent to a worker.
    pub fn last_dispatch(&self) -> Mono {
        Mono::from_nanos(self.0.last_dispatch.load(Ordering::Acquire))
    }

    /// Lets no call in any more, at once; those that wait are turned away unsent.
    pub fn close(&self) {
        self.0.checkout.lock().close();
        self.0.changed.notify_waiters();
    }

    /// Waits for calls in flight, at most as long as the pool's drain timeout. Returns those that are left.
    pub async fn drain(&self) -> usize {
        let deadline = clock::mono() + self.0.spec.drain_timeout;
        loop {
            let changed = self.0.changed.notified();
            let busy = self.0.checkout.lock().busy();
            if busy == 0 || timeout_at(deadline.timer(), changed).await.is_err() {
                return busy;
            }
        }
    }

    /// Stops all workers of a closed pool: those that are idle are asked to end, or killed; one that is in the middle of
    /// a call is killed when that call ends or is given up.
    pub async fn stop_workers(&self, kill: bool) {
        if kill {
            self.0.give_up.notify_waiters();
        }
        let idle = self.0.checkout.lock().take_idle();
        if !kill {
            let stopping: Vec<_> = idle.into_iter().map(|worker| self.0.tasks.spawn(worker.stop())).collect();
            for stopped in stopping {
                if let Err(error) = stopped.await {
                    tracing::error!(%error, "stopping a worker failed");
                }
            }
        }
        self.0.starts.lock().iter_mut().for_each(|s| *s = Starts::default());
        self.0.affinities.clear();
    }

    /// Closes, drains, stops and waits for everything that the pool started.
    pub async fn shut_down(&self) {
        self.close();
        let left = self.drain().await;
        self.stop_workers(left > 0).await;
        self.0.shutdown.cancel();
        self.0.changed.notify_waiters();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Whether at least one worker can take or has a call.
    pub fn is_ready(&self) -> bool {
        self.0.checkout.lock().ready() > 0
    }

    /// The pool's members, with those that failed since the last time that this was asked.
    pub fn members(&self) -> Members {
        let failures = self.0.failures.swap(0, Ordering::AcqRel);
        Members { failures, ..self.members_now() }
    }

    /// The pool's members, leaving the count of failures alone.
    pub fn members_now(&self) -> Members {
        let (ready, queued) = {
            let checkout = self.0.checkout.lock();
            (checkout.ready(), checkout.waiting())
        };
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Members {
            wanted: small(self.0.spec.workers),
            ready: small(ready),
            failures: 0,
            queued: small(queued),
            rss_bytes: self.pids().into_iter().filter_map(resident_bytes).sum(),
        }
    }

    /// Why a worker did not start the last time, while the pool is not whole.
    pub fn why_not_whole(&self) -> Option<String> {
        let whole = {
            let checkout = self.0.checkout.lock();
            !checkout.is_open() || checkout.ready() >= self.0.spec.workers
        };
        if whole { None } else { self.0.last_failure.lock().clone() }
    }

    /// Process ids of the workers that run.
    pub fn pids(&self) -> Vec<u32> {
        self.0.starts.lock().iter().filter_map(|s| s.pid).collect()
    }

    /// What the pool is made of.
    pub fn spec(&self) -> &PoolSpec {
        &self.0.spec
    }
}

impl Inner {
    fn hand_in(&self, slot: usize, worker: Option<Worker>) {
        let gone = worker.is_none();
        if gone {
            self.failures.fetch_add(1, Ordering::AcqRel);
            if let Some(starts) = self.starts.lock().get_mut(slot) {
                starts.pid = None;
            }
        }
        let surplus = {
            let mut checkout = self.checkout.lock();
            checkout.hand_in(slot, worker);
            // A closed pool keeps no workers beyond their last call.
            if checkout.is_open() { Vec::new() } else { checkout.take_idle() }
        };
        drop(surplus);
        self.changed.notify_waiters();
    }
}

/// Resident memory of a process (proc(5), `statm`, second field, in pages).
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
