use std::{fs, os::unix::fs::PermissionsExt as _, thread};

use tempfile::TempDir;

use super::*;
use crate::engine::Limits;

const DIGEST: &str = "0123";

fn engine() -> wasmtime::Engine {
    wasmtime::Engine::new(&Limits::default().code()).unwrap()
}

/// A folder that is there and empty.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    set_mode(folder.path(), 0o700);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn open(path: &Path) -> Artefacts {
    Artefacts::open(path, &engine(), "build").unwrap()
}

fn keep(cache: &Artefacts, digest: &str, code: &[u8]) {
    cache.write(digest, &Artefact::of_our_compiler(code.to_vec()));
}

fn kept(cache: &Artefacts, digest: &str) -> Option<Vec<u8>> {
    cache.read(digest).map(|artefact| artefact.0)
}

/// The one artefact in a folder.
fn file(folder: &Path) -> PathBuf {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all = all.filter(|path| path.extension().is_some_and(|e| e == "artefact"));
    let file = all.next().unwrap();
    assert_eq!(all.next(), None);
    file
}

#[test]
fn what_was_kept_is_found_by_a_host_that_starts_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cache");
    keep(&open(&path), DIGEST, b"code");
    let again = open(&path);
    assert_eq!(kept(&again, DIGEST).as_deref(), Some(&b"code"[..]));
    assert_eq!((kept(&again, "4567"), again.rejected()), (None, 0));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join(KEY)), mode(&file(&path))), (0o700, 0o600, 0o600));
}

#[test]
fn a_changed_byte_anywhere_is_noticed_and_the_file_removed() {
    let folder = folder();
    let cache = open(folder.path());
    keep(&cache, DIGEST, b"some machine code");
    let path = file(folder.path());
    let good = fs::read(&path).unwrap();
    let mut bad: Vec<Vec<u8>> =
        (0..good.len()).map(|n| [&good[..n], &[good[n] ^ 1], &good[n + 1..]].concat()).collect();
    bad.extend([good[..good.len() - 1].to_vec(), [&good[..], b"x"].concat(), Vec::new()]);
    for (n, bad) in bad.iter().enumerate() {
        fs::write(&path, bad).unwrap();
        assert_eq!(kept(&cache, DIGEST), None, "{n}");
        assert!(!path.exists(), "{n}");
        keep(&cache, DIGEST, b"some machine code");
    }
    assert_eq!(cache.rejected(), bad.len() as u64);
    assert!(kept(&cache, DIGEST).is_some());
}

#[test]
fn an_artefact_under_the_name_of_another_is_not_trusted() {
    let folder = folder();
    let cache = open(folder.path());
    keep(&cache, "evil", b"evil");
    fs::rename(file(folder.path()), folder.path().join(cache.name(DIGEST))).unwrap();
    assert_eq!((kept(&cache, DIGEST), cache.rejected()), (None, 1));
}

#[test]
fn another_key_and_another_build_find_nothing() {
    let folder = folder();
    keep(&open(folder.path()), DIGEST, b"code");
    let other = Artefacts::open(folder.path(), &engine(), "another build").unwrap();
    assert_eq!((kept(&other, DIGEST), other.rejected()), (None, 0), "it has another name");
    let mut changed = Limits::default().code();
    changed.cranelift_opt_level(wasmtime::OptLevel::None);
    let other = Artefacts::open(folder.path(), &wasmtime::Engine::new(&changed).unwrap(), "build").unwrap();
    assert_eq!((kept(&other, DIGEST), other.rejected()), (None, 0), "it has another name");
    fs::write(folder.path().join(KEY), [7; KEY_BYTES]).unwrap();
    let other = open(folder.path());
    assert_eq!((kept(&other, DIGEST), other.rejected()), (None, 1));
}

#[test]
fn links_and_files_that_others_can_write_are_not_read() {
    let (folder, elsewhere) = (folder(), folder());
    let cache = open(folder.path());
    keep(&cache, DIGEST, b"code");
    let path = file(folder.path());
    let moved = elsewhere.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &path).unwrap();
    assert_eq!((kept(&cache, DIGEST), cache.rejected()), (None, 1));
    assert!(moved.exists() && !path.is_symlink(), "the link goes, not what it points to");
    keep(&cache, DIGEST, b"code");
    set_mode(&path, 0o622);
    assert_eq!((kept(&cache, DIGEST), cache.rejected()), (None, 2));

    let link = elsewhere.path().join("link");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    assert!(matches!(Artefacts::open(&link, &engine(), "build"), Err(CacheError::Io { .. })));
}

#[test]
fn a_key_that_others_can_read_is_replaced() {
    let folder = folder();
    let first = open(folder.path());
    keep(&first, DIGEST, b"code");
    set_mode(&folder.path().join(KEY), 0o644);
    let second = open(folder.path());
    assert_ne!(first.key, second.key);
    assert_eq!(kept(&second, DIGEST), None);
    fs::write(folder.path().join(KEY), b"short").unwrap();
    assert_ne!(open(folder.path()).key, second.key);
}

#[test]
fn folders_that_cannot_be_trusted_or_used_are_refused() {
    let folder = folder();
    for mode in [0o777, 0o755, 0o701, 0o770] {
        set_mode(folder.path(), mode);
        let refused = Artefacts::open(folder.path(), &engine(), "build").unwrap_err().to_string();
        assert!(refused.contains("open to others") && refused.contains("0700"), "{refused}");
    }
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("cache"), folder.path().join("no/such/parent")] {
        assert!(matches!(Artefacts::open(&path, &engine(), "build"), Err(CacheError::Io { .. })), "{path:?}");
    }
}

#[test]
fn what_a_killed_host_left_half_written_is_removed() {
    let folder = folder();
    let drafts = [format!("{}-9{DRAFT}", std::process::id()), format!("{}-9{DRAFT}", i32::MAX), format!("x{DRAFT}")];
    for draft in &drafts {
        fs::write(folder.path().join(draft), "half").unwrap();
    }
    drop(open(folder.path()));
    assert_eq!(drafts.map(|draft| folder.path().join(draft).exists()), [true, false, false]);
}

#[test]
fn a_folder_that_went_away_costs_the_cache_and_nothing_else() {
    let folder = folder();
    let cache = open(folder.path());
    fs::remove_dir_all(folder.path()).unwrap();
    keep(&cache, DIGEST, b"code");
    assert_eq!(kept(&cache, DIGEST), None);
}

#[test]
fn the_one_that_was_used_last_stays() {
    let folder = folder();
    let mut cache = open(folder.path());
    let one = u64::try_from(MAGIC.len() + MAC + 1_000).unwrap();
    cache.max_bytes = 3 * one;
    for digest in ["a", "b", "c"] {
        keep(&cache, digest, &[0; 1_000]);
        let file = File::options().write(true).open(folder.path().join(cache.name(digest))).unwrap();
        let past = Timespec { tv_sec: i64::from(digest.as_bytes()[0]), tv_nsec: 0 };
        futimens(&file, &Timestamps { last_access: past, last_modification: past }).unwrap();
    }
    assert!(kept(&cache, "a").is_some(), "which makes it the one that was used last");
    keep(&cache, "d", &[0; 1_000]);
    let left = ["a", "b", "c", "d"].map(|digest| kept(&cache, digest).is_some());
    assert_eq!((left, cache.rejected()), ([true, false, true, true], 0));
}

#[test]
fn hosts_that_begin_and_write_at_once_agree() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("cache");
    let work = |n: usize| {
        let cache = open(&path);
        for round in 0..20 {
            let digest = (round % 5).to_string();
            keep(&cache, &digest, &[u8::try_from(round % 5).unwrap(); 10_000]);
            if let Some(code) = kept(&cache, &digest) {
                assert!(code == [u8::try_from(round % 5).unwrap(); 10_000], "{n}");
            }
        }
        (cache.key, cache.rejected())
    };
    let done = thread::scope(|scope| {
        let hosts: Vec<_> = (0..6).map(|n| scope.spawn(move || work(n))).collect();
        hosts.into_iter().map(|host| host.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(done.iter().all(|&(key, rejected)| key == done[0].0 && rejected == 0), "{done:?}");
    let cache = open(&path);
    assert!((0..5).all(|n| kept(&cache, &n.to_string()).is_some()));
}
