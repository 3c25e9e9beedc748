//! What callers and operators send that cannot be served.

use cutover_model::port::Phase;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Host, Reply, Setup, greeting, root};

async fn serving() -> Host {
    let host = Setup::default().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    assert_eq!(host.http.create("s").await.status, StatusCode::OK);
    host
}

/// After whatever was sent, good requests are served as before.
async fn end(host: Host) {
    let reply = host.http.greet("s", &[]).await;
    assert_eq!((reply.status, greeting(&reply)), (StatusCode::OK, Some("hello s")), "{reply:?}");
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_served_are_refused_with_the_reason() {
    let host = serving().await;
    let long = "x".repeat(257);
    let large = format!("\"{}\"", "x".repeat((8 << 20) - 1));
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    let (post, no): (Method, &[(&str, &str)]) = (Method::POST, &[]);
    let table = [
        (&post, "/", no, "{}", 404, "no-route", "/v1/{migration}/{operation}"),
        (&post, "/v2/programs/execute", no, "{}", 404, "no-route", "/v1/"),
        (&post, "/v1/programs", no, "{}", 404, "no-route", "/v1/"),
        (&post, "/v1/programs/execute/again", no, "{}", 404, "no-route", "/v1/"),
        (&post, "/v1/prompts/execute", no, "{}", 404, "no-migration", "`prompts`"),
        (&post, "/v1/programs/explode", no, "{}", 404, "no-operation", "`explode`"),
        (&Method::GET, "/v1/programs/execute", no, "", 405, "method", "POST"),
        (&Method::DELETE, "/v1/programs/execute", no, "", 405, "method", "POST"),
        (&post, "/v1/programs/execute", no, "hello", 400, "body", "JSON object"),
        (&post, "/v1/programs/execute", no, "[1, 2]", 400, "body", "JSON object"),
        (&post, "/v1/programs/execute", no, "null", 400, "body", "JSON object"),
        (&post, "/v1/programs/execute", no, "{\"a\": 1", 400, "body", "JSON object"),
        (&post, "/v1/programs/execute", no, deep.as_str(), 400, "body", "JSON object"),
        (&post, "/v1/programs/execute", no, large.as_str(), 413, "body", "8388608 bytes"),
        (
            &post,
            "/v1/programs/execute",
            &[("x-session-id", &long)],
            "{}",
            400,
            "header",
            "`x-session-id` must be at most 256",
        ),
        (
            &post,
            "/v1/programs/execute",
            &[("x-request-id", &long)],
            "{}",
            400,
            "header",
            "`x-request-id` must be at most 256",
        ),
    ];
    for (method, path, headers, body, status, kind, words) in table {
        let what = format!("{method} {path} {body:.20}");
        let url = format!("http://{}{path}", host.http.data_plane);
        let reply = host.http.send(method.clone(), &url, headers, body.to_owned()).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body["error"]["type"]), (status, &json!(kind)), "{what}: {reply:?}");
        assert!(reply.body["error"]["message"].as_str().unwrap().contains(words), "{what}: {reply:?}");
        assert_eq!(reply.pool, "", "{what}: no pool has seen it");
    }
    end(host).await;
}

/// Sends bytes that no client would make, and gives what comes back until the host hangs up.
async fn raw(host: &Host, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(&host.http.data_plane).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(crate::harness::PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end").unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_not_http_or_not_text_are_refused() {
    let host = serving().await;
    let call = |header: &[u8]| {
        [
            b"POST /v1/programs/list_programs HTTP/1.1\r\nhost: h\r\nconnection: close\r\n",
            header,
            b"\r\ncontent-length: 2\r\n\r\n{}",
        ]
        .concat()
    };
    for (what, request, begins) in [
        ("noise", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n".to_vec(), "HTTP/1.1 400"),
        ("session", call(b"x-session-id: caf\xc3\xa9"), "HTTP/1.1 400"),
        ("request id", call(b"x-request-id: \xff"), "HTTP/1.1 400"),
        ("two lengths", call(b"content-length: 3"), "HTTP/1.1 400"),
        ("good", call(b"x-session-id: nobody"), "HTTP/1.1 200"),
    ] {
        let answer = raw(&host, &request).await;
        assert!(answer.starts_with(begins), "{what}: {answer:?}");
    }
    end(host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_a_session_share_one_and_bodies_borrow_none() {
    let host = serving().await;
    let execute = json!({ "program_id": "greet", "inputs": { "name": "you" } });
    let nobody = host.http.call("execute", "", &[], &execute).await;
    assert_eq!(nobody.status, StatusCode::NOT_FOUND, "programs of sessions are not everybody's: {nobody:?}");
    assert_eq!(host.http.create("").await.status, StatusCode::OK);
    for pool in ["v1", "v2", "v2"] {
        let reply = host.http.call("execute", "", &[("x-cutover-pool", pool)], &execute).await;
        assert_eq!((greeting(&reply), reply.pool.as_str()), (Some("hello you"), pool), "{reply:?}");
    }
    let mut borrowed = execute;
    borrowed["session_id"] = json!("s");
    let reply = host.http.call("execute", "other", &[], &borrowed).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "a body cannot borrow another's session: {reply:?}");
    end(host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_make_no_sense_are_refused_with_the_reason() {
    let host = serving().await;
    let why = json!({ "reason": "test" });
    let bundle = json!({ "bundle": root().join("policies/thresholds"), "reason": "test" });
    let of = |path: &str| format!("/api/v1/migrations/programs/{path}");
    let (post, put, get) = (Method::POST, Method::PUT, Method::GET);
    let table = [
        (&get, "/nothing".to_owned(), json!(null), 404, "/api/v1/status"),
        (&get, "/api/v1/migrations/prompts".into(), json!(null), 404, "there is `programs`"),
        (&post, "/api/v1/migrations/prompts/pause".into(), why.clone(), 404, "there is `programs`"),
        (&post, of("explode"), why.clone(), 404, "there is no verb `explode`"),
        (&post, of("pause"), json!({ "reason": "" }), 400, "say why"),
        (&post, of("pause"), json!({ "reason": " \n" }), 400, "say why"),
        (&post, of("pause"), json!({}), 400, "missing field `reason`"),
        (&post, of("pause"), json!({ "reason": 1 }), 400, "expected a string"),
        (&post, of("pause"), json!({ "reason": "test", "force": true }), 400, "unknown field `force`"),
        (&post, of("pause"), json!("test"), 400, "must be a JSON object"),
        (&post, of("resume"), why.clone(), 409, "only `paused` and `rolled-back` can"),
        (&put, of("flags/shadows"), json!({ "value": true }), 404, "there is no flag `shadows`; the flags are"),
        (&put, of("flags/shadow"), json!({ "value": "no" }), 400, "`shadow` takes `true` or `false`"),
        (&put, of("flags/shadow"), json!({ "reason": "test" }), 400, "missing field `value`"),
        (&put, of("flags/shadow"), json!({ "value": true, "for": "ever" }), 400, "unknown field `for`"),
        (&put, of("flags/gradual_rollout_percentage"), json!({ "value": 101 }), 400, "from 0 to 100, not `101`"),
        (&put, of("policies/judge"), bundle.clone(), 404, "the kinds are routing, adapter"),
        (&put, of("policies/rollback"), json!({ "reason": "test" }), 400, "say which policy"),
        (&put, of("policies/rollback"), json!({ "bundle": "p" }), 400, "missing field `reason`"),
        (
            &put,
            of("policies/rollback"),
            json!({ "bundle": "p", "reason": "r", "digest": "d" }),
            400,
            "unknown field `digest`",
        ),
        (&put, of("policies/stages"), bundle, 422, "is a rollback policy, not stages"),
    ];
    for (method, path, body, status, words) in table {
        let reply = host.http.admin(method.clone(), &path, &body).await;
        assert_eq!(reply.status.as_u16(), status, "{method} {path} {body}: {reply:?}");
        let said = reply.body["error"].as_str().unwrap_or_else(|| panic!("{method} {path}: {reply:?}"));
        assert!(said.contains(words), "{method} {path} {body}: {said}");
    }
    let flags = host.http.admin(get, &of("flags"), &Value::Null).await.body;
    assert!(flags["flags"].as_array().unwrap().iter().all(|flag| flag["source"] == "default"), "{flags}");
    end(host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_something_needs_a_reason() {
    let host = serving().await;
    let bundle = json!({ "bundle": root().join("policies/thresholds"), "reason": " " });
    let reply = host.http.admin(Method::PUT, "/api/v1/migrations/programs/policies/rollback", &bundle).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{reply:?}");
    end(host).await;
}

/// Every route of the admin plane that takes a body, and every one that takes a query or a number.
const BODIES: [(Method, &str); 12] = [
    (Method::POST, "migrations/programs/pause"),
    (Method::POST, "migrations/programs/comparisons/accept"),
    (Method::PUT, "migrations/programs/flags/shadow"),
    (Method::PUT, "migrations/programs/policies"),
    (Method::PUT, "migrations/programs/candidate"),
    (Method::PUT, "migrations/programs/policies/rollback"),
    (Method::PUT, "migrations/programs/policies/rollback/candidate"),
    (Method::DELETE, "migrations/programs/policies/rollback/candidate"),
    (Method::POST, "migrations/programs/policies/rollback/candidate/promote"),
    (Method::POST, "migrations/programs/policies/rollback/revert"),
    (Method::POST, "policies"),
    (Method::POST, "policies/check"),
];
const QUERIES: [&str; 10] = [
    "migrations/programs/decisions?limit=x",
    "migrations/programs/decisions?limit=1&limit=2",
    "migrations/programs/audit?limits=1",
    "migrations/programs/audit?limit=-1",
    "migrations/programs/history?from=yesterday",
    "migrations/programs/history?after=x",
    "migrations/programs/policy-log?before=1.5",
    "migrations/programs/policy-log?kind=judge",
    "policy-calls/first",
    "decisions/%ff",
];

/// A refusal: its status, and its sentence, which names nothing of the code behind it.
fn refused(what: &str, reply: &Reply) -> (u16, String) {
    let (error, code) = (reply.body["error"].as_str(), reply.body["code"].as_str());
    let (Some(error), Some(_)) = (error, code) else { panic!("{what}: {reply:?}") };
    for foreign in ["deserialize", "i64", "u32", "struct", "::", "Failed to"] {
        assert!(!error.contains(foreign), "{what}: {error}");
    }
    (reply.status.as_u16(), error.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_to_the_admin_plane_is_refused_in_one_form_that_says_what_and_where() {
    let host = serving().await;
    let of = |path: &str| format!("http://{}/api/v1/{path}", host.http.admin);
    for (method, path) in BODIES {
        for (body, words) in [
            ("", "is empty"),
            ("[\"because\", \"me\"]", "must be a JSON object"),
            ("reason", "must be a JSON object"),
            ("{\"reason\": ", "EOF"),
            ("{\"reason\": \"x\", \"surprise\": 1}", "`surprise`"),
            ("{\"reason\": 1}", "reason"),
        ] {
            let what = format!("{method} {path} {body}");
            let reply = host.http.send(method.clone(), &of(path), &[], body.to_owned()).await.unwrap();
            let (status, error) = refused(&what, &reply);
            assert!(status == 400 && error.contains(words), "{what}: {status} {error}");
        }
        if !path.starts_with("policies") {
            let large = format!("{{\"reason\": \"{}\"}}", "x".repeat(1 << 20));
            let reply = host.http.send(method.clone(), &of(path), &[], large).await.unwrap();
            assert_eq!(refused(path, &reply).0, 413);
            let text = [("content-type", "text/plain")];
            let reply = host.http.send(method, &of(path), &text, "{}".to_owned()).await.unwrap();
            assert_eq!(refused(path, &reply).0, 415);
        }
    }
    for path in QUERIES {
        let reply = host.http.send(Method::GET, &of(path), &[], String::new()).await.unwrap();
        assert!(matches!(refused(path, &reply).0, 400 | 404), "{path}: {reply:?}");
    }
    let reply = host.http.send(Method::DELETE, &of("status"), &[], String::new()).await.unwrap();
    assert_eq!(refused("DELETE status", &reply).0, 405);
    end(host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_admin_plane_that_are_not_json_are_refused() {
    let host = serving().await;
    let url = format!("http://{}/api/v1/migrations/programs/pause", host.http.admin);
    for (body, status) in [("reason", 400), ("", 400), (&*format!("\"{}\"", "x".repeat(1 << 20)), 413)] {
        let reply = host.http.send(Method::POST, &url, &[], body.to_owned()).await.unwrap();
        assert_eq!(reply.status.as_u16(), status, "{body:.20}: {reply:?}");
        assert!(reply.body["error"].is_string(), "{body:.20}: {reply:?}");
    }
    end(host).await;
}
