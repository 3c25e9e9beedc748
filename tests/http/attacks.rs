//! Requests that mean to be read in two ways, or to hold the host up.

use super::*;

/// What an upstream has been sent, connection by connection.
async fn recording() -> (Upstream, mpsc::Receiver<String>) {
    let (seen, requests) = mpsc::channel(64);
    let upstream = Upstream::raw(move |mut stream| {
        let seen = seen.clone();
        async move {
            loop {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let length =
                    head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |l| l.parse().unwrap());
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let body = String::from_utf8(body).unwrap();
                let chunks = if head.contains("chunked") { chunks(&mut stream).await } else { String::new() };
                seen.send(format!("{head}{body}{chunks}")).await.unwrap();
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, requests)
}

async fn chunks(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    while !all.ends_with(b"0\r\n\r\n") {
        all.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_in_two_ways_is_refused() {
    let (upstream, mut requests) = recording().await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    for (what, bytes) in [
        ("two lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        ("a length that is none", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na"),
        ("a list of lengths", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 2\r\n\r\nab"),
        (
            "chunks that are not last",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        ),
        (
            "an encoding that is almost chunked",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        ("chunks in HTTP/1.0", "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("a blank before the colon", "GET / HTTP/1.1\r\nhost: a\r\ncontent-length : 3\r\n\r\nabc"),
        ("a folded line", "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\r\n c\r\n\r\n"),
        ("a lone return", "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\rx-c: d\r\n\r\n"),
        ("a nul", "GET / HTTP/1.1\r\nhost: a\r\nx-a: b\0c\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\n\r\n"),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
        ("a host that is none", "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n"),
        ("a user in the target", "GET http://user@a/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("another scheme", "GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("a line that is none", "GET /\r\nhost: a\r\n\r\n"),
        ("a version that is none", "GET / HTTP/9.9\r\nhost: a\r\n\r\n"),
    ] {
        let reply = site.raw(bytes.replace("HTTP/1.1\r\nhost", "HTTP/1.1\r\nconnection: close\r\nhost")).await;
        let is_refused = reply.starts_with("HTTP/1.1 400 ") || reply.starts_with("HTTP/1.0 400 ") || reply.is_empty();
        assert!(is_refused, "{what}: {reply}");
        assert!(requests.try_recv().is_err(), "{what} reached the upstream");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rfcs_let_pass_is_passed_on_in_one_way_only() {
    let (upstream, mut requests) = recording().await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;

    // A length besides chunks: the chunks count (RFC 9112, 6.3), and the connection is not used again.
    let smuggled = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let reply = site.raw(smuggled).await;
    assert_eq!(reply.matches("HTTP/1.1 200 OK").count(), 1, "{reply}");
    assert!(reply.contains("connection: close"), "{reply}");
    let seen = requests.recv().await.unwrap();
    assert!(!seen.contains("content-length") && !seen.contains("smuggled"), "{seen}");

    // The same length twice is one length.
    let twice = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab";
    assert!(site.raw(twice).await.starts_with("HTTP/1.1 200 "));
    let seen = requests.recv().await.unwrap();
    assert_eq!(seen.matches("content-length: 2\r\n").count(), 1, "{seen}");

    // Lines may end with a line feed alone (RFC 9112, 2.2); they do not when they are passed on.
    assert!(site.raw("GET /bare HTTP/1.1\nhost: a\nconnection: close\n\n").await.starts_with("HTTP/1.1 200 "));
    let seen = requests.recv().await.unwrap();
    assert!(seen.lines().count() > 2 && !seen.replace("\r\n", "").contains('\n'), "{seen:?}");

    // The target goes before the header (RFC 9112, 3.2.2).
    let absolute = "GET http://shop.example/x?y HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n";
    assert!(site.raw(absolute).await.starts_with("HTTP/1.1 200 "));
    let seen = requests.recv().await.unwrap();
    assert!(seen.starts_with("GET /x?y HTTP/1.1\r\n") && seen.contains("host: shop.example\r\n"), "{seen}");
    assert!(!seen.contains("evil"), "{seen}");

    // What the connection names stays behind, but no caller can name what the message is made of.
    let named = "GET / HTTP/1.1\r\nhost: a\r\nx-internal: 1\r\nconnection: close, x-internal, host\r\n\r\n";
    assert!(site.raw(named).await.starts_with("HTTP/1.1 200 "));
    let seen = requests.recv().await.unwrap();
    assert!(seen.contains("host: a\r\n") && !seen.contains("x-internal") && !seen.contains("connection:"), "{seen}");

    // Two requests at once are two requests.
    let both = "GET /1 HTTP/1.1\r\nhost: a\r\n\r\nGET /2 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert_eq!(site.raw(both).await.matches("HTTP/1.1 200 OK").count(), 2);
    for path in ["/1", "/2"] {
        assert!(requests.recv().await.unwrap().starts_with(&format!("GET {path} ")));
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let with = |lines: String| format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n");
    let large = with(format!("x-large: {}\r\n", "x".repeat(40_000)));
    assert!(site.raw(large).await.starts_with("HTTP/1.1 200 "));
    for lines in [format!("x-large: {}\r\n", "x".repeat(100_000)), "x-many: 1\r\n".repeat(200)] {
        assert!(site.raw(with(lines)).await.starts_with("HTTP/1.1 431 "));
    }
    let long = site.raw(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000))).await;
    assert!(long.starts_with("HTTP/1.1 414 ") || long.starts_with("HTTP/1.1 431 "), "{long}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_answers_for_itself_where_it_is_no_proxy() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let tunnel = site.raw("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\nconnection: close\r\n\r\n").await;
    assert!(tunnel.starts_with("HTTP/1.1 501 "), "{tunnel}");
    let trace = |left: u32| format!("TRACE / HTTP/1.1\r\nhost: a\r\nmax-forwards: {left}\r\nconnection: close\r\n\r\n");
    assert!(site.raw(trace(0)).await.starts_with("HTTP/1.1 405 "));
    assert!(site.raw(trace(3)).await.contains(r#""max-forwards":"2""#));
    let options = "OPTIONS * HTTP/1.1\r\nhost: a\r\nmax-forwards: 0\r\nconnection: close\r\n\r\n";
    assert!(site.raw(options).await.starts_with("HTTP/1.1 204 "));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_are_slow_do_not_keep_others_out() {
    let v1 = Upstream::named("one").await;
    let http = "header_timeout = '500ms'\nkeep_alive = '1s'\nmax_connections = 100";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    // Each sends a byte of a head now and then; together they have every connection that there may be.
    let slow = (0..150).map(|n| {
        let address = site.address;
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let start: &[u8] = if n % 3 == 0 { b"" } else { b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: " };
            drop(stream.write_all(start).await);
            let mut reply = [0; 1];
            loop {
                tokio::select! {
                    read = stream.read(&mut reply) => return read,
                    () = tokio::time::sleep(Duration::from_millis(100)) => drop(stream.write_all(b"x").await),
                }
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    for _ in 0..5 {
        assert_eq!(site.get("/").await.status, 200);
    }
    for caller in slow {
        let closed = timeout(PATIENCE, caller).await.expect("a slow caller is closed").unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    }
    // A connection that waits for its next request is closed, too.
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("it is closed").unwrap();
    assert!(all.starts_with(b"HTTP/1.1 200 "));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_takes_nothing_is_cut_off() {
    let v1 = Upstream::named("one").await;
    let site = Setup { http: "send_timeout = '500ms'", ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut stream = site.connect().await;
    // Far more than the sockets' buffers hold.
    stream.write_all(b"GET /count/5000000 HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    eventually("it to begin", async || (site.in_flight(0) == 1).then_some(())).await;
    eventually("it to be cut off", async || (site.in_flight(0) == 0).then_some(())).await;
    site.app.shut_down().await;
}
