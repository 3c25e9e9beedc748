//! How workers live, fail and are replaced.

use std::time::Duration;

use cutover_model::{clock, request::FailureKind};
use cutover_traffic::pool::lifecycle::WorkerState;
use serde_json::json;
use tokio::runtime;

use super::{Pool, kill};
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_while_it_is_idle_is_replaced_at_once() {
    let pool = Pool::start(&[], "workers = 2\nrestarts = { count = 100 }").await;
    let mut whole = Vec::new();
    for _ in 0..10 {
        // It has proven itself.
        let who = pool.call("who", None, &json!({})).await.unwrap();
        let pid = u32::try_from(who["pid"].as_u64().unwrap()).unwrap();
        let killed = clock::mono();
        kill(pid);
        eventually("its end", async || (!pool.inner.pids().contains(&pid)).then_some(())).await;
        pool.whole_without(pid).await;
        whole.push(clock::mono().since(killed));
    }
    whole.sort_unstable();
    eprintln!("whole again after a death: median {:?}, longest {:?}", whole[whole.len() / 2], whole[whole.len() - 1]);
    assert_eq!(pool.inner.members().failures, 10);
    let past = pool.inner.past_workers();
    let why = &past.last().unwrap().history.last().unwrap().why;
    assert!(why.contains("signal: 9"), "{why}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_in_a_call_goes_through_all_states_to_its_end() {
    let pool = Pool::start(&[], "workers = 1").await;
    let failure = pool.call("do", None, &json!({ "what": "crash" })).await.unwrap_err();
    assert_eq!((failure.kind, failure.sent), (FailureKind::Connection, true), "{failure}");
    eventually("its replacement", async || (!pool.inner.past_workers().is_empty()).then_some(())).await;
    let past = pool.inner.past_workers();
    let stages: Vec<_> = past[0].history.iter().map(|c| c.state.name()).collect();
    assert_eq!(stages, ["initializing", "ready", "busy", "terminating", "terminated"]);
    assert!(past[0].history[4].why.contains("exit status: 70"), "{past:?}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_fails_its_checks_is_degraded_and_then_replaced() {
    let settings = "workers = 1\nhealth_interval = '100ms'\nhealth_failures = 10";
    let pool = Pool::start(&["sick=sick"], settings).await;
    let first = pool.inner.pids()[0];
    pool.touch("sick");
    pool.until("a degraded worker", |w| w.state == WorkerState::Degraded && w.failed_checks > 1).await;
    assert!(pool.call("who", None, &json!({})).await.is_ok(), "there is no other");
    std::fs::remove_file(pool.file("sick")).unwrap();
    let well = pool.until("a worker that is well again", |w| w.state == WorkerState::Ready).await;
    assert_eq!((well.pid, well.failed_checks), (Some(first), 0));
    pool.touch("sick");
    eventually("its end", async || (!pool.inner.pids().contains(&first)).then_some(())).await;
    std::fs::remove_file(pool.file("sick")).unwrap();
    pool.whole_without(first).await;
    let past = pool.inner.past_workers();
    let ended: Vec<_> = past[0].history.iter().map(|c| c.why.as_str()).collect();
    assert!(ended.iter().any(|why| why.starts_with("failed 10 health checks in a row")), "{ended:?}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_of_restarts_is_said_and_the_pool_goes_on_slowly() {
    let settings = "workers = 1\nrestarts = { count = 3, within = '1h' }";
    let pool = Pool::start(&["broken=broken", "trace=trace"], settings).await;
    pool.touch("broken");
    kill(pool.inner.pids()[0]);
    let said = async || pool.inner.why_not_whole().filter(|why| why.contains("has spent its restarts"));
    let why = eventually("a spent budget", said).await;
    assert!(why.contains("one") || why.contains("once each 30s"), "{why}");
    assert!(why.contains("ended at its start (exit status: 1)"), "{why}");
    let mut failed = 0;
    eventually("the death and three starts", async || {
        failed += pool.inner.members().failures;
        (failed == 4).then_some(())
    })
    .await;
    let asked = clock::mono();
    let limit = Duration::from_millis(300);
    let failure = pool.call_within(limit, "who", None, &json!({})).await.unwrap_err();
    assert!(!failure.sent && clock::mono().since(asked) < Duration::from_secs(5), "{failure}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_up_calls_are_answered_before_a_worker_is_ready() {
    let calls = "calls = [{ operation = 'who' }, { operation = 'wait', arguments = { ms = 5 } }]";
    let pool =
        Pool::start(&["trace=trace"], &format!("workers = 2\nwarm_up = {{ order = 'sequential', {calls} }}")).await;
    let one = ["start", "health_check", "who", "wait"];
    assert_eq!(pool.traced(), [one, one].concat(), "one worker after the other");
    pool.inner.shut_down().await;

    let refused = "workers = 1\nwarm_up = { calls = [{ operation = 'refuse' }] }";
    let pool = Pool::closed(&[], refused);
    pool.inner.open();
    let why = eventually("a reason", async || pool.inner.why_not_whole()).await;
    assert!(why.contains("its warm-up call `refuse` was refused"), "{why}");
    assert!(!pool.inner.is_ready());
    pool.inner.shut_down().await;

    let slow =
        "workers = 1\nwarm_up = { timeout = '50ms', calls = [{ operation = 'wait', arguments = { ms = 60000 } }] }";
    let pool = Pool::closed(&[], slow);
    pool.inner.open();
    let why = eventually("a reason", async || pool.inner.why_not_whole()).await;
    assert!(why.contains("`wait` was not answered within 50ms"), "{why}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn staged_starts_have_so_many_under_way_at_once_and_no_more() {
    let settings = "workers = 6\nwarm_up = { order = 'staged', stage = 2, calls = [{ operation = 'wait', arguments = { ms = 50 } }] }";
    let pool = Pool::closed(&[], settings);
    pool.inner.open();
    let mut most = 0;
    eventually("all workers", async || {
        most = most.max(pool.states().iter().filter(|s| **s == "initializing").count());
        (pool.inner.members_now().ready == 6).then_some(())
    })
    .await;
    assert!((1..=2).contains(&most), "{most}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_asked_before_they_are_killed() {
    let settings = "workers = 1\nstop = { close = '60s', term = '60s' }";
    let pool = Pool::start(&[], settings).await;
    pool.inner.shut_down().await;
    let last = &pool.inner.workers()[0];
    assert_eq!(
        last.history.last().map(|c| (c.state, c.why.as_str())),
        Some((WorkerState::Terminated, "exit status: 0"))
    );

    // Does not end with its input, and not by SIGTERM.
    let pool = Pool::start(&["stubborn"], "workers = 1\nstop = { close = '50ms', term = '50ms' }").await;
    let asked = clock::mono();
    pool.inner.shut_down().await;
    assert!(clock::mono().since(asked) >= Duration::from_millis(100), "both times");
    let last = &pool.inner.workers()[0];
    assert!(last.history.last().unwrap().why.contains("signal: 9"), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_waits_for_calls_and_turns_away_those_that_wait() {
    let pool = Pool::start(&[], "workers = 1\ndrain_timeout = '60s'").await;
    let (long, ms) = (json!({ "ms": 300 }), json!({ "ms": 0 }));
    let running = pool.call("wait", None, &long);
    let queued = async {
        eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
        tokio::join!(pool.call("wait", None, &ms), async {
            eventually("a queue", async || (pool.inner.members_now().queued == 1).then_some(())).await;
            pool.inner.shut_down().await;
        })
        .0
    };
    let (running, queued) = tokio::join!(running, queued);
    assert!(running.is_ok(), "{running:?}");
    let turned_away = queued.unwrap_err();
    assert_eq!((turned_away.kind, turned_away.sent), (FailureKind::System, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_is_closed_while_it_starts_calls_that_off() {
    let pool = Pool::closed(&["sleepy=sleepy"], "workers = 2\nstart_timeout = '1h'");
    pool.touch("sleepy");
    pool.inner.open();
    let both = || pool.states() == ["initializing"; 2];
    eventually("both to start", async || both().then_some(())).await;
    pool.inner.shut_down().await;
    assert_eq!(pool.states(), ["terminated"; 2]);
    assert_eq!(pool.inner.members().failures, 0, "that says nothing about the workers");
}

/// Threads that serve requests call a pool that lives elsewhere. Here its own runtime stands still meanwhile, so that a
/// call which needs it is never answered.
#[test]
fn whoever_calls_a_worker_waits_for_it_without_the_pools_runtime() {
    let single = || runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (home, callers) = (single(), [single(), single()]);
    let pool = home.block_on(Pool::start(&[], "workers = 1"));
    // More than a pipe holds, both ways.
    let large = "v".repeat(1 << 20);
    for n in 0..10 {
        for (at, caller) in callers.iter().enumerate() {
            let arguments = json!({ "key": "k", "value": format!("{n} {at} {large}") });
            caller.block_on(pool.call("put", Some("s"), &arguments)).unwrap();
            let state = caller.block_on(pool.get("s"));
            assert!(state["state"]["k"] == arguments["value"], "{n} {at}");
        }
    }
    // What was registered with a runtime that ended is so no more.
    let [first, second] = callers;
    drop(second);
    let answer = first.block_on(pool.call("who", None, &json!({})));
    assert!(answer.is_ok(), "{answer:?}");
    home.block_on(pool.inner.shut_down());
}
