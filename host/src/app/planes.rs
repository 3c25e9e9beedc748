//! What a migration's requests pass through, built from its configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::Common;
use crate::{
    config::{HttpConfig, OperationsConfig, PlaneConfig},
    host::Plane,
};
use cutover_model::{clock, request::PoolId};
use cutover_policy_host::{evaluation::EvaluationQueue, route::Callers, slot::Slots};
use cutover_store::records::PoolConfiguration;
use cutover_traffic::{
    compare::Comparer,
    dispatch::{self, Dispatch},
    observe::Recorder,
    pool::{
        Pool, PoolSpec, UpstreamPool, UpstreamSpec, WorkerPool,
        journal::{Journal, Keeper},
    },
    proxy::{
        Proxy,
        affinity::SessionCookie,
        catalogue::Catalogue,
        headers::Forwarding,
        mirror::{self, HttpMirror},
    },
    shadow::{self, Mirror},
    split::Split,
};

/// What both kinds of planes have.
pub(super) struct Given {
    pub(super) evaluations: EvaluationQueue,
    pub(super) callers: Arc<Callers>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) comparer: Comparer,
    pub(super) deadline: Duration,
    pub(super) failover_reserve_percent: u32,
    pub(super) shadow_budget: usize,
    pub(super) shadow_timeout: Duration,
}

/// A plane that is made, and what the store has to know of it.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) split: Arc<Split>,
    pub(super) plane: Plane,
    /// The pools as they go on record.
    pub(super) pools: [PoolConfiguration; 2],
    /// What the journal has to keep, if there is one. It is empty yet.
    pub(super) keeper: Option<Keeper>,
}

/// Worker pools, and calls of their operations.
pub(super) fn operations(config: OperationsConfig, given: Given, common: &Common) -> Made {
    let evaluations = &given.evaluations;
    let pools = [worker_configuration(&config.v1), worker_configuration(&config.v2)];
    let (journal, keeper) = Journal::new([]);
    let journal = Arc::new(journal);
    let pool = |spec| WorkerPool::new(spec, common.spawner.clone(), Arc::clone(&journal), evaluations.clone());
    let (v1, v2) = (pool(config.v1), pool(config.v2));
    let limit = |(name, operation): (&Arc<str>, &dispatch::Operation)| Some((Arc::clone(name), operation.deadline?));
    let limits = config.operations.iter().filter_map(limit).collect();
    let mirror = Arc::new(Mirror::new(shadow::Parts {
        v1: v1.clone(),
        v2: v2.clone(),
        recorder: Arc::clone(&given.recorder),
        comparer: given.comparer,
        failed: config.operations.iter().map(|(name, o)| (Arc::clone(name), Arc::clone(&o.failed))).collect(),
        budget: given.shadow_budget,
        timeout: given.shadow_timeout,
        limits,
        tasks: common.working.clone(),
    }));
    let classes = config.operations.iter().map(|(name, operation)| (Arc::clone(name), operation.class)).collect();
    let both = (Pool::Workers(v1.clone()), Pool::Workers(v2.clone()));
    let split = Arc::new(Split::new(classes, both, given.recorder, evaluations.clone(), given.callers));
    let dispatch = Arc::new(Dispatch::new(dispatch::Parts {
        split: Arc::clone(&split),
        operations: config.operations,
        v1,
        v2,
        mirror,
        journal,
        failover_reserve_percent: given.failover_reserve_percent,
        tasks: common.working.clone(),
    }));
    Made { split, plane: Plane::Operations(dispatch), pools, keeper: Some(keeper) }
}

/// HTTP upstreams, and requests to them.
pub(super) fn http(config: HttpConfig, given: Given, common: &Common) -> Made {
    let sessions = sessions(&config);
    let pools = [upstream_configuration(&config.v1, &sessions), upstream_configuration(&config.v2, &sessions)];
    let pool = |spec| UpstreamPool::new(spec, common.threads);
    let tells_ends = config.v1.proxy_protocol.or(config.v2.proxy_protocol).is_some();
    let (v1, v2) = (pool(config.v1), pool(config.v2));
    let both = (Pool::Upstreams(v1.clone()), Pool::Upstreams(v2.clone()));
    let (recorder, evaluations) = (Arc::clone(&given.recorder), given.evaluations.clone());
    let split = Arc::new(Split::new(config.classes, both, recorder, evaluations, given.callers));
    let proxy = Proxy {
        split: Arc::clone(&split),
        v1: v1.clone(),
        v2: v2.clone(),
        catalogue: config.catalogue,
        session: config.session,
        cookie: config.cookie,
        deadline: given.deadline,
        failover_reserve_percent: given.failover_reserve_percent,
        forwarding: config.forwarding,
        tells_ends,
        rate_limits: config.rate_limits,
        says_pool: true,
        mirror: Arc::new(HttpMirror::new(mirror::Setup {
            v1,
            v2,
            recorder: given.recorder,
            comparer: given.comparer,
            budget: given.shadow_budget,
            timeout: given.shadow_timeout,
            limits: config.deadlines,
            drop: config.shadow_drop,
            runtime: Handle::current(),
            tasks: common.working.clone(),
        })),
    };
    Made { split, plane: Plane::Http(Arc::new(proxy), config.matches), pools, keeper: None }
}

/// Upstreams for what belongs to no migration: nothing is routed, judged or mirrored.
pub(super) fn default(spec: UpstreamSpec, forwarding: Forwarding, common: &Common) -> Arc<Proxy> {
    let tells_ends = spec.proxy_protocol.is_some();
    let pool = UpstreamPool::new(spec, common.threads);
    pool.open();
    let (evaluations, _nobody) = EvaluationQueue::new(Arc::<Slots>::default());
    let recorder = Arc::new(Recorder::new(clock::unix_ms()));
    let (comparer, _nothing) = cutover_traffic::compare::comparer(evaluations.clone(), Arc::clone(recorder.pairs()));
    let pools = (Pool::Upstreams(pool.clone()), Pool::Upstreams(pool.clone()));
    Arc::new(Proxy {
        split: Arc::new(Split::new(BTreeMap::new(), pools, Arc::clone(&recorder), evaluations, Arc::default())),
        v1: pool.clone(),
        v2: pool.clone(),
        catalogue: Catalogue::default(),
        session: Vec::new(),
        cookie: None,
        deadline: Duration::from_mins(1),
        failover_reserve_percent: 0,
        forwarding,
        tells_ends,
        rate_limits: Vec::new(),
        says_pool: false,
        mirror: Arc::new(HttpMirror::new(mirror::Setup {
            v1: pool.clone(),
            v2: pool,
            recorder,
            comparer,
            budget: 0,
            timeout: Duration::ZERO,
            limits: BTreeMap::new(),
            drop: Vec::new(),
            runtime: Handle::current(),
            tasks: common.working.clone(),
        })),
    })
}

/// The pools of a plane as they go on record.
pub(super) fn configurations(plane: &PlaneConfig) -> [PoolConfiguration; 2] {
    match plane {
        PlaneConfig::Operations(config) => [worker_configuration(&config.v1), worker_configuration(&config.v2)],
        PlaneConfig::Http(config) => {
            let sessions = sessions(config);
            [upstream_configuration(&config.v1, &sessions), upstream_configuration(&config.v2, &sessions)]
        }
    }
}

/// A pool as the store keeps it; the values of its environment may be secrets and stay out.
fn worker_configuration(spec: &PoolSpec) -> PoolConfiguration {
    let variables: Vec<_> = spec.command.environment.iter().map(|(name, _)| name).collect();
    PoolConfiguration {
        name: spec.label.clone(),
        version: version(spec.id),
        config: serde_json::json!({
            "mode": format!("{:?}", spec.mode).to_lowercase(),
            "workers": { "min": spec.size.min, "max": spec.size.max, "overflow": spec.size.overflow },
            "command": spec.command.command,
            "directory": spec.command.directory,
            "environment": variables,
            "queue": spec.queue.most,
        }),
    }
}

/// What tells sessions, in the order that it counts.
fn sessions(config: &HttpConfig) -> Vec<String> {
    let cookie = config.cookie.iter().map(SessionCookie::described);
    cookie.chain(config.session.iter().map(ToString::to_string)).collect()
}

fn upstream_configuration(spec: &UpstreamSpec, sessions: &[String]) -> PoolConfiguration {
    let upstreams: Vec<_> = spec.upstreams.iter().map(ToString::to_string).collect();
    PoolConfiguration {
        name: spec.label.clone(),
        version: version(spec.id),
        config: serde_json::json!({
            "upstreams": upstreams,
            "sessions": sessions,
            "http2": spec.connector.is_http2(),
            "max_connections": spec.max_connections,
            "max_waiting": spec.max_waiting,
        }),
    }
}

const fn version(id: PoolId) -> u32 {
    match id {
        PoolId::V1 => 1,
        PoolId::V2 => 2,
    }
}
