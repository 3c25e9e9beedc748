//! Which worker each session belongs to, and how much of the session's state that worker has.
//!
//! Pure and bounded: when there are too many sessions, those that were not asked about for longest are forgotten. A
//! session without a home gets one with its next call and is brought up to date from the start: that is slower, and has
//! no other effect.

use std::{collections::HashMap, sync::Arc};

/// Where a session is at home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The slot, counted from 0.
    pub slot: usize,
    /// The worker that knows something of the session, by its number; 0 for none.
    pub worker: u64,
    /// The version of the session's state that it knows.
    pub version: u64,
}

/// The homes of a pool's sessions.
#[derive(Debug)]
pub struct Affinity {
    /// Sessions that were asked about since the last time that this was full, and those from before that.
    young: HashMap<Arc<str>, Home>,
    old: HashMap<Arc<str>, Home>,
    /// How many sessions are at home in each slot.
    residents: Vec<usize>,
    most: usize,
}

impl Affinity {
    /// For so many slots. Remembers at most `most` sessions, and always the last half of them that were asked about.
    pub fn new(slots: usize, most: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), residents: vec![0; slots], most }
    }

    /// Where a session is at home.
    pub fn get(&mut self, session: &Arc<str>) -> Option<Home> {
        if let Some(home) = self.young.get(session) {
            return Some(*home);
        }
        let home = self.old.remove(session)?;
        self.keep(session, home);
        Some(home)
    }

    /// Gives a session a home, or another one. What is known of it there is nothing.
    pub fn settle(&mut self, session: &Arc<str>, slot: usize) {
        let before = self.young.get(session).copied().or_else(|| self.old.remove(session));
        if let Some(before) = before {
            if before.slot == slot {
                self.keep(session, before);
                return;
            }
            self.leave(before.slot);
        }
        if let Some(residents) = self.residents.get_mut(slot) {
            *residents += 1;
        }
        self.keep(session, Home { slot, worker: 0, version: 0 });
    }

    /// Takes note that a worker knows a session up to a version.
    pub fn learned(&mut self, session: &Arc<str>, slot: usize, worker: u64, version: u64) {
        if let Some(home) = self.young.get_mut(session).filter(|home| home.slot == slot) {
            *home = Home { slot, worker, version };
        }
    }

    /// Sessions at home in a slot.
    pub fn residents(&self, slot: usize) -> usize {
        self.residents.get(slot).copied().unwrap_or(0)
    }

    /// Sessions that have a home.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether no session has a home.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets where sessions are at home.
    pub fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.residents.fill(0);
    }

    fn keep(&mut self, session: &Arc<str>, home: Home) {
        if self.young.len() >= self.most.div_ceil(2) && !self.young.contains_key(session) {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            for home in forgotten.into_values() {
                self.leave(home.slot);
            }
        }
        self.young.insert(Arc::clone(session), home);
    }

    fn leave(&mut self, slot: usize) {
        if let Some(residents) = self.residents.get_mut(slot) {
            *residents = residents.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_worker_knows_stays_with_it_when_the_session_moves() {
        let (mut homes, s) = (Affinity::new(2, 10), Arc::<str>::from("s"));
        homes.settle(&s, 0);
        homes.learned(&s, 0, 7, 3);
        assert_eq!(homes.get(&s), Some(Home { slot: 0, worker: 7, version: 3 }));
        homes.learned(&s, 1, 8, 9);
        homes.settle(&s, 0);
        assert_eq!(homes.get(&s), Some(Home { slot: 0, worker: 7, version: 3 }), "nothing happened there");
        homes.settle(&s, 1);
        assert_eq!(homes.get(&s), Some(Home { slot: 1, worker: 0, version: 0 }));
        assert_eq!((homes.residents(0), homes.residents(1)), (0, 1));
    }

    proptest! {
        /// However many sessions come, what is kept is bounded, the latest are in it, and residents are counted right.
        #[test]
        fn homes_are_bounded_and_counted(
            most in 2_usize..12, steps in prop::collection::vec((0_u8..3, 0_usize..20, 0_usize..3), 0..200),
        ) {
            let mut homes = Affinity::new(3, most);
            for (what, session, slot) in steps {
                let session: Arc<str> = session.to_string().into();
                match what {
                    0 => homes.settle(&session, slot),
                    1 => {
                        homes.get(&session);
                    }
                    _ => homes.learned(&session, slot, 1, 1),
                }
                if what == 0 {
                    prop_assert_eq!(homes.get(&session).map(|h| h.slot), Some(slot));
                }
                prop_assert!(homes.len() <= most + 1);
                let all: Vec<_> = homes.young.values().chain(homes.old.values()).map(|h| h.slot).collect();
                for slot in 0..3 {
                    prop_assert_eq!(homes.residents(slot), all.iter().filter(|s| **s == slot).count());
                }
            }
        }
    }
}
