//! What passes through, both ways, as it is.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn any_method_path_and_body_passes_and_says_who_answered() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
    let site = Setup::of(&[&v1], &[&v2]).start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
        let request = Request::builder().method(method).uri("/a/b%20c?d=e&f").header("host", "shop.example:81");
        let reply = site.send(request.header("x-request-id", "r7").body(Full::<Bytes>::from("12345")).unwrap()).await;
        let said = reply.json();
        assert_eq!((reply.status, said["name"].as_str(), said["method"].as_str()), (200, Some("one"), Some(method)));
        assert_eq!((&said["target"], &said["body"]["bytes"]), (&json!("/a/b%20c?d=e&f"), &json!(5)));
        let headers = &said["headers"];
        assert_eq!((&headers["host"], &headers["x-request-id"]), (&json!("shop.example:81"), &json!("r7")));
        assert_eq!(headers["via"], "1.1 cutover");
        assert_eq!((&headers["x-forwarded-for"], &headers["x-forwarded-proto"]), (&json!("127.0.0.1"), &json!("http")));
        assert_eq!(headers["x-forwarded-host"], "shop.example:81");
        assert_eq!((reply.header("x-cutover-pool"), reply.header("x-request-id")), ("v1", "r7"));
    }
    let reply = site.get_from("v2", "/").await;
    assert_eq!((reply.json()["name"].as_str(), reply.header("x-cutover-pool")), (Some("two"), "v2"));
    assert_eq!(reply.header("x-request-id").len(), 32, "a request without an id gets one");
    let head = site.send(Request::head("/").header("host", "shop").body(Full::<Bytes>::default()).unwrap()).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("content-length").parse::<usize>().unwrap() > 100);
    for status in [204, 304, 404, 418, 503] {
        assert_eq!(site.get(&format!("/status/{status}")).await.status, status);
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_before_they_are_whole() {
    // Answers each part of the body as it comes.
    let echo = Upstream::raw(|stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
        });
        drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    })
    .await;
    let site = Setup::of(&[&echo], &[&echo]).start().await;
    let (parts, body) = told();
    let request = Request::post("/").header("host", "shop").body(body).unwrap();
    parts.send("first".into()).await.unwrap();
    let mut reply = site.open(request).await.into_body();
    for next in ["second", "third"] {
        let frame = timeout(PATIENCE, reply.frame()).await.expect("a part before the body is whole").unwrap().unwrap();
        assert!(!frame.into_data().unwrap().is_empty());
        parts.send(next.into()).await.unwrap();
    }
    drop(parts);
    let rest = timeout(PATIENCE, reply.collect()).await.unwrap().unwrap().to_bytes();
    assert!(rest.ends_with(b"third"), "{rest:?}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_and_many_parts_arrive_whole() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let sent = site.send(post("/", vec![b'x'; 20 << 20])).await;
    assert_eq!(sent.json()["body"]["bytes"], 20 << 20);
    let counted = site.get("/count/100000").await;
    assert_eq!(counted.body.len(), (0..100_000).map(|n: u32| n.to_string().len() + 1).sum::<usize>());
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let reply = site.raw("GET /trailers HTTP/1.1\r\nhost: shop\r\nte: trailers\r\nconnection: te, close\r\n\r\n").await;
    assert!(reply.contains("trailer: x-sum\r\n") && reply.ends_with("0\r\nx-sum: 42\r\n\r\n"), "{reply}");
    let sent = "POST / HTTP/1.1\r\nhost: shop\r\ntrailer: x-check\r\ntransfer-encoding: chunked\r\n\r\n\
                3\r\nabc\r\n0\r\nx-check: 1\r\n\r\n";
    let reply = site.raw(sent).await;
    assert!(reply.contains(r#""body":{"bytes":3,"trailers":["x-check"]}"#), "{reply}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_sent_only_when_the_upstream_asks_for_it() {
    let (got, wanted) = (signal(), signal());
    let (refuses, asks) = ((Arc::clone(&got.0), Arc::clone(&wanted.0)), ());
    let () = asks;
    // The first connection is told to go on when the test says so.
    let upstream = Upstream::raw(move |mut stream| {
        let (got, wanted) = (Arc::clone(&refuses.0), Arc::clone(&refuses.1));
        async move {
            let head = head(&mut stream).await;
            assert!(head.contains("expect: 100-continue"), "{head}");
            if head.starts_with("POST /refused") {
                stream
                    .write_all(b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                    .await
                    .unwrap();
                return;
            }
            got.notify_one();
            wanted.notified().await;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    })
    .await;
    let site = Setup::of(&[&upstream], &[&upstream]).start().await;
    let expecting =
        |path: &str| format!("POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n");

    let mut caller = site.connect().await;
    caller.write_all(expecting("/").as_bytes()).await.unwrap();
    timeout(PATIENCE, got.1.notified()).await.expect("the head goes through at once");
    wanted.1.notify_one();
    assert_eq!(timeout(PATIENCE, head(&mut caller)).await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    caller.write_all(b"hello").await.unwrap();
    assert!(timeout(PATIENCE, head(&mut caller)).await.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));

    let mut caller = site.connect().await;
    caller.write_all(expecting("/refused").as_bytes()).await.unwrap();
    let reply = timeout(PATIENCE, head(&mut caller)).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 413 "), "no `100 Continue` before: {reply}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_and_upgrades_pass_through() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
    let site = Setup::of(&[&v1], &[&v2]).start().await;
    let mut events = site.open(get("/events", &[])).await;
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    for _ in 0..5 {
        timeout(PATIENCE, events.body_mut().frame()).await.expect("an event").unwrap().unwrap();
    }
    let (all, ..) = site.counted("get", 0, 1).await;
    assert_eq!(all, 1, "a stream counts when it begins");

    let upgrade = [("connection", "upgrade"), ("upgrade", "WebSocket"), ("x-cutover-pool", "v2")];
    let mut reply = site.open(get("/upgrade", &upgrade)).await;
    assert_eq!(
        (reply.status(), &reply.headers()["upgrade"]),
        (StatusCode::SWITCHING_PROTOCOLS, &"WebSocket".parse::<hyper::header::HeaderValue>().unwrap())
    );
    assert_eq!(reply.headers()["x-cutover-pool"], "v2");
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut reply).await.unwrap());
    for size in [1_usize, 100, 60_000] {
        // A binary frame, masked with zeros.
        let mut frame = vec![0x82, 0xfe];
        frame.extend(u16::try_from(size).unwrap().to_be_bytes());
        frame.extend([0; 4]);
        frame.extend(vec![7; size]);
        stream.write_all(&frame).await.unwrap();
        let mut back = vec![0; frame.len()];
        timeout(PATIENCE, stream.read_exact(&mut back)).await.expect("what was sent").unwrap();
        assert_eq!(back, frame);
    }
    assert_eq!(site.in_flight(1), 1);
    drop(stream);
    eventually("the tunnel to end", async || (site.in_flight(1) == 0).then_some(())).await;
    drop(events);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_on_both_sides() {
    let v1 = Upstream::http2_too("one", true).await;
    let site = Setup { pool: "http2 = true", ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let io = TokioIo::new(site.connect().await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let asked = (0..50).map(|n| {
        let mut sender = sender.clone();
        async move {
            let request =
                Request::post(format!("http://shop.example/{n}")).header("cookie", "a=1").header("cookie", "b=2");
            let reply = sender.send_request(request.body(Full::<Bytes>::from("abc")).unwrap()).await.unwrap();
            let body = reply.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice::<Value>(&body).unwrap()
        }
    });
    for (n, said) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
        assert_eq!(said["target"], format!("http://shop.example/{n}"));
        assert_eq!((&said["headers"]["cookie"], &said["headers"]["via"]), (&json!("a=1; b=2"), &json!("2.0 cutover")));
        assert_eq!(said["body"]["bytes"], 3);
    }
    // And from HTTP/1.1 to HTTP/2.
    assert_eq!(site.get("/x").await.json()["target"], "http://shop.example/x");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_on_both_sides() {
    let folder = TempDir::new().unwrap();
    let http = tls::certify(folder.path());
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let fields = cutover_traffic::ingress::certified::CertificateFields::default();
    let server = cutover_traffic::ingress::tls::server((&certificate, &key), None, fields).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(server.config());
    let upstream = Upstream::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A caller that does not trust the certificate breaks off.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request| answer("secure", request));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            drop(served.await);
        }
    })
    .await;
    let url = vec![upstream.url().replace("http://", "https://")];
    let pool = format!("tls = {{ ca = '{}', server_name = 'shop.example' }}", certificate.display());
    let setup = Setup { v1: url.clone(), v2: url, http: &http, pool: &pool, ..Setup::of(&[], &[]) };
    let site = setup.start().await;

    for protocol in ["h2", "http/1.1"] {
        let connector = tls::caller(folder.path(), protocol);
        let stream = connector.connect(tls::NAME.try_into().unwrap(), site.connect().await).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
        let io = TokioIo::new(stream);
        let request = Request::get("https://shop.example/x")
            .header("host", "shop.example")
            .body(Full::<Bytes>::default())
            .unwrap();
        let reply = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let said: Value = serde_json::from_slice(&reply.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!((&said["name"], &said["headers"]["x-forwarded-proto"]), (&json!("secure"), &json!("https")));
    }

    // An upstream whose certificate is for somebody else is not spoken to.
    let pool = format!("tls = {{ ca = '{}', server_name = 'other.example' }}", certificate.display());
    let other = Setup { pool: &pool, http: "", ..setup }.start().await;
    let refused = other.get("/").await;
    assert_eq!(refused.status, 502);
    assert!(refused.body.contains("certificate"), "{refused:?}");
    other.app.shut_down().await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_grpc_has_failed_if_its_status_says_so_and_the_status_passes() {
    let (v1, v2) = (Upstream::http2_too("one", true).await, Upstream::http2_too("two", true).await);
    let pool = "http2 = true\nejection = { failures = 1000 }";
    let site = Setup { pool, ..Setup::of(&[&v1], &[&v2]) }.start().await;
    let io = TokioIo::new(site.connect().await);
    let (mut caller, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    // NOT_FOUND is an answer like any other.
    for (n, (status, failed)) in [("0", 0), ("5", 0), ("13", 1), ("14", 2)].into_iter().enumerate() {
        let request =
            Request::post(format!("http://a/grpc/{status}")).header("x-cutover-pool", "v2").header("te", "trailers");
        let reply = caller.send_request(request.body(Full::<Bytes>::from("call")).unwrap()).await.unwrap();
        let body = timeout(PATIENCE, reply.into_body().collect()).await.unwrap().unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], status);
        assert_eq!(body.to_bytes().len(), 5);
        let all = n as u64 + 1;
        assert_eq!(site.counted("post", 1, all).await, (all, failed, 0, 0), "{status}");
    }
    let request = Request::post("http://a/grpc-alone/15").header("x-cutover-pool", "v2");
    let reply = caller.send_request(request.body(Full::<Bytes>::from("call")).unwrap()).await.unwrap();
    assert_eq!((reply.status(), &reply.headers()["grpc-status"]), (StatusCode::OK, &"15".parse().unwrap()));
    assert_eq!(site.counted("post", 1, 5).await, (5, 3, 0, 0));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_calls_of_grpc_fail_after_their_heads_is_put_out() {
    // The one that fails is the faster, so that it is asked as long as it may be.
    let of = async |path: &'static str, ms| {
        Upstream::serving(true, move |mut request: Request<Incoming>| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            *request.uri_mut() = path.parse().unwrap();
            answer("one", request).await
        })
        .await
    };
    let (good, bad) = (of("/grpc/0", 50).await, of("/grpc/14", 0).await);
    let pool = "http2 = true\nejection = { failures = 2 }";
    let site = Setup { pool, ..Setup::of(&[&good, &bad], &[&good]) }.start().await;
    let io = TokioIo::new(site.connect().await);
    let (mut caller, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut failed = 0;
    for _ in 0..30 {
        let request = Request::post("http://a/call").body(Full::<Bytes>::from("call")).unwrap();
        let reply = caller.send_request(request).await.unwrap().into_body();
        let reply = timeout(PATIENCE, reply.collect()).await.unwrap().unwrap();
        failed += usize::from(reply.trailers().unwrap()["grpc-status"] == "14");
    }
    assert_eq!(failed, 2, "and then nobody asks it");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renewed_is_shown_to_who_comes_then() {
    let folder = TempDir::new().unwrap();
    let http = tls::certify(folder.path());
    let v1 = Upstream::named("one").await;
    let site = Setup { http: &http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let old = tls::caller(folder.path(), "http/1.1");
    let connect = async |caller: &tokio_rustls::TlsConnector| {
        caller.connect(tls::NAME.try_into().unwrap(), site.connect().await).await
    };
    let mut connected = connect(&old).await.unwrap();
    tls::certify(folder.path());
    let new = tls::caller(folder.path(), "http/1.1");
    eventually("the new certificate", async || connect(&new).await.ok()).await;
    assert!(connect(&old).await.is_err(), "the old one is not shown any more");
    connected.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let answer = timeout(PATIENCE, head(&mut connected)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "who was there stays: {answer}");
    site.app.shut_down().await;
}
