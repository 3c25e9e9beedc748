//! Who sits where: candidates, promotion and demotion, going back, slots that hold, and the log that can be replayed.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use cutover_control::migration::CommandKind;
use cutover_model::{
    clock::{self, UnixMs},
    port::{Kind, Phase},
};
use cutover_policy_host::{
    engine::{Engine, Limits},
    replay::replay,
};
use cutover_store::calls::{Logged, Wanted};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Host, PATIENCE, Reply, Setup, binary, bundle, eventually, root};

/// The guest `hostile` with a name of its own for each use.
fn hostile(folder: &TempDir, kind: Kind, name: &str) -> PathBuf {
    let folder = folder.path().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = format!("name = '{name}'\nversion = '1.0.0'\nkind = '{kind}'\nguest = 'hostile'\n");
    std::fs::write(folder.join("policy.toml"), manifest).unwrap();
    folder
}

async fn send(host: &Host, method: Method, path: &str, body: Value) -> Reply {
    let reply = host.http.admin(method, &format!("/api/v1/migrations/programs/{path}"), &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{path}: {reply:?}");
    reply
}

async fn activate(host: &Host, bundle: &PathBuf, settings: Value) -> Value {
    send(host, Method::PUT, "policies", json!({ "bundle": bundle, "settings": settings, "reason": "test" })).await.body
}

async fn stand_by(host: &Host, bundle: &PathBuf, settings: Value, rule: Value) {
    let body = json!({ "bundle": bundle, "settings": settings, "rule": rule, "reason": "test" });
    send(host, Method::PUT, "candidate", body).await;
}

async fn slot(host: &Host, kind: Kind) -> Value {
    let slots = send(host, Method::GET, "policies", Value::Null).await.body;
    let slots = slots["slots"].as_array().unwrap();
    slots.iter().find(|slot| slot["kind"] == kind.name()).cloned().unwrap_or(Value::Null)
}

async fn until_slot(host: &Host, kind: Kind, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || Some(slot(host, kind).await).filter(&is)).await
}

async fn calls(host: &Host) -> Vec<Logged> {
    let wanted = Wanted { migration: Some("programs".into()), most: 10_000, ..Wanted::default() };
    host.app.host.store.calls(&wanted).await.unwrap().calls
}

/// A host in the shadow phase in which nothing moves.
async fn still(setup: Setup) -> Host {
    let setup = setup.with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_takes_over_before_the_first_check() {
    let host = still(Setup { check_interval: "1h", ..Setup::default() }).await;
    let bundle = root().join("policies/thresholds");
    let activated = tokio::time::timeout(PATIENCE, activate(&host, &bundle, json!({ "min_requests": 7 }))).await;
    let activated = activated.expect("nothing to show takes no time");
    assert_eq!(activated["detail"]["replayed"]["checks"], 0, "{activated}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_keeps_failing_is_put_out_for_the_one_before_it_and_stays_out() {
    let folder = Arc::new(TempDir::new().unwrap());
    let setup = Setup { failures: "count = 3", ..Setup::default() };
    let host = setup.start_in(Arc::clone(&folder)).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    // It is sound for what it is shown, and fails when there are calls.
    let script = "fn judge(check) { if check.v1.requests > 0 { throw \"bad\" } healthy() }";
    let bad = folder.path().join("bad");
    std::fs::create_dir_all(&bad).unwrap();
    let manifest = "name = 'bad'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'rhai'\nscript = 'policy.rhai'\n";
    std::fs::write(bad.join("policy.toml"), manifest).unwrap();
    std::fs::write(bad.join("policy.rhai"), script).unwrap();
    activate(&host, &bad, json!({})).await;
    let back = eventually("the one before", async || {
        host.http.create("s").await;
        Some(slot(&host, Kind::Rollback).await).filter(|slot| slot["active"]["name"] == "thresholds")
    })
    .await;
    assert_eq!((&back["previous"], &back["held"]), (&Value::Null, &Value::Null));
    let failed = &host.migration().handle.snapshot().policy_failures;
    assert!(failed.iter().any(|f| f.kind == Kind::Rollback && f.count >= 3), "{failed:?}");
    // That one may be laxer, so nothing goes up until a person says so, whatever happens to the host.
    let paused = host.until("a pause", |s| s.state.phase == Phase::Paused).await;
    assert!(paused.state.because.as_ref().is_some_and(|why| why.contains("may be laxer")), "{paused:?}");
    host.app.shut_down().await;

    let host = setup.start_in(folder).await;
    assert_eq!(slot(&host, Kind::Rollback).await["active"]["name"], "thresholds");
    assert_eq!(host.migration().handle.snapshot().state, paused.state);
    host.ask(CommandKind::Resume).await.unwrap();
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_before_it_the_slot_holds_until_somebody_is_put_in_charge() {
    let folder = Arc::new(TempDir::new().unwrap());
    let bad = hostile(&folder, Kind::Rollback, "bad").display().to_string();
    let bad = format!("{{ bundle = '{bad}', settings = {{ do = 'trap', in = 'rollback' }} }}");
    let setup = Setup { failures: "count = 3", ..Setup::default() }.with("rollback", bad);
    let host = setup.start_in(Arc::clone(&folder)).await;
    let held = host.until("a slot that is held", |s| !s.held.is_empty()).await;
    assert_eq!((held.held[0].kind, held.state.phase), (Kind::Rollback, Phase::Shadow));
    assert!(held.held[0].why.contains("failed 3 times within 1m"), "{}", held.held[0].why);
    host.app.shut_down().await;

    let host = setup.start_in(folder).await;
    let still_held = slot(&host, Kind::Rollback).await;
    assert!(still_held["held"].is_string() && still_held["active"].is_null(), "{still_held}");
    activate(&host, &root().join("policies/thresholds"), json!({})).await;
    let freed = slot(&host, Kind::Rollback).await;
    assert_eq!((&freed["held"], &freed["active"]["name"]), (&Value::Null, &json!("thresholds")));
    assert_eq!(freed["previous"], Value::Null, "nobody wants the one back that failed");
    host.until("a verdict", |s| s.verdict.is_some()).await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_would_roll_back_is_counted_and_not_obeyed() {
    let host = still(Setup::default()).await;
    stand_by(&host, &hostile(&host.folder, Kind::Rollback, "eager"), json!({ "verdict": "roll-back" }), json!({}))
        .await;
    let enough = |s: &Value| s["candidate"]["evidence"]["disagreed"].as_u64() >= Some(3);
    let seen = until_slot(&host, Kind::Rollback, "disagreements", enough).await;
    let candidate = &seen["candidate"];
    assert_eq!((&candidate["evidence"]["failed"], &candidate["outlook"]["next"]), (&json!(0), &json!("wait")));
    let shown = &candidate["evidence"]["disagreements"][0];
    // On a busy machine the one in charge warns of that.
    assert_ne!(shown["active"]["verdict"], "roll-back");
    assert_eq!(shown["candidate"]["verdict"], "roll-back");
    assert!(
        candidate["evidence"]["fuel"].as_u64() > Some(0) && candidate["evidence"]["active_fuel"].as_u64() > Some(0)
    );
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    send(&host, Method::DELETE, "policies/rollback/candidate", json!({ "reason": "test" })).await;
    assert_eq!(slot(&host, Kind::Rollback).await["candidate"], Value::Null);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_is_promoted_by_its_rule_and_can_be_gone_back_from() {
    let folder = Arc::new(TempDir::new().unwrap());
    let setup = Setup::default();
    let host = setup.start_in(Arc::clone(&folder)).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let rule = json!({ "promote": { "after_ms": 0, "asked": 3, "max_disagreed": 1_000_000 } });
    stand_by(&host, &root().join("policies/sequential"), json!({}), rule).await;
    let promoted = until_slot(&host, Kind::Rollback, "promotion", |s| s["active"]["name"] == "sequential").await;
    assert_eq!((&promoted["previous"]["name"], &promoted["candidate"]), (&json!("thresholds"), &Value::Null));
    host.app.shut_down().await;

    let host = setup.start_in(folder).await;
    assert_eq!(slot(&host, Kind::Rollback).await["previous"]["name"], "thresholds");
    send(&host, Method::POST, "policies/rollback/revert", json!({ "reason": "test" })).await;
    let back = slot(&host, Kind::Rollback).await;
    assert_eq!((&back["active"]["name"], &back["previous"]), (&json!("thresholds"), &Value::Null));
    let path = "/api/v1/migrations/programs/policies/rollback/revert";
    let again = host.http.admin(Method::POST, path, &json!({ "reason": "test" })).await;
    assert_eq!((again.status, &again.body["code"]), (StatusCode::NOT_FOUND, &json!("not-found")));
    assert!(again.body["error"].as_str().unwrap().contains("no previous rollback policy"), "{again:?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_is_dropped_and_the_one_in_charge_does_not_notice() {
    let host = still(Setup::default()).await;
    for misdeed in ["trap", "loop", "nonsense"] {
        let bad = hostile(&host.folder, Kind::Rollback, misdeed);
        stand_by(&host, &bad, json!({ "do": misdeed, "in": "rollback" }), json!({ "demote": { "failed": 2 } })).await;
        until_slot(&host, Kind::Rollback, "a dropped candidate", |s| s["candidate"].is_null()).await;
    }
    let now = slot(&host, Kind::Rollback).await;
    assert_eq!(now["active"]["name"], "thresholds");
    assert!(host.migration().handle.snapshot().policy_failures.is_empty());
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_for_routing_and_comparison_are_held_against_live_requests() {
    let host = still(Setup::default()).await;
    host.ask(CommandKind::Advance).await.unwrap();
    let pinned = json!({ "pinned": { "execute": "v2" } });
    stand_by(&host, &root().join("policies/sticky-share"), pinned, json!({})).await;
    stand_by(&host, &root().join("policies/exact-compare"), json!({}), json!({})).await;
    for n in 0..20 {
        let session = format!("s{n}");
        assert_eq!(host.http.create(&session).await.status, StatusCode::OK);
        assert_eq!(host.http.greet(&session, &[]).await.status, StatusCode::OK);
    }
    // Evidence comes later than answers.
    let about = |s: &Value, what: &str| {
        let shown = s["candidate"]["evidence"]["disagreements"].as_array();
        shown.is_some_and(|all| all.iter().any(|d| d["about"].as_str().unwrap().contains(what)))
    };
    // The plan differs, because the candidate was asked for one; each request differs, because it would have gone to V2.
    let to = host.migration().slots.get(Kind::Routing);
    assert_eq!(to.active().unwrap().description().name, "sticky-share");
    host.ask(CommandKind::SetFlag("max_share".into(), 50.into())).await.unwrap_or_default();
    host.ask(CommandKind::Advance).await.unwrap();
    for n in 0..20 {
        host.http.greet(&format!("s{n}"), &[]).await;
    }
    until_slot(&host, Kind::Routing, "requests that differ", |s| about(s, "of `execute`")).await;
    let compared = |s: &Value| s["candidate"]["evidence"]["asked"].as_u64() > Some(0);
    until_slot(&host, Kind::Comparison, "pairs that both compared", compared).await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_takes_over_with_the_memory_that_it_would_have_had() {
    let host = still(Setup::default()).await;
    let thresholds = root().join("policies/thresholds");
    let settings = json!({ "min_requests": 7 });
    // One is there from the beginning, as a candidate; the other takes over later and is shown what happened.
    stand_by(&host, &thresholds, settings.clone(), json!({})).await;
    until_slot(&host, Kind::Rollback, "some checks", |s| s["candidate"]["evidence"]["asked"].as_u64() >= Some(5)).await;
    let done = activate(&host, &thresholds, settings).await;
    assert!(done["detail"]["replayed"]["checks"].as_u64() >= Some(5), "{done}");
    assert_eq!(done["detail"]["replayed"]["failed"], 0);
    let (active, candidate) = eventually("a check that both saw", async || {
        let calls = calls(&host).await;
        let of = |role: &str, at| {
            calls.iter().find(|c| {
                json!(c.call.role) == role && c.call.at == at && c.call.settings.contains("\"min_requests\":7")
            })
        };
        calls
            .iter()
            .find_map(|c| Some((of("active", c.call.at)?.call.clone(), of("candidate", c.call.at)?.call.clone())))
    })
    .await;
    assert!(!active.memory.0.is_empty());
    assert_eq!((active.memory, active.answer, active.fuel), (candidate.memory, candidate.answer, candidate.fuel));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_comes_during_the_first_check_is_shown_it() {
    let judged = async |host: &Host| {
        let calls = calls(host).await.into_iter().map(|logged| logged.call);
        calls.filter(|call| call.question.kind() == Kind::Rollback).map(|call| call.at).min()
    };
    // How long it takes until a check begins is the machine's affair: it is tried until the policy comes in the middle.
    for patience in 1..=8 {
        let folder = Arc::new(TempDir::new().unwrap());
        let slow = hostile(&folder, Kind::Rollback, "slow").display().to_string();
        let slow = format!("{{ bundle = '{slow}', settings = {{ spins = 1_500_000_000 }} }}");
        let limits = "memory_bytes = 33554432\nrollback = { time = '60s' }";
        let host = still(Setup { limits, check_interval: "100ms", ..Setup::default() }.with("rollback", slow)).await;
        tokio::time::sleep(Duration::from_millis(300 * patience)).await;
        let has_ended = judged(&host).await.is_some();
        let asked = clock::unix_ms();
        let done = activate(&host, &root().join("policies/thresholds"), json!({ "min_requests": 7 })).await;
        let first = eventually("the first check", async || judged(&host).await).await;
        host.app.shut_down().await;
        if !has_ended && first < asked {
            assert!(done["detail"]["replayed"]["checks"].as_u64() >= Some(1), "{done}");
            return;
        }
    }
    panic!("it never came during the first check");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_missed_checks_is_shown_all_of_them_before_it_takes_over() {
    let host = still(Setup::default()).await;
    let promoted = async |missed| {
        stand_by(&host, &root().join("policies/thresholds"), json!({ "min_requests": 7 }), json!({})).await;
        until_slot(&host, Kind::Rollback, "some checks", |s| s["candidate"]["evidence"]["asked"].as_u64() >= Some(8))
            .await;
        host.migration().slots.get(Kind::Rollback).candidate().unwrap().evidence.lock().left_out = missed;
        let promote = json!({ "reason": "a test" });
        send(&host, Method::POST, "policies/rollback/candidate/promote", promote).await.body["detail"]["replayed"]["checks"].as_u64().unwrap()
    };
    let (remembered, shown_again) = (promoted(0).await, promoted(1).await);
    assert!(remembered < 8, "{remembered}: it remembers what it was asked");
    assert!(shown_again >= 16, "{shown_again}: all since the stage began");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_on_record_gives_the_same_bytes_and_fuel_on_another_engine() {
    let folder = Arc::new(TempDir::new().unwrap());
    let decides = hostile(&folder, Kind::Routing, "decides").display().to_string();
    // Asked for each request, and V2 in every phase, which the host does not let it have.
    let decides = format!("{{ bundle = '{decides}', settings = {{ do = 'nonsense', in = 'decide' }} }}");
    let setup = Setup::default().with("routing", decides);
    let host = setup.start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    stand_by(&host, &root().join("policies/sequential"), json!({}), json!({})).await;
    for n in 0..30 {
        let session = format!("s{n}");
        host.http.create(&session).await;
        host.http.greet(&session, &[]).await;
    }
    host.ask(CommandKind::Advance).await.unwrap();
    let kinds = ["rollback", "stages", "routing", "decide"];
    let logged = eventually("calls of each kind, and of a candidate", async || {
        let calls = calls(&host).await;
        let shown: Vec<_> = calls.iter().map(|c| serde_json::to_value(c).unwrap()).collect();
        let all = kinds.iter().all(|kind| shown.iter().any(|c| c["asked"] == *kind));
        (all && shown.iter().any(|c| c["role"] == "candidate") && calls.len() > 20).then_some(calls)
    })
    .await;
    let other = Engine::new(Limits::default()).unwrap();
    for Logged { id, call, .. } in &logged {
        let component = host.app.host.store.component(&call.digest).await.unwrap().unwrap();
        let replayed = replay(&other, &component, call).unwrap();
        assert!(replayed.same, "call {id}: {replayed:#?}");
    }
    let mut wrong = logged[0].call.clone();
    wrong.fuel += 1;
    let component = host.app.host.store.component(&wrong.digest).await.unwrap().unwrap();
    let replayed = replay(&other, &component, &wrong).unwrap();
    assert_eq!(replayed.differences.iter().map(|d| d.what).collect::<Vec<_>>(), ["fuel"]);
    host.app.shut_down().await;
}

/// What a metric with these labels is; none if it is not there. Gauges are written as `3.0`.
fn metric(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    value.strip_suffix(".0").unwrap_or(value).parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_have_what_was_compiled_and_how_the_candidate_of_now_does() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Setup::default()).await;
    let metrics = async || {
        let body = host.http.admin(Method::GET, "/metrics", &Value::Null).await.body;
        body.as_str().unwrap().to_owned()
    };
    let of = |name: &str| format!("cutover_candidate_{name}{{migration=\"programs\",kind=\"rollback\"}}");
    let text = metrics().await;
    let made = host.app.host.engine.compilations();
    assert_eq!(metric(&text, "cutover_policy_compilations_total"), Some(made.compiled), "{text}");
    assert_eq!(metric(&text, "cutover_policy_cache_hits_total"), Some(made.from_disk));
    assert_eq!(metric(&text, "cutover_policy_cache_rejected_total"), Some(0));
    assert_eq!(metric(&text, "cutover_policy_cache_in_use"), Some(1));
    assert!(made.compiled + made.from_disk >= 4 && !text.contains("cutover_candidate_"));

    let settings = json!({ "do": "refuse", "in": "rollback" });
    let patient = json!({ "demote": { "failed": 1_000_000 } });
    stand_by(&host, &hostile(&folder, Kind::Rollback, "refuses"), settings, patient).await;
    eventually("a candidate that fails", async || metric(&metrics().await, &of("failed")).filter(|n| *n >= 2)).await;
    let text = metrics().await;
    let now = ["asked", "failed", "disagreed", "left_out"].map(|name| metric(&text, &of(name)).unwrap());
    assert!(now[0] == now[1] && now[2..] == [0, 0], "{now:?}");

    // The next one begins again.
    let opinion = json!({ "verdict": "roll-back" });
    stand_by(&host, &hostile(&folder, Kind::Rollback, "disagrees"), opinion, json!({})).await;
    eventually("one that disagrees", async || metric(&metrics().await, &of("disagreed")).filter(|n| *n >= 1)).await;
    assert_eq!(metric(&metrics().await, &of("failed")), Some(0));
    host.app.shut_down().await;
}

/// What a command line that asks the host prints, and says beside that.
fn command(host: &Host, arguments: &[&str]) -> (Value, String) {
    let admin = format!("http://{}", host.app.admin);
    let mut command = Command::new(binary());
    command.env_remove("CUTOVER_ADMIN").arg("policy").args(arguments).args(["--admin", &admin, "--json"]);
    let done = tokio::task::block_in_place(|| command.output().unwrap());
    let (out, err) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(done.status.success(), "{arguments:?}: {err}");
    (serde_json::from_str(&out).unwrap(), err)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_log_is_read_though_the_checks_of_most_calls_are_gone() {
    let host = still(Setup::default()).await;
    let of = |kind, calls: &[Logged]| calls.iter().find(|c| c.call.question.kind() == kind).map(|c| c.call.clone());
    let (judged, planned) = eventually("a check and a plan", async || {
        let calls = calls(&host).await;
        of(Kind::Rollback, &calls).zip(of(Kind::Routing, &calls))
    })
    .await;
    let store = &host.app.host.store;
    store.forget_checks(UnixMs(u64::MAX)).await.unwrap();
    // Newer than the plans are more calls without a check than a page has.
    store.log_calls("programs", &vec![planned; 250]).await.unwrap();
    store.log_calls("programs", &vec![judged; 450]).await.unwrap();

    let (shown, said) = command(&host, &["log", "programs", "--limit", "240"]);
    assert_eq!(shown.as_array().map(Vec::len), Some(240));
    assert!(said.contains("calls are left out") && said.contains("there are more: --before"), "{said}");
    let (replayed, said) = command(&host, &["replay", "--all", "programs"]);
    let replayed = replayed.as_array().unwrap();
    assert!(replayed.len() >= 251 && replayed.iter().all(|one| one["same"] == true), "{}", replayed.len());
    assert!(said.contains("keep_history"), "{said}");
    host.app.shut_down().await;
}
