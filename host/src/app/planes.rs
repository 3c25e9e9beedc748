//! What a migration's requests pass through, built from its configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::runtime::Handle;

use super::{Plane, Shared, StartError};
use crate::{
    clock,
    compare::Comparer,
    config::{HttpConfig, OperationsConfig},
    dispatch::{self, Dispatch},
    observe::Recorder,
    policy::{slot::Slots, trial::Trials},
    pool::{Pool, PoolSpec, UpstreamPool, UpstreamSpec, WorkerPool, journal::Journal},
    proxy::{
        Proxy,
        catalogue::Catalogue,
        headers::Forwarding,
        mirror::{self, HttpMirror},
    },
    request::PoolId,
    shadow::Mirror,
    split::Split,
    store::records::PoolConfiguration,
};

/// What both planes have.
pub(super) struct Common {
    pub(super) trials: Trials,
    pub(super) recorder: Arc<Recorder>,
    pub(super) comparer: Comparer,
    pub(super) deadline: Duration,
    pub(super) failover_reserve_percent: u32,
    pub(super) shadow_budget: usize,
    pub(super) shadow_timeout: Duration,
}

/// Worker pools, and calls of their operations.
pub(super) async fn operations(
    name: &str,
    config: OperationsConfig,
    common: Common,
    shared: &Shared,
) -> Result<(Arc<Split>, Plane), StartError> {
    let (store, trials) = (&shared.store, &common.trials);
    for spec in [&config.v1, &config.v2] {
        store.configure_pool(&worker_configuration(spec)).await?;
    }
    let (journal, keeper) = Journal::new(store.journal(name).await?);
    let journal = Arc::new(journal);
    shared.background.spawn(store.clone().keep_journal(name.to_owned(), keeper));
    let pool = |spec| WorkerPool::new(spec, shared.spawner.clone(), Arc::clone(&journal), trials.clone());
    let (v1, v2) = (pool(config.v1), pool(config.v2));
    let mirror = Arc::new(Mirror::new(
        v2.clone(),
        Arc::clone(&common.recorder),
        common.comparer,
        common.shadow_budget,
        common.shadow_timeout,
        shared.working.clone(),
    ));
    let classes = config.operations.iter().map(|(name, operation)| (Arc::clone(name), operation.class)).collect();
    let pools = (Pool::Workers(v1.clone()), Pool::Workers(v2.clone()));
    let split = Arc::new(Split::new(classes, pools, common.recorder, trials.clone()));
    let dispatch = Arc::new(Dispatch::new(dispatch::Parts {
        split: Arc::clone(&split),
        operations: config.operations,
        v1,
        v2,
        mirror,
        journal,
        failover_reserve_percent: common.failover_reserve_percent,
        tasks: shared.working.clone(),
    }));
    Ok((split, Plane::Operations(dispatch)))
}

/// HTTP upstreams, and requests to them.
pub(super) async fn http(
    config: HttpConfig,
    common: Common,
    shared: &Shared,
) -> Result<(Arc<Split>, Plane), StartError> {
    for spec in [&config.v1, &config.v2] {
        shared.store.configure_pool(&upstream_configuration(spec)).await?;
    }
    let pool = |spec| UpstreamPool::new(spec, shared.threads);
    let (v1, v2) = (pool(config.v1), pool(config.v2));
    let pools = (Pool::Upstreams(v1.clone()), Pool::Upstreams(v2.clone()));
    let split = Arc::new(Split::new(config.classes, pools, Arc::clone(&common.recorder), common.trials.clone()));
    let proxy = Proxy {
        split: Arc::clone(&split),
        v1,
        v2: v2.clone(),
        catalogue: config.catalogue,
        session: config.session,
        deadline: common.deadline,
        failover_reserve_percent: common.failover_reserve_percent,
        forwarding: config.forwarding,
        says_pool: true,
        mirror: Arc::new(HttpMirror::new(mirror::Setup {
            v2,
            recorder: common.recorder,
            comparer: common.comparer,
            budget: common.shadow_budget,
            timeout: common.shadow_timeout,
            runtime: Handle::current(),
            tasks: shared.working.clone(),
        })),
    };
    Ok((split, Plane::Http(Arc::new(proxy), config.matches)))
}

/// Upstreams for what belongs to no migration: nothing is routed, judged or mirrored.
pub(super) fn default(spec: UpstreamSpec, forwarding: Forwarding, shared: &Shared) -> Arc<Proxy> {
    let pool = UpstreamPool::new(spec, shared.threads);
    pool.open();
    let (trials, _nobody) = Trials::new(Arc::<Slots>::default());
    let recorder = Arc::new(Recorder::new(clock::unix_ms()));
    let (comparer, _nothing) = crate::compare::comparer(trials.clone(), Arc::clone(&recorder));
    let pools = (Pool::Upstreams(pool.clone()), Pool::Upstreams(pool.clone()));
    Arc::new(Proxy {
        split: Arc::new(Split::new(BTreeMap::new(), pools, Arc::clone(&recorder), trials)),
        v1: pool.clone(),
        v2: pool.clone(),
        catalogue: Catalogue::default(),
        session: Vec::new(),
        deadline: Duration::from_mins(1),
        failover_reserve_percent: 0,
        forwarding,
        says_pool: false,
        mirror: Arc::new(HttpMirror::new(mirror::Setup {
            v2: pool,
            recorder,
            comparer,
            budget: 0,
            timeout: Duration::ZERO,
            runtime: Handle::current(),
            tasks: shared.working.clone(),
        })),
    })
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

fn upstream_configuration(spec: &UpstreamSpec) -> PoolConfiguration {
    let upstreams: Vec<_> = spec.upstreams.iter().map(ToString::to_string).collect();
    PoolConfiguration {
        name: spec.label.clone(),
        version: version(spec.id),
        config: serde_json::json!({
            "upstreams": upstreams,
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
