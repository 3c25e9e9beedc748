//! The lock of a store: one host has it at a time, and whoever comes second is told who has.
//!
//! A file beside the store's, under `flock`: the kernel lets go of it when the process ends, however it ends. What is
//! written in it is for people. SQLite has locks of its own, but they keep two writers apart, not two hosts.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::file::identity;

/// The longest word of an owner that is read.
const MAX_OWNER: u64 = 1_000;

/// How often the file may be removed by another between being opened and locked.
const TRIES: usize = 10;

/// See the module. It is let go of when it is dropped.
#[derive(Debug)]
pub(super) struct Lock(File);

/// Why a lock cannot be had.
#[derive(Debug)]
pub(super) enum Locked {
    /// Another has it: who, in its own words.
    By(String),
    /// Nobody can have it.
    Impossible(io::Error),
}

impl Lock {
    /// Takes the lock of a store and says whose it is now.
    pub(super) fn take(store: &Path, owner: &str) -> Result<Self, Locked> {
        let path = beside(&real(store));
        for _ in 0..TRIES {
            let mut options = OpenOptions::new();
            let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let mut file = opened.map_err(Locked::Impossible)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Locked::By(said(&mut file))),
                Err(error) => return Err(Locked::Impossible(error.into())),
            }
            // One that was removed in between locks nobody out.
            if identity(&path).is_ok_and(|here| file.metadata().is_ok_and(|opened| here == (&opened).into())) {
                // A disk that is full has no room for names; the lock holds all the same.
                drop(file.set_len(0).and_then(|()| file.write_all_at(owner.as_bytes(), 0)));
                return Ok(Self(file));
            }
        }
        Err(Locked::Impossible(io::Error::other("something keeps removing the lock's file")))
    }
}

/// Who has a store, if anybody does. The kernel is asked, and nothing is locked for it: a host that starts at this moment is
/// not to be refused.
pub(super) fn holder(store: &Path) -> Option<String> {
    let path = beside(&real(store));
    let inode = fs::metadata(&path).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let is_it = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("FLOCK") && fields.nth(3).and_then(|file| file.rsplit(':').next()) == Some(&inode)
    };
    locks.lines().any(is_it).then(|| File::open(&path).map_or_else(|_| String::new(), |mut file| said(&mut file)))
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Said, and not left to the closing: a process that was just forked has the descriptor for another moment.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "the store's lock cannot be let go of before the end of this process");
        }
    }
}

/// The path of a store by which it has one name, whatever links lead to it. It need not be there yet.
fn real(store: &Path) -> PathBuf {
    if let Ok(real) = store.canonicalize() {
        return real;
    }
    // A link to where nothing is yet.
    if let Ok(to) = fs::read_link(store) {
        return real(&store.parent().unwrap_or(Path::new("")).join(to));
    }
    let folder = store.parent().map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    match (folder.and_then(|folder| folder.canonicalize().ok()), store.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        _ => store.to_owned(),
    }
}

/// Where the lock of a store is.
fn beside(store: &Path) -> PathBuf {
    let mut path = store.as_os_str().to_owned();
    path.push(".lock");
    path.into()
}

/// Who has it, as it said when it took it.
fn said(file: &mut File) -> String {
    let mut owner = String::new();
    match file.take(MAX_OWNER).read_to_string(&mut owner) {
        Ok(_) if !owner.trim().is_empty() => owner.trim().to_owned(),
        _ => "another process that does not say who it is".into(),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn refused(store: &Path) -> String {
        match Lock::take(store, "the second") {
            Err(Locked::By(owner)) => owner,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_second_is_told_who_the_first_is_and_gets_it_when_that_lets_go() {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("test.db");
        let first = Lock::take(&store, "the first, and it says much of itself").unwrap();
        assert_eq!(refused(&store), "the first, and it says much of itself");
        drop(first);
        let second = Lock::take(&store, "the second").unwrap();
        assert_eq!(refused(&store), "the second", "nothing is left of longer words");
        drop(second);
    }

    #[test]
    fn a_store_is_locked_by_whatever_name_it_has() {
        let folder = TempDir::new().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("data")).unwrap();
        std::os::unix::fs::symlink("data/test.db", path("alias.db")).unwrap();
        std::os::unix::fs::symlink(path("data"), path("other")).unwrap();
        for exists in [false, true] {
            if exists {
                fs::write(path("data/test.db"), "").unwrap();
            }
            let first = Lock::take(&path("data/test.db"), "the first").unwrap();
            for name in ["alias.db", "other/test.db", "data/../data/test.db"] {
                assert_eq!(refused(&path(name)), "the first", "{name}");
            }
            drop(first);
            drop(Lock::take(&path("alias.db"), "by the link").unwrap());
        }
    }

    #[test]
    fn a_lock_whose_file_was_removed_is_still_held_by_who_has_it_and_no_other_file_is_confused_with_it() {
        let folder = TempDir::new().unwrap();
        let store = folder.path().join("test.db");
        let first = Lock::take(&store, "the first").unwrap();
        fs::remove_file(beside(&store)).unwrap();
        let second = Lock::take(&store, "the second").unwrap();
        drop(first);
        assert_eq!(refused(&store), "the second");
        drop(second);
        assert!(matches!(Lock::take(&folder.path().join("no/such/test.db"), "x"), Err(Locked::Impossible(_))));
    }
}
