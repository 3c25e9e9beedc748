//! V2's workers break the protocol in every way: V1 answers in time, V2 is blamed, and the pool is whole again.

use std::time::Duration;

use cutover_control::migration::CommandKind;
use cutover_model::{
    clock,
    port::{Kind, Phase},
};
use cutover_traffic::pool::breaker::Position;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use crate::harness::{Host, PATIENCE, Setup, bundle, eventually, greeting, pool};

/// What callers wait at most; V2 gets half of it.
const DEADLINE: Duration = Duration::from_secs(2);

/// Calls to V2 that each broken worker gets.
const CALLS: u64 = 3;

/// A worker that answers everything with `{}`, but for `execute`, where it does `MISDEED`.
const WORKER: &str = "
import json, sys, time
read, write = sys.stdin.buffer.read, sys.stdout.buffer.write
def say(body, size=None):
    write((len(body) if size is None else size).to_bytes(4, \"big\") + body)
    sys.stdout.buffer.flush()
while header := read(4):
    call = json.loads(read(int.from_bytes(header, \"big\")))
    reply = {\"id\": call[\"id\"], \"success\": True, \"result\": {\"programs\": [\"greet\"]}}
    if call[\"command\"] == \"execute\":
        MISDEED
    else:
        say(json.dumps(reply).encode())
";

/// All calls reach the workers, however bad those are.
const PATIENT: &str = "restarts = { count = 1000 }\nbreaker = { enabled = false }";

fn scripted(misdeed: &str) -> String {
    let script = WORKER.replace("MISDEED", misdeed);
    let command = format!("command = ['python3', '-c', '''{script}''']");
    format!("mode = 'concurrent'\nworkers = 2\ndrain_timeout = '5s'\n{command}\n{PATIENT}")
}

/// A host whose V2 is made of these workers, and which lets V2 be however bad it is.
async fn start(v2: String) -> Host {
    let setup = Setup { deadline: "2s", v2, ..Setup::default() }
        .with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000 }"))
        // V2's workers get the calls of these tests alone.
        .with("routing", bundle("sticky-share", "shadow_share = '0%', ramping_shadow_share = '0%'"));
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.ask(CommandKind::SetFlag("auto_rollback".into(), false.into())).await.unwrap();
    assert_eq!(host.http.create("s").await.status, StatusCode::OK);
    host
}

/// V2's calls of `execute`: all, failed, timed out, answered by V1 instead.
fn blamed(host: &Host) -> (u64, u64, u64, u64) {
    let totals = host.migration().history.totals();
    let [_, v2, _] = totals.operations.get("execute").cloned().unwrap_or_default();
    (v2.requests, v2.errors, v2.timeouts, v2.failed_over)
}

/// Sends reads to a V2 that fails each of them. `replaced` says whether that costs it the worker.
async fn v1_answers_for(v2: String, timeouts: u64, replaced: bool) {
    let host = start(v2).await;
    let before = host.migration().split.v2.pids();
    for _ in 0..CALLS {
        let asked = clock::mono();
        let reply = host.http.greet("s", &[("x-cutover-pool", "v2")]).await;
        assert!(clock::mono().since(asked) < DEADLINE, "in time");
        assert_eq!((reply.status, greeting(&reply)), (StatusCode::OK, Some("hello s")), "{reply:?}");
        assert_eq!((reply.pool.as_str(), reply.reason.as_str()), ("v1", "failover"));
    }
    let all = (CALLS, CALLS, timeouts, CALLS);
    eventually("V2 to be blamed", async || (blamed(&host) == all).then_some(())).await;
    let whole = async || (host.migration().split.v2.members_now().ready == 2).then_some(());
    eventually("a whole pool", whole).await;
    let failures = || host.migration().history.totals().failures;
    if replaced {
        eventually("workers that failed", async || (failures()[1] >= CALLS).then_some(())).await;
        assert_ne!(host.migration().split.v2.pids(), before);
    } else {
        assert_eq!((failures(), host.migration().split.v2.pids()), ([0, 0], before));
    }
    assert_eq!(failures()[0], 0, "V1 is not blamed");
    // What does not misbehave works on the workers that came after, and they know the session.
    let reply = host.http.call("list_programs", "s", &[("x-cutover-pool", "v2")], &json!({})).await;
    assert_eq!((reply.pool.as_str(), &reply.body["programs"]), ("v2", &json!(["greet"])), "{reply:?}");
    host.app.shut_down().await;
}

fn example(fault: &[&str]) -> String {
    format!("{}\n{PATIENT}", pool("concurrent", 2, fault))
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_v2_is_answered_by_v1() {
    v1_answers_for(example(&["--garbage-share", "1"]), 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hang_of_v2_is_answered_by_v1_within_the_deadline() {
    v1_answers_for(example(&["--hang-share", "1"]), CALLS, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_v2_is_answered_by_v1() {
    v1_answers_for(example(&["--crash-share", "1"]), 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_v2_is_answered_by_v1_and_costs_no_worker() {
    v1_answers_for(example(&["--error-share", "1"]), 0, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_v2_keeps_failing_is_refused_there_and_blamed_on_it() {
    let host = start(pool("concurrent", 2, &["--error-share", "1"])).await;
    let breaker = || {
        host.migration()
            .split
            .v2
            .workers()
            .unwrap()
            .breakers()
            .into_iter()
            .find(|b| &*b.operation == "execute")
            .unwrap()
    };
    for _ in 0..8 {
        let reply = host.http.greet("s", &[("x-cutover-pool", "v2")]).await;
        assert_eq!((reply.pool.as_str(), greeting(&reply)), ("v1", Some("hello s")), "{reply:?}");
    }
    assert_eq!((breaker().state, breaker().refused), (Position::Open, 3));
    eventually("V2 to be blamed", async || (blamed(&host) == (8, 8, 0, 8)).then_some(())).await;
    host.ask(CommandKind::SetFlag("circuit_breaker".into(), false.into())).await.unwrap();
    assert!(host.migration().split.v2.workers().unwrap().breakers().is_empty(), "switched off while the host runs");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_4_gib_is_not_waited_for() {
    v1_answers_for(scripted("say(b'', 0xffffffff)"), 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_another_call_is_not_taken() {
    v1_answers_for(scripted("say(json.dumps(reply | {'id': call['id'] + 1}).encode())"), 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_frame_and_an_end_are_a_failure() {
    v1_answers_for(scripted("say(b'{\"id\"', 100); sys.exit(0)"), 0, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_not_replies_are_failures() {
    // The session's name says which.
    let bodies = [
        "b''",
        "b'null'",
        "b'{'",
        "b'\\xff\\xfe'",
        "b'{\"id\": %d, \"success\": true, \"error\": 1}' % call['id']",
        "b'{\"id\": %d, \"success\": false}' % call['id']",
    ];
    let host = start(scripted(&format!("say([{}][int(call['args']['inputs']['name'])])", bodies.join(", ")))).await;
    for (n, body) in bodies.iter().enumerate() {
        let session = n.to_string();
        assert_eq!(host.http.create(&session).await.status, StatusCode::OK);
        let reply = host.http.greet(&session, &[("x-cutover-pool", "v2")]).await;
        assert_eq!((reply.pool.as_str(), reply.reason.as_str()), ("v1", "failover"), "{body}: {reply:?}");
        assert_eq!(greeting(&reply), Some(format!("hello {session}").as_str()), "{body}");
    }
    let all = bodies.len() as u64;
    eventually("V2 to be blamed", async || (blamed(&host) == (all, all, 0, all)).then_some(())).await;
    eventually("workers that failed", async || (host.migration().history.totals().failures[1] >= all).then_some(()))
        .await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_byte_by_byte_are_whole() {
    let slowly = "body = json.dumps(reply | {'result': {'outputs': {'greeting': 'slow'}}}).encode()\n        \
                  [(write(bytes([b])), sys.stdout.buffer.flush()) for b in len(body).to_bytes(4, 'big') + body]";
    let host = start(scripted(slowly)).await;
    let reply = host.http.greet("s", &[("x-cutover-pool", "v2")]).await;
    assert_eq!((reply.pool.as_str(), greeting(&reply)), ("v2", Some("slow")), "{reply:?}");
    host.app.shut_down().await;
}

/// A host whose V2 never starts: V1 serves, nothing moves, and a webhook is told why.
async fn never_starts(v2: String, why: &str) {
    let webhook = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hook = format!("[host]\nwebhooks = ['http://{}/notices']", webhook.local_addr().unwrap());
    let host = start_with_hook(Setup { v2, ..Setup::default() }, &hook).await;
    for n in 0..20 {
        let session = format!("s{n}");
        assert_eq!(host.http.create(&session).await.status, StatusCode::OK);
        let reply = host.http.greet(&session, &[("x-cutover-pool", "v2")]).await;
        assert_eq!((reply.pool.as_str(), reply.reason.as_str()), ("v1", "v2-closed"), "{reply:?}");
        assert_eq!(greeting(&reply), Some(format!("hello {session}").as_str()));
    }
    eventually("failed starts", async || (host.migration().history.totals().failures[1] >= 4).then_some(())).await;
    let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
    assert_eq!((&status["phase"], &status["workers"]["v2"]), (&json!("preparing"), &json!([])));
    assert_eq!(status["v2"]["members"]["ready"], json!(0));
    let early = host.ask(CommandKind::Advance).await.unwrap_err();
    assert!(early.contains("preparing"), "{early}");

    let mut notice = self::notice(&webhook).await;
    while notice["event"] == json!("store-new") {
        notice = self::notice(&webhook).await;
    }
    assert_eq!((&notice["event"], &notice["severity"]), (&json!("pools-not-ready"), &json!("critical")));
    let message = notice["message"].as_str().unwrap();
    for part in ["V1 keeps serving", "programs/v2 has 0 of 2 workers", why] {
        assert!(message.contains(part), "no {part:?} in {message:?}");
    }
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Preparing);
    assert!(host.migration().slots.get(Kind::Rollback).active().is_some());
    host.app.shut_down().await;
}

async fn start_with_hook(setup: Setup, host_table: &str) -> Host {
    use cutover::{app::App, config::Config};

    let folder = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let text = setup.text(folder.path(), (0, 0)).replacen("[host]", host_table, 1);
    let config = Config::parse(&text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let wall = config.wall.clone();
    let app = App::start(config, crate::harness::binary()).await.unwrap();
    let http = crate::harness::Http::new(app.data_plane.to_string(), app.admin.to_string());
    Host { app, folder, http, wall }
}

/// The next notice. A pool gets half a minute until people are told, so this takes longer than other things may.
async fn notice(webhook: &TcpListener) -> Value {
    let (stream, _) = tokio::time::timeout(2 * PATIENCE, webhook.accept()).await.expect("a notice").unwrap();
    let mut stream = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        if let Some(bytes) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_v2_that_never_starts_leaves_v1_serving_and_people_are_told_why() {
    let sleeps = "mode = 'concurrent'\nworkers = 2\ncommand = ['sleep', '1000']\nstart_timeout = '300ms'";
    tokio::join!(
        never_starts(example(&["--fail-start"]), "ended at its start (exit status: 1)"),
        never_starts(sleeps.into(), "did not answer its first health check within 300ms"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_switched_while_v2_starts_does_not_stop_it() {
    let setup = Setup { v2: example(&["--startup-ms", "1000"]), ..Setup::default() };
    let host = setup.start().await;
    host.ask(CommandKind::SetFlag("shadow".into(), false.into())).await.unwrap();
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Preparing, "V2 is still starting");
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.app.shut_down().await;
}
