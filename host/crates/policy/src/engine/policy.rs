//! A policy that was admitted: compiled, of the right kind, tried out, and its settings accepted.

use std::{fmt, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    Compiled, DecidePermit, Engine, Kind, KindLimits, PolicyError,
    contract::{self, CONTRACT, Found},
    convert,
    gate::{Gate, Place},
    guest::{Configured, Guest, Span},
    lanes::{Habit, Turn},
    size,
    warm::Spares,
};
use crate::check;
use cutover_model::{
    clock,
    facts::Batch,
    port::{Description, Pair},
};

/// The part of the largest question that a check takes of its own accord. What is left is time: with 8 MiB of batches the
/// policies that ship take up to 200 ms of their 250 on a busy machine, and it is after a stall that there are so many.
const OF_INPUT: usize = 4;

/// See the module.
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
    pub(super) gate: Arc<Gate>,
    /// Whether it computes for long.
    habit: Arc<Habit>,
    /// Turns of those who ask it on threads that they do not own.
    turns: Arc<Semaphore>,
    /// Instances for threads that have none yet.
    pub(super) spares: Arc<Spares>,
    /// What lets it have an instance on every thread, if it is asked per request.
    pub(super) permit: Option<Arc<DecidePermit>>,
}

/// What it costs to get an instance that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct StartUp {
    /// Wall-clock time for a store and an instance.
    pub instantiation: Duration,
    /// Wall-clock time for its settings.
    pub configuration: Duration,
    /// Units of fuel for both.
    pub fuel: u64,
    /// Bytes of linear memory that it then has.
    pub memory: usize,
}

impl Policy {
    /// Admits a compiled component for a kind: checks its exports, tries it out, and hands it its settings.
    ///
    /// # Errors
    /// Why it is not admitted.
    pub fn admit(engine: &Arc<Engine>, compiled: Compiled, kind: Kind, settings: &str) -> Result<Self, PolicyError> {
        if !compiled.kinds.contains(&kind) {
            return Err(match contract::find(&compiled.exports, kind.name()) {
                Found::Unknown(found) => PolicyError::UnknownContract { found, supported: CONTRACT },
                Found::Known(_) | Found::Nothing => {
                    PolicyError::MissingKind { kind, exports: check::names(compiled.exports) }
                }
            });
        }
        engine.limits.of(kind).admit(&compiled.needs)?;
        let permit =
            if kind == Kind::Routing && compiled.decides { Some(Arc::new(engine.decide_permit()?)) } else { None };
        let description = describe(engine, &compiled, kind)?;
        let policy = Self {
            engine: Arc::clone(engine),
            compiled,
            kind,
            settings: settings.into(),
            description: description.into(),
            gate: Arc::new(Gate::new(engine.threads)),
            habit: Arc::default(),
            turns: Arc::new(Semaphore::new(engine.threads.max(1))),
            spares: Arc::default(),
            permit,
        };
        // The first instance checks the type of every export of the kind, which compiling does not.
        let started = clock::mono();
        let first = policy.configured()?;
        if policy.permit.is_some() {
            policy.keep_first(first, clock::mono().since(started))?;
        }
        Ok(policy)
    }

    /// SHA-256 of the component, lower-case hex.
    pub fn digest(&self) -> &Arc<str> {
        &self.compiled.digest
    }

    /// The compiled component, which every policy of the same digest shares.
    pub const fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// Whether it can be asked per request.
    pub const fn decides(&self) -> bool {
        self.compiled.decides
    }

    /// What it may use.
    pub fn limits(&self) -> &KindLimits {
        self.engine.limits.of(self.kind)
    }

    /// How many of the first of these batches are for one check, whatever the policy remembers; at least one, if there
    /// are any, because half a batch says nothing.
    pub fn batches_at_once(&self, batches: &[Batch]) -> usize {
        let limits = self.limits();
        let room = limits.input_bytes.saturating_sub(limits.remember_bytes) / OF_INPUT;
        let fitting = size::batches_within(batches, room);
        fitting.max(1).min(batches.len())
    }

    /// How many of the first of these pairs fit one question.
    ///
    /// # Errors
    /// If not even the first one does, how large it is.
    pub fn pairs_at_once(&self, pairs: &[Pair]) -> Result<usize, PolicyError> {
        match (size::pairs_within(pairs, self.limits().input_bytes), pairs.first()) {
            (0, Some(first)) => self.limits().admit_input(size::pair(first)).map(|()| 1),
            (fitting, _) => Ok(fitting),
        }
    }

    /// Makes an instance, and says what that costs.
    ///
    /// # Errors
    /// Why there is none.
    pub fn start_up(&self) -> Result<StartUp, PolicyError> {
        let started = clock::mono();
        let guest = Guest::new(&self.engine, &self.compiled, self.kind, Span::Question)?;
        let instantiated = clock::mono();
        let configured = Configured::of(guest, &self.compiled, self.kind, &self.settings)?;
        let done = clock::mono();
        Ok(StartUp {
            instantiation: instantiated.since(started),
            configuration: done.since(instantiated),
            fuel: configured.guest.fuel_used(),
            memory: configured.guest.memory_peak(),
        })
    }

    /// See [`PolicyPort::turns`](crate::ask::PolicyPort::turns).
    pub(super) const fn turns(&self) -> &Arc<Semaphore> {
        &self.turns
    }

    /// Waits for the policy's turn, if it computes for long. An adapter, for which callers wait, has its gate.
    pub(super) fn turn_to_compute(&self) -> Option<Turn<'_>> {
        (self.kind != Kind::Adapter && self.habit.is_slow()).then(|| self.engine.lanes.turn())
    }

    /// Lets in a question of so many bytes. A policy that is asked for each call is asked on few threads at once; the
    /// others are asked by one task of their migration.
    pub(super) fn admitted(&self, bytes: usize) -> Result<Option<Place<'_>>, PolicyError> {
        self.limits().admit_input(bytes)?;
        if self.kind == Kind::Adapter { self.gate.enter().map(Some) } else { Ok(None) }
    }

    /// Learns what became of a question, and how long it took.
    pub(super) fn learn<T>(&self, answer: &Result<T, PolicyError>, took: Duration) {
        self.habit.learn(took);
        if self.kind == Kind::Adapter {
            self.gate.learn(answer, self.limits().time);
        }
    }

    /// How many instances for `decide` a thread may keep.
    pub(super) fn permits(&self) -> usize {
        self.engine.permits
    }

    /// A fresh instance that took its settings, in a store of its own.
    pub(super) fn configured(&self) -> Result<Configured, PolicyError> {
        self.configured_within(Span::Question)
    }

    /// The same within the time that a span has.
    pub(super) fn configured_within(&self, span: Span) -> Result<Configured, PolicyError> {
        Configured::new(&self.engine, &self.compiled, (self.kind, &self.settings), span)
    }

    /// Held while an instance is made beside the requests that wait for it.
    pub(super) fn making(&self) -> &Mutex<()> {
        &self.engine.making
    }

    /// Threads that requests are served on.
    pub(super) fn threads(&self) -> usize {
        self.engine.threads
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("kind", &self.kind).field("digest", self.digest()).finish_non_exhaustive()
    }
}

/// Asks an unconfigured instance who it is.
fn describe(engine: &Engine, compiled: &Compiled, kind: Kind) -> Result<Description, PolicyError> {
    let mut guest = Guest::new(engine, compiled, kind, Span::Question)?;
    let policy = compiled.places.policy(&mut guest)?;
    let description = guest.call(Span::Rest, |guest| policy.cutover_policy_policy().call_describe(&mut guest.store))?;
    check::description(convert::description(description))
}
