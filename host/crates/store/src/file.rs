//! The file of a store: which one it is, whatever its name, and that nobody else reads it.

use std::{
    fs::{self, Metadata, OpenOptions, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Which file is at a path now.
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    Ok((&fs::metadata(path)?).into())
}

/// Only the host's user reads what it recorded: reasons, names, and what callers sent. The database makes its other files
/// like this one.
pub(super) fn keep_private(path: &Path) {
    const MODE: u32 = 0o600;
    // What cannot be made or opened is said by whoever opens it.
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(MODE).open(path);
    drop(made);
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let Ok(now) = fs::metadata(&file) else { continue };
        if now.is_file() && now.permissions().mode() & 0o077 != 0 {
            let kept = fs::set_permissions(&file, Permissions::from_mode(MODE));
            if let Err(error) = kept {
                tracing::warn!(file = %Path::new(&file).display(), %error, "others can read the store; make its mode 0600");
            }
        }
    }
}
