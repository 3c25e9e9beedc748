//! Write a Cutover policy as one `impl` of a small trait.
//!
//! A policy has settings, which come as JSON and are a plain `serde` type, and answers one or more of five questions:
//! [`Routing`] (and [`Decide`]), [`Stages`], [`Rollback`], [`Comparison`], [`Adapter`]. It is a pure function: no clock,
//! no randomness, no I/O. What it has to remember is its `Memory`, which the host stores and hands back.
//!
//! ```
//! use cutover_policy::{Check, Judgement, Policy, Problem, Rollback, Verdict};
//!
//! /// Rolls back as soon as V2 has failed more often than `allowed`.
//! struct Strict {
//!     allowed: u64,
//! }
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     #[serde(default)]
//!     allowed: u64,
//! }
//!
//! impl Policy for Strict {
//!     type Settings = Settings;
//!     const NAME: &'static str = "strict";
//!     const VERSION: &'static str = "1.0.0";
//!     const SUMMARY: &'static str = "rolls back after a number of errors";
//!
//!     fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
//!         Ok(Self { allowed: settings.allowed })
//!     }
//! }
//!
//! impl Rollback for Strict {
//!     type Memory = u64;
//!
//!     fn judge(&self, check: &Check, errors: &mut u64) -> Result<Judgement, String> {
//!         *errors += check.batches.iter().flat_map(|b| &b.operations).map(|o| o.v2.errors).sum::<u64>();
//!         Ok(if *errors > self.allowed { Verdict::RollBack.into() } else { Verdict::Healthy.into() })
//!     }
//! }
//!
//! cutover_policy::export!(Strict: rollback);
//! # assert!(Strict::configure(Settings { allowed: 3 }).is_ok());
//! ```
//!
//! Natively, as in this example, `export!` does nothing, so that policies are tested like any other code.

#[doc(hidden)]
pub mod bindings;
mod export;
mod gauges;
pub mod hypergeometric;
pub mod line;
pub mod memory;
pub mod settings;
pub mod testing;
pub mod text;

use bindings::{adapter, comparison, decide, policy, rollback, routing, stages};
use serde::{Serialize, de::DeserializeOwned};

pub use adapter::exports::cutover::policy::adapter::{AdaptedCall, Call, Notice, Reply};
pub use comparison::exports::cutover::policy::comparison::{Difference, Outcome, Pair, Side};
pub use cutover_contract::{frame::Frame, histogram::Histogram, share};
pub use decide::exports::cutover::policy::decide::Choice;
pub use policy::cutover::policy::types::{
    Batch, Calls, Comparisons, Finding, Gauge, LatencyBucket, Members, OperationCalls, OperationClass, Phase, Pool,
    Problem, Verdict,
};
pub use rollback::exports::cutover::policy::rollback::Check;
pub use routing::exports::cutover::policy::routing::{Condition, Operation, Plan, Rule, Situation, Target, Test};
pub use stages::exports::cutover::policy::stages::{Action, Progress, Step};

#[doc(hidden)]
pub use export::__private;

/// Who a policy is and how it takes its settings. Every policy implements this and at least one kind.
pub trait Policy: Sized + 'static {
    /// The settings, as JSON. Derive `Deserialize` and `JsonSchema`, deny unknown fields, and give every field a default
    /// so that `{}` works.
    type Settings: DeserializeOwned + schemars::JsonSchema;
    /// 1 to 64 characters of `a-z 0-9 -`.
    const NAME: &'static str;
    /// The policy's version; `env!("CARGO_PKG_VERSION")` as a rule.
    const VERSION: &'static str;
    /// One sentence for people.
    const SUMMARY: &'static str;
    /// The request attributes that [`Decide::decide`] wants, in this order.
    const ATTRIBUTES: &'static [&'static str] = &[];

    /// Takes the settings.
    ///
    /// # Errors
    /// Every problem that the settings have beyond their types, each with its field.
    fn configure(settings: Self::Settings) -> Result<Self, Vec<Problem>>;
}

/// What a policy remembers between calls; stored as JSON, so that people can read it in the decision log.
pub trait Memory: Default + Serialize + DeserializeOwned {}

impl<T: Default + Serialize + DeserializeOwned> Memory for T {}

/// Which pool serves a request: a plan that the host executes.
pub trait Routing: Policy {
    /// What it remembers.
    type Memory: Memory;

    /// Makes the plan.
    ///
    /// # Errors
    /// A sentence; the host keeps the last good plan.
    fn make_plan(&self, situation: &Situation, memory: &mut Self::Memory) -> Result<Plan, String>;
}

/// Asked for each request that the plan sends to [`Target::Decide`]. Keep it to a few hundred nanoseconds.
pub trait Decide: Routing {
    /// Where one request goes.
    fn decide(&self, frame: Frame<'_>) -> Choice;
}

/// Is V2 worse?
pub trait Rollback: Policy {
    /// What it remembers.
    type Memory: Memory;

    /// Judges what happened since the last check.
    ///
    /// # Errors
    /// A sentence; the host records it and holds.
    fn judge(&self, check: &Check, memory: &mut Self::Memory) -> Result<Judgement, String>;
}

/// When does the share move?
pub trait Stages: Policy {
    /// What it remembers.
    type Memory: Memory;

    /// Decides. `forced` means that an operator wants the next stage now.
    ///
    /// # Errors
    /// A sentence; the host records it and holds.
    fn next(&self, progress: &Progress, forced: bool, memory: &mut Self::Memory) -> Result<Move, String>;
}

/// Are two results the same?
pub trait Comparison: Policy {
    /// Compares one pair.
    fn compare(&self, pair: &Pair) -> Outcome;

    /// Compares a batch of pairs, for policies that gain from seeing them together. One outcome for each, in order.
    fn compare_all(&self, pairs: &[Pair]) -> Vec<Outcome> {
        pairs.iter().map(|pair| self.compare(pair)).collect()
    }
}

/// Translates calls in V1's shape for V2, and V2's replies back.
pub trait Adapter: Policy {
    /// Translates a call.
    ///
    /// # Errors
    /// Why V2 cannot serve it; V1 does.
    fn adapt_call(&self, call: &Call) -> Result<AdaptedCall, String>;

    /// Translates V2's reply.
    ///
    /// # Errors
    /// Why the reply has no V1 shape; counted as a failure of V2.
    fn adapt_reply(&self, call: &Call, reply: Reply) -> Result<Reply, String>;
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Every rule that spoke.
    pub findings: Vec<Finding>,
    /// Base-10 logarithm of the evidence against V2, in millionths.
    pub evidence: i64,
}

impl From<Verdict> for Judgement {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, findings: Vec::new(), evidence: 0 }
    }
}

/// A stage action and what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// The action.
    pub action: Action,
    /// Why.
    pub findings: Vec<Finding>,
}

impl From<Action> for Move {
    fn from(action: Action) -> Self {
        Self { action, findings: Vec::new() }
    }
}

/// The calls of a batch's latency list as a histogram that merges and has quantiles.
#[must_use]
pub fn histogram(buckets: &[LatencyBucket]) -> Histogram {
    buckets.iter().map(|b| (b.index, b.count)).collect()
}

/// A problem with one field of the settings.
pub fn problem(path: impl Into<String>, message: impl Into<String>) -> Problem {
    Problem { path: path.into(), message: message.into() }
}

/// One fact behind an answer; see [`Finding`] for the units. Values beyond `i64` are cut to its largest.
pub fn finding(rule: &str, observed: u64, limit: u64, unit: &str, note: impl Into<String>) -> Finding {
    let cut = |value| i64::try_from(value).unwrap_or(i64::MAX);
    Finding { rule: rule.into(), observed: cut(observed), limit: cut(limit), unit: unit.into(), note: note.into() }
}
