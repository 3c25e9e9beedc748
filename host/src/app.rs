//! The composition root: builds the stages from a configuration, owns their tasks, drains them on a signal.

pub mod install;
mod planes;
mod policies;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{net::TcpListener, runtime};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::policies::{admit, admit_bundle};
use crate::{
    admin, clock,
    compare::{self, Comparer},
    config::{Config, MigrationConfig, PlaneConfig},
    dispatch::Dispatch,
    ingress::{
        Ingress, listen,
        operations::Route,
        table::{Match, Table},
    },
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
    pool::{Pool, UpstreamPool, spawner::Spawner},
    proxy::Proxy,
    split::Split,
    store::{Store, StoreError},
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
    /// Upstreams of requests that belong to no migration.
    otherwise: Option<UpstreamPool>,
    /// Threads that serve have runtimes of their own: a host that is dropped without having been shut down ends them, too.
    _threads: DropGuard,
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
    /// Where its requests part.
    pub split: Arc<Split>,
    /// How they come in.
    pub plane: Plane,
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

/// How a migration's requests come in.
#[derive(Debug, Clone)]
pub enum Plane {
    /// As calls of operations, for worker processes.
    Operations(Arc<Dispatch>),
    /// As HTTP requests, for upstreams.
    Http(Arc<Proxy>, Vec<Match>),
}

impl Plane {
    /// Sessions whose state both pools have to know.
    pub fn sessions(&self) -> usize {
        match self {
            Self::Operations(dispatch) => dispatch.journal.sessions(),
            Self::Http(..) => 0,
        }
    }

    /// Mirrored calls that were left out.
    pub fn left_out(&self) -> u64 {
        match self {
            Self::Operations(dispatch) => dispatch.mirror.left_out(),
            Self::Http(proxy, _) => proxy.mirror.left_out(),
        }
    }
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
    /// Threads that serve requests.
    threads: usize,
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
            threads: config.http.threads,
            working: working.clone(),
            background: background.clone(),
            background_stop: background_stop.clone(),
        };
        let mut migrations = BTreeMap::new();
        for migration in config.migrations {
            let name = migration.name.clone();
            migrations.insert(name, start_migration(migration, &shared).await?);
        }
        let keep =
            Keep { metrics: config.keep_metrics, history: config.keep_history, policy_log: config.keep_policy_log };
        background.spawn(keep_house(store.clone(), keep, background_stop.clone()));
        let host = Arc::new(Host { engine, store, registry, components: config.components, migrations });
        let mut table = table(&host);
        let otherwise = config.default_upstreams.map(|spec| planes::default(spec, config.forwarding, &shared));
        table.otherwise.clone_from(&otherwise);
        let otherwise = otherwise.map(|proxy| proxy.v1.clone());
        drop(shared);
        let failed = |address| move |source| StartError::Listen { address, source };
        let sockets = listen::bind(config.data_plane, config.http.threads).map_err(failed(config.data_plane))?;
        let ingress = Ingress::new(sockets, table, config.http);
        let admin = TcpListener::bind(config.admin).await.map_err(failed(config.admin))?;
        let data_plane = ingress.address().map_err(failed(config.data_plane))?;
        let admin_address = admin.local_addr().map_err(failed(config.admin))?;
        serving.spawn(ingress.start(&shutdown).map_err(failed(config.data_plane))?);
        serving.spawn(admin::serve(admin, Arc::clone(&host), background_stop.clone()));
        tracing::info!(%data_plane, admin = %admin_address, "serving");
        Ok(Self {
            host,
            data_plane,
            admin: admin_address,
            serving,
            working,
            background,
            _threads: shutdown.clone().drop_guard(),
            shutdown,
            background_stop,
            otherwise,
        })
    }

    /// Stops accepting, lets requests end, stops controllers and workers, closes the store.
    pub async fn shut_down(self) {
        tracing::info!("draining");
        self.shutdown.cancel();
        self.background_stop.cancel();
        self.serving.close();
        let pools = self.host.migrations.values().flat_map(|m| [&m.split.v1, &m.split.v2]);
        let upstreams = pools.filter_map(Pool::upstreams).chain(&self.otherwise);
        // Connections end when their exchanges have, and long ones end when they are told to.
        let ends = join_all(upstreams.map(|pool| async {
            pool.drain().await;
            pool.stop();
        }));
        tokio::join!(self.serving.wait(), ends);
        if let Some(pool) = &self.otherwise {
            pool.shut_down().await;
        }
        for migration in self.host.migrations.values() {
            let (v1, v2) = (&migration.split.v1, &migration.split.v2);
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

/// Which migration a request belongs to.
fn table(host: &Host) -> Table {
    let mut table = Table::default();
    for (name, migration) in &host.migrations {
        match &migration.plane {
            Plane::Operations(dispatch) => {
                let route = Route { dispatch: Arc::clone(dispatch), deadline: migration.deadline };
                table.operations.insert(name.clone(), route);
            }
            Plane::Http(proxy, matches) => table.add(matches.clone(), proxy),
        }
    }
    table
}

async fn start_migration(config: MigrationConfig, shared: &Shared) -> Result<Migration, StartError> {
    let store = &shared.store;
    let state = store.state(&config.name).await?.unwrap_or_else(|| State::new(clock::unix_ms()));
    let flags = Flags::new(config.flags, store.flags(&config.name).await?)?;
    let policies::Filled { slots, configured, refused } =
        policies::fill_slots(&config.name, config.policies, shared).await?;
    let (trials, queues) = Trials::new(Arc::clone(&slots));
    let recorder = Arc::new(Recorder::new(clock::unix_ms()));
    let (comparer, compare) = compare::comparer(trials.clone(), Arc::clone(&recorder));
    shared.background.spawn(compare);
    let common = planes::Common {
        trials: trials.clone(),
        recorder,
        comparer: comparer.clone(),
        deadline: config.deadline,
        failover_reserve_percent: config.failover_reserve_percent,
        shadow_budget: config.shadow_budget,
        shadow_timeout: config.shadow_timeout,
    };
    let (split, plane) = match config.plane {
        PlaneConfig::Operations(operations) => planes::operations(&config.name, *operations, common, shared).await?,
        PlaneConfig::Http(http) => planes::http(*http, common, shared).await?,
    };
    let history = Arc::<History>::default();
    let (controller, handle) = Controller::new(controller::Parts {
        name: config.name.clone(),
        salt: config.salt,
        check_interval: config.check_interval,
        state,
        flags,
        split: Arc::clone(&split),
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
    Ok(Migration { handle, split, plane, history, comparer, slots, configured, deadline: config.deadline })
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
