//! What is done about calls that fail: retries, the circuit breaker, and what is never repeated.

use std::time::Duration;

use cutover_model::{
    clock,
    request::{Class, FailureKind},
};
use cutover_traffic::pool::{Backing, Call, breaker::Position, workers::Tried};
use serde_json::{Value, json};

use super::{Pool, kill};
use crate::harness::eventually;

impl Pool {
    async fn serve(&self, class: Class, operation: &str, arguments: &Value) -> Tried {
        let arguments = arguments.as_object().unwrap().clone();
        let deadline = clock::mono() + Duration::from_secs(10);
        self.inner.serve(Call { operation, arguments: &arguments, session: None, deadline }, class).await
    }

    fn breaker(&self, operation: &str) -> Position {
        self.inner.breakers().iter().find(|b| &*b.operation == operation).unwrap().state
    }
}

/// How often workers were called so.
fn calls(pool: &Pool, operation: &str) -> usize {
    pool.traced().iter().filter(|line| *line == operation).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_kills_workers_is_tried_as_often_as_the_table_says_and_nothing_else_is() {
    let settings = "workers = 1\nrestarts = { count = 1000 }\nbreaker = { enabled = false }\n\
                    errors = { connection = { retries = 2 } }";
    let pool = Pool::start(&["trace=trace"], settings).await;
    for (class, attempts) in [(Class::Read, 3), (Class::Exclusive, 1), (Class::Replicate, 1)] {
        let before = calls(&pool, "do");
        let tried = pool.serve(class, "do", &json!({ "what": "crash" })).await;
        assert_eq!(tried.failed, Some(FailureKind::Connection), "{tried:?}");
        assert!(tried.result.unwrap_err().sent);
        assert_eq!(calls(&pool, "do") - before, attempts, "{class:?}");
    }
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_helps_the_caller_and_does_not_hide_the_failure() {
    let pool = Pool::start(&[], "workers = 1").await;
    let waits = async { pool.serve(Class::Read, "wait", &json!({ "ms": 500 })).await };
    let kills = async {
        eventually("a busy worker", async || (pool.states() == ["busy"]).then_some(())).await;
        kill(pool.inner.pids()[0]);
    };
    let (tried, ()) = tokio::join!(waits, kills);
    assert!(tried.result.is_ok(), "{tried:?}");
    assert_eq!((tried.failed, pool.inner.retries()), (Some(FailureKind::Connection), 1));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_keeps_failing_is_refused_until_it_works_again() {
    let settings = "workers = 1\nbreaker = { open_for = '300ms' }";
    let pool = Pool::start(&["trace=trace"], settings).await;
    let nothing = json!({});
    for _ in 0..5 {
        let failed = pool.serve(Class::Exclusive, "fail", &nothing).await;
        assert!(failed.result.unwrap_err().sent);
    }
    assert_eq!(pool.breaker("fail"), Position::Open);
    let refused = pool.serve(Class::Read, "fail", &nothing).await.result.unwrap_err();
    assert_eq!((refused.kind, refused.sent, calls(&pool, "fail")), (FailureKind::Resource, false, 5), "{refused}");
    assert!(refused.message.contains("`fail` of programs/v2 has failed too often in a row"), "{refused}");
    assert!(pool.serve(Class::Read, "who", &nothing).await.result.is_ok(), "other operations are not meant");

    eventually("a half-open breaker", async || (pool.breaker("fail") == Position::HalfOpen).then_some(())).await;
    pool.serve(Class::Exclusive, "fail", &nothing).await.result.unwrap_err();
    assert_eq!((pool.breaker("fail"), pool.inner.breakers()[0].opened), (Position::Open, 2));

    pool.inner.switch_breakers(false);
    assert!(pool.serve(Class::Exclusive, "fail", &nothing).await.result.unwrap_err().sent, "switched off");
    pool.inner.switch_breakers(true);
    for _ in 0..4 {
        pool.serve(Class::Exclusive, "fail", &nothing).await.result.unwrap_err();
    }
    assert_eq!(pool.breaker("fail"), Position::Closed, "it begins again");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_start_workers_says_so_at_once() {
    let settings = "workers = 1\nrestarts = { count = 0 }";
    let pool = Pool::start(&["broken=broken"], settings).await;
    pool.touch("broken");
    let pid = pool.inner.pids()[0];
    kill(pid);
    eventually("a spent budget", async || pool.inner.why_not_whole()).await;
    let asked = clock::mono();
    let tried = pool.serve(Class::Read, "who", &json!({})).await;
    assert_eq!(tried.failed, Some(FailureKind::Initialization), "{tried:?}");
    assert!(clock::mono().since(asked) < Duration::from_secs(5), "its deadline is later");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_on_one_operation_leave_the_others_alone_and_cost_no_restarts() {
    let settings = "workers = 2\nrestarts = { count = 1, within = '1h' }";
    let pool = Pool::start(&[], settings).await;
    for n in 1..=6 {
        let (hang, asked) = (json!({ "what": "hang" }), clock::mono());
        let arguments = hang.as_object().unwrap();
        let call = |deadline| Call { operation: "do", arguments, session: None, deadline };
        let tried = pool.inner.serve(call(asked + Duration::from_millis(200)), Class::Exclusive).await;
        let failure = tried.result.unwrap_err();
        let expected = if n <= 5 { FailureKind::Timeout } else { FailureKind::Resource };
        assert_eq!(failure.kind, expected, "its breaker opens after five: {failure}");
        assert!(pool.serve(Class::Exclusive, "who", &json!({})).await.result.is_ok(), "call {n}");
    }
    let view = pool.inner.view();
    assert_eq!((view.deadline_kills, view.restarts_spent), (5, false));
    let told = || pool.inner.gauges().into_iter().find(|gauge| gauge.name == "v2.deadline-kills").map(|g| g.value);
    assert_eq!((told(), told()), (Some(5), None));
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_nobody_stands_behind_goes_on_whatever_its_budget_says() {
    let settings = "workers = 1\nrestarts = { count = 0 }";
    let pool = Pool::start(&[], settings).await;
    kill(pool.inner.pids()[0]);
    eventually("a spent budget", async || pool.inner.view().restarts_spent.then_some(())).await;
    // It would be half a minute, which is longer than calls wait here.
    pool.inner.stand(Backing::Alone);
    for _ in 0..2 {
        let tried = pool.serve(Class::Exclusive, "who", &json!({})).await;
        assert!(tried.result.is_ok(), "{tried:?}");
        let pid = pool.inner.pids()[0];
        kill(pid);
        eventually("its end", async || (!pool.inner.pids().contains(&pid)).then_some(())).await;
    }
    pool.inner.shut_down().await;
}
