//! Policies that were let in and misbehave when they are asked.

use std::sync::Arc;

use cutover_control::migration::{CommandKind, snapshot::Snapshot};
use cutover_model::{
    port::{Kind, Phase, Verdict},
    request::Ppm,
};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{LIGHT, Load, assert_right, configured_hostile, put, put_hostile, status};
use crate::harness::{Host, Setup, eventually, root};

/// A misdeed, and the causes that it may be recorded under. How a huge answer ends depends on what runs out first.
type Misdeed = (&'static str, &'static [&'static str]);

const NEVER_RETURN: [Misdeed; 4] = [
    ("trap", &["trap"]),
    ("loop", &["deadline"]),
    ("allocate", &["out-of-memory"]),
    // Rust keeps its frames in linear memory, where the end of the stack is an address out of bounds.
    ("recurse", &["stack-overflow", "trap"]),
];

const HUGE: Misdeed = ("huge", &["out-of-memory", "malformed", "nonsense", "deadline"]);

/// Sessions that show where a plan sends whom.
const SESSIONS: usize = 30;

fn misdeeds(more: &[Misdeed]) -> Vec<Misdeed> {
    [&NEVER_RETURN[..], &[("nonsense", &["nonsense"]), HUGE], more].concat()
}

/// A host that shadows, with judges that let everything be, however slow the machine is.
async fn shadowing() -> (Host, Load) {
    let folder = Arc::new(TempDir::new().unwrap());
    let indifferent = |kind| configured_hostile(folder.path(), kind, "");
    let setup =
        Setup::default().with("rollback", indifferent(Kind::Rollback)).with("stages", indifferent(Kind::Stages));
    let host = setup.start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let load = Load::start(&host.http, 2, LIGHT).await;
    (host, load)
}

/// A host that gives V2 half of the sessions, with a judge that lets it be.
async fn half_way() -> (Host, Load) {
    let folder = Arc::new(TempDir::new().unwrap());
    let indifferent = configured_hostile(folder.path(), Kind::Rollback, "");
    let host = Setup::default().with("rollback", indifferent).start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    for n in 0..SESSIONS {
        assert_eq!(host.http.create(&format!("s{n}")).await.status, StatusCode::OK);
    }
    for _ in 0..4 {
        host.ask(CommandKind::Advance).await.unwrap();
    }
    let load = Load::start(&host.http, 2, LIGHT).await;
    (host, load)
}

async fn pools(host: &Host) -> Vec<String> {
    let mut pools = Vec::new();
    for n in 0..SESSIONS {
        let session = format!("s{n}");
        let reply = host.http.greet(&session, &[]).await;
        assert_right(&reply, &session);
        pools.push(reply.pool);
    }
    pools
}

fn failures(snapshot: &Snapshot, kind: Kind, causes: &[&str]) -> u64 {
    let failing = snapshot.policy_failures.iter();
    failing.filter(|f| f.kind == kind && causes.contains(&f.cause)).map(|f| f.count).sum()
}

/// Lets a policy of the controller do everything it can while V2 serves half: each is recorded, nothing moves.
async fn nothing_moves(kind: Kind, place: &str, check: impl Fn(&Snapshot, &str)) {
    let (host, mut load) = half_way().await;
    let before = host.migration().handle.snapshot().state.clone();
    assert_eq!((before.phase, before.share), (Phase::Ramping, Ppm::new(500_000)));
    let pools_before = pools(&host).await;
    assert!(pools_before.contains(&"v1".to_owned()) && pools_before.contains(&"v2".to_owned()));
    for (misdeed, causes) in misdeeds(&[("refuse", &["said"])]) {
        put_hostile(&host, kind, place, misdeed).await;
        let known = failures(&host.migration().handle.snapshot(), kind, causes);
        // Two more, because one may be of a question that was asked before the swap.
        let what = format!("failures of {kind} that does {misdeed}");
        let snapshot = host.until(&what, |s| failures(s, kind, causes) >= known + 2).await;
        assert_eq!(snapshot.state, before, "{misdeed} in {place}");
        check(&snapshot, misdeed);
        load.answers(10).await;
        assert_eq!(pools(&host).await, pools_before, "{misdeed} in {place}");
    }
    let shown = status(&host).await;
    let shown = shown["policy_failures"].as_array().unwrap();
    assert!(shown.iter().any(|f| f["kind"] == kind.name() && f["cause"] == "trap" && f["count"].as_u64() >= Some(2)));
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routing_policy_that_cannot_plan_leaves_the_last_good_plan_in_force() {
    nothing_moves(Kind::Routing, "plan", |snapshot, misdeed| {
        assert!(snapshot.stale_plan.as_ref().is_some_and(|why| why.contains("the routing policy")), "{misdeed}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_policy_that_fails_has_said_hold() {
    nothing_moves(Kind::Rollback, "rollback", |snapshot, misdeed| {
        let judged = snapshot.verdict.as_ref().unwrap();
        assert_eq!(judged.verdict, Verdict::Hold, "{misdeed}");
        assert!(judged.findings[0].rule.starts_with("policy-"), "{misdeed}: {judged:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stages_policy_that_fails_moves_nothing() {
    nothing_moves(Kind::Stages, "stages", |snapshot, misdeed| {
        assert!(snapshot.waiting_for[0].rule.starts_with("policy-"), "{misdeed}: {:?}", snapshot.waiting_for);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_routing_policy_takes_over_from_the_last_good_plan() {
    let (host, load) = half_way().await;
    let before = pools(&host).await;
    put_hostile(&host, Kind::Routing, "plan", "trap").await;
    host.until("a stale plan", |s| s.stale_plan.is_some()).await;
    host.ask(CommandKind::Advance).await.unwrap();
    assert_eq!(pools(&host).await, before, "the last good plan stays although the state went on");
    let mended = root().join("policies/sticky-share");
    assert_eq!(put(&host, Kind::Routing, &mended, &json!({})).await.status, StatusCode::OK);
    assert_eq!(host.migration().handle.snapshot().stale_plan, None);
    let after = pools(&host).await;
    assert!(after != before, "75 % is more than 50 %");
    put_hostile(&host, Kind::Routing, "plan", "trap").await;
    host.ask(CommandKind::Rollback).await.unwrap();
    assert!(pools(&host).await.iter().all(|pool| pool == "v1"), "a rollback needs no policy");
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_decide_fails_on_go_to_v1_and_are_counted_by_cause() {
    let (host, mut load) = half_way().await;
    let before = host.migration().handle.snapshot().state.clone();
    // What takes 32 MiB may also run out of the 5 ms that a request has.
    let others: [Misdeed; 2] = [("allocate", &["out-of-memory", "deadline"]), ("refuse", &["trap"])];
    for (misdeed, causes) in NEVER_RETURN.into_iter().filter(|(misdeed, _)| *misdeed != "allocate").chain(others) {
        put_hostile(&host, Kind::Routing, "decide", misdeed).await;
        let failed = async || {
            let status = status(&host).await;
            causes.iter().filter_map(|cause| status["decide_failures"][cause].as_u64()).sum::<u64>()
        };
        let known = failed().await;
        for n in 0..SESSIONS {
            let reply = host.http.greet(&format!("s{n}"), &[]).await;
            assert_right(&reply, &format!("s{n}"));
            assert_eq!((reply.pool.as_str(), reply.reason.as_str()), ("v1", "policy-failed"), "{misdeed}");
        }
        assert!(failed().await >= known + SESSIONS as u64, "{misdeed}");
        load.answers(10).await;
    }
    // These two can be obeyed: V2 for everyone, and the share.
    put_hostile(&host, Kind::Routing, "decide", "nonsense").await;
    assert!(pools(&host).await.iter().all(|pool| pool == "v2"));
    put_hostile(&host, Kind::Routing, "decide", "huge").await;
    let shared = pools(&host).await;
    assert!(shared.contains(&"v1".to_owned()) && shared.contains(&"v2".to_owned()));
    let after = host.migration().handle.snapshot();
    assert_eq!(after.state, before);
    assert!(failures(&after, Kind::Routing, &["trap"]) > 0, "the controller hears of them, too");
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_that_a_comparison_policy_fails_on_are_not_the_same() {
    let (host, mut load) = shadowing().await;
    let report =
        async || host.http.admin(Method::GET, "/api/v1/migrations/programs/comparisons", &Value::Null).await.body;
    put_hostile(&host, Kind::Comparison, "comparison", "refuse").await;
    eventually("the policy's own words", async || {
        let report = report().await;
        let lines = report["report"]["lines"].as_array().unwrap();
        lines.iter().any(|line| line["kind"] == "incomparable" && line["v1"] == "refused to compare").then_some(())
    })
    .await;
    assert_eq!(report().await["report"]["failures"], json!({}), "to refuse is an answer");
    for (misdeed, causes) in misdeeds(&[]) {
        put_hostile(&host, Kind::Comparison, "comparison", misdeed).await;
        let failed = |report: &Value| {
            causes.iter().filter_map(|cause| report["report"]["failures"][cause].as_u64()).sum::<u64>()
        };
        // One more may be of a question that was asked before the swap; what follows is the new policy's alone.
        let known = failed(&report().await);
        let asked = eventually(misdeed, async || {
            let report = report().await;
            (failed(&report) >= known + 2).then_some(report)
        })
        .await;
        let more = eventually(misdeed, async || {
            let report = report().await;
            let incomparable = |r: &Value| r["counts"]["incomparable"].as_u64();
            (incomparable(&report) > incomparable(&asked)).then_some(report)
        })
        .await;
        assert_eq!(more["counts"]["same"], asked["counts"]["same"], "{misdeed}");
        load.answers(10).await;
    }
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_an_adapter_fails_on_are_answered_by_v1() {
    let (host, mut load) = shadowing().await;
    let v2_errors = || {
        let totals = host.migration().history.totals();
        totals.operations.get("execute").map_or((0, 0), |[_, v2, _]| (v2.errors, v2.failed_over))
    };
    for (misdeed, _) in misdeeds(&[("refuse", &[])]) {
        put_hostile(&host, Kind::Adapter, "adapter", misdeed).await;
        let (errors, failed_over) = v2_errors();
        for _ in 0..3 {
            let reply = host.http.greet("load0", &[("x-cutover-pool", "v2")]).await;
            assert_right(&reply, "load0");
            assert_eq!((reply.pool.as_str(), reply.reason.as_str()), ("v1", "failover"), "{misdeed}");
        }
        eventually("V2's errors", async || (v2_errors() == (errors + 3, failed_over + 3)).then_some(())).await;
        load.answers(10).await;
    }
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_made_while_an_adapter_failed_are_on_v2_once_it_is_mended() {
    let (host, load) = shadowing().await;
    put_hostile(&host, Kind::Adapter, "adapter", "trap").await;
    assert_eq!(host.http.create("late").await.status, StatusCode::OK);
    let reply = host.http.greet("late", &[("x-cutover-pool", "v2")]).await;
    assert_right(&reply, "late");
    assert_eq!(reply.pool, "v1");
    put_hostile(&host, Kind::Adapter, "adapter", "behave").await;
    let reply = host.http.greet("late", &[("x-cutover-pool", "v2")]).await;
    assert_right(&reply, "late");
    assert_eq!(reply.pool, "v2");
    load.end().await;
    host.app.shut_down().await;
}
