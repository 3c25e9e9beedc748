//! Workers that misbehave in every way: callers get an answer in time, memory is bounded, and the pool is whole again.

use std::{sync::Arc, time::Duration};

use cutover_model::{
    clock,
    request::{Class, FailureKind},
};
use cutover_traffic::pool::Call;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Pool, kill, resident};
use crate::harness::eventually;

/// What callers wait at most.
const LIMIT: Duration = Duration::from_secs(2);

/// More than any fault may cost this process, and far less than what workers flood or announce.
const MEMORY: u64 = 64 << 20;

/// So many restarts that none of these tests spends them.
const MANY: &str = "restarts = { count = 10000 }";

/// A worker does something bad: its caller hears of it within its time, other calls are served, and the pool is whole
/// again.
async fn survives(what: &str, kind: Option<FailureKind>) {
    let pool = Pool::start(&[], &format!("workers = 2\n{MANY}")).await;
    let before = resident();
    for _ in 0..3 {
        let asked = clock::mono();
        let answer = pool.call_within(LIMIT, "do", None, &json!({ "what": what })).await;
        let took = clock::mono().since(asked);
        // A busy machine may be late by some timer ticks, never by a wait that was not bounded.
        assert!(took < LIMIT * 2, "{what}: {took:?}");
        assert_eq!(answer.as_ref().err().map(|f| f.kind), kind, "{what}: {answer:?}");
        if kind.is_some() {
            assert!(answer.unwrap_err().sent);
        }
        assert!(pool.call_within(LIMIT, "who", None, &json!({})).await.is_ok(), "{what}: others are served");
    }
    let whole = async || (pool.inner.members_now().ready == 2 && pool.inner.pids().len() == 2).then_some(());
    eventually("a whole pool", whole).await;
    let failures = pool.inner.members().failures;
    assert_eq!(failures, if kind.is_some() { 3 } else { 0 }, "{what}");
    assert!(resident().saturating_sub(before) < MEMORY, "{what}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hangs() {
    survives("hang", Some(FailureKind::Timeout)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_prints_where_frames_stand_is_told_what_it_printed() {
    survives("print", Some(FailureKind::Communication)).await;
    let pool = Pool::start(&[], &format!("workers = 1\n{MANY}")).await;
    let answer = pool.call_within(LIMIT, "do", None, &json!({ "what": "print" })).await;
    let said = answer.unwrap_err().message;
    assert!(said.contains("prints `Loading the model ...` on its standard output"), "{said}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_floods_its_output() {
    survives("stdout", Some(FailureKind::Communication)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_floods_its_log() {
    survives("stderr", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_writes_half_a_frame() {
    survives("half", Some(FailureKind::Connection)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_announces_4_gib() {
    survives("huge", Some(FailureKind::Communication)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_answers_another_call() {
    survives("wrong-id", Some(FailureKind::Communication)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_writes_garbage() {
    survives("garbage", Some(FailureKind::Communication)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_writes_byte_by_byte() {
    survives("slow", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_crashes() {
    survives("crash", Some(FailureKind::Connection)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_is_busy() {
    let pool = Pool::start(&[], &format!("workers = 2\n{MANY}")).await;
    let busy = json!({ "ms": 60_000 });
    let (answer, ()) = tokio::join!(pool.call("wait", Some("s"), &busy), async {
        let worker = pool.until("a busy worker", |w| w.state.name() == "busy").await;
        kill(worker.pid.unwrap());
        pool.whole_without(worker.pid.unwrap()).await;
    });
    let failure = answer.unwrap_err();
    assert_eq!((failure.kind, failure.sent), (FailureKind::Connection, true), "{failure}");
    pool.inner.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_while_it_starts() {
    let pool = Pool::start(&["sleepy=sleepy"], &format!("workers = 2\n{MANY}")).await;
    pool.touch("sleepy");
    let pids = pool.inner.pids();
    kill(pids[0]);
    pool.until("a start", |w| w.state.name() == "initializing").await;
    // The guard becomes the worker, so the process that starts is a child of this one.
    let starting =
        eventually("its process", async || children().into_iter().find(|pid| is_starting(*pid, &pool))).await;
    kill(starting);
    let failed = async || pool.inner.past_workers().into_iter().find(|w| w.history.len() == 2);
    let failed = eventually("a failed start", failed).await;
    assert!(failed.history[1].why.contains("signal: 9"), "{failed:?}");
    std::fs::remove_file(pool.file("sleepy")).unwrap();
    assert!(pool.call_within(LIMIT, "who", None, &json!({})).await.is_ok(), "the other serves meanwhile");
    pool.whole_without(pids[0]).await;
    pool.inner.shut_down().await;
}

/// Processes that this one started.
fn children() -> Vec<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let all: Vec<_> = tasks.map(|task| of(task.unwrap())).collect();
    all.concat().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Whether a process is a worker of this pool that is not ready yet.
fn is_starting(pid: u32, pool: &Pool) -> bool {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.contains(pool.folder.path().to_str().unwrap()) && !pool.inner.pids().contains(&pid)
}

/// A hundred sessions with fifty operations each, while workers are killed at random: each sees its own state and all of
/// it, whichever worker serves it.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_sees_anothers_state_while_workers_are_killed_at_random() {
    const SESSIONS: usize = 100;
    const OPERATIONS: usize = 50;
    let pool = Arc::new(
        Pool::start(&[], &format!("workers = {{ min = 4, overflow = 2 }}\n{MANY}\nbreaker = {{ enabled = false }}"))
            .await,
    );
    let mut sessions = JoinSet::new();
    for n in 0..SESSIONS {
        sessions.spawn(session(Arc::clone(&pool), format!("session-{n}"), OPERATIONS));
    }
    let mut kills = JoinSet::new();
    let killing = Arc::clone(&pool);
    kills.spawn(async move {
        // Chance from where sessions happen to be; the seed does not matter.
        let mut chance = 12_345_usize;
        loop {
            tokio::time::sleep(Duration::from_millis(60)).await;
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pids = killing.inner.pids();
            if let Some(pid) = pids.get((chance >> 33) % pids.len().max(1)) {
                kill(*pid);
            }
        }
    });
    let outcomes = sessions.join_all().await;
    kills.shutdown().await;
    let (answered, failed) = outcomes.iter().fold((0, 0), |(a, f), (answered, failed)| (a + answered, f + failed));
    eprintln!("{answered} operations answered, {failed} not, {} workers died", pool.inner.members().failures);
    assert_eq!(answered + failed, SESSIONS * OPERATIONS);
    assert!(failed * 10 < answered, "retries have hidden most deaths: {failed} of {answered}");
    eventually("a whole pool", async || (pool.inner.members_now().ready >= 4).then_some(())).await;
    for n in 0..SESSIONS {
        let state = pool.get(&format!("session-{n}")).await["state"].clone();
        let own = |value: &Value| value.as_str().unwrap().starts_with(&format!("session-{n}:"));
        assert!(state.as_object().unwrap().values().all(own), "{state}");
        assert_eq!(state.as_object().unwrap().len(), OPERATIONS.div_ceil(5), "nothing that was kept is lost");
    }
    pool.inner.shut_down().await;
}

/// Puts something into the session with every fifth operation and reads all of it with the others.
async fn session(pool: Arc<Pool>, name: String, operations: usize) -> (usize, usize) {
    let (mut kept, mut answered, mut failed) = (0, 0, 0);
    let (id, nothing) = (Arc::<str>::from(name.as_str()), serde_json::Map::new());
    for n in 0..operations {
        if n % 5 == 0 {
            pool.put(&name, &format!("k{kept}"), &format!("{name}:{kept}")).await;
            kept += 1;
        }
        let deadline = clock::mono() + Duration::from_secs(20);
        let call = Call { operation: "get", arguments: &nothing, session: Some(&id), deadline };
        match pool.inner.serve(call, Class::Read).await.result {
            Ok(cutover_model::request::Answer::Success(result)) => {
                let result: Value = serde_json::from_str(result.get()).unwrap();
                let state = result["state"].as_object().unwrap();
                assert_eq!(result["session"], *name);
                assert_eq!(state.len(), kept, "all of its own: {state:?}");
                for (key, value) in state {
                    assert_eq!(value.as_str().unwrap(), format!("{name}:{}", &key[1..]), "and nothing else");
                }
                answered += 1;
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => failed += 1,
        }
    }
    (answered, failed)
}
