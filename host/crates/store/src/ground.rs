//! What a store stands on: a file that must stay the one that was opened, a lock that says whose it is, and whether it
//! takes records.
//!
//! SQLite goes on writing to a file that was deleted or replaced, so that everything seems well until a restart, and it lets
//! two hosts write to one. A host asks before each decision whether the file is still there, and writes a heartbeat in
//! between, so that people learn of it before something has to be decided.
//!
//! A store that cannot be opened or written when a host starts is no reason not to serve V1: then another, in memory, stands
//! in for it ([`Store::refuses`]), which takes no record that counts.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustix::fs::{Access, access};
use tokio::time::timeout;

use super::{
    Store, StoreError,
    file::{self, identity},
    lock::{self, Lock, Locked},
    room::Counts,
    sql_ms,
};
use cutover_model::{
    causes::chain,
    clock::{self, Mono},
};

/// How long the store may take for a heartbeat.
const BEAT: Duration = Duration::from_secs(5);

/// Why a store takes no records, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// When the store was first found to take no records.
    pub since: Mono,
    /// Why, as a sentence.
    pub why: String,
}

/// What a host would find that opened this store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Examined {
    /// The host could use it.
    Fine,
    /// Another host has it; this says which, in that host's own words.
    InUse(String),
    /// It cannot be opened or made.
    Unusable(String),
}

/// What is known of the store's file: which one was opened, whose it is, and whether it takes records.
#[derive(Debug, Default)]
pub(super) struct Ground {
    path: PathBuf,
    /// The file that was opened; none for a store that is only read, or that stands in.
    file: Option<file::Identity>,
    locks: Mutex<Vec<Lock>>,
    refuses: OnceLock<String>,
    pub(super) counts: Counts,
    trouble: ArcSwapOption<Trouble>,
    failures: AtomicU64,
}

impl Ground {
    /// The ground of a store whose file was just opened.
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), file: identity(path).ok(), ..Self::default() }
    }

    /// What a store that is no file stands on: nobody can delete or replace it under the host.
    pub(super) fn without_file(shown: &str) -> Self {
        Self { path: PathBuf::from(shown), ..Self::default() }
    }

    /// The path of the file, or what stands for it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn let_go(&self) {
        self.locks.lock().clear();
    }
}

impl Store {
    /// Opens the store of a host, which nobody else may have then; `owner` says to others who has it. If it cannot be opened
    /// or written, what comes back refuses records, and says why. `markers` are the files of rollbacks beside it, of which the
    /// same holds: two stores that share them would undo each other's rollbacks.
    ///
    /// # Errors
    /// When another has it, or not even memory can stand in.
    pub async fn own(path: &Path, markers: &[PathBuf], owner: &str) -> Result<Self, StoreError> {
        let shown = || path.display().to_string();
        let mut locks = Vec::new();
        match Lock::take(path, owner) {
            Ok(lock) => locks.push(lock),
            Err(Locked::By(owner)) => return Err(StoreError::Taken { path: shown(), owner }),
            Err(Locked::Impossible(error)) => {
                tracing::warn!(store = shown(), %error, "the store cannot be locked; no other host may use it");
            }
        }
        for marker in markers {
            match Lock::take(marker, owner) {
                Ok(lock) => locks.push(lock),
                Err(Locked::By(owner)) => {
                    return Err(StoreError::MarkersTaken { path: marker.display().to_string(), owner });
                }
                // That no rollback can be written there is told for each migration.
                Err(Locked::Impossible(_)) => {}
            }
        }
        let store = match Self::open(path).await {
            Ok(store) => {
                if let Err(error) = store.beat().await {
                    store.refuse(&error);
                }
                store
            }
            Err(error) => {
                let store = Self::in_memory(path).await?;
                store.refuse(&error);
                store
            }
        };
        *store.ground.locks.lock() = locks;
        Ok(store)
    }

    /// Looks at a store without touching it.
    pub async fn examine(path: &Path) -> Examined {
        if let Some(owner) = lock::holder(path) {
            return Examined::InUse(owner);
        }
        if path.exists() {
            return match Self::open_to_read(path).await {
                Ok(store) => {
                    store.close().await;
                    Examined::Fine
                }
                Err(error) => Examined::Unusable(chain(&error)),
            };
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let shown = folder.display();
        match access(folder, Access::WRITE_OK) {
            Ok(()) if folder.is_dir() => Examined::Fine,
            Ok(()) => Examined::Unusable(format!("`{shown}` is no folder, so the store cannot be made there")),
            Err(error) => Examined::Unusable(format!(
                "the store cannot be made in `{shown}`: {error}; make the folder, and let the host's user write there"
            )),
        }
    }

    /// Why it has refused records since the host began, if it has: the host then serves V1 until it can be had.
    pub fn refuses(&self) -> Option<&str> {
        self.ground.refuses.get().map(String::as_str)
    }

    /// Why it takes no records now, and since when.
    pub fn trouble(&self) -> Option<Arc<Trouble>> {
        self.ground.trouble.load_full()
    }

    /// How often it took no record since the host began, or was found in trouble.
    pub fn failures(&self) -> u64 {
        self.ground.failures.load(Ordering::Relaxed)
    }

    /// Whether a store that refused records would take them now: from a store that is opened anew.
    pub async fn could_be_had(&self) -> bool {
        let is_locked = !self.ground.locks.lock().is_empty();
        let taken =
            if is_locked { None } else { Some(Lock::take(&self.ground.path, "a host that waits for its store")) };
        if matches!(taken, Some(Err(Locked::By(_)))) {
            return false;
        }
        let Ok(store) = Self::open(&self.ground.path).await else { return false };
        let beats = store.beat().await.is_ok();
        store.pool.close().await;
        beats
    }

    /// Whether the file is still the one that was opened, and takes records that count.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn here(&self) -> Result<(), StoreError> {
        let path = || self.ground.path.display().to_string();
        if let Some(why) = self.ground.refuses.get() {
            return Err(StoreError::Refuses { path: path(), why: why.clone() });
        }
        match (self.ground.file, identity(&self.ground.path)) {
            (Some(opened), Ok(now)) if opened != now => Err(StoreError::Gone { path: path(), what: "replaced" }),
            (Some(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                Err(StoreError::Gone { path: path(), what: "deleted" })
            }
            _ => Ok(()),
        }
    }

    /// Looks whether the file is still there, and, if `writes`, whether it takes records.
    pub async fn look(&self, writes: bool) {
        if writes {
            drop(self.noted(self.beat().await));
        } else if let Err(error) = self.here() {
            drop(self.noted::<()>(Err(error)));
        }
    }

    /// Remembers whether the store took a record.
    pub(super) fn noted<T>(&self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        match &done {
            Ok(_) => self.ground.trouble.store(None),
            Err(error) => {
                self.ground.failures.fetch_add(1, Ordering::Relaxed);
                let since = self.trouble().map_or_else(clock::mono, |trouble| trouble.since);
                self.ground.trouble.store(Some(Arc::new(Trouble { since, why: chain(error) })));
            }
        }
        done
    }

    async fn beat(&self) -> Result<(), StoreError> {
        self.here()?;
        let beat = "INSERT INTO heartbeat (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at";
        let beat = sqlx::query(beat).bind(sql_ms(clock::unix_ms())).execute(&self.pool);
        timeout(BEAT, beat).await.map_err(|_late| StoreError::Late { limit: BEAT })??;
        Ok(())
    }

    fn refuse(&self, error: &StoreError) {
        let why = chain(error);
        tracing::error!(store = %self.ground.path.display(), "the store takes no records, so V1 serves everybody until it does: {why}");
        drop(self.ground.refuses.set(why.clone()));
        self.ground.trouble.store(Some(Arc::new(Trouble { since: clock::mono(), why })));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_store_that_is_deleted_or_replaced_is_in_trouble_and_one_that_is_put_back_is_not() {
        let folder = TempDir::new().unwrap();
        let (path, aside) = (folder.path().join("test.db"), folder.path().join("aside.db"));
        let store = Store::own(&path, &[], "this test").await.unwrap();
        store.look(true).await;
        assert_eq!((store.trouble(), store.refuses()), (None, None));
        fs::rename(&path, &aside).unwrap();
        store.look(false).await;
        assert!(store.trouble().unwrap().why.contains("was deleted under the host"));
        let since = store.trouble().unwrap().since;
        fs::write(&path, "").unwrap();
        store.look(true).await;
        assert!(store.trouble().unwrap().why.contains("was replaced under the host"));
        assert_eq!(store.trouble().unwrap().since, since, "one trouble, not two");
        assert!(store.ping().await.is_err());
        fs::rename(&aside, &path).unwrap();
        store.look(true).await;
        assert_eq!(store.trouble(), None);
    }

    #[tokio::test]
    async fn the_second_host_is_refused_and_the_store_is_free_when_the_first_closes_it() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("test.db");
        let first = Store::own(&path, &[], "process 1").await.unwrap();
        let refused = Store::own(&path, &[], "process 2").await.unwrap_err();
        assert!(chain(&refused).contains("is in use by process 1"), "{refused}");
        let kept_by_somebody = first.clone();
        first.close().await;
        let first = Store::own(&path, &[], "process 2").await.unwrap();
        first.ground.let_go();
        let (other, marker) = (folder.path().join("other.db"), folder.path().join("shop.rolled-back"));
        let _second = Store::own(&path, std::slice::from_ref(&marker), "process 3").await.unwrap();
        let refused = Store::own(&other, &[marker], "process 4").await.unwrap_err().to_string();
        assert!(refused.contains("is for rollbacks of process 3"), "{refused}");
        drop(kept_by_somebody);
    }

    #[tokio::test]
    async fn where_no_store_can_be_memory_stands_in_and_refuses_until_one_can() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("missing/test.db");
        let store = Store::own(&path, &[], "this test").await.unwrap();
        assert!(store.refuses().unwrap().contains("cannot open the store"));
        assert!(store.ping().await.is_err() && !store.could_be_had().await);
        assert_eq!(store.state("any").await.unwrap(), None, "it can be read all the same");
        fs::create_dir(folder.path().join("missing")).unwrap();
        assert!(store.could_be_had().await);
        store.close().await;
        assert_eq!(Store::own(&path, &[], "this test").await.unwrap().refuses(), None);
    }
}
