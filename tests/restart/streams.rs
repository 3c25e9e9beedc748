//! Long exchanges across a step of the ramp and a restart. Across a rollback: `http/drain.rs`.

use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

type Socket = TokioIo<hyper::upgrade::Upgraded>;

async fn events(hosts: &Hosts) -> hyper::Response<Incoming> {
    let reply = hosts.connect().await.open(get("/events", &[("x-cutover-pool", "v1")])).await.unwrap();
    assert_eq!(reply.headers()["x-cutover-pool"], "v1");
    reply
}

async fn websocket(hosts: &Hosts) -> Socket {
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("x-cutover-pool", "v2")];
    let mut reply = hosts.connect().await.open(get("/upgrade", &headers)).await.unwrap();
    assert_eq!(
        (reply.status(), reply.headers()["x-cutover-pool"].as_bytes()),
        (StatusCode::SWITCHING_PROTOCOLS, &b"v2"[..])
    );
    TokioIo::new(hyper::upgrade::on(&mut reply).await.unwrap())
}

/// Both are as alive as before.
async fn both_go_on(events: &mut hyper::Response<Incoming>, socket: &mut Socket) {
    for _ in 0..10 {
        timeout(PATIENCE, events.body_mut().frame()).await.unwrap().expect("the stream goes on").unwrap();
    }
    // A frame of four bytes, which the upstream echoes.
    let frame = [0x82, 0x84, 0, 0, 0, 0, 1, 2, 3, 4];
    socket.write_all(&frame).await.unwrap();
    let mut echoed = [0; 10];
    timeout(PATIENCE, socket.read_exact(&mut echoed)).await.unwrap().unwrap();
    assert_eq!(echoed, frame);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_live_through_a_ramp_and_a_restart_and_end_cleanly_when_their_time_is_up() {
    let mut hosts =
        Plan { programs: false, pool: "stream_timeout = '6s'\ndrain_timeout = '60s'", http: "" }.start().await;
    let (mut events, mut socket) = (events(&hosts).await, websocket(&hosts).await);
    both_go_on(&mut events, &mut socket).await;
    hosts.order("shop", "advance").await;
    both_go_on(&mut events, &mut socket).await;
    hosts.replace().await;
    both_go_on(&mut events, &mut socket).await;
    assert!(!has_ended(hosts.pids[0]), "the old host has them");
    assert_eq!(hosts.connect().await.send(get("/", &[])).await.unwrap().0, 200);

    let rest = timeout(PATIENCE, events.into_body().collect()).await.expect("an end").expect("a clean end");
    assert!(rest.to_bytes().ends_with(b"\n\n"), "whole events");
    let mut end = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut end)).await.expect("an end").unwrap();
    assert!(end.ends_with(&[0x88, 0x02, 0x03, 0xe9]), "a close frame with 1001: {end:x?}");
    hosts.until_ended(0).await;
    assert_eq!(hosts.first.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_way_ends_where_it_is_or_moves_as_it_is() {
    let mut hosts =
        Plan { programs: false, pool: "stream_timeout = '60s'\ndrain_timeout = '60s'", http: "" }.start().await;
    // Half of a head, some of it read by the old host; a connection without a byte; and requests under way over HTTP/1.1
    // and HTTP/2.
    let mut half = TcpStream::connect(&hosts.http.data_plane).await.unwrap();
    half.write_all(b"GET /status/201 HT").await.unwrap();
    let mut silent = hosts.connect().await;
    let (mut slow, mut plain) = (hosts.connect().await, hosts.connect().await);
    let io = TokioIo::new(TcpStream::connect(&hosts.http.data_plane).await.unwrap());
    let (mut http2, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://shop/slow/2000").body(Full::<Bytes>::default()).unwrap();
    let under_way = http2.send_request(request);
    let slow = tokio::spawn(async move {
        let first = slow.send(get("/slow/2000", &[])).await;
        (first, slow)
    });
    assert_eq!(plain.send(get("/", &[])).await.unwrap().0, 200);
    hosts.replace().await;
    half.write_all(b"TP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, half.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(silent.send(get("/", &[])).await.unwrap().0, 200);
    assert_eq!(under_way.await.unwrap().status(), 200);
    timeout(PATIENCE, connection).await.expect("GOAWAY ends the connection").unwrap().unwrap();
    let (first, mut slow) = slow.await.unwrap();
    assert_eq!(first.unwrap().0, 200);
    hosts.until_ended(0).await;
    assert_eq!(slow.send(get("/", &[])).await.unwrap().0, 200, "it moved when its request had ended");
    assert_eq!(plain.send(get("/", &[])).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_moves_after_a_body_and_never_in_the_middle_of_one() {
    let pool = "stream_timeout = '60s'\ndrain_timeout = '60s'\nidle_timeout = '8s'";
    let mut hosts = Plan { programs: false, pool, http: "" }.start().await;
    let half = async |method: &str| {
        let mut stream = TcpStream::connect(&hosts.http.data_plane).await.unwrap();
        let part = format!("{method} / HTTP/1.1\r\nhost: shop.example\r\ncontent-length: 6\r\n\r\nhal");
        stream.write_all(part.as_bytes()).await.unwrap();
        stream
    };
    // One of a read, whose rest is waited for before anybody is asked, and one that is passed on as it comes.
    let mut both = [half("GET").await, half("POST").await];
    let mut never = half("GET").await;
    // And one that is answered before its body is there, right when the connection is to move.
    let mut refusing = TcpStream::connect(&hosts.http.data_plane).await.unwrap();
    let refused = |length: usize| {
        format!("TRACE / HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\nte: x\r\ncontent-length: {length}\r\n\r\nhalf")
    };
    // More than hyper serves at once.
    let all = format!("GET /slow/3000 HTTP/1.1\r\nhost: a\r\n\r\n{}{}", refused(4).repeat(20), refused(90_000));
    refusing.write_all(all.as_bytes()).await.unwrap();
    hosts.replace().await;
    for stream in &mut both {
        stream.write_all(b"ves").await.unwrap();
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    let mut refused = String::new();
    timeout(PATIENCE, never.read_to_string(&mut refused)).await.expect("nobody else gets half a body").unwrap();
    assert!(refused.starts_with("HTTP/1.1 408"), "{refused}");
    let mut refused = Vec::new();
    // It may be reset, with what was not read.
    drop(timeout(PATIENCE, refusing.read_to_end(&mut refused)).await.expect("nor the rest of this one"));
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.starts_with("HTTP/1.1 200"), "{refused}");
    assert_eq!(refused.matches("HTTP/1.1 405 ").count(), 21, "{refused}");
    hosts.until_ended(0).await;
    for mut stream in both {
        stream.write_all(b"GET /status/201 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut rest = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert!(rest.contains("HTTP/1.1 201 "), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_replaced_while_another_drains_passes_on_what_comes_from_that() {
    let mut hosts =
        Plan { programs: false, pool: "stream_timeout = '1h'\ndrain_timeout = '1h'", http: "" }.start().await;
    let events = events(&hosts).await;
    let mut slow = hosts.connect().await;
    let slow = tokio::spawn(async move {
        let first = slow.send(get("/slow/4000", &[("x-cutover-pool", "v1")])).await;
        (first, slow)
    });
    eventually("it to be under way", async || {
        let pools = hosts.http.admin(Method::GET, "/api/v1/migrations/shop/pools", &Value::Null).await.body;
        pools.to_string().contains("\"in_flight\":2").then_some(())
    })
    .await;
    hosts.replace().await;
    hosts.replace().await;
    assert!(
        !has_ended(hosts.pids[0]) && !has_ended(hosts.pids[1]),
        "the first has a stream, the second waits for the first"
    );
    let (first, mut slow) = slow.await.unwrap();
    assert_eq!(first.unwrap().0, 200);
    hosts.until_handed_over(1).await;
    assert_eq!(slow.send(get("/", &[])).await.unwrap().0, 200);
    drop(events);
    hosts.until_ended(0).await;
    hosts.until_ended(1).await;
    assert_eq!(slow.send(get("/", &[])).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_host_that_is_killed_while_it_drains_hurts_nobody_else() {
    let mut hosts =
        Plan { programs: false, pool: "stream_timeout = '1h'\ndrain_timeout = '1h'", http: "" }.start().await;
    let mut events = events(&hosts).await;
    let mut kept = hosts.connect().await;
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    hosts.replace().await;
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    timeout(PATIENCE, events.body_mut().frame()).await.unwrap().expect("the stream goes on").unwrap();
    // What is at rest is the successor's by now.
    hosts.until_handed_over(1).await;
    kill(hosts.pids[0], Signal::KILL);
    hosts.until_ended(0).await;
    assert!(timeout(PATIENCE, events.into_body().collect()).await.expect("an end").is_err(), "it is cut visibly");
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    hosts.order("shop", "rollback").await;
    let before = hosts.log().len();
    hosts.signal(Signal::TERM);
    hosts.until_ended(1).await;
    assert!(hosts.log().split_off(before).contains("stopped"));
}
