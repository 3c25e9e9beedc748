//! `decide`: a warm instance per thread, because a request cannot wait for an instantiation.
//!
//! Each thread keeps one instance for each policy that it has asked lately. An instance is thrown away after any
//! error, after [`RECYCLE_AFTER`] calls (so that nothing can come to rely on what an instance remembers), and when the
//! policy that it belongs to is no longer the slot's.

use std::{cell::RefCell, sync::Arc};

use wasmtime::Error;

use super::{convert, guest::Configured, policy::Policy, world::World};
use crate::policy::{error::PolicyError, port::Target};

/// Calls after which an instance is replaced: often enough to bound what it hoards, rarely enough to cost nothing
/// (5 us of instantiation over 100 000 calls).
const RECYCLE_AFTER: u32 = 100_000;

/// Instances that a thread keeps; the least recently used goes first.
const KEPT: usize = 64;

struct Warm {
    digest: Arc<str>,
    settings: Arc<str>,
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
        WARM.with_borrow_mut(|kept| {
            let known = kept.iter().position(|w| w.is(self) && w.calls < RECYCLE_AFTER);
            let mut warm = if let Some(at) = known {
                kept.remove(at)
            } else {
                kept.retain(|w| !w.is(self));
                Warm::new(self)?
            };
            warm.calls += 1;
            let Configured { guest, world } = &mut warm.configured;
            let choice = guest.call(self.limits().decide_time, |guest| match world {
                World::Routing { decide: Some(decide), .. } => {
                    decide.cutover_policy_decide().call_decide(&mut guest.store, frame)
                }
                _ => Err(Error::msg("the policy does not export `decide`")),
            });
            let choice = choice.map(convert::choice);
            if choice.is_ok() {
                kept.truncate(KEPT - 1);
                kept.insert(0, warm);
            }
            choice
        })
    }
}

impl Warm {
    fn new(policy: &Policy) -> Result<Self, PolicyError> {
        Ok(Self {
            digest: Arc::clone(policy.digest()),
            settings: Arc::clone(&policy.settings),
            configured: policy.configured()?,
            calls: 0,
        })
    }

    fn is(&self, policy: &Policy) -> bool {
        Arc::ptr_eq(&self.settings, &policy.settings) && self.digest == *policy.digest()
    }
}
