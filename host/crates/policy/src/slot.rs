//! A slot: who is in charge of one kind of question of one migration, who was before, and who stands by.
//!
//! A swap is one pointer: questions under way end on the policy that they began with, the next one goes to the new. A
//! candidate is asked the same questions, and nobody acts on what it says.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::{candidate::Candidate, engine::Policy};
use crate::installed::InstalledPolicy;
use cutover_model::port::Kind;

/// Who is in charge.
#[derive(Debug, Clone)]
pub enum Charge {
    /// A policy.
    Active(Arc<Policy>),
    /// Nobody, because the one that was failed too often and there was none before it.
    Held,
    /// Nobody was ever put in charge.
    Vacant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Slot {
    active: ArcSwapOption<InstalledPolicy>,
    previous: ArcSwapOption<InstalledPolicy>,
    candidate: ArcSwapOption<Candidate>,
    held: ArcSwapOption<String>,
    memory: Mutex<Vec<u8>>,
}

impl Slot {
    /// The policy in charge; none where a kind is optional and not configured, or while the slot is held.
    pub fn active(&self) -> Option<Arc<Policy>> {
        self.active.load().as_ref().map(|installed| Arc::clone(&installed.policy))
    }

    /// Who is in charge.
    pub fn charge(&self) -> Charge {
        match (self.active(), self.held.load().is_some()) {
            (Some(policy), _) => Charge::Active(policy),
            (None, true) => Charge::Held,
            (None, false) => Charge::Vacant,
        }
    }

    /// The policy in charge and what people call it.
    pub fn installed(&self) -> Option<Arc<InstalledPolicy>> {
        self.active.load_full()
    }

    /// The one that was in charge before, to go back to.
    pub fn previous(&self) -> Option<Arc<InstalledPolicy>> {
        self.previous.load_full()
    }

    /// The one that runs beside the one in charge.
    pub fn candidate(&self) -> Option<Arc<Candidate>> {
        self.candidate.load_full()
    }

    /// Why nobody is in charge, if the slot is held.
    pub fn held(&self) -> Option<Arc<String>> {
        self.held.load_full()
    }

    /// Puts a policy in charge, with what it remembers; the one that it replaces can be gone back to.
    pub fn activate(&self, installed: InstalledPolicy, memory: Vec<u8>) {
        // Memory first and under its lock: who asks takes both under the same lock.
        let mut kept = self.memory.lock();
        *kept = memory;
        let replaced = self.active.swap(Some(Arc::new(installed)));
        self.held.store(None);
        if replaced.is_some() {
            self.previous.store(replaced);
        }
    }

    /// Puts the previous policy back in charge; false if there is none. The one that was in charge is gone.
    pub fn revert(&self, memory: Vec<u8>) -> bool {
        let mut kept = self.memory.lock();
        let Some(previous) = self.previous.swap(None) else { return false };
        *kept = memory;
        self.active.store(Some(previous));
        self.held.store(None);
        true
    }

    /// Nobody is in charge any more, and why.
    pub fn hold(&self, why: String) {
        let mut kept = self.memory.lock();
        kept.clear();
        self.held.store(Some(Arc::new(why)));
        self.active.store(None);
    }

    /// Whoever is in charge remembers nothing any more; false if it did not anyhow.
    pub fn forget(&self) -> bool {
        let mut kept = self.memory.lock();
        let remembered = !kept.is_empty();
        kept.clear();
        remembered
    }

    /// Says who can be gone back to, when a host starts.
    pub fn restore_previous(&self, installed: InstalledPolicy) {
        self.previous.store(Some(Arc::new(installed)));
    }

    /// Sets or removes the candidate.
    pub fn stand_by(&self, candidate: Option<Arc<Candidate>>) {
        self.candidate.store(candidate);
    }

    /// The policy in charge together with its memory.
    pub fn question(&self) -> Option<(Arc<InstalledPolicy>, Vec<u8>)> {
        let memory = self.memory.lock();
        Some((self.active.load_full()?, memory.clone()))
    }

    /// Keeps what a policy wants to remember, unless another has taken over since it was asked.
    pub fn remember(&self, installed: &Arc<InstalledPolicy>, memory: Vec<u8>) {
        let mut kept = self.memory.lock();
        if self.active.load().as_ref().is_some_and(|active| Arc::ptr_eq(active, installed)) {
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

    /// All slots.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Slot)> {
        self.0.iter().map(|(kind, slot)| (*kind, slot))
    }

    /// The policies in charge.
    pub fn active(&self) -> impl Iterator<Item = (Kind, Arc<InstalledPolicy>)> + use<'_> {
        self.0.iter().filter_map(|(kind, slot)| Some((*kind, slot.installed()?)))
    }
}
