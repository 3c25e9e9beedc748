//! What a host runs, as its planes and the admin plane see it. The admin plane has only this, and not the tasks behind
//! it.

pub mod install;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;

use self::install::Desk;
use cutover_control::{migration::Handle, notify::Counters, registry::Registry};
use cutover_model::{clock, port::Kind};
use cutover_policy_host::{engine::Engine, slot::Slots};
use cutover_store::Store;
use cutover_traffic::{
    compare::Comparer, dispatch::Dispatch, ingress::table::Match, observe::History, proxy::Proxy, split::Split,
};

/// What a host runs, as the admin plane sees it.
#[derive(Debug)]
pub struct Host {
    /// Compiles policies and runs them.
    pub engine: Arc<Engine>,
    /// Where decisions and history are kept.
    pub store: Store,
    /// The policies that the host knows, by name and version.
    pub registry: Registry,
    /// The folder in which the components of guests are.
    pub components: PathBuf,
    /// Folders below which a request may name a bundle.
    pub policy_folders: Arc<[PathBuf]>,
    /// The threads on which policies are read and admitted.
    pub desk: Desk,
    /// The migrations by name.
    pub migrations: BTreeMap<String, Migration>,
    /// What the start of this host has changed for migrations that are under way.
    pub warnings: Vec<Change>,
    /// How many notices people were told.
    pub notices: Arc<Counters>,
    /// When the host began, by the wall clock.
    pub began: clock::UnixMs,
}

/// One migration, as the admin plane sees it.
#[derive(Debug)]
pub struct Migration {
    /// The way to ask its controller, and what that shows.
    pub handle: Handle,
    /// The plan in force, both pools, and the counts of their calls.
    pub split: Arc<Split>,
    /// Whether its requests are calls of operations or HTTP requests, and what serves them.
    pub plane: Plane,
    /// The batches of the last hour, and totals since the host began.
    pub history: Arc<History>,
    /// Compares mirrored pairs, and reports what was found.
    pub comparer: Comparer,
    /// The policies in charge of it, those before them, and candidates.
    pub slots: Arc<Slots>,
    /// Fingerprints of what the configuration says of each policy.
    pub configured: BTreeMap<Kind, String>,
    /// How long its callers wait, unless their operation says otherwise.
    pub deadline: Duration,
    /// The time that its decisions rest on.
    pub clock: clock::timeline::Clock,
}

/// How a migration's requests come in.
#[derive(Debug, Clone)]
pub enum Plane {
    /// As calls of operations, for worker processes.
    Operations(Arc<Dispatch>),
    /// As HTTP requests, for upstreams.
    Http(Arc<Proxy>, Vec<Match>),
}

impl Migration {
    /// How long calls of its operations take at most.
    pub fn longest_deadline(&self) -> Duration {
        match &self.plane {
            Plane::Operations(dispatch) => dispatch.longest_deadline().unwrap_or_default().max(self.deadline),
            Plane::Http(..) => self.deadline,
        }
    }
}

impl Plane {
    /// Sessions whose state both pools have to know.
    pub fn sessions(&self) -> usize {
        match self {
            Self::Operations(dispatch) => dispatch.journal.sessions(),
            Self::Http(..) => 0,
        }
    }

    /// Requests that were refused because their callers sent too many, by operation, where that is limited.
    pub fn rate_limited(&self) -> Vec<(&str, u64)> {
        match self {
            Self::Operations(_) => Vec::new(),
            Self::Http(proxy, _) => proxy.rate_limits.iter().map(|(name, limit)| (&**name, limit.refused())).collect(),
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

/// Something that a restart has changed for a migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The name of the migration.
    pub migration: String,
    /// `migration`, `salt`, `operations`, `stages`, `policy`, `pools`, `v1-left-out` or `flags`.
    pub what: &'static str,
    /// Whether callers of V2 notice.
    pub moves_callers: bool,
    /// One sentence for people.
    pub message: String,
}
