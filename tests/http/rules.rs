//! Fields that are set and removed, and callers who may send only so much.

use super::*;

/// What an answer says that was asked for over a socket, with its fields.
fn said(reply: &Reply, name: &str) -> Value {
    reply.json()["headers"][name].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_set_and_removed_both_ways_and_the_later_rule_has_the_last_word() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
    let migration = "match = [{ host = '*' }]\n\
        [migrations.shop.headers]\n\
        request = { set = { X-Env = 'blue', x-both = 'migration' }, remove = ['x-debug'] }\n\
        response = { set = { strict-transport-security = 'max-age=60', x-both = 'migration' } }\n\
        [migrations.shop.operations.order]\n\
        class = 'exclusive'\n\
        path = '/order'\n\
        headers = { request = { set = { x-both = 'operation', host = 'orders.internal' } }, \
                    response = { remove = ['strict-transport-security'] } }";
    let pool = "headers = { request = { set = { x-pool = 'yes' }, remove = ['x-forwarded-host'] }, \
                response = { remove = ['content-type', 'date'], set = { x-both = 'pool' } } }";
    let site = Setup { migration, pool, ..Setup::of(&[&v1], &[&v2]) }.start().await;
    let reply = site.send(get("/", &[("x-debug", "1"), ("x-env", "red"), ("x-pool", "no"), ("x-kept", "1")])).await;
    for (name, value) in [("x-env", "blue"), ("x-both", "migration"), ("x-pool", "yes"), ("x-kept", "1")] {
        assert_eq!(said(&reply, name), value, "{name}: {reply:?}");
    }
    for gone in ["x-debug", "x-forwarded-host"] {
        assert_eq!(said(&reply, gone), Value::Null, "{gone}");
    }
    assert_eq!((reply.header("strict-transport-security"), reply.header("x-both")), ("max-age=60", "pool"));
    assert_eq!(reply.header("x-cutover-pool"), "v1", "what the host says stays");
    // Bodies that come go another way than those that are here.
    for request in [post("/order", "12345"), post("/order", vec![b'x'; 100_000])] {
        let reply = site.send(request).await;
        assert_eq!((said(&reply, "host"), said(&reply, "x-both")), (json!("orders.internal"), json!("operation")));
        assert_eq!((said(&reply, "x-env"), said(&reply, "x-pool")), (json!("blue"), json!("yes")));
        assert_eq!((reply.header("strict-transport-security"), reply.header("x-both")), ("", "pool"));
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_host_that_is_set_is_the_authority() {
    let v1 = Upstream::http2_too("one", true).await;
    let pool = "http2 = true\nheaders = { request = { set = { host = 'inner.example', x-pool = 'yes' } } }";
    let site = Setup { pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let reply = site.get("/a").await;
    assert_eq!(reply.json()["target"], "http://inner.example/a");
    assert_eq!(said(&reply, "x-pool"), "yes");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrored_requests_and_checks_are_sent_what_their_pools_are_sent() {
    let (heads, mut seen) = mpsc::channel(1_000);
    let upstream = async |name: &'static str| {
        let heads = heads.clone();
        Upstream::raw(move |mut stream| {
            let heads = heads.clone();
            async move {
                loop {
                    let head = head(&mut stream).await;
                    if head.is_empty() {
                        return;
                    }
                    drop(heads.try_send((name, head)));
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    };
    let (v1, v2) = (upstream("one").await, upstream("two").await);
    let migration = "match = [{ host = '*' }]\nheaders = { request = { set = { x-env = 'blue' } } }";
    let pool = "headers = { request = { set = { x-key = 'secret' } } }\nhealth = { path = '/health', interval = '1h' }";
    let setup = Setup { migration, pool, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) };
    let site = setup.start().await;
    let mirrored = timeout(PATIENCE, async {
        loop {
            assert_eq!(site.get("/read").await.status, 200);
            while let Ok((name, head)) = seen.try_recv() {
                assert!(head.contains("x-key: secret\r\n"), "{name}: {head}");
                assert_eq!(head.contains("x-env: blue\r\n"), !head.starts_with("GET /health"), "{name}: {head}");
                if name == "two" && head.contains("x-cutover-shadow: 1\r\n") {
                    return;
                }
            }
        }
    });
    mirrored.await.expect("a mirrored request");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_sends_too_much_is_told_when_to_come_back_and_others_are_served() {
    let v1 = Upstream::named("one").await;
    let migration = "match = [{ host = '*' }]\n\
        rate_limit = { rate = '2/h', burst = 3 }\n\
        [migrations.shop.operations]\n\
        search = { class = 'read', path = '/search', rate_limit = { per = 'session', rate = '1/h' } }\n\
        order = { class = 'exclusive', path = '/order' }";
    let site = Setup { http: "trust_forwarded = true", migration, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let by = async |caller: &str, path: &str| site.send(get(path, &[("x-forwarded-for", caller)])).await;
    for path in ["/", "/order", "/"] {
        assert_eq!(by("10.0.0.1", path).await.status, 200, "{path}");
    }
    let refused = by("10.0.0.1", "/order").await;
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (429, Some("rate-limit")), "{refused:?}");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1_700..=1_800).contains(&wait), "{wait} s until one of two in an hour may come");
    assert_eq!(by("10.0.0.2", "/").await.status, 200);
    // An operation with a limit of its own has that one alone.
    let in_session = async |session: &str| {
        let fields = [("x-forwarded-for", "10.0.0.1"), ("x-session-id", session)];
        site.send(get("/search", &fields)).await.status
    };
    assert_eq!([in_session("a").await, in_session("b").await, in_session("a").await], [200, 200, 429]);
    let (all, errors, ..) = site.counted("order", 0, 1).await;
    assert_eq!((all, errors), (1, 0), "what is refused counts for no pool");
    let metrics = admin_says(site.app.admin, "/metrics").await;
    for line in [
        "cutover_rate_limited_total{migration=\"shop\",operation=\"order\"} 1\n",
        "cutover_rate_limited_total{migration=\"shop\",operation=\"search\"} 1\n",
        "cutover_rate_limited_total{migration=\"shop\",operation=\"get\"} 0\n",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    site.app.shut_down().await;
}

/// What the admin plane answers.
async fn admin_says(address: SocketAddr, path: &str) -> String {
    let request = Request::get(path).header("host", address.to_string()).body(Full::<Bytes>::default()).unwrap();
    let body = try_open(address, request).await.unwrap().into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn rules_and_limits_that_cannot_be_are_refused_with_what_would_be_right() {
    let migration = "match = [{ host = '*' }]\n\
        headers = { request = { remove = ['Connection'] } }\n\
        rate_limit = { per = 'planet', rate = '1/s' }\n\
        [migrations.shop.operations]\n\
        a = { class = 'read', path = '/a', rate_limit = { rate = 'fast', burst = 0 } }\n\
        b = { class = 'read', path = '/b', headers = { response = { set = { x-cutover-pool = 'v1' } } } }";
    let pool = "headers = { request = { set = { content-length = '1' } } }";
    let setup =
        Setup { v1: vec!["http://a".into()], v2: vec!["http://b".into()], migration, pool, ..Setup::of(&[], &[]) };
    let refused = Config::parse(&setup.text(), &crate::harness::root(), &[]).unwrap_err().to_string();
    for words in [
        "`migrations.shop.headers.request.remove` has `connection`, which belongs to one connection",
        "`migrations.shop.rate_limit.per` is `planet`; it must be `address` or `session`",
        "`migrations.shop.operations.a.rate_limit.rate` is `fast`; it must be a number from 1 to 1000000",
        "`migrations.shop.operations.a.rate_limit.burst` is 0; it must be between 1 and 1000000",
        "`migrations.shop.operations.b.headers.response.set` has `x-cutover-pool`, which is the host's own",
        "`migrations.shop.v1.headers.request.set` has `content-length`, which says where the message ends",
        "`migrations.shop.v2.headers.request.set` has `content-length`",
    ] {
        assert!(refused.contains(words), "no {words:?} in {refused}");
    }
}
