//! What Prometheus scrapes, as its own tool reads it.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use cutover_model::port::Phase;
use hyper::{Method, StatusCode};

use super::still;

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let host = still().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    assert_eq!(host.http.create("ada").await.status, StatusCode::OK);
    host.http.greet("ada", &[]).await;
    let url = format!("http://{}/metrics", host.http.admin);
    let scrape = async |accept: &str| {
        let reply = host.http.send(Method::GET, &url, &[("accept", accept)], String::new()).await.unwrap();
        reply.body.as_str().unwrap().to_owned()
    };
    let text = crate::harness::eventually("the calls to be counted", async || {
        let text = scrape("*/*").await;
        text.contains("cutover_latency_seconds_bucket{migration=\"programs\",operation=\"execute\",pool=\"v1\"")
            .then_some(text)
    });
    let text = text.await;
    for sample in [
        "cutover_build_info{version=\"",
        "cutover_flag{migration=\"programs\",flag=\"auto_rollback\"} 1",
        "cutover_verdict{migration=\"programs\",verdict=\"healthy\"}",
        "cutover_notices_total{severity=\"critical\"} ",
        "cutover_store_failures_total 0",
        "cutover_store_takes_records 1",
        "process_open_fds ",
        "process_cpu_seconds_total ",
    ] {
        assert!(text.contains(sample), "no {sample:?} in\n{text}");
    }
    let open = scrape("application/openmetrics-text;version=1.0.0").await;
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE cutover_requests counter"), "{open}");
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    match child {
        Ok(mut child) => {
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let done = child.wait_with_output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
            assert!(done.status.success() && said.trim().is_empty(), "{said}");
        }
        Err(error) => eprintln!("skipped, because `promtool` cannot be run: {error}"),
    }
    host.app.shut_down().await;
}
