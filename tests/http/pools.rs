//! Members of a pool: who gets requests, who is put out, and how many at once.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use cutover_model::clock;

use super::*;

async fn spread(site: &Site, requests: usize) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for _ in 0..requests {
        let reply = site.get("/").await;
        assert_eq!(reply.status, 200, "{reply:?}");
        *names.entry(reply.json()["name"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_fails_is_put_out_and_the_others_serve() {
    let (a, b) = (Upstream::named("a").await, Upstream::named("b").await);
    let pool = "retries = 1\nretry_budget = 100\nejection = { failures = 3, time = '1h', most = 50 }";
    let site = Setup { pool, ..Setup::of(&[&a, &b], &[&a]) }.start().await;
    // One after the other goes to the faster; all at once goes to both.
    let at_once = futures_util::future::join_all((0..20).map(|_| site.get("/slow/100"))).await;
    let on_a = at_once.iter().filter(|reply| reply.body == "a").count();
    assert!((5..=15).contains(&on_a), "{on_a} of 20 went to one of two");
    drop(b);
    let ready = || site.app.host.migrations["shop"].split.v1.members_now().ready;
    let put_out = async || {
        assert_eq!(spread(&site, 5).await["a"], 5, "another one answers");
        (ready() == 1).then_some(())
    };
    eventually("it to be put out", put_out).await;
    let why = site.app.host.migrations["shop"].split.v1.why_not_whole().unwrap();
    assert!(why.contains("is not reached"), "{why}");
    // The only one that is left stays, whatever it does.
    drop(a);
    for _ in 0..5 {
        assert_eq!(site.get("/").await.status, 502);
    }
    assert_eq!(site.app.host.migrations["shop"].split.v1.members_now().ready, 1);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_fail_their_checks_get_nothing_until_they_pass() {
    let well = Arc::new(AtomicBool::new(true));
    let health = Arc::clone(&well);
    let ill = Upstream::raw(move |mut stream| {
        let health = Arc::clone(&health);
        async move {
            while !head(&mut stream).await.is_empty() {
                let status = if health.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
                let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 14\r\n\r\n{{\"name\":\"ill\"}}");
                if stream.write_all(reply.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let good = Upstream::named("good").await;
    let pool = "health = { path = '/healthz', interval = '20ms', failures = 2, successes = 2 }\nretries = 0";
    let site = Setup { pool, ..Setup::of(&[&good, &ill], &[&good]) }.start().await;
    let ready = || site.app.host.migrations["shop"].split.v1.members_now().ready;
    eventually("both to be up", async || (ready() == 2).then_some(())).await;
    well.store(false, Ordering::SeqCst);
    eventually("one to be down", async || (ready() == 1).then_some(())).await;
    assert_eq!(spread(&site, 20).await["good"], 20);
    well.store(true, Ordering::SeqCst);
    eventually("it to be up again", async || (ready() == 2).then_some(())).await;
    assert!(spread(&site, 100).await.contains_key("ill"));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_checks_ends_when_it_was_closed_before() {
    let v1 = Upstream::named("one").await;
    let pool = "health = { path = '/healthz', interval = '10ms' }\ndrain_timeout = '300ms'";
    let site = Setup { pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let pool = site.app.host.migrations["shop"].split.v1.upstreams().unwrap().clone();
    let now = clock::mono();
    // What is never given back makes the pool wait, and its checks with it.
    let _held = pool.check_out(None, None, now + Duration::from_secs(5), now).await.unwrap();
    timeout(Duration::from_secs(20), pool.shut_down()).await.expect("checks end with the pool");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_connection_and_not_too_many_and_not_for_ever() {
    let v1 = Upstream::named("one").await;
    let pool = "max_connections = 1\nmax_waiting = 1";
    let migration = "match = [{ host = '*' }]\ndeadline = '600ms'";
    let site = Setup { migration, pool, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    // Streams hold the only place.
    let stream = site.open(get("/events", &[])).await;
    let waiting = site.get("/");
    let refused = async {
        eventually("one to wait", async || {
            (site.app.host.migrations["shop"].split.v1.members_now().queued == 1).then_some(())
        })
        .await;
        site.get("/").await
    };
    let (waited, refused) = tokio::join!(waiting, refused);
    assert_eq!((waited.status, refused.status), (503, 503));
    assert!(waited.body.contains("in time") && refused.body.contains("is full"), "{waited:?} {refused:?}");
    assert_eq!(refused.header("retry-after"), "1");
    drop(stream);
    eventually("the place to be free", async || (site.in_flight(0) == 0).then_some(())).await;
    assert_eq!(site.get("/").await.status, 200);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_serves_as_many_as_it_may_sheds_v2_before_v1() {
    let v1 = Upstream::named("one").await;
    let site = Setup { http: "max_requests = 10", ..Setup::of(&[&v1], &[&v1]) }.start().await;
    let mut streams = Vec::new();
    for _ in 0..9 {
        streams.push(site.open(get("/events", &[])).await);
    }
    let shed = site.get_from("v2", "/").await;
    assert_eq!((shed.status, shed.header("retry-after")), (503, "1"), "{shed:?}");
    assert_eq!(site.get_from("v1", "/").await.status, 200);
    streams.push(site.open(get("/events", &[])).await);
    assert_eq!(site.get_from("v1", "/").await.status, 503);
    streams.clear();
    eventually("room", async || (site.get_from("v2", "/").await.status == 200).then_some(())).await;
    site.app.shut_down().await;
}
