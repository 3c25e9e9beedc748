//! The shape of what `[migrations.NAME.v1]` and `.v2` say of worker processes. Defaults are here.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use cutover_traffic::pool::recovery::{Backoff, Severity, Strategy};

/// `workers`: a number of workers, or a table.
#[derive(Debug)]
pub enum Workers {
    /// Always this many workers.
    Fixed(usize),
    /// Between a least and a most, and overflow beyond.
    Range(Range),
}

/// `workers = { .. }`: the sizes that a pool may have.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least workers, and what the pool begins with; 1 to 1024.
    pub min: usize,
    /// The most regular workers; `min` unless it is set.
    pub max: Option<usize>,
    /// Workers beyond `max` that are started while all others are busy and calls wait; 0 for none.
    #[serde(default)]
    pub overflow: usize,
    /// How long a worker of the overflow stays without a call.
    #[serde(default = "super::defaults::thirty_seconds")]
    pub overflow_idle: String,
}

/// `queue`: how calls wait for a worker.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Which call goes first: `fifo` the one that has waited longest, `lifo` the one that came last.
    pub order: String,
    /// Calls that may wait, up to 1 000 000; more are refused with 503.
    pub most: usize,
    /// How long a call may wait, 1 ms to 1 h; as long as the caller does unless it is set.
    pub timeout: Option<String>,
}

/// `restarts`: at most `count` restarts of the pool within any span of `within`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restarts {
    /// The number of restarts, 0 to 10 000. When they are spent, the pool makes one attempt each 30 s; each second if
    /// no other pool stands behind it.
    pub count: usize,
    /// The span of time that they are counted in, 1 s to 1 day.
    pub within: String,
}

/// `warm_up`: what a worker does before its first call.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUp {
    /// How many workers start at once: `parallel` all, `sequential` one, `staged` as many as `stage` says.
    pub order: String,
    /// Workers that start at once if `order` is `staged`, 1 to 1024.
    pub stage: usize,
    /// Calls that a worker must answer before it is ready, in this order; at most 100.
    pub calls: Vec<WarmUpCall>,
    /// How long the calls of one worker may take together.
    pub timeout: String,
}

/// One of `warm_up.calls`, in the pool's own shape: no adapter translates it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUpCall {
    /// The name of the operation, as this pool calls it.
    pub operation: String,
    /// The arguments of the operation; none unless they are set.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// `errors`: what is done about calls that fail, by the category of the failure.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Errors {
    /// No worker could be started, and the budget of restarts is spent.
    pub initialization: ErrorRule,
    /// The worker went away before it answered.
    pub connection: ErrorRule,
    /// A worker answered something that is not the protocol.
    pub communication: ErrorRule,
    /// There was no answer, or no worker free, in time.
    pub timeout: ErrorRule,
    /// The queue is full, or a call waited in it for too long.
    pub resource: ErrorRule,
    /// A worker does not say that it is well.
    pub health_check: ErrorRule,
    /// A worker could not be brought up to the session's state.
    pub session: ErrorRule,
    /// The program raised an error.
    pub worker: ErrorRule,
    /// The pool is closed, or the host is at fault.
    pub system: ErrorRule,
    /// How long the times between attempts are.
    pub backoff: ErrorBackoff,
}

/// A row of `errors`; what is left out is as it is by default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRule {
    /// How loud it is logged; as the category has it unless it is set.
    pub severity: Option<Severity>,
    /// What is done first; as the category has it unless it is set.
    pub strategy: Option<Strategy>,
    /// Attempts beyond the first, 0 to 100; as the category has it unless it is set.
    pub retries: Option<u32>,
    /// How the time between attempts grows; as the category has it unless it is set.
    pub backoff: Option<Backoff>,
}

/// `errors.backoff`: the times between attempts, 1 ms to 1 h each.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorBackoff {
    /// The step of linear backoff: each wait is longer by this.
    pub linear: String,
    /// The first wait of exponential backoff: each further one is twice as long.
    pub exponential: String,
    /// No wait is longer than this, whatever the backoff.
    pub longest: String,
}

/// `breaker`: when an operation that keeps failing is refused.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Whether there is a breaker at all.
    pub enabled: bool,
    /// Failed attempts in a row, of those that a worker saw, until it opens.
    pub failures: u32,
    /// How long it refuses calls, before it tries a few.
    pub open_for: String,
    /// Calls at once that it lets through while it is half-open.
    pub trials: u32,
    /// Successes while it is half-open until it closes; one failure opens it again.
    pub successes: u32,
}

/// `optimizer`: when the pool changes its size by itself.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Optimizer {
    /// Whether the pool changes its size by itself.
    pub enabled: bool,
    /// Above this utilisation it grows if calls wait, in percent.
    pub grow_above: u32,
    /// Below this one it shrinks, in percent.
    pub shrink_below: u32,
    /// Above this mean time that calls wait, it may have more overflow.
    pub wait_above: String,
    /// The most overflow; twice that of `workers` unless it is set.
    pub max_overflow: Option<usize>,
    /// How far back it looks, 1 s to 1 min; never to before its last change.
    pub window: String,
    /// The least time between two changes.
    pub cool_down: String,
}

/// `stop`: how long a worker that is told to end may take, 0 s to 1 h each.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// The time from closing its standard input to SIGTERM.
    pub close: String,
    /// The time from SIGTERM to SIGKILL.
    pub term: String,
}

impl Range {
    /// A pool of always this many workers, without overflow.
    pub fn fixed(workers: usize) -> Self {
        Self { min: workers, max: None, overflow: 0, overflow_idle: super::defaults::thirty_seconds() }
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { order: "fifo".into(), most: 1_000, timeout: None }
    }
}

impl Default for Restarts {
    fn default() -> Self {
        Self { count: 10, within: "1m".into() }
    }
}

impl Default for WarmUp {
    fn default() -> Self {
        Self { order: "parallel".into(), stage: 2, calls: Vec::new(), timeout: "30s".into() }
    }
}

impl Default for ErrorBackoff {
    fn default() -> Self {
        Self { linear: "50ms".into(), exponential: "50ms".into(), longest: "2s".into() }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self { enabled: true, failures: 5, open_for: "60s".into(), trials: 3, successes: 3 }
    }
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            enabled: true,
            grow_above: 90,
            shrink_below: 30,
            wait_above: "100ms".into(),
            max_overflow: None,
            window: "10s".into(),
            cool_down: "30s".into(),
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self { close: "2s".into(), term: "2s".into() }
    }
}

// By hand, because the derived `untagged` forgets what was wrong with a table.
impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 1 to 1024, or a table such as `{ min = 1, max = 4 }`")
            }

            fn visit_i64<E: Error>(self, workers: i64) -> Result<Workers, E> {
                let wrong = |_negative| E::invalid_value(Unexpected::Signed(workers), &self);
                usize::try_from(workers).map(Workers::Fixed).map_err(wrong)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Workers, A::Error> {
                Range::deserialize(MapAccessDeserializer::new(table)).map(Workers::Range)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
