//! The data plane: connections in, requests out to the migrations.
//!
//! One thread for each core, each with a runtime, listening sockets and connections to upstreams of its own, so that a
//! request stays on one core from its first byte to its last. Connections, heads, bodies and what waits are bounded.
//! [`table`] says which migration a request belongs to.

mod connection;
pub mod listen;
pub mod operations;
pub mod table;
pub mod tls;
mod watch;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    runtime,
    sync::{Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{connection::Serving, table::Table, watch::Watch};
use crate::{load::Load, pool::upstream::lane};

/// How connections are served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Threads that serve.
    pub threads: usize,
    /// Connections that are served at once; the others wait in the kernel's queue.
    pub max_connections: usize,
    /// Requests that are served at once; see [`Load`].
    pub max_in_flight: usize,
    /// How long a caller may take to send a head.
    pub header_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keep_alive: Duration,
    /// How long a caller may not take what it is sent.
    pub send_timeout: Duration,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<ServerConfig>>,
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

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.sockets.first().ok_or_else(|| io::Error::other("there is no listening socket"))?.local_addr()
    }

    /// Starts the threads. They accept until `shutdown`, then let requests end; what is returned resolves when all have.
    ///
    /// # Errors
    /// When the system has no thread or socket left.
    pub fn start(self, shutdown: &CancellationToken) -> io::Result<impl Future<Output = ()> + use<>> {
        let Self { sockets, table, settings } = self;
        let connections = Arc::new(Semaphore::new(settings.max_connections));
        let load = Load::new(settings.max_in_flight);
        let mut ended = Vec::new();
        for (number, sockets) in listen::share_out(sockets, settings.threads)?.into_iter().enumerate() {
            let serving = Serving {
                table: Arc::clone(&table),
                settings: settings.clone(),
                load: Arc::new(load.share()),
                connections: Arc::clone(&connections),
                shutdown: shutdown.clone(),
                tasks: TaskTracker::new(),
                watch: Watch::default(),
            };
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            let (end, wait) = oneshot::channel::<()>();
            thread::Builder::new().name(format!("cutover-ingress-{number}")).spawn(move || {
                lane::enter(number + 1);
                runtime.block_on(serving.serve(sockets));
                drop(end);
            })?;
            ended.push(wait);
        }
        Ok(async move {
            for wait in ended {
                // A thread that panicked has ended, too.
                drop(wait.await);
            }
        })
    }
}
