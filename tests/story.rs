//! A migration from its first request to its rollback.

use cutover_control::migration::CommandKind;
use cutover_model::{
    port::{Phase, Verdict},
    request::Ppm,
};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Host, Setup, bundle, eventually, greeting, pool};

/// Without the guard of the host itself: these are about the judge.
const JUDGED: &str = "outage = { action = 'none' }";

/// Sessions that tests use: enough for a share of 5 % to have some on V2.
const SESSIONS: usize = 60;

async fn shadowing(setup: &Setup) -> Host {
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    for n in 0..SESSIONS {
        assert_eq!(host.http.create(&format!("s{n}")).await.status, StatusCode::OK);
    }
    host
}

async fn pools_of(host: &Host) -> Vec<String> {
    let mut pools = Vec::new();
    for n in 0..SESSIONS {
        let reply = host.http.greet(&format!("s{n}"), &[]).await;
        assert_eq!(greeting(&reply), Some(format!("hello s{n}").as_str()), "{reply:?}");
        pools.push(reply.pool);
    }
    pools
}

#[tokio::test(flavor = "multi_thread")]
async fn shadowed_reads_are_compared_and_v1_answers() {
    let host = shadowing(&Setup::default()).await;
    assert!(pools_of(&host).await.iter().all(|pool| pool == "v1"));
    let counts = eventually("comparisons", async || {
        let counts = host.migration().history.totals().comparisons;
        (counts.same + counts.ignored >= 30).then_some(counts)
    })
    .await;
    assert_eq!((counts.different, counts.incomparable), (0, 0));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_of_v2_are_found_while_shadowing_and_hold_the_ramp() {
    let setup = Setup { v2: pool("concurrent", 2, &["--wrong-share", "1"]), ..Setup::default() };
    let setup = setup.with("stages", bundle("standard-stages", "shadow = { min_compared = 10 }"));
    let host = shadowing(&setup).await;
    pools_of(&host).await;
    let waiting = host.until("the stages policy to say what it waits for", |s| {
        s.waiting_for.iter().any(|f| f.rule.contains("different"))
    });
    assert_eq!(waiting.await.state.phase, Phase::Shadow);
    let found = host.http.admin(Method::GET, "/api/v1/migrations/programs/comparisons", &Value::Null).await;
    let line = &found.body["report"]["lines"][0];
    assert_eq!((line["path"].as_str(), line["category"].as_str()), (Some("/outputs/greeting"), Some("semantic")));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ramp_is_sticky_and_monotone_and_programs_exist_in_both_pools() {
    let host = shadowing(&Setup::default()).await;
    let mut before = vec!["v1".to_owned(); SESSIONS];
    for stage in 0..5 {
        host.ask(CommandKind::Advance).await.unwrap();
        let state = host.until("the stage", |s| s.state.stage == stage && s.state.phase == Phase::Ramping).await;
        let now = pools_of(&host).await;
        assert_eq!(now, pools_of(&host).await, "sessions stick at {}", state.state.share);
        for (was, is) in before.iter().zip(&now) {
            assert!(was == "v1" || is == "v2", "a larger share only adds sessions");
        }
        before = now;
    }
    assert!(before.iter().any(|p| p == "v1") && before.iter().any(|p| p == "v2"));
    for pool in ["v1", "v2"] {
        let reply = host.http.greet("s0", &[("x-cutover-pool", pool)]).await;
        assert_eq!((reply.pool.as_str(), reply.reason), (pool, format!("override-{pool}")));
    }
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_stages_are_those_of_the_plan_and_a_setting_changes_them_without_a_rebuild() {
    let mut shares = Vec::new();
    for settings in ["", "stages = [{ share = '1%', soak = '1h' }, { share = '100%' }]"] {
        let host = Setup::default().with("stages", bundle("standard-stages", settings)).start().await;
        host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
        let mut ramp = Vec::new();
        loop {
            host.ask(CommandKind::Advance).await.unwrap();
            let state = host.migration().handle.snapshot().state.clone();
            if state.phase == Phase::Complete {
                break;
            }
            ramp.push((state.share.to_string(), state.soak.map(|s| s.as_secs() / 3_600)));
        }
        shares.push(ramp);
        host.app.shut_down().await;
    }
    let stage = |share: &str, hours| (share.to_owned(), hours);
    assert_eq!(
        shares[0],
        [
            stage("5%", Some(1)),
            stage("10%", Some(1)),
            stage("25%", Some(2)),
            stage("50%", Some(4)),
            stage("75%", Some(8)),
            stage("100%", None)
        ]
    );
    assert_eq!(shares[1], [stage("1%", Some(1)), stage("100%", None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_v2_is_rolled_back_and_no_caller_sees_it() {
    let host = shadowing(&Setup { failsafe: JUDGED, ..Setup::default() }).await;
    for _ in 0..4 {
        host.ask(CommandKind::Advance).await.unwrap();
    }
    host.break_v2(&json!({ "error_share": 1.0 }));
    let mut failed_over = 0;
    let rolled_back = eventually("a rollback", async || {
        for n in 0..SESSIONS {
            let reply = host.http.greet(&format!("s{n}"), &[]).await;
            assert_eq!(greeting(&reply), Some(format!("hello s{n}").as_str()), "{reply:?}");
            failed_over += usize::from(reply.reason == "failover");
        }
        let snapshot = host.migration().handle.snapshot();
        snapshot.last_rollback.clone().map(|report| (snapshot, report))
    });
    let (snapshot, report) = rolled_back.await;
    assert!(failed_over > 0, "V2 failed calls, and V1 answered them");
    assert_eq!((snapshot.state.phase, snapshot.state.share), (Phase::RolledBack, Ppm::ZERO));
    assert!(report.policy.unwrap().starts_with("thresholds@"), "the policy is named");
    assert!(report.findings.iter().any(|f| f.rule == "v2-outage" && f.observed > f.limit), "{:?}", report.findings);
    assert!(pools_of(&host).await.iter().all(|pool| pool == "v1"));
    assert!(host.migration().split.v2.pids().is_empty(), "V2's workers are stopped");
    let decisions = host.app.host.store.decisions("programs", 10).await.unwrap();
    assert_eq!((decisions[0].kind.as_str(), &decisions[0].digest), ("rollback", &report.digest));
    assert!(
        decisions[0].inputs.as_ref().is_some_and(|call| call.question.now().is_some() && call.fuel > 0),
        "with what it rests on"
    );
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_threshold_changes_the_outcome_without_a_rebuild() {
    let lenient = "min_requests = 20, outage_requests = 0, max_error_rate = '100%', warn_error_rate = '100%', max_error_ratio = 4000, \
                   p99_floor = '10s', warn_p99 = '10s', warn_degradation = 1000000000";
    let setup = Setup { failsafe: JUDGED, ..Setup::default() };
    let host = shadowing(&setup.with("rollback", bundle("thresholds", lenient))).await;
    for _ in 0..4 {
        host.ask(CommandKind::Advance).await.unwrap();
    }
    host.break_v2(&json!({ "error_share": 1.0 }));
    for _ in 0..5 {
        pools_of(&host).await;
    }
    let judged =
        host.until("a verdict on a broken V2", |s| s.verdict.as_ref().is_some_and(|v| v.verdict == Verdict::Healthy));
    assert_eq!(judged.await.state.phase, Phase::Ramping);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_and_a_new_ramp_bring_the_same_sessions_first() {
    let host = shadowing(&Setup::default()).await;
    let mut ramps = Vec::new();
    for _ in 0..2 {
        for _ in 0..3 {
            host.ask(CommandKind::Advance).await.unwrap();
        }
        ramps.push(pools_of(&host).await);
        host.ask(CommandKind::Rollback).await.unwrap();
        assert!(pools_of(&host).await.iter().all(|pool| pool == "v1"));
        host.until("V2 to have settled", |s| s.last_rollback.is_some()).await;
        host.ask(CommandKind::Resume).await.unwrap();
        host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    }
    assert_eq!(ramps[0], ramps[1]);
    assert!(ramps[0].contains(&"v2".to_owned()), "programs made before are on the new V2 workers too");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_is_replaced_and_its_sessions_keep_their_programs() {
    let host = shadowing(&Setup::default()).await;
    let pids = host.migration().split.v1.pids();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pids[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the worker's successor", async || {
        let reply = host.http.greet("s1", &[("x-cutover-pool", "v1")]).await;
        (greeting(&reply) == Some("hello s1")).then_some(())
    })
    .await;
    assert_ne!(host.migration().split.v1.pids(), pids);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_programs_are_gone_from_both_pools() {
    let host = shadowing(&Setup::default()).await;
    let deleted = host.http.call("delete_program", "s0", &[], &json!({ "program_id": "greet" })).await;
    assert_eq!(deleted.status, StatusCode::OK);
    for pool in ["v1", "v2"] {
        let reply = host.http.greet("s0", &[("x-cutover-pool", pool)]).await;
        assert_eq!((reply.status, reply.pool.as_str()), (StatusCode::NOT_FOUND, pool));
        assert_eq!(
            host.http.greet("s1", &[("x-cutover-pool", pool)]).await.status,
            StatusCode::OK,
            "sessions are apart"
        );
    }
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_named_in_the_body_is_the_one_that_requests_are_routed_by() {
    let host = shadowing(&Setup::default()).await;
    let url = format!("http://{}/v1/programs/list_programs", host.http.data_plane);
    let list = async |headers: &[(&str, &str)], body: Value| {
        host.http.send(Method::POST, &url, headers, body.to_string()).await.unwrap()
    };
    let own = list(&[], json!({ "session_id": "s0" })).await;
    assert_eq!(own.body["programs"], json!(["greet"]));
    let other = list(&[("x-session-id", "s0")], json!({ "session_id": "s1" })).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST, "{other:?}");
    assert_eq!(list(&[], json!({ "session_id": 7 })).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(list(&[], json!({})).await.body["programs"], json!([]));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_switch_v2_off_and_cap_its_share() {
    let host = shadowing(&Setup::default()).await;
    for _ in 0..6 {
        host.ask(CommandKind::Advance).await.unwrap();
    }
    let on_v2 = async || pools_of(&host).await.iter().filter(|p| *p == "v2").count();
    assert_eq!(on_v2().await, SESSIONS);
    host.ask(CommandKind::SetFlag("gradual_rollout_percentage".into(), 50.into())).await.unwrap();
    assert!((10..50).contains(&on_v2().await));
    host.ask(CommandKind::SetFlag("pool_v2_enabled".into(), false.into())).await.unwrap();
    assert_eq!(on_v2().await, 0);
    let wrong = host.ask(CommandKind::SetFlag("shadows".into(), true.into())).await.unwrap_err();
    assert!(wrong.contains("`shadows`") && wrong.contains("auto_rollback"), "{wrong}");
    host.app.shut_down().await;
}
