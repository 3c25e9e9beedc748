//! A V1 that is gone: what goes on without it, what waits for a person, and how a host begins again.

use std::fs;

use super::*;
use cutover_store::{records::Audited, state::State};

/// Pools that notice soon who is there.
const CHECKED: &str = "health = { path = '/', interval = '20ms', failures = 1 }";

/// A host in a folder that may have a store already.
async fn start_in(folder: &TempDir, text: &str) -> Result<App, String> {
    let config = Config::parse(text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    App::start(config, binary()).await.map_err(|error| error.to_string())
}

async fn ask(app: &App, verb: CommandKind) -> Result<String, String> {
    app.host.migrations["shop"]
        .handle
        .ask(verb, "test", "V1 is gone")
        .await
        .map(|done| done.message)
        .map_err(|why| why.to_string())
}

async fn until(app: &App, what: &str, is: impl Fn(&State) -> bool) {
    let handle = app.host.migrations["shop"].handle.clone();
    eventually(what, async || is(&handle.snapshot().state).then_some(())).await;
}

/// Who answers.
async fn name(app: &App, request: Request<Full<Bytes>>) -> (u16, String) {
    let answer = try_open(app.data_plane, request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    (status, said["name"].as_str().unwrap_or_default().to_owned())
}

async fn ready(app: &App) -> (u16, String) {
    let answer =
        try_open(app.admin, Request::get("/readyz").header("host", "localhost").body(Full::default()).unwrap())
            .await
            .unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_goes_on_without_a_v1_that_is_dead_at_the_start_and_v1_may_be_left_out_then() {
    let v1 = Upstream::named("v1").await;
    let v2 = Upstream::named("v2").await;
    let setup = Setup { pool: CHECKED, ..Setup::of(&[&v1], &[&v2]) };
    let (folder, text) = (TempDir::new().unwrap(), setup.text());
    drop(v1);
    let app = start_in(&folder, &text).await.unwrap();
    let why = ready(&app).await;
    assert!(why.0 == 503 && why.1.contains("shop/v1 is not ready"), "{why:?}");
    let refused = eventually("V2 to be ready", async || {
        let refused = ask(&app, CommandKind::Advance).await.unwrap_err();
        (!refused.contains("neither")).then_some(refused)
    })
    .await;
    assert!(refused.contains("`cutover advance shop --without-v1 --reason TEXT`"), "{refused}");
    assert_eq!(ask(&app, CommandKind::Resume).await.unwrap_err(), refused);
    ask(&app, CommandKind::AdvanceWithoutV1).await.unwrap();
    assert_eq!(name(&app, get("/", &[])).await, (200, "v2".into()));
    assert_eq!(name(&app, post("/", "new")).await, (200, "v2".into()));
    assert_eq!(ready(&app).await.0, 200, "who has to serve is there");
    app.shut_down().await;

    // The first request after a restart, with the dead V1 in the configuration and without.
    let v1_lines = text.find("[migrations.shop.v1]").unwrap()..text.find("[migrations.shop.v2]").unwrap();
    let mut without = text.clone();
    without.replace_range(v1_lines, "");
    for text in [&text, &without] {
        let app = start_in(&folder, text).await.unwrap();
        assert_eq!(name(&app, get("/", &[])).await, (200, "v2".into()));
        assert_eq!(ready(&app).await.0, 200);
        app.shut_down().await;
    }
    let app = start_in(&folder, &without).await.unwrap();
    let refused = ask(&app, CommandKind::Rollback).await.unwrap_err();
    assert!(refused.contains("the configuration has no V1"), "{refused}");
    app.shut_down().await;

    // A store that knows it in another phase says that V1 has to serve.
    let elsewhere = TempDir::new().unwrap();
    let app = start_in(&elsewhere, &text).await.unwrap();
    until(&app, "the record", |state| state.phase == Phase::Preparing).await;
    ask(&app, CommandKind::Rollback).await.unwrap();
    app.shut_down().await;
    let refused = start_in(&elsewhere, &without).await.unwrap_err();
    assert!(refused.contains("`migrations.shop.v1` is left out, but shop is rolled-back"), "{refused}");
}

/// What a store may have become.
fn spoil(folder: &TempDir, how: &str) {
    let store = folder.path().join("test.db");
    for file in ["test.db", "test.db-wal", "test.db-shm"] {
        drop(fs::remove_file(folder.path().join(file)));
    }
    match how {
        "deleted" => {}
        "a folder" => fs::create_dir(store).unwrap(),
        "empty" => fs::write(store, "").unwrap(),
        _ => fs::write(store, [7; 9_000]).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_v1_a_store_that_is_lost_does_not_take_v2_down() {
    let v2 = Upstream::named("v2").await;
    let setup = Setup { pool: CHECKED, ..Setup::of(&[&v2], &[&v2]) };
    let mut text = setup.text();
    text.replace_range(text.find("[migrations.shop.v1]").unwrap()..text.find("[migrations.shop.v2]").unwrap(), "");
    for how in ["deleted", "empty", "a folder", "garbage"] {
        let folder = TempDir::new().unwrap();
        spoil(&folder, how);
        let app = start_in(&folder, &text).await.unwrap();
        let reply =
            eventually("V2", async || Some(name(&app, get("/", &[])).await).filter(|reply| reply.0 == 200)).await;
        assert_eq!(reply.1, "v2", "{how}");
        assert_eq!(name(&app, post("/", "new")).await, (200, "v2".into()));
        let warned = app.host.warnings.iter().any(|change| change.what == "v1-left-out");
        assert!(warned, "{how}: {:?}", app.host.warnings);
        let state = app.host.migrations["shop"].handle.snapshot().state.clone();
        assert_eq!((state.phase, state.share), (Phase::Complete, cutover_model::request::Ppm::ALL));
        let is_there = app.host.store.refuses().is_none();
        assert_eq!(is_there, matches!(how, "deleted" | "empty"));
        if !is_there {
            // It is not for ever: the store can be had, and the host that begins with it puts it on record.
            drop(fs::remove_dir(folder.path().join("test.db")));
            spoil(&folder, "deleted");
            app.store_can_be_had().await;
        }
        app.shut_down().await;
        let app = start_in(&folder, &text).await.unwrap();
        let decisions = app.host.store.decisions("shop", 10).await.unwrap();
        let [decision] = &decisions[..] else { panic!("{how}: {decisions:?}") };
        assert_eq!((&*decision.kind, &*decision.actor), ("complete", "host"));
        assert!(decision.reason.contains("`migrations.shop.v1` is left out"), "{}", decision.reason);
        assert_eq!(name(&app, get("/", &[])).await, (200, "v2".into()));
        // Whoever is kept from V2 would be served by nobody.
        let set = CommandKind::SetFlag("gradual_rollout_percentage".into(), 3.into());
        let refused = ask(&app, set).await.unwrap_err();
        assert!(refused.contains("the configuration has no V1"), "{refused}");
        // Nor do flags count that were set before V1 was left out.
        let audited = Audited {
            at: cutover_model::clock::unix_ms(),
            actor: "test".into(),
            migration: "shop".into(),
            action: "set-flag".into(),
            detail: Value::Null,
        };
        app.host.store.set_flag("gradual_rollout_percentage", &3.into(), &audited).await.unwrap();
        app.shut_down().await;
        let app = start_in(&folder, &text).await.unwrap();
        assert!(app.host.warnings.iter().any(|change| change.what == "flags"), "{:?}", app.host.warnings);
        for _ in 0..20 {
            assert_eq!(name(&app, get("/", &[])).await, (200, "v2".into()));
        }
        app.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_against_v2_changes_nothing_while_v1_is_down_and_an_order_does() {
    let v1 = Upstream::named("v1").await;
    let v2 = Upstream::named("v2").await;
    let setup = Setup { pool: CHECKED, ..Setup::of(&[&v1], &[&v2]) };
    let text = setup.text().replace("min_requests = 1000000", "min_requests = 5").replace(
        "shadow = { min_compared = 1000000000 }",
        "stages = [{ share = '100%' }], min_requests = 1, complete_after = '1ms', shadow = { min_compared = 0, soak = '0s' }",
    );
    let folder = TempDir::new().unwrap();
    let app = start_in(&folder, &text).await.unwrap();
    let phase = || app.host.migrations["shop"].handle.snapshot().state.phase;
    eventually("completion", async || {
        // It is refused while the pools start, and once there is nothing left to advance to.
        drop(ask(&app, CommandKind::Advance).await);
        (phase() == Phase::Complete).then_some(())
    })
    .await;
    drop(v1);
    let split = &app.host.migrations["shop"].split;
    eventually("V1 to be gone", async || split.is_v1_gone().then_some(())).await;
    let withheld = async || {
        assert_eq!(name(&app, get("/status/500", &[])).await.0, 500, "what V2 says is what there is");
        let snapshot = app.host.migrations["shop"].handle.snapshot();
        let judged = snapshot.verdict.as_ref()?;
        judged.findings.iter().any(|finding| finding.rule == "v1-down").then_some(())
    };
    eventually("a verdict that is not acted on", withheld).await;
    assert_eq!(app.host.migrations["shop"].handle.snapshot().state.phase, Phase::Complete);
    let done = ask(&app, CommandKind::Rollback).await.unwrap();
    assert!(done.contains("V1 is down: whoever is on it gets errors"), "{done}");
    until(&app, "the rollback", |state| state.phase == Phase::RolledBack).await;
    app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_has_a_deadline_of_its_own_and_so_has_what_is_mirrored() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let migration = "match = [{ host = '*' }]\ndeadline = '100ms'\nshadow_timeout = '100ms'\n\
                     operations.report = { class = 'read', methods = ['GET'], path = '/slow/{ms}', deadline = '20s' }\n\
                     operations.post = { class = 'exclusive', deadline = '20s' }";
    let site = Setup { migration, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    for pool in ["v1", "v2"] {
        let reply = site.get_from(pool, "/slow/400").await;
        assert_eq!((reply.status, &*reply.body), (200, pool), "{reply:?}");
    }
    assert_eq!(site.send(post("/slow/400", "")).await.status, 200);
    let put = Request::put("/slow/400").header("host", "shop.example").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(site.send(put).await.status, 504, "the migration's holds for all others");
    assert_eq!(site.counted("report", 2, 1).await, (1, 0, 0, 0), "V2's mirrored call had its time");
    site.app.shut_down().await;
}
