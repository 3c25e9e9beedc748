//! What a pool of workers is made of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{
    breaker,
    checkout::QueueOrder,
    optimizer,
    process::{Patience, WorkerCommand},
    recovery::Recovery,
    restarts::Budget,
};
use cutover_model::request::PoolId;

/// How many calls a pool serves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One at a time, however many workers: every operation goes through one owner.
    Serialized,
    /// One for each worker.
    Concurrent,
}

/// Everything that the configuration says of a pool of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// The name of the migration and of the pool, for logs: `programs/v2`.
    pub label: String,
    /// Whether it is V1's or V2's.
    pub id: PoolId,
    /// Whether the configuration has left it out: it is never open.
    pub is_absent: bool,
    /// How many calls it serves at once.
    pub mode: Mode,
    /// How many workers it has, and may have.
    pub size: Size,
    /// How a worker is started.
    pub command: WorkerCommand,
    /// What adapters call operations here, where that is not the name that they have.
    pub names: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    /// What each worker does before its first call.
    pub warm_up: WarmUp,
    /// How calls wait for a worker.
    pub queue: Queue,
    /// How idle workers are asked how they are.
    pub health: HealthChecks,
    /// How often workers that died may be replaced.
    pub restarts: Budget,
    /// What is done about calls that fail.
    pub recovery: Recovery,
    /// When an operation that keeps failing is refused; `None` for never.
    pub breaker: Option<breaker::Settings>,
    /// What makes the pool change its size; `None` for nothing.
    pub optimizer: Option<optimizer::Settings>,
    /// How long calls in flight may take when the pool is drained.
    pub drain_timeout: Duration,
    /// How long a worker that is told to end may take.
    pub stop: Patience,
}

/// How many workers a pool has, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// The least, and what the pool begins with.
    pub min: usize,
    /// The most regular ones.
    pub max: usize,
    /// Workers beyond these that may be started while all are busy and calls wait.
    pub overflow: usize,
    /// The most of these that the optimizer may allow.
    pub max_overflow: usize,
    /// How long a worker of the overflow stays without a call.
    pub overflow_idle: Duration,
}

/// How calls wait for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Which of the calls that wait goes first.
    pub order: QueueOrder,
    /// How many calls may wait; more are refused.
    pub most: usize,
    /// How long one may wait, if that is less than its own deadline allows; `None` for no such limit.
    pub timeout: Option<Duration>,
}

/// What workers do before their first call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WarmUp {
    /// Workers that may be starting at once.
    pub at_once: usize,
    /// The calls that each has to answer.
    pub calls: Vec<(Arc<str>, Map<String, Value>)>,
    /// How long they may take together.
    pub timeout: Duration,
}

/// How idle workers are asked how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthChecks {
    /// The time between two rounds of checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Failed checks in a row until a worker is replaced.
    pub failures: u32,
}

impl PoolSpec {
    /// Workers that it has at most, those included that take the place of others.
    pub const fn most_workers(&self) -> usize {
        self.size.max + self.size.max_overflow
    }

    /// Calls that may run at once.
    pub const fn lanes(&self) -> usize {
        match self.mode {
            Mode::Serialized => 1,
            Mode::Concurrent => self.size.max + self.size.max_overflow,
        }
    }
}
