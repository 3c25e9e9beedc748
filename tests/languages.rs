//! Policies in other languages, and the stand-in for WASI that some of their tools need.
//!
//! `cargo xtask languages` builds their components where npm and pip are there. Where it did, it says so in
//! `CUTOVER_LANGUAGES`, and a component that is missing then is a failure; elsewhere the test says that it is skipped.

mod javascript;
mod python;
mod stand_in;

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use cutover::policy::{
    engine::{Compiled, Engine, Limits, Policy},
    error::PolicyError,
    port::Kind,
};

use crate::harness::root;

/// More than any of these guests needs on a busy machine, so that no test of an answer is one of speed.
const GENEROUS: Limits = Limits {
    memory_bytes: 96 << 20,
    time: Duration::from_secs(30),
    decide_time: Duration::from_secs(30),
    output_bytes: 1 << 20,
    component_bytes: 32 << 20,
};

/// A component of another language; none if its tools are not here.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn component(name: &str) -> Option<Vec<u8>> {
    let file = root().join("target/components").join(name).with_extension("wasm");
    if let Ok(bytes) = fs::read(&file) {
        return Some(bytes);
    }
    let language = name.split('-').next().unwrap();
    let built = std::env::var_os("CUTOVER_LANGUAGES").unwrap_or_default();
    let built = built.to_str().unwrap().split(',').any(|one| one == language);
    assert!(!built, "`{}` is missing, although {language} was built", file.display());
    eprintln!("skipped: `{}` is missing; build it with `cargo xtask languages`", file.display());
    None
}

/// A component of another language, compiled once for all tests that give it room.
fn compiled(name: &str) -> Option<(Arc<Engine>, Compiled)> {
    static ENGINE: LazyLock<Arc<Engine>> = LazyLock::new(|| Engine::new(GENEROUS).unwrap());
    static COMPILED: Mutex<BTreeMap<String, Compiled>> = Mutex::new(BTreeMap::new());
    let bytes = component(name)?;
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    let compiled = all.entry(name.to_owned()).or_insert_with(|| ENGINE.compile(&bytes).unwrap());
    Some((Arc::clone(&ENGINE), compiled.clone()))
}

/// What is wrong with settings, as the policy says it.
fn problems(engine: &Arc<Engine>, kind: Kind, compiled: &Compiled, settings: &str) -> Vec<String> {
    match Policy::admit(engine, compiled.clone(), kind, settings) {
        Err(PolicyError::Settings { problems }) => problems,
        other => panic!("{other:?}"),
    }
}
