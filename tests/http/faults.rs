//! What upstreams may do to a request, and what the caller gets.

use cutover_traffic::pool::upstream::upload::SHORT;
use tokio::io::sink;

use super::*;

/// What callers wait for a head at most.
const DEADLINE: &str = "match = [{ host = '*' }]\ndeadline = '1s'";

/// An address at which nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// An upstream that is broken in a way, and what becomes of requests.
struct Broken {
    upstream: Upstream,
    /// The status of an answer that V1 gives.
    status: u16,
    /// Whether the body is cut.
    cut: bool,
}

async fn broken() -> Vec<(&'static str, Broken)> {
    let saying = async |bytes, status, cut| Broken { upstream: Upstream::saying(bytes).await, status, cut };
    let resets = Upstream::raw(|mut stream| async move {
        head(&mut stream).await;
        // Closing with something unread resets.
        stream.set_zero_linger().unwrap();
    })
    .await;
    let closes = Upstream::raw(|mut stream| async move { drop(head(&mut stream).await) }).await;
    let endless = Upstream::raw(|mut stream| async move {
        head(&mut stream).await;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\n").await);
        while stream
            .write_all(b"x-endless: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n")
            .await
            .is_ok()
        {}
    })
    .await;
    let half = Upstream::raw(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
    })
    .await;
    vec![
        ("it resets", Broken { upstream: resets, status: 502, cut: false }),
        ("it closes", Broken { upstream: closes, status: 502, cut: false }),
        ("it says nothing", saying(b"", 504, false).await),
        ("it says nonsense", saying(b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", 502, false).await),
        ("it ends in its head", saying(b"HTTP/1.1 200 OK\r\ncontent-le", 504, false).await),
        ("its head never ends", Broken { upstream: endless, status: 502, cut: false }),
        (
            "its lengths differ",
            saying(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", 502, false).await,
        ),
        ("it closes in the body", Broken { upstream: half, status: 200, cut: true }),
        ("it stalls in the body", saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", 200, true).await),
        (
            "its chunks are none",
            saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 200, true).await,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_v1_costs_its_caller_an_error_in_time() {
    for (what, Broken { upstream, status, cut }) in broken().await {
        let site = Setup {
            migration: DEADLINE,
            pool: "idle_timeout = '1s'\nretries = 0",
            ..Setup::of(&[&upstream], &[&upstream])
        };
        let site = site.start().await;
        let asked = cutover_model::clock::mono();
        // What is cut at once may be cut before its head is sent.
        let was_cut = match try_open(site.address, get("/", &[])).await {
            Err(_) => true,
            Ok(reply) => {
                assert_eq!(
                    (reply.status().as_u16(), &reply.headers()["x-cutover-pool"]),
                    (status, &"v1".parse::<hyper::header::HeaderValue>().unwrap()),
                    "{what}"
                );
                timeout(PATIENCE, reply.collect()).await.expect("an end").is_err()
            }
        };
        assert_eq!(was_cut, cut, "{what}");
        assert!(cutover_model::clock::mono().since(asked) < Duration::from_secs(5), "{what}");
        let (all, errors, ..) = site.counted("get", 0, 1).await;
        assert_eq!((all, errors), (1, 1), "{what}");
        assert_eq!(site.in_flight(0), 0, "{what}");
        site.app.shut_down().await;
    }
}

/// Callers give up long before the host does, and what they were kept waiting for is no success.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stands_still_until_its_caller_gives_up_is_a_failure() {
    let stalls = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let reads_on = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (answer, waits, failed) in [(stalls, 1_200, 1), (stalls, 10, 0), (reads_on, 1_200, 1), (reads_on, 10, 0)] {
        let upstream = Upstream::saying(answer.as_bytes()).await;
        let site = Setup::of(&[&upstream], &[&upstream]).start().await;
        let mut body = site.open(get("/", &[])).await.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        assert!(timeout(Duration::from_millis(waits), body.frame()).await.is_err(), "nothing comes");
        drop(body);
        let (all, errors, timeouts, _) = site.counted("get", 0, 1).await;
        assert_eq!((all, errors, timeouts), (1, failed, failed), "{answer:?} {waits}");
        site.app.shut_down().await;
    }
}

/// A pool that lets everybody wait has failed them, also if none of them waits until the host would give up.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_before_its_answer_is_counted_by_how_long_it_waited() {
    for (waits, failed) in [(1_200, 1), (100, 0)] {
        let (good, silent) = (Upstream::named("one").await, Upstream::saying(b"").await);
        let migration = "match = [{ host = '*' }]\ndeadline = '1h'";
        let site = Setup { migration, ..Setup::of(&[&good], &[&silent]) }.start().await;
        let asked = try_open(site.address, get("/", &[("x-cutover-pool", "v2")]));
        assert!(timeout(Duration::from_millis(waits), asked).await.is_err(), "nothing comes");
        let (all, errors, timeouts, failed_over) = site.counted("get", 1, 1).await;
        assert_eq!((all, errors, timeouts, failed_over), (1, failed, failed, 0), "{waits}");
        let totals = site.app.host.migrations["shop"].history.totals();
        assert_eq!(totals.answers.get(&("v2.4xx", "get".to_owned())).copied().unwrap_or(0), 1 - failed);
        let slowest = totals.operations["get"][1].latency.quantile_us(1_000_000).unwrap_or(u64::MAX);
        assert!(failed == 1 || slowest >= 90_000, "it took at least as long as its caller waited: {slowest}");
        site.app.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_answers_what_a_broken_v2_does_not() {
    let good = Upstream::named("one").await;
    for (what, Broken { upstream, cut, .. }) in broken().await {
        let site = Setup { migration: DEADLINE, pool: "idle_timeout = '1s'", ..Setup::of(&[&good], &[&upstream]) }
            .start()
            .await;
        let reply = try_open(site.address, get("/", &[("x-cutover-pool", "v2")])).await;
        if cut {
            // A body that has begun cannot be answered by somebody else.
            let whole = async { reply?.collect().await };
            assert!(timeout(PATIENCE, whole).await.expect("an end").is_err(), "{what}");
        } else {
            let reply = reply.unwrap();
            let said = |name: &str| reply.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(
                (reply.status().as_u16(), said("x-cutover-pool"), said("x-cutover-reason")),
                (200, "v1".into(), "failover".into()),
                "{what}"
            );
        }
        let (all, errors, _, failed_over) = site.counted("get", 1, 1).await;
        assert_eq!((all, errors, failed_over), (1, 1, u64::from(!cut)), "{what}");
        site.app.shut_down().await;
    }
    let refusing = Setup { v2: vec![nobody().await], ..Setup::of(&[&good], &[&good]) };
    let site = refusing.start().await;
    for request in [get("/", &[("x-cutover-pool", "v2")]), post("/", "abc")] {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("x-cutover-pool", "v2".parse().unwrap());
        let reply = site.send(Request::from_parts(parts, body)).await;
        assert_eq!(
            (reply.status, reply.header("x-cutover-reason")),
            (200, "failover"),
            "what was never sent is sent elsewhere"
        );
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_answers_for_a_v2_that_is_silent_whatever_carries_the_request() {
    let silent = Upstream::raw(|mut stream| async move { drop(tokio::io::copy(&mut stream, &mut sink()).await) }).await;
    let good = Upstream::http2_too("one", true).await;
    let site = Setup { migration: DEADLINE, pool: "http2 = true", ..Setup::of(&[&good], &[&silent]) }.start().await;
    let reply = site.get_from("v2", "/").await;
    assert_eq!((reply.status, reply.header("x-cutover-reason")), (200, "failover"), "over HTTP/2");
    site.app.shut_down().await;
    // And over a connection of HTTP/1.1 that a body has gone over.
    let once = Upstream::raw(|mut stream| async move {
        head(&mut stream).await;
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
        drop(tokio::io::copy(&mut stream, &mut sink()).await);
    });
    let (good, once) = (Upstream::named("one").await, once.await);
    let site = Setup { migration: DEADLINE, pool: "retries = 0", ..Setup::of(&[&good], &[&once]) }.start().await;
    // From one caller, so that one thread has both, and the connection that the first has left.
    let io = TokioIo::new(site.connect().await);
    let (mut caller, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for (request, fails_over) in [(post("/", "abc"), false), (get("/", &[]), true)] {
        let (mut parts, body) = request.into_parts();
        parts.headers.insert("x-cutover-pool", "v2".parse().unwrap());
        // For such a one the body is passed on as it comes.
        parts.headers.insert("te", "trailers".parse().unwrap());
        timeout(PATIENCE, caller.ready()).await.unwrap().unwrap();
        let reply = timeout(PATIENCE, caller.send_request(Request::from_parts(parts, body))).await.unwrap().unwrap();
        assert_eq!((reply.status(), reply.headers()["x-cutover-reason"] == "failover"), (StatusCode::OK, fails_over));
        reply.into_body().collect().await.unwrap();
    }
    assert_eq!(site.counted("get", 1, 1).await, (1, 1, 1, 1));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_of_v2_that_is_a_failure_is_answered_by_v1_for_reads_only() {
    let failing = Upstream::saying(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let good = Upstream::named("one").await;
    let site = Setup::of(&[&good], &[&failing]).start().await;
    let read = site.get_from("v2", "/").await;
    assert_eq!((read.status, read.header("x-cutover-pool"), read.header("x-cutover-reason")), (200, "v1", "failover"));
    let mut written = post("/", "abc");
    written.headers_mut().insert("x-cutover-pool", "v2".parse().unwrap());
    let written = site.send(written).await;
    assert_eq!((written.status, written.header("x-cutover-pool")), (500, "v2"));
    assert_eq!(site.counted("get", 1, 1).await, (1, 1, 0, 1));
    assert_eq!(site.counted("post", 1, 1).await, (1, 1, 0, 0));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_v1_answers_in_v2_s_place_is_no_sample_of_its_statuses() {
    let failing = Upstream::saying(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let missing = Upstream::saying(b"HTTP/1.1 404 Nothing\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let site = Setup::of(&[&missing], &[&failing]).start().await;
    let own = site.get_from("v1", "/").await;
    assert_eq!((own.status, own.header("x-cutover-reason")), (404, "override-v1"));
    let failed_over = site.get_from("v2", "/").await;
    assert_eq!((failed_over.status, failed_over.header("x-cutover-reason")), (404, "failover"));
    assert_eq!(site.counted("get", 0, 2).await, (2, 0, 0, 0), "it is a call all the same");
    let totals = site.app.host.migrations["shop"].history.totals();
    assert_eq!(totals.answers.get(&("v1.4xx", "get".to_owned())), Some(&1));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_safe_to_repeat_is_sent_again() {
    let (heads, mut seen) = mpsc::channel(64);
    // Closes every connection after it has read a head.
    let closing = Upstream::raw(move |mut stream| {
        let heads = heads.clone();
        async move { heads.send(head(&mut stream).await).await.unwrap() }
    })
    .await;
    let migration = "match = [{ host = '*' }]\n[migrations.shop.operations]\n\
                     search = { class = 'read', methods = ['POST'], path = '/search' }\n\
                     get = { class = 'read' }\n\
                     bump = { class = 'exclusive', methods = ['GET'], path = '/bump' }";
    let pool = "retries = 2\nejection = { failures = 1000 }";
    let site = Setup { migration, pool, ..Setup::of(&[&closing], &[&closing]) }.start().await;
    let tries = async |request: Request<Full<Bytes>>, seen: &mut mpsc::Receiver<String>| {
        assert_eq!(site.send(request).await.status, 502);
        let mut tries = 0;
        while seen.try_recv().is_ok() {
            tries += 1;
        }
        tries
    };
    assert_eq!(tries(get("/", &[]), &mut seen).await, 3);
    assert_eq!(tries(Request::delete("/").header("host", "a").body(Full::default()).unwrap(), &mut seen).await, 3);
    assert_eq!(tries(post("/", ""), &mut seen).await, 1, "POST is not idempotent");
    assert_eq!(tries(post("/search", "x"), &mut seen).await, 3, "but a read is");
    assert_eq!(tries(get("/bump", &[]), &mut seen).await, 1, "GET is not, if somebody says so");
    assert_eq!(tries(post("/search", vec![b'x'; SHORT + 1]), &mut seen).await, 1, "a long body is gone");
    let put = Request::put("/").header("host", "a").body(Full::from("x")).unwrap();
    assert_eq!(tries(put, &mut seen).await, 1, "whatever its body");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_while_it_waited_costs_no_answer() {
    // Answers once on each connection, and closes it without having said so.
    let once = Upstream::raw(|mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let pool = "retry_budget = 100\nejection = { failures = 1000 }";
    let site = Setup { pool, ..Setup::of(&[&once], &[&once]) }.start().await;
    for _ in 0..50 {
        assert_eq!(site.get("/").await.status, 200);
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_is_not_v1s_fault() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let mut stream = site.connect().await;
    // More than is waited for before V1 is asked.
    let half = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n{}", "x".repeat(50_000));
    stream.write_all(half.as_bytes()).await.unwrap();
    eventually("it to begin", async || (site.in_flight(0) == 1).then_some(())).await;
    drop(stream);
    eventually("it to end", async || (site.in_flight(0) == 0).then_some(())).await;
    let reply = site.open(get("/events", &[])).await;
    drop(reply);
    eventually("the stream to end", async || (site.in_flight(0) == 0).then_some(())).await;
    assert_eq!(site.get("/").await.status, 200);
    let (_, errors, ..) = site.counted("get", 0, 2).await;
    let (_, posted, ..) = site.counted("post", 0, 0).await;
    assert_eq!((errors, posted), (0, 0));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_request_has_its_time_and_the_answer_to_it_has_another() {
    let v1 = Upstream::named("one").await;
    let setup = Setup::of(&[&v1], &[&v1]);
    let migration = "match = [{ host = '*' }]\ndeadline = '1h'";
    let site = Setup { migration, pool: "total_timeout = '300ms'", ..setup }.start().await;
    // A body that comes in by the byte, always within `idle_timeout`, and has no end.
    let mut stream = site.connect().await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    let answered = async {
        loop {
            tokio::select! {
                ready = stream.readable() => {
                    ready.unwrap();
                    return stream.read_exact(&mut status).await;
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
            stream.write_all(b"x").await.unwrap();
        }
    };
    timeout(PATIENCE, answered).await.expect("an answer long before the deadline").unwrap();
    assert_eq!(&status, b"HTTP/1.1 408", "it is the caller that is slow");
    // An answer that takes longer than a body may, to one that was whole at once.
    let request = Request::post("/slow/900").header("host", "a").body(Full::new(Bytes::from("whole"))).unwrap();
    assert_eq!(site.send(request).await.status, 200);
    site.app.shut_down().await;
}

/// V1 was asked, and was no help.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_both_fail_is_failed_over_by_nobody() {
    let fails = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
    for (v1_fails, failed_over) in [(false, 1), (true, 0)] {
        let v1 = if v1_fails { Upstream::saying(fails).await } else { Upstream::named("one").await };
        let v2 = Upstream::saying(fails).await;
        let site = Setup::of(&[&v1], &[&v2]).start().await;
        let reply = site.open(get("/", &[("x-cutover-pool", "v2")])).await;
        assert_eq!(reply.status(), if v1_fails { 500 } else { 200 });
        assert_eq!(reply.headers()["x-cutover-reason"], "failover");
        let (all, errors, _, over) = site.counted("get", 1, 1).await;
        assert_eq!((all, errors, over), (1, 1, failed_over));
        site.app.shut_down().await;
    }
}

/// Where V1 may have to answer, a part of the time is V1's.
#[tokio::test(flavor = "multi_thread")]
async fn a_v2_that_takes_all_of_the_time_leaves_v1_its_part() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::saying(b"").await);
    let site = Setup { migration: DEADLINE, ..Setup::of(&[&v1], &[&v2]) }.start().await;
    let reply = site.open(get("/", &[("x-cutover-pool", "v2")])).await;
    assert_eq!((reply.status().as_u16(), reply.headers()["x-cutover-pool"].to_str().unwrap()), (200, "v1"));
    let (all, errors, timeouts, over) = site.counted("get", 1, 1).await;
    assert_eq!((all, errors, timeouts, over), (1, 1, 1, 1));
    site.app.shut_down().await;
}
