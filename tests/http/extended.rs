//! WebSockets over HTTP/2 (RFC 8441).

use hyper::{Method, client::conn::http2::SendRequest, ext::Protocol};

use super::*;

async fn over_http2(site: &Site) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(site.connect().await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    // The host's settings are here once it has answered something.
    let request = Request::get("http://shop/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    sender
}

fn connect(path: &str, protocol: Option<&'static str>) -> Request<Full<Bytes>> {
    let mut request = Request::connect(format!("http://shop{path}")).body(Full::default()).unwrap();
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request.extensions_mut().extend(protocol.map_or_else(Default::default, |protocol| {
        let mut extensions = hyper::http::Extensions::new();
        extensions.insert(Protocol::from_static(protocol));
        extensions
    }));
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_over_http_2_is_an_upgrade_of_http_1_1_to_the_upstream() {
    let (heads, mut seen) = mpsc::channel(10);
    let upstream = Upstream::raw(move |mut stream| {
        let heads = heads.clone();
        async move {
            let head = head(&mut stream).await;
            let (answer, echoes) = if head.contains("upgrade: websocket\r\n") {
                (
                    "101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x",
                    true,
                )
            } else {
                ("200 OK\r\nconnection: close\r\ncontent-length: 0", false)
            };
            drop(heads.send(head).await);
            let answer = format!("HTTP/1.1 {answer}\r\nsec-websocket-protocol: chat\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut bytes = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                if !echoes || stream.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let http = "keep_alive = '200ms'";
    let site = Setup { http, ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
    let mut sender = over_http2(&site).await;
    let mut answer =
        timeout(PATIENCE, sender.send_request(connect("/chat", Some("websocket")))).await.unwrap().unwrap();
    assert_eq!(
        (answer.status(), answer.headers()["sec-websocket-protocol"].to_str().unwrap()),
        (StatusCode::OK, "chat")
    );
    for gone in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(gone), "{gone}");
    }
    let asked = loop {
        let head = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
        if head.starts_with("GET /chat HTTP/1.1\r\n") {
            break head;
        }
    };
    for line in ["host: shop\r\n", "connection: upgrade\r\n", "sec-websocket-version: 13\r\n", "via: 2.0 cutover\r\n"] {
        assert!(asked.contains(line), "no {line:?} in {asked}");
    }
    let key = asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    assert!(key.len() == 24 && key.ends_with("=="), "{key}");
    let mut stream = TokioIo::new(timeout(PATIENCE, hyper::upgrade::on(&mut answer)).await.unwrap().unwrap());
    // Longer than a connection may be idle: this one is not.
    for round in 0..4 {
        let sent = format!("hello {round}");
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut echoed = vec![0; sent.len()];
        timeout(PATIENCE, stream.read_exact(&mut echoed)).await.expect("an echo").unwrap();
        assert_eq!(echoed, sent.as_bytes());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(site.in_flight(0), 1);
    let request = Request::get("http://shop/").body(Full::default()).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200, "others share the connection");
    drop(stream);
    eventually("the tunnel to end", async || (site.in_flight(0) == 0).then_some(())).await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_begins_no_websocket_is_no_success() {
    let v1 = Upstream::named("one").await;
    let site = Setup::of(&[&v1], &[&v1]).start().await;
    let mut sender = over_http2(&site).await;
    for (path, protocol, status) in [
        ("/status/403", Some("websocket"), 403),
        ("/status/200", Some("websocket"), 502),
        ("/upgrade", Some("connect-udp"), 501),
        ("/upgrade", Some("websocket"), 200),
    ] {
        let sent = sender.send_request(connect(path, protocol));
        assert_eq!(timeout(PATIENCE, sent).await.unwrap().unwrap().status(), status, "{path} {protocol:?}");
    }
    let mut plain = Request::new(Full::default());
    (*plain.method_mut(), *plain.uri_mut()) = (Method::CONNECT, "shop:80".parse().unwrap());
    assert_eq!(timeout(PATIENCE, sender.send_request(plain)).await.unwrap().unwrap().status(), 501);
    site.app.shut_down().await;
}
