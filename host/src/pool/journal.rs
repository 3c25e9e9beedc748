//! What every worker of both pools has to know: the `replicate` operations of each session, in order.
//!
//! A worker that is to serve a session is first brought up to the session's latest entry. This one rule covers a V2
//! that starts late, a worker that died and a session that moves: whoever serves a session next catches up first. V1's
//! success is what enters the journal, so that an operation which V1 refused never happens on V2.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Map, Value};

/// Sessions that are kept; more are refused, because dropping one would lose state that a caller was promised.
const MAX_SESSIONS: usize = 100_000;

/// Live entries that a session may have.
const MAX_ENTRIES: usize = 1_000;

/// One operation that both pools have to know.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Counts up within its session, from 1.
    pub version: u64,
    /// The operation.
    pub operation: Arc<str>,
    /// Its arguments.
    pub arguments: Arc<Map<String, Value>>,
    /// What it is about: an entry with the same key is superseded by a later one.
    key: Option<String>,
    /// Whether it takes its key's state away.
    removes: bool,
}

/// The journal of a migration.
#[derive(Debug, Default)]
pub struct Journal(Mutex<HashMap<Arc<str>, SessionLog>>);

#[derive(Debug, Default)]
struct SessionLog {
    version: u64,
    entries: Vec<Entry>,
}

/// The journal is full, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// Too many sessions.
    #[error("{MAX_SESSIONS} sessions have state already; delete what is no longer needed")]
    Sessions,
    /// Too much in one session.
    #[error("this session has {MAX_ENTRIES} objects already; delete what is no longer needed")]
    Entries,
}

impl Journal {
    /// Whether one more entry fits, asked before the operation is done.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn admits(&self, session: &str, removes: bool) -> Result<(), Full> {
        let logs = self.0.lock();
        match logs.get(session) {
            _ if removes => Ok(()),
            None if logs.len() >= MAX_SESSIONS => Err(Full::Sessions),
            Some(log) if log.entries.iter().filter(|e| !e.removes).count() >= MAX_ENTRIES => Err(Full::Entries),
            Some(_) | None => Ok(()),
        }
    }

    /// Records an operation that V1 did. An entry supersedes earlier ones with its key; one that removes is kept until
    /// nothing else is, for workers that still know what it removes.
    pub fn record(
        &self,
        session: &Arc<str>,
        operation: &Arc<str>,
        arguments: Arc<Map<String, Value>>,
        key: Option<String>,
        removes: bool,
    ) {
        let mut logs = self.0.lock();
        let log = logs.entry(Arc::clone(session)).or_default();
        log.version += 1;
        if key.is_some() {
            log.entries.retain(|e| e.key != key);
        }
        log.entries.push(Entry { version: log.version, operation: Arc::clone(operation), arguments, key, removes });
        // Tombstones beyond the limit go, oldest first: what they removed is not in the journal any more, so only a
        // worker that has not been asked for that long can still show it.
        let surplus = log.entries.len().saturating_sub(2 * MAX_ENTRIES);
        let mut left = surplus;
        log.entries.retain(|e| {
            let goes = left > 0 && e.removes;
            left -= usize::from(goes);
            !goes
        });
    }

    /// What a worker that knows `applied` has to catch up with, and the version that it then knows.
    pub fn pending(&self, session: &str, applied: u64) -> (Vec<Entry>, u64) {
        let logs = self.0.lock();
        let Some(log) = logs.get(session) else { return (Vec::new(), applied) };
        let first = log.entries.partition_point(|e| e.version <= applied);
        (log.entries.get(first..).unwrap_or_default().to_vec(), log.version)
    }

    /// Sessions that have entries.
    pub fn sessions(&self) -> usize {
        self.0.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(journal: &Journal, operation: &str, key: &str, removes: bool) {
        journal.record(&"s".into(), &operation.into(), Arc::default(), Some(key.into()), removes);
    }

    fn operations(journal: &Journal, applied: u64) -> Vec<String> {
        let (pending, _) = journal.pending("s", applied);
        pending.iter().map(|e| format!("{} {}", e.operation, e.key.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn a_fresh_worker_gets_everything_and_a_known_one_only_what_is_new() {
        let journal = Journal::default();
        record(&journal, "create", "a", false);
        record(&journal, "create", "b", false);
        assert_eq!(operations(&journal, 0), ["create a", "create b"]);
        assert_eq!(operations(&journal, 1), ["create b"]);
        assert_eq!(journal.pending("s", 2).1, 2);
        assert!(operations(&journal, 2).is_empty());
        assert!(journal.pending("other", 0).0.is_empty());
    }

    #[test]
    fn a_removal_replaces_what_it_removes_and_reaches_workers_that_know_it() {
        let journal = Journal::default();
        record(&journal, "create", "a", false);
        record(&journal, "create", "b", false);
        record(&journal, "delete", "a", true);
        assert_eq!(operations(&journal, 0), ["create b", "delete a"]);
        assert_eq!(operations(&journal, 2), ["delete a"]);
    }

    #[test]
    fn a_full_session_is_refused_until_something_is_deleted() {
        let journal = Journal::default();
        for n in 0..MAX_ENTRIES {
            record(&journal, "create", &n.to_string(), false);
        }
        assert_eq!(journal.admits("s", false), Err(Full::Entries));
        assert_eq!(journal.admits("s", true), Ok(()));
        record(&journal, "delete", "7", true);
        assert_eq!(journal.admits("s", false), Ok(()));
    }
}
