//! What looks after a store: `cutover store`.

use std::process::Command;

use cutover_control::migration::CommandKind;
use cutover_model::port::Phase;
use serde_json::{Value, json};

use crate::harness::{Done, Setup, binary};

fn store(arguments: &[&str]) -> Done {
    Done::of(Command::new(binary()).arg("store").args(arguments).output().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_checked_while_its_host_runs_and_made_smaller_when_it_does_not() {
    let host = Setup::default().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.http.create("s").await;
    host.ask(CommandKind::Advance).await.unwrap();
    host.until("a check", |s| s.verdict.is_some()).await;
    let (folder, port) = (std::sync::Arc::clone(&host.folder), host.app.admin.port());
    let config = folder.path().join("cutover.toml");
    std::fs::write(&config, Setup::default().text(folder.path(), (0, port))).unwrap();
    let config = config.display().to_string();

    let checked = store(&["check", "--config", &config, "--json"]).json();
    assert_eq!((&checked["ok"], &checked["found"]), (&json!(true), &json!([])), "{checked}");
    assert!(checked["rows"].as_u64().unwrap() > 5, "{checked}");
    let file = cutover::config::Config::load(config.as_ref()).unwrap().store.display().to_string();
    let busy = store(&["vacuum", "--store", &file]);
    assert!(busy.code == Some(1) && busy.err.contains("is in use by process"), "{busy:?}");

    host.app.shut_down().await;
    let smaller = store(&["vacuum", "--store", &file, "--json"]).json();
    let bytes = |field: &str| smaller[field].as_u64().unwrap();
    assert!(bytes("after_bytes") > 0 && bytes("after_bytes") <= bytes("before_bytes"), "{smaller}");
    let again = store(&["check", "--store", &file]);
    assert!(again.code == Some(0) && again.out.starts_with("ok: "), "{again:?}");
    let nowhere = store(&["check", "--store", &format!("{file}.other"), "--json"]);
    let error: Value = serde_json::from_str(nowhere.err.lines().last().unwrap()).unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("cannot open the store"), "{nowhere:?}");
    assert!(store(&["vacuum", "--store", &format!("{file}.other")]).code == Some(1));
    assert!(!std::path::Path::new(&format!("{file}.other")).exists(), "it makes none");
    assert_eq!(store(&["check"]).code, Some(2));
}
