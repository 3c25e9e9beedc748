//! A core module becomes a component. No adapter and no WASI: what the contract does not grant cannot be imported.

use std::{fs, io, path::Path};

use sha2::{Digest as _, Sha256};
use wit_component::ComponentEncoder;

/// Whether a file had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// The file was not there or was another, and has been written.
    New,
    /// The file had just these bytes already, and was left alone.
    Unchanged,
}

/// The component of a core module.
///
/// # Errors
/// Why it cannot become one, with what to look for.
pub fn encode(module: &[u8]) -> Result<Vec<u8>, String> {
    let encoded = ComponentEncoder::default().validate(true).module(module).and_then(ComponentEncoder::encode);
    encoded.map_err(|error| format!("{error:#}"))
}

/// SHA-256 in lower-case hex.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Makes a file be just these bytes, all at once: who reads it meanwhile sees the old ones or the new.
///
/// # Errors
/// What the system says.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<Freshness> {
    if fs::read(path).is_ok_and(|known| known == bytes) {
        return Ok(Freshness::Unchanged);
    }
    let draft = path.with_added_extension(format!("draft-{}", std::process::id()));
    fs::write(&draft, bytes)?;
    fs::rename(&draft, path)?;
    Ok(Freshness::New)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_when_it_differs_and_no_draft_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.wasm");
        assert_eq!(replace(&file, b"one").unwrap(), Freshness::New);
        assert_eq!(replace(&file, b"one").unwrap(), Freshness::Unchanged);
        assert_eq!(replace(&file, b"two").unwrap(), Freshness::New);
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_empty_module_is_a_component_that_exports_nothing_and_text_is_none() {
        let component = encode(b"\0asm\x01\0\0\0").unwrap();
        assert_eq!(component.get(..8), Some(&b"\0asm\x0d\0\x01\0"[..]));
        assert!(encode(b"text").is_err());
    }
}
