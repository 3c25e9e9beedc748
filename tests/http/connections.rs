//! What goes over one connection: requests of all kinds, in any parts, one after the other.

use super::*;

/// A request as it is sent, and what its answer has to be.
struct Exchange {
    sent: String,
    status: u16,
    /// Whether the answer has no body whatever its head says.
    is_head: bool,
    /// Words that the body has.
    says: Vec<String>,
    length: Option<usize>,
}

/// The `n`th request of a connection: of a kind that is read by the connection itself, or of any.
fn exchange(n: usize, random: &mut fastrand::Rng, any: bool) -> Exchange {
    let id = random.u32(..);
    let of = |sent: String, status, says: &[String]| Exchange {
        sent,
        status,
        is_head: sent_by_head(status),
        says: says.to_vec(),
        length: None,
    };
    let target = format!("/{n}/{id}?a=b");
    let echo = |method: &str, fields: &str, body: &str, bytes: usize| {
        let says =
            [format!("\"target\":\"{target}\""), format!("\"method\":\"{method}\""), format!("\"bytes\":{bytes},")];
        of(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}"), 200, &says)
    };
    let posted = |length: usize| echo("POST", &format!("content-length: {length}\r\n"), &"b".repeat(length), length);
    match random.u8(..if any { 13 } else { 8 }) {
        0 => echo("GET", "", "", 0),
        1 => echo("DELETE", &format!("x-long: {}\r\n", "x".repeat(random.usize(..6_000))), "", 0),
        2 => Exchange { is_head: true, ..of(format!("HEAD {target} HTTP/1.1\r\nhost: a\r\n\r\n"), 200, &[]) },
        3 => of("GET /status/204 HTTP/1.1\r\nhost: a\r\n\r\n".into(), 204, &[]),
        4 => of("GET /status/304 HTTP/1.1\nhost: a\n\n".into(), 304, &[]),
        5 => {
            let parts = random.u32(..3_000);
            let length = (0..parts).map(|n| n.to_string().len() + 1).sum();
            Exchange {
                length: Some(length),
                ..of(format!("\r\nGET /count/{parts} HTTP/1.1\r\nhost: a\r\n\r\n"), 200, &[])
            }
        }
        6 => echo("POST", "connection: keep-alive\r\n", "", 0),
        7 => posted(random.usize(..=16 << 10)),
        8 => posted(random.usize((16 << 10) + 1..40_000)),
        9 => echo("PUT", "transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n", 5).closing(),
        10 => echo("GET", "te: trailers\r\n", "", 0),
        11 => echo("GET", &format!("x-long: {}\r\n", "x".repeat(random.usize(9_000..30_000))), "", 0),
        _ => echo("POST", "expect: 100-continue\r\ncontent-length: 2\r\n", "hi", 2),
    }
}

const fn sent_by_head(status: u16) -> bool {
    matches!(status, 204 | 304)
}

impl Exchange {
    /// A caller that sends chunks gets no further answer over that connection, so that it is the last.
    fn closing(self) -> Self {
        Self { status: 0, ..self }
    }
}

/// Reads an answer: its head, and its body.
async fn read(stream: &mut (impl AsyncRead + Unpin), is_head: bool) -> (String, Vec<u8>) {
    let mut said = head(stream).await;
    while said.starts_with("HTTP/1.1 100 ") {
        said = head(stream).await;
    }
    let mut body = Vec::new();
    let length = said.lines().find_map(|line| line.strip_prefix("content-length: "));
    assert!(length.is_none() || !said.contains("transfer-encoding"), "both a length and chunks: {said}");
    if is_head {
        return (said, body);
    }
    if let Some(length) = length {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
        return (said, body);
    }
    assert!(said.contains("transfer-encoding: chunked\r\n"), "{said}");
    loop {
        let mut size = Vec::new();
        while !size.ends_with(b"\r\n") {
            size.push(stream.read_u8().await.unwrap());
        }
        let size = usize::from_str_radix(std::str::from_utf8(&size).unwrap().trim(), 16).unwrap();
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..]).await.unwrap();
        let mut end = [0; 2];
        stream.read_exact(&mut end).await.unwrap();
        assert_eq!(&end, b"\r\n");
        if size == 0 {
            return (said, body);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_all_kinds_in_any_parts_are_answered_in_their_order() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let any = seed % 2 == 1;
        let mut exchanges = Vec::new();
        while exchanges.len() < 12 && exchanges.last().is_none_or(|last: &Exchange| last.status > 0) {
            exchanges.push(exchange(exchanges.len(), &mut random, any));
        }
        let all: String = exchanges.iter().map(|exchange| &*exchange.sent).collect();
        let (mut from, mut to) = site.connect().await.into_split();
        let whole = random.bool();
        let sending = tokio::spawn(async move {
            let mut rest = all.as_bytes();
            while !rest.is_empty() {
                let some = if whole { rest.len() } else { random.usize(1..=rest.len().min(700)) };
                to.write_all(&rest[..some]).await.unwrap();
                rest = &rest[some..];
                tokio::task::yield_now().await;
            }
            to
        });
        for (n, Exchange { status, is_head, says, length, sent }) in exchanges.iter().enumerate() {
            let about = || format!("seed {seed}, request {n}: {sent:.200}");
            let (said, body) = timeout(PATIENCE, read(&mut from, *is_head))
                .await
                .unwrap_or_else(|_| panic!("no answer to {}", about()));
            let status = if *status == 0 { 200 } else { *status };
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{}: {said}", about());
            let body = String::from_utf8(body).unwrap();
            assert!(says.iter().all(|words| body.contains(words)), "{}: {body}", about());
            assert!(length.is_none_or(|length| length == body.len()), "{}: {} bytes", about(), body.len());
        }
        drop(sending.await.unwrap());
        assert_eq!(from.read(&mut [0; 64]).await.unwrap(), 0, "seed {seed}: nothing comes unasked");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_wants_the_connection_closed_gets_that_and_all_of_the_answer() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    for (path, length) in [("/status/204", 0), ("/count/20000", 108_890), ("/status/418", 3)] {
        let reply = site
            .raw(format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: Close\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n"
            ))
            .await;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("connection: close"), "{head}");
        let body: usize = if head.contains("chunked") {
            assert!(body.ends_with("\r\n0\r\n\r\n"), "it is whole");
            body.split("\r\n").skip(1).step_by(2).map(str::len).sum()
        } else {
            body.len()
        };
        assert_eq!(body, length, "{head}");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_are_sent_and_an_upstream_that_breaks_off_is_seen() {
    let upstream = Upstream::raw(|mut stream| async move {
        loop {
            let asked = head(&mut stream).await;
            if asked.is_empty() {
                return;
            }
            let (kind, cut) = if asked.starts_with("GET /cut") {
                ("content-length: 100", true)
            } else {
                ("transfer-encoding: chunked", asked.contains("/break"))
            };
            let said = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{kind}\r\n\r\n");
            stream.write_all(said.as_bytes()).await.unwrap();
            for part in ["5\r\none\n\n\r\n", "5\r\ntwo\n\n\r\n"] {
                stream.write_all(part.as_bytes()).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            if cut {
                return;
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET /events HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let said = head(&mut stream).await;
    assert!(said.contains("transfer-encoding: chunked"), "{said}");
    for event in ["5\r\none\n\n\r\n", "5\r\ntwo\n\n\r\n"] {
        let mut came = vec![0; event.len()];
        timeout(PATIENCE, stream.read_exact(&mut came)).await.expect("an event, at once").unwrap();
        assert_eq!(String::from_utf8(came).unwrap(), event);
    }
    drop(stream);
    eventually("the stream to end", async || (site.in_flight(0) == 0).then_some(())).await;
    for path in ["/break", "/cut"] {
        let reply = site.raw(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(reply.contains("two\n\n") && !reply.ends_with("0\r\n\r\n"), "{path} must not look whole: {reply}");
        assert!(path == "/break" || reply.contains("content-length: 100"), "{reply}");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_over_tls_that_takes_nothing_is_cut_off() {
    let folder = TempDir::new().unwrap();
    let http = format!("send_timeout = '500ms'\n{}", tls::certify(folder.path()));
    let v1 = Upstream::named("one").await;
    let site = Setup { http: &http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let connector = tls::caller(folder.path(), "http/1.1");
    let mut stream = connector.connect(tls::NAME.try_into().unwrap(), site.connect().await).await.unwrap();
    // Small answers that nobody takes: each fits into what TLS holds back.
    let asking = async {
        let some = "GET /status/418 HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
        while stream.write_all(some.as_bytes()).await.is_ok() && stream.flush().await.is_ok() {}
    };
    timeout(PATIENCE, asking).await.expect("it is closed");
    site.app.shut_down().await;
}

/// How many connections at an address have been accepted and have nothing left to be read.
fn read_whole(address: SocketAddr) -> usize {
    let port = format!(":{:04X}", address.port());
    let tcp = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // Number, local, remote, state (1 is established), queues, timer, retransmits, user, timeout, inode (0 if not accepted).
    let lines = tcp.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let is = |fields: &Vec<&str>| {
        fields[1].ends_with(&port) && fields[3] == "01" && fields[4].ends_with(":00000000") && fields[9] != "0"
    };
    lines.filter(is).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_half_there_when_the_host_ends_is_answered() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let mut halves = Vec::new();
    for (first, second) in [
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-", "length: 5\r\n\r\nhello"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel", "lo"),
        ("GET / HTTP/1.1\r\nhos", "t: a\r\n\r\n"),
        ("GET / HTTP/1.0\r\nhost: a\r\n", "\r\n"),
    ] {
        let mut stream = site.connect().await;
        stream.write_all(first.as_bytes()).await.unwrap();
        halves.push((stream, second));
    }
    let address = site.address;
    eventually("what was sent to be read", async || (read_whole(address) >= halves.len()).then_some(())).await;
    let end = tokio::spawn(site.app.shut_down());
    eventually("nobody to be let in", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    for (mut stream, second) in halves {
        stream.write_all(second.as_bytes()).await.unwrap();
        let mut reply = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut reply)).await.expect("an answer, and the end").unwrap();
        assert!(reply.starts_with("HTTP/1.") && reply.contains(" 200 OK\r\n"), "{second:?}: {reply}");
    }
    timeout(PATIENCE, end).await.expect("the host's end").unwrap();
}
