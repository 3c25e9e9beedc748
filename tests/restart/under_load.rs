//! Callers that never stop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::task::JoinSet;

use super::*;
use crate::harness::greeting;

/// What a caller does again and again over one connection.
#[derive(Clone, Copy)]
enum Habit {
    Greet,
    Get,
    Post,
    /// Lets the connection rest in between.
    Rest,
}

impl Habit {
    fn request(self, session: &str) -> Request<Full<Bytes>> {
        match self {
            Self::Greet => {
                let body = json!({ "program_id": "greet", "inputs": { "name": session } }).to_string();
                let request = Request::post("/v1/programs/execute").header("host", "shop.example");
                request.header("x-session-id", session).body(Full::from(body)).unwrap()
            }
            Self::Get | Self::Rest => get("/orders", &[("x-session-id", session)]),
            Self::Post => {
                let request = Request::post("/orders").header("host", "shop.example");
                request.header("x-session-id", session).body(Full::from(vec![7; 20_000])).unwrap()
            }
        }
    }
}

/// Calls until it is told to stop; what answered it, which is the same pool each time.
async fn call(mut kept: Kept, habit: Habit, session: String, count: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> String {
    let mut first = None;
    while !stop.load(Ordering::Acquire) {
        let (status, pool, body) =
            kept.send(habit.request(&session)).await.unwrap_or_else(|why| panic!("{session}: {why}"));
        assert_eq!(status, 200, "{session}: {body}");
        if matches!(habit, Habit::Greet) {
            assert!(body.contains(&format!("hello {session}")), "{body}");
        }
        let first = first.get_or_insert_with(|| pool.clone());
        assert_eq!(*first, pool, "{session} is where it was");
        count.fetch_add(1, Ordering::AcqRel);
        if matches!(habit, Habit::Rest) {
            tokio::time::sleep(std::time::Duration::from_millis(40)).await;
        }
    }
    first.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_restarts_under_load_lose_no_request_and_close_no_connection() {
    let plan = Plan { programs: true, pool: "", http: "" };
    let mut hosts = plan.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut counts = Vec::new();
    let mut callers = JoinSet::new();
    for n in 0..32 {
        let (habit, session) = ([Habit::Greet, Habit::Get, Habit::Post, Habit::Rest][n % 4], format!("s{n}"));
        if matches!(habit, Habit::Greet) {
            assert_eq!(hosts.http.create(&session).await.status, StatusCode::OK);
            assert!(greeting(&hosts.http.greet(&session, &[]).await).is_some());
        }
        let count = Arc::<AtomicU64>::default();
        counts.push(Arc::clone(&count));
        callers.spawn(call(hosts.connect().await, habit, session, count, Arc::clone(&stop)));
    }
    all_go_on(&counts, &mut callers, &hosts).await;
    let mut before = Vec::new();
    for migration in plan.migrations() {
        before.push(hosts.status(migration).await);
    }
    hosts.replace().await;
    all_go_on(&counts, &mut callers, &hosts).await;
    hosts.until_ended(0).await;
    hosts.replace().await;
    all_go_on(&counts, &mut callers, &hosts).await;
    hosts.until_ended(1).await;
    all_go_on(&counts, &mut callers, &hosts).await;
    stop.store(true, Ordering::Release);
    let pools = callers.join_all().await;
    assert!(pools.iter().any(|pool| pool == "v1") && pools.iter().any(|pool| pool == "v2"), "{pools:?}");

    for (migration, before) in plan.migrations().iter().zip(before) {
        let after = hosts.status(migration).await;
        for field in ["phase", "stage", "share", "effective_share", "since"] {
            assert_eq!(before[field], after[field], "{migration}: {field}");
        }
        one_controller_at_a_time(&hosts, migration).await;
    }
    let log = hosts.log();
    for wrong in [" ERROR ", "panicked", "not every plan", "without a whole pool"] {
        assert!(!log.contains(wrong), "{wrong}: {log}");
    }
}

/// Waits until every caller was answered a few times more.
async fn all_go_on(counts: &[Arc<AtomicU64>], callers: &mut JoinSet<String>, hosts: &Hosts) {
    let before: Vec<_> = counts.iter().map(|count| count.load(Ordering::Acquire)).collect();
    eventually("every caller to be answered", async || {
        if let Some(ended) = callers.try_join_next() {
            panic!("a caller ended: {ended:?}\n{}", hosts.log());
        }
        counts.iter().zip(&before).all(|(count, before)| count.load(Ordering::Acquire) >= before + 5).then_some(())
    })
    .await;
}

/// Two controllers would each cut batches of their own: those on record would overlap.
async fn one_controller_at_a_time(hosts: &Hosts, migration: &str) {
    let url = format!("http://{}/api/v1/migrations/{migration}/history", hosts.http.admin);
    let reply = hosts.http.send(Method::GET, &url, &[], String::new()).await.unwrap();
    let Value::String(lines) = reply.body else { panic!("{reply:?}") };
    let (mut last, mut batches) = (0, 0);
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        for batch in line["batches"].as_array().into_iter().flatten() {
            let start = batch["start_ms"].as_u64().unwrap();
            // The clock that says when is not the one that says how long.
            assert!(
                start + 50 >= last,
                "{migration}: a batch began at {start}, before the one before it ended at {last}"
            );
            last = start + batch["duration_ms"].as_u64().unwrap();
            batches += 1;
        }
    }
    assert!(batches > 3, "{migration} has {batches}");
}
