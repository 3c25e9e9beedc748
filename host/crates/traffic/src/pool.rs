//! Pools of worker processes, V1's and V2's.
//!
//! A pool owns its processes: it starts them, checks one out for each call, restarts the ones that die and stops them
//! all. [`checkout`] decides who gets which worker and is pure; [`process`] speaks the protocol with one worker;
//! [`journal`] makes the state of a session the same on whichever worker serves it; [`workers`] puts them together.
//! **Invariant**: no worker outlives the host, however the host ends ([`guard`]).

mod adapt;
pub mod affinity;
pub mod breaker;
pub mod checkout;
pub mod guard;
pub mod journal;
pub mod lifecycle;
pub mod load;
pub mod optimizer;
pub mod process;
pub mod recovery;
pub mod resources;
pub mod restarts;
pub mod spawner;
pub mod spec;
pub mod trend;
pub mod upstream;
pub mod workers;

pub use breaker::Backing;
pub use spec::PoolSpec;
pub use upstream::{UpstreamPool, UpstreamSpec};
pub use workers::{Call, WorkerPool};

use cutover_model::{
    clock::Mono,
    facts::{Gauge, Members},
    request::{Failure, PoolId},
};

/// One of a migration's two pools, as its controller sees it; clones are the same pool.
#[derive(Debug, Clone)]
pub enum Pool {
    /// A pool of worker processes.
    Workers(WorkerPool),
    /// A pool of HTTP upstreams.
    Upstreams(UpstreamPool),
}

impl Pool {
    /// The pool, if its members are HTTP upstreams.
    pub const fn upstreams(&self) -> Option<&UpstreamPool> {
        match self {
            Self::Workers(_) => None,
            Self::Upstreams(pool) => Some(pool),
        }
    }

    /// The pool, if its members are worker processes.
    pub const fn workers(&self) -> Option<&WorkerPool> {
        match self {
            Self::Workers(pool) => Some(pool),
            Self::Upstreams(_) => None,
        }
    }

    /// Lets calls in, until it is closed.
    pub fn open(&self) {
        match self {
            Self::Workers(pool) => pool.open(),
            Self::Upstreams(pool) => pool.open(),
        }
    }

    /// Its members were replaced by others: forgets what is known of them. Does nothing for workers, which the host
    /// itself replaces.
    pub fn forget(&self) {
        if let Self::Upstreams(pool) = self {
            pool.forget();
        }
    }

    /// Whether it lets calls in.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Workers(pool) => pool.is_open(),
            Self::Upstreams(pool) => pool.is_open(),
        }
    }

    /// Waits until members are there: workers that are ready, or upstreams that were reached since they were replaced.
    ///
    /// # Errors
    /// Why no member is there.
    pub async fn reached_by(&self, deadline: Mono) -> Result<(), Failure> {
        match self {
            Self::Workers(pool) => pool.ready_by(deadline).await,
            Self::Upstreams(pool) => pool.reached_by(deadline).await,
        }
    }

    /// Waits until it can serve as it is meant to.
    ///
    /// # Errors
    /// What the pool lacks, in its message.
    pub async fn ready_by(&self, deadline: Mono) -> Result<(), Failure> {
        match self {
            Self::Workers(pool) => pool.ready_by(deadline).await,
            Self::Upstreams(pool) => pool.ready_by(deadline).await,
        }
    }

    /// When a call was last sent to a member.
    pub fn last_dispatch(&self) -> Mono {
        match self {
            Self::Workers(pool) => pool.last_dispatch(),
            Self::Upstreams(pool) => pool.last_dispatch(),
        }
    }

    /// Lets no call in any more, at once; those that wait are turned away unsent.
    pub fn close(&self) {
        match self {
            Self::Workers(pool) => pool.close(),
            Self::Upstreams(pool) => pool.close(),
        }
    }

    /// Waits for calls in flight, as long as the pool's settings say. Returns those that are left.
    pub async fn drain(&self) -> usize {
        match self {
            Self::Workers(pool) => pool.drain().await,
            Self::Upstreams(pool) => pool.drain().await,
        }
    }

    /// Stops what a closed pool keeps running; `kill` gives up calls in flight, too.
    pub async fn stop(&self, kill: bool) {
        match self {
            Self::Workers(pool) => pool.stop_workers(kill).await,
            Self::Upstreams(pool) => pool.stop(),
        }
    }

    /// Closes, drains, stops and waits for everything that the pool started.
    pub async fn shut_down(&self) {
        match self {
            Self::Workers(pool) => pool.shut_down().await,
            Self::Upstreams(pool) => pool.shut_down().await,
        }
    }

    /// Whether at least one member can take calls.
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Workers(pool) => pool.is_ready(),
            Self::Upstreams(pool) => pool.is_ready(),
        }
    }

    /// Whether a member is there to answer, well or not: a worker that is up, or an upstream that can be reached.
    pub fn can_serve(&self) -> bool {
        match self {
            Self::Workers(pool) => pool.is_open() && pool.is_ready(),
            Self::Upstreams(pool) => pool.can_serve(),
        }
    }

    /// Says whether anybody answers what this pool does not.
    pub fn stand(&self, backing: Backing) {
        if let Self::Workers(pool) = self {
            pool.stand(backing);
        }
    }

    /// Its members, with those that failed since the last time that this was asked.
    pub fn members(&self) -> Members {
        match self {
            Self::Workers(pool) => pool.members(),
            Self::Upstreams(pool) => pool.members(),
        }
    }

    /// Its members, leaving the count of failures alone.
    pub fn members_now(&self) -> Members {
        match self {
            Self::Workers(pool) => pool.members_now(),
            Self::Upstreams(pool) => pool.members_now(),
        }
    }

    /// Why it is not whole, while it is not.
    pub fn why_not_whole(&self) -> Option<String> {
        match self {
            Self::Workers(pool) => pool.why_not_whole(),
            Self::Upstreams(pool) => pool.why_not_whole(),
        }
    }

    /// Process ids of its members on this machine.
    pub fn pids(&self) -> Vec<u32> {
        match self {
            Self::Workers(pool) => pool.pids(),
            Self::Upstreams(_) => Vec::new(),
        }
    }

    /// The name of the migration and of the pool: `programs/v2`.
    pub fn label(&self) -> &str {
        match self {
            Self::Workers(pool) => &pool.spec().label,
            Self::Upstreams(pool) => &pool.spec().label,
        }
    }

    /// Whether the configuration has left it out.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Workers(pool) => pool.spec().is_absent,
            Self::Upstreams(pool) => pool.spec().is_absent,
        }
    }

    /// Which of the two it is.
    pub fn id(&self) -> PoolId {
        match self {
            Self::Workers(pool) => pool.spec().id,
            Self::Upstreams(pool) => pool.spec().id,
        }
    }

    /// Everything that it shows of itself.
    pub fn view(&self) -> serde_json::Value {
        match self {
            Self::Workers(pool) => serde_json::json!(pool.view()),
            Self::Upstreams(pool) => serde_json::json!(pool.view()),
        }
    }

    /// What it measures besides its members.
    pub fn gauges(&self) -> Vec<Gauge> {
        self.workers().map_or_else(Vec::new, |pool| pool.gauges().into_iter().collect())
    }
}
