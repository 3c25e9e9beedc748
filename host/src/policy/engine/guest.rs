//! One question to one policy: a fresh store under limits, an instance, settings, the call, and what became of it.

use std::{fmt, sync::Arc, time::Duration};

use wasmtime::{Error, ResourceLimiter, Store, Trap, component::Instance};

use super::{
    Compiled, Engine, Kind, PolicyError, TICK, bindings as b, convert,
    wasi_stub::{Chance, NotOffered},
};
use crate::{
    clock,
    policy::{
        check,
        port::{
            AdaptedCall, AdapterCall, AdapterReply, Check, Comparison, Judgement, Move, Pair, Plan, Progress, Situation,
        },
    },
};

/// A policy that was admitted: compiled, of the right kind, and its settings accepted.
#[derive(Clone)]
pub struct Policy {
    engine: Arc<Engine>,
    compiled: Compiled,
    /// The kind that it was admitted for.
    pub kind: Kind,
    /// Its settings, as JSON.
    pub settings: Arc<str>,
    /// Its name, version and attributes.
    pub description: Arc<Description>,
}

/// Who a policy says that it is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// The attributes that `decide` wants.
    pub attributes: Vec<String>,
    /// JSON Schema of its settings.
    pub settings_schema: String,
}

/// An answer and what it cost.
#[derive(Debug, Clone)]
pub struct Asked<T> {
    /// The answer, or why there is none.
    pub answer: Result<T, PolicyError>,
    /// What the policy wants to remember; empty if it failed.
    pub memory: Vec<u8>,
    /// Units of fuel, configuration included.
    pub fuel: u64,
    /// Wall-clock time, instantiation included.
    pub took: Duration,
}

/// What a store knows of its guest: the memory it has and whether it wanted more.
pub(super) struct State {
    memory_limit: usize,
    memory_used: usize,
    refused_memory: bool,
    /// Only the stand-in for WASI asks for it.
    pub(super) chance: Chance,
}

/// A store with an instance that took its settings.
pub(super) struct Guest {
    pub(super) store: Store<State>,
    pub(super) instance: Instance,
}

impl Policy {
    /// Admits a compiled component for a kind: checks its exports, tries it out, and hands it its settings.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub fn admit(engine: &Arc<Engine>, compiled: Compiled, kind: Kind, settings: &str) -> Result<Self, PolicyError> {
        if !compiled.kinds.contains(&kind) {
            return Err(PolicyError::MissingKind { kind, exports: compiled.exports });
        }
        let description = describe(engine, &compiled)?;
        let policy = Self {
            engine: Arc::clone(engine),
            compiled,
            kind,
            settings: settings.into(),
            description: description.into(),
        };
        policy.try_out()?;
        Ok(policy)
    }

    /// SHA-256 of the component, lower-case hex.
    pub fn digest(&self) -> &Arc<str> {
        &self.compiled.digest
    }

    /// Whether it can be asked per request.
    pub const fn decides(&self) -> bool {
        self.compiled.decides
    }

    pub(super) const fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Configures an instance and checks the type of every export of its kind, which instantiation alone does not.
    fn try_out(&self) -> Result<(), PolicyError> {
        let Guest { mut store, instance } = self.instance()?;
        let wrong = |interface: &str, error: Error| PolicyError::WrongType {
            interface: format!("cutover:policy/{interface}@{}", super::CONTRACT),
            message: format!("{error:#}"),
        };
        let typed = match self.kind {
            Kind::Routing => b::routing::RoutingHost::new(&mut store, &instance).map(drop),
            Kind::Stages => b::stages::StagesHost::new(&mut store, &instance).map(drop),
            Kind::Rollback => b::rollback::RollbackHost::new(&mut store, &instance).map(drop),
            Kind::Comparison => b::comparison::ComparisonHost::new(&mut store, &instance).map(drop),
            Kind::Adapter => b::adapter::AdapterHost::new(&mut store, &instance).map(drop),
        };
        typed.map_err(|e| wrong(self.kind.name(), e))?;
        if self.kind == Kind::Routing && self.decides() {
            b::decide::DecideHost::new(&mut store, &instance).map_err(|e| wrong("decide", e))?;
        }
        Ok(())
    }

    /// A fresh instance that took its settings, in a store of its own.
    pub(super) fn instance(&self) -> Result<Guest, PolicyError> {
        let mut guest = Guest::new(&self.engine, &self.compiled)?;
        let configured = guest.call(self.engine.limits.time, |guest| {
            let world = b::policy::PolicyHost::new(&mut guest.store, &guest.instance)?;
            world.cutover_policy_policy().call_configure(&mut guest.store, &self.settings)
        })?;
        configured.map_err(|problems| PolicyError::Settings { problems: convert::problems(problems) })?;
        Ok(guest)
    }

    /// Asks one question of a fresh instance. The answer is what `ask` makes of it, with the memory.
    fn ask<T>(&self, ask: impl FnOnce(&mut Guest) -> Result<Result<(T, Vec<u8>), String>, Error>) -> Asked<T> {
        let started = clock::mono();
        let mut fuel = 0;
        let answer = self.instance().and_then(|mut guest| {
            let answer = guest.call(self.engine.limits.time, ask);
            fuel = guest.fuel_used();
            answer?.map_err(|message| PolicyError::Said { message: check::text(message) })
        });
        let (answer, memory) = match answer {
            Ok((answer, memory)) => (Ok(answer), memory),
            Err(error) => (Err(error), Vec::new()),
        };
        Asked { answer, memory, fuel, took: clock::mono().since(started) }
    }

    /// Asks for a routing plan.
    pub fn make_plan(&self, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
        let mut asked = self.ask(|guest| {
            let world = b::routing::RoutingHost::new(&mut guest.store, &guest.instance)?;
            let situation = convert::situation(situation);
            let answer = world.cutover_policy_routing().call_make_plan(&mut guest.store, &situation, memory)?;
            Ok(answer.map(|a| (convert::plan(a.plan), a.memory)))
        });
        asked.answer = asked.answer.and_then(|plan| check::plan(plan, situation, self.decides()));
        asked
    }

    /// Asks for a verdict.
    pub fn judge(&self, question: &Check, memory: &[u8]) -> Asked<Judgement> {
        let mut asked = self.ask(|guest| {
            let world = b::rollback::RollbackHost::new(&mut guest.store, &guest.instance)?;
            let question = convert::check(question);
            let answer = world.cutover_policy_rollback().call_judge(&mut guest.store, &question, memory)?;
            Ok(answer.map(convert::judgement))
        });
        asked.answer = asked.answer.and_then(check::judgement);
        asked
    }

    /// Asks for a stage action.
    pub fn next(&self, progress: &Progress, memory: &[u8]) -> Asked<Move> {
        let mut asked = self.ask(|guest| {
            let world = b::stages::StagesHost::new(&mut guest.store, &guest.instance)?;
            let question = convert::progress(progress);
            let stages = world.cutover_policy_stages();
            let answer = stages.call_next(&mut guest.store, &question, progress.forced, memory)?;
            Ok(answer.map(convert::next))
        });
        asked.answer = asked.answer.and_then(|next| check::next(next, progress));
        asked
    }

    /// Asks what differs in each pair.
    pub fn compare(&self, pairs: &[Pair]) -> Asked<Vec<Comparison>> {
        let mut asked = self.ask(|guest| {
            let world = b::comparison::ComparisonHost::new(&mut guest.store, &guest.instance)?;
            let pairs = convert::pairs(pairs);
            let outcomes = world.cutover_policy_comparison().call_compare(&mut guest.store, &pairs)?;
            Ok(Ok((convert::outcomes(outcomes), Vec::new())))
        });
        asked.answer = asked.answer.and_then(|outcomes| check::outcomes(outcomes, pairs.len()));
        asked
    }

    /// Asks for a call in V2's shape.
    pub fn adapt_call(&self, call: &AdapterCall) -> Asked<AdaptedCall> {
        let mut asked = self.ask(|guest| {
            let world = b::adapter::AdapterHost::new(&mut guest.store, &guest.instance)?;
            let call = convert::call(call);
            let adapted = world.cutover_policy_adapter().call_adapt_call(&mut guest.store, &call)?;
            Ok(adapted.map(|a| (convert::adapted(a), Vec::new())))
        });
        asked.answer = asked.answer.and_then(check::adapted);
        asked
    }

    /// Asks for a reply in V1's shape.
    pub fn adapt_reply(&self, call: &AdapterCall, reply: AdapterReply) -> Asked<AdapterReply> {
        self.ask(|guest| {
            let world = b::adapter::AdapterHost::new(&mut guest.store, &guest.instance)?;
            let (call, reply) = (convert::call(call), convert::reply(reply));
            let adapted = world.cutover_policy_adapter().call_adapt_reply(&mut guest.store, &call, &reply)?;
            Ok(adapted.map(|r| (convert::replied(r), Vec::new())))
        })
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("kind", &self.kind).field("digest", self.digest()).finish_non_exhaustive()
    }
}

/// Asks an unconfigured instance who it is.
fn describe(engine: &Engine, compiled: &Compiled) -> Result<Description, PolicyError> {
    let mut guest = Guest::new(engine, compiled)?;
    let description = guest.call(engine.limits.time, |guest| {
        let world = b::policy::PolicyHost::new(&mut guest.store, &guest.instance)?;
        world.cutover_policy_policy().call_describe(&mut guest.store)
    })?;
    check::description(convert::description(description))
}

impl Guest {
    fn new(engine: &Engine, compiled: &Compiled) -> Result<Self, PolicyError> {
        let limits = engine.limits;
        let state = State {
            memory_limit: limits.memory_bytes,
            memory_used: 0,
            refused_memory: false,
            chance: Chance::default(),
        };
        let mut store = Store::new(&engine.wasmtime, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes);
        // Fuel is metered, not limited: time is what runs out in production.
        store.set_fuel(u64::MAX).map_err(|e| PolicyError::NoRoom { message: format!("{e:#}") })?;
        set_deadline(&mut store, limits.time);
        match compiled.pre.instantiate(&mut store) {
            Ok(instance) => Ok(Self { store, instance }),
            Err(error) => Err(classify(&error, &store, limits.time, true)),
        }
    }

    /// Calls into the guest under a time limit. After an error the guest must not be used again.
    pub(super) fn call<T>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, PolicyError> {
        set_deadline(&mut self.store, limit);
        call(self).map_err(|error| classify(&error, &self.store, limit, false))
    }

    fn fuel_used(&self) -> u64 {
        u64::MAX - self.store.get_fuel().unwrap_or(u64::MAX)
    }
}

/// Epochs tick once per [`TICK`]; one more than the limit, because the current one may be about to end.
fn set_deadline(store: &mut Store<State>, limit: Duration) {
    let ticks = u64::try_from(limit.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX / 2);
    store.set_epoch_deadline(ticks.min(u64::MAX / 2) + 1);
}

/// Tells causes apart by the type of the error and by what the limiter recorded, never by text.
fn classify(error: &Error, store: &Store<State>, limit: Duration, instantiating: bool) -> PolicyError {
    let state = store.data();
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    if let Some(call) = error.downcast_ref::<NotOffered>() {
        return PolicyError::Trap { trap: call.to_string() };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => PolicyError::Deadline { limit_ms },
        Some(Trap::OutOfFuel) => PolicyError::OutOfFuel { limit: u64::MAX },
        Some(Trap::StackOverflow) => PolicyError::StackOverflow,
        _ if state.refused_memory => PolicyError::OutOfMemory { limit_bytes: state.memory_limit },
        Some(trap) => PolicyError::Trap { trap: trap.to_string() },
        None if instantiating => PolicyError::NoRoom { message: format!("{error:#}") },
        None => PolicyError::Malformed { message: format!("{error:#}") },
    }
}

impl ResourceLimiter for State {
    /// Sums over all memories of the store: a limit for each would let a guest have as many as it likes.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool, Error> {
        let wanted = self.memory_used.saturating_add(desired.saturating_sub(current));
        let allowed = wanted <= self.memory_limit && maximum.is_none_or(|max| desired <= max);
        if allowed {
            self.memory_used = wanted;
        } else {
            self.refused_memory = true;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool, Error> {
        // The pooling allocator's table size is the hard limit; refuse before it is reached.
        Ok(desired <= 20_000)
    }
}
