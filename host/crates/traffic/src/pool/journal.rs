//! What every worker of both pools has to know: the `replicate` operations of each session, in order.
//!
//! A worker that is to serve a session is first brought up to the session's latest entry. This one rule covers a V2
//! that starts late, a worker that died, a session that moves and a host that was killed: the worker that serves a
//! session next catches up first. Only what V1 did successfully enters the journal, so that an operation which V1
//! refused never happens on V2. **Invariant**: an entry is kept by the [`Keeper`] before its caller hears of success.

use std::sync::Arc;

use dashmap::DashMap;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

/// Sessions that are kept; more are refused, because dropping one would lose state that a caller was promised.
const MAX_SESSIONS: usize = 100_000;

/// Live entries that a session may have.
const MAX_ENTRIES: usize = 1_000;

/// Entries that may wait to be kept; callers wait beyond that.
const QUEUE: usize = 256;

/// One operation that both pools have to know.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Clone)]
pub struct Entry {
    /// Counts up within its session, from 1.
    pub version: u64,
    pub operation: Arc<str>,
    pub arguments: Arc<Map<String, Value>>,
    /// What it is about: a later entry with the same key supersedes it. `None` if nothing does.
    pub key: Option<String>,
    /// Whether it takes its key's state away.
    pub removes: bool,
}

/// An entry that is to outlive the host.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug)]
pub struct Keep {
    pub session: Arc<str>,
    pub entry: Entry,
    /// Told whether it is kept.
    pub kept: oneshot::Sender<Result<(), String>>,
}

/// Where entries go that are to be kept, in their order.
pub type Keeper = mpsc::Receiver<Keep>;

/// The journal of a migration.
#[derive(Debug)]
pub struct Journal {
    /// Every call looks up its session here, from all threads that serve, so that no two wait for each other.
    logs: DashMap<Arc<str>, SessionLog, foldhash::fast::RandomState>,
    keeper: mpsc::Sender<Keep>,
}

#[derive(Debug, Default)]
struct SessionLog {
    version: u64,
    entries: Vec<Entry>,
}

/// Why an operation is not in the journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    /// As many sessions have state as the journal keeps.
    #[error("{MAX_SESSIONS} sessions have state already; delete what is no longer needed")]
    Sessions,
    /// The session has as many live entries as it may.
    #[error("this session has {MAX_ENTRIES} objects already; delete what is no longer needed")]
    Entries,
    /// The entry could not be stored.
    #[error("V1 did it, but it could not be recorded, so it may be lost: {0}")]
    NotKept(String),
}

impl Journal {
    /// A journal with what was kept, and where its new entries have to be kept.
    pub fn new(kept: impl IntoIterator<Item = (Arc<str>, Entry)>) -> (Self, Keeper) {
        let (keeper, queue) = mpsc::channel(QUEUE);
        let journal = Self { logs: DashMap::default(), keeper };
        journal.fill(kept);
        (journal, queue)
    }

    /// Takes in what was kept before; to be done before anything is recorded.
    pub fn fill(&self, kept: impl IntoIterator<Item = (Arc<str>, Entry)>) {
        for (session, entry) in kept {
            let mut log = self.logs.entry(session).or_default();
            log.version = log.version.max(entry.version);
            log.entries.push(entry);
        }
        for mut log in self.logs.iter_mut() {
            log.entries.sort_by_key(|e| e.version);
        }
    }

    /// Whether one more entry fits, asked before the operation is done.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn admits(&self, session: &str, removes: bool) -> Result<(), JournalError> {
        if removes {
            return Ok(());
        }
        match self.logs.get(session) {
            None if self.logs.len() >= MAX_SESSIONS => Err(JournalError::Sessions),
            Some(log) if log.entries.iter().filter(|e| !e.removes).count() >= MAX_ENTRIES => Err(JournalError::Entries),
            Some(_) | None => Ok(()),
        }
    }

    /// Records an operation that V1 did, and waits until it is kept. An entry supersedes earlier ones with its key; one
    /// that removes is remembered for workers that still know what it removes.
    ///
    /// # Errors
    /// When it is not kept; it is still known to this host's workers.
    pub async fn record(
        &self,
        session: &Arc<str>,
        operation: &Arc<str>,
        arguments: Arc<Map<String, Value>>,
        key: Option<String>,
        removes: bool,
    ) -> Result<(), JournalError> {
        let stopping = || JournalError::NotKept("the host is stopping".into());
        let permit = self.keeper.reserve().await.map_err(|_gone| stopping())?;
        let (kept, answer) = oneshot::channel();
        {
            // Under the session's lock, so that its entries are kept in the order of their versions.
            let mut log = self.logs.entry(Arc::clone(session)).or_default();
            let version = log.version + 1;
            let entry = Entry { version, operation: Arc::clone(operation), arguments, key, removes };
            log.add(entry.clone());
            permit.send(Keep { session: Arc::clone(session), entry, kept });
        }
        answer.await.map_err(|_gone| stopping())?.map_err(JournalError::NotKept)
    }

    /// What a worker that knows `applied` has to catch up with, and the version that it then knows.
    pub fn pending(&self, session: &str, applied: u64) -> (Vec<Entry>, u64) {
        let Some(log) = self.logs.get(session) else { return (Vec::new(), applied) };
        let first = log.entries.partition_point(|e| e.version <= applied);
        (log.entries.get(first..).unwrap_or_default().to_vec(), log.version)
    }

    /// Sessions that have entries.
    pub fn sessions(&self) -> usize {
        self.logs.len()
    }
}

impl SessionLog {
    fn add(&mut self, entry: Entry) {
        self.version = entry.version;
        if entry.key.is_some() {
            // What was taken away and made again has to be taken away first where the old one is still known.
            self.entries.retain(|e| e.key != entry.key || (e.removes && !entry.removes));
        }
        self.entries.push(entry);
        // Tombstones beyond the limit go, oldest first: what they removed is not in the journal any more, so only a
        // worker that has not been asked for that long can still show it.
        let mut surplus = self.entries.len().saturating_sub(2 * MAX_ENTRIES);
        self.entries.retain(|e| {
            let goes = surplus > 0 && e.removes;
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn record(journal: &Journal, keeper: &mut Keeper, operation: &str, key: &str, removes: bool) {
        let keep = async { keeper.recv().await.unwrap().kept.send(Ok(())).unwrap() };
        let (session, operation) = ("s".into(), operation.into());
        let recorded = journal.record(&session, &operation, Arc::default(), Some(key.into()), removes);
        tokio::join!(async { recorded.await.unwrap() }, keep);
    }

    fn operations(journal: &Journal, applied: u64) -> Vec<String> {
        let (pending, _) = journal.pending("s", applied);
        pending.iter().map(|e| format!("{} {}", e.operation, e.key.as_deref().unwrap_or("-"))).collect()
    }

    #[tokio::test]
    async fn a_fresh_worker_gets_everything_and_a_known_one_only_what_is_new() {
        let (journal, mut keeper) = Journal::new([]);
        record(&journal, &mut keeper, "create", "a", false).await;
        record(&journal, &mut keeper, "create", "b", false).await;
        assert_eq!(operations(&journal, 0), ["create a", "create b"]);
        assert_eq!(operations(&journal, 1), ["create b"]);
        assert_eq!(journal.pending("s", 2).1, 2);
        assert!(operations(&journal, 2).is_empty());
        assert!(journal.pending("other", 0).0.is_empty());
    }

    #[tokio::test]
    async fn a_removal_replaces_what_it_removes_and_reaches_workers_that_know_it() {
        let (journal, mut keeper) = Journal::new([]);
        record(&journal, &mut keeper, "create", "a", false).await;
        record(&journal, &mut keeper, "create", "b", false).await;
        record(&journal, &mut keeper, "delete", "a", true).await;
        assert_eq!(operations(&journal, 0), ["create b", "delete a"]);
        assert_eq!(operations(&journal, 2), ["delete a"]);
    }

    #[tokio::test]
    async fn what_was_removed_and_made_again_is_both_for_workers_that_know_the_old_one() {
        let (journal, mut keeper) = Journal::new([]);
        for removes in [false, true, false, true, false] {
            record(&journal, &mut keeper, if removes { "delete" } else { "create" }, "a", removes).await;
        }
        assert_eq!(operations(&journal, 1), ["delete a", "create a"]);
        assert_eq!(operations(&journal, 5), [] as [&str; 0]);
    }

    #[tokio::test]
    async fn a_full_session_is_refused_until_something_is_deleted() {
        let (journal, mut keeper) = Journal::new([]);
        for n in 0..MAX_ENTRIES {
            record(&journal, &mut keeper, "create", &n.to_string(), false).await;
        }
        assert_eq!(journal.admits("s", false), Err(JournalError::Entries));
        assert_eq!(journal.admits("s", true), Ok(()));
        record(&journal, &mut keeper, "delete", "7", true).await;
        assert_eq!(journal.admits("s", false), Ok(()));
    }

    #[tokio::test]
    async fn what_is_not_kept_is_not_a_success() {
        let (journal, mut keeper) = Journal::new([]);
        let fail = async { keeper.recv().await.unwrap().kept.send(Err("the disk is full".into())).unwrap() };
        let (session, operation) = ("s".into(), "create".into());
        let recorded = journal.record(&session, &operation, Arc::default(), None, false);
        let (recorded, ()) = tokio::join!(recorded, fail);
        assert_eq!(recorded, Err(JournalError::NotKept("the disk is full".into())));
    }
}
