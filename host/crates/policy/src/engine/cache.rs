//! Compiled components by digest and what they may import, in memory: a component that is activated a thousand times is compiled once.
//!
//! Whoever asks for a component that is just being compiled waits for that instead of compiling it again. Bounded by
//! number; the one that was asked for least lately goes first. Policies in charge keep their component whether it is
//! in here or not.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::{Compiled, PolicyError};

/// Components that are kept. A host has some kinds of policies, each in a few versions; code of a Rust guest is about
/// 100 KiB, of a Python one 35 MiB.
const KEPT: usize = 64;

#[derive(Default)]
pub(super) struct Cache {
    /// With their keys; the latest last.
    kept: Mutex<Vec<(String, Compiled)>>,
    /// One lock for each key that is being compiled.
    under_way: Mutex<BTreeMap<String, Weak<Mutex<()>>>>,
}

impl Cache {
    /// What was compiled before, or what `compile` makes now.
    pub(super) fn get_or_compile(
        &self,
        key: &str,
        compile: impl FnOnce() -> Result<Compiled, PolicyError>,
    ) -> Result<Compiled, PolicyError> {
        if let Some(known) = self.get(key) {
            return Ok(known);
        }
        let turn = self.turn(key);
        let _mine = turn.lock();
        // Another may have compiled it while this one waited for its turn.
        if let Some(known) = self.get(key) {
            return Ok(known);
        }
        let compiled = compile()?;
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((key.to_owned(), compiled.clone()));
        Ok(compiled)
    }

    fn get(&self, key: &str) -> Option<Compiled> {
        let mut kept = self.kept.lock();
        let at = kept.iter().position(|(known, _)| known == key)?;
        let entry = kept.remove(at);
        let compiled = entry.1.clone();
        kept.push(entry);
        Some(compiled)
    }

    fn turn(&self, key: &str) -> Arc<Mutex<()>> {
        let mut under_way = self.under_way.lock();
        under_way.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = under_way.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        under_way.insert(key.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("kept", &self.kept.lock().len()).finish_non_exhaustive()
    }
}
