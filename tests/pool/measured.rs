//! What pools say of themselves, and what they make of it.

use std::{sync::Arc, time::Duration};

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Pool;
use crate::harness::{Setup, eventually, pool};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_shows_what_its_workers_use() {
    let pool = Pool::start(&["leak"], "workers = 2").await;
    let before = eventually("a sample", async || pool.inner.workers().into_iter().find_map(|w| w.uses)).await.usage;
    assert!(before.rss_bytes > 1 << 20 && before.threads >= 1 && before.descriptors.unwrap() >= 3, "{before:?}");
    for _ in 0..40 {
        pool.call("who", Some("s"), &json!({})).await.unwrap();
    }
    let grown = |w: &cutover_traffic::pool::workers::WorkerView| {
        w.uses.is_some_and(|used| used.usage.rss_bytes > before.rss_bytes + (30 << 20) && used.cpu_ppm.is_some())
    };
    let worker = pool.until("a worker that has grown", grown).await;
    assert!(worker.age_ms > 0);
    let view = pool.inner.view();
    assert_eq!((view.wanted, view.states["ready"], view.load.served), (2, 2, 40), "{view:?}");
    assert!(view.load.created_per_minute >= 2 && view.rss_bytes > before.rss_bytes, "{view:?}");
    assert!(pool.inner.gauges().iter().any(|g| g.name == "v2.utilisation-ppm"));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_grows_under_load_and_shrinks_after_it() {
    let settings = "workers = { min = 1, max = 3, overflow = 1, overflow_idle = '1s' }\n\
                    optimizer = { window = '1s', cool_down = '1s', grow_above = 80, max_overflow = 1 }";
    let pool = Arc::new(Pool::start(&[], settings).await);
    let mut callers = JoinSet::new();
    for n in 0..8 {
        let pool = Arc::clone(&pool);
        callers.spawn(async move {
            loop {
                pool.call("wait", Some(&n.to_string()), &json!({ "ms": 20 })).await.unwrap();
            }
        });
    }
    eventually("a grown pool", async || (pool.inner.members_now().wanted == 3).then_some(())).await;
    eventually("its workers", async || (pool.inner.members_now().ready >= 3).then_some(())).await;
    callers.shutdown().await;
    eventually("a shrunken pool", async || (pool.inner.members_now().wanted == 1).then_some(())).await;
    eventually("one worker", async || (pool.inner.pids().len() == 1).then_some(())).await;
    let sizes = pool.inner.view().sizes;
    let steps: Vec<_> = sizes.iter().map(|s| (s.from_workers, s.to_workers)).collect();
    assert_eq!(steps, [(1, 2), (2, 3), (3, 2), (2, 1)], "{sizes:?}");
    assert!(sizes[0].why.contains("calls waiting") && sizes[3].why.contains("no calls waiting"), "{sizes:?}");
    assert!(pool.call_within(Duration::from_secs(5), "who", None, &json!({})).await.is_ok());
    Arc::into_inner(pool).unwrap().inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimizer_that_is_switched_off_leaves_the_size_as_it_is() {
    let settings = "workers = { min = 1, max = 3 }\noptimizer = { window = '1s', cool_down = '1s', grow_above = 80 }";
    let pool = Pool::start(&[], settings).await;
    pool.inner.switch_optimizer(false);
    let long = json!({ "ms": 4_000 });
    let calls = (0..3).map(|_| pool.call("wait", None, &long));
    let mut seen = 0;
    let watched = async {
        // Long enough that it would have grown twice.
        eventually("three seconds of work", async || {
            seen = seen.max(pool.inner.members_now().wanted);
            (pool.inner.view().load.served >= 1 && pool.inner.workers()[0].age_ms > 4_000).then_some(())
        })
        .await;
    };
    let calls: Vec<_> = calls.collect();
    let mut calls = calls.into_iter();
    let (a, b, c) = (calls.next().unwrap(), calls.next().unwrap(), calls.next().unwrap());
    let (.., ()) = tokio::join!(a, b, c, watched);
    assert_eq!((seen, pool.inner.view().sizes.len()), (1, 0));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_are_shown_on_the_admin_plane_and_in_metrics() {
    let setup = Setup { v2: pool("concurrent", 2, &[]), ..Setup::default() };
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == cutover_model::port::Phase::Shadow).await;
    assert_eq!(host.http.create("s").await.status, 200);
    let shown = eventually("samples", async || {
        let shown = host.http.admin(Method::GET, "/api/v1/migrations/programs/pools", &Value::Null).await.body;
        shown.pointer("/pools/1/workers/1/uses/rss_bytes").is_some().then_some(shown)
    })
    .await;
    assert_eq!((&shown["pools"][0]["pool"], &shown["pools"][1]["mode"]), (&json!("v1"), &json!("concurrent")));
    let history = shown["pools"][1]["workers"][0]["history"].as_array().unwrap();
    assert_eq!((&history[0]["state"], &history[1]["state"]), (&json!("initializing"), &json!("ready")));
    let text = host.http.admin(Method::GET, "/metrics", &Value::Null).await.body;
    let text = text.as_str().unwrap();
    for metric in [
        "cutover_pool_workers{migration=\"programs\",pool=\"v2\",state=\"ready\"}",
        "cutover_worker_rss_bytes{migration=\"programs\",pool=\"v1\",slot=\"0\"}",
        "cutover_queue_wait_seconds{migration=\"programs\",pool=\"v1\",percentile=\"99\"}",
        "cutover_failed_attempts_total{migration=\"programs\",pool=\"v2\",category=\"timeout\"} 0",
    ] {
        assert!(text.contains(metric), "no {metric}");
    }
    let both_ready = async || {
        let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
        (status["pools"][1]["states"] == json!({ "ready": 2 })).then_some(())
    };
    eventually("two workers that are ready", both_ready).await;
    let gauge = || host.migration().split.v1.gauges().into_iter().find(|g| g.name == "v1.utilisation-ppm");
    eventually("a gauge", async || gauge()).await;
    host.app.shut_down().await;
}
