//! A crate, built by cargo for a target without an operating system.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use super::{BuildError, process};

/// The target that guests are built for: no WASI, so no ambient authority to take away.
const TARGET: &str = "wasm32-unknown-unknown";

/// Rust's default is 1 MiB, which every instance would reserve; policies do not recurse deeply.
const STACK_BYTES: u32 = 128 * 1024;

/// What hash functions that are seeded when they are compiled are seeded with (`const-random`, under some interpreters),
/// so that the same source gives the same bytes. Any fixed word will do.
const SEED: (&str, &str) = ("CONST_RANDOM_SEED", "cutover");

/// How to get a toolchain.
const GET_RUST: &str = "install Rust from https://rustup.rs, or begin a policy in Rhai, which needs no toolchain";

/// What cargo says of the crate.
#[derive(Debug)]
struct Crate {
    /// The library, as cargo names its artefact.
    library: String,
    /// The path of its `Cargo.toml`.
    manifest: PathBuf,
    /// Folders whose place on this machine is not to show in the component, and what stands for them.
    places: Vec<(PathBuf, String)>,
}

/// Builds the crate in a folder and returns its core module.
pub(super) fn core_module(
    folder: &Path,
    cargo_home: Option<&Path>,
    note: &dyn Fn(&str),
) -> Result<PathBuf, BuildError> {
    add_target(folder, note)?;
    let metadata = metadata(folder)?;
    let found = Crate::find(folder, &metadata, cargo_home)?;
    let mut cargo = cargo(folder);
    cargo.args(["build", "--release", "--target", TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", found.flags());
    note(&format!("running `{}`", process::line(&cargo)));
    let messages = process::stdout(&mut cargo, GET_RUST)?;
    found.module(&messages).ok_or(BuildError::NoCdylib(found.manifest))
}

/// A cargo in the folder, so that a toolchain that is pinned there is the one that is used.
fn cargo(folder: &Path) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder).env(SEED.0, SEED.1);
    cargo
}

/// Installs the target if the toolchain lacks it.
fn add_target(folder: &Path, note: &dyn Fn(&str)) -> Result<(), BuildError> {
    let sysroot = process::stdout(Command::new("rustc").args(["--print", "sysroot"]).current_dir(folder), GET_RUST)?;
    if Path::new(&sysroot).join("lib/rustlib").join(TARGET).is_dir() {
        return Ok(());
    }
    if !process::succeeds(Command::new("rustup").arg("--version")) {
        return Err(BuildError::NoTarget { target: TARGET });
    }
    note(&format!("the Rust target {TARGET} is missing; adding it with rustup"));
    process::run(Command::new("rustup").args(["target", "add", TARGET]).current_dir(folder), GET_RUST)
}

fn metadata(folder: &Path) -> Result<Value, BuildError> {
    let mut cargo = cargo(folder);
    cargo.args(["metadata", "--format-version", "1", "--filter-platform", TARGET]);
    let text = process::stdout(&mut cargo, GET_RUST)?;
    serde_json::from_str(&text).map_err(|e| BuildError::Unexpected { line: process::line(&cargo), what: e.to_string() })
}

impl Crate {
    fn find(folder: &Path, metadata: &Value, cargo_home: Option<&Path>) -> Result<Self, BuildError> {
        let manifest = folder.join("Cargo.toml");
        let manifest = std::fs::canonicalize(&manifest).map_err(|e| super::file(&manifest, e))?;
        let packages = || metadata.get("packages").and_then(Value::as_array).into_iter().flatten();
        let path = |package: &Value| package.get("manifest_path").and_then(Value::as_str).map(PathBuf::from);
        let same = |package: &&Value| path(package).and_then(|p| p.canonicalize().ok()).as_deref() == Some(&*manifest);
        let library = packages().find(same).and_then(cdylib).ok_or_else(|| BuildError::NoCdylib(manifest.clone()))?;
        let mut places: Vec<_> = cargo_home.map(|home| (home.to_owned(), "/cargo".to_owned())).into_iter().collect();
        // Crates that come from folders: the SDK of a checkout, for one.
        for package in packages().filter(|package| package.get("source").is_none_or(Value::is_null)) {
            let name = package.get("name").and_then(Value::as_str).unwrap_or("crate");
            if let Some(home) = path(package).as_deref().and_then(Path::parent) {
                places.push((home.to_owned(), format!("/{name}")));
            }
        }
        let target = metadata.get("target_directory").and_then(Value::as_str);
        places.extend(target.map(|target| (PathBuf::from(target), "/target".to_owned())));
        Ok(Self { library, manifest, places })
    }

    /// In the form that wins over every other source of flags and allows blanks in paths. Paths of this machine are
    /// replaced, so that the same source gives the same bytes, and the same digest, wherever the bundle is.
    fn flags(&self) -> OsString {
        let mut flags = vec![OsString::from(format!("-Clink-arg=-zstack-size={STACK_BYTES}"))];
        let own = self.manifest.parent();
        // Of the crate itself the compiler sees relative paths; naming its place would make other flags of each.
        for (place, name) in self.places.iter().filter(|(place, _)| Some(place.as_path()) != own) {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(place);
            flag.push(format!("={name}"));
            flags.push(flag);
        }
        flags.join(OsStr::new("\u{1f}"))
    }

    /// The core module among the messages of a build.
    fn module(&self, messages: &str) -> Option<PathBuf> {
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut artefacts = messages.filter(|m| m.get("reason").is_some_and(|r| r == "compiler-artifact"));
        let mine = artefacts.find(|m| {
            let is_mine = |manifest: &str| Path::new(manifest).canonicalize().is_ok_and(|path| path == self.manifest);
            m.get("manifest_path").and_then(Value::as_str).is_some_and(is_mine)
                && m.pointer("/target/name").and_then(Value::as_str) == Some(&*self.library)
        })?;
        let files = mine.get("filenames").and_then(Value::as_array)?.iter().filter_map(Value::as_str);
        files.map(PathBuf::from).find(|file| file.extension() == Some(OsStr::new("wasm")))
    }
}

/// The name of a package's `cdylib`.
fn cdylib(package: &Value) -> Option<String> {
    let is_cdylib = |target: &&Value| {
        let types = target.get("crate_types").and_then(Value::as_array);
        types.is_some_and(|types| types.iter().any(|name| name == "cdylib"))
    };
    let target = package.get("targets")?.as_array()?.iter().find(is_cdylib)?;
    Some(target.get("name")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_is_found_among_its_dependencies_and_their_places_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        let lib = |types: &[&str]| json!([{ "name": "policy", "crate_types": types }]);
        let metadata = json!({
            "target_directory": "/cache/target",
            "packages": [
                { "name": "mine", "manifest_path": manifest, "source": null, "targets": lib(&["cdylib", "rlib"]) },
                { "name": "cutover-policy", "manifest_path": "/src/sdk/Cargo.toml", "source": null, "targets": [] },
                { "name": "serde", "manifest_path": "/home/.cargo/serde/Cargo.toml", "source": "registry+x", "targets": [] },
            ],
        });
        let found = Crate::find(folder.path(), &metadata, Some(Path::new("/home/.cargo"))).unwrap();
        let flags = found.flags().into_string().unwrap();
        let flags: Vec<_> = flags.split('\u{1f}').collect();
        let remap = |from: &str, to: &str| format!("--remap-path-prefix={from}={to}");
        let wanted =
            [remap("/home/.cargo", "/cargo"), remap("/src/sdk", "/cutover-policy"), remap("/cache/target", "/target")];
        assert_eq!(flags[0], "-Clink-arg=-zstack-size=131072");
        assert_eq!(flags[1..], wanted);

        let message = json!({
            "reason": "compiler-artifact", "manifest_path": manifest, "target": { "name": "policy" },
            "filenames": ["/t/libpolicy.rlib", "/t/policy.wasm"],
        });
        let messages = format!("{}\n{message}\n", json!({ "reason": "build-script-executed" }));
        assert_eq!(found.module(&messages), Some("/t/policy.wasm".into()));
        assert_eq!(found.module("{}"), None);
    }

    #[test]
    fn a_crate_without_a_cdylib_is_told_what_to_add() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("Cargo.toml");
        std::fs::write(&manifest, "").unwrap();
        let metadata = json!({ "packages": [{ "name": "mine", "manifest_path": manifest, "targets": [] }] });
        let error = Crate::find(folder.path(), &metadata, None).unwrap_err().to_string();
        assert!(error.contains("crate-type = [\"cdylib\", \"rlib\"]"), "{error}");
    }
}
