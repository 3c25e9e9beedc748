//! Rollbacks on a path of their own, beside the store's: a file for each migration that is rolled back, or that has taken
//! something from V2 which the store does not know of yet.
//!
//! A store can be full, deleted, or put back from a backup, and V2 was found worse all the same. The file has the decision
//! and the number of the decision before it. If the store's last one is not newer, the store does not know of the rollback
//! when a host starts, and then the file counts. It goes when a person begins again, after that is on record.
//!
//! Room for it is kept from the start, so that it can be written on a disk that is full by then.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::records::Decision;
use crate::{clock::UnixMs, migration::State, policy::port::Phase};

/// Room that is kept for a marker: much more than one has without its findings.
const ROOM: usize = 16 << 10;

/// The longest reason in a marker for which there is little room.
const MAX_REASON: usize = 4 << 10;

/// See the module.
#[derive(Debug, Clone)]
pub struct Markers {
    folder: PathBuf,
    /// One file is written or removed at a time.
    turn: Arc<Mutex<()>>,
}

/// A rollback, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The number of the migration's last decision on record when it was decided; 0 if there was none.
    pub after: i64,
    /// The rollback.
    pub decision: Decision,
    /// The state that it led to.
    pub state: State,
}

impl Marker {
    /// Whether a store whose last decision has this number, and which has the migration in this phase, does not know of it.
    fn is_news(&self, last: i64, phase: Option<Phase>) -> bool {
        phase != Some(Phase::RolledBack) && last <= self.after
    }
}

impl Markers {
    /// Those of a folder, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, turn: Arc::default() }
    }

    /// The files of these migrations, of which one host has each at a time.
    pub fn files<'a>(&self, migrations: impl Iterator<Item = &'a str>) -> Vec<PathBuf> {
        // Where it cannot be made nobody can write.
        drop(fs::create_dir_all(&self.folder));
        migrations.map(|migration| self.file(migration)).collect()
    }

    /// Keeps room for the file of a migration.
    ///
    /// # Errors
    /// When there is none.
    pub fn reserve(&self, migration: &str) -> io::Result<()> {
        let _turn = self.turn.lock();
        fs::create_dir_all(&self.folder)?;
        let room = self.room(migration);
        if fs::metadata(&room).is_ok_and(|room| room.len() == ROOM as u64) {
            return Ok(());
        }
        let mut file = File::create(room)?;
        file.write_all(&[b' '; ROOM])?;
        file.sync_all()
    }

    /// Writes a file that is there after a power cut, too.
    ///
    /// # Errors
    /// When it is not.
    pub fn write(&self, marker: &Marker) -> io::Result<()> {
        let _turn = self.turn.lock();
        let migration = &marker.decision.migration;
        let file = self.file(migration);
        let written = self.write_whole(marker, &file).or_else(|_no_room| self.write_reserved(marker, &file));
        written.and_then(|()| File::open(&self.folder)?.sync_all())
    }

    fn write_whole(&self, marker: &Marker, file: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let new = file.with_extension("new");
        let written = File::create(&new).and_then(|mut writing| {
            writing.write_all(&serde_json::to_vec_pretty(marker)?)?;
            writing.sync_all()
        });
        match written {
            Ok(()) => fs::rename(&new, file),
            Err(error) => {
                drop(fs::remove_file(&new));
                Err(error)
            }
        }
    }

    /// Into the room that was kept, over the spaces that were written then.
    fn write_reserved(&self, marker: &Marker, file: &Path) -> io::Result<()> {
        let mut marker = marker.clone();
        marker.decision.findings.clear();
        for reason in [Some(&mut marker.decision.reason), marker.state.because.as_mut()].into_iter().flatten() {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
        }
        let room = self.room(&marker.decision.migration);
        let writing = File::options().write(true).open(&room)?;
        writing.write_all_at(&serde_json::to_vec(&marker)?, 0)?;
        writing.sync_all()?;
        fs::rename(&room, file)
    }

    /// Removes the file of a migration that begins again.
    ///
    /// # Errors
    /// When it is still there.
    pub fn remove(&self, migration: &str) -> io::Result<()> {
        let _turn = self.turn.lock();
        match fs::remove_file(self.file(migration)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The rollback that a store does not know of, whose last decision of this migration has the number `last`, and which
    /// has it in this state. A file that cannot be read counts, too: somebody rolled back.
    pub fn news(&self, migration: &str, last: i64, state: Option<&State>, now: UnixMs) -> Option<Marker> {
        let file = self.file(migration);
        let phase = state.map(|state| state.phase);
        let why = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => error.to_string(),
            Ok(json) => match serde_json::from_slice::<Marker>(&json) {
                Ok(marker) => return Some(marker).filter(|marker| marker.is_news(last, phase)),
                Err(error) => error.to_string(),
            },
        };
        (phase != Some(Phase::RolledBack)).then(|| unreadable(&file, &why, migration, state, now))
    }

    fn room(&self, migration: &str) -> PathBuf {
        self.folder.join(format!("{migration}.room"))
    }

    fn file(&self, migration: &str) -> PathBuf {
        self.folder.join(format!("{migration}.rolled-back"))
    }
}

/// What a file stands for that cannot be read.
fn unreadable(file: &Path, why: &str, migration: &str, state: Option<&State>, now: UnixMs) -> Marker {
    let because = format!(
        "`{}` says that it was rolled back, but cannot be read ({why}); resume it if that is wrong",
        file.display()
    );
    let from = state.cloned().unwrap_or_else(|| State::new(now));
    let to = State { phase: Phase::RolledBack, because: Some(because.clone()), ..State::new(now) };
    let decision = Decision {
        id: 0,
        migration: migration.into(),
        at: now,
        kind: "rollback".into(),
        actor: "host".into(),
        reason: because,
        from_phase: from.phase,
        to_phase: to.phase,
        from_share: from.share,
        to_share: to.share,
        policy: None,
        digest: None,
        findings: Vec::new(),
        inputs: None,
    };
    Marker { after: 0, decision, state: to }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::request::Ppm;

    fn ramping() -> State {
        State { phase: Phase::Ramping, share: Ppm::new(500_000), ..State::new(UnixMs(1)) }
    }

    fn rolled_back() -> Marker {
        let from = ramping();
        let marker = unreadable(Path::new("x"), "y", "shop", Some(&from), UnixMs(5));
        Marker { after: 7, ..marker }
    }

    #[test]
    fn a_rollback_counts_until_the_store_knows_of_it_or_of_something_later() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().join("not/there/yet"));
        let news = |last, state: Option<&State>| markers.news("shop", last, state, UnixMs(9));
        assert_eq!(news(7, Some(&ramping())), None);
        markers.write(&rolled_back()).unwrap();
        assert_eq!(news(7, Some(&ramping())), Some(rolled_back()), "it could not be recorded");
        assert_eq!(news(0, None), Some(rolled_back()), "the store is another");
        assert_eq!(news(3, Some(&ramping())), Some(rolled_back()), "the store is from a backup");
        assert_eq!(news(8, Some(&rolled_back().state)), None, "it is on record");
        assert_eq!(
            news(9, Some(&ramping())),
            None,
            "a person began again, and the host was killed before the file went"
        );
        assert_eq!(markers.news("shop-2", 0, None, UnixMs(9)), None, "another migration");
        markers.remove("shop").unwrap();
        markers.remove("shop").unwrap();
        assert_eq!(news(7, Some(&ramping())), None);
    }

    #[test]
    fn a_marker_is_written_into_the_room_that_was_kept_where_no_other_file_can_be() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().to_owned());
        markers.reserve("shop").unwrap();
        // Nothing can be written beside it: the name is taken.
        fs::create_dir(folder.path().join("shop.new")).unwrap();
        let mut marker = rolled_back();
        marker.decision.reason = "\u{e9}".repeat(MAX_REASON);
        markers.write(&marker).unwrap();
        let found = markers.news("shop", 7, Some(&ramping()), UnixMs(9)).unwrap();
        assert_eq!((found.after, found.state.phase), (7, Phase::RolledBack));
        assert_eq!(found.decision.reason.len(), MAX_REASON);
        assert!(markers.write(&marker).is_err(), "the room is used");
        markers.remove("shop").unwrap();
        markers.reserve("shop").unwrap();
        markers.write(&marker).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_read_rolls_back() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().to_owned());
        fs::write(folder.path().join("shop.rolled-back"), "{").unwrap();
        let found = markers.news("shop", 1_000, Some(&ramping()), UnixMs(9)).unwrap();
        assert_eq!((found.state.phase, found.state.share), (Phase::RolledBack, Ppm::ZERO));
        assert!(found.decision.reason.contains("cannot be read"), "{found:?}");
    }
}
