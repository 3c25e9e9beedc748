//! Callers who are slow, half-open or greedy, and the others beside them.

use super::*;

/// Sends the beginning of something, and holds on to the connection.
async fn begin(site: &Site, bytes: &str) -> TcpStream {
    let mut stream = site.connect().await;
    // It may be closed at once, to make room.
    drop(stream.write_all(bytes.as_bytes()).await);
    stream
}

/// Whether a connection is closed, or has been answered.
fn has_heard(stream: &TcpStream) -> bool {
    let mut byte = [0];
    !matches!(stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sends_a_byte_and_leaves_holds_nothing() {
    let v1 = Upstream::named("one").await;
    let http = "max_connections = 20\nheader_timeout = '1h'";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    for start in ["P", "", "PRI", "GET / HTTP/1.1\r\nho", "\r\n"] {
        for _ in 0..300 {
            drop(begin(&site, start).await);
        }
        assert_eq!(site.get("/").await.status, 200, "after {start:?}");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_begins_as_one_of_http_2_does_may_come_byte_by_byte() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let stream = site.connect().await;
    stream.set_nodelay(true).unwrap();
    tokio::spawn(async move {
        let (mut from_host, mut to_host) = stream.into_split();
        let (mut from_caller, mut to_caller) = tokio::io::split(theirs);
        let up = async {
            for _ in 0..30 {
                to_host.write_u8(from_caller.read_u8().await?).await?;
                tokio::task::yield_now().await;
            }
            tokio::io::copy(&mut from_caller, &mut to_host).await
        };
        drop(tokio::join!(up, tokio::io::copy(&mut from_host, &mut to_caller)));
    });
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(ours));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://shop/").body(Full::<Bytes>::default()).unwrap();
    assert_eq!(timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap().status(), 200);
    let mut post = site.connect().await;
    for part in ["P", "O", "ST / HTTP/1.1\r\nhost: a\r\n", "content-length: 2\r\n\r\nhi"] {
        post.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(timeout(PATIENCE, head(&mut post)).await.unwrap().starts_with("HTTP/1.1 200 "));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_keeps_the_host_waiting_makes_room_and_who_is_served_does_not() {
    let v1 = Upstream::named("one").await;
    // Nobody is closed because of the time.
    let http = "max_connections = 60\nmax_pending = 40\nheader_timeout = '1h'\nkeep_alive = '1h'\nmin_rate = 0";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut served = Vec::new();
    for _ in 0..5 {
        served.push(site.open(get("/events", &[])).await);
    }
    let (mut slow, mut idle) = (Vec::new(), Vec::new());
    let starts = [
        "",
        "P",
        "GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\nx",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 16000\r\n\r\nx",
    ];
    for at in 0..400 {
        slow.push(begin(&site, starts[at % starts.len()]).await);
        if at % 20 == 0 {
            let mut stream = begin(&site, "GET /status/418 HTTP/1.1\r\nhost: a\r\n\r\n").await;
            assert!(timeout(PATIENCE, head(&mut stream)).await.unwrap().starts_with("HTTP/1.1 418 "));
            idle.push(stream);
        }
    }
    assert_eq!(site.get("/").await.status, 200);
    assert!(slow.iter().filter(|stream| has_heard(stream)).count() >= 300, "the others are too many");
    for stream in served {
        let mut body = stream.into_body();
        for _ in 0..3 {
            timeout(PATIENCE, body.frame()).await.expect("an event").expect("no end").expect("no error");
        }
    }
    drop((slow, idle));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_by_the_drop_has_no_place_at_an_upstream_and_is_refused() {
    let v1 = Upstream::named("one").await;
    let http = "max_requests = 50\nmin_rate = 1000\nmin_rate_grace = '2s'";
    let site = Setup { http, pool: "max_connections = 4\nmax_waiting = 4", ..Setup::of(&[&v1], &[&v1]) };
    let site = site.start().await;
    let mut slow = Vec::new();
    for at in 0..300 {
        let expects = if at % 3 == 0 { "x: y" } else { "accept: */*" };
        let start = format!("POST / HTTP/1.1\r\nhost: a\r\n{expects}\r\ncontent-length: 100000\r\n\r\nx");
        slow.push(begin(&site, &start).await);
    }
    for _ in 0..20 {
        assert_eq!(site.get("/").await.status, 200);
        assert_eq!(site.get_from("v2", "/").await.status, 200);
    }
    for stream in &mut slow {
        let head = timeout(PATIENCE, head(stream)).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 408 ") && head.contains("connection: close"), "{head}");
    }
    let (_, errors, ..) = site.counted("post", 0, 0).await;
    assert_eq!((errors, site.in_flight(0)), (0, 0), "no pool has seen any of them");
    // What has begun has to go on.
    let mut begun = begin(&site, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n").await;
    begun.write_all(&vec![b'x'; 20_000]).await.unwrap();
    eventually("it to begin", async || (site.in_flight(0) == 1).then_some(())).await;
    assert!(timeout(PATIENCE, head(&mut begun)).await.unwrap().starts_with("HTTP/1.1 408 "));
    assert_eq!(site.in_flight(0), 0);
    let (_, errors, ..) = site.counted("post", 0, 0).await;
    assert_eq!(errors, 0, "that is no fault of V1");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_an_answer_by_the_drop_is_cut_off_and_who_takes_it_steadily_gets_all() {
    let v1 = Upstream::named("one").await;
    let http = "min_rate = 200000\nmin_rate_grace = '1s'\nsend_timeout = '1h'";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut slow = begin(&site, "GET /count/5000000 HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let dripping = tokio::spawn(async move {
        let mut some = [0; 512];
        // It takes something all the time.
        while !matches!(slow.read(&mut some).await, Ok(0) | Err(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    eventually("it to begin", async || (site.in_flight(0) == 1).then_some(())).await;
    let all = site.get("/count/500000").await.body.len();
    assert_eq!(all, (0..500_000).map(|n: u32| n.to_string().len() + 1).sum::<usize>());
    eventually("it to be cut off", async || (site.in_flight(0) == 0).then_some(())).await;
    dripping.abort();
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_never_has_all_places_of_a_pool() {
    let v1 = Upstream::named("one").await;
    let migration = "match = [{ host = '*' }]\ndeadline = '1s'";
    let pool = "max_connections = 10\ncaller_share = 50";
    let site = Setup { http: "trust_forwarded = true", migration, pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let of = |caller: &'static str, path: &'static str| get(path, &[("x-forwarded-for", caller)]);
    let mut streams = Vec::new();
    for _ in 0..5 {
        streams.push(site.open(of("10.0.0.1", "/events")).await);
    }
    let (greedy, other) = tokio::join!(site.send(of("10.0.0.1", "/")), site.send(of("10.0.0.2", "/")));
    assert_eq!((greedy.status, greedy.header("retry-after"), other.status), (429, "1", 200), "{greedy:?}");
    assert!(greedy.body.contains("as many requests at shop/v1 as one may have"), "{greedy:?}");
    let (all, errors, ..) = site.counted("get", 0, 6).await;
    assert_eq!((all, errors), (6, 0), "the pool has not failed");
    // Who waits gets a place when one of its own requests has ended.
    let (waits, ()) = tokio::join!(site.send(of("10.0.0.1", "/")), async {
        drop(streams.pop());
    });
    assert_eq!(waits.status, 200);
    site.app.shut_down().await;
}
