//! The composition root: builds the stages from a configuration, owns their tasks, drains them on a signal.

pub mod changes;
mod end;
mod migrations;
mod planes;
mod policies;
mod prepare;
mod reload;
pub mod sockets;
mod watch;

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::prepare::Prepared;
use self::{
    reload::Live,
    sockets::{Found, Sockets},
};
use crate::{
    config::Config,
    host::{Host, Plane, install::Desk},
};
use cutover_control::{
    migration::{controller::Patience, flags::FlagError},
    notify::Notifier,
    registry::Registry,
};
use cutover_model::{clock, port::Phase, request::Ppm};
pub use cutover_policy_host::admission::{admit, admit_bundle};
use cutover_policy_host::engine::{Engine, EngineError};
use cutover_store::{
    Store, StoreError,
    markers::Markers,
    room::{Left, Removed},
};
use cutover_traffic::{
    ingress::{Ends, operations::Route, table::Table, tls::Tls, transfer::Carried},
    observe::machine::Machine,
    pool::{UpstreamPool, spawner::Spawner},
};

/// How often old records are removed to make room.
const HOUSEKEEPING: Duration = Duration::from_mins(1);

/// A host that runs.
#[derive(Debug)]
pub struct App {
    /// What the host runs, as the admin plane sees it.
    pub host: Arc<Host>,
    /// Where the data plane listens.
    pub data_plane: SocketAddr,
    /// Where the admin plane listens.
    pub admin: SocketAddr,
    /// The listening sockets; `None` once the host has ended.
    sockets: Option<Sockets>,
    /// How the data plane is told to end.
    ends: Ends,
    /// Connections that are given away, once that has begun.
    left: Option<mpsc::Receiver<Carried>>,
    /// Calls of operations under way.
    calls: TaskTracker,
    serving: TaskTracker,
    administering: TaskTracker,
    /// The tasks that decide, and write that down.
    deciding: TaskTracker,
    /// The tasks that write history down.
    recording: TaskTracker,
    working: TaskTracker,
    background: TaskTracker,
    background_stop: CancellationToken,
    /// Upstreams of requests that belong to no migration.
    otherwise: Option<UpstreamPool>,
    /// What a reload may change while the host runs.
    live: Live,
    tls: Option<Tls>,
    /// Threads that serve have runtimes of their own: a host that is dropped without having been shut down ends them, too.
    _threads: DropGuard,
}

/// Why a host cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be had.
    #[error("cannot listen on {address}; is another host running?")]
    Listen {
        /// The address that the configuration names.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The policy engine cannot be started.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The environment sets a flag wrongly.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// The configuration has left V1 out too early.
    #[error(
        "`migrations.{migration}.v1` is left out, but {migration} is {phase} with {share} on V2: V1 still has to serve; put it \
         back into the configuration"
    )]
    NeedsV1 {
        /// The name of the migration.
        migration: String,
        /// The phase that it is in.
        phase: Phase,
        /// The share of its sessions that V2 has.
        share: Ppm,
    },
    /// The thread that starts workers cannot be started.
    #[error("cannot start the thread that starts workers")]
    Spawner(#[source] std::io::Error),
}

/// What every migration of a host shares, before there is a store.
#[derive(Debug)]
struct Common {
    engine: Arc<Engine>,
    spawner: Spawner,
    /// Threads that serve requests.
    threads: usize,
    wall: clock::Wall,
    working: TaskTracker,
    background: TaskTracker,
}

/// What every migration of a host shares.
struct Shared {
    engine: Arc<Engine>,
    desk: Desk,
    store: Store,
    markers: Markers,
    registry: Registry,
    notifier: Notifier,
    machine: Arc<Machine>,
    patience: Patience,
    working: TaskTracker,
    deciding: TaskTracker,
    recording: TaskTracker,
    background: TaskTracker,
    background_stop: CancellationToken,
}

impl App {
    /// Starts everything. `guard` is the `cutover` binary, which ties workers to this process.
    ///
    /// # Errors
    /// What keeps the host from starting. A policy that is not admitted does not: V1 serves until it is mended.
    pub async fn start(config: Config, guard: PathBuf) -> Result<Self, StartError> {
        let (app, _nobody_hands_over) = Prepared::new(config, guard, Found::default())?.start().await?;
        Ok(app)
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

/// How long things are kept.
#[derive(Debug, Clone, Copy)]
struct Keep {
    metrics: Duration,
    history: Duration,
    policy_log: Duration,
    /// The most bytes of the store.
    bytes: u64,
}

impl Keep {
    const fn of(config: &Config) -> Self {
        Self {
            metrics: config.keep_metrics,
            history: config.keep_history,
            policy_log: config.keep_policy_log,
            bytes: config.store_bytes,
        }
    }
}

async fn keep_house(store: Store, keep: Arc<ArcSwap<Keep>>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    let began = clock::Wall::default().read();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let keep = **keep.load();
        let before = |keep: Duration| {
            let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
            // A wall clock that is set forward makes nothing old.
            let now = clock::unix_ms().min(began.wall + clock::mono().since(began.mono));
            clock::UnixMs(now.0.saturating_sub(keep_ms))
        };
        removed(&store, Removed::Metrics, store.forget_metrics(before(keep.metrics)).await);
        removed(&store, Removed::Calls, store.forget_calls(before(keep.policy_log)).await);
        removed(&store, Removed::Checks, store.forget_checks(before(keep.history)).await);
        make_room(&store, keep.bytes, before(Duration::ZERO)).await;
    }
}

async fn make_room(store: &Store, most: u64, now: clock::UnixMs) {
    let Left { rows: [calls, checks, metrics], bytes } = match store.fit(most, now).await {
        Ok(left) => left,
        Err(error) => return tracing::error!("no room is made in the store: {}", cutover_model::causes::chain(&error)),
    };
    if calls + checks + metrics > 0 {
        tracing::warn!(
            calls,
            checks,
            metrics,
            "the store had more than `host.store_bytes`; the oldest records are gone"
        );
    }
    if bytes > most {
        tracing::error!(
            bytes,
            most,
            "the store has more than `host.store_bytes`, and nothing in it is older than an hour"
        );
    }
}

fn removed(store: &Store, what: Removed, rows: Result<u64, StoreError>) {
    match rows {
        Ok(rows) if rows > 0 => {
            store.count_removed(what, rows);
            tracing::info!(rows, "removed old {}", what.name());
        }
        Ok(_) => {}
        Err(error) => tracing::error!("old {} are not removed: {}", what.name(), cutover_model::causes::chain(&error)),
    }
}
