//! The questions, and how they are put: to a fresh instance each time, or to one that is kept.
//!
//! A question is written once, for any [`Asker`]; what differs is only where the instance comes from.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use wasmtime::{Error, Store};

use super::{
    convert,
    guest::{Configured, Span, State},
    policy::Policy,
    size,
    world::World,
};
use crate::{
    PolicyError,
    ask::{Asked, KeptPort, PolicyPort},
    check,
};
use cutover_model::{
    clock,
    facts::Batch,
    port::{
        AdaptedCall, AdapterCall, AdapterReply, Check, Comparison, Description, Judgement, Kind, Move, Pair, Plan,
        Progress, Situation, Target,
    },
};

/// What a guest says: an answer with its memory, or an error of its own; or the call fails.
type Said<T> = Result<Result<(T, Vec<u8>), String>, Error>;

/// Somebody who has an instance to ask.
pub(super) trait Asker {
    /// Puts one question of about `bytes` to an instance.
    fn ask<T>(&mut self, bytes: usize, ask: impl FnOnce(&World, &mut Store<State>) -> Said<T>) -> Asked<T>;

    /// Whose instance it is.
    fn policy(&self) -> &Policy;
}

/// Asks a fresh instance each time.
struct Fresh<'a>(&'a Policy);

/// One instance that is kept from question to question: for back-tests and benches, where making an instance would
/// cost more than the question.
///
/// A policy that keeps to the contract gives the same answers as on fresh instances. One that hoards in its own
/// variables what belongs into its memory does not, which is why the host itself asks fresh instances. The instance is
/// replaced after any error, and after 10 000 questions, so that what a guest leaks stays bounded.
pub struct WarmPolicy {
    policy: Policy,
    kept: Option<Configured>,
    asked: u32,
}

/// Questions until a kept instance is replaced.
const RECYCLE_AFTER: u32 = 10_000;

impl Asker for Fresh<'_> {
    fn ask<T>(&mut self, bytes: usize, ask: impl FnOnce(&World, &mut Store<State>) -> Said<T>) -> Asked<T> {
        let turn = self.0.turn_to_compute();
        let started = clock::mono();
        let (mut fuel, mut memory_peak) = (0, 0);
        let said = self.0.admitted(bytes).and_then(|_place| {
            let mut configured = self.0.configured()?;
            // What is left of the time after instantiation and configuration.
            let said = put(&mut configured, Span::Rest, ask);
            fuel = configured.guest.fuel_used();
            memory_peak = configured.guest.memory_peak();
            said
        });
        let took = clock::mono().since(started);
        drop(turn);
        self.0.learn(&said, took);
        Asked::new(said, fuel, took, memory_peak)
    }

    fn policy(&self) -> &Policy {
        self.0
    }
}

impl Asker for WarmPolicy {
    fn ask<T>(&mut self, bytes: usize, ask: impl FnOnce(&World, &mut Store<State>) -> Said<T>) -> Asked<T> {
        if self.asked >= RECYCLE_AFTER {
            self.kept = None;
        }
        if let Err(error) = self.policy.limits().admit_input(bytes) {
            return Asked::not(error);
        }
        let mut configured = match self.kept.take().map_or_else(|| self.policy.configured(), Ok) {
            Ok(configured) => configured,
            Err(error) => return Asked::not(error),
        };
        configured.guest.reset_fuel();
        let started = clock::mono();
        let said = put(&mut configured, Span::Question, ask);
        let took = clock::mono().since(started);
        let (fuel, memory_peak) = (configured.guest.fuel_used(), configured.guest.memory_peak());
        // An error that the policy gives as its answer leaves the instance as good as it was.
        if matches!(said, Ok(_) | Err(PolicyError::Said { .. })) {
            self.asked = if self.asked >= RECYCLE_AFTER { 1 } else { self.asked + 1 };
            self.kept = Some(configured);
        } else {
            self.asked = 0;
        }
        Asked::new(said, fuel, took, memory_peak)
    }

    fn policy(&self) -> &Policy {
        &self.policy
    }
}

impl<T> Asked<T> {
    fn new(said: Result<(T, Vec<u8>), PolicyError>, fuel: u64, took: Duration, memory_peak: usize) -> Self {
        let (answer, memory) = match said {
            Ok((answer, memory)) => (Ok(answer), memory),
            Err(error) => (Err(error), Vec::new()),
        };
        Self { answer, memory, fuel, took, memory_peak }
    }

    /// The answer, if it makes sense.
    fn checked<U>(self, check: impl FnOnce(T) -> Result<U, PolicyError>) -> Asked<U> {
        let Self { answer, memory, fuel, took, memory_peak } = self;
        let answer = answer.and_then(check);
        let memory = if answer.is_ok() { memory } else { Vec::new() };
        Asked { answer, memory, fuel, took, memory_peak }
    }
}

fn put<T>(
    configured: &mut Configured,
    span: Span,
    ask: impl FnOnce(&World, &mut Store<State>) -> Said<T>,
) -> Result<(T, Vec<u8>), PolicyError> {
    let Configured { guest, world } = configured;
    let said = guest.call(span, |guest| ask(world, &mut guest.store))?;
    let (answer, memory) = said.map_err(|message| PolicyError::Said { message: crate::error::said(&message) })?;
    guest.limits().admit_memory(&memory)?;
    Ok((answer, memory))
}

/// That a policy was asked what another kind answers. A mistake of the host, and data like any other failure.
fn another_kind<T>() -> Said<T> {
    Err(Error::msg("the policy was admitted for another kind of question"))
}

fn make_plan(by: &mut impl Asker, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
    let asked = by.ask(size::situation(situation) + memory.len(), |world, store| {
        let World::Routing { plan, .. } = world else { return another_kind() };
        let situation = convert::situation(situation);
        let answer = plan.cutover_policy_routing().call_make_plan(store, &situation, memory)?;
        Ok(answer.map(|a| (convert::plan(a.plan), a.memory)))
    });
    let decides = by.policy().decides();
    asked.checked(|plan| check::plan(plan, situation, decides))
}

fn judge(by: &mut impl Asker, question: &Check, memory: &[u8]) -> Asked<Judgement> {
    let asked = by.ask(size::check(question) + memory.len(), |world, store| {
        let World::Rollback(rollback) = world else { return another_kind() };
        let answer = rollback.cutover_policy_rollback().call_judge(store, &convert::check(question), memory)?;
        Ok(answer.map(convert::judgement))
    });
    asked.checked(check::judgement)
}

fn next(by: &mut impl Asker, progress: &Progress, memory: &[u8]) -> Asked<Move> {
    let asked = by.ask(size::check(&progress.check) + memory.len(), |world, store| {
        let World::Stages(stages) = world else { return another_kind() };
        let question = convert::progress(progress);
        let answer = stages.cutover_policy_stages().call_next(store, &question, progress.forced, memory)?;
        Ok(answer.map(convert::next))
    });
    asked.checked(|next| check::next(next, progress))
}

fn compare(by: &mut impl Asker, pairs: &[Pair]) -> Asked<Vec<Comparison>> {
    let asked = by.ask(size::pairs(pairs), |world, store| {
        let World::Comparison(comparison) = world else { return another_kind() };
        let outcomes = comparison.cutover_policy_comparison().call_compare(store, &convert::pairs(pairs))?;
        Ok(Ok((convert::outcomes(outcomes), Vec::new())))
    });
    asked.checked(|outcomes| check::outcomes(outcomes, pairs.len()))
}

fn adapt_call(by: &mut impl Asker, call: &AdapterCall) -> Asked<AdaptedCall> {
    let asked = by.ask(size::call(call), |world, store| {
        let World::Adapter(guest) = world else { return another_kind() };
        let adapted = guest.cutover_policy_adapter().call_adapt_call(store, &convert::call(call))?;
        Ok(adapted.map(|a| (convert::adapted(a), Vec::new())))
    });
    asked.checked(check::adapted)
}

fn adapt_reply(by: &mut impl Asker, call: &AdapterCall, reply: AdapterReply) -> Asked<AdapterReply> {
    by.ask(size::call(call) + size::reply(&reply), |world, store| {
        let World::Adapter(guest) = world else { return another_kind() };
        let (call, reply) = (convert::call(call), convert::reply(reply));
        let adapted = guest.cutover_policy_adapter().call_adapt_reply(store, &call, &reply)?;
        Ok(adapted.map(|r| (convert::replied(r), Vec::new())))
    })
}

fn decide(by: &mut impl Asker, frame: &[u8]) -> Asked<Target> {
    by.ask(frame.len(), |world, store| {
        let World::Routing { decide: Some(decide), .. } = world else { return another_kind() };
        let choice = decide.cutover_policy_decide().call_decide(store, frame)?;
        Ok(Ok((convert::choice(choice), Vec::new())))
    })
}

impl Policy {
    /// Asks for a routing plan.
    pub fn make_plan(&self, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
        make_plan(&mut Fresh(self), situation, memory)
    }

    /// Asks `decide` of a fresh instance, as the log does; requests are decided by [`Policy::decide`].
    pub fn decide_fresh(&self, frame: &[u8]) -> Asked<Target> {
        decide(&mut Fresh(self), frame)
    }

    /// Asks for a verdict.
    pub fn judge(&self, question: &Check, memory: &[u8]) -> Asked<Judgement> {
        judge(&mut Fresh(self), question, memory)
    }

    /// Asks for a stage action.
    pub fn next(&self, progress: &Progress, memory: &[u8]) -> Asked<Move> {
        next(&mut Fresh(self), progress, memory)
    }

    /// Asks what differs in each pair.
    pub fn compare(&self, pairs: &[Pair]) -> Asked<Vec<Comparison>> {
        compare(&mut Fresh(self), pairs)
    }

    /// Asks for a call in V2's shape.
    pub fn adapt_call(&self, call: &AdapterCall) -> Asked<AdaptedCall> {
        adapt_call(&mut Fresh(self), call)
    }

    /// Asks for a reply in V1's shape.
    pub fn adapt_reply(&self, call: &AdapterCall, reply: AdapterReply) -> Asked<AdapterReply> {
        adapt_reply(&mut Fresh(self), call, reply)
    }

    /// The same questions on one instance that is kept; it is made when the first one is asked.
    pub fn warm(&self) -> WarmPolicy {
        WarmPolicy { policy: self.clone(), kept: None, asked: 0 }
    }
}

impl PolicyPort for Policy {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn settings(&self) -> &Arc<str> {
        &self.settings
    }

    fn description(&self) -> &Arc<Description> {
        &self.description
    }

    fn digest(&self) -> &Arc<str> {
        Self::digest(self)
    }

    fn judge(&self, question: &Check, memory: &[u8]) -> Asked<Judgement> {
        Self::judge(self, question, memory)
    }

    fn next(&self, progress: &Progress, memory: &[u8]) -> Asked<Move> {
        Self::next(self, progress, memory)
    }

    fn make_plan(&self, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
        Self::make_plan(self, situation, memory)
    }

    fn compare(&self, pairs: &[Pair]) -> Asked<Vec<Comparison>> {
        Self::compare(self, pairs)
    }

    fn adapt_call(&self, call: &AdapterCall) -> Asked<AdaptedCall> {
        Self::adapt_call(self, call)
    }

    fn adapt_reply(&self, call: &AdapterCall, reply: AdapterReply) -> Asked<AdapterReply> {
        Self::adapt_reply(self, call, reply)
    }

    fn decides(&self) -> bool {
        Self::decides(self)
    }

    fn decide(&self, frame: &[u8]) -> Result<Target, PolicyError> {
        Self::decide(self, frame)
    }

    fn decide_fresh(&self, frame: &[u8]) -> Asked<Target> {
        Self::decide_fresh(self, frame)
    }

    fn kept(&self) -> Box<dyn KeptPort> {
        Box::new(self.warm())
    }

    fn batches_at_once(&self, batches: &[Batch]) -> usize {
        Self::batches_at_once(self, batches)
    }

    fn pairs_at_once(&self, pairs: &[Pair]) -> Result<usize, PolicyError> {
        Self::pairs_at_once(self, pairs)
    }

    fn turns(&self) -> Option<&Arc<Semaphore>> {
        Some(Self::turns(self))
    }
}

impl KeptPort for WarmPolicy {
    fn judge(&mut self, question: &Check, memory: &[u8]) -> Asked<Judgement> {
        Self::judge(self, question, memory)
    }

    fn next(&mut self, progress: &Progress, memory: &[u8]) -> Asked<Move> {
        Self::next(self, progress, memory)
    }
}

impl WarmPolicy {
    /// Asks where one request goes, and says what that costs; requests are decided by [`Policy::decide`].
    pub fn decide(&mut self, frame: &[u8]) -> Asked<Target> {
        decide(self, frame)
    }

    /// Asks for a routing plan.
    pub fn make_plan(&mut self, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
        make_plan(self, situation, memory)
    }

    /// Asks for a verdict.
    pub fn judge(&mut self, question: &Check, memory: &[u8]) -> Asked<Judgement> {
        judge(self, question, memory)
    }

    /// Asks for a stage action.
    pub fn next(&mut self, progress: &Progress, memory: &[u8]) -> Asked<Move> {
        next(self, progress, memory)
    }

    /// Asks what differs in each pair.
    pub fn compare(&mut self, pairs: &[Pair]) -> Asked<Vec<Comparison>> {
        compare(self, pairs)
    }

    /// Asks for a call in V2's shape.
    pub fn adapt_call(&mut self, call: &AdapterCall) -> Asked<AdaptedCall> {
        adapt_call(self, call)
    }

    /// Asks for a reply in V1's shape.
    pub fn adapt_reply(&mut self, call: &AdapterCall, reply: AdapterReply) -> Asked<AdapterReply> {
        adapt_reply(self, call, reply)
    }

    /// The kind of questions that it answers.
    pub const fn kind(&self) -> Kind {
        self.policy.kind
    }
}

impl std::fmt::Debug for WarmPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WarmPolicy").field("policy", &self.policy).field("asked", &self.asked).finish_non_exhaustive()
    }
}
