//! What arrives at an upstream is what was sent, whatever the method, the framing and the versions; or the caller is told.

use std::fmt::Write as _;

use super::*;

const METHODS: [&str; 11] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE", "REPORT", "QUERY"];

/// Around what is kept of a body, and what fits into one frame of HTTP/2.
const SIZES: [usize; 7] = [0, 1, 100, 16_384, 16_385, 40_000, 150_000];

/// What an upstream saw: the method, the path, and the body.
type Seen = (String, String, Vec<u8>);

/// How a caller says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// HTTP/1.0, with a length.
    Old,
    /// HTTP/1.1, with a length.
    Length,
    /// HTTP/1.1, in chunks.
    Chunked,
    /// HTTP/2, with a length.
    Http2Length,
    /// HTTP/2, without.
    Http2,
}

const FRAMINGS: [Framing; 5] = [Framing::Old, Framing::Length, Framing::Chunked, Framing::Http2Length, Framing::Http2];

async fn recording(http2: bool) -> (Upstream, mpsc::Receiver<Seen>) {
    let (seen, requests) = mpsc::channel(64);
    let upstream = Upstream::serving(http2, move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
            let Ok(body) = request.into_body().collect().await else { return Ok(whole(StatusCode::OK, "a part")) };
            seen.send((method, path, body.to_bytes().to_vec())).await.unwrap();
            Ok(whole(StatusCode::OK, "ok"))
        }
    })
    .await;
    (upstream, requests)
}

/// A request of HTTP/1, as bytes.
fn written(framing: Framing, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let version = if framing == Framing::Old { "HTTP/1.0" } else { "HTTP/1.1" };
    let mut head = format!("{method} {path} {version}\r\nhost: a\r\nconnection: close\r\n");
    let mut sent = Vec::new();
    if framing == Framing::Chunked {
        head.push_str("transfer-encoding: chunked\r\n\r\n");
        for (n, part) in body.chunks(fastrand::usize(1..=9_000)).enumerate() {
            // Extensions have a limit together.
            let extension = if n < 10 { ";a=b" } else { "" };
            sent.extend(format!("{:x}{extension}\r\n", part.len()).into_bytes());
            sent.extend(part);
            sent.extend(b"\r\n");
        }
        sent.extend(b"0\r\n\r\n");
    } else {
        if !body.is_empty() {
            write!(head, "content-length: {}\r\n", body.len()).unwrap();
        }
        head.push_str("\r\n");
        sent.extend(body);
    }
    [head.into_bytes(), sent].concat()
}

/// The status that a caller gets.
async fn ask(site: &Site, framing: Framing, method: &str, path: &str, body: &[u8]) -> u16 {
    if !matches!(framing, Framing::Http2Length | Framing::Http2) {
        let reply = site.raw(written(framing, method, path, body)).await;
        return reply.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    }
    let io = TokioIo::new(site.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(format!("http://a{path}"));
    let body: BoxBody<Bytes, std::convert::Infallible> = if framing == Framing::Http2Length {
        Full::new(Bytes::copy_from_slice(body)).boxed()
    } else {
        let parts: Vec<_> = body.chunks(fastrand::usize(1..=9_000)).map(Bytes::copy_from_slice).collect();
        StreamBody::new(futures_util::stream::iter(parts.into_iter().map(|part| Ok(Frame::data(part))))).boxed()
    };
    let answer = timeout(PATIENCE, sender.send_request(request.body(body).unwrap())).await.unwrap();
    answer.unwrap_or_else(|e| panic!("{path}: {e:?}")).status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_is_what_was_sent_whatever_the_method_the_framing_and_the_versions() {
    for http2 in [false, true] {
        let (upstream, mut seen) = recording(http2).await;
        let pool = if http2 { "http2 = true" } else { "" };
        let site = Setup { pool, ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
        for (method, framing) in METHODS.into_iter().flat_map(|method| FRAMINGS.map(|framing| (method, framing))) {
            for size in SIZES {
                let body: Vec<u8> = (0..size).map(|_| fastrand::u8(..)).collect();
                let path = format!("/{method}/{framing:?}/{size}");
                let status = ask(&site, framing, method, &path, &body).await;
                assert_eq!(status, 200, "{path} to HTTP/2: {http2}");
                let (its_method, its_path, its_body) = seen.recv().await.unwrap();
                assert_eq!((&*its_method, &its_path), (method, &path));
                assert!(its_body == body, "{path} to HTTP/2: {http2}: {} bytes arrived", its_body.len());
            }
        }
        site.app.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_malformed_is_its_callers_fault_and_nobody_takes_it_for_whole() {
    let (upstream, mut seen) = recording(false).await;
    let site = Setup { pool: "ejection = { failures = 1 }", ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
    for method in ["GET", "POST", "DELETE"] {
        for wrong in ["xyz\r\nabc\r\n0\r\n\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "3\r\nabc\r\n-1\r\n", "3\r\nabc\r\n;\r\n"]
        {
            let head = format!("{method} /bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
            let reply = site.raw(format!("{head}{wrong}")).await;
            assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("connection: close"), "{wrong:?}: {reply}");
        }
    }
    assert!(site.pool(0).why_not_whole().is_none(), "it is not counted against the upstream");
    assert_eq!(site.get("/after").await.status, 200);
    assert_eq!(seen.recv().await.unwrap().1, "/after", "no part was taken for a whole body");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_reset_in_the_middle_of_a_body_is_no_whole_body() {
    for (http2, reason) in [(false, 0), (true, 0), (false, 8), (true, 8)] {
        let (upstream, mut seen) = recording(http2).await;
        let pool = if http2 { "http2 = true" } else { "" };
        let site = Setup { pool, ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
        let (h2, connection) = h2::client::handshake(site.connect().await).await.unwrap();
        tokio::spawn(connection);
        let mut h2 = h2.ready().await.unwrap();
        for method in ["POST", "GET"] {
            let request = Request::builder().method(method).uri("http://a/part").body(()).unwrap();
            let (_answer, mut body) = h2.send_request(request, false).unwrap();
            body.send_data(Bytes::from("a part"), false).unwrap();
            eventually("it to be on its way", async || (site.in_flight(0) == 1).then_some(())).await;
            body.send_reset(h2::Reason::from(reason));
            eventually("it to end", async || (site.in_flight(0) == 0).then_some(())).await;
        }
        assert_eq!(site.get("/after").await.status, 200);
        assert_eq!(seen.recv().await.unwrap().1, "/after", "{http2} {reason}");
        site.app.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_whose_stream_is_reset_is_no_whole_answer() {
    // Sends a part, and resets the stream, when that was seen, as if there were nothing more to say.
    let (told, tell) = signal();
    let upstream = Upstream::raw(move |stream| {
        let told = Arc::clone(&told);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((_request, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from("a part"), false).unwrap();
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    told.notified().await;
                    body.send_reset(h2::Reason::NO_ERROR);
                });
            }
        }
    })
    .await;
    let site = Setup { pool: "http2 = true", ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut reply = Vec::new();
    let seen = async {
        while !reply.windows(6).any(|bytes| bytes == b"a part") {
            assert_ne!(stream.read_buf(&mut reply).await.unwrap(), 0, "it ended before");
        }
        tell.notify_one();
        // Cut off, with or without a reset of the connection.
        stream.read_to_end(&mut reply).await.ok();
    };
    timeout(PATIENCE, seen).await.expect("an end");
    let reply = String::from_utf8_lossy(&reply);
    assert!(reply.contains("a part") && !reply.ends_with("0\r\n\r\n"), "it must not look whole: {reply}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_meets_the_end_of_a_kept_connection_is_sent_again_on_a_fresh_one() {
    // Answers one request of each connection, and closes it when the next has come, without a word.
    let (seen, mut requests) = mpsc::channel(64);
    let upstream = Upstream::raw(move |mut stream| {
        let seen = seen.clone();
        async move {
            for number in 0.. {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                seen.send((number, head)).await.unwrap();
                if number == 1 {
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    // The budget of retries is not for this.
    let migration = "match = [{ host = '*' }]\noperations = { change = { class = 'exclusive', path = '/change' } }";
    let site = Setup { pool: "retries = 0", migration, ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
    let mut caller = site.connect().await;
    let mut ask = async |line: &str| {
        caller.write_all(format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
        let reply = timeout(PATIENCE, head(&mut caller)).await.unwrap();
        let length = reply.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        let mut body = vec![0; length];
        caller.read_exact(&mut body).await.unwrap();
        reply[9..12].to_owned()
    };
    for n in 0..5 {
        assert_eq!(ask(&format!("GET /{n}")).await, "200");
    }
    assert_eq!(ask("DELETE /x").await, "200", "which is idempotent");
    assert_eq!(ask("POST /x").await, "502", "which is not");
    assert_eq!(ask("GET /y").await, "200");
    assert_eq!(ask("GET /change").await, "502", "of which somebody has said that it changes something");
    requests.close();
    let mut twice = 0;
    while let Some((number, _)) = requests.recv().await {
        twice += usize::from(number == 1);
    }
    assert_eq!(twice, 7, "each but the first and the one after a 502 met a connection that was closed under it");
    site.app.shut_down().await;
}
