//! The templates that take a toolchain: skipped where it is missing, unless whoever runs the tests says that it is there.

use std::{fs, path::Path, process::Command};

use tempfile::TempDir;

use super::{KINDS, equipped, goes_live, inspected, json, new, scratch, succeeds, tested};
use crate::harness::root;

const TARGET: &str = "wasm32-unknown-unknown";

/// Whether a command works; quiet.
fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn has_wasm_target() -> bool {
    let Ok(sysroot) = Command::new("rustc").args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).is_dir()
}

/// The host binary with a cargo that builds in one folder for all bundles, so that dependencies are built once, and from
/// what this repository is locked to, so that nothing is downloaded.
fn with_cargo() -> Command {
    let mut command = equipped();
    locked(&mut command);
    command
}

fn locked(command: &mut Command) {
    command
        .env("CARGO_TARGET_DIR", scratch())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_PROFILE_RELEASE_LTO", "thin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crate_goes_from_nothing_to_being_in_charge() {
    if !has_wasm_target() {
        eprintln!("skipped: there is no rustc with the target {TARGET}");
        return;
    }
    let folder = TempDir::new().unwrap();
    let mut bundles = Vec::new();
    for kind in KINDS {
        let dir = folder.path().display().to_string();
        let name = format!("my-{kind}");
        let sdk = root().join("guests/sdk").display().to_string();
        let arguments = ["new", &name, "--kind", kind, "--language", "rust", "--dir", &dir, "--sdk", &sdk];
        succeeds(equipped(), &arguments);
        let bundle = folder.path().join(name);
        fs::copy(root().join("Cargo.lock"), bundle.join("Cargo.lock")).unwrap();
        let bundle = bundle.display().to_string();
        let built = tokio::task::block_in_place(|| json(with_cargo(), &["build", &bundle]));
        assert_eq!((&built["made_from"], &built["written"]), (&"rust".into(), &"new".into()), "{built}");
        bundles.push(bundle);
    }
    let again = json(with_cargo(), &["build", &bundles[3]]);
    assert_eq!(again["written"], "unchanged", "the same source gives the same bytes");
    tested(equipped(), &bundles);
    inspected(equipped, &bundles[0], &["make-plan"]);
    inspected(equipped, &bundles[3], &["judge"]);
    for bundle in &bundles {
        let mut cargo = Command::new("cargo");
        locked(cargo.args(["test", "--quiet"]).current_dir(bundle));
        let done = tokio::task::block_in_place(|| cargo.output().unwrap());
        assert!(done.status.success(), "{bundle}: {}", String::from_utf8_lossy(&done.stderr));
    }
    goes_live(equipped, &bundles[3], "my-rollback").await;
}

#[test]
fn a_module_passes_its_own_tests_and_is_built_where_npm_is() {
    if !works(Command::new("node").arg("--version")) {
        eprintln!("skipped: there is no node");
        return;
    }
    let folder = TempDir::new().unwrap();
    let kinds = ["rollback", "stages", "comparison"];
    let bundles: Vec<_> = kinds.map(|kind| new(folder.path(), &format!("my-{kind}"), kind, "javascript")).into();
    for bundle in &bundles {
        let done = Command::new("node").arg("--test").current_dir(bundle).output().unwrap();
        assert!(done.status.success(), "{bundle}: {}", String::from_utf8_lossy(&done.stdout));
    }
    let languages = std::env::var_os("CUTOVER_LANGUAGES").unwrap_or_default();
    if !languages.to_str().unwrap().split(',').any(|one| one == "javascript") {
        eprintln!("skipped: building them; `cargo xtask test` does where npm is there");
        return;
    }
    for bundle in &bundles {
        let built = json(equipped(), &["build", bundle]);
        assert_eq!((&built["made_from"], &built["written"]), (&"javascript".into(), &"new".into()), "{built}");
    }
    tested(equipped(), &bundles);
}
