//! `guests/javascript`: the rollback policy `burn-rate` under the limits that every policy has.

use cutover_model::{
    clock::UnixMs,
    port::{Check, Kind, Phase, Verdict},
    request::Ppm,
};
use cutover_policy_host::{
    engine::{Engine, KindLimits, Limits, Policy},
    error::PolicyError,
};
use serde_json::{Value, json};

use super::{admit, component, generous, problems};
use crate::harness::{Setup, components, root};

/// Seconds in which V1 answers 1000 calls each and V2 some, of which some fail.
pub(super) fn check(seconds: std::ops::Range<u64>, requests: u64, errors: u64) -> Check {
    let calls = |requests: u64, errors: u64| {
        json!({ "requests": requests, "errors": errors, "timeouts": 0, "failed_over": 0, "units": requests,
            "unit_errors": errors, "latency": [[320, requests]] })
    };
    let members = json!({ "wanted": 2, "ready": 2, "failures": 0, "queued": 0, "rss_bytes": 1 << 30 });
    let batch = |second: u64| -> Value {
        json!({ "start_ms": second * 1_000, "duration_ms": 1_000, "share": 100_000, "v1": members, "v2": members,
            "comparisons": { "same": 0, "ignored": 0, "different": 0, "incomparable": 0 },
            "gauges": [{ "name": "host.cpu-ppm", "value": -1 }],
            "operations": [{ "operation": "execute", "class": "read", "v1": calls(1_000, 0),
                "v2": calls(requests, errors), "shadow": calls(0, 0) }] })
    };
    Check {
        now_ms: UnixMs(seconds.end * 1_000),
        phase: Phase::Ramping,
        stage: 1,
        share: Ppm::new(100_000),
        stage_started_ms: UnixMs(0),
        batches: seconds.map(|s| serde_json::from_value(batch(s)).unwrap()).collect(),
    }
}

/// Judges a V2 that is healthy and then fails; gives the verdicts, the fuel of each question and the last memory.
pub(super) fn story(policy: &Policy) -> (Vec<Verdict>, Vec<u64>, Vec<u8>) {
    let (mut verdicts, mut fuel, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for (seconds, errors) in [(0..0, 0), (0..5, 0), (5..10, 0), (10..15, 100)] {
        let asked = policy.judge(&check(seconds, 200, errors), &memory);
        let judgement = asked.answer.unwrap_or_else(|e| panic!("{e}"));
        verdicts.push(judgement.verdict);
        fuel.push(asked.fuel);
        memory = asked.memory;
    }
    (verdicts, fuel, memory)
}

pub(super) const STORY: [Verdict; 4] = [Verdict::Hold, Verdict::Healthy, Verdict::Healthy, Verdict::RollBack];

#[test]
fn burn_rate_judges_and_remembers() {
    let Some(component) = component("javascript-burn-rate") else { return };
    let engine = Engine::new(generous()).unwrap();
    let policy = admit(&engine, Kind::Rollback, &component, "{}").unwrap();
    assert_eq!((policy.description.name.as_str(), policy.decides()), ("burn-rate", false));
    let schema: Value = serde_json::from_str(&policy.description.settings_schema).unwrap();
    assert_eq!(schema["properties"]["objective"]["default"], "99.9%");
    let (verdicts, fuel, memory) = story(&policy);
    assert_eq!(verdicts, STORY);
    let remembered: Value = serde_json::from_slice(&memory).unwrap();
    assert_eq!(remembered["windows"].as_object().unwrap().len(), 6);
    let asked = policy.judge(&check(15..20, 200, 100), &memory);
    let finding = asked.answer.unwrap().findings.remove(0);
    assert_eq!((finding.rule.as_str(), finding.limit, finding.unit.as_str()), ("burn-rate", 14_400_000, "ratio-ppm"));
    assert_eq!(finding.observed, 250_000_000, "1000 of 4000 calls failed and 0.1 % may");
    // Bit for bit and unit for unit, on another instance of another admission.
    let again = admit(&engine, Kind::Rollback, &component, "{}").unwrap();
    assert_eq!(story(&again), (verdicts, fuel, memory));
}

#[test]
fn burn_rate_fits_the_default_limits() {
    let Some(component) = component("javascript-burn-rate") else { return };
    let engine =
        Engine::new(Limits::alike(KindLimits { time: generous().rollback.time, ..KindLimits::default() })).unwrap();
    let policy = admit(&engine, Kind::Rollback, &component, "{}").unwrap();
    let hour = policy.judge(&check(0..3_600, 200, 0), &[]);
    assert_eq!(hour.answer.unwrap().verdict, Verdict::Healthy, "an hour without a check");
    assert!(hour.memory.len() < 16 << 10, "{} bytes to remember", hour.memory.len());
}

#[test]
fn what_javascript_refuses_and_throws_has_words() {
    let Some(component) = component("javascript-burn-rate") else { return };
    let engine = Engine::new(generous()).unwrap();
    let settings = r#"{ "objective": "100%", "rules": [{ "long": "soon" }], "min": 1 }"#;
    let said = problems(&engine, Kind::Rollback, &component, settings);
    assert_eq!(said.len(), 3, "{said:?}");
    assert_eq!(said[1], "`objective` is \"100%\"; it must be a share from 50% to 99.999%");
    assert!(said[0].starts_with("`min` is not a setting") && said[2].starts_with("`rules[0].long` is \"soon\""));
    let policy = admit(&engine, Kind::Rollback, &component, "{}").unwrap();
    match policy.judge(&check(0..1, 1, 0), b"not what it remembered").answer {
        Err(PolicyError::Said { message }) => assert!(message.starts_with("SyntaxError: "), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_serves_with_a_judge_in_javascript() {
    let Some(_) = component("javascript-burn-rate") else { return };
    components();
    let bundle = format!("'{}'", root().join("examples/policies/burn-rate").display());
    let mut setup = Setup::default().with("rollback", bundle);
    setup.limits = "time = '10s'";
    let host = setup.start().await;
    assert_eq!(host.http.create("s").await.status, hyper::StatusCode::OK);
    let snapshot = host.until("a verdict", |s| s.verdict.is_some()).await;
    assert!(snapshot.policy_failures.is_empty(), "{:?}", snapshot.policy_failures);
    host.app.shut_down().await;
}
