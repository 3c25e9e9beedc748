//! Reads files that strangers may have laid out: regular ones below one folder, of a bounded size, without waiting.
//!
//! A folder is opened once, and everything below it is opened from there, one name after the other: no link is followed,
//! no `..` and no absolute path is taken, and what is not a regular file (a FIFO, a device, a socket) is refused before it
//! is opened, and once more after. A file is opened without blocking and read to its limit at most, whatever it says of its
//! size. What a file holds is no part of any message here.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::Errno,
};

/// Folders between a bundle and one of its files.
const MAX_DEPTH: usize = 16;

/// Names that a folder is listed with.
const MAX_ENTRIES: usize = 10_000;

/// Opened without waiting for whoever has the other end, and without becoming anybody's terminal.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

/// A folder that is only gone through.
const THROUGH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that files are read from.
#[derive(Debug)]
pub struct Folder {
    opened: OwnedFd,
    path: PathBuf,
}

/// Why a file is not read. Words that go after the file's name.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system says no.
    #[error("cannot be read: {0}")]
    Io(io::Error),
    /// It leads out of the folder.
    #[error("leads out of the folder: write a path below it, without `..` and not from `/`")]
    Outside,
    /// It is below too many folders.
    #[error("is below more than {MAX_DEPTH} folders; lay it closer")]
    Deep,
    /// It is a link, or behind one.
    #[error("is a link or behind one, and links are not followed: put the file itself there")]
    Link,
    /// It is something else.
    #[error("is {0} and not a regular file; put a regular file there")]
    NotAFile(&'static str),
    /// It has too many bytes.
    #[error("has more than the {limit} bytes that are read")]
    TooLarge {
        /// The most bytes that such a file may have.
        limit: usize,
    },
    /// It is no text.
    #[error("is not UTF-8")]
    NotText,
    /// There are too many files.
    #[error("has more than {MAX_ENTRIES} entries")]
    TooMany,
}

impl FileError {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<FileError> for io::Error {
    fn from(error: FileError) -> Self {
        if let FileError::Io(error) = error { error } else { Self::other(error) }
    }
}

impl From<Errno> for FileError {
    fn from(error: Errno) -> Self {
        // What a link in the place of a file or of a folder is refused with.
        if error == Errno::LOOP { Self::Link } else { Self::Io(error.into()) }
    }
}

impl Folder {
    /// Opens a folder that whoever runs the program has named: links are theirs to make.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let through = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, path, through, Mode::empty())?;
        Ok(Self { opened, path: path.to_owned() })
    }

    /// Opens a folder below this one.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub fn below(&self, path: &Path) -> Result<Self, FileError> {
        let names = names(path)?;
        let opened = match self.through(&names)? {
            Some(opened) => opened,
            None => self.opened.try_clone().map_err(FileError::Io)?,
        };
        Ok(Self { opened, path: self.path.join(path) })
    }

    /// The folder's path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file below it.
    ///
    /// # Errors
    /// Why it is not read.
    pub fn read(&self, path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
        let mut names = names(path)?;
        let name = names.pop().ok_or(FileError::NotAFile("a folder"))?;
        let parent = self.through(&names)?;
        let parent = parent.as_ref().map_or_else(|| self.opened.as_fd(), OwnedFd::as_fd);
        // Before it is opened: to open a device is to do something with it.
        is_regular(FileType::from_raw_mode(statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode))?;
        whole(openat(parent, name, READ, Mode::empty())?, limit)
    }

    /// Reads a text below it.
    ///
    /// # Errors
    /// Why it is not read.
    pub fn text(&self, path: &Path, limit: usize) -> Result<String, FileError> {
        String::from_utf8(self.read(path, limit)?).map_err(|_binary| FileError::NotText)
    }

    /// The names of what is in it.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub fn names(&self) -> Result<Vec<PathBuf>, FileError> {
        let listed = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut found = Vec::new();
        for entry in Dir::new(openat(&self.opened, ".", listed, Mode::empty())?)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                found.push(PathBuf::from(name));
            }
            if found.len() > MAX_ENTRIES {
                return Err(FileError::TooMany);
            }
        }
        Ok(found)
    }

    /// The last of some folders; none if there are no names.
    fn through(&self, names: &[&Path]) -> Result<Option<OwnedFd>, FileError> {
        let mut at: Option<OwnedFd> = None;
        for name in names {
            let parent = at.as_ref().map_or_else(|| self.opened.as_fd(), OwnedFd::as_fd);
            at = Some(through(parent, name)?);
        }
        Ok(at)
    }
}

/// Reads a file that whoever runs the program has named: links are theirs to make, and the rest is as above.
///
/// # Errors
/// Why it is not read.
pub fn read(path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
    is_regular(FileType::from_raw_mode(statat(CWD, path, AtFlags::empty())?.st_mode))?;
    whole(openat(CWD, path, READ.difference(OFlags::NOFOLLOW), Mode::empty())?, limit)
}

fn through(parent: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, FileError> {
    openat(parent, name, THROUGH, Mode::empty()).map_err(|error| {
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_link = stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if is_link { FileError::Link } else { error.into() }
    })
}

/// The names of a path, if it stays below where it begins.
fn names(path: &Path) -> Result<Vec<&Path>, FileError> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(Path::new(name)),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(FileError::Outside),
        }
        if names.len() > MAX_DEPTH + 1 {
            return Err(FileError::Deep);
        }
    }
    Ok(names)
}

fn is_regular(found: FileType) -> Result<(), FileError> {
    match found {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => Err(FileError::Link),
        FileType::Directory => Err(FileError::NotAFile("a folder")),
        FileType::Fifo => Err(FileError::NotAFile("a named pipe")),
        FileType::Socket => Err(FileError::NotAFile("a socket")),
        FileType::CharacterDevice | FileType::BlockDevice => Err(FileError::NotAFile("a device")),
        FileType::Unknown => Err(FileError::NotAFile("something unknown")),
    }
}

/// All of an open file, which may be another one than was looked at before, and may grow.
fn whole(opened: OwnedFd, limit: usize) -> Result<Vec<u8>, FileError> {
    let stat = fstat(&opened)?;
    is_regular(FileType::from_raw_mode(stat.st_mode))?;
    let size = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
    if size > limit {
        return Err(FileError::TooLarge { limit });
    }
    let mut bytes = Vec::with_capacity(size);
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::from(opened).take(most).read_to_end(&mut bytes).map_err(FileError::Io)?;
    if bytes.len() > limit { Err(FileError::TooLarge { limit }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests;
