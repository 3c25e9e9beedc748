use std::{
    fs,
    os::unix::{fs::symlink, net::UnixListener},
};

use rustix::fs::{CWD, mkfifoat};
use tempfile::TempDir;

use super::*;

const LIMIT: usize = 1_000;

fn folder() -> (TempDir, Folder) {
    let temp = TempDir::new().unwrap();
    fs::create_dir_all(temp.path().join("bundle/in/side")).unwrap();
    fs::write(temp.path().join("bundle/in/side/file"), "mine").unwrap();
    fs::write(temp.path().join("secret"), "a secret").unwrap();
    let folder = Folder::open(&temp.path().join("bundle")).unwrap();
    (temp, folder)
}

fn read(folder: &Folder, path: &str) -> Result<Vec<u8>, String> {
    folder.read(Path::new(path), LIMIT).map_err(|e| e.to_string())
}

#[test]
fn regular_files_below_the_folder_are_read_and_nothing_else() {
    let (temp, folder) = folder();
    let at = |name: &str| temp.path().join("bundle").join(name);
    symlink(temp.path().join("secret"), at("link")).unwrap();
    symlink("in/side/file", at("inner-link")).unwrap();
    symlink("in", at("linked-folder")).unwrap();
    mkfifoat(CWD, at("pipe"), Mode::RUSR).unwrap();
    symlink("pipe", at("linked-pipe")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    assert_eq!(read(&folder, "in/side/file").unwrap(), b"mine");
    assert_eq!(read(&folder, "./in/./side/file").unwrap(), b"mine");
    let refused = [
        ("../secret", "leads out"),
        ("in/../../secret", "leads out"),
        ("/etc/passwd", "leads out"),
        ("link", "link"),
        ("inner-link", "link"),
        ("linked-folder/side/file", "link"),
        ("linked-pipe", "link"),
        ("zero", "link"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("in/side", "folder"),
        ("", "folder"),
        ("nothing", "No such file"),
        ("in/side/file/more", "Not a directory"),
    ];
    for (path, words) in refused {
        let why = read(&folder, path).unwrap_err();
        assert!(why.contains(words) && !why.contains("secret"), "{path}: {why}");
    }
    let deep = "d/".repeat(MAX_DEPTH + 2);
    assert!(read(&folder, &deep).unwrap_err().contains("closer"));
}

#[test]
fn devices_and_pipes_that_somebody_names_are_refused_at_once_and_links_are_theirs() {
    let (temp, _folder) = folder();
    let said = |path: &Path| super::read(path, LIMIT).map_err(|e| e.to_string());
    assert!(said(Path::new("/dev/zero")).unwrap_err().contains("a device"));
    let pipe = temp.path().join("pipe");
    mkfifoat(CWD, &pipe, Mode::RUSR).unwrap();
    assert!(said(&pipe).unwrap_err().contains("a named pipe"));
    let link = temp.path().join("link");
    symlink(temp.path().join("bundle/in/side/file"), &link).unwrap();
    assert_eq!(said(&link).unwrap(), b"mine");
}

#[test]
fn no_more_is_read_than_the_limit_whatever_a_file_says_of_its_size() {
    let (temp, folder) = folder();
    let at = temp.path().join("bundle/large");
    for (bytes, fits) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        fs::write(&at, vec![b'x'; bytes]).unwrap();
        assert_eq!(read(&folder, "large").is_ok(), fits, "{bytes}");
    }
    // A sparse file of a terabyte costs nobody anything, here neither.
    File::create(&at).unwrap().set_len(1 << 40).unwrap();
    assert!(read(&folder, "large").unwrap_err().contains("1000 bytes"));
    // This one says that it is empty.
    let status = super::read(Path::new("/proc/self/smaps"), 100);
    assert!(matches!(status, Err(FileError::TooLarge { limit: 100 })), "{status:?}");
}

#[test]
fn text_that_is_none_is_refused_without_showing_it() {
    let (temp, folder) = folder();
    fs::write(temp.path().join("bundle/latin"), b"secret \xff").unwrap();
    let why = folder.text(Path::new("latin"), LIMIT).unwrap_err().to_string();
    assert_eq!(why, "is not UTF-8");
}

#[test]
fn names_are_listed_whatever_they_are() {
    let (temp, folder) = folder();
    fs::write(temp.path().join("bundle").join(OsStr::from_bytes(b"odd\xff")), "").unwrap();
    let mut names = folder.below(Path::new("in/side")).unwrap().names().unwrap();
    assert_eq!(names, [PathBuf::from("file")]);
    names = folder.names().unwrap();
    assert_eq!(names.len(), 2);
    assert!(folder.below(Path::new("..")).is_err());
}
