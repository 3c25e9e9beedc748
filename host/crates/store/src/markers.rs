//! Rollbacks on a path of their own, beside the store's: a file for each migration that is rolled back, or that has taken
//! something from V2 which the store does not know of yet.
//!
//! A store can be full, deleted, or put back from a backup, and V2 was found worse all the same. The file has the decision,
//! which store the host had, and the number of the last decision in that. If the host starts with the same store and its
//! last decision is not newer, the store does not know of the rollback, and then the file counts. Numbers of another store
//! say nothing: then it counts if the rollback is later than that store's last decision. What is at the file's place and
//! cannot be read counts, too. It goes when a person begins again, after that is on record.
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
use crate::state::State;
use cutover_model::{clock::UnixMs, port::Phase};

/// Room that is kept for a marker: much more than one has without its findings.
const ROOM: usize = 16 << 10;

/// The longest reason in a marker for which there is little room.
const MAX_REASON: usize = 4 << 10;

/// The folder with a file for each migration that is rolled back, apart from the store.
#[derive(Debug, Clone)]
pub struct Markers {
    folder: PathBuf,
    /// One file is written or removed at a time.
    turn: Arc<Mutex<()>>,
}

/// A rollback, as its file has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// Which store the host had; none if that was before this was kept.
    #[serde(default)]
    pub store: Option<String>,
    /// The number of the migration's last decision on record when it was decided; 0 if there was none.
    pub after: i64,
    /// The rollback as it was decided.
    pub decision: Decision,
    /// The migration's state after the rollback.
    pub state: State,
}

/// What a store has of a migration when a host starts.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Which store it is.
    pub store: &'a str,
    /// The number of its last decision, and when that was; none if it has none.
    pub last: Option<(i64, UnixMs)>,
    /// Where the migration stands; none if it does not know it.
    pub state: Option<&'a State>,
}

/// What had to be made good, so that a rollback is marked, or could be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mended {
    /// The folder was gone, and was made again.
    pub folder: bool,
    /// A rollback had no marker, and has one now.
    pub marker: bool,
}

impl Marker {
    /// Whether a store does not know of it.
    fn is_news(&self, known: Known<'_>) -> bool {
        let (number, at) = known.last.unwrap_or_default();
        let (by_number, by_time) = (number <= self.after, known.last.is_none() || at < self.decision.at);
        let is_later = match &self.store {
            Some(store) if store == known.store => by_number,
            Some(_) => by_time,
            None => by_number || by_time,
        };
        known.state.is_none_or(|state| state.phase != Phase::RolledBack) && is_later
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

    /// Sees to it that a migration that is rolled back has its file, and any other room for one.
    ///
    /// # Errors
    /// When it has not.
    pub fn keep(&self, migration: &str, rolled_back: Option<&Marker>) -> io::Result<Mended> {
        let folder = !self.folder.is_dir();
        let marker = match rolled_back {
            Some(marker) if fs::symlink_metadata(self.file(migration)).is_err() => {
                self.write(marker)?;
                true
            }
            Some(_) => false,
            None => {
                self.reserve(migration)?;
                false
            }
        };
        Ok(Mended { folder, marker })
    }

    /// The folder, for people.
    pub fn folder(&self) -> std::path::Display<'_> {
        self.folder.display()
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
        let file = self.file(migration);
        match fs::remove_file(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // What is no file, and has something in it, is nobody's to throw away.
            Err(_) if file.is_dir() => fs::remove_dir(&file).or_else(|_| fs::rename(&file, self.aside(migration))),
            done => done,
        }
    }

    /// The rollback that a store does not know of. What is there and cannot be read counts, too: somebody rolled back.
    pub fn news(&self, migration: &str, known: Known<'_>, now: UnixMs) -> Option<Marker> {
        let file = self.file(migration);
        // A link that leads nowhere is something: it was put there in the file's place.
        let read = fs::symlink_metadata(&file).map(|_| fs::read(&file));
        let why = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) | Ok(Err(error)) => error.to_string(),
            Ok(Ok(json)) => match serde_json::from_slice::<Marker>(&json) {
                Ok(marker) => return Some(marker).filter(|marker| marker.is_news(known)),
                Err(error) => error.to_string(),
            },
        };
        let is_known = known.state.is_some_and(|state| state.phase == Phase::RolledBack);
        (!is_known).then(|| unreadable(&file, &why, migration, known, now))
    }

    fn aside(&self, migration: &str) -> PathBuf {
        self.folder.join(format!("{migration}.aside"))
    }

    fn room(&self, migration: &str) -> PathBuf {
        self.folder.join(format!("{migration}.room"))
    }

    fn file(&self, migration: &str) -> PathBuf {
        self.folder.join(format!("{migration}.rolled-back"))
    }
}

/// What a file stands for that cannot be read.
fn unreadable(file: &Path, why: &str, migration: &str, known: Known<'_>, now: UnixMs) -> Marker {
    let because = format!(
        "`{}` says that it was rolled back, but cannot be read ({why}); resume it if that is wrong",
        file.display()
    );
    let from = known.state.cloned().unwrap_or_else(|| State::new(now));
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
    Marker { store: Some(known.store.into()), after: 0, decision, state: to }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use cutover_model::request::Ppm;

    fn ramping() -> State {
        State { phase: Phase::Ramping, share: Ppm::new(500_000), ..State::new(UnixMs(1)) }
    }

    const fn known(number: i64, state: Option<&State>) -> Known<'_> {
        Known { store: "a", last: Some((number, UnixMs(number.unsigned_abs()))), state }
    }

    fn rolled_back() -> Marker {
        let from = ramping();
        let marker = unreadable(Path::new("x"), "y", "shop", known(7, Some(&from)), UnixMs(8));
        Marker { after: 7, ..marker }
    }

    #[test]
    fn a_rollback_counts_until_the_store_knows_of_it_or_of_something_later() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().join("not/there/yet"));
        let news = |number, state: Option<&State>| markers.news("shop", known(number, state), UnixMs(9));
        assert_eq!(news(7, Some(&ramping())), None);
        markers.write(&rolled_back()).unwrap();
        assert_eq!(news(7, Some(&ramping())), Some(rolled_back()), "it could not be recorded");
        assert_eq!(news(3, Some(&ramping())), Some(rolled_back()), "the store is from a backup");
        assert_eq!(news(8, Some(&rolled_back().state)), None, "it is on record");
        assert_eq!(
            news(9, Some(&ramping())),
            None,
            "a person began again, and the host was killed before the file went"
        );
        assert_eq!(markers.news("shop-2", known(0, None), UnixMs(9)), None, "another migration");
        markers.remove("shop").unwrap();
        markers.remove("shop").unwrap();
        assert_eq!(news(7, Some(&ramping())), None);
    }

    #[test]
    fn numbers_of_another_store_say_nothing_and_the_later_decision_counts() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().to_owned());
        let state = ramping();
        let news = |last| {
            let known = Known { store: "b", last, state: Some(&state) };
            markers.news("shop", known, UnixMs(9)).is_some()
        };
        markers.write(&rolled_back()).unwrap();
        assert!(news(None), "a store that was just made");
        assert!(news(Some((16, UnixMs(7)))), "the store of before, which has decided more often, is put back");
        assert!(!news(Some((2, UnixMs(9)))), "somebody has decided since");
        markers.write(&Marker { store: None, ..rolled_back() }).unwrap();
        assert!(news(Some((16, UnixMs(7)))), "a marker of before says not which store it was");
        assert!(news(Some((7, UnixMs(9)))));
        assert!(!news(Some((8, UnixMs(9)))));
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
        let found = markers.news("shop", known(7, Some(&ramping())), UnixMs(9)).unwrap();
        assert_eq!((found.after, found.state.phase), (7, Phase::RolledBack));
        assert_eq!(found.decision.reason.len(), MAX_REASON);
        assert!(markers.write(&marker).is_err(), "the room is used");
        markers.remove("shop").unwrap();
        markers.reserve("shop").unwrap();
        markers.write(&marker).unwrap();
    }

    #[test]
    fn what_cannot_be_read_rolls_back_and_goes_when_a_person_begins_again() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().to_owned());
        let file = folder.path().join("shop.rolled-back");
        let makes: [&dyn Fn(); 4] = [
            &|| fs::write(&file, "{").unwrap(),
            &|| std::os::unix::fs::symlink("nowhere", &file).unwrap(),
            &|| fs::create_dir(&file).unwrap(),
            &|| fs::create_dir_all(file.join("full")).unwrap(),
        ];
        for make in makes {
            make();
            let found = markers.news("shop", known(1_000, Some(&ramping())), UnixMs(9)).unwrap();
            assert_eq!((found.state.phase, found.state.share), (Phase::RolledBack, Ppm::ZERO));
            assert!(found.decision.reason.contains("cannot be read"), "{found:?}");
            markers.remove("shop").unwrap();
            assert_eq!(markers.news("shop", known(1_000, Some(&ramping())), UnixMs(9)), None);
        }
    }

    #[test]
    fn a_marker_that_is_missing_is_made_good_and_so_is_a_folder_that_went_away() {
        let folder = TempDir::new().unwrap();
        let markers = Markers::new(folder.path().join("markers"));
        let (marker, keep) = (rolled_back(), |marker: Option<&Marker>| markers.keep("shop", marker).unwrap());
        assert_eq!(keep(None), Mended { folder: true, marker: false });
        assert_eq!(keep(None), Mended::default());
        assert_eq!(keep(Some(&marker)), Mended { folder: false, marker: true });
        assert_eq!(keep(Some(&marker)), Mended::default());
        fs::remove_dir_all(folder.path().join("markers")).unwrap();
        assert_eq!(keep(Some(&marker)), Mended { folder: true, marker: true });
        assert!(markers.news("shop", known(7, Some(&ramping())), UnixMs(9)).is_some());
        fs::remove_dir_all(folder.path().join("markers")).unwrap();
        fs::write(folder.path().join("markers"), "").unwrap();
        assert!(markers.keep("shop", Some(&marker)).is_err());
    }
}
