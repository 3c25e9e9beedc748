//! Guests: found, built for the sandbox in one cargo call, and turned into components.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use serde_json::Value;

use crate::{
    component::{self, Freshness},
    process,
    toolchain::WASM_TARGET,
    workspace::{Workspace, cargo_home},
};

/// Rust's default is 1 MiB, which every instance would reserve; policies do not recurse deeply.
const STACK_BYTES: u32 = 128 * 1024;

/// The profile of the root manifest that guests are built with.
const PROFILE: &str = "guest";

/// What hash functions that are seeded when they are compiled are seeded with (`const-random`, under the script
/// interpreter). Left alone, each build would draw another seed and give other bytes; any fixed word will do.
const SEED: (&str, &str) = ("CONST_RANDOM_SEED", "cutover");

/// A package in `guests/` whose library is a `cdylib`.
#[derive(Debug, PartialEq, Eq)]
struct Guest {
    /// The package: `sticky-share`.
    name: String,
    /// The component: the package's name, or what its `package.metadata.cutover.component` says.
    component: String,
    /// The library, and the core module: `sticky_share`.
    library: String,
}

/// Brings `target/components` up to date.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let guests = discover(workspace)?;
    let mut cargo = cargo(workspace, "build", &guests);
    process::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace)))?;
    let modules = workspace.guests_target().join(WASM_TARGET).join(PROFILE);
    for guest in &guests {
        let core = modules.join(&guest.library).with_extension("wasm");
        let component = component::update(&core, &workspace.components(), &guest.component)?;
        let freshness = match component.freshness {
            Freshness::New => "new",
            Freshness::Unchanged => "unchanged",
        };
        eprintln!("guests: {} {} KiB ({freshness})", guest.component, component.bytes.div_ceil(1024));
    }
    Ok(())
}

/// Clippy over what only the wasm target compiles; in the profile of the build, so that macros are built once.
pub(crate) fn lint(workspace: &Workspace) -> Result<()> {
    let guests = discover(workspace)?;
    process::run(cargo(workspace, "clippy", &guests).args(["--", "-D", "warnings"]))
}

fn discover(workspace: &Workspace) -> Result<Vec<Guest>> {
    let folder = workspace.root.join("guests");
    let mut guests: Vec<Guest> = workspace.packages.iter().filter_map(|package| guest(package, &folder)).collect();
    if guests.is_empty() {
        bail!("no package in `guests/` has the crate type `cdylib`");
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

fn guest(package: &Value, folder: &Path) -> Option<Guest> {
    let manifest = package.get("manifest_path")?.as_str()?;
    if !Path::new(manifest).starts_with(folder) {
        return None;
    }
    let is_cdylib = |target: &&Value| {
        let types = target.get("crate_types").and_then(Value::as_array);
        types.is_some_and(|types| types.iter().any(|name| name == "cdylib"))
    };
    let library = package.get("targets")?.as_array()?.iter().find(is_cdylib)?.get("name")?.as_str()?;
    let name = package.get("name")?.as_str()?;
    let component = package.pointer("/metadata/cutover/component").and_then(Value::as_str).unwrap_or(name);
    Some(Guest { name: name.into(), component: component.into(), library: library.replace('-', "_") })
}

fn cargo(workspace: &Workspace, verb: &str, guests: &[Guest]) -> Command {
    let mut cargo = workspace.cargo([verb, "--profile", PROFILE, "--target", WASM_TARGET, "--target-dir"]);
    cargo.arg(workspace.guests_target()).env(SEED.0, SEED.1);
    for guest in guests {
        cargo.args(["--package", &guest.name]);
    }
    cargo
}

/// In the form that wins over every other source of flags and allows blanks in paths. Paths of this machine are
/// replaced, so that the same source gives the same bytes, and the same digest, everywhere.
fn rustflags(workspace: &Workspace) -> OsString {
    let mut flags = vec![OsString::from(format!("-Clink-arg=-zstack-size={STACK_BYTES}"))];
    // The last prefix that fits wins, and the target folder is often inside the root.
    let prefixes = [
        (cargo_home(), "/cargo"),
        (Some(workspace.root.clone()), "/cutover"),
        (Some(workspace.guests_target()), "/target"),
    ];
    for (path, name) in prefixes {
        flags.extend(path.map(|path| remap(path, name)));
    }
    flags.join(OsStr::new("\u{1f}"))
}

fn remap(path: PathBuf, name: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(path);
    flag.push("=");
    flag.push(name);
    flag
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, manifest: &str, crate_type: &str) -> Value {
        let targets = json!([
            { "name": "integration", "crate_types": ["bin"] },
            { "name": name.replace('-', "_"), "crate_types": [crate_type, "rlib"] },
        ]);
        json!({ "name": name, "manifest_path": manifest, "targets": targets })
    }

    fn workspace(packages: Vec<Value>) -> Workspace {
        let mut workspace = Workspace::at("/repo".into(), "/cache/target".into());
        workspace.packages = packages;
        workspace
    }

    #[test]
    fn guests_are_the_cdylibs_of_their_folder() {
        let found = discover(&workspace(vec![
            package("thresholds", "/repo/guests/thresholds/Cargo.toml", "cdylib"),
            package("cutover-policy", "/repo/guests/sdk/Cargo.toml", "lib"),
            package("sticky-share", "/repo/guests/sticky-share/Cargo.toml", "cdylib"),
            package("bindings", "/repo/host/Cargo.toml", "cdylib"),
            package("lookalike", "/repo/guests-of-others/Cargo.toml", "cdylib"),
        ]));
        let names: Vec<_> = found.unwrap().into_iter().map(|guest| (guest.name, guest.library)).collect();
        assert_eq!(names, [("sticky-share", "sticky_share"), ("thresholds", "thresholds")].map(own));
    }

    #[test]
    fn a_component_may_have_another_name_than_its_package() {
        let mut package = package("rhai-policy", "/repo/guests/rhai/Cargo.toml", "cdylib");
        package["metadata"] = json!({ "cutover": { "component": "rhai" } });
        let found = discover(&workspace(vec![package])).unwrap();
        let guest = Guest { name: "rhai-policy".into(), component: "rhai".into(), library: "rhai_policy".into() };
        assert_eq!(found, [guest]);
    }

    #[test]
    fn no_guests_is_an_error() {
        assert!(discover(&workspace(Vec::new())).is_err());
    }

    #[test]
    fn all_guests_are_built_by_one_command_in_a_folder_of_their_own() {
        let guests = ["a", "b"].map(|name| Guest { name: name.into(), component: name.into(), library: name.into() });
        let command = cargo(&workspace(Vec::new()), "build", &guests);
        let args: Vec<_> = command.get_args().collect();
        let target = ["build", "--profile", "guest", "--target", WASM_TARGET, "--target-dir", "/cache/target/guests"];
        assert_eq!(args, [&target[..], &["--package", "a", "--package", "b"]].concat());
    }

    fn own((name, library): (&str, &str)) -> (String, String) {
        (name.to_owned(), library.to_owned())
    }
}
