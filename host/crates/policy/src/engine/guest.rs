//! One instance under its limits: a store of its own, an instance in it, settings, calls, and what became of them.
//!
//! Any error kills a store for good (a trap leaves it unusable), so whoever holds a [`Guest`] drops it on the first one.

use wasmtime::{Error, PoolConcurrencyLimitError, ResourceLimiter, Store, Trap, component::Instance};

use super::{
    Compiled, Engine, Kind, KindLimits, PolicyError, convert,
    ticker::{TICK, Wakeful},
    world::World,
};
use crate::{
    check,
    engine::wasi_stub::{Chance, NotOffered},
};

/// What a store knows of its guest: what it may use, the memory it has, and whether it wanted more.
pub(super) struct State {
    limits: KindLimits,
    memory_used: usize,
    refused_memory: bool,
    /// Whose time is running.
    span: Span,
    wakeful: Wakeful,
    /// Only the stand-in for WASI asks for it.
    pub(super) chance: Chance,
}

/// Which time limit a call has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// That of a question.
    Question,
    /// What is left of the one before: instantiation, configuration and the question itself share one.
    Rest,
    /// That of `decide`.
    Decide,
}

/// A store with an instance in it.
pub(super) struct Guest {
    pub(super) store: Store<State>,
    pub(super) instance: Instance,
}

/// An instance that took its settings, and the functions of its kind.
pub(super) struct Configured {
    pub(super) guest: Guest,
    pub(super) world: World,
}

impl Configured {
    /// An instance of a component, configured for a kind, within the time that a span has.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) fn new(
        engine: &Engine,
        compiled: &Compiled,
        (kind, settings): (Kind, &str),
        span: Span,
    ) -> Result<Self, PolicyError> {
        Self::of(Guest::new(engine, compiled, kind, span)?, compiled, kind, settings)
    }

    /// The same of an instance that is there and was not asked anything yet.
    pub(super) fn of(mut guest: Guest, compiled: &Compiled, kind: Kind, settings: &str) -> Result<Self, PolicyError> {
        let limits = guest.store.data().limits;
        limits.admit_input(settings.len())?;
        let policy = compiled.places.policy(&mut guest)?;
        let configured = guest
            .call(Span::Rest, |guest| policy.cutover_policy_policy().call_configure(&mut guest.store, settings))?;
        configured.map_err(|problems| PolicyError::Settings { problems: check::names(convert::problems(problems)) })?;
        let world = compiled.places.load(kind, &mut guest)?;
        Ok(Self { guest, world })
    }
}

impl Guest {
    /// An instance that was asked nothing yet. It has the time of `span`, with what is asked of it as [`Span::Rest`].
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(super) fn new(engine: &Engine, compiled: &Compiled, kind: Kind, span: Span) -> Result<Self, PolicyError> {
        let limits = *engine.limits.of(kind);
        let state = State {
            limits,
            memory_used: 0,
            refused_memory: false,
            span,
            wakeful: engine.ticker.wakeful(),
            chance: Chance::default(),
        };
        let mut store = Store::new(&engine.wasmtime, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(limits.output_bytes);
        // Fuel is metered, not limited: time is what runs out in production.
        store.set_fuel(u64::MAX).map_err(|e| PolicyError::NoRoom { message: format!("{e:#}") })?;
        set_deadline(&mut store, span);
        match compiled.pre.instantiate(&mut store) {
            Ok(instance) => Ok(Self { store, instance }),
            Err(error) => Err(classify(&error, &store)),
        }
    }

    /// Calls into the guest under a time limit. After an error the guest must not be used again.
    pub(super) fn call<T>(
        &mut self,
        span: Span,
        call: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, PolicyError> {
        if span != Span::Rest {
            set_deadline(&mut self.store, span);
        }
        call(self).map_err(|error| classify(&error, &self.store))
    }

    /// Units of fuel that were used since the store was made or [`Self::reset_fuel`] was called.
    pub(super) fn fuel_used(&self) -> u64 {
        u64::MAX - self.store.get_fuel().unwrap_or(u64::MAX)
    }

    /// Meters from zero again.
    pub(super) fn reset_fuel(&mut self) {
        // Fuel is on in every engine, so this cannot fail; if it did, the meter would run on.
        drop(self.store.set_fuel(u64::MAX));
    }

    /// What it may use.
    pub(super) fn limits(&self) -> &KindLimits {
        &self.store.data().limits
    }

    /// Bytes of linear memory over all memories. Memories only grow, so this is the most that there ever was.
    pub(super) fn memory_peak(&self) -> usize {
        self.store.data().memory_used
    }
}

/// Epochs tick once per [`TICK`]; one more than the limit, because the current one may be about to end.
fn set_deadline(store: &mut Store<State>, span: Span) {
    store.data_mut().span = span;
    let limit = store.data().limits.span(span);
    let ticks = u64::try_from(limit.as_nanos() / TICK.as_nanos()).unwrap_or(u64::MAX / 2);
    store.set_epoch_deadline(ticks.min(u64::MAX / 2) + 1);
    store.data().wakeful.asks();
}

/// Tells causes apart by the type of the error and by what the limiter recorded, never by text.
fn classify(error: &Error, store: &Store<State>) -> PolicyError {
    let State { limits, refused_memory, span, .. } = store.data();
    if let Some(call) = error.downcast_ref::<NotOffered>() {
        return PolicyError::Trap { trap: call.to_string() };
    }
    if error.is::<PoolConcurrencyLimitError>() {
        return PolicyError::NoRoom { message: said(error) };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::Interrupt) => limits.passed(*span),
        Some(Trap::OutOfFuel) => PolicyError::OutOfFuel { limit: u64::MAX },
        Some(Trap::StackOverflow) => PolicyError::StackOverflow,
        _ if *refused_memory => PolicyError::OutOfMemory { limit_bytes: limits.memory_bytes },
        Some(trap) => PolicyError::Trap { trap: trap.to_string() },
        None => PolicyError::Malformed { message: said(error) },
    }
}

/// What wasmtime says, without end: it may name functions, and a guest's names have any length.
pub(super) fn said(error: &Error) -> String {
    crate::error::said(&format!("{error:#}"))
}

impl ResourceLimiter for State {
    /// Sums over all memories of the store: a limit for each would let a guest have as many as it likes.
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool, Error> {
        let wanted = self.memory_used.saturating_add(desired.saturating_sub(current));
        let allowed = wanted <= self.limits.memory_bytes && maximum.is_none_or(|max| desired <= max);
        if allowed {
            self.memory_used = wanted;
        } else {
            self.refused_memory = true;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, maximum: Option<usize>) -> Result<bool, Error> {
        Ok(desired <= self.limits.table_elements && maximum.is_none_or(|max| desired <= max))
    }

    fn instances(&self) -> usize {
        wide(self.limits.instances)
    }

    fn memories(&self) -> usize {
        wide(self.limits.memories)
    }

    fn tables(&self) -> usize {
        wide(self.limits.tables)
    }
}

fn wide(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
