//! The data plane: connections in, requests out to the migrations.
//!
//! One thread for each core, each with a runtime, listening sockets and connections to upstreams of its own, so that a
//! request stays on one core from its first byte to its last. Connections, heads, bodies and what waits are bounded.
//! [`table`] says which migration a request belongs to.

pub mod activity;
pub mod certified;
mod connection;
mod extended;
mod fast_path;
pub mod guard;
pub mod listen;
pub mod operations;
pub mod proxied;
pub mod reaper;
mod strict;
pub mod table;
pub mod tls;
pub mod transfer;
pub mod watched;

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
};

use tokio::{
    runtime,
    sync::{Semaphore, mpsc, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{connection::Serving, proxied::Trusted, table::Table, tls::Tls};
use crate::{
    ingress::{
        reaper::{IdleReaper, Limits},
        transfer::{Adopter, Carried},
    },
    load::Load,
    pool::upstream::idle,
};

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that serve connections, each with a runtime and sockets of its own; 0 counts as 1.
    pub threads: usize,
    /// Connections that are served at once; the others wait in the kernel's queue.
    pub max_connections: usize,
    /// Requests that are served at once; see [`Load`].
    pub max_in_flight: usize,
    /// How many connections there may be over which no whole head has come yet, on all threads together.
    pub max_pending: usize,
    /// How long the host waits for callers.
    pub limits: Limits,
    /// Load balancers whose connections begin with a header of the PROXY protocol; `None` if no connection does.
    pub proxied: Option<Arc<Trusted>>,
    /// What TLS with callers needs; `None` if they do not use TLS.
    pub tls: Option<Tls>,
}

/// How the data plane is told to end.
#[derive(Debug, Clone, Default)]
pub struct Ends {
    /// Accept nothing more, and give away each connection as soon as nothing is under way on it.
    pub leave: CancellationToken,
    /// Accept nothing more, and end each connection when its requests have ended.
    pub shutdown: CancellationToken,
    /// Counts the threads that have not yet told their connections to leave.
    pub told: TaskTracker,
}

/// The data plane, serving.
#[derive(Debug)]
pub struct Started<F> {
    /// Resolves when all threads have ended.
    pub ended: F,
    /// Takes connections of another host. Until it is dropped, threads that give their connections away do not end.
    pub adopter: Adopter,
    /// Connections that are given away.
    pub left: mpsc::Receiver<Carried>,
    /// Calls of operations under way.
    pub calls: TaskTracker,
}

/// The data plane, listening.
#[derive(Debug)]
pub struct Ingress {
    sockets: Vec<TcpListener>,
    table: Arc<Table>,
    settings: Settings,
}

impl Ingress {
    /// Serves what comes in at these sockets.
    pub fn new(sockets: Vec<TcpListener>, table: Table, settings: Settings) -> Self {
        Self { sockets, table: Arc::new(table), settings }
    }

    /// The address at which it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or_else(|| io::Error::other("there is no listening socket"))?.local_addr()
    }

    /// Starts the threads. They accept until they are told to end, then let requests end.
    ///
    /// # Errors
    /// When the system has no thread or socket left.
    pub fn start(self, ends: &Ends) -> io::Result<Started<impl Future<Output = ()> + use<>>> {
        let Self { sockets, table, settings } = self;
        let connections = Arc::new(Semaphore::new(settings.max_connections));
        let load = Load::new(settings.max_in_flight);
        let shortage = Arc::default();
        // Connections are spread over the threads evenly, as good as.
        let few = settings.max_pending.div_ceil(settings.threads.max(1));
        let watches = (0..settings.threads.max(1))
            .map(|_| Arc::new(IdleReaper::new(settings.limits, few, Arc::clone(&shortage))));
        let watches: Arc<[Arc<IdleReaper>]> = watches.collect();
        let (leaving, left) = mpsc::channel(transfer::QUEUE);
        let calls = TaskTracker::new();
        let (mut ended, mut adopting) = (Vec::new(), Vec::new());
        // One thread keeps the certificate fresh for all.
        let mut tls = settings.tls.clone();
        let shares = listen::share_out(sockets, settings.threads)?;
        for ((number, sockets), watch) in shares.into_iter().enumerate().zip(watches.iter()) {
            let serving = Serving {
                table: Arc::clone(&table),
                settings: settings.clone(),
                load: Arc::new(load.share()),
                connections: Arc::clone(&connections),
                ends: ends.clone(),
                leaving: leaving.clone(),
                calls: calls.clone(),
                tasks: TaskTracker::new(),
                watch: Arc::clone(watch),
                watches: Arc::clone(&watches),
                shortage: Arc::clone(&shortage),
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (end, wait) = oneshot::channel::<()>();
            let (adopt, carried) = mpsc::channel(transfer::QUEUE);
            let tls = tls.take();
            thread::Builder::new().name(format!("cutover-ingress-{number}")).spawn(move || {
                idle::enter(number + 1);
                runtime.block_on(async {
                    let fresh = async {
                        match &tls {
                            Some(tls) => tls.keep_fresh().await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        () = serving.serve(sockets, carried) => {}
                        () = fresh => {}
                    }
                });
                drop(end);
            })?;
            ended.push(wait);
            adopting.push(adopt);
        }
        let ended = async move {
            for wait in ended {
                // A thread that panicked has ended, too.
                drop(wait.await);
            }
        };
        Ok(Started { ended, adopter: Adopter::new(adopting), left, calls })
    }
}

impl Ends {
    /// Resolves when nothing more is to be accepted.
    async fn begun(&self) {
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
    }
}
