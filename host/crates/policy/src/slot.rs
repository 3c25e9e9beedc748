//! A slot: who is in charge of one kind of question of one migration, who was before, and who stands by.
//!
//! A swap is one pointer: questions under way end on the policy that they began with, the next one goes to the new. A
//! candidate is asked the same questions, and nobody acts on what it says.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{ask::PolicyPort, candidate::Candidate};
use crate::installed::InstalledPolicy;
use cutover_model::port::Kind;

/// Which policy answers a slot's question.
#[derive(Debug, Clone)]
pub enum Charge {
    /// The policy in charge.
    Active(Arc<dyn PolicyPort>),
    /// None, because the one that was in charge failed too often and there was none before it.
    Held,
    /// None, because none was ever put in charge.
    Vacant,
}

/// The place of one kind of policy in one migration.
#[derive(Debug, Default)]
pub struct Slot(ArcSwap<Inside>);

/// What a slot has; replaced as a whole.
#[derive(Debug, Clone, Default)]
struct Inside {
    active: Option<Arc<Active>>,
    /// The policy that was in charge before, to go back to.
    previous: Option<Arc<InstalledPolicy>>,
    candidate: Option<Arc<Candidate>>,
    /// Why no policy is in charge, if the host took it out.
    held: Option<Arc<String>>,
}

/// A policy in charge, with its memory: one that takes over never finds the memory of another.
#[derive(Debug)]
struct Active {
    installed: Arc<InstalledPolicy>,
    memory: Mutex<Vec<u8>>,
}

impl Active {
    fn new(installed: Arc<InstalledPolicy>, memory: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { installed, memory: Mutex::new(memory) })
    }
}

impl Slot {
    /// The policy in charge; none where a kind is optional and not configured, or while the slot is held.
    pub fn active(&self) -> Option<Arc<dyn PolicyPort>> {
        self.0.load().active.as_ref().map(|active| Arc::clone(&active.installed.policy))
    }

    /// Which policy is in charge, or why none is.
    pub fn charge(&self) -> Charge {
        let inside = self.0.load();
        match (&inside.active, &inside.held) {
            (Some(active), _) => Charge::Active(Arc::clone(&active.installed.policy)),
            (None, Some(_)) => Charge::Held,
            (None, None) => Charge::Vacant,
        }
    }

    /// The policy in charge and what people call it.
    pub fn installed(&self) -> Option<Arc<InstalledPolicy>> {
        self.0.load().active.as_ref().map(|active| Arc::clone(&active.installed))
    }

    /// The one that was in charge before, to go back to.
    pub fn previous(&self) -> Option<Arc<InstalledPolicy>> {
        self.0.load().previous.clone()
    }

    /// The one that runs beside the one in charge.
    pub fn candidate(&self) -> Option<Arc<Candidate>> {
        self.0.load().candidate.clone()
    }

    /// Why no policy is in charge, if the slot is held.
    pub fn held(&self) -> Option<Arc<String>> {
        self.0.load().held.clone()
    }

    /// Puts a policy in charge, with what it remembers; the one that it replaces can be gone back to.
    pub fn activate(&self, installed: InstalledPolicy, memory: Vec<u8>) {
        let active = Active::new(Arc::new(installed), memory);
        self.0.rcu(|inside| {
            let replaced = inside.active.as_ref().map(|active| Arc::clone(&active.installed));
            let previous = replaced.or_else(|| inside.previous.clone());
            Inside { active: Some(Arc::clone(&active)), previous, candidate: inside.candidate.clone(), held: None }
        });
    }

    /// Puts the previous policy back in charge; false if there is none. The one that was in charge is gone.
    pub fn revert(&self, memory: Vec<u8>) -> bool {
        let Some(previous) = self.previous() else { return false };
        let active = Active::new(previous, memory);
        self.0.rcu(|inside| Inside {
            active: Some(Arc::clone(&active)),
            previous: None,
            candidate: inside.candidate.clone(),
            held: None,
        });
        true
    }

    /// Takes the policy in charge out, and says why.
    pub fn hold(&self, why: String) {
        let held = Some(Arc::new(why));
        self.0.rcu(|inside| Inside { active: None, held: held.clone(), ..Inside::clone(inside) });
    }

    /// The policy in charge remembers nothing any more; false if it did not anyhow.
    pub fn forget(&self) -> bool {
        let inside = self.0.load();
        let Some(active) = &inside.active else { return false };
        !std::mem::take(&mut *active.memory.lock()).is_empty()
    }

    /// Says which policy can be gone back to, when a host starts.
    pub fn restore_previous(&self, installed: InstalledPolicy) {
        let previous = Some(Arc::new(installed));
        self.0.rcu(|inside| Inside { previous: previous.clone(), ..Inside::clone(inside) });
    }

    /// Sets the candidate; none removes it.
    pub fn stand_by(&self, candidate: Option<&Arc<Candidate>>) {
        self.0.rcu(|inside| Inside { candidate: candidate.cloned(), ..Inside::clone(inside) });
    }

    /// The policy in charge together with its memory.
    pub fn question(&self) -> Option<(Arc<InstalledPolicy>, Vec<u8>)> {
        let inside = self.0.load();
        let active = inside.active.as_ref()?;
        Some((Arc::clone(&active.installed), active.memory.lock().clone()))
    }

    /// Keeps what a policy wants to remember, unless another has taken over since it was asked.
    pub fn remember(&self, installed: &Arc<InstalledPolicy>, memory: Vec<u8>) {
        let inside = self.0.load();
        if let Some(active) = inside.active.as_ref().filter(|active| Arc::ptr_eq(&active.installed, installed)) {
            *active.memory.lock() = memory;
        }
    }
}

/// The slots of one migration, one for each kind.
#[derive(Debug, Default)]
pub struct Slots {
    routing: Slot,
    stages: Slot,
    rollback: Slot,
    comparison: Slot,
    adapter: Slot,
}

impl Slots {
    /// The slot of a kind.
    pub const fn get(&self, kind: Kind) -> &Slot {
        match kind {
            Kind::Routing => &self.routing,
            Kind::Stages => &self.stages,
            Kind::Rollback => &self.rollback,
            Kind::Comparison => &self.comparison,
            Kind::Adapter => &self.adapter,
        }
    }

    /// All slots, in the order in which people are shown them.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Slot)> {
        let shown = [Kind::Routing, Kind::Stages, Kind::Rollback, Kind::Comparison, Kind::Adapter];
        shown.into_iter().map(|kind| (kind, self.get(kind)))
    }

    /// The policies in charge, with their kinds; kinds without one are left out.
    pub fn active(&self) -> impl Iterator<Item = (Kind, Arc<InstalledPolicy>)> + use<'_> {
        self.iter().filter_map(|(kind, slot)| Some((kind, slot.installed()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slot_of_a_kind_is_its_own() {
        let slots = Slots::default();
        for kind in Kind::ALL {
            slots.get(kind).hold(kind.name().into());
        }
        let held: Vec<_> = slots.iter().map(|(kind, slot)| (kind.name(), slot.held().unwrap().to_string())).collect();
        assert!(held.iter().all(|(name, why)| name == why), "{held:?}");
        assert_eq!(held.len(), Kind::ALL.len());
        assert!(matches!(slots.get(Kind::Routing).charge(), Charge::Held));
        assert!(matches!(Slot::default().charge(), Charge::Vacant));
    }
}
