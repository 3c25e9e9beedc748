//! The shape of what `[migrations.NAME.v1]` and `.v2` say of worker processes. Defaults are here.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor, value::MapAccessDeserializer},
};

use cutover_traffic::pool::recovery::{Backoff, Severity, Strategy};

/// `workers`: so many, or a table.
#[derive(Debug)]
pub enum Workers {
    /// So many.
    Fixed(usize),
    /// A table.
    Range(Range),
}

/// `workers = { .. }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The least, and what the pool begins with.
    pub min: usize,
    /// The most regular ones; `min` unless it is set.
    pub max: Option<usize>,
    /// Workers beyond that while calls wait.
    #[serde(default)]
    pub overflow: usize,
    /// How long a worker of the overflow stays without a call.
    #[serde(default = "super::defaults::thirty_seconds")]
    pub overflow_idle: String,
}

/// `queue`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// `fifo` or `lifo`.
    pub order: String,
    /// Calls that may wait.
    pub most: usize,
    /// How long one may wait; as long as its own time unless it is set.
    pub timeout: Option<String>,
}

/// `restarts`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restarts {
    /// So many,
    pub count: usize,
    /// within this time.
    pub within: String,
}

/// `warm_up`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUp {
    /// `parallel`, `sequential` or `staged`.
    pub order: String,
    /// Workers that start at once when that is `staged`.
    pub stage: usize,
    /// Calls that a worker answers before it is ready.
    pub calls: Vec<WarmUpCall>,
    /// How long they may take together.
    pub timeout: String,
}

/// One of `warm_up.calls`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUpCall {
    /// The operation.
    pub operation: String,
    /// Its arguments.
    #[serde(default)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// `errors`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Errors {
    /// A worker could not be started.
    pub initialization: ErrorRule,
    /// A worker went away.
    pub connection: ErrorRule,
    /// A worker answered something that is not the protocol.
    pub communication: ErrorRule,
    /// No answer in time.
    pub timeout: ErrorRule,
    /// No worker free, or the queue is full.
    pub resource: ErrorRule,
    /// A worker does not say that it is well.
    pub health_check: ErrorRule,
    /// A worker could not be brought up to the session's state.
    pub session: ErrorRule,
    /// The program raised an error.
    pub worker: ErrorRule,
    /// The pool is closed, or the host is at fault.
    pub system: ErrorRule,
    /// What the times between attempts are made of.
    pub backoff: ErrorBackoff,
}

/// A row of `errors`; what is left out is as it is by default.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorRule {
    /// How bad it is.
    pub severity: Option<Severity>,
    /// What is done first.
    pub strategy: Option<Strategy>,
    /// Attempts beyond the first.
    pub retries: Option<u32>,
    /// The time between them.
    pub backoff: Option<Backoff>,
}

/// `errors.backoff`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorBackoff {
    /// The step of linear backoff.
    pub linear: String,
    /// The first wait of exponential backoff.
    pub exponential: String,
    /// The longest wait.
    pub longest: String,
}

/// `breaker`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// Whether there is one.
    pub enabled: bool,
    /// Failures in a row until it opens.
    pub failures: u32,
    /// How long it refuses.
    pub open_for: String,
    /// Calls at once while it is half-open.
    pub trials: u32,
    /// Successes until it closes.
    pub successes: u32,
}

/// `optimizer`.
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
    /// How far it looks back.
    pub window: String,
    /// The least time between two changes.
    pub cool_down: String,
}

/// `stop`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// From the end of its input to SIGTERM.
    pub close: String,
    /// From there to SIGKILL.
    pub term: String,
}

impl Range {
    /// Always so many.
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
