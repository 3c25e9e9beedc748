//! Scripts through the real component: twins that agree with their originals, bundles that do what they say, and
//! scripts that misbehave.

mod examples;
mod generate;
mod hostile;
mod twins;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Finding, OperationCalls},
    port::{Check, Kind, Phase, Progress, Verdict},
    request::{Class, Ppm},
};
use cutover_policy_host::{
    bundle::Bundle,
    engine::{Compiled, Engine, KindLimits, Limits, Policy},
    error::PolicyError,
};
use serde_json::{Value, json};

use crate::harness::{components, root};

/// The component is compiled once for all tests of this file: that takes seconds.
fn engine() -> &'static (Arc<Engine>, Compiled) {
    static ENGINE: OnceLock<(Arc<Engine>, Compiled)> = OnceLock::new();
    ENGINE.get_or_init(|| {
        // Time is a limit of its own test; here the machine may be as slow as it likes.
        let time = Duration::from_secs(30);
        let limits = Limits::alike(KindLimits { time, decide_time: time, ..KindLimits::default() });
        let engine = Engine::new(limits).unwrap();
        let component = std::fs::read(components().join("rhai.wasm")).unwrap();
        let compiled = engine.compile(&component).unwrap();
        (engine, compiled)
    })
}

/// A bundle of `policies/`, with settings laid over its own.
fn bundle(name: &str, settings: &str) -> Policy {
    let overrides: toml::Table = toml::from_str(settings).unwrap();
    let bundle = Bundle::read(&root().join("policies").join(name), &components(), &overrides).unwrap();
    let (engine, rhai) = engine();
    let compiled =
        if bundle.file.ends_with("rhai.wasm") { rhai.clone() } else { engine.compile(&bundle.component).unwrap() };
    Policy::admit(engine, compiled, bundle.kind, &bundle.settings).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn admit(kind: Kind, script: &str) -> Result<Policy, PolicyError> {
    let (engine, compiled) = engine();
    Policy::admit(engine, compiled.clone(), kind, &json!({ "script": script }).to_string())
}

/// The latest second, in which both pools answer as many calls in 50 ms each, and some of V2's fail.
fn served(second: u64, requests: u64, errors: u64) -> Batch {
    let calls = |errors| {
        let mut calls = Calls { requests, errors, units: requests, unit_errors: errors, ..Calls::default() };
        calls.latency.add(cutover_contract_index(50_000), requests);
        calls
    };
    let operation = OperationCalls {
        operation: "execute".into(),
        class: Class::Read,
        v1: calls(0),
        v2: calls(errors),
        shadow: Calls::default(),
    };
    Batch { start_ms: UnixMs(second * 1_000), duration_ms: 1_000, operations: vec![operation], ..Batch::default() }
}

/// The bucket of a latency, from a histogram that recorded it.
fn cutover_contract_index(us: u64) -> u32 {
    let mut calls = Calls::default();
    calls.latency.record(us);
    calls.latency.buckets()[0].0
}

fn check(now_s: u64, batches: Vec<Batch>) -> Check {
    Check {
        now_ms: UnixMs(now_s * 1_000),
        phase: Phase::Ramping,
        stage: 1,
        share: Ppm::new(100_000),
        stage_started_ms: UnixMs(0),
        batches,
    }
}

fn progress(now_s: u64, stage: u32, verdict: Verdict, batches: Vec<Batch>) -> Progress {
    Progress { check: Check { stage, ..check(now_s, batches) }, verdict, forced: false }
}

fn rules(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.rule.as_str()).collect()
}

/// The message of an error that a policy gives itself.
fn said(error: PolicyError) -> String {
    match error {
        PolicyError::Said { message } => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_component_imports_nothing_and_answers_every_kind() {
    let (_, compiled) = engine();
    assert_eq!(compiled.kinds, Kind::ALL);
    assert!(compiled.decides);
    let size = std::fs::metadata(components().join("rhai.wasm")).unwrap().len();
    assert!(size < 3 << 20, "{size} bytes");
}

#[test]
fn a_compile_error_reaches_people_with_line_and_column() {
    let error = admit(Kind::Rollback, "fn judge(check, memory) {\n    let x = ;\n}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "refuses its settings: `script` does not compile at line 2, column 13: Unexpected ';'"
    );
}

#[test]
fn a_script_is_asked_and_remembers() {
    let script = "fn judge(check, memory) {
        memory.n = (memory.get(\"n\") ?? 0) + check.v2.requests;
        if memory.n > 15 { roll_back([finding(\"n\", memory.n, 15, \"count\", \"enough\")]) } else { healthy() }
    }";
    let policy = admit(Kind::Rollback, script).unwrap();
    let first = policy.judge(&check(5, vec![served(0, 10, 0)]), &[]);
    assert_eq!(first.answer.unwrap().verdict, Verdict::Healthy);
    assert_eq!(serde_json::from_slice::<Value>(&first.memory).unwrap(), json!({ "memory": { "n": 10 } }));
    let second = policy.judge(&check(10, vec![served(6, 10, 0)]), &first.memory);
    let again = policy.judge(&check(10, vec![served(6, 10, 0)]), &first.memory);
    assert_eq!(second.answer.clone().unwrap().verdict, Verdict::RollBack);
    assert_eq!((second.answer, second.memory, second.fuel), (again.answer, again.memory, again.fuel), "bit for bit");
    let foreign = policy.judge(&check(10, Vec::new()), b"{\"window\":3");
    let findings = foreign.answer.unwrap().findings;
    assert!(findings.iter().any(|f| f.rule == "memory-lost" && f.note.starts_with("this memory is not mine: ")));
}

/// Fuel is the same on every machine. A fresh instance sets the interpreter up and compiles the script each time, which is
/// most of what a small script costs.
#[test]
fn a_question_costs_little_more_than_setting_up() {
    let small = admit(Kind::Rollback, "fn judge(check) { hold() }").unwrap();
    let asked = small.judge(&check(5, vec![served(0, 10, 0)]), &[]);
    assert!((500_000..4_000_000).contains(&asked.fuel), "{}", asked.fuel);
    let twin = bundle("thresholds-rhai", "");
    let asked = twin.judge(&check(5, (0..5).map(|second| served(second, 200, 1)).collect()), &[]);
    assert!(asked.answer.is_ok() && asked.fuel < 27_000_000, "{}", asked.fuel);
}
