//! What a pool shows of itself: its workers, what they do, and how they got there.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{BreakerView, SizeChange, WorkerPool, tend::Meters};
use crate::pool::{
    lifecycle::{Lifecycle, WorkerState},
    load::Load,
    resources::Usage,
    spec::Mode,
    trend::Trend,
};
use cutover_model::{
    clock::{self, Mono, UnixMs},
    request::PoolId,
};

/// A pool, for people and scripts.
#[derive(Debug, Clone, Serialize)]
pub struct PoolView {
    /// Whether it is V1's or V2's.
    pub pool: PoolId,
    /// How many calls it serves at once: `serialized` is one, `concurrent` one for each worker.
    pub mode: &'static str,
    /// Whether it lets calls in.
    pub open: bool,
    /// Regular workers that there are to be.
    pub wanted: usize,
    /// The least number of regular workers.
    pub min: usize,
    /// The most regular workers that there may be.
    pub max: usize,
    /// Workers beyond these that may be started while calls wait.
    pub overflow: usize,
    /// How many workers are in each state, by its name.
    pub states: BTreeMap<&'static str, usize>,
    /// What the pool had to do in the last minute.
    pub load: Load,
    /// Calls that wait for a worker now.
    pub waiting: usize,
    /// Calls that may wait.
    pub max_waiting: usize,
    /// Whether dead workers are replaced hardly ever, because too many died.
    pub restarts_spent: bool,
    /// How often they are then.
    pub restart_each_seconds: u64,
    /// Workers that were killed because a call missed its deadline, since the host began. They cost nothing of the budget of
    /// restarts.
    pub deadline_kills: u64,
    /// Resident memory of all workers.
    pub rss_bytes: u64,
    /// Processor time of all workers, in parts per million of one processor.
    pub cpu_ppm: u64,
    /// Growth of a worker's mean resident memory in bytes per hour; none while there are too few samples.
    pub memory_growth: Option<Trend>,
    /// Attempts that failed, by category.
    pub failed_attempts: BTreeMap<&'static str, u64>,
    /// Attempts beyond the first of their calls.
    pub retries: u64,
    /// Circuit breakers of operations that were called.
    pub breakers: Vec<BreakerView>,
    /// Changes of its size by the optimizer, oldest first.
    pub sizes: Vec<SizeChange>,
    /// The workers that run, and the last ones in slots where none does.
    pub workers: Vec<WorkerView>,
    /// The last workers whose places others have taken, oldest first.
    pub past_workers: Vec<PastWorker>,
}

/// A worker that runs, or the last one in its slot.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerView {
    /// Its slot, counted from 0.
    pub slot: usize,
    /// Its number: no other worker of the pool has or had it.
    pub worker: u64,
    /// Its process, while that runs.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// When it came into that state.
    pub since: UnixMs,
    /// Whether it is there only for calls that waited.
    pub overflow: bool,
    /// Sessions that are at home with it.
    pub sessions: usize,
    /// Health checks that it failed in a row.
    pub failed_checks: u32,
    /// How long ago it was started, in milliseconds; until its end, if it has ended.
    pub age_ms: u64,
    /// What its process uses; none before it was sampled.
    pub uses: Option<Used>,
    /// What happened to it, oldest first.
    pub history: Vec<ChangeView>,
    /// Changes in the middle that are not kept.
    pub history_left_out: u64,
}

/// What a worker's process uses.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Used {
    /// Memory, processor time, threads and descriptors.
    #[serde(flatten)]
    pub usage: Usage,
    /// Processor time in the last second, in parts per million of one processor.
    pub cpu_ppm: Option<u32>,
    /// Growth of its resident memory in bytes per hour; none while there are too few samples.
    pub memory_growth: Option<Trend>,
}

/// A worker whose place another has taken.
#[derive(Debug, Clone, Serialize)]
pub struct PastWorker {
    /// The slot that it had, counted from 0.
    pub slot: usize,
    /// Its number, which no other worker of the pool has.
    pub worker: u64,
    /// What happened to it, oldest first.
    pub history: Vec<ChangeView>,
}

/// A state that a worker came into.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeView {
    /// The state that it came into.
    pub state: WorkerState,
    /// When it came into that state.
    pub since: UnixMs,
    /// What made it change.
    pub why: String,
    /// How many times in a row; only calls are counted like that.
    pub times: u64,
}

/// Puts moments of the monotonic clock on the wall.
#[derive(Debug, Clone, Copy)]
struct Wall {
    mono: Mono,
    unix: UnixMs,
}

impl WorkerPool {
    /// Everything that the pool shows of itself.
    pub fn view(&self) -> PoolView {
        let (spec, ledger) = (&self.0.spec, &self.0.ledger);
        let (shape, open, waiting) = {
            let checkout = self.0.checkout.lock();
            (checkout.shape(), checkout.is_open(), checkout.waiting())
        };
        let workers = self.workers();
        let mut states: BTreeMap<_, _> = WorkerState::ALL.map(|stage| (stage.name(), 0)).into();
        for worker in &workers {
            *states.entry(worker.state.name()).or_default() += 1;
        }
        let used = || workers.iter().filter(|w| w.pid.is_some()).filter_map(|w| w.uses);
        PoolView {
            pool: spec.id,
            mode: match spec.mode {
                Mode::Serialized => "serialized",
                Mode::Concurrent => "concurrent",
            },
            open,
            wanted: shape.wanted,
            min: spec.size.min,
            max: spec.size.max,
            overflow: shape.overflow,
            states,
            load: ledger.load(),
            waiting,
            max_waiting: shape.max_waiting,
            restarts_spent: self.0.restarts.lock().is_spent(clock::mono()),
            restart_each_seconds: self.0.longest_backoff().as_secs(),
            deadline_kills: self.deadline_kills(),
            rss_bytes: used().map(|used| used.usage.rss_bytes).sum(),
            cpu_ppm: used().filter_map(|used| used.cpu_ppm).map(u64::from).sum(),
            memory_growth: ledger.memory(),
            failed_attempts: self.failed_attempts().into_iter().map(|(kind, _, count)| (kind.name(), count)).collect(),
            retries: self.retries(),
            breakers: self.breakers(),
            sizes: ledger.changes(),
            past_workers: self.past_workers(),
            workers,
        }
    }

    /// The workers that run, and the last ones in slots where none does.
    pub fn workers(&self) -> Vec<WorkerView> {
        let wall = Wall { mono: clock::mono(), unix: clock::unix_ms() };
        let pids = self.0.pids.lock().clone();
        let checkout = self.0.checkout.lock();
        let view = |slot: crate::pool::checkout::SlotView<'_>| WorkerView {
            slot: slot.slot,
            worker: slot.number,
            pid: pids.get(slot.slot).copied().flatten(),
            state: slot.life.stage(),
            since: wall.of(slot.life.since()),
            overflow: slot.overflow,
            sessions: slot.sessions,
            failed_checks: slot.unhealthy,
            age_ms: wall.age(slot.life),
            uses: self.0.ledger.used(slot.slot, slot.number).map(|meters| Used::of(&meters)),
            history: wall.history(slot.life),
            history_left_out: slot.life.left_out(),
        };
        checkout.slots().map(view).collect()
    }

    /// The last workers whose places others have taken, oldest first.
    pub fn past_workers(&self) -> Vec<PastWorker> {
        let wall = Wall { mono: clock::mono(), unix: clock::unix_ms() };
        let checkout = self.0.checkout.lock();
        let past = |(slot, worker, life): &(usize, u64, Lifecycle)| PastWorker {
            slot: *slot,
            worker: *worker,
            history: wall.history(life),
        };
        checkout.replaced().map(past).collect()
    }
}

impl Used {
    fn of(meters: &Meters) -> Self {
        let gauge = meters.gauge;
        Self { usage: gauge.usage(), cpu_ppm: gauge.share_ppm(), memory_growth: meters.memory.trend() }
    }
}

impl Wall {
    fn age(self, life: &Lifecycle) -> u64 {
        let until = if life.stage() == WorkerState::Terminated { life.since() } else { self.mono };
        u64::try_from(until.since(life.born()).as_millis()).unwrap_or(u64::MAX)
    }

    fn of(self, at: Mono) -> UnixMs {
        let ago = u64::try_from(self.mono.since(at).as_millis()).unwrap_or(u64::MAX);
        UnixMs(self.unix.0.saturating_sub(ago))
    }

    fn history(self, life: &Lifecycle) -> Vec<ChangeView> {
        let change = |change: &crate::pool::lifecycle::Change| ChangeView {
            state: change.stage,
            since: self.of(change.since),
            why: change.why.to_string(),
            times: change.times,
        };
        life.history().map(change).collect()
    }
}
