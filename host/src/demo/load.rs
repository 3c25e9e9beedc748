//! The callers of the demo: clients with sessions, over HTTP, at a steady rate whatever the host does (an open loop).

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    MIGRATION,
    summary::{Requests, StageSeen, Summary},
};
use cutover_control::migration::Handle;
use cutover_model::{
    clock::UnixMs,
    port::Phase,
    request::{PoolId, Ppm},
};
use cutover_traffic::observe::history::Totals;

/// Sessions, each with a program of its own.
pub(super) const SESSIONS: u32 = 800;

/// Calls per second that the load sends.
pub(super) const RATE: u32 = 250;

/// What a program of the load waits for, in milliseconds.
const WAIT_MS: u32 = 1;

/// A client of the host, which names sessions and, if it wants to, a pool.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

/// The answer to a call: the pool that gave it, the reason, and the body.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) pool: Option<PoolId>,
    pub(super) reason: String,
    pub(super) body: Value,
}

/// The load and what it has seen.
#[derive(Debug)]
pub(super) struct Load {
    caller: Caller,
    handle: Handle,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    counts: Counts,
    stages: BTreeMap<u32, Stage>,
    first_failure: Option<String>,
}

/// What clients have seen so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) total: u64,
    pub(super) failures: u64,
    pub(super) v1: u64,
    pub(super) v2: u64,
    /// Those of `v2` that were sent when a rollback was over.
    pub(super) v2_too_late: u64,
}

#[derive(Debug, Default)]
struct Stage {
    share: Ppm,
    requests: u64,
    /// Sessions and whether they belong to V2.
    sessions: HashMap<u32, bool>,
}

impl Caller {
    pub(super) fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), address }
    }

    /// Calls an operation; an error is what a client would complain about.
    pub(super) async fn call(
        &self,
        operation: &str,
        session: &str,
        pool: Option<PoolId>,
        arguments: &Value,
    ) -> Result<Answered, String> {
        let mut request = Request::post(format!("http://{}/v1/{MIGRATION}/{operation}", self.address))
            .header("content-type", "application/json")
            .header("x-session-id", session);
        if let Some(pool) = pool {
            request = request.header("x-cutover-pool", pool.name());
        }
        let request = request.body(Full::from(arguments.to_string())).map_err(|e| e.to_string())?;
        let response = self.client.request(request).await.map_err(|e| format!("{e:?}"))?;
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let (pool, reason, status) = (header("x-cutover-pool"), header("x-cutover-reason"), response.status());
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let body = serde_json::from_slice(&body).map_err(|e| format!("{status}: {e}"))?;
        if !status.is_success() {
            return Err(format!("{status}: {body}"));
        }
        let pool = [PoolId::V1, PoolId::V2].into_iter().find(|p| p.name() == pool);
        Ok(Answered { pool, reason, body })
    }

    /// One program for each session of the load.
    pub(super) async fn create_programs(&self) -> Result<(), String> {
        for n in 0..SESSIONS {
            self.create(&session(n), WAIT_MS).await?;
        }
        Ok(())
    }

    /// A program that joins a greeting and a name after waiting.
    pub(super) async fn create(&self, session: &str, wait_ms: u32) -> Result<(), String> {
        let program = json!({
            "program_id": "greet",
            "signature": { "inputs": [{ "name": "name" }], "outputs": [{ "name": "greeting" }] },
            "rule": { "greeting": { "op": "concat", "of": [{ "op": "const", "value": "hello " }, { "op": "input", "name": "name" }] } },
            "wait_ms": wait_ms,
        });
        self.call("create_program", session, None, &program).await.map(drop)
    }

    /// Runs the program, and makes sure that the answer is right.
    pub(super) async fn greet(&self, session: &str, pool: Option<PoolId>) -> Result<Answered, String> {
        let arguments = json!({ "program_id": "greet", "inputs": { "name": session } });
        let answered = self.call("execute", session, pool, &arguments).await?;
        let wanted = format!("hello {session}");
        match answered.body.pointer("/outputs/greeting").and_then(Value::as_str) {
            Some(greeting) if greeting == wanted => Ok(answered),
            _ => Err(format!("a wrong answer: {}", answered.body)),
        }
    }
}

impl Load {
    pub(super) fn new(caller: Caller, handle: Handle) -> Self {
        Self { caller, handle, seen: Mutex::default() }
    }

    /// Sends until `stop`, then waits for what is under way.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let calls = TaskTracker::new();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut draw: u32 = 1;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            // A linear congruential generator (Numerical Recipes): sessions in an order of no pattern, always the same.
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let load = Arc::clone(&self);
            let session = (draw >> 8) % SESSIONS;
            calls.spawn(async move { load.call(session).await });
        }
        calls.close();
        calls.wait().await;
    }

    async fn call(&self, number: u32) {
        let before = self.stage();
        // A call that V2 had already may be answered after the rollback; one that is sent after it may not be V2's.
        let rolled_back = self.handle.snapshot().last_rollback.is_some();
        let answered = self.caller.greet(&session(number), None).await;
        let after = self.stage();
        let mut seen = self.seen.lock();
        seen.counts.total += 1;
        let answered = match answered {
            Ok(answered) => answered,
            Err(why) => {
                seen.counts.failures += 1;
                seen.first_failure.get_or_insert(why);
                return;
            }
        };
        match answered.pool {
            Some(PoolId::V2) => {
                seen.counts.v2 += 1;
                seen.counts.v2_too_late += u64::from(rolled_back);
            }
            Some(PoolId::V1) | None => seen.counts.v1 += 1,
        }
        let Some((stage, share, _)) = before.filter(|_| before == after) else { return };
        let stage = seen.stages.entry(stage).or_default();
        stage.share = share;
        stage.requests += 1;
        let on_v2 = answered.pool == Some(PoolId::V2) || answered.reason == "failover";
        stage.sessions.entry(number).or_insert(on_v2);
    }

    /// The stage that the ramp is in, if it is in one.
    fn stage(&self) -> Option<(u32, Ppm, UnixMs)> {
        let state = &self.handle.snapshot().state;
        (state.phase == Phase::Ramping).then_some((state.stage, state.share, state.since))
    }

    pub(super) fn counts(&self) -> Counts {
        self.seen.lock().counts
    }

    /// Adds what clients and the host counted to the summary.
    pub(super) fn fill(&self, summary: &mut Summary, totals: &Totals) {
        let seen = self.seen.lock();
        let Counts { total, failures, v1, v2, .. } = seen.counts;
        let sum = |of: fn(&[cutover_model::facts::Calls; 3]) -> u64| totals.operations.values().map(of).sum();
        summary.requests = Requests {
            total,
            client_failures: failures,
            v1,
            v2,
            failed_over: sum(|[_, v2, _]| v2.failed_over),
            shadowed: totals.operations.get("execute").map_or(0, |[_, _, shadow]| shadow.requests),
        };
        summary.comparisons = totals.comparisons;
        summary.first_failure.clone_from(&seen.first_failure);
        let stage = |stage: &Stage| {
            let sessions = stage.sessions.len() as u64;
            let on_v2 = stage.sessions.values().filter(|v2| **v2).count() as u64;
            StageSeen {
                share_ppm: stage.share,
                observed_share_ppm: (on_v2 * 1_000_000).checked_div(sessions).unwrap_or(0),
                requests: stage.requests,
                sessions,
            }
        };
        summary.stages = seen.stages.values().map(stage).collect();
    }
}

fn session(number: u32) -> String {
    format!("session-{number}")
}
