//! A core module becomes a component. No adapter and no WASI: what the contract does not grant cannot be imported.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use wit_component::ComponentEncoder;

/// A component that is up to date.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Component {
    pub(crate) bytes: u64,
    pub(crate) freshness: Freshness,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    New,
    Unchanged,
}

/// Writes `folder/name.wasm`, and beside it the digest of the core module that it was made of; as long as that is the
/// same, nothing is written.
pub(crate) fn update(core: &Path, folder: &Path, name: &str) -> Result<Component> {
    let module = fs::read(core).with_context(|| format!("could not read `{}`", core.display()))?;
    let digest = hex::encode(Sha256::digest(&module));
    let path = folder.join(format!("{name}.wasm"));
    let digest_path = folder.join(format!("{name}.core-sha256"));
    if let (Ok(known), Ok(metadata)) = (fs::read_to_string(&digest_path), fs::metadata(&path))
        && known.trim() == digest
    {
        return Ok(Component { bytes: metadata.len(), freshness: Freshness::Unchanged });
    }
    let component = encode(&module).with_context(|| format!("guest `{name}` cannot become a component"))?;
    fs::create_dir_all(folder).with_context(|| format!("could not create `{}`", folder.display()))?;
    // The digest last: whoever is interrupted between the two does the work again.
    replace(&path, &component)?;
    replace(&digest_path, format!("{digest}\n").as_bytes())?;
    Ok(Component { bytes: component.len() as u64, freshness: Freshness::New })
}

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// All or nothing: a host that loads the file at this moment sees the old content or the new.
fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let draft = path.with_added_extension(format!("{}.draft", std::process::id()));
    fs::write(&draft, content)
        .and_then(|()| fs::rename(&draft, path))
        .with_context(|| format!("could not write `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Magic number and version: the smallest module.
    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";
    /// The same with an empty custom section of the name `x`.
    const CUSTOM: &[u8] = b"\0asm\x01\0\0\0\0\x02\x01x";

    #[test]
    fn a_component_is_made_once_per_core_module() {
        let folder = tempfile::tempdir().unwrap();
        let core = folder.path().join("core.wasm");
        let components = folder.path().join("components");
        let update = |module: &[u8]| {
            fs::write(&core, module).unwrap();
            update(&core, &components, "sample").unwrap()
        };

        let first = update(EMPTY);
        assert_eq!(first.freshness, Freshness::New);
        assert_eq!(update(EMPTY), Component { freshness: Freshness::Unchanged, ..first });
        assert_eq!(update(CUSTOM).freshness, Freshness::New);

        fs::remove_file(components.join("sample.wasm")).unwrap();
        assert_eq!(update(CUSTOM).freshness, Freshness::New);
        assert_eq!(fs::read_dir(&components).unwrap().count(), 2, "a component and its digest, no drafts");
    }

    #[test]
    fn what_is_no_module_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let core = folder.path().join("core.wasm");
        fs::write(&core, "text").unwrap();
        let error = update(&core, folder.path(), "sample").unwrap_err();
        assert_eq!(error.to_string(), "guest `sample` cannot become a component");
    }
}
