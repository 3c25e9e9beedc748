//! One migration as JSON: the controller's picture, and the last minute of both pools.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;

use crate::host::{Host, Migration};
use cutover_control::migration::{
    outlook::{Outlook, Rates, Seen, outlook},
    snapshot::Snapshot,
};
use cutover_model::{
    facts::Comparisons,
    request::{PoolId, Ppm},
};
use cutover_traffic::{
    observe::PoolWindow,
    pool::{WorkerPool, breaker::Position, load::Load},
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
    /// Where it goes from here, and what holds it.
    outlook: Outlook,
    window_seconds: usize,
    v1: PoolWindow,
    v2: PoolWindow,
    comparisons: Comparisons,
    sessions: usize,
    /// Process ids of the workers that run.
    workers: Workers,
    /// What both pools had to do in the last minute, and what that took.
    pools: Vec<Brief>,
    /// Why workers do not start, for pools that are not whole.
    not_starting: Vec<String>,
    /// Why the store takes no records.
    store_trouble: Option<String>,
    /// That the store is a new one, until somebody has given an order.
    store_new: Option<String>,
    /// What the host's start has changed for callers of V2.
    warnings: Vec<String>,
    /// Requests that the routing policy failed to decide, by cause.
    decide_failures: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Workers {
    v1: Vec<u32>,
    v2: Vec<u32>,
}

/// A pool in a few words.
#[derive(Debug, Serialize)]
struct Brief {
    pool: PoolId,
    states: BTreeMap<&'static str, usize>,
    load: Load,
    rss_bytes: u64,
    cpu_ppm: u64,
    memory_growth_ppm_per_hour: Option<i64>,
    memory_growth_error_ppm_per_hour: Option<i64>,
    restarts_spent: bool,
    /// How often dead workers are replaced then.
    restart_each_seconds: u64,
    /// Workers that were killed because a call missed its deadline.
    deadline_kills: u64,
    /// Operations whose circuit breaker is not closed.
    refused: Vec<Arc<str>>,
}

impl Brief {
    fn of(pool: &WorkerPool) -> Self {
        let view = pool.view();
        let growth = view.memory_growth.and_then(|trend| trend.ppm());
        let broken = view.breakers.into_iter().filter(|breaker| breaker.state != Position::Closed);
        Self {
            pool: view.pool,
            states: view.states.into_iter().filter(|(_, count)| *count > 0).collect(),
            load: view.load,
            rss_bytes: view.rss_bytes,
            cpu_ppm: view.cpu_ppm,
            memory_growth_ppm_per_hour: growth.map(|(growth, _)| growth),
            memory_growth_error_ppm_per_hour: growth.map(|(_, error)| error),
            restarts_spent: view.restarts_spent,
            restart_each_seconds: view.restart_each_seconds,
            deadline_kills: view.deadline_kills,
            refused: broken.map(|breaker| breaker.operation).collect(),
        }
    }
}

/// Takes the picture.
pub(super) fn of(host: &Host, migration: &Migration) -> Status {
    let split = &migration.split;
    let snapshot = Snapshot::clone(&migration.handle.snapshot());
    let warnings = host.warnings.iter().filter(|change| change.migration == snapshot.migration);
    let store_trouble = host.store.trouble().map(|trouble| trouble.why.clone());
    let pools = [&split.v1, &split.v2];
    let not_starting: Vec<_> = pools.into_iter().filter_map(cutover_traffic::pool::Pool::why_not_whole).collect();
    // Members as they are now, like all that is said of them below; those of the last batch may be others.
    let window = |pool: &cutover_traffic::pool::Pool| PoolWindow {
        members: pool.members_now(),
        ..migration.history.window(pool.id(), WINDOW)
    };
    Status {
        outlook: ahead(migration, &snapshot, &not_starting, store_trouble.as_ref()),
        store_trouble,
        store_new: host.store.is_new(),
        warnings: warnings.map(|change| change.message.clone()).collect(),
        snapshot,
        effective_share: split.router.share(),
        window_seconds: WINDOW,
        v1: window(&split.v1),
        v2: window(&split.v2),
        comparisons: migration.history.totals().comparisons,
        sessions: migration.plane.sessions(),
        workers: Workers { v1: split.v1.pids(), v2: split.v2.pids() },
        pools: pools.into_iter().filter_map(cutover_traffic::pool::Pool::workers).map(Brief::of).collect(),
        not_starting,
        decide_failures: split.decide_failures.lock().clone(),
    }
}

fn ahead(migration: &Migration, snapshot: &Snapshot, not_starting: &[String], trouble: Option<&String>) -> Outlook {
    let (span_ms, compared, v2_requests) = migration.history.lately(WINDOW);
    let waits =
        || format!("{} decision(s) are not on record yet; nothing gives V2 more before they are", snapshot.unrecorded);
    outlook(&Seen {
        name: &snapshot.migration,
        state: &snapshot.state,
        waiting_for: &snapshot.waiting_for,
        verdict: snapshot.verdict.as_ref().map(|judged| (judged.verdict, judged.findings.as_slice())),
        off: &snapshot.flags_off,
        held: &snapshot.held,
        not_starting,
        unrecorded: trouble.cloned().or_else(|| (snapshot.unrecorded > 0).then(waits)),
        stale_plan: snapshot.stale_plan.as_deref(),
        rates: Rates { span_ms, compared, v2_requests },
    })
}
