//! Bodies of reads: short ones are kept, so that V1 can answer for V2 and V2 can be asked the same.

use cutover_traffic::pool::upstream::upload::SHORT;

use super::*;

const SEARCH: &str = "match = [{ host = '*' }]\n[migrations.shop.operations]\n\
                      search = { class = 'read', methods = ['POST'], path = '/search' }";

/// A search of V2's.
fn search(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let mut request = post("/search", body);
    request.headers_mut().insert("x-cutover-pool", "v2".parse().unwrap());
    request
}

/// Where a request ended, and how many bytes its body had there.
fn whose(reply: &Reply) -> (u16, &str, u64) {
    let bytes = if reply.status == 200 { reply.json()["body"]["bytes"].as_u64().unwrap() } else { 0 };
    (reply.status, reply.header("x-cutover-reason"), bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_answers_a_read_with_a_short_body_that_v2_fails_however_it_came() {
    for http2 in [false, true] {
        let good = Upstream::http2_too("one", http2).await;
        let (bodies, mut seen) = mpsc::channel(16);
        let failing = Upstream::reading(http2, bodies).await;
        let pool = if http2 { "http2 = true" } else { "" };
        let site = Setup { migration: SEARCH, pool, ..Setup::of(&[&good], &[&failing]) }.start().await;

        assert_eq!(whose(&site.send(search("abc")).await), (200, "failover", 3));
        assert_eq!(seen.recv().await.unwrap(), "abc", "V2 was asked, too");
        assert_eq!(whose(&site.send(search(vec![b'a'; SHORT])).await), (200, "failover", SHORT as u64));
        assert_eq!(seen.recv().await.unwrap().len(), SHORT);
        // In parts that come late, and only once it is asked for: hyper reads it.
        for fields in ["", "expect: 100-continue\r\n"] {
            let mut stream = site.connect().await;
            let head = format!(
                "POST /search HTTP/1.1\r\nhost: a\r\nx-cutover-pool: v2\r\nconnection: close\r\n{fields}content-length: 6\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).await.unwrap();
            let expected = if fields.is_empty() { "" } else { "HTTP/1.1 100 Continue\r\n\r\n" };
            let mut asked = vec![0; expected.len()];
            timeout(PATIENCE, stream.read_exact(&mut asked)).await.unwrap().unwrap();
            assert_eq!(asked, expected.as_bytes());
            stream.write_all(b"ab").await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            stream.write_all(b"cdef").await.unwrap();
            let mut reply = String::new();
            timeout(PATIENCE, stream.read_to_string(&mut reply)).await.unwrap().unwrap();
            assert!(reply.contains("x-cutover-reason: failover") && reply.contains("\"bytes\":6,"), "{reply}");
            assert_eq!(seen.recv().await.unwrap(), "abcdef");
        }
        // Over HTTP/2.
        let io = TokioIo::new(site.connect().await);
        let (mut caller, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut request = search("abcde");
        *request.uri_mut() = "http://shop.example/search".parse().unwrap();
        let reply = timeout(PATIENCE, caller.send_request(request)).await.unwrap().unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.headers()["x-cutover-reason"], "failover");
        let said = reply.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&said).contains("\"bytes\":5,"), "{said:?}");
        assert_eq!(seen.recv().await.unwrap(), "abcde");
        site.app.shut_down().await;
        assert!(seen.try_recv().is_err(), "each was asked once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_long_or_has_no_known_length_is_sent_once() {
    let failing = Upstream::saying(b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let good = Upstream::named("one").await;
    let site = Setup { migration: SEARCH, ..Setup::of(&[&good], &[&failing]) }.start().await;
    assert_eq!(whose(&site.send(search("abc")).await), (200, "failover", 3));
    assert_eq!(site.send(search(vec![b'a'; SHORT + 1])).await.status, 500);
    let (parts, body) = told();
    let (head, _) = search("").into_parts();
    parts.send(Bytes::from("abc")).await.unwrap();
    drop(parts);
    assert_eq!(site.send(Request::from_parts(head, body)).await.status, 500);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_mirrored_with_its_short_body() {
    let (bodies, mut seen) = mpsc::channel(16);
    let v2 = Upstream::raw(move |mut stream| {
        let bodies = bodies.clone();
        async move {
            let head = head(&mut stream).await;
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            bodies.send((head, body)).await.unwrap();
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await);
        }
    })
    .await;
    let v1 = Upstream::named("one").await;
    let site = Setup { migration: SEARCH, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    let reply = site.send(post("/search", "hello")).await;
    assert_eq!((reply.status, reply.header("x-cutover-pool")), (200, "v1"));
    let (head, body) = timeout(PATIENCE, seen.recv()).await.expect("the mirrored request").unwrap();
    assert!(head.contains("x-cutover-shadow: 1\r\n") && head.contains("content-length: 5\r\n"), "{head}");
    assert_eq!(&body, b"hello");
    let compared = || site.app.host.migrations["shop"].history.totals().comparisons;
    // V1 says something, and V2 nothing.
    eventually("the answers to be compared", async || (compared().different == 1).then_some(())).await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_body_does_not_come_is_refused_and_nobody_is_asked() {
    for (pool, why) in [("idle_timeout = '300ms'", "stood still"), ("total_timeout = '300ms'", "took longer")] {
        let (bodies, mut seen) = mpsc::channel(16);
        let v1 = Upstream::reading(false, bodies).await;
        let site = Setup { migration: SEARCH, pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
        let part = "POST /search HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhel";
        let reply = site.raw(part).await;
        assert!(reply.starts_with("HTTP/1.1 408 ") && reply.contains(why), "{reply}");
        assert!(seen.try_recv().is_err());
        site.app.shut_down().await;
    }
}
