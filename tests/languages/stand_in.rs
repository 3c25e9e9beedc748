//! The stand-in for WASI: off by default, closed, and the same for every instance.

use std::fs;

use cutover_model::port::{Kind, Verdict};
use cutover_policy_host::{
    bundle::Bundle,
    engine::{Compiled, Engine, Imports, Limits, Policy},
    error::PolicyError,
};

use super::{admit, admit_with, component, generous, javascript};
use crate::harness::Setup;

/// The cases of `wasi.wat` whose answers it checks itself.
const ANSWERED: usize = 35;

/// Those that come after them, and what they called.
const NOT_OFFERED: [&str; 3] = [
    "`wasi:cli/exit@0.2.0#exit`",
    "`wasi:cli/environment@0.2.0#set-environment`",
    "`wasi:random/random@0.2.0#get-random-bytes for more than 65536 bytes`",
];

fn every_interface() -> Vec<u8> {
    wat::parse_str(include_str!("wasi.wat")).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_function_answers_as_it_is_documented() {
    let engine = Engine::new(Limits::default()).unwrap();
    let compiled = engine.compile_with(&every_interface(), Imports::WasiStub).unwrap();
    for case in 0..ANSWERED {
        let settings = format!("{case:02}");
        let admitted = Policy::admit(&engine, compiled.clone(), Kind::Rollback, &settings);
        // It has no `judge`, which is found out after its settings were taken.
        assert!(matches!(admitted, Err(PolicyError::WrongType { .. })), "case {case}: {admitted:?}");
    }
    for (case, called) in (ANSWERED..).zip(NOT_OFFERED) {
        let settings = format!("{case:02}");
        let admitted = Policy::admit(&engine, compiled.clone(), Kind::Rollback, &settings);
        match admitted {
            Err(PolicyError::Trap { trap }) => assert!(trap.contains(called), "case {case}: {trap}"),
            other => panic!("case {case}: {other:?}"),
        }
    }
}

#[test]
fn without_the_opt_in_each_import_is_named_with_the_ways_out() {
    let engine = Engine::new(Limits::default()).unwrap();
    let error = engine.compile(&every_interface()).unwrap_err();
    let PolicyError::Imports { names } = &error else { panic!("{error}") };
    assert_eq!(names.len(), 20, "{names:?}");
    for word in ["`wasi:cli/stdin@0.2.0`", "`wasi:io/streams@0.2.12`", "without WASI", "`wasi_stub = true`"] {
        assert!(error.to_string().contains(word), "no {word} in {error}");
    }
}

#[test]
fn what_is_not_stood_in_for_is_refused_by_name_with_the_opt_in_too() {
    let engine = Engine::new(Limits::default()).unwrap();
    let clock = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
    for (import, name) in [
        (r#"(instance (export "get" (func)))"#, "wasi:http/outgoing-handler@0.2.0"),
        (r#"(instance (export "get" (func)))"#, "wasi:sockets/tcp@0.2.0"),
        (r#"(instance (export "get" (func)))"#, "wasi:cli/stdin@0.3.0"),
        (r#"(instance (export "get" (func)))"#, "acme:io/poll@0.2.0"),
        ("(func)", "wasi:cli/stdin@0.2.0"),
        ("(func)", "now"),
    ] {
        let text = format!(r#"(component {clock} (import "{name}" {import}))"#);
        let error = engine.compile_with(&wat::parse_str(text).unwrap(), Imports::WasiStub).unwrap_err();
        match &error {
            PolicyError::Imports { names } => assert_eq!(names, &[name], "{error}"),
            PolicyError::Compile { message } => assert!(message.contains(name), "{error}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn what_one_may_import_another_may_not_that_is_the_same_component() {
    let engine = Engine::new(Limits::default()).unwrap();
    let component = every_interface();
    let digest = |compiled: Compiled| compiled.digest.to_string();
    let before = engine.compilations().compiled;
    let with = engine.compile_with(&component, Imports::WasiStub).map(digest);
    let again = engine.compile_with(&component, Imports::WasiStub).map(digest);
    assert_eq!(with.as_ref().ok(), again.as_ref().ok(), "{with:?}");
    assert!(with.is_ok(), "{with:?}");
    assert_eq!(engine.compilations().compiled - before, 1, "it is compiled once");
    let error = engine.compile(&component).unwrap_err();
    assert!(matches!(&error, PolicyError::Imports { .. }), "{error:?}");
}

#[test]
fn a_function_of_another_type_is_refused() {
    let engine = Engine::new(Limits::default()).unwrap();
    let text =
        r#"(component (import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result string))))))"#;
    let error = engine.compile_with(&wat::parse_str(text).unwrap(), Imports::WasiStub).unwrap_err();
    assert!(error.to_string().contains("wasi:clocks/monotonic-clock@0.2.0"), "{error}");
}

#[test]
fn a_guest_with_wasi_decides_as_its_twin_without() {
    let (Some(with), Some(without)) = (component("javascript-burn-rate-wasi"), component("javascript-burn-rate"))
    else {
        return;
    };
    let engine = Engine::new(generous()).unwrap();
    let refused = admit(&engine, Kind::Rollback, &with, "{}").unwrap_err();
    assert!(refused.to_string().contains("`wasi:cli/stdout@0.2"), "{refused}");
    let policy = |bytes| admit_with(&engine, Kind::Rollback, bytes, "{}", Imports::WasiStub).unwrap();
    let (verdicts, fuel, memory) = javascript::story(&policy(&with));
    assert_eq!(verdicts, javascript::STORY);
    assert_eq!(javascript::story(&policy(&with)), (verdicts.clone(), fuel, memory.clone()), "two instances are alike");
    let (said, _, remembered) = javascript::story(&policy(&without));
    assert_eq!((said, remembered), (verdicts, memory));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_asks_for_it_and_a_restarted_host_remembers() {
    let Some(component) = component("javascript-burn-rate-wasi") else { return };
    let folder = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let bundle = folder.path().join("burn-rate");
    fs::create_dir_all(&bundle).unwrap();
    fs::write(bundle.join("policy.wasm"), component).unwrap();
    let manifest = "name = 'burn-rate'\nversion = '1.0.0'\nkind = 'rollback'\ncomponent = 'policy.wasm'\n";
    let mut setup = Setup::default().with("rollback", format!("'{}'", bundle.display()));
    setup.limits = "time = '10s'";

    fs::write(bundle.join("policy.toml"), manifest).unwrap();
    let host = setup.start_in(std::sync::Arc::clone(&folder)).await;
    let refused = host.migration().handle.snapshot().policy_failures.clone();
    assert_eq!(refused.iter().map(|f| f.cause).collect::<Vec<_>>(), ["imports"]);
    host.app.shut_down().await;

    fs::write(bundle.join("policy.toml"), format!("{manifest}wasi_stub = true\n")).unwrap();
    assert!(Bundle::read(&bundle, folder.path(), &toml::Table::new()).unwrap().wasi_stub);
    for start in ["first", "second"] {
        let host = setup.start_in(std::sync::Arc::clone(&folder)).await;
        let snapshot = host.until("a verdict", |s| s.verdict.is_some()).await;
        assert!(snapshot.policy_failures.is_empty(), "{start}: {:?}", snapshot.policy_failures);
        assert!(snapshot.policies.iter().any(|p| p.kind == Kind::Rollback), "{start}");
        assert_ne!(snapshot.verdict.as_ref().unwrap().verdict, Verdict::RollBack);
        host.app.shut_down().await;
    }
}
