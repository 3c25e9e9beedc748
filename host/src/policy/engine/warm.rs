//! `decide`: a warm instance per thread, because a request cannot wait for an instantiation.
//!
//! Each thread keeps one instance for each policy that it has asked lately. An instance is thrown away after any
//! error, after [`RECYCLE_AFTER`] calls (so that nothing can come to rely on what an instance remembers), and, once the
//! thread needs another one, when nobody holds the policy that it belongs to. A thread keeps at most one for each seat
//! that the engine gives out, so all threads together never have more than the engine has room for.

use std::{
    cell::RefCell,
    sync::{Arc, Weak},
};

use wasmtime::Error;

use super::{
    Seat, contract, convert,
    guest::{Configured, Span},
    policy::Policy,
    world::World,
};
use crate::policy::{error::PolicyError, port::Target};

/// Calls after which an instance is replaced: often enough to bound what it hoards, rarely enough to cost nothing
/// (5 us of instantiation over 100 000 calls).
const RECYCLE_AFTER: u32 = 100_000;

struct Warm {
    /// Tells policies apart, and whether this one is still there.
    seat: Weak<Seat>,
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
        let Some(seat) = &self.seat else {
            return Err(PolicyError::MissingInterface { interface: contract::name("decide") });
        };
        let choice = WARM.with_borrow_mut(|kept| {
            let known = kept.iter().position(|warm| warm.is(seat) && warm.calls < RECYCLE_AFTER);
            let mut warm = if let Some(at) = known {
                kept.remove(at)
            } else {
                kept.retain(|warm| warm.seat.strong_count() > 0 && !warm.is(seat));
                kept.truncate(self.seats().saturating_sub(1));
                Warm { seat: Arc::downgrade(seat), configured: self.configured()?, calls: 0 }
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

    fn is(&self, seat: &Arc<Seat>) -> bool {
        std::ptr::eq(self.seat.as_ptr(), Arc::as_ptr(seat))
    }
}
