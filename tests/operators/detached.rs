//! `serve --detach` and `wait`.

use std::fs;

use hyper::StatusCode;
use tempfile::TempDir;

use super::{Detached, cutover, mode, still};
use crate::harness::{Setup, greeting};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_the_background_serves_when_the_command_returns_and_a_phase_can_be_waited_for() {
    // A worker takes a while, as those with a warm-up do.
    let host = Detached::start(&still(), |text| text, &[]);
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK, "the very next command is a call");
    assert_eq!(greeting(&host.http.greet("ada", &[]).await), Some("hello ada"));
    let waited = host.json(&["wait", "programs", "--for", "shadow"]);
    assert_eq!(waited["phase"], "shadow", "{waited}");
    assert_eq!(host.order(&["advance", "programs"])["state"]["phase"], "ramping");
    assert_eq!(host.json(&["wait", "programs", "--for", "5%"])["share"], 50_000);
    host.verb(&["wait"]).succeeds();
    let late = host.verb(&["wait", "programs", "--for", "50%", "--timeout", "300ms", "--json"]);
    late.fails(1, &["\"code\":\"timeout\"", "programs is ramping, with 5% on V2"]);
    host.order(&["rollback", "programs"]);
    host.verb(&["wait", "programs", "--for", "complete"])
        .fails(1, &["was rolled back: test", "cutover resume programs"]);
    assert_eq!(host.json(&["wait", "programs", "--for", "rolled-back"])["phase"], "rolled-back");
    for file in ["test.db", "test.db-wal", "test.db.lock", "test.log"] {
        assert_eq!(mode(&host.file(file)), 0o600, "{file}");
    }
    host.signal(rustix::process::Signal::TERM);
    host.until_ended().await;
    assert!(host.log().contains("stopped"), "{}", host.log());
}

#[test]
fn a_host_that_does_not_come_up_says_why_and_ends_with_its_code() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("cutover.toml");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports = (taken.local_addr().unwrap().port(), crate::kill::free_ports().1);
    fs::write(&file, Setup::default().text(folder.path(), ports)).unwrap();
    let file = file.display().to_string();
    let done = cutover(&["serve", "--config", &file, "--detach"], &[]);
    done.fails(1, &["the host ended: cannot listen on", "its log is"]);
    drop(taken);
    fs::write(&file, "[host]\nstore = 1").unwrap();
    cutover(&["serve", "--config", &file, "--detach"], &[]).fails(2, &["host.store"]);
}
