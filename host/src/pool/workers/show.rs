//! What a pool shows of itself: its workers, what they do, and how they got there.

use serde::Serialize;

use super::WorkerPool;
use crate::{
    clock::{self, Mono, UnixMs},
    pool::lifecycle::{Lifecycle, Stage},
};

/// A worker that runs, or the last one in its slot.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerView {
    /// Its slot.
    pub slot: usize,
    /// Its number: no other worker of the pool has or had it.
    pub worker: u64,
    /// Its process, while that runs.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: Stage,
    /// Since when.
    pub since: UnixMs,
    /// Whether it is there only for calls that waited.
    pub overflow: bool,
    /// Sessions that are at home with it.
    pub sessions: usize,
    /// Health checks that it failed in a row.
    pub failed_checks: u32,
    /// What happened to it, oldest first.
    pub history: Vec<ChangeView>,
    /// Changes in the middle that are not kept.
    pub history_left_out: u64,
}

/// A worker whose place another has taken.
#[derive(Debug, Clone, Serialize)]
pub struct PastWorker {
    /// Its slot.
    pub slot: usize,
    /// Its number.
    pub worker: u64,
    /// What happened to it, oldest first.
    pub history: Vec<ChangeView>,
}

/// A state that a worker came into.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeView {
    /// The state.
    pub state: Stage,
    /// Since when.
    pub since: UnixMs,
    /// Why.
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

impl Wall {
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
