//! How many workers there are, and how calls wait for them.

use std::time::Duration;

use cutover_model::request::FailureKind;
use serde_json::json;
use tokio::task::JoinSet;

use super::Pool;
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn overflow_serves_calls_that_wait_and_ends_when_it_is_idle() {
    let pool = Pool::start(&[], "workers = { min = 1, overflow = 2, overflow_idle = '1s' }").await;
    let (long, short) = (json!({ "ms": 4_000 }), json!({ "ms": 1 }));
    let regular = pool.inner.pids();
    tokio::join!(async { pool.call("wait", Some("slow"), &long).await.unwrap() }, async {
        eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
        let extra = pool.call("wait", Some("other"), &short).await.unwrap();
        assert_ne!(u64::from(regular[0]), extra["pid"].as_u64().unwrap(), "it need not wait for four seconds");
        assert!(pool.inner.workers().iter().any(|w| w.overflow && w.state.is_up()));
    });
    eventually("the overflow's end", async || (pool.inner.pids() == regular).then_some(())).await;
    let last = pool.until("an end", |w| w.overflow).await;
    assert!(last.history.iter().any(|c| c.why == "calls wait no more"), "{last:?}");
    assert_eq!(pool.inner.members().failures, 0);
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_wait_as_long_as_the_queue_says_and_no_more_of_them_than_it_has_room_for() {
    let pool = Pool::start(&[], "workers = 1\nqueue = { most = 1, timeout = '100ms' }").await;
    let (long, short) = (json!({ "ms": 2_000 }), json!({ "ms": 1 }));
    let (first, (late, full)) = tokio::join!(pool.call("wait", None, &long), async {
        eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
        tokio::join!(pool.call("wait", None, &short), async {
            eventually("a queue", async || (pool.inner.members_now().queued == 1).then_some(())).await;
            pool.call("wait", None, &short).await
        })
    });
    assert!(first.is_ok());
    let (late, full) = (late.unwrap_err(), full.unwrap_err());
    assert_eq!((late.kind, late.sent), (FailureKind::Resource, false));
    assert!(late.message.contains("within") && full.message.contains("is full"), "{late} {full}");
    assert_eq!((full.kind, full.sent), (FailureKind::Resource, false));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_own_deadline_holds_in_the_queue() {
    let pool = Pool::start(&[], "workers = 1\nqueue = { timeout = '1h' }").await;
    let (long, short) = (json!({ "ms": 1_000 }), json!({ "ms": 1 }));
    let (_, late) = tokio::join!(pool.call("wait", None, &long), async {
        eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
        pool.call_within(Duration::from_millis(50), "wait", None, &short).await
    });
    let late = late.unwrap_err();
    assert_eq!((late.kind, late.sent), (FailureKind::Timeout, false));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_call_that_came_last_goes_first_if_the_queue_says_so() {
    for (order, expected) in [("fifo", ["first", "second"]), ("lifo", ["second", "first"])] {
        let pool = Pool::start(&["trace=trace"], &format!("workers = 1\nqueue = {{ order = '{order}' }}")).await;
        let (long, none) = (json!({ "ms": 500 }), json!({}));
        tokio::join!(
            async { pool.call("wait", None, &long).await.unwrap() },
            async {
                eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
                pool.call("first", None, &none).await.unwrap()
            },
            async {
                eventually("a queue", async || (pool.inner.members_now().queued == 1).then_some(())).await;
                pool.call("second", None, &none).await.unwrap()
            },
        );
        assert_eq!(pool.traced()[3..], expected, "{order}");
        pool.inner.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_spread_over_workers_and_stay_where_they_are() {
    let pool = std::sync::Arc::new(Pool::start(&[], "workers = 4").await);
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let pool = std::sync::Arc::clone(&pool);
        calls.spawn(async move {
            let session = (n % 8).to_string();
            (session.clone(), pool.get(&session).await["pid"].as_u64().unwrap())
        });
    }
    let mut homes = std::collections::BTreeMap::new();
    for (session, pid) in calls.join_all().await {
        assert_eq!(*homes.entry(session).or_insert(pid), pid);
    }
    let sessions: Vec<_> = pool.inner.workers().iter().map(|w| w.sessions).collect();
    assert_eq!(sessions, [2, 2, 2, 2]);
    pool.inner.shut_down().await;
}
