//! A pool of worker processes: checkout, session state, restarts, drain and stop.

mod health;
mod lease;
mod serve;
mod show;
mod start;
mod supervise;
mod tend;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, Semaphore},
    time::timeout_at,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{serve::Trouble, tend::Ledger};
pub use self::{
    serve::{BreakerView, Tried},
    show::{ChangeView, PastWorker, PoolView, WorkerView},
    tend::SizeChange,
};
use super::{
    breaker::Backing,
    checkout::{Broken, Checkout, Shape},
    journal::Journal,
    process::Worker,
    restarts::{ALONE_BACKOFF, MAX_BACKOFF, Restarts},
    spawner::Spawner,
    spec::PoolSpec,
};
use cutover_model::{
    clock::{self, Mono},
    facts::Members,
    port::Kind,
    request::{Answer, Failure, FailureKind, PoolId},
};
use cutover_policy_host::{PolicyError, ask::PolicyPort, evaluation::EvaluationQueue};

/// Sessions whose worker is remembered. Those beyond that are brought up to date on each call, which is slower.
const MAX_SESSIONS: usize = 100_000;

/// The operation that every worker answers in its own shape.
const HEALTH_CHECK: &str = "health_check";

/// A pool; clones are the same pool.
#[derive(Debug, Clone)]
pub struct WorkerPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: PoolSpec,
    spawner: Spawner,
    journal: Arc<Journal>,
    evaluations: EvaluationQueue,
    checkout: Mutex<Checkout<Worker>>,
    restarts: Mutex<Restarts>,
    /// Process ids by slot.
    pids: Mutex<Vec<Option<u32>>>,
    /// Workers that may be starting at once.
    starting: Arc<Semaphore>,
    /// There is a worker to start; the supervisor alone waits for it.
    vacant: Notify,
    /// A worker is ready, the last call in flight ended, or the pool was opened or closed.
    changed: Notify,
    /// The pool was closed: what is being started is not wanted any more.
    closed: Notify,
    /// Calls in flight are to be given up at once.
    give_up: Notify,
    /// Whether no other pool answers what this one does not.
    alone: AtomicBool,
    /// Notified when `alone` becomes true.
    left_alone: Notify,
    chance: RandomState,
    trouble: Trouble,
    ledger: Ledger,
    last_failure: Mutex<Option<String>>,
    failures: AtomicU32,
    /// Workers that were killed because a call missed its deadline, and of these those that were told in gauges.
    overdue: AtomicU64,
    overdue_told: AtomicU64,
    last_dispatch: AtomicU64,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// One call of a worker.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub operation: &'a str,
    pub arguments: &'a Map<String, Value>,
    /// The session whose state it needs; `None` for the state without a session.
    pub session: Option<&'a Arc<str>>,
    /// When the caller stops waiting.
    pub deadline: Mono,
}

impl WorkerPool {
    /// A pool that is closed and has no workers yet.
    pub fn new(spec: PoolSpec, spawner: Spawner, journal: Arc<Journal>, evaluations: EvaluationQueue) -> Self {
        let slots = spec.size.max + spec.size.max_overflow;
        let spec_is_v1 = spec.id == PoolId::V1;
        let inner = Arc::new(Inner {
            checkout: Mutex::new(Checkout::new(shape(&spec))),
            restarts: Mutex::new(Restarts::new(spec.restarts)),
            pids: Mutex::new(vec![None; slots]),
            starting: Arc::new(Semaphore::new(spec.warm_up.at_once.min(Semaphore::MAX_PERMITS))),
            trouble: Trouble::new(spec.breaker),
            ledger: Ledger::new(slots),
            spec,
            spawner,
            journal,
            evaluations,
            vacant: Notify::new(),
            changed: Notify::new(),
            closed: Notify::new(),
            give_up: Notify::new(),
            // What V2 does not answer, V1 may; behind V1 there is no other pool.
            alone: AtomicBool::new(spec_is_v1),
            left_alone: Notify::new(),
            chance: RandomState::new(),
            last_failure: Mutex::default(),
            failures: AtomicU32::new(0),
            overdue: AtomicU64::new(0),
            overdue_told: AtomicU64::new(0),
            last_dispatch: AtomicU64::new(0),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
        });
        let supervised = Arc::clone(&inner);
        inner.tasks.spawn(supervised.supervise());
        Self(inner)
    }

    /// Lets calls in and starts workers, unless the configuration has left the pool out. Calls wait until the first is ready.
    pub fn open(&self) {
        if self.0.spec.is_absent {
            return;
        }
        self.0.checkout.lock().open();
        self.0.vacant.notify_one();
        self.0.changed.notify_waiters();
    }

    /// Whether it lets calls in.
    pub fn is_open(&self) -> bool {
        self.0.checkout.lock().is_open()
    }

    /// Says whether anybody answers what this pool does not. A pool that stands alone is never given up: its breakers let a
    /// trickle through, and its workers are restarted whatever the budget says.
    pub fn stand(&self, backing: Backing) {
        let alone = backing == Backing::Alone;
        if !self.0.alone.swap(alone, Ordering::AcqRel) && alone {
            self.0.left_alone.notify_waiters();
        }
    }

    /// Workers that were killed because a call missed its deadline, since the host began.
    pub fn deadline_kills(&self) -> u64 {
        self.0.overdue.load(Ordering::Relaxed)
    }

    /// Waits until every worker is ready.
    ///
    /// # Errors
    /// How many are, and why the last start failed.
    pub async fn ready_by(&self, deadline: Mono) -> Result<(), Failure> {
        loop {
            let changed = self.0.changed.notified();
            let (ready, wanted, open) = {
                let checkout = self.0.checkout.lock();
                (checkout.ready(), checkout.shape().wanted, checkout.is_open())
            };
            if ready >= wanted {
                return Ok(());
            }
            if !open || timeout_at(deadline.timer(), changed).await.is_err() {
                let why = self.0.last_failure.lock().clone().unwrap_or_else(|| "they are still starting".into());
                let label = &self.0.spec.label;
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
        self.0.make(call, &mut Duration::default()).await
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
        self.0.closed.notify_waiters();
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
        let free = self.0.checkout.lock().end_free(clock::mono());
        if !kill {
            let patience = self.0.spec.stop;
            let stopping: Vec<_> = free.into_iter().map(|worker| self.0.tasks.spawn(worker.stop(patience))).collect();
            for stopped in stopping {
                if let Err(error) = stopped.await {
                    tracing::error!(%error, "stopping a worker failed");
                }
            }
        }
        {
            let (mut checkout, size) = (self.0.checkout.lock(), self.0.spec.size);
            checkout.forget_homes();
            // What the optimizer had learned was about other traffic.
            checkout.resize(size.min, size.overflow, clock::mono());
        }
        self.0.ledger.forget();
    }

    /// Closes, drains, stops and waits for everything that the pool started.
    pub async fn shut_down(&self) {
        self.close();
        let left = self.drain().await;
        self.stop_workers(left > 0).await;
        self.0.shutdown.cancel();
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
        let (wanted, ready, queued) = {
            let checkout = self.0.checkout.lock();
            (checkout.shape().wanted, checkout.ready(), checkout.waiting())
        };
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let wanted = if self.0.spec.is_absent { 0 } else { wanted };
        Members {
            wanted: small(wanted),
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
            !checkout.is_open() || checkout.ready() >= checkout.shape().wanted
        };
        if whole {
            return None;
        }
        let why = self.0.last_failure.lock().clone();
        if !self.0.restarts.lock().is_spent(clock::mono()) {
            return why;
        }
        let label = &self.0.spec.label;
        let each = self.0.longest_backoff();
        let spent = format!("{label} has spent its restarts and tries once each {each:?}");
        Some(why.map_or_else(|| spent.clone(), |why| format!("{spent}: {why}")))
    }

    /// The policy that translates its calls; `None` without an adapter or for V1.
    pub fn adapter(&self) -> Option<Arc<dyn PolicyPort>> {
        let of_v2 = self.0.spec.id == PoolId::V2;
        of_v2.then(|| self.0.evaluations.slots().get(Kind::Adapter).active()).flatten()
    }

    /// Counts a failure of the policy that translates its calls.
    pub fn adapter_failed(&self, adapter: &Arc<dyn PolicyPort>, error: &PolicyError) {
        self.0.evaluations.failed(Kind::Adapter, Some(adapter), error);
    }

    /// Process ids of the workers that run.
    pub fn pids(&self) -> Vec<u32> {
        self.0.pids.lock().iter().flatten().copied().collect()
    }

    /// What the pool is made of.
    pub fn spec(&self) -> &PoolSpec {
        &self.0.spec
    }
}

impl Inner {
    /// Makes a call and says how long it `waited` for a worker.
    pub(super) async fn make(self: &Arc<Self>, call: Call<'_>, waited: &mut Duration) -> Result<Answer, Failure> {
        let asked = clock::mono();
        let lease = self.lease(call.session, call.deadline).await;
        *waited = clock::mono().since(asked);
        let mut lease = lease?;
        let asked = async {
            lease.catch_up(call).await?;
            self.last_dispatch.fetch_max(clock::mono().nanos(), Ordering::AcqRel);
            lease.call(call).await
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            () = self.give_up.notified() => {
                Err(Failure::sent(FailureKind::System, format!("{} was stopped", self.spec.label)))
            }
        }
    }

    /// Whether another pool answers what this one does not.
    pub(super) fn backing(&self) -> Backing {
        if self.alone.load(Ordering::Acquire) { Backing::Alone } else { Backing::Other }
    }

    /// How long it takes between two attempts to start a worker when the budget is spent.
    pub(super) fn longest_backoff(&self) -> Duration {
        match self.backing() {
            Backing::Alone => ALONE_BACKOFF,
            Backing::Other => MAX_BACKOFF,
        }
    }

    /// Takes a worker back, and ends it if it is not wanted any more.
    fn hand_in(&self, slot: usize, number: u64, worker: Worker) {
        let surplus = self.checkout.lock().hand_in(slot, number, worker, clock::mono());
        if let Some(worker) = surplus {
            self.end(worker);
        }
        self.changed.notify_waiters();
    }

    /// Never uses a worker again.
    fn give_up_worker(&self, slot: usize, number: u64, worker: Option<Worker>, why: Broken) {
        let (Broken::Overdue(said) | Broken::Failed(said)) = &why;
        tracing::warn!(pool = self.spec.label, slot, "replacing a worker: {said}");
        let is_overdue = matches!(why, Broken::Overdue(_));
        let (was_up, open) = {
            let mut checkout = self.checkout.lock();
            (checkout.give_up_worker(slot, number, why, clock::mono()), checkout.is_open())
        };
        // A pool that was closed kills what is left in it; that says nothing about its workers.
        if was_up && open {
            self.failures.fetch_add(1, Ordering::AcqRel);
            self.overdue.fetch_add(u64::from(is_overdue), Ordering::Relaxed);
        }
        // Kills it; the task that waits for its end sees that.
        drop(worker);
        self.changed.notify_waiters();
    }

    /// Ends a worker that is well: asks it, then kills it.
    fn end(&self, worker: Worker) {
        self.tasks.spawn(worker.stop(self.spec.stop));
    }

    fn chance(&self) -> u64 {
        self.chance.hash_one(clock::mono().nanos())
    }
}

fn shape(spec: &PoolSpec) -> Shape {
    Shape {
        wanted: spec.size.min,
        regular: spec.size.max,
        overflow: spec.size.overflow,
        max_overflow: spec.size.max_overflow,
        lanes: spec.lanes(),
        max_waiting: spec.queue.most,
        order: spec.queue.order,
        max_sessions: MAX_SESSIONS,
    }
}

/// Resident memory of a process (proc(5), `statm`, second field, in pages).
fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
