//! `decide`: a warm instance per thread, because a request cannot wait for an instantiation.
//!
//! Each thread keeps one instance for each policy that it has asked lately. An instance is thrown away after any
//! error, after [`RECYCLE_AFTER`] calls (so that nothing can come to rely on what an instance remembers), and, once the
//! thread needs another one, when nobody holds the policy that it belongs to. A thread keeps at most one for each permit
//! that the engine gives out, so all threads together never have more than the engine has room for.
//!
//! All migrations are served on the same threads, so a policy that takes long to take its settings must not do so there.
//! One that took longer than `decide` may when it was admitted has an instance for each thread from then on; what has to
//! replace them is made elsewhere, one after the other for all policies, and its requests go to V1 until there is one.
//! Others are made while a request waits, and have no more time than `decide` has.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use wasmtime::Error;

use super::{
    DecidePermit, contract, convert,
    guest::{Configured, Span},
    policy::Policy,
    world::World,
};
use crate::error::PolicyError;
use cutover_model::{clock, port::Target};

/// Calls after which an instance is replaced: often enough to bound what it hoards, rarely enough to cost nothing
/// (5 us of instantiation over 100 000 calls).
const RECYCLE_AFTER: u32 = 100_000;

struct Warm {
    /// Tells policies apart, and whether this one is still there.
    permit: Weak<DecidePermit>,
    configured: Configured,
    calls: u32,
}

thread_local! {
    static WARM: RefCell<Vec<Warm>> = const { RefCell::new(Vec::new()) };
}

impl Policy {
    /// Asks where one request goes. `frame` is packed as [`cutover_contract::frame`] says. Blocks this thread for at
    /// most the `decide` time limit.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn decide(&self, frame: &[u8]) -> Result<Target, PolicyError> {
        let limits = self.limits();
        limits.admit_input(frame.len())?;
        self.gate.open()?;
        let Some(permit) = &self.permit else {
            return Err(PolicyError::MissingInterface { interface: contract::name("decide") });
        };
        let choice = WARM.with_borrow_mut(|kept| {
            let known = kept.iter().position(|warm| warm.is(permit) && warm.calls < RECYCLE_AFTER);
            let mut warm = if let Some(at) = known {
                kept.remove(at)
            } else {
                kept.retain(|warm| warm.permit.strong_count() > 0 && !warm.is(permit));
                kept.truncate(self.permits().saturating_sub(1));
                Warm { permit: Arc::downgrade(permit), configured: self.instance()?, calls: 0 }
            };
            warm.calls += 1;
            let choice = warm.decide(frame)?;
            kept.insert(0, warm);
            Ok(choice)
        });
        self.gate.learn(&choice, limits.decide_time);
        choice
    }
}

/// Instances that were made off the request's path.
#[derive(Default)]
pub(super) struct Spares {
    ready: Mutex<Vec<Configured>>,
    /// Some are being made.
    making: AtomicBool,
    /// None is made while a request waits: it would take too long.
    slow: AtomicBool,
}

impl Spares {
    fn keep(&self, configured: Configured) {
        self.ready.lock().push(configured);
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("ready", &self.ready.lock().len()).finish_non_exhaustive()
    }
}

impl Policy {
    /// An instance for this thread: one that is ready, or one that is made within the time that `decide` has.
    fn instance(&self) -> Result<Configured, PolicyError> {
        if let Some(ready) = self.spares.ready.lock().pop() {
            return Ok(ready);
        }
        if !self.spares.slow.load(Ordering::Relaxed) {
            let made = self.configured_within(Span::Decide);
            if !matches!(made, Err(PolicyError::Deadline { .. })) {
                return made;
            }
        }
        self.make_spares();
        Err(self.limits().passed(Span::Decide))
    }

    /// Keeps the first instance, which took so long. If that is too long for a request to wait, there is one for each
    /// thread from the start.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn keep_first(&self, first: Configured, took: Duration) -> Result<(), PolicyError> {
        self.spares.keep(first);
        let limit = self.limits().decide_time;
        let mut slow = took > limit;
        if slow {
            for _ in 1..self.threads() {
                let started = clock::mono();
                self.spares.keep(self.configured()?);
                // The first may have been interrupted by others.
                slow &= clock::mono().since(started) > limit;
            }
        }
        self.spares.slow.store(slow, Ordering::Relaxed);
        Ok(())
    }

    /// Makes an instance for each thread, on one of its own.
    fn make_spares(&self) {
        if self.spares.making.swap(true, Ordering::Relaxed) {
            return;
        }
        let policy = self.clone();
        let making = thread::Builder::new().name("cutover-instances".into()).spawn(move || {
            while policy.spares.ready.lock().len() < policy.threads() {
                // However many policies want some, one is made at a time: requests need the processors.
                let _turn = policy.making().lock();
                // What keeps it from being made is told by those who need it.
                let Ok(made) = policy.configured() else { break };
                policy.spares.keep(made);
            }
            policy.spares.making.store(false, Ordering::Relaxed);
        });
        if let Err(error) = making {
            self.spares.making.store(false, Ordering::Relaxed);
            tracing::error!(%error, "no instances of a policy can be made beside the requests that wait for them");
        }
    }
}

impl Warm {
    fn decide(&mut self, frame: &[u8]) -> Result<Target, PolicyError> {
        let Configured { guest, world } = &mut self.configured;
        let choice = guest.call(Span::Decide, |guest| {
            let World::Routing { decide: Some(decide), .. } = world else {
                return Err(Error::msg("the policy was admitted without `decide`"));
            };
            decide.cutover_policy_decide().call_decide(&mut guest.store, frame)
        });
        choice.map(convert::choice)
    }

    fn is(&self, permit: &Arc<DecidePermit>) -> bool {
        std::ptr::eq(self.permit.as_ptr(), Arc::as_ptr(permit))
    }
}
