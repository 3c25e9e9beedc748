//! What a commit takes in each database: a decision, a check with its calls, an entry of a journal. SQLite in a file, and
//! PostgreSQL at a Unix socket of this machine as it is installed, which syncs each commit to the disk, and without that
//! (`synchronous_commit = off`), which is what SQLite does here. `cargo bench --bench store -- [--rounds=N]`
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]

use std::{sync::Arc, time::Duration};

use cutover_model::{
    clock::{self, UnixMs},
    port::{Phase, Verdict},
    request::Ppm,
};
use cutover_policy_host::{
    history::synthetic::Synthetic,
    record::{Call, Memory, Question, Role},
};
use cutover_store::{Store, postgres_server::Server, records::Decision, state::State};
use cutover_traffic::{
    observe::marks::Marks,
    pool::journal::{Entry, Keep},
};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// How often each is done, unless it is said.
const ROUNDS: usize = 500;

/// Times of one kind of commit, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort();
        Self(all)
    }

    fn quantile(&self, percent: usize) -> f64 {
        let at = (self.0.len().saturating_sub(1)) * percent / 100;
        self.0.get(at).copied().unwrap_or_default().as_secs_f64() * 1_000.0
    }
}

async fn decisions(store: &Store, rounds: usize) -> Times {
    let mut all = Vec::new();
    for n in 0..rounds {
        let state = State { phase: Phase::Ramping, share: Ppm::new(50_000), ..State::new(UnixMs(1)) };
        let decision = Decision {
            id: 0,
            migration: "shop".into(),
            at: UnixMs(1_800_000_000_000 + n as u64),
            kind: "advance".into(),
            actor: "policy".into(),
            reason: "a reason of some length, as policies give it".into(),
            from_phase: Phase::Ramping,
            to_phase: Phase::Ramping,
            from_share: Ppm::ZERO,
            to_share: state.share,
            policy: Some("standard-stages@0.1.0".into()),
            digest: Some("00".repeat(32)),
            findings: Vec::new(),
            inputs: None,
        };
        let started = clock::mono();
        store.decide(&decision, &state, None).await.unwrap();
        all.push(clock::mono().since(started));
    }
    Times::of(all)
}

async fn checks(store: &Store, rounds: usize) -> Times {
    let mut all = Vec::new();
    let recorded = Synthetic { checks: rounds as u64, batches: 5, ..Synthetic::default() };
    for recorded in recorded {
        let (at, check) = (recorded.check.now_ms, recorded.check);
        let call = Call {
            at,
            role: Role::Active,
            policy: "sequential@0.1.0".into(),
            digest: "00".repeat(32),
            wasi_stub: false,
            settings: "{}".into(),
            question: Question::Rollback(check.clone()),
            memory: Memory(at.0.to_le_bytes().repeat(128)),
            answer: json!({ "ok": { "verdict": "healthy", "findings": [] } }),
            memory_after: Memory((at.0 + 1).to_le_bytes().repeat(128)),
            fuel: 300_000,
            took_us: 100,
        };
        let started = clock::mono();
        store.record_check("shop", &check, Some(Verdict::Healthy), &(0, Marks::default())).await.unwrap();
        store.log_calls("shop", &[call]).await.unwrap();
        all.push(clock::mono().since(started));
    }
    Times::of(all)
}

async fn entries(store: &Store, rounds: usize) -> Times {
    let (keeper, inbox) = mpsc::channel(8);
    let keeping = TaskTracker::new().spawn(store.clone().keep_journal("shop".into(), inbox));
    let mut all = Vec::new();
    for n in 0..rounds {
        let (kept, told) = oneshot::channel();
        let entry = Entry {
            version: n as u64 + 1,
            operation: "create".into(),
            arguments: Arc::new(serde_json::from_value(json!({ "id": n, "text": "some text" })).unwrap()),
            key: Some(n.to_string()),
            removes: false,
        };
        let started = clock::mono();
        keeper.send(Keep { session: "s".into(), entry, kept }).await.unwrap();
        told.await.unwrap().unwrap();
        all.push(clock::mono().since(started));
    }
    drop(keeper);
    keeping.await.unwrap();
    Times::of(all)
}

async fn measure(name: &str, store: Store, rounds: usize) {
    for (what, times) in [
        ("decision", decisions(&store, rounds).await),
        ("check and call", checks(&store, rounds).await),
        ("journal entry", entries(&store, rounds).await),
    ] {
        println!("{name:24} {what:16} p50 {:7.3} ms   p99 {:7.3} ms", times.quantile(50), times.quantile(99));
    }
    println!("{name:24} {:16} {} bytes", "size", store.bytes().await.unwrap());
    store.close().await;
}

#[tokio::main]
async fn main() {
    let rounds = std::env::args().find_map(|word| word.strip_prefix("--rounds=").and_then(|n| n.parse().ok()));
    let rounds = rounds.unwrap_or(ROUNDS);
    let folder = TempDir::new().unwrap();
    measure("SQLite", Store::open(&folder.path().join("bench.db")).await.unwrap(), rounds).await;
    for (name, settings) in [("PostgreSQL", vec![]), ("PostgreSQL, not synced", vec!["synchronous_commit=off"])] {
        let Some(server) = Server::start(&settings) else { return };
        measure(name, server.store().await, rounds).await;
    }
}
