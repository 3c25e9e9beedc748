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

use cutover_policy_host::engine::{Engine, Limits};
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

/// Runs a suite of so many scripts and directives, and holds each directive against the exceptions, of which there are
/// `excused`.
fn passes(suite: &str, in_all: (usize, usize), excused: usize) {
    let engine = Engine::new(Limits::default()).unwrap();
    let scripts = scripts(suite);
    let (mut ran, mut exceptions, mut wrong) = (0, 0, Vec::new());
    for (name, text) in &scripts {
        for Outcome { line, directive, result } in run(engine.wasmtime(), text) {
            ran += 1;
            let exception = EXCEPTIONS.iter().find(|e| e.script == name && e.lines.iter().any(|l| l.contains(&line)));
            match (result, exception) {
                (Ok(()), None) => {}
                (Err(why), Some(exception)) if why.contains(exception.says) => exceptions += 1,
                (Err(why), _) => wrong.push(format!("{name}:{line}: {directive}: {why}")),
                (Ok(()), Some(exception)) => {
                    wrong.push(format!("{name}:{line}: {directive} is excused, but passes: {}", exception.because));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {ran} directives of {suite}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(((scripts.len(), ran), exceptions), (in_all, excused), "scripts, directives, exceptions of {suite}");
}

#[test]
fn the_suite_values_passes_under_the_hardened_engine() {
    passes("values", (8, 225), 81);
}

#[test]
fn the_suite_validation_passes_under_the_hardened_engine() {
    passes("validation", (13, 466), 45);
}

#[test]
fn the_suite_resources_passes_under_the_hardened_engine() {
    passes("resources", (3, 36), 0);
}

#[test]
fn what_the_exceptions_rest_on_is_off() {
    let engine = Engine::new(Limits::default()).unwrap();
    for (what, component) in [
        ("memory64", "(core module (memory i64 1))"),
        ("threads", "(core module (memory 1 1 shared))"),
        ("gc", "(core module (type (struct)))"),
        ("tail calls", "(core module (func $f return_call $f))"),
        ("relaxed simd", "(core module (func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0)))))"),
        ("exceptions", "(core module (tag))"),
        ("page sizes", "(core module (memory 1 (pagesize 1)))"),
        ("async", "(type (stream u8))"),
        ("lists of fixed length", "(type (list u8 4))"),
        ("maps", "(type (map string u8))"),
    ] {
        let bytes = wat::parse_str(format!("(component {component})")).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(engine.compile(&bytes).is_err_and(|error| error.cause() == "compile"), "{what} is on");
    }
}
