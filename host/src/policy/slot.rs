//! A slot: the policy that is in charge of one kind of question of one migration, and the one before it.
//!
//! A swap is one pointer: questions under way end on the policy that they began with, the next one goes to the new.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::{engine::Policy, port::Kind};

/// The policy in charge, the one before it, and what the one in charge remembers.
#[derive(Debug, Default)]
pub struct Slot {
    active: ArcSwapOption<Policy>,
    previous: ArcSwapOption<Policy>,
    memory: Mutex<Vec<u8>>,
}

impl Slot {
    /// The policy in charge; none where a kind is optional and not configured.
    pub fn active(&self) -> Option<Arc<Policy>> {
        self.active.load_full()
    }

    /// The policy that was in charge before.
    pub fn previous(&self) -> Option<Arc<Policy>> {
        self.previous.load_full()
    }

    /// Puts a policy in charge, with what it remembers, and returns the one that it replaces.
    pub fn activate(&self, policy: Arc<Policy>, memory: Vec<u8>) -> Option<Arc<Policy>> {
        // Memory first and under its lock: who asks takes both under the same lock.
        let mut kept = self.memory.lock();
        *kept = memory;
        let replaced = self.active.swap(Some(policy));
        self.previous.store(replaced.clone());
        replaced
    }

    /// The policy in charge together with its memory.
    pub fn question(&self) -> Option<(Arc<Policy>, Vec<u8>)> {
        let memory = self.memory.lock();
        Some((self.active.load_full()?, memory.clone()))
    }

    /// Keeps what a policy wants to remember, unless another has taken over since it was asked.
    pub fn remember(&self, policy: &Arc<Policy>, memory: Vec<u8>) {
        let mut kept = self.memory.lock();
        if self.active.load().as_ref().is_some_and(|active| Arc::ptr_eq(active, policy)) {
            *kept = memory;
        }
    }
}

/// The slots of one migration, one for each kind.
#[derive(Debug)]
pub struct Slots(BTreeMap<Kind, Slot>);

impl Default for Slots {
    fn default() -> Self {
        Self(Kind::ALL.into_iter().map(|kind| (kind, Slot::default())).collect())
    }
}

impl Slots {
    /// The slot of a kind.
    pub fn get(&self, kind: Kind) -> &Slot {
        // Every kind has a slot from `default` on.
        static EMPTY: std::sync::LazyLock<Slot> = std::sync::LazyLock::new(Slot::default);
        self.0.get(&kind).unwrap_or(&EMPTY)
    }

    /// The policies in charge.
    pub fn active(&self) -> impl Iterator<Item = (Kind, Arc<Policy>)> + use<'_> {
        self.0.iter().filter_map(|(kind, slot)| Some((*kind, slot.active()?)))
    }
}
