//! Components that were built against released versions of the contract, and never again: each still answers, word for
//! word. See `museum/README.md`.

use std::{fs, path::PathBuf, sync::Arc};

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Finding, Gauge, Members, OperationCalls},
    port::{
        Action, AdapterCall, AdapterReply, Check, Comparison, Condition, Difference, Kind, Pair, Phase, Plan, Progress,
        Rule, Side, Situation, Step, Target, Test, Verdict,
    },
    request::{Class, Ppm},
};
use cutover_policy_host::{
    PolicyError,
    engine::{CONTRACT, Engine, Limits, Policy},
};

use crate::harness::root;

fn piece(name: &str) -> Vec<u8> {
    fs::read(museum().join("0.1.0").join(name).with_extension("wasm")).unwrap()
}

fn museum() -> PathBuf {
    root().join("tests/museum")
}

/// A piece as if it had been built against another version of the contract, whose name is as long.
fn of_version(name: &str, version: &str) -> Vec<u8> {
    let mut component = piece(name);
    let (old, new) = (b"@0.1.0", format!("@{version}"));
    assert_eq!(old.len(), new.len());
    let mut found = 0;
    for at in 0..component.len() - old.len() {
        if component[at..].starts_with(old) {
            component[at..at + old.len()].copy_from_slice(new.as_bytes());
            found += 1;
        }
    }
    assert!(found > 3);
    component
}

fn engine() -> Arc<Engine> {
    Engine::new(Limits::default()).unwrap()
}

fn admit(name: &str, kind: Kind) -> Policy {
    admit_component(&piece(name), kind).unwrap_or_else(|e| panic!("{name} {e}"))
}

fn admit_component(component: &[u8], kind: Kind) -> Result<Policy, PolicyError> {
    let engine = engine();
    Policy::admit(&engine, engine.compile(component)?, kind, "{}")
}

fn check() -> Check {
    let calls = |errors, buckets: &[(u32, u64)]| Calls {
        requests: 100,
        errors,
        timeouts: 1,
        failed_over: 2,
        units: 50,
        unit_errors: 3,
        latency: buckets.iter().copied().collect(),
    };
    let batch = Batch {
        start_ms: UnixMs(1_000),
        duration_ms: 1_000,
        share: Ppm::new(100_000),
        operations: vec![OperationCalls {
            operation: "execute".into(),
            class: Class::Read,
            v1: calls(0, &[(7, 100)]),
            v2: calls(6, &[(3, 60), (321, 40)]),
            shadow: calls(0, &[]),
        }],
        v1: Members { wanted: 1, ready: 1, failures: 2, queued: 3, rss_bytes: 4 },
        v2: Members { failures: 5, ..Members::default() },
        comparisons: Comparisons { same: 1, ignored: 2, different: 9, incomparable: 4 },
        gauges: vec![Gauge { name: "host.cpu-ppm".into(), value: -12 }],
    };
    Check {
        now_ms: UnixMs(123_456),
        phase: Phase::Ramping,
        stage: 3,
        share: Ppm::new(100_000),
        stage_started_ms: UnixMs(120_000),
        batches: vec![batch],
    }
}

fn finding(rule: &str, observed: i64, limit: i64, note: &str) -> Finding {
    Finding { rule: rule.into(), observed, limit, unit: "count".into(), note: note.into() }
}

#[test]
fn the_museum_is_as_it_was_released() {
    use std::fmt::Write as _;
    for version in ["0.1.0"] {
        let folder = museum().join(version);
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.retain(|path| path.extension().is_some_and(|e| e == "wasm"));
        names.sort();
        let mut digests = String::new();
        for path in &names {
            let compiled = engine().compile(&fs::read(path).unwrap()).unwrap();
            assert_eq!(compiled.contracts, [version], "{}", path.display());
            writeln!(digests, "{}  {}", compiled.digest, path.file_name().unwrap().display()).unwrap();
        }
        assert_eq!(digests, fs::read_to_string(folder.join("SHA256SUMS")).unwrap());
        assert!(names.len() >= Kind::ALL.len());
    }
}

#[test]
fn rollback_of_0_1_0_still_judges() {
    let policy = admit("rollback", Kind::Rollback);
    assert_eq!((&*policy.description.name, &*policy.description.version), ("museum-rollback", "0.1.0"));
    let asked = policy.judge(&check(), &[]);
    let judgement = asked.answer.unwrap();
    let note = "slowest 321, gauges -12, failures 7, different 9";
    assert_eq!((judgement.verdict, judgement.evidence), (Verdict::Healthy, -123_456));
    assert_eq!(judgement.findings, [finding("errors", 7, 10, note)]);
    assert_eq!(asked.memory, 7_u64.to_le_bytes());
    let asked = policy.judge(&check(), &asked.memory);
    assert_eq!(asked.answer.unwrap().verdict, Verdict::RollBack);
    assert_eq!(policy.judge(&check(), b"odd").answer, Err(PolicyError::Said { message: "3 bytes".into() }));
}

#[test]
fn stages_of_0_1_0_still_move() {
    let policy = admit("stages", Kind::Stages);
    let next = |verdict, forced| {
        let asked = policy.next(&Progress { check: check(), verdict, forced }, b"abc");
        assert_eq!(asked.memory, b"cba");
        asked.answer.unwrap()
    };
    let step = |stage, ppm| Step { stage, share: Ppm::new(ppm), soak: Some(std::time::Duration::from_mins(2)) };
    let healthy = next(Verdict::Healthy, false);
    assert_eq!(healthy.action, Action::Advance(step(4, 200_000)));
    assert_eq!(healthy.findings, [finding("requests", 100, i64::MIN, "100 requests, 3 bytes of memory")]);
    assert_eq!(next(Verdict::Warn, false).action, Action::Retreat(step(2, 0)));
    assert_eq!(next(Verdict::Hold, false).action, Action::Hold);
    assert_eq!(next(Verdict::Hold, true).action, Action::Advance(step(4, 200_000)));
    assert_eq!(next(Verdict::RollBack, false).action, Action::Pause);
}

fn situation(salt: &str) -> Situation {
    Situation {
        now_ms: UnixMs(7),
        migration: "programs".into(),
        phase: Phase::Ramping,
        stage: 2,
        share: Ppm::new(400_000),
        salt: salt.into(),
        operations: vec![("execute".into(), Class::Read), ("list".into(), Class::Read)],
    }
}

fn planned() -> Plan {
    let rule = |name: &str, attribute: &str, test, target| Rule {
        name: name.into(),
        conditions: vec![Condition { attribute: attribute.into(), test }],
        target,
    };
    Plan {
        rules: vec![
            rule("beta", "header:x-ring", Test::OneOf(vec!["beta".into(), "alpha".into()]), Target::V2),
            rule("staff", "session", Test::Prefix("staff-".into()), Target::Share),
            rule("nobody", "session", Test::Absent, Target::V1),
        ],
        otherwise: Target::Share,
        sticky: "session".into(),
        salt: "programs/salt".into(),
        share: Ppm::new(400_000),
        shadow_share: Ppm::new(250_000),
        shadow_operations: vec!["execute".into(), "list".into()],
    }
}

#[test]
fn routing_of_0_1_0_still_plans() {
    let policy = admit("routing", Kind::Routing);
    let asked = policy.make_plan(&situation("salt"), &[1]);
    assert_eq!((asked.answer, asked.memory), (Ok(planned()), vec![1, 2]));
    let refused = policy.make_plan(&situation("refuse"), &[]).answer;
    assert_eq!(refused, Err(PolicyError::Said { message: "refused at 7".into() }));
    assert!(!policy.decides());
}

#[test]
fn routing_with_decide_of_0_1_0_still_decides() {
    let policy = admit("deciding", Kind::Routing);
    assert_eq!(policy.description.attributes, ["header:x-ring", "session"]);
    let plan = policy.make_plan(&situation("salt"), &[]).answer.unwrap();
    assert_eq!(plan.rules.last().unwrap().target, Target::Decide);
    let decide = |position: u32, ring: Option<&str>| {
        let mut frame = [position, 500_000, 2].map(u32::to_le_bytes).concat();
        for attribute in [ring, Some("s")] {
            let length = attribute.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap());
            frame.extend(length.to_le_bytes());
            frame.extend(attribute.unwrap_or_default().bytes());
        }
        policy.decide(&frame).unwrap()
    };
    assert_eq!([decide(499_999, None), decide(500_000, None)], [Target::V2, Target::V1]);
    assert_eq!([decide(9, Some("beta")), decide(9, Some("gamma"))], [Target::V2, Target::Share]);
}

#[test]
fn comparison_of_0_1_0_still_compares() {
    let side = |status, media_type: &str, body: &str| Side {
        success: true,
        status,
        media_type: media_type.into(),
        body: body.into(),
    };
    let pair = |v1, v2| Pair { operation: "read".into(), v1, v2 };
    let pairs = [
        pair(side(200, "text", "a"), side(200, "text", "a")),
        pair(side(200, "text", "a"), side(404, "text", "a")),
        pair(side(200, "text", "a"), side(200, "html", "a")),
        pair(side(200, "text", "a"), side(200, "text", "b")),
    ];
    let difference = |kind: &str, v1: &str, v2: &str| Difference {
        path: "/read".into(),
        kind: kind.into(),
        category: "semantic".into(),
        v1: v1.into(),
        v2: v2.into(),
    };
    let outcomes = admit("comparison", Kind::Comparison).compare(&pairs).answer.unwrap();
    let wanted = [
        Comparison::Same,
        Comparison::Ignored(vec![difference("status", "200", "404")]),
        Comparison::Incomparable("text is not html".into()),
        Comparison::Different(vec![difference("value", "a", "b")]),
    ];
    assert_eq!(outcomes, wanted);
}

#[test]
fn adapter_of_0_1_0_still_adapts() {
    let policy = admit("adapter", Kind::Adapter);
    let call = |operation: &str| AdapterCall { operation: operation.into(), session: "s".into(), body: b"{}".to_vec() };
    let adapted = policy.adapt_call(&call("read")).answer.unwrap();
    assert_eq!((&*adapted.operation, &*adapted.body), ("v2-read", &b"{}"[..]));
    assert_eq!(adapted.notices, [("deprecation".to_owned(), "read is old".to_owned())]);
    let refused = policy.adapt_call(&call("refuse")).answer;
    assert_eq!(refused, Err(PolicyError::Said { message: "refused s".into() }));
    let reply = AdapterReply { success: false, body: b"no".to_vec() };
    let reply = policy.adapt_reply(&call("read"), reply).answer.unwrap();
    assert_eq!((reply.success, &*reply.body), (true, &b"\"read\""[..]));
}

#[test]
fn settings_are_still_refused_with_their_fields() {
    let engine = engine();
    let compiled = engine.compile(&piece("rollback")).unwrap();
    let refused = Policy::admit(&engine, compiled, Kind::Rollback, r#"{"a":1}"#).unwrap_err();
    assert_eq!(refused.to_string(), "refuses its settings: `piece` is {\"a\":1}; it must be {}");
}

#[test]
fn a_guest_of_another_patch_version_of_the_contract_runs() {
    let older = admit("rollback", Kind::Rollback).judge(&check(), &[]);
    let newer = admit_component(&of_version("rollback", "0.1.9"), Kind::Rollback).unwrap();
    assert_eq!(newer.compiled().contracts, ["0.1.9"]);
    let asked = newer.judge(&check(), &[]);
    assert_eq!((asked.answer, asked.memory, asked.fuel), (older.answer, older.memory, older.fuel));
    let deciding = admit_component(&of_version("deciding", "0.1.9"), Kind::Routing).unwrap();
    assert!(deciding.decides() && deciding.make_plan(&situation("salt"), &[]).answer.is_ok());
}

#[test]
fn a_guest_of_an_unknown_contract_is_refused_with_both_versions() {
    for version in ["0.2.0", "1.0.0", "0.0.1"] {
        for name in ["routing", "deciding", "stages", "rollback", "comparison", "adapter"] {
            let refused = admit_component(&of_version(name, version), Kind::Rollback).unwrap_err();
            assert_eq!(refused, PolicyError::UnknownContract { found: version.into(), supported: CONTRACT }, "{name}");
            let said = refused.to_string();
            assert!(said.contains(&format!("cutover:policy@{version}")) && said.contains("cutover:policy@0.1.0"));
        }
    }
}
