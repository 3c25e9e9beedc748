//! One migration as JSON: the controller's picture, and the last minute of both pools.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    app::Migration,
    migration::snapshot::Snapshot,
    observe::PoolWindow,
    policy::facts::Comparisons,
    request::{PoolId, Ppm},
};

/// Seconds that windows cover.
const WINDOW: usize = 60;

/// A migration, for people and scripts.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    #[serde(flatten)]
    snapshot: Snapshot,
    /// What the plan in force gives V2; differs from `share` while a flag or a failed plan holds it back.
    effective_share: Ppm,
    window_seconds: usize,
    v1: PoolWindow,
    v2: PoolWindow,
    comparisons: Comparisons,
    sessions: usize,
    /// Process ids of the workers that run.
    workers: Workers,
    /// Why workers do not start, for pools that are not whole.
    not_starting: Vec<String>,
    /// Requests that the routing policy failed to decide, by cause.
    decide_failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Workers {
    v1: Vec<u32>,
    v2: Vec<u32>,
}

/// Takes the picture.
pub(super) fn of(migration: &Migration) -> Status {
    let split = &migration.split;
    Status {
        snapshot: Snapshot::clone(&migration.handle.snapshot()),
        effective_share: split.router.share(),
        window_seconds: WINDOW,
        v1: migration.history.window(PoolId::V1, WINDOW),
        v2: migration.history.window(PoolId::V2, WINDOW),
        comparisons: migration.history.totals().comparisons,
        sessions: migration.plane.sessions(),
        workers: Workers { v1: split.v1.pids(), v2: split.v2.pids() },
        not_starting: [&split.v1, &split.v2].into_iter().filter_map(crate::pool::Pool::why_not_whole).collect(),
        decide_failures: split.decide_failures.lock().clone(),
    }
}
