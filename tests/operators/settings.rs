//! Settings that are changed while a policy is in charge, and differences that are accepted.

use cutover_control::migration::CommandKind;
use cutover_model::port::Phase;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::still;
use crate::harness::{Host, bundle, eventually, root};

const POLICIES: &str = "/api/v1/migrations/programs/policies";

impl Host {
    async fn activate(&self, settings: &Value, from_defaults: bool) -> Value {
        let bundle = root().join("policies/thresholds");
        let body = json!({ "bundle": bundle, "settings": settings, "from_defaults": from_defaults, "reason": "test" });
        let reply = self.http.admin(Method::PUT, &format!("{POLICIES}/rollback"), &body).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        reply.body
    }

    async fn slot(&self, kind: &str) -> Value {
        let slots = self.http.admin(Method::GET, POLICIES, &Value::Null).await.body["slots"].clone();
        slots.as_array().unwrap().iter().find(|slot| slot["kind"] == kind).unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_laid_over_what_is_in_force_and_what_changes_is_said() {
    let host = still().start().await;
    let before = host.slot("rollback").await["active"]["settings"].clone();
    assert_eq!((&before["min_requests"], &before["p99_floor"]), (&json!(20), &json!("500ms")), "as configured");
    let done = host.activate(&json!({ "min_requests": 30 }), false).await;
    assert_eq!(done["detail"]["changed"], json!([{ "setting": "min_requests", "from": 20, "to": 30 }]), "{done}");
    let slot = host.slot("rollback").await;
    assert_eq!(slot["active"]["settings"]["p99_floor"], "500ms", "the others stay as they were: {slot}");
    assert_eq!(slot["previous"]["settings"]["min_requests"], 20);

    let again = host.activate(&json!({ "min_requests": 30 }), false).await;
    assert!(again["message"].as_str().unwrap().ends_with("nothing was changed"), "{again}");
    let slot = host.slot("rollback").await;
    assert_eq!(slot["previous"]["settings"]["min_requests"], 20, "there is still something to go back to: {slot}");

    let done = host.activate(&json!({ "min_requests": 30 }), true).await;
    let changed: Vec<_> = done["detail"]["changed"].as_array().unwrap().iter().map(|c| c["setting"].clone()).collect();
    assert!(changed.contains(&json!("p99_floor")) && !changed.contains(&json!("min_requests")), "{done}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_that_a_person_accepted_hold_the_ramp_no_longer() {
    let shadow = "shadow = { soak = '0s', min_compared = 5 }, pairs = { min_coverage = '0%' }, min_requests = 1000000";
    let host = still().with("stages", bundle("standard-stages", shadow)).start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.ask(CommandKind::SetFlag("auto_advance".into(), true.into())).await.unwrap();
    host.break_v2(&json!({ "wrong_share": 1.0 }));
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK);
    let held = eventually("a difference to hold the ramp", async || {
        host.http.greet("ada", &[]).await;
        let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
        let holds = status["outlook"]["holds"].as_array().unwrap().clone();
        holds.into_iter().find(|hold| hold["what"] == "different")
    });
    let held = held.await;
    assert!(held["moves"].as_str().unwrap().contains("cutover compare accept programs OPERATION"), "{held}");
    host.break_v2(&json!({}));
    let path = "/api/v1/migrations/programs/comparisons/accept";
    let known = json!({ "operation": "execute", "reason": "V2 is right" });
    // A pair that was under way may still differ.
    let moved = eventually("the ramp", async || {
        let accepted = host.http.admin(Method::POST, path, &known).await;
        assert_eq!(accepted.status, StatusCode::OK, "{accepted:?}");
        host.http.greet("ada", &[]).await;
        let now = host.migration().handle.snapshot();
        (now.state.phase == Phase::Ramping).then_some(now)
    });
    moved.await;
    let report = host.http.admin(Method::GET, "/api/v1/migrations/programs/comparisons", &Value::Null).await.body;
    let lines = report["report"]["lines"].as_array().unwrap();
    assert!(lines.iter().any(|line| line["accepted"].as_u64() > Some(0)), "{report}");
    let audit = host.http.admin(Method::GET, "/api/v1/migrations/programs/audit", &Value::Null).await.body;
    let entry =
        audit["audit"].as_array().unwrap().iter().find(|entry| entry["action"] == "accept-differences").unwrap();
    assert_eq!((&entry["detail"]["operation"], &entry["detail"]["reason"]), (&json!("execute"), &json!("V2 is right")));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn differences_hold_the_ramp_after_a_restart_with_another_stage_table() {
    let with = |min_requests: u32| {
        let shadow = "shadow = { soak = '0s', min_compared = 5 }, pairs = { min_coverage = '0%' }";
        still().with("stages", bundle("standard-stages", &format!("{shadow}, min_requests = {min_requests}")))
    };
    let holds = async |host: &Host| {
        let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
        let holds = status["outlook"]["holds"].as_array().unwrap().clone();
        holds.into_iter().map(|hold| hold["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let host = with(1_000_000).start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.ask(CommandKind::SetFlag("auto_advance".into(), true.into())).await.unwrap();
    host.break_v2(&json!({ "wrong_share": 1.0 }));
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK);
    let held = eventually("differences to hold the ramp", async || {
        host.http.greet("ada", &[]).await;
        let held = holds(&host).await;
        (held.contains(&"different".into()) && !held.contains(&"compared".into())).then_some(())
    });
    held.await;
    let folder = std::sync::Arc::clone(&host.folder);
    host.app.shut_down().await;

    let host = with(2_000_000).start_in(folder).await;
    let judged = host.until("a check", |s| !s.waiting_for.is_empty()).await;
    assert_eq!(judged.state.phase, Phase::Shadow);
    let held = holds(&host).await;
    assert!(held.contains(&"different".into()) && !held.contains(&"compared".into()), "{held:?}");
    let audit = host.http.admin(Method::GET, "/api/v1/migrations/programs/audit", &Value::Null).await.body;
    let of_stages = |entry: &&Value| entry["action"] == "activate-policy" && entry["detail"]["kind"] == "stages";
    let entry = audit["audit"].as_array().unwrap().iter().find(of_stages).unwrap();
    assert!(entry["detail"]["replayed"]["checks"].as_u64() > Some(0), "{entry}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_is_asked_for_twice_at_once_is_one() {
    let host = still().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    // The second may come a moment late, and then is another step.
    let mut refused = None;
    for _ in 0..20 {
        let (first, second) = tokio::join!(host.ask(CommandKind::Advance), host.ask(CommandKind::Advance));
        refused = first.err().or(second.err());
        if refused.is_some() {
            break;
        }
        host.ask(CommandKind::Rollback).await.unwrap();
        host.ask(CommandKind::Resume).await.unwrap();
        host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    }
    assert!(refused.unwrap().contains("moved after this was asked for"));
    let state = &host.migration().handle.snapshot().state;
    assert_eq!((state.phase, state.share.get()), (Phase::Ramping, 50_000), "one step");
    host.app.shut_down().await;
}
