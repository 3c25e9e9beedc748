//! How streams end: when V2 is rolled back, when the host stops, and when time is up.

use super::*;

/// The parts of a server-sent stream until its end.
async fn rest(body: Incoming) -> Result<String, hyper::Error> {
    let body = timeout(PATIENCE, body.collect()).await.expect("an end")?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

async fn websocket(site: &Site, pool: &str) -> TokioIo<hyper::upgrade::Upgraded> {
    let headers = [("connection", "upgrade"), ("upgrade", "websocket"), ("x-cutover-pool", pool)];
    let mut reply = site.open(get("/upgrade", &headers)).await;
    assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);
    TokioIo::new(hyper::upgrade::on(&mut reply).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_the_streams_of_v2_cleanly_and_leaves_v1s_alone() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
    let site =
        Setup { pool: "stream_timeout = '100ms'\ndrain_timeout = '20s'", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    site.ask(CommandKind::Advance).await;
    site.until_phase(Phase::Ramping).await;
    let on_v2 = site.open(get("/events", &[("x-cutover-pool", "v2")])).await;
    let mut on_v1 = site.open(get("/events", &[("x-cutover-pool", "v1")])).await;
    assert_eq!(
        (&on_v2.headers()["x-cutover-pool"], &on_v1.headers()["x-cutover-pool"]),
        (&"v2".parse::<hyper::header::HeaderValue>().unwrap(), &"v1".parse::<hyper::header::HeaderValue>().unwrap())
    );
    let mut socket = websocket(&site, "v2").await;
    // Half of a frame of ten bytes: the close must wait for the other half, or take its place after it.
    socket.write_all(&[0x82, 0x8a, 0, 0, 0, 0, 1, 2, 3, 4, 5]).await.unwrap();
    let mut half = [0; 11];
    timeout(PATIENCE, socket.read_exact(&mut half)).await.unwrap().unwrap();

    site.ask(CommandKind::Rollback).await;
    let events = rest(on_v2.into_body()).await.expect("a clean end");
    assert!(events.ends_with("\n\n") && events.starts_with("id: 0\n"), "whole events");
    // New work is V1's at once.
    assert_eq!(site.get_from("v2", "/").await.header("x-cutover-pool"), "v1");

    // The upstream echoes what it gets: the rest of the frame, and then the host's own close frame to it.
    socket.write_all(&[6, 7, 8, 9, 10]).await.unwrap();
    let mut end = Vec::new();
    timeout(PATIENCE, socket.read_to_end(&mut end)).await.expect("an end").unwrap();
    assert_eq!(&end[..5], [6, 7, 8, 9, 10]);
    assert!(end.ends_with(&[0x88, 0x02, 0x03, 0xe9]), "a close frame with 1001: {end:x?}");

    for _ in 0..20 {
        timeout(PATIENCE, on_v1.body_mut().frame()).await.unwrap().expect("V1's stream goes on").unwrap();
    }
    eventually("V2 to be idle", async || (site.in_flight(1) == 0).then_some(())).await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_stream_of_events_is_never_cut_as_if_it_were_whole() {
    let slow = Upstream::saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    let good = Upstream::named("one").await;
    let site = Setup { pool: "stream_timeout = '50ms'\ndrain_timeout = '100ms'", ..Setup::of(&[&good], &[&slow]) }
        .start()
        .await;
    let body = site.open(get("/", &[("x-cutover-pool", "v2")])).await.into_body();
    site.ask(CommandKind::Rollback).await;
    let cut = rest(body).await;
    assert!(cut.is_err(), "{cut:?}");
    let (_, errors, ..) = site.counted("get", 1, 1).await;
    assert_eq!(errors, 0, "it was the host that cut it");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_rollback_gives_up_what_is_in_flight_at_once() {
    let (good, silent) = (Upstream::named("one").await, Upstream::saying(b"").await);
    let migration = "match = [{ host = '*' }]\ndeadline = '20s'";
    let pool = "stream_timeout = '1h'\ndrain_timeout = '1h'";
    let site = Setup { migration, pool, ..Setup::of(&[&good], &[&silent]) }.start().await;
    let mut request = post("/", "abc");
    request.headers_mut().insert("x-cutover-pool", "v2".parse().unwrap());
    let (reply, ()) = tokio::join!(site.send(request), async {
        eventually("it to be sent", async || (site.in_flight(1) == 1).then_some(())).await;
        site.ask(CommandKind::EmergencyRollback).await;
    });
    assert_eq!((reply.status, reply.header("x-cutover-pool")), (503, "v2"), "{reply:?}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_stops_lets_requests_end_and_streams_end_cleanly() {
    let v1 = Upstream::named("one").await;
    let site =
        Setup { pool: "stream_timeout = '100ms'\ndrain_timeout = '20s'", ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let events = site.open(get("/events", &[])).await;
    let mut socket = websocket(&site, "v1").await;
    let slow = try_open(site.address, get("/slow/500", &[]));
    let pool = site.pool(0);
    let (slow, ended, closed, ()) = tokio::join!(
        slow,
        rest(events.into_body()),
        async {
            let mut end = Vec::new();
            timeout(PATIENCE, socket.read_to_end(&mut end)).await.expect("an end").unwrap();
            end
        },
        async {
            eventually("all to be under way", async || (pool.in_flight() == 3).then_some(())).await;
            site.app.shut_down().await;
        },
    );
    assert_eq!(slow.unwrap().status(), 200);
    assert!(ended.expect("a clean end").ends_with("\n\n"));
    assert!(closed.ends_with(&[0x88, 0x02, 0x03, 0xe9]), "{closed:x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_callers_are_told_to_go_away() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let io = TokioIo::new(site.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("http://shop/slow/300").body(Full::<Bytes>::default()).unwrap();
    let pool = site.pool(0);
    let (reply, ()) = tokio::join!(sender.send_request(request), async {
        eventually("it to be under way", async || (pool.in_flight() == 1).then_some(())).await;
        site.app.shut_down().await;
    });
    assert_eq!(reply.unwrap().status(), 200, "what is in flight ends");
    timeout(PATIENCE, connection).await.expect("GOAWAY ends the connection").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_limit_if_one_is_set() {
    let v1 = Upstream::named("one").await;
    let site = Setup { pool: "total_timeout = '300ms'", ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let cut = rest(site.open(get("/events", &[])).await.into_body()).await;
    assert!(cut.is_err(), "{cut:?}");
    assert_eq!(site.get("/").await.status, 200);
    site.app.shut_down().await;
}
