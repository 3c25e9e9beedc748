//! Load balancers that say who is behind them, and upstreams that are told.

use std::sync::atomic::{AtomicUsize, Ordering};

use cutover::config::advice::advice;

use super::*;

const FROM_HERE: &str = "proxy_protocol = true\nproxy_protocol_from = ['127.0.0.0/8']";

/// A header of version 2 for 198.51.100.9:4000, with something besides.
fn binary() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10".to_vec();
    header.extend([198, 51, 100, 9, 127, 0, 0, 1, 0x0f, 0xa0, 0, 80, 0x04, 0, 1, 0]);
    header
}

/// What is answered to a request after some bytes, whose answer's connection is closed.
async fn after(site: &Site, header: impl AsRef<[u8]>) -> String {
    let request = b"GET /a HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    site.raw([header.as_ref(), request].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_says_who_called_and_who_says_nothing_is_not_served() {
    let v1 = Upstream::named("one").await;
    let site = Setup { http: FROM_HERE, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let said = after(&site, "PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n").await;
    assert!(said.contains(r#""x-forwarded-for":"192.0.2.7""#), "{said}");
    let said = after(&site, "PROXY TCP6 2001:db8::7 2001:db8::1 51000 443\r\n").await;
    assert!(said.contains(r#""x-forwarded-for":"2001:db8::7""#), "{said}");
    let said = after(&site, binary()).await;
    assert!(said.contains(r#""x-forwarded-for":"198.51.100.9""#), "{said}");
    for local in [&b"PROXY UNKNOWN\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"] {
        let said = after(&site, local).await;
        assert!(said.contains(r#""x-forwarded-for":"127.0.0.1""#), "{said}");
    }
    for wrong in
        ["", "PROXY TCP4 192.0.2.7 10.0.0.1\r\n", "PROXY TCP4 1.1.1.1 1.1.1.1 1 99999\r\n", "\r\n\r\n\0\r\nQUIT\n\x11"]
    {
        assert_eq!(after(&site, wrong).await, "", "{wrong:?} is closed without a word");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_has_to_come_in_time_and_from_who_is_trusted() {
    let v1 = Upstream::named("one").await;
    let http = "header_timeout = '200ms'\nproxy_protocol = true\nproxy_protocol_from = ['127.0.0.1']";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    assert_eq!(site.raw("PROXY TCP4 192.0.2.7 ").await, "", "it is closed");
    let said = after(&site, "PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    site.app.shut_down().await;
    let http = "proxy_protocol = true\nproxy_protocol_from = ['10.0.0.0/8', '::1']";
    let site = Setup { http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    assert_eq!(after(&site, "PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n").await, "");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_goes_before_tls() {
    let folder = TempDir::new().unwrap();
    let http = format!("{FROM_HERE}\n{}", tls::certify(folder.path()));
    let v1 = Upstream::named("one").await;
    let site = Setup { http: &http, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut stream = site.connect().await;
    stream.write_all(&binary()).await.unwrap();
    let name = tls::NAME.try_into().unwrap();
    let mut stream = tls::caller(folder.path(), "http/1.1").connect(name, stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap());
    let said = String::from_utf8(said).unwrap();
    assert!(said.contains(r#""x-forwarded-for":"198.51.100.9""#), "{said}");
    assert!(said.contains(r#""x-forwarded-proto":"https""#), "{said}");
    site.app.shut_down().await;
}

/// Says each connection's header, and then answers each of its requests with `hi`.
async fn told(headers: mpsc::Sender<(usize, String, String)>) -> Upstream {
    let connections = AtomicUsize::new(0);
    Upstream::raw(move |mut stream| {
        let (headers, number) = (headers.clone(), connections.fetch_add(1, Ordering::SeqCst));
        async move {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                line.push(byte);
            }
            let line = String::from_utf8(line).unwrap();
            loop {
                let head = head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                headers.send((number, line.clone(), head)).await.unwrap();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_is_told_who_called_and_callers_share_no_connection() {
    let (headers, mut seen) = mpsc::channel(100);
    let v1 = told(headers).await;
    let pool = "proxy_protocol = 'v1'";
    let site = Setup { pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut connections = std::collections::BTreeSet::new();
    let mut callers = [site.connect().await, site.connect().await];
    for round in 0..3 {
        for caller in &mut callers {
            caller.write_all(format!("GET /{round} HTTP/1.1\r\nhost: shop\r\n\r\n").as_bytes()).await.unwrap();
            assert!(timeout(PATIENCE, head(caller)).await.unwrap().starts_with("HTTP/1.1 200 "));
            assert_eq!((caller.read_u8().await.unwrap(), caller.read_u8().await.unwrap()), (b'h', b'i'));
            let (number, line, asked) = timeout(PATIENCE, seen.recv()).await.unwrap().unwrap();
            let own = caller.local_addr().unwrap();
            let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), site.address.port());
            assert_eq!(line, expected, "{asked}");
            connections.insert(number);
        }
    }
    assert_eq!(connections.len(), 2, "each caller's is used again");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_load_balancer_says_another_host_is_told_over_http_2_and_in_checks() {
    let v1 = Upstream::named("one").await;
    let inner = Setup { http: FROM_HERE, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let behind = format!("http://{}", inner.address);
    let pool = "http2 = true\nproxy_protocol = 'v2'\nhealth = { path = '/healthz', interval = '50ms' }";
    let (v1, v2) = (vec![behind.clone()], vec![behind]);
    let outer = Setup { http: FROM_HERE, v1, v2, pool, ..Setup::of(&[], &[]) }.start().await;
    for caller in ["192.0.2.7", "192.0.2.8", "192.0.2.7"] {
        let said = after(&outer, format!("PROXY TCP4 {caller} 10.0.0.1 51000 443\r\n")).await;
        // The outer host says it in the field, and the inner one has it from the header.
        assert!(said.contains(&format!(r#""x-forwarded-for":"{caller}""#)), "{said}");
    }
    outer.app.shut_down().await;
    inner.app.shut_down().await;
}

#[test]
fn trust_in_whoever_connects_is_refused_and_in_everybody_warned_of() {
    let with = |http: &'static str, pool: &'static str| {
        let setup =
            Setup { v1: vec!["http://a".into()], v2: vec!["http://b".into()], http, pool, ..Setup::of(&[], &[]) };
        Config::parse(&setup.text(), &crate::harness::root(), &[])
    };
    for (http, pool, words) in [
        (
            "proxy_protocol = true",
            "",
            "`host.http.proxy_protocol_from` is missing: whoever connects could say who it is",
        ),
        ("proxy_protocol_from = ['::1']", "", "`host.http.proxy_protocol_from` is for `proxy_protocol = true`"),
        ("proxy_protocol = true\nproxy_protocol_from = ['here']", "", "has `here`; it must be an address or a network"),
        ("", "proxy_protocol = 'v3'", "`migrations.shop.v1.proxy_protocol` is `v3`; it must be `v1` or `v2`"),
    ] {
        let refused = with(http, pool).unwrap_err().to_string();
        assert!(refused.contains(words), "{http} {pool}: {refused}");
    }
    let everybody = with("proxy_protocol = true\nproxy_protocol_from = ['0.0.0.0/0']", "").unwrap();
    let advice: Vec<_> = advice(&everybody).iter().map(ToString::to_string).collect();
    assert!(advice.iter().any(|said| said.contains("proxy_protocol_from` trusts everybody")), "{advice:?}");
}
