//! Measures what each pool can do with work that waits: a closed loop of callers, each of which calls again at once.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{load::Caller, summary::Throughput};
use cutover_model::{
    clock::{self, Mono},
    request::PoolId,
};

/// How long each pool is measured.
const SPAN: Duration = Duration::from_secs(3);

/// What a call waits for, in milliseconds.
const WAIT_MS: u32 = 20;

/// Callers for each worker, so that none is ever idle.
const CALLERS: usize = 3;

/// Measures V1, then V2.
pub(super) async fn measure(caller: &Caller, workers: usize) -> Result<Throughput, String> {
    let sessions: Vec<_> = (0..workers * CALLERS).map(|n| format!("waits-{n}")).collect();
    for session in &sessions {
        caller.create(session, WAIT_MS).await?;
    }
    let v1_rps = rate(caller, &sessions, PoolId::V1).await?;
    let v2_rps = rate(caller, &sessions, PoolId::V2).await?;
    Ok(Throughput { v1_rps, v2_rps, workers, ratio: v2_rps / v1_rps })
}

async fn rate(caller: &Caller, sessions: &[String], pool: PoolId) -> Result<f64, String> {
    let started = clock::mono();
    let mut callers = JoinSet::new();
    for session in sessions {
        callers.spawn(call_until(caller.clone(), session.clone(), pool, started + SPAN));
    }
    let mut calls = 0_u32;
    while let Some(done) = callers.join_next().await {
        calls += done.map_err(|e| e.to_string())??;
    }
    Ok(f64::from(calls) / clock::mono().since(started).as_secs_f64())
}

async fn call_until(caller: Caller, session: String, pool: PoolId, end: Mono) -> Result<u32, String> {
    let mut calls = 0;
    while clock::mono() < end {
        let answered = caller.greet(&session, Some(pool)).await?;
        if answered.pool != Some(pool) {
            return Err(format!("a call for {pool} was answered by another pool ({})", answered.reason));
        }
        calls += 1;
    }
    Ok(calls)
}
