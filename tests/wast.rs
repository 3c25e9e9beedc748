//! The component model's own test suites `values`, `validation` and `resources`, under the host's hardened engine.
//!
//! The scripts come in the package `wasm-tools`, as published; nothing of them is copied into this tree. Every
//! directive is run. One that needs what the host turns off on purpose, or that is newer than the engine, stands in
//! [`exceptions`] with its reason and must fail in just the way that is written there: an exception that is not needed
//! any more fails the test, too.

mod exceptions;
mod runner;
mod values;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cutover::policy::engine::{Engine, Limits};
use serde_json::Value;

use self::{
    exceptions::EXCEPTIONS,
    runner::{Outcome, run},
};
use crate::harness::root;

/// The folder of the suites in the package that carries them; cargo knows where it has put that.
fn suites() -> PathBuf {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == "wasm-tools").unwrap();
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().join("tests/component-model/test")
}

/// The scripts of a suite, by their name in it: `values/strings.wast`.
fn scripts(suite: &str) -> BTreeMap<String, String> {
    let folder = suites().join(suite);
    let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let files = files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "wast"));
    files
        .map(|path| {
            let name = format!("{suite}/{}", path.file_name().unwrap().display());
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Runs a suite of at least this many scripts and directives, and checks each directive against the exceptions.
fn passes(suite: &str, scripts_at_least: usize, directives_at_least: usize) {
    let engine = Engine::new(Limits::default()).unwrap();
    let scripts = scripts(suite);
    assert!(scripts.len() >= scripts_at_least, "{suite} has {} scripts", scripts.len());
    let (mut ran, mut excused, mut wrong) = (0, 0, Vec::new());
    for (name, text) in &scripts {
        for Outcome { line, directive, result } in run(engine.wasmtime(), text) {
            ran += 1;
            let exception = EXCEPTIONS.iter().find(|e| e.script == name && e.lines.contains(&line));
            match (result, exception) {
                (Ok(()), None) => {}
                (Err(why), Some(exception)) if why.contains(exception.says) => excused += 1,
                (Err(why), _) => wrong.push(format!("{name}:{line}: {directive}: {why}")),
                (Ok(()), Some(exception)) => {
                    wrong.push(format!("{name}:{line}: {directive} is excused, but passes: {}", exception.because));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {ran} directives of {suite}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(ran >= directives_at_least, "{suite} has {ran} directives");
    let of_suite = |e: &&exceptions::Exception| e.script.starts_with(&format!("{suite}/"));
    let listed: usize = EXCEPTIONS.iter().filter(of_suite).map(|e| e.lines.len()).sum();
    assert_eq!(excused, listed, "an exception of {suite} names a line without a directive");
}

#[test]
fn the_suite_values_passes_under_the_hardened_engine() {
    passes("values", 8, 1);
}

#[test]
fn the_suite_validation_passes_under_the_hardened_engine() {
    passes("validation", 13, 1);
}

#[test]
fn the_suite_resources_passes_under_the_hardened_engine() {
    passes("resources", 3, 1);
}
