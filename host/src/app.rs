//! The composition root: builds the stages from a configuration, owns their tasks, drains them on a signal.

pub mod install;
mod policies;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::{net::TcpListener, runtime};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::policies::{admit, admit_bundle};
use crate::{
    admin, clock,
    compare::{self, Comparer},
    config::{Config, MigrationConfig},
    dispatch::{self, Dispatch},
    ingress::{self, Ingress},
    migration::{
        Controller, Handle, State, controller,
        controller::Patience,
        flags::{FlagError, Flags},
        trial::Trial,
    },
    notify::{self, Notifier},
    observe::{History, Recorder, machine::Machine},
    policy::{
        engine::{Engine, EngineError, Options},
        port::Kind,
        registry::Registry,
        slot::Slots,
        trial::Trials,
    },
    pool::{PoolSpec, WorkerPool, journal::Journal, spawner::Spawner},
    shadow::Mirror,
    store::{Store, StoreError, records::PoolConfiguration},
};

/// How often old metrics are removed.
const HOUSEKEEPING: Duration = Duration::from_hours(1);

/// A host that runs.
#[derive(Debug)]
pub struct App {
    /// What it runs.
    pub host: Arc<Host>,
    /// Where the data plane listens.
    pub data_plane: SocketAddr,
    /// Where the admin plane listens.
    pub admin: SocketAddr,
    serving: TaskTracker,
    working: TaskTracker,
    background: TaskTracker,
    shutdown: CancellationToken,
    background_stop: CancellationToken,
}

/// What a host runs, as the admin plane sees it.
#[derive(Debug)]
pub struct Host {
    /// The policy engine.
    pub engine: Arc<Engine>,
    /// The store.
    pub store: Store,
    /// The policies that it knows.
    pub registry: Registry,
    /// Where the components of guests are.
    pub components: PathBuf,
    /// The migrations by name.
    pub migrations: BTreeMap<String, Migration>,
}

/// One migration, as the admin plane sees it.
#[derive(Debug)]
pub struct Migration {
    /// Its controller.
    pub handle: Handle,
    /// What its requests pass through.
    pub dispatch: Arc<Dispatch>,
    /// Its batches.
    pub history: Arc<History>,
    /// What comparisons found.
    pub comparer: Comparer,
    /// Who is in charge of what.
    pub slots: Arc<Slots>,
    /// Fingerprints of what the configuration says of each policy.
    pub configured: BTreeMap<Kind, String>,
    /// How long its callers wait.
    pub deadline: Duration,
}

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error("cannot listen on {address}; is another host running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The policy engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The environment sets a flag wrongly.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// The thread that starts workers.
    #[error("cannot start the thread that starts workers")]
    Spawner(#[source] std::io::Error),
}

/// What every migration of a host shares.
struct Shared {
    engine: Arc<Engine>,
    store: Store,
    registry: Registry,
    spawner: Spawner,
    notifier: Notifier,
    machine: Arc<Machine>,
    patience: Patience,
    working: TaskTracker,
    background: TaskTracker,
    background_stop: CancellationToken,
}

impl App {
    /// Starts everything. `guard` is the `cutover` binary, which ties workers to this process.
    ///
    /// # Errors
    /// What keeps the host from starting. A policy that is not admitted does not: V1 serves until it is mended.
    pub async fn start(config: Config, guard: PathBuf) -> Result<Self, StartError> {
        let (working, background, serving) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let (shutdown, background_stop) = (CancellationToken::new(), CancellationToken::new());
        let engine = Engine::start(Options {
            limits: config.limits,
            compiler: Some(guard.clone()),
            cache: config.policy_cache,
        })?;
        let store = Store::open(&config.store).await?;
        let registry = Registry::new(Arc::clone(&engine), store.clone(), config.trust);
        let (notifier, deliver) = notify::notifier(config.webhooks);
        background.spawn(deliver);
        let spawner = Spawner::start(guard, runtime::Handle::current()).map_err(StartError::Spawner)?;
        let shared = Shared {
            engine: Arc::clone(&engine),
            store: store.clone(),
            registry: registry.clone(),
            spawner,
            notifier,
            machine: Arc::default(),
            patience: config.patience,
            working: working.clone(),
            background: background.clone(),
            background_stop: background_stop.clone(),
        };
        let mut migrations = BTreeMap::new();
        for migration in config.migrations {
            let name = migration.name.clone();
            migrations.insert(name, start_migration(migration, &shared).await?);
        }
        drop(shared);
        let keep =
            Keep { metrics: config.keep_metrics, history: config.keep_history, policy_log: config.keep_policy_log };
        background.spawn(keep_house(store.clone(), keep, background_stop.clone()));
        let host = Arc::new(Host { engine, store, registry, components: config.components, migrations });
        let routes = host.migrations.iter().map(|(name, m)| {
            (name.clone(), ingress::Route { dispatch: Arc::clone(&m.dispatch), deadline: m.deadline })
        });
        let listen = |address| move |source| StartError::Listen { address, source };
        let bound = Ingress::bind(config.data_plane, routes.collect(), working.clone()).await;
        let ingress = bound.map_err(listen(config.data_plane))?;
        let admin = TcpListener::bind(config.admin).await.map_err(listen(config.admin))?;
        let data_plane = ingress.address().map_err(listen(config.data_plane))?;
        let admin_address = admin.local_addr().map_err(listen(config.admin))?;
        serving.spawn(ingress.serve(shutdown.clone()));
        serving.spawn(admin::serve(admin, Arc::clone(&host), background_stop.clone()));
        tracing::info!(%data_plane, admin = %admin_address, "serving");
        Ok(Self { host, data_plane, admin: admin_address, serving, working, background, shutdown, background_stop })
    }

    /// Stops accepting, lets requests end, stops controllers and workers, closes the store.
    pub async fn shut_down(self) {
        tracing::info!("draining");
        self.shutdown.cancel();
        self.background_stop.cancel();
        self.serving.close();
        self.serving.wait().await;
        for migration in self.host.migrations.values() {
            let (v1, v2) = (&migration.dispatch.v1, &migration.dispatch.v2);
            tokio::join!(v1.shut_down(), v2.shut_down());
        }
        self.working.close();
        self.working.wait().await;
        let Self { host, background, .. } = self;
        let store = host.store.clone();
        // With the last migration go the queues that background tasks live on.
        drop(host);
        background.close();
        background.wait().await;
        store.close().await;
        tracing::info!("stopped");
    }
}

async fn start_migration(config: MigrationConfig, shared: &Shared) -> Result<Migration, StartError> {
    let store = &shared.store;
    let state = store.state(&config.name).await?.unwrap_or_else(|| State::new(clock::unix_ms()));
    let flags = Flags::new(config.flags, store.flags(&config.name).await?)?;
    for spec in [&config.v1, &config.v2] {
        store.configure_pool(&pool_configuration(spec)).await?;
    }
    let policies::Filled { slots, configured, refused } =
        policies::fill_slots(&config.name, config.policies, shared).await?;
    let (journal, keeper) = Journal::new(store.journal(&config.name).await?);
    let journal = Arc::new(journal);
    shared.background.spawn(store.clone().keep_journal(config.name.clone(), keeper));
    let (trials, queues) = Trials::new(Arc::clone(&slots));
    let pool = |spec| WorkerPool::new(spec, shared.spawner.clone(), Arc::clone(&journal), trials.clone());
    let (v1, v2) = (pool(config.v1), pool(config.v2));
    let recorder = Arc::new(Recorder::new(clock::unix_ms()));
    let (comparer, compare) = compare::comparer(trials.clone(), Arc::clone(&recorder));
    shared.background.spawn(compare);
    let mirror = Arc::new(Mirror::new(
        v2.clone(),
        Arc::clone(&recorder),
        comparer.clone(),
        config.shadow_budget,
        config.shadow_timeout,
        shared.working.clone(),
    ));
    let dispatch = Arc::new(Dispatch::new(dispatch::Parts {
        trials: trials.clone(),
        operations: config.operations,
        v1,
        v2,
        recorder,
        mirror,
        journal,
        failover_reserve_percent: config.failover_reserve_percent,
        tasks: shared.working.clone(),
    }));
    let history = Arc::<History>::default();
    let (controller, handle) = Controller::new(controller::Parts {
        name: config.name.clone(),
        salt: config.salt,
        check_interval: config.check_interval,
        state,
        flags,
        dispatch: Arc::clone(&dispatch),
        slots: Arc::clone(&slots),
        history: Arc::clone(&history),
        store: store.clone(),
        notifier: shared.notifier.clone(),
        machine: Arc::clone(&shared.machine),
        tasks: shared.working.clone(),
        refused,
        patience: shared.patience,
        trials: trials.clone(),
        failed: queues.failures,
    });
    let trial = Trial {
        migration: config.name,
        slots: Arc::clone(&slots),
        store: store.clone(),
        handle: handle.clone(),
        trials,
    };
    shared.background.spawn(trial.run(queues.jobs, shared.background_stop.clone()));
    shared.background.spawn(controller.run(shared.background_stop.clone()));
    Ok(Migration { handle, dispatch, history, comparer, slots, configured, deadline: config.deadline })
}

/// A pool as the store keeps it; the values of its environment may be secrets and stay out.
fn pool_configuration(spec: &PoolSpec) -> PoolConfiguration {
    let variables: Vec<_> = spec.command.environment.iter().map(|(name, _)| name).collect();
    PoolConfiguration {
        name: spec.label.clone(),
        version: match spec.id {
            crate::request::PoolId::V1 => 1,
            crate::request::PoolId::V2 => 2,
        },
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

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
struct Keep {
    metrics: Duration,
    history: Duration,
    policy_log: Duration,
}

async fn keep_house(store: Store, keep: Keep, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let before = |keep: Duration| {
            let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
            clock::UnixMs(clock::unix_ms().0.saturating_sub(keep_ms))
        };
        removed("metrics", store.forget_metrics(before(keep.metrics)).await);
        removed("calls to policies", store.forget_calls(before(keep.policy_log)).await);
        removed("checks", store.forget_checks(before(keep.history)).await);
    }
}

fn removed(what: &str, rows: Result<u64, StoreError>) {
    match rows {
        Ok(rows) if rows > 0 => tracing::info!(rows, "removed old {what}"),
        Ok(_) => {}
        Err(error) => tracing::error!("old {what} are not removed: {}", crate::causes::chain(&error)),
    }
}
