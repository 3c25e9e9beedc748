//! Compiled components on disk, so that a host that starts again does not compile again.
//!
//! An artefact is machine code, and loading it is as good as running it. So nothing is loaded that this host did not
//! compile itself: each file carries an HMAC-SHA-256 (RFC 2104) under a key that only this host has, over its own name
//! and its content, and the name says of which component, engine, target and build of the host it is. A file is read
//! whole, verified, and loaded from what was read; it is never mapped. The folder must belong to the host's user and be
//! closed to others, links are not followed, and everything is opened relative to the folder that was checked. Whatever
//! is in doubt is removed and compiled again: the cache can make a start faster and never make it fail.

use std::{
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, fstat, futimens, linkat, mkdirat,
        openat, renameat, unlinkat,
    },
    process::{Pid, geteuid, test_kill_process},
};
use sha2::{Digest as _, Sha256};

use super::{PolicyError, guest::said};

/// Begins every file; another layout gets another number.
const MAGIC: &[u8; 16] = b"cutover-aot-1\n\0\0";

/// Bytes of an HMAC-SHA-256.
const MAC: usize = 32;

/// Bytes of the key: a block of SHA-256.
const KEY_BYTES: usize = 64;

/// The file with the key.
const KEY: &str = "key";

/// How the names of artefacts end.
const ENDING: &str = ".artefact";

/// How the names of files end that are being written.
const DRAFT: &str = ".draft";

/// Bytes that all artefacts may have together: a dozen JavaScript or Python guests, or thousands in Rust.
const MOST_BYTES: u64 = 512 << 20;

/// Machine code that may be loaded: either our compiler has just made it, or it was verified.
pub(super) struct Artefact(Vec<u8>);

/// See the module.
pub(super) struct Artefacts {
    folder: OwnedFd,
    path: PathBuf,
    key: [u8; KEY_BYTES],
    /// What an artefact depends on besides its component.
    build: [u8; 32],
    max_bytes: u64,
    rejected: AtomicU64,
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    /// It cannot be made or opened.
    #[error("`{path}` cannot be used: {source}")]
    Io {
        /// The folder or the file.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Others can write or read it, or own it.
    #[error("`{path}` {what}; it must be a folder of the host's own user with mode 0700")]
    Open {
        /// The folder or the file.
        path: String,
        /// What is wrong with it, as a phrase of the message.
        what: &'static str,
    },
}

impl Artefact {
    /// What the compiler of this host gave.
    pub(super) const fn of_our_compiler(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Loads the code.
    ///
    /// # Errors
    /// It was made by another version of wasmtime or for another configuration, or needs more than the engine has.
    #[expect(unsafe_code, reason = "an `Artefact` is made by our own compiler, or was verified to have been")]
    pub(super) fn load(&self, engine: &wasmtime::Engine) -> Result<wasmtime::component::Component, PolicyError> {
        // SAFETY: the bytes are what `precompile_component` gave, of this process, of a process that this one started,
        // or of one that had this host's key; and they are in memory that nobody else can write.
        let loaded = unsafe { wasmtime::component::Component::deserialize(engine, &self.0) };
        loaded.map_err(|error| PolicyError::Compile { message: said(&error) })
    }
}

impl Artefacts {
    /// Opens a folder, and makes it if it is not there.
    ///
    /// # Errors
    /// Why it cannot be trusted or used.
    pub(super) fn open(path: &Path, engine: &wasmtime::Engine, build: &str) -> Result<Self, CacheError> {
        let wrong = |source: rustix::io::Errno| failed(path, source);
        match mkdirat(CWD, path, Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(wrong(error)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, path, flags, Mode::empty()).map_err(wrong)?;
        let stat = fstat(&folder).map_err(wrong)?;
        let open = |what| CacheError::Open { path: path.display().to_string(), what };
        if stat.st_uid != geteuid().as_raw() {
            return Err(open("belongs to another user"));
        }
        if Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO) {
            return Err(open("is open to others"));
        }
        let mut cache = Self {
            folder,
            path: path.to_owned(),
            key: [0; KEY_BYTES],
            build: fingerprint(engine, build),
            max_bytes: MOST_BYTES,
            rejected: AtomicU64::new(0),
        };
        cache.key = cache.own_key()?;
        cache.remove_drafts();
        Ok(cache)
    }

    /// The artefact of a component, if there is one that can be trusted.
    pub(super) fn read(&self, digest: &str) -> Option<Artefact> {
        let name = self.name(digest);
        let file = match self.open_file(&name) {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => return None,
            Err(_) => return self.reject(&name, "is not a file of the host's own"),
        };
        let mut bytes = Vec::new();
        if (&file).take(self.max_bytes).read_to_end(&mut bytes).is_err() {
            return self.reject(&name, "cannot be read");
        }
        let Some((mac, code)) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.split_first_chunk::<MAC>()) else {
            return self.reject(&name, "is not an artefact");
        };
        if self.mac(&name, code).verify_slice(mac).is_err() {
            return self.reject(&name, "was not written by this host");
        }
        // The time of the last use; without it the file merely goes earlier than it might.
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        futimens(&file, &Timestamps { last_access: now, last_modification: now }).ok();
        let at = bytes.len() - code.len();
        Some(Artefact(bytes.split_off(at)))
    }

    /// Keeps an artefact. All or nothing: who reads at this moment sees the old file, the new one or none.
    pub(super) fn write(&self, digest: &str, artefact: &Artefact) {
        let name = self.name(digest);
        if let Err(error) = self.try_write(&name, &artefact.0) {
            tracing::warn!(folder = %self.path.display(), %error, "a compiled policy is not kept on disk");
        }
        self.make_room(&name);
    }

    /// Removes an artefact that turned out to be of no use.
    pub(super) fn forget(&self, digest: &str) {
        self.reject::<()>(&self.name(digest), "cannot be loaded");
    }

    /// Files that were found and not trusted.
    pub(super) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    fn name(&self, digest: &str) -> String {
        let name = Sha256::new().chain_update(digest).chain_update(self.build).finalize();
        format!("{}{ENDING}", hex::encode(name))
    }

    fn mac(&self, name: &str, code: &[u8]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256>>::new(&self.key.into());
        mac.update(MAGIC);
        mac.update(name.as_bytes());
        mac.update(code);
        mac
    }
}

impl Artefacts {
    /// Opens a file that only we can have written.
    fn open_file(&self, name: &str) -> Result<File, rustix::io::Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&self.folder, name, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let ours = stat.st_uid == geteuid().as_raw();
        let closed = !Mode::from_raw_mode(stat.st_mode).intersects(Mode::RWXG | Mode::RWXO);
        let small = u64::try_from(stat.st_size).is_ok_and(|size| size <= self.max_bytes);
        if plain && ours && closed && small { Ok(file.into()) } else { Err(rustix::io::Errno::PERM) }
    }

    /// Writes a file under a name that nobody else uses, for whoever gives it its own.
    fn draft(&self, content: &[&[u8]]) -> Result<String, io::Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{count}{DRAFT}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.folder, &name, flags, Mode::RUSR | Mode::WUSR)?);
        let written = content.iter().try_for_each(|part| file.write_all(part));
        written.inspect_err(|_| self.remove(&name))?;
        Ok(name)
    }

    fn try_write(&self, name: &str, code: &[u8]) -> Result<(), io::Error> {
        let mac = self.mac(name, code).finalize().into_bytes();
        let draft = self.draft(&[MAGIC, &mac, code])?;
        renameat(&self.folder, &draft, &self.folder, name).inspect_err(|_| self.remove(&draft))?;
        Ok(())
    }

    /// The host's own key. Of several hosts that begin at once, one makes it and all read it.
    fn own_key(&self) -> Result<[u8; KEY_BYTES], CacheError> {
        let path = self.path.join(KEY);
        let wrong = |error: io::Error| CacheError::Io { path: path.display().to_string(), source: error };
        for _ in 0..2 {
            match self.open_file(KEY) {
                Ok(mut file) => {
                    let mut key = [0; KEY_BYTES];
                    if file.read_exact(&mut key).is_ok() {
                        return Ok(key);
                    }
                    self.remove(KEY);
                }
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the key of compiled policies cannot be trusted");
                    self.remove(KEY);
                }
            }
            let mut key = [0; KEY_BYTES];
            getrandom::fill(&mut key).map_err(|error| wrong(io::Error::other(error.to_string())))?;
            let draft = self.draft(&[&key]).map_err(wrong)?;
            let linked = linkat(&self.folder, &draft, &self.folder, KEY, AtFlags::empty());
            self.remove(&draft);
            match linked {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(wrong(error.into())),
            }
        }
        self.open_file(KEY)
            .map_err(io::Error::from)
            .and_then(|mut file| {
                let mut key = [0; KEY_BYTES];
                file.read_exact(&mut key).map(|()| key)
            })
            .map_err(wrong)
    }

    /// Removes the artefacts that were not used for longest until the rest fits; never the one of this `name`.
    fn make_room(&self, name: &str) {
        let Ok(mut files) = self.files(ENDING) else { return };
        let mut total = files.iter().map(|file| file.bytes).sum::<u64>();
        files.sort_by_key(|file| file.used);
        for file in files.iter().filter(|file| file.name != name) {
            if total <= self.max_bytes {
                return;
            }
            self.remove(&file.name);
            total = total.saturating_sub(file.bytes);
        }
    }

    /// Removes what a host that was killed left half written.
    fn remove_drafts(&self) {
        let alive = |name: &str| {
            let pid = name.split('-').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
            pid.is_some_and(|pid| test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
        };
        for file in self.files(DRAFT).unwrap_or_default().iter().filter(|file| !alive(&file.name)) {
            self.remove(&file.name);
        }
    }

    fn files(&self, ending: &str) -> Result<Vec<Kept>, rustix::io::Errno> {
        let mut files = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.ends_with(ending) {
                continue;
            }
            // It may have been removed since.
            let Ok(stat) = rustix::fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let used = (stat.st_mtime, stat.st_mtime_nsec);
            files.push(Kept { name, bytes: u64::try_from(stat.st_size).unwrap_or(0), used });
        }
        Ok(files)
    }

    fn reject<T>(&self, name: &str, why: &'static str) -> Option<T> {
        tracing::warn!(folder = %self.path.display(), file = name, "a compiled policy {why}; it is compiled again");
        self.rejected.fetch_add(1, Ordering::Relaxed);
        self.remove(name);
        None
    }

    /// Best effort: a file that stays is rejected again the next time.
    fn remove(&self, name: &str) {
        unlinkat(&self.folder, name, AtFlags::empty()).ok();
    }
}

/// A file in the folder.
struct Kept {
    name: String,
    bytes: u64,
    /// When it was used last: seconds and nanoseconds.
    used: (i64, u64),
}

impl fmt::Debug for Artefacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artefacts").field("path", &self.path).field("rejected", &self.rejected).finish_non_exhaustive()
    }
}

fn failed(path: &Path, error: rustix::io::Errno) -> CacheError {
    CacheError::Io { path: path.display().to_string(), source: error.into() }
}

/// What machine code depends on besides its source: wasmtime's version and configuration, the target, and this build of
/// the host, down to the versions of its dependencies.
fn fingerprint(engine: &wasmtime::Engine, build: &str) -> [u8; 32] {
    struct Sha(Sha256);
    impl std::hash::Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hash = Sha(Sha256::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hash);
    std::hash::Hash::hash(build, &mut hash);
    hash.0.finalize().into()
}

#[cfg(test)]
mod tests;
