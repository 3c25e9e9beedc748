//! Policies in other languages, and the stand-in for WASI that some of their tools need.
//!
//! `cargo xtask languages` builds their components where npm and pip are there. Where it did, it says so in
//! `CUTOVER_LANGUAGES`, and a component that is missing then is a failure; elsewhere the test says that it is skipped.

mod javascript;
mod python;
mod stand_in;

use std::{fs, sync::Arc, time::Duration};

use cutover_model::port::Kind;
use cutover_policy_host::{
    engine::{Engine, Imports, KindLimits, Limits, Policy},
    error::PolicyError,
};

use crate::harness::root;

/// More than any of these guests needs on a busy machine, so that no test of an answer is one of speed.
fn generous() -> Limits {
    let kind = KindLimits {
        memory_bytes: 96 << 20,
        time: Duration::from_secs(30),
        decide_time: Duration::from_secs(30),
        ..KindLimits::default()
    };
    Limits::alike(kind)
}

/// A component of another language; none if its tools are not here.
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

fn admit(engine: &Arc<Engine>, kind: Kind, component: &[u8], settings: &str) -> Result<Policy, PolicyError> {
    admit_with(engine, kind, component, settings, Imports::None)
}

fn admit_with(
    engine: &Arc<Engine>,
    kind: Kind,
    component: &[u8],
    settings: &str,
    imports: Imports,
) -> Result<Policy, PolicyError> {
    Policy::admit(engine, engine.compile_with(component, imports)?, kind, settings)
}

/// What is wrong with settings, as the policy says it.
fn problems(engine: &Arc<Engine>, kind: Kind, component: &[u8], settings: &str) -> Vec<String> {
    match admit(engine, kind, component, settings) {
        Err(PolicyError::Settings { problems }) => problems,
        other => panic!("{other:?}"),
    }
}
