//! What a host runs, as its planes and the admin plane see it.

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
    /// The policy engine.
    pub engine: Arc<Engine>,
    /// The store.
    pub store: Store,
    /// The policies that it knows.
    pub registry: Registry,
    /// Where the components of guests are.
    pub components: PathBuf,
    /// Folders below which a request may name a bundle.
    pub policy_folders: Arc<[PathBuf]>,
    /// Where policies are read and admitted.
    pub desk: Desk,
    /// The migrations by name.
    pub migrations: BTreeMap<String, Migration>,
    /// What its start has changed for callers of V2.
    pub warnings: Vec<Change>,
    /// What people were told.
    pub notices: Arc<Counters>,
    /// When it began.
    pub began: clock::UnixMs,
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

/// Something that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The migration.
    pub migration: String,
    /// `migration`, `salt`, `operations`, `stages`, `policy`, `pools`, `v1-left-out` or `flags`.
    pub what: &'static str,
    /// Whether callers of V2 notice.
    pub moves_callers: bool,
    /// One sentence.
    pub message: String,
}
