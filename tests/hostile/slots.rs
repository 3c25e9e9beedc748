//! Attacks on who sits where: orders that come at the same time, candidates that cannot keep up, a store that refuses,
//! a host that dies between the record and the deed.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use cutover_control::migration::CommandKind;
use cutover_model::{
    clock,
    port::{Kind, Phase},
};
use cutover_store::{
    calls::Wanted,
    records::Audited,
    slots::{SlotRecord, SlotRole},
};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{
    LIGHT, Load, configured_hostile,
    contract::{Export, Guest},
    in_charge, put, status, write_bundle,
};
use crate::harness::{Host, Http, Reply, Setup, bundle, eventually, root};

const POLICIES: &str = "/api/v1/migrations/programs/policies";

/// A host in the shadow phase in which nothing moves by itself.
async fn still(folder: Arc<TempDir>, setup: Setup) -> Host {
    let setup = setup
        .with("rollback", configured_hostile(folder.path(), Kind::Rollback, ""))
        .with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
    let host = setup.start_in(folder).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host
}

/// A bundle of a policy that is written as text.
fn text_bundle(folder: &Path, name: &str, guest: &Guest) -> PathBuf {
    let kind = guest.export.kind();
    let manifest = format!("name = '{name}'\nversion = '1.0.0'\nkind = '{kind}'\ncomponent = 'policy.wasm'\n");
    write_bundle(folder.join(name), &manifest, Some(&guest.component()))
}

async fn order(http: &Http, method: Method, path: &str, mut body: Value) -> Reply {
    body["reason"] = "test".into();
    http.admin(method, &format!("{POLICIES}/{path}"), &body).await
}

/// Runs statements on the store of a host, past the host.
fn sql(folder: &Path, statements: &str) {
    let script =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=30); c.executescript(sys.argv[2]); c.commit()";
    let store = folder.join("test.db");
    let ran = Command::new("python3").args(["-c", script]).arg(store).arg(statements).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

/// The digests in the slots of a kind, as the host has them and as the store has them.
async fn slots(host: &Host, kind: Kind) -> [[Option<String>; 3]; 2] {
    let slot = host.migration().slots.get(kind);
    let digest = |installed: &cutover_policy_host::installed::InstalledPolicy| installed.policy.digest().to_string();
    let mine = [
        slot.installed().map(|installed| digest(&installed)),
        slot.previous().map(|installed| digest(&installed)),
        slot.candidate().map(|candidate| digest(&candidate.installed)),
    ];
    let mut stored = [None, None, None];
    for (n, place) in [SlotRole::Active, SlotRole::Previous, SlotRole::Candidate].into_iter().enumerate() {
        let installed = host.app.host.store.policy_in_slot("programs", kind, place).await.unwrap();
        stored[n] = installed.map(|installed| installed.digest);
    }
    [mine, stored]
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_at_the_same_time_are_carried_out_or_refused_and_the_store_agrees_with_the_host() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup { check_interval: "100ms", ..Setup::default() }).await;
    let mut load = Load::start(&host.http, 2, LIGHT).await;
    let bundles = ["alpha", "omega"].map(|name| {
        let fields = format!("(global (export \"{name}\") i32 (i32.const 0))");
        text_bundle(folder.path(), name, &Guest::with(Export::Judge).fields(fields))
    });
    let (mut done, mut refused) = (0, 0);
    for round in 0..12 {
        let mut orders = JoinSet::new();
        for n in 0..8 {
            let (http, bundle) = (host.http.clone(), bundles[(round + n) % 2].clone());
            orders.spawn(async move {
                let policy = json!({ "bundle": bundle });
                match n {
                    0 | 1 => order(&http, Method::PUT, "rollback", policy).await,
                    2 | 3 => order(&http, Method::PUT, "rollback/candidate", policy).await,
                    4 | 5 => order(&http, Method::POST, "rollback/candidate/promote", json!({})).await,
                    6 => order(&http, Method::POST, "rollback/revert", json!({})).await,
                    _ => order(&http, Method::DELETE, "rollback/candidate", json!({})).await,
                }
            });
        }
        for reply in orders.join_all().await {
            match reply.status {
                StatusCode::OK => done += 1,
                StatusCode::NOT_FOUND | StatusCode::SERVICE_UNAVAILABLE => {
                    let why = reply.body["error"].as_str().unwrap();
                    let fair = ["just being put", "is a candidate", "no previous", "in charge"];
                    assert!(fair.iter().any(|words| why.contains(words)), "{why}");
                    refused += 1;
                }
                _ => panic!("{reply:?}"),
            }
        }
        let [mine, stored] = slots(&host, Kind::Rollback).await;
        assert_eq!(mine, stored, "round {round}");
        assert!(mine[0].is_some(), "somebody is in charge after round {round}");
    }
    assert!(done >= 12 && refused > 0, "{done} done, {refused} refused");
    load.answers(10).await;
    load.end().await;
    let [before, _] = slots(&host, Kind::Rollback).await;
    host.app.shut_down().await;

    let host = still(folder, Setup { check_interval: "100ms", ..Setup::default() }).await;
    let [after, _] = slots(&host, Kind::Rollback).await;
    assert_eq!(before, after);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_leaves_everybody_where_they_are() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup::default()).await;
    let first = in_charge(&host, Kind::Rollback).await;
    let second = text_bundle(folder.path(), "second", &Guest::with(Export::Judge));
    let third = text_bundle(folder.path(), "third", &Guest::with(Export::Judge).fields("(global i32 (i32.const 3))"));
    assert_eq!(put(&host, Kind::Rollback, &second, &json!({})).await.status, StatusCode::OK);
    assert_eq!(
        order(&host.http, Method::PUT, "rollback/candidate", json!({ "bundle": third })).await.status,
        StatusCode::OK
    );
    let before = slots(&host, Kind::Rollback).await;
    assert_eq!((&before[0], before[0][1] == first), (&before[1], true));

    let deny = |on: &str| {
        format!(
            "CREATE TRIGGER deny_{on} BEFORE {on} ON policy_slots BEGIN SELECT RAISE(ABORT, 'the disk is full'); END;"
        )
    };
    sql(folder.path(), &(deny("INSERT") + &deny("DELETE")));
    let attempts = [
        (Method::PUT, "rollback", json!({ "bundle": third })),
        (Method::PUT, "rollback/candidate", json!({ "bundle": second })),
        (Method::POST, "rollback/candidate/promote", json!({})),
        (Method::POST, "rollback/revert", json!({})),
        (Method::DELETE, "rollback/candidate", json!({})),
    ];
    for (method, path, body) in &attempts {
        let reply = order(&host.http, method.clone(), path, body.clone()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{method} {path}: {reply:?}");
        assert_eq!(reply.body["code"], "not-recorded");
        let why = reply.body["error"].as_str().unwrap();
        assert!(why.contains("nothing was changed") && why.contains("the disk is full"), "{method} {path}: {why}");
        assert_eq!(slots(&host, Kind::Rollback).await, before, "{method} {path}");
    }
    sql(folder.path(), "DROP TRIGGER deny_INSERT; DROP TRIGGER deny_DELETE;");
    let reply = order(&host.http, Method::POST, "rollback/candidate/promote", json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let [mine, stored] = slots(&host, Kind::Rollback).await;
    assert_eq!((&mine[0], &mine[1], &mine[2]), (&before[0][2], &before[0][0], &None));
    assert_eq!(mine, stored);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_between_the_record_and_the_swap_comes_back_as_recorded() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup::default()).await;
    let before = in_charge(&host, Kind::Rollback).await.unwrap();
    let guest = Guest::with(Export::Judge);
    let component = guest.component();
    let compiled =
        cutover_policy_host::admission::admit(&host.app.host.engine, Kind::Rollback, &component, "{}").unwrap();
    let known =
        host.app.host.store.policy_in_slot("programs", Kind::Rollback, SlotRole::Active).await.unwrap().unwrap();
    let record = SlotRecord {
        title: cutover_policy_host::installed::Title { name: "new".into(), version: "2".into() },
        digest: compiled.digest().to_string(),
        settings: "{}".into(),
        memory: b"what it was shown".to_vec(),
        updated_by: "tester".into(),
        component,
        ..known
    };
    let audited = Audited {
        at: clock::unix_ms(),
        actor: "tester".into(),
        migration: "programs".into(),
        action: "activate-policy".into(),
        detail: json!({}),
    };
    // What a host writes before it swaps; this one is gone before it does.
    host.app.host.store.activate(Kind::Rollback, &record, false, &audited).await.unwrap();
    host.app.shut_down().await;

    let host = still(folder, Setup::default()).await;
    let slot = host.migration().slots.get(Kind::Rollback);
    let installed = slot.installed().unwrap();
    assert_eq!((installed.label().as_str(), &**installed.policy.digest()), ("new@2", &*record.digest));
    assert_eq!(slot.previous().map(|installed| installed.policy.digest().to_string()), Some(before));
    host.app.shut_down().await;
}

/// Checks of a migration that its judge was asked about until now.
async fn judged(host: &Host) -> usize {
    let wanted =
        Wanted { migration: Some("programs".into()), kind: Some(Kind::Rollback), most: 100_000, ..Wanted::default() };
    let calls = host.app.host.store.calls(&wanted).await.unwrap().calls;
    calls.iter().filter(|c| c.call.role == cutover_policy_host::record::Role::Active).count()
}

/// Limits that a judge stays in which takes a fraction of a second on a quiet machine.
const PATIENT: &str = "time = '10s'";

/// A judge that takes about this long for a check.
async fn slow(host: &Host, wanted: Duration) -> PathBuf {
    let spinning = |rounds: u128| {
        let body = format!(
            "(local $left i64) (local.set $left (i64.const {rounds})) \
             (loop $again (local.set $left (i64.sub (local.get $left) (i64.const 1))) \
             (br_if $again (i64.ne (local.get $left) (i64.const 0)))) i32.const 64"
        );
        Guest::with(Export::Judge).body(body)
    };
    let (engine, component) = (Arc::clone(&host.app.host.engine), spinning(10_000_000).component());
    let measured = tokio::task::spawn_blocking(move || {
        let policy = cutover_policy_host::admission::admit(&engine, Kind::Rollback, &component, "{}").unwrap();
        (0..3).map(|_| policy.judge(&super::ask::check(), &[]).took).min().unwrap()
    });
    let rounds = wanted.as_nanos() * 10_000_000 / measured.await.unwrap().as_nanos().max(1);
    text_bundle(host.folder.path(), "slow", &spinning(rounds))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_cannot_keep_up_delays_no_check_and_no_order() {
    let folder = Arc::new(TempDir::new().unwrap());
    let setup = Setup { check_interval: "100ms", limits: "rollback.time = '2s'", ..Setup::default() };
    let host = still(Arc::clone(&folder), setup).await;
    let never = Guest::with(Export::Judge).body("(loop $for_ever (br $for_ever)) unreachable");
    let bundle = text_bundle(folder.path(), "never", &never);
    let body = json!({ "bundle": bundle, "rule": { "demote": { "failed": 1_000_000 } } });
    let reply = order(&host.http, Method::PUT, "rollback/candidate", body).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    let candidate = host.migration().slots.get(Kind::Rollback).candidate().unwrap();
    let asked = || candidate.evidence.lock().asked;
    // It takes 2 s for each question. Whoever waited for it would make a check as often as it answers.
    let before = judged(&host).await;
    eventually("many checks for each of its questions", async || {
        let asked = usize::try_from(asked()).unwrap();
        (asked > 0 && judged(&host).await - before > 3 * (asked + 1)).then_some(())
    })
    .await;
    eventually("orders while it is asked one question", async || {
        let before = asked();
        for verb in [CommandKind::Pause, CommandKind::Resume] {
            host.ask(verb).await.unwrap();
        }
        (asked() == before).then_some(())
    })
    .await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_roll_back_does_not_wait_for_a_policy_that_is_shown_what_happened() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup { check_interval: "500ms", limits: PATIENT, ..Setup::default() }).await;
    host.ask(CommandKind::Advance).await.unwrap();
    let bundle = slow(&host, Duration::from_millis(150)).await;
    let before = judged(&host).await;
    eventually("some checks", async || (judged(&host).await >= before + 15).then_some(())).await;
    let http = host.http.clone();
    let installing =
        tokio::task::spawn(async move { order(&http, Method::PUT, "rollback", json!({ "bundle": bundle })).await });
    // It is shown some fifteen checks for some two seconds, and then those that came meanwhile. Orders are given all
    // the while, and carried out before it is in charge.
    let mut carried_out = 0;
    while !installing.is_finished() {
        host.ask(CommandKind::Pause).await.ok();
        host.ask(CommandKind::Resume).await.ok();
        carried_out += usize::from(!installing.is_finished());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let reply = installing.await.unwrap();
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    assert!(carried_out >= 3, "{carried_out} orders were carried out meanwhile");
    let replayed = reply.body["detail"]["replayed"]["checks"].as_u64();
    assert!(replayed >= Some(15), "{reply:?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_slower_than_checks_come_is_not_put_in_charge() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup { check_interval: "100ms", limits: PATIENT, ..Setup::default() }).await;
    host.ask(CommandKind::Advance).await.unwrap();
    let bundle = slow(&host, Duration::from_millis(300)).await;
    let before = judged(&host).await;
    eventually("some checks", async || (judged(&host).await >= before + 5).then_some(())).await;
    let charge = status(&host).await["policies"]["rollback"].clone();
    let reply = order(&host.http, Method::PUT, "rollback", json!({ "bundle": bundle })).await;
    assert_eq!((reply.status, &reply.body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("busy")), "{reply:?}");
    let why = reply.body.to_string();
    assert!(why.contains("nothing was changed: it cannot catch up with the checks"), "{why}");
    assert_eq!(status(&host).await["policies"]["rollback"], charge);
    // The slot takes another at once.
    let reply =
        order(&host.http, Method::PUT, "rollback", json!({ "bundle": root().join("policies/thresholds") })).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_candidates_delays_no_check_and_no_request() {
    let folder = Arc::new(TempDir::new().unwrap());
    let host = still(Arc::clone(&folder), Setup { check_interval: "100ms", ..Setup::default() }).await;
    let mut load = Load::start(&host.http, 2, LIGHT).await;
    let bundle = text_bundle(folder.path(), "any", &Guest::with(Export::Judge));
    let mut orders = JoinSet::new();
    let before = judged(&host).await;
    // Fewer at once than the admin plane has connections, so that none is closed for another.
    for worker in 0..50 {
        let (http, bundle) = (host.http.clone(), bundle.clone());
        orders.spawn(async move {
            let mut ok = 0;
            for n in 0..12 {
                let body = json!({ "bundle": bundle, "settings": { "n": worker * 12 + n } });
                let status = order(&http, Method::PUT, "rollback/candidate", body).await.status;
                let known = [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE];
                assert!(known.contains(&status), "{status}");
                ok += usize::from(status == StatusCode::OK);
            }
            ok
        });
    }
    let ok: usize = orders.join_all().await.into_iter().sum();
    assert!(ok > 0, "some get through");
    assert!(judged(&host).await > before, "checks go on");
    load.answers(10).await;
    load.end().await;
    let [mine, stored] = slots(&host, Kind::Rollback).await;
    assert_eq!(mine, stored);
    host.app.shut_down().await;
}
