//! The port that policies are asked through: what the controller, the router and the pools know of a policy.
//!
//! A host has one implementation, the sandbox ([`engine::Policy`](crate::engine::Policy)). Whoever asks does not depend
//! on it, so that a controller can be tested with a policy that is a few lines of Rust.

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::PolicyError;
use cutover_model::{
    facts::Batch,
    port::{
        AdaptedCall, AdapterCall, AdapterReply, Check, Comparison, Description, Judgement, Kind, Move, Pair, Plan,
        Progress, Situation, Target,
    },
};

/// An answer and what it cost.
#[derive(Debug, Clone)]
pub struct Asked<T> {
    /// The answer, or why there is none.
    pub answer: Result<T, PolicyError>,
    /// What the policy wants to remember; empty if it failed.
    pub memory: Vec<u8>,
    /// Units of fuel. Of a fresh instance: configuration included, so that the same question always costs the same. Of a
    /// kept one: of the question alone.
    pub fuel: u64,
    /// Wall-clock time; of a fresh instance with instantiation and configuration.
    pub took: Duration,
    /// Bytes of linear memory that the instance had in the end, summed over its memories; they never shrink. 0 if there
    /// was no instance.
    pub memory_peak: usize,
}

/// A policy that was admitted for one kind of question, with its settings.
///
/// A policy answers one kind of question. The methods of the other kinds answer with an error by default.
pub trait PolicyPort: fmt::Debug + Send + Sync {
    /// The kind that it was admitted for.
    fn kind(&self) -> Kind;

    /// Its settings, as JSON.
    fn settings(&self) -> &Arc<str>;

    /// Its name, version and attributes, as the policy itself gives them.
    fn description(&self) -> &Arc<Description>;

    /// SHA-256 of its component, lower-case hex. With the kind and the settings, it tells policies apart.
    fn digest(&self) -> &Arc<str>;

    /// Asks for a verdict on V2.
    fn judge(&self, _question: &Check, _memory: &[u8]) -> Asked<Judgement> {
        Asked::not(another_kind("judge"))
    }

    /// Asks for a stage action.
    fn next(&self, _progress: &Progress, _memory: &[u8]) -> Asked<Move> {
        Asked::not(another_kind("next"))
    }

    /// Asks for a routing plan.
    fn make_plan(&self, _situation: &Situation, _memory: &[u8]) -> Asked<Plan> {
        Asked::not(another_kind("make-plan"))
    }

    /// Asks what differs in each pair.
    fn compare(&self, _pairs: &[Pair]) -> Asked<Vec<Comparison>> {
        Asked::not(another_kind("compare"))
    }

    /// Asks for a call in V2's shape.
    fn adapt_call(&self, _call: &AdapterCall) -> Asked<AdaptedCall> {
        Asked::not(another_kind("adapt-call"))
    }

    /// Asks for a reply in V1's shape.
    fn adapt_reply(&self, _call: &AdapterCall, _reply: AdapterReply) -> Asked<AdapterReply> {
        Asked::not(another_kind("adapt-reply"))
    }

    /// Whether a routing policy wants to be asked per request ([`PolicyPort::decide`]).
    fn decides(&self) -> bool {
        false
    }

    /// Asks where one request goes, on the request's path: an answer comes within the time limit of `decide`. `frame` is
    /// packed as [`cutover_contract::frame`] says.
    ///
    /// # Errors
    /// Why there is no answer; the request goes to V1 then.
    fn decide(&self, _frame: &[u8]) -> Result<Target, PolicyError> {
        Err(another_kind("decide"))
    }

    /// Asks the same of an instance that was asked nothing before, off the request's path.
    fn decide_fresh(&self, _frame: &[u8]) -> Asked<Target> {
        Asked::not(another_kind("decide"))
    }

    /// One instance that is kept from question to question, to be shown many recorded checks.
    fn kept(&self) -> Box<dyn KeptPort>;

    /// How many of the first of these batches fit one check; at least one, if there are any.
    fn batches_at_once(&self, batches: &[Batch]) -> usize {
        batches.len()
    }

    /// How many of the first of these pairs fit one question.
    ///
    /// # Errors
    /// How large the first pair is, if it does not fit alone.
    fn pairs_at_once(&self, pairs: &[Pair]) -> Result<usize, PolicyError> {
        Ok(pairs.len())
    }

    /// What those take a permit of who ask the policy for each call, so that few threads wait for it at once; none if
    /// as many may ask as like.
    fn turns(&self) -> Option<&Arc<Semaphore>> {
        None
    }
}

/// One instance of a policy that is asked question after question; made when the first one is asked.
pub trait KeptPort: Send {
    /// Asks for a verdict on V2.
    fn judge(&mut self, question: &Check, memory: &[u8]) -> Asked<Judgement>;

    /// Asks for a stage action.
    fn next(&mut self, progress: &Progress, memory: &[u8]) -> Asked<Move>;
}

impl<T> Asked<T> {
    /// The answer of something that was not asked: nothing was computed.
    pub const fn not(error: PolicyError) -> Self {
        Self { answer: Err(error), memory: Vec::new(), fuel: 0, took: Duration::ZERO, memory_peak: 0 }
    }
}

/// A question of another kind than the policy's. A mistake of the host, and data like any other failure.
fn another_kind(question: &str) -> PolicyError {
    PolicyError::nonsense(format!("the policy was admitted for another kind of question than `{question}`"))
}
