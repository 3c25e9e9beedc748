//! The store in doubt: edited under a ramp, shared, deleted, full.

mod records;
mod tools;

use std::{fs, sync::Arc};

use cutover::{app::App, config::Config};
use cutover_control::migration::CommandKind;
use cutover_model::{causes::chain, port::Phase, request::Ppm};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Host, Reply, Setup, binary, bundle, eventually};

/// A ramp by these stages that does not move by itself.
fn ramp(stages: &str) -> Setup {
    Setup::default().with("stages", bundle("standard-stages", &format!("stages = [{stages}]")))
}

impl Host {
    async fn get(&self, path: &str) -> Reply {
        self.http.admin(Method::GET, path, &Value::Null).await
    }

    /// Begins a ramp, and takes so many stages more.
    async fn ramp(&self, stages: usize) {
        self.until("shadow", |now| now.state.phase == Phase::Shadow).await;
        for _ in 0..=stages {
            self.ask(CommandKind::Advance).await.unwrap();
        }
    }

    async fn decisions(&self) -> Vec<(String, String)> {
        let reply = self.get("/api/v1/migrations/programs/decisions").await;
        let text = |decision: &Value, field: &str| decision[field].as_str().unwrap().to_owned();
        let all = reply.body["decisions"].as_array().unwrap().clone();
        all.iter().map(|decision| (text(decision, "kind"), text(decision, "reason"))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_edited_in_a_ramp_keeps_the_share_and_says_what_comes_next() {
    let host = ramp("{ share = '10%', soak = '1h' }, { share = '50%', soak = '6h' }, { share = '100%' }").start().await;
    host.ramp(1).await;
    let folder = Arc::clone(&host.folder);
    host.app.shut_down().await;
    let edited = ramp(
        "{ share = '1%', soak = '1s' }, { share = '20%', soak = '1s' }, { share = '75%', soak = '2h' }, { share = '100%' }",
    );
    let file = folder.path().join("edited.toml");
    fs::write(&file, edited.text(folder.path(), (0, 0))).unwrap();
    let check = std::process::Command::new(binary()).args(["check", "--against-store", "--config"]).arg(&file).output();
    let check = String::from_utf8(check.unwrap().stdout).unwrap();
    assert!(check.contains("its settings differ in `stages`"), "{check}");
    let said = "V2 keeps 50%, a stage that is not among them and keeps its soak of 6h; 75% comes next, and nothing moves by itself";
    assert!(check.contains(said), "{check}");

    let host = edited.start_in(folder).await;
    let now =
        host.until("the pools", |now| now.state.table.as_ref().is_some_and(|table| table.stages.len() == 4)).await;
    assert_eq!((now.state.phase, now.state.stage, now.state.share), (Phase::Ramping, 1, Ppm::new(500_000)));
    let (kind, reason) = host.decisions().await.remove(0);
    assert!(kind == "table" && reason.contains(said), "{kind} {reason}");
    host.ask(CommandKind::Advance).await.unwrap();
    assert_eq!(host.migration().handle.snapshot().state.share, Ppm::new(750_000));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_is_refused_and_told_who_has_the_store() {
    let host = Setup::default().start().await;
    let config = Config::parse(&Setup::default().text(host.folder.path(), (0, 0)), host.folder.path(), &[]).unwrap();
    let refused = chain(&App::start(config, binary()).await.unwrap_err());
    let owner = format!("is in use by process {} (admin plane at {}", std::process::id(), host.app.admin);
    assert!(refused.contains(&owner), "{refused}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_store_moves_nothing_and_a_rollback_stays_without_it() {
    let host = Setup::default().start().await;
    host.ramp(2).await;
    let before = host.migration().handle.snapshot().state.share;
    assert_eq!(host.get("/readyz").await.status, StatusCode::OK);
    for file in fs::read_dir(host.folder.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("test.db") {
            fs::remove_file(file).unwrap();
        }
    }
    let ready = host.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.to_string().contains("was deleted under the host"), "{ready:?}");
    let refused = host.ask(CommandKind::Advance).await.unwrap_err();
    assert!(refused.contains("could not be recorded") && refused.contains("was deleted"), "{refused}");
    assert_eq!(host.migration().handle.snapshot().state.share, before);
    host.ask(CommandKind::Rollback).await.unwrap();
    let now = host.migration().handle.snapshot();
    assert_eq!((now.state.phase, now.unrecorded), (Phase::RolledBack, 1));
    let folder = Arc::clone(&host.folder);
    host.app.shut_down().await;

    let marker = folder.path().join(".cutover/programs.rolled-back");
    assert!(marker.exists());
    let host = Setup::default().start_in(folder).await;
    let now = host.until("the record", |now| now.unrecorded == 0).await;
    assert_eq!((now.state.phase, now.state.share), (Phase::RolledBack, Ppm::ZERO));
    assert_eq!(host.decisions().await, [("rollback".to_owned(), "because".to_owned())]);
    host.ask(CommandKind::Resume).await.unwrap();
    eventually("the marker's end", async || (!marker.exists()).then_some(())).await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_a_store_serves_v1_and_says_why() {
    let folder: Arc<TempDir> = Arc::new(TempDir::new().unwrap());
    // A folder is no file.
    fs::create_dir(folder.path().join("test.db")).unwrap();
    let host = Setup::default().start_in(folder).await;
    let reply = eventually("V1", async || {
        let reply = host.http.call("health_check", "s", &[], &json!({})).await;
        (reply.status == StatusCode::OK).then_some(reply)
    })
    .await;
    assert_eq!(reply.pool, "v1");
    let ready = host.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.body.to_string().contains("takes no records"), "{ready:?}");
    assert!(host.http.create("s").await.status.is_server_error(), "nobody is promised what would not be kept");
    fs::remove_dir(host.folder.path().join("test.db")).unwrap();
    host.app.store_can_be_had().await;
    host.app.shut_down().await;
}
