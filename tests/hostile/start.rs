//! A host whose configuration names a policy that is not let in.

use cutover_model::port::{Kind, Phase};
use hyper::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::{LIGHT, Load, configured_hostile, put, put_hostile, status};
use crate::harness::{Host, Setup, bundle, eventually, root};

/// Stages that leave the shadow phase as soon as a few pairs were compared.
const EAGER: &str = "min_requests = 1, shadow = { min_compared = 5 }";

async fn compared(host: &Host, pairs: u64) {
    let counts = || host.migration().history.totals().comparisons;
    eventually("comparisons", async || (counts().same + counts().ignored >= pairs).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_rollback_policy_v1_serves_and_nothing_moves() {
    let folder = TempDir::new().unwrap();
    let trap = configured_hostile(folder.path(), Kind::Rollback, "do = 'trap', in = 'configure'");
    let setup = Setup::default().with("rollback", trap).with("stages", bundle("standard-stages", EAGER));
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let mut load = Load::start(&host.http, 4, LIGHT).await;
    let shown = status(&host).await;
    let failing = shown["policy_failures"].as_array().unwrap();
    assert_eq!((failing.len(), &failing[0]["kind"], &failing[0]["cause"]), (1, &json!("rollback"), &json!("trap")));
    assert!(failing[0]["message"].as_str().unwrap().contains("trapped"));
    assert!(shown["policies"].as_array().unwrap().iter().all(|p| p["kind"] != "rollback"), "nobody is in charge");

    // Ten times what the stages policy asks for, and time for it to be asked: it says what it waits for, or moves.
    compared(&host, 50).await;
    load.answers(40).await;
    let snapshot = host.migration().handle.snapshot();
    assert_eq!(snapshot.state.phase, Phase::Shadow, "nobody would notice a bad V2");

    // Mended with a judge that no slow machine can make nervous.
    put_hostile(&host, Kind::Rollback, "rollback", "behave").await;
    host.until("the ramp", |s| s.state.phase == Phase::Ramping).await;
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_rollback_policy_that_fails_the_shadow_phase_is_not_left() {
    let setup = Setup::default().with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000 }"));
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    put_hostile(&host, Kind::Rollback, "rollback", "trap").await;
    let stages = root().join("policies/standard-stages");
    let settings = json!({ "min_requests": 1, "shadow": { "min_compared": 5 } });
    assert_eq!(put(&host, Kind::Stages, &stages, &settings).await.status, StatusCode::OK);
    let load = Load::start(&host.http, 4, LIGHT).await;
    compared(&host, 50).await;
    let failed = |s: &cutover_control::migration::snapshot::Snapshot| s.policy_failures.first().map_or(0, |f| f.count);
    let known = failed(&host.migration().handle.snapshot());
    let later = host.until("ten more failed checks", |s| failed(s) >= known + 10).await;
    assert_eq!(later.state.phase, Phase::Shadow, "nobody would notice a bad V2");
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_policy_the_host_starts_and_v1_serves() {
    let folder = TempDir::new().unwrap();
    let trap = |kind| configured_hostile(folder.path(), kind, "do = 'trap', in = 'configure'");
    let kinds = [Kind::Routing, Kind::Comparison, Kind::Rollback, Kind::Stages, Kind::Adapter];
    let setup = kinds.into_iter().fold(Setup::default(), |setup, kind| setup.with(kind.name(), trap(kind)));
    let host = setup.start().await;
    let shown = host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    assert!(shown.policies.is_empty() && shown.policy_failures.len() >= kinds.len(), "{shown:#?}");
    let mut load = Load::start(&host.http, 2, LIGHT).await;
    load.answers(30).await;
    let reply = host.http.greet("load0", &[("x-cutover-pool", "v2")]).await;
    assert_eq!(reply.pool, "v1");
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_missing_at_the_start_leaves_whoever_was_in_charge() {
    let (folder, policies) = (std::sync::Arc::new(TempDir::new().unwrap()), TempDir::new().unwrap());
    let bundle = policies.path().join("judge");
    let write = |script: &str| {
        std::fs::create_dir_all(&bundle).unwrap();
        let manifest = "name = 'judge'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'rhai'\nscript = 'policy.rhai'\n";
        std::fs::write(bundle.join("policy.toml"), manifest).unwrap();
        std::fs::write(bundle.join("policy.rhai"), script).unwrap();
    };
    write("fn judge(check, memory) { healthy() }");
    let setup = Setup::default().with("rollback", format!("'{}'", bundle.display()));
    let host = setup.start_in(std::sync::Arc::clone(&folder)).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let judges =
        |s: &cutover_control::migration::snapshot::Snapshot| s.policies.iter().any(|p| p.kind == Kind::Rollback);
    assert!(judges(&host.migration().handle.snapshot()));
    host.app.shut_down().await;

    std::fs::remove_dir_all(&bundle).unwrap();
    let host = setup.start_in(std::sync::Arc::clone(&folder)).await;
    let now = host.until("a verdict", |s| s.verdict.is_some()).await;
    assert!(judges(&now), "{now:#?}");
    assert_eq!((now.policy_failures[0].kind, now.policy_failures[0].cause), (Kind::Rollback, "unreadable"));
    assert!(now.policy_failures[0].message.contains("policy.toml cannot be read"), "{now:#?}");
    host.app.shut_down().await;

    // What is back as it was is in charge with what it remembers; what is changed under its old name is told.
    write("fn judge(check, memory) { hold() }");
    let (port, told) = crate::notify::webhook();
    let hook = format!("[host]\nwebhooks = ['http://127.0.0.1:{port}/']\n");
    let text = setup.text(folder.path(), (0, 0)).replacen("[host]\n", &hook, 1);
    let config = cutover::config::Config::parse(&text, folder.path(), &[]).unwrap();
    let app = cutover::app::App::start(config, crate::harness::binary()).await.unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let mut notices = std::iter::from_fn(|| told.recv_timeout(crate::harness::PATIENCE).ok());
        notices.find(|notice| notice["event"] == "policy-changed")
    });
    let told = told.await.unwrap().expect("it is told");
    let message = told["message"].as_str().unwrap();
    assert!(message.contains("judge@1.0.0 takes charge with another script"), "{message}");
    app.shut_down().await;

    // Without a store that knows anybody V1 serves.
    std::fs::remove_dir_all(&bundle).unwrap();
    let host = setup.start().await;
    let now = host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    assert!(!judges(&now));
    host.app.shut_down().await;
}
