//! A host that is about to start: everything that can be done while another host still has the store.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Once},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    App, Common, Shared, StartError, changes, keep_house,
    migrations::Begun,
    planes,
    reload::Live,
    sockets::{Found, Sockets},
    table, watch,
};
use crate::{
    admin,
    config::{Config, MigrationConfig},
    host::{Change, Host, Migration, install::Desk},
};
use cutover_control::{
    notify::{self, Notice, Notifier},
    registry::Registry,
};
use cutover_model::clock;
use cutover_policy_host::engine::{Engine, Imports, Options};
use cutover_store::{Store, markers::Markers};
use cutover_traffic::{
    descriptors,
    ingress::{Ends, Ingress, Started, transfer::Adopter},
    pool::spawner::Spawner,
};

/// How long a host waits for its pools before it takes over from another: what is not up then was not up there either, or
/// comes up later.
const WARM_UP: Duration = Duration::from_mins(1);

/// A host that has its sockets, its engine and its pools, and not yet the store.
#[derive(Debug)]
pub struct Prepared {
    config: Config,
    sockets: Sockets,
    common: Common,
    migrations: Vec<Begun>,
}

impl Prepared {
    /// Takes or makes sockets, starts the engine, and makes the pools, which are closed.
    ///
    /// # Errors
    /// What keeps the host from starting.
    pub fn new(mut config: Config, guard: PathBuf, found: Found) -> Result<Self, StartError> {
        limit_connections(&mut config);
        let sockets = Sockets::open(&config, found)?;
        let engine = Engine::start(Options {
            limits: config.limits,
            compiler: Some(guard.clone()),
            cache: config.policy_cache.clone(),
        })?;
        let spawner = Spawner::start(guard, runtime::Handle::current()).map_err(StartError::Spawner)?;
        let (working, background) = (TaskTracker::new(), TaskTracker::new());
        let (threads, wall) = (config.http.threads, config.wall.clone());
        let common = Common { engine, spawner, threads, wall, working, background };
        let migrations = std::mem::take(&mut config.migrations).into_iter();
        let migrations = migrations.map(|migration| Begun::new(migration, &common)).collect();
        Ok(Self { config, sockets, common, migrations })
    }

    /// Compiles the policies and opens the pools that are open in the host that this one takes over from; waits for
    /// them as long as is sensible.
    pub async fn warm_up(&mut self, open: &[String]) {
        if self.config.policy_cache.is_some() {
            let engine = Arc::clone(&self.common.engine);
            let bundles: Vec<_> = self.migrations.iter().flat_map(Begun::bundles).cloned().collect();
            let compile = move || {
                for bundle in bundles {
                    // What cannot be compiled is refused, and told, when the host starts.
                    drop(engine.compile_with(&bundle.component, Imports::of(bundle.wasi_stub)));
                }
            };
            if let Err(error) = tokio::task::spawn_blocking(compile).await {
                tracing::error!(%error, "compiling the policies failed");
            }
        }
        let deadline = clock::mono() + WARM_UP;
        let pools = self.migrations.iter().flat_map(Begun::pools).filter(|pool| open.iter().any(|l| l == pool.label()));
        join_all(pools.map(|pool| async move {
            pool.open();
            if let Err(failure) = pool.ready_by(deadline).await {
                tracing::warn!("taking over without a whole pool: {}", failure.message);
            }
        }))
        .await;
    }

    /// Whether the store, as it is now, lets it start at all, as far as that can be known while another host has it.
    ///
    /// # Errors
    /// What would keep it from starting.
    pub async fn could_start(&self) -> Result<(), StartError> {
        let absent = self.migrations.iter().filter(|begun| begun.pools()[0].is_absent()).map(Begun::name);
        changes::needs_v1(&self.config.store, absent).await.map_or(Ok(()), Err)
    }

    /// Opens the store and starts the rest. What it gives back besides takes the connections of another host.
    ///
    /// # Errors
    /// What keeps the host from starting.
    pub async fn start(self) -> Result<(App, Adopter), StartError> {
        let Self { config, sockets, common, migrations } = self;
        let (live, tasks) = (Live::of(&config), Tasks::default());
        let host = Box::pin(run(migrations, (&config, &live), &sockets, &common, &tasks)).await?;
        serve(host, (config, live), sockets, common, tasks)
    }
}

/// Opens the store, and starts all that decides.
async fn run(
    migrations: Vec<Begun>,
    (config, live): (&Config, &Live),
    sockets: &Sockets,
    common: &Common,
    Tasks { deciding, recording, background_stop }: &Tasks,
) -> Result<Arc<Host>, StartError> {
    let markers = Markers::new(config.rollback_markers.clone());
    let files = markers.files(migrations.iter().map(Begun::name));
    let store = Box::pin(Store::own(&config.store, &files, &owner(sockets))).await?;
    let desk = Desk::new(&config.limits);
    let admitting = desk.admitting.clone();
    let registry = Registry::new(Arc::clone(&common.engine), store.clone(), config.trust.clone(), admitting);
    let (notifier, deliver) = notify::notifier(Arc::clone(&live.webhooks));
    common.background.spawn(deliver);
    let shared = Shared {
        engine: Arc::clone(&common.engine),
        desk: desk.clone(),
        store: store.clone(),
        markers,
        registry: registry.clone(),
        notifier,
        machine: Arc::default(),
        patience: config.patience,
        working: common.working.clone(),
        deciding: deciding.clone(),
        recording: recording.clone(),
        background: common.background.clone(),
        background_stop: background_stop.clone(),
    };
    let warnings = warnings(&migrations, &store, &shared.notifier).await?;
    tell_of_new(&store, &shared.notifier);
    deciding.spawn(watch::watch(store.clone(), shared.notifier.clone(), background_stop.clone()));
    let migrations = Box::pin(start_all(migrations, &shared)).await?;
    deciding.spawn(keep_house(store.clone(), Arc::clone(&live.keep), background_stop.clone()));
    Ok(Arc::new(Host {
        engine: Arc::clone(&common.engine),
        store,
        registry,
        components: config.components.clone(),
        policy_folders: config.policy_folders.clone().into(),
        desk,
        migrations,
        warnings,
        notices: shared.notifier.counters(),
        began: clock::unix_ms(),
    }))
}

/// Lets callers and operators in.
fn serve(
    host: Arc<Host>,
    (config, live): (Config, Live),
    sockets: Sockets,
    common: Common,
    Tasks { deciding, recording, background_stop }: Tasks,
) -> Result<(App, Adopter), StartError> {
    let (serving, administering) = <(TaskTracker, TaskTracker)>::default();
    let mut table = table(&host);
    let otherwise = config.default_upstreams.map(|spec| planes::default(spec, config.forwarding, &common));
    table.otherwise.clone_from(&otherwise);
    let otherwise = otherwise.map(|proxy| proxy.v1.clone());
    let failed = |address| move |source| StartError::Listen { address, source };
    let own = sockets.try_clone().map_err(failed(config.data_plane))?;
    let tls = config.http.tls.clone();
    let ingress = Ingress::new(own.data_plane, table, config.http);
    let admin = tokio::net::TcpListener::from_std(own.admin).map_err(failed(config.admin))?;
    let data_plane = ingress.address().map_err(failed(config.data_plane))?;
    let admin_address = admin.local_addr().map_err(failed(config.admin))?;
    let ends = Ends::default();
    let threads = ends.shutdown.clone().drop_guard();
    let Started { ended, adopter, left, calls } = ingress.start(&ends).map_err(failed(config.data_plane))?;
    serving.spawn(ended);
    let names = Arc::clone(&live.admin_hosts);
    let served = admin::serve(admin, Arc::clone(&host), (names, config.admin_plane), background_stop.clone());
    administering.spawn(served);
    tracing::info!(%data_plane, admin = %admin_address, "serving");
    let app = App {
        host,
        data_plane,
        admin: admin_address,
        sockets: Some(sockets),
        ends,
        left: Some(left),
        calls,
        serving,
        administering,
        deciding,
        recording,
        working: common.working,
        background: common.background,
        background_stop,
        otherwise,
        live,
        tls,
        _threads: threads,
    };
    Ok((app, adopter))
}

/// The tasks that decide and write that down, and what ends them.
#[derive(Debug, Default)]
struct Tasks {
    deciding: TaskTracker,
    recording: TaskTracker,
    background_stop: CancellationToken,
}

async fn start_all(begun: Vec<Begun>, shared: &Shared) -> Result<BTreeMap<String, Migration>, StartError> {
    let mut migrations = BTreeMap::new();
    for migration in begun {
        migrations.insert(migration.name().to_owned(), Box::pin(migration.start(shared)).await?);
    }
    Ok(migrations)
}

/// What other hosts are told of the one that has the store.
fn owner(sockets: &Sockets) -> String {
    let admin = sockets.admin.local_addr().map_or_else(|_unknown| "?".into(), |address| address.to_string());
    format!("process {} (admin plane at {admin}, since {})", std::process::id(), clock::unix_ms().rfc3339())
}

/// People are told of a store that is a new one.
fn tell_of_new(store: &Store, notifier: &Notifier) {
    let Some(message) = store.is_new() else { return };
    let (at, event) = (clock::unix_ms(), "store-new".into());
    notifier.notify(Notice { at, migration: String::new(), event, severity: "warning", message, findings: Vec::new() });
}

/// What this start changes for callers of V2; people are told.
async fn warnings(begun: &[Begun], store: &Store, notifier: &Notifier) -> Result<Vec<Change>, StartError> {
    let configured: Vec<_> = begun.iter().map(Begun::configured).collect();
    let mut changes = changes::of(&configured, store).await?;
    changes.retain(|change| change.moves_callers);
    for Change { migration, message, what, .. } in &changes {
        notifier.notify(Notice {
            at: clock::unix_ms(),
            migration: migration.clone(),
            event: if *what == "v1-left-out" { what } else { "sessions-moved" }.into(),
            severity: "warning",
            message: message.clone(),
            findings: Vec::new(),
        });
    }
    Ok(changes)
}

/// Callers get no more connections than there are descriptors for.
fn limit_connections(config: &mut Config) {
    let limit = descriptors::raise();
    let workers = config.migrations.iter().map(MigrationConfig::most_workers).sum();
    let reserve = descriptors::reserve(config.admin_plane.max_connections, workers);
    let (wanted, room) = (config.http.max_connections, descriptors::room(config.http.max_connections, reserve, limit));
    descriptors::leave_to_upstreams(reserve, room, limit);
    if room < wanted {
        static SAID: Once = Once::new();
        // A host that begins again has said so.
        SAID.call_once(|| tracing::warn!(
            max_connections = room,
            "callers get fewer connections than the {wanted} of `host.http.max_connections`: the limit of open files is {}; \
             raise it (`LimitNOFILE=`, `ulimit -Hn`), or set the former",
            limit.unwrap_or_default()
        ));
        config.http.max_connections = room;
    }
}
