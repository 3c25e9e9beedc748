//! What signals do.

use std::fs;

use hyper::StatusCode;
use rustix::process::Signal;

use super::{Detached, cutover, still};
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_configuration_again_and_says_what_is_in_force_and_what_is_not() {
    let host = Detached::start(&still(), |text| text, &["--log-format", "json"]);
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK);
    let file = host.file("cutover.toml");
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replacen("[host]\n", "[host]\nwebhooks = ['http://127.0.0.1:9/']\nkeep_metrics = '1h'\n", 1);
    fs::write(&file, changed.replace("deadline = '4s'", "deadline = '3s'")).unwrap();
    host.signal(Signal::HUP);
    let log = host.until_logged("in force once a successor takes over").await;
    assert!(log.contains("read again and in force: host.keep_metrics, host.webhooks"), "{log}");
    assert!(log.contains("drops no connection): migrations.programs.deadline"), "{log}");
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert_eq!(line["pid"], host.pid, "{line}");
    }
    fs::write(&file, "[host").unwrap();
    host.signal(Signal::HUP);
    host.until_logged("all stays as it is").await;
    assert_eq!(host.http.create("eve").await.status, StatusCode::OK, "and callers notice nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_opened_again_where_somebody_moved_it_away() {
    let host = Detached::start(&still(), |text| text, &[]);
    fs::rename(host.file("test.log"), host.file("test.log.1")).unwrap();
    host.signal(Signal::USR1);
    eventually("a new log", async || host.file("test.log").exists().then_some(())).await;
    host.until_logged("the log was opened again").await;
    assert!(host.log().contains(&format!("[{}]", host.pid)), "{}", host.log());
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_would_end_the_host_drains_it() {
    for signal in [Signal::QUIT, Signal::ALARM, Signal::XCPU] {
        let host = Detached::start(&still(), |text| text, &[]);
        host.signal(signal);
        host.until_ended().await;
        let log = host.log();
        assert!(log.contains("draining, as at SIGTERM") && log.contains("stopped"), "{signal:?}: {log}");
    }
}

#[test]
fn a_filter_of_the_log_that_is_none_is_refused() {
    let done = cutover(&["status"], &[("CUTOVER_LOG", "cutover=loud")]);
    done.fails(2, &["`CUTOVER_LOG` is `cutover=loud`", "warn,cutover_store=debug"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_takes_a_renewed_certificate() {
    let tls = "[host.http]\ntls = { certificate = 'cert.pem', key = 'key.pem' }\n[host.policy_limits]";
    let with = |text: String| {
        // The host's folder is where the faults of V2 are looked for.
        let folder = text.split("'--faults', '").nth(1).unwrap().split("v2-faults.json").next().unwrap();
        crate::tls::certify(std::path::Path::new(folder));
        text.replacen("[host.policy_limits]", tls, 1)
    };
    let host = Detached::start(&still(), with, &[]);
    let connect = async || {
        let caller = crate::tls::caller(host.folder.path(), "http/1.1");
        let stream = tokio::net::TcpStream::connect(&host.http.data_plane).await.unwrap();
        caller.connect(crate::tls::NAME.try_into().unwrap(), stream).await.is_ok()
    };
    assert!(connect().await, "by the first certificate");
    crate::tls::certify(host.folder.path());
    host.signal(Signal::HUP);
    host.until_logged("the configuration was read again").await;
    assert!(connect().await, "by the second one, which is all that this caller trusts");
}
