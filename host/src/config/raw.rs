//! The shape of the configuration file. Everything optional has its default here, and unknown fields are refused.

mod defaults;
pub mod failed;
pub mod failsafe;
pub mod http;
pub mod rails;
pub mod workers;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::limits::PolicyLimits;
use cutover_model::request::Class;

/// The whole file, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[host]`: what all migrations share; the defaults without it.
    #[serde(default)]
    pub host: Host,
    /// `[migrations.NAME]` by name; at least one is needed.
    #[serde(default)]
    pub migrations: BTreeMap<String, Migration>,
}

/// `[host]`: addresses, files and limits of the host. Relative paths are relative to the file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Address and port where requests come in.
    pub data_plane: String,
    /// How requests are served: connections, times and TLS.
    pub http: http::Http,
    /// Address and port where operators come in. There is no authentication: only operators may reach it.
    pub admin: String,
    /// By which names operators may ask for it, besides its address and those of this machine.
    pub admin_hosts: Vec<String>,
    /// How operators' connections are served.
    pub admin_plane: http::AdminPlane,
    /// The SQLite file; it is made if it is not there, and one host at a time has it.
    pub store: PathBuf,
    /// The folder that has a file for each migration that is rolled back, besides the record in the store; best on
    /// another disk.
    pub rollback_markers: PathBuf,
    /// Where the components of guests are; see [`cutover_model::environment::components`] for where they are looked for.
    pub components: Option<PathBuf>,
    /// Folders below which a request may name a bundle; those of the bundles below may be named without it.
    pub policy_folders: Vec<PathBuf>,
    /// Where compiled policies are kept: beside the store unless it is set, nowhere if it is empty.
    pub policy_cache: Option<PathBuf>,
    /// `http://` URLs that get every notice as a JSON object by POST.
    pub webhooks: Vec<String>,
    /// How long the rows of `pool_metrics` are kept, as a span of time such as `30d`.
    pub keep_metrics: String,
    /// How long the checks that policies were asked about are kept.
    pub keep_history: String,
    /// How long the log of calls to policies is kept; decisions keep theirs for ever.
    pub keep_policy_log: String,
    /// The most bytes of the store that are in use, 16 MiB to 1 PiB; beyond that the oldest records but decisions and
    /// the audit go.
    pub store_bytes: u64,
    /// What a policy may use for one question: memory, time and sizes.
    pub policy_limits: PolicyLimits,
    /// How often a policy may fail before it is put out of charge.
    pub policy_failures: PolicyFailures,
    /// Whose policies are accepted; everybody's unless it is set.
    pub policy_trust: Option<PolicyTrust>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            data_plane: "127.0.0.1:8080".into(),
            http: http::Http::default(),
            admin: "127.0.0.1:8081".into(),
            admin_hosts: Vec::new(),
            admin_plane: http::AdminPlane::default(),
            store: "cutover.db".into(),
            rollback_markers: ".cutover".into(),
            components: None,
            policy_folders: Vec::new(),
            policy_cache: None,
            webhooks: Vec::new(),
            keep_metrics: "30d".into(),
            keep_history: "30d".into(),
            keep_policy_log: "7d".into(),
            store_bytes: 4 << 30,
            policy_limits: PolicyLimits::default(),
            policy_failures: PolicyFailures::default(),
            policy_trust: None,
        }
    }
}

/// `[host.policy_trust]`: whose signatures a policy needs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyTrust {
    /// The keys that may vouch for policies.
    pub keys: Vec<PolicyKey>,
    /// How many of them must; all unless it is set.
    pub required: Option<usize>,
}

/// `[[host.policy_trust.keys]]`: one key that may vouch for policies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyKey {
    /// Whose key it is; shown to people where the key signed something.
    pub name: String,
    /// An ed25519 public key: PEM, or the one line between its first and its last.
    pub public_key: String,
}

/// `[host.policy_failures]`: a policy that fails `count` times within `within` is put out of charge.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyFailures {
    /// The number of failures, 1 to 10 000.
    pub count: usize,
    /// The span of time that the failures have to fall into, 1 s to 1 day.
    pub within: String,
}

impl Default for PolicyFailures {
    fn default() -> Self {
        Self { count: 5, within: "1m".into() }
    }
}

/// `[migrations.NAME]`: a service that moves from V1 to V2.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migration {
    /// The salt of the session hash; the migration's name unless it is set. Another salt moves sessions.
    pub salt: Option<String>,
    /// How often the rollback and stages policies are asked.
    #[serde(default = "defaults::five_seconds")]
    pub check_interval: String,
    /// What the host does when nobody judges, nothing is recorded, or V2 fails everything.
    #[serde(default)]
    pub failsafe: failsafe::Failsafe,
    /// Limits on raising V2's share that no policy passes.
    #[serde(default)]
    pub rails: rails::Rails,
    /// How long callers wait, unless their operation says otherwise.
    #[serde(default = "defaults::two_seconds")]
    pub deadline: String,
    /// The part of the deadline that is kept for V1 after V2 failed a read, in percent.
    #[serde(default = "defaults::half")]
    pub failover_reserve: u32,
    /// Mirrored calls that may be under way at once; those that do not fit are left out and counted.
    #[serde(default = "defaults::sixteen")]
    pub shadow_budget: usize,
    /// How long a mirrored call may take; the `deadline` of its operation wins, if that is set.
    #[serde(default = "defaults::five_seconds")]
    pub shadow_timeout: String,
    /// Which reads of V2 V1 is asked, too.
    #[serde(default)]
    pub mirror_back: MirrorBack,
    /// The share of sessions that stays on V1 whatever V2's share is; at most 50 %.
    #[serde(default = "defaults::nothing")]
    pub holdback: String,
    /// Who may choose a pool; nobody unless it is there.
    #[serde(rename = "override")]
    pub choice: Option<Override>,
    /// Rules of the routing policy whose calls are evidence although callers choose them.
    #[serde(default)]
    pub evidence_rules: Vec<String>,
    /// What belongs to it, for HTTP services.
    #[serde(default, rename = "match")]
    pub matches: Vec<http::Match>,
    /// Where the sticky key of HTTP requests is.
    pub session: Option<Vec<String>>,
    /// The host's own session cookie, for HTTP services.
    pub session_cookie: Option<http::SessionCookie>,
    /// What requests are that no operation names: `exclusive` or `by-method`, for HTTP services.
    pub unnamed: Option<String>,
    /// What is done with paths that can be read in two ways: `refuse` or `exclusive`, for HTTP services.
    pub ambiguous_paths: Option<String>,
    /// Header fields that mirrored requests are sent without, for HTTP services.
    pub shadow_drop: Option<Vec<String>>,
    /// What is set and removed in fields of requests and answers, for HTTP services.
    pub headers: Option<http::Headers>,
    /// How often each caller may send a request, for HTTP services.
    pub rate_limit: Option<http::RateLimit>,
    /// The operations that callers may call, by name.
    #[serde(default)]
    pub operations: BTreeMap<String, Operation>,
    /// What counts as failed, of operations that do not say it themselves.
    #[serde(default)]
    pub failed: failed::Failed,
    /// The pool that is being replaced; none once it is gone for good.
    pub v1: Option<Pool>,
    /// The pool that replaces it.
    pub v2: Pool,
    /// Whether the stages policy may raise V2's share while V1 is gone.
    #[serde(default)]
    pub raise_without_v1: bool,
    /// `[migrations.NAME.policies]`: the policy in charge of each kind, by the kind's name.
    #[serde(default)]
    pub policies: BTreeMap<String, Policy>,
}

/// `[migrations.NAME.override]`: callers who may choose their pool.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The field by which callers ask for `v1` or `v2`.
    #[serde(default = "defaults::override_header")]
    pub header: String,
    /// The file with the key that they have to send; needed unless `anyone` is true.
    pub key_file: Option<PathBuf>,
    /// Whether no key is needed, for a host that only testers reach.
    #[serde(default)]
    pub anyone: bool,
    /// Whether they get V2 also before it serves others.
    #[serde(default)]
    pub testers: bool,
    /// Whether their calls are evidence for policies; they chose their pool, so they stand for nobody else.
    #[serde(default)]
    pub evidence: bool,
}

/// `[migrations.NAME.mirror_back]`: reads that V2 answered and that V1 is asked, too, to have something to compare V2
/// with.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorBack {
    /// The share of sessions whose reads V1 is asked, too, when V2 answers them.
    pub share: String,
    /// V2's share from which on that is so.
    pub from: String,
}

impl Default for MirrorBack {
    fn default() -> Self {
        Self { share: "5%".into(), from: "90%".into() }
    }
}

/// `[migrations.NAME.operations.OPERATION]`: a kind of request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// What repeating or mirroring it means: `read`, `replicate` or `exclusive`.
    pub class: Class,
    /// How long its callers wait; as long as the migration says unless it is set.
    pub deadline: Option<String>,
    /// The argument that names what a `replicate` operation is about.
    pub key: Option<String>,
    /// For `replicate`: whether the operation takes away the state of its key.
    #[serde(default)]
    pub removes: bool,
    /// What V2 calls it, where an adapter translates calls.
    pub v2_name: Option<String>,
    /// The path of its requests, for HTTP services.
    pub path: Option<String>,
    /// Their methods; any if there are none.
    #[serde(default)]
    pub methods: Vec<String>,
    /// Parameters that their queries have, and their values.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// What counts as failed; as the migration says unless it is set.
    pub failed: Option<failed::Failed>,
    /// What is set and removed in fields, after what the migration says, for HTTP services.
    pub headers: Option<http::Headers>,
    /// How often each caller may send one; as the migration says unless it is set, for HTTP services.
    pub rate_limit: Option<http::RateLimit>,
}

/// What a migration of HTTP services is made of.
#[derive(Debug)]
pub struct HttpMigration {
    /// The requests that belong to it, by host, path and headers.
    pub matches: Vec<http::Match>,
    /// The headers and cookies where the sticky key is; the first that a request has counts.
    pub session: Vec<String>,
    /// The host's own session cookie; none if it sets no cookie.
    pub session_cookie: Option<http::SessionCookie>,
    /// What requests are that no operation names.
    pub unnamed: Option<String>,
    /// What is done with paths that can be read in two ways.
    pub ambiguous_paths: Option<String>,
    /// Header fields that mirrored requests are sent without.
    pub shadow_drop: Vec<String>,
    /// What is set and removed in fields of requests and answers.
    pub headers: http::Headers,
    /// How often each caller may send a request.
    pub rate_limit: Option<http::RateLimit>,
    /// The operations that requests are told apart by, by name.
    pub operations: BTreeMap<String, Operation>,
    /// What counts as failed, of operations that do not say it themselves.
    pub failed: failed::Failed,
    /// The pool that is being replaced; none once it is gone for good.
    pub v1: Option<http::Upstreams>,
    /// The pool that replaces it.
    pub v2: http::Upstreams,
}

/// `[migrations.NAME.v1]` and `.v2`. The one that has a field of its name, or else the last.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pool {
    /// HTTP upstreams: it has `upstreams`.
    Upstreams(Box<http::Upstreams>),
    /// Worker processes: it has no `upstreams`.
    Workers(Box<Workers>),
}

impl Pool {
    /// What it says of workers, if it does.
    pub fn workers(self) -> Option<Workers> {
        match self {
            Self::Workers(workers) => Some(*workers),
            Self::Upstreams(_) => None,
        }
    }

    /// What it says of upstreams, if it does.
    pub fn upstreams(self) -> Option<http::Upstreams> {
        match self {
            Self::Upstreams(upstreams) => Some(*upstreams),
            Self::Workers(_) => None,
        }
    }
}

/// A pool of worker processes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    /// `serialized`: one call at a time, however many workers; `concurrent`: one call for each worker.
    pub mode: String,
    /// How many workers there are: a number from 1 to 1024, or a range.
    pub workers: workers::Workers,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Where it runs; the configuration's folder unless it is set.
    pub directory: Option<PathBuf>,
    /// Variables added to the host's own environment; their values are not stored.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How long a worker may take until its first health check is answered.
    #[serde(default = "defaults::ten_seconds")]
    pub start_timeout: String,
    /// What each worker does before its first call.
    #[serde(default)]
    pub warm_up: workers::WarmUp,
    /// How calls wait for a worker, and how many may.
    #[serde(default)]
    pub queue: workers::Queue,
    /// How often workers that died may be replaced.
    #[serde(default)]
    pub restarts: workers::Restarts,
    /// What is done about calls that fail.
    #[serde(default)]
    pub errors: workers::Errors,
    /// When an operation that keeps failing is refused.
    #[serde(default)]
    pub breaker: workers::Breaker,
    /// What makes the pool change its size.
    #[serde(default)]
    pub optimizer: workers::Optimizer,
    /// How often idle workers are asked how they are.
    #[serde(default = "defaults::thirty_seconds")]
    pub health_interval: String,
    /// How long a worker may take to answer that; one that takes longer is replaced at once.
    #[serde(default = "defaults::five_seconds")]
    pub health_timeout: String,
    /// Failed health checks in a row until a worker is replaced.
    #[serde(default = "defaults::three")]
    pub health_failures: u32,
    /// How long calls in flight may take when the pool is drained.
    #[serde(default = "defaults::thirty_seconds")]
    pub drain_timeout: String,
    /// How long a worker that is told to end may take, before it is made to.
    #[serde(default)]
    pub stop: workers::Stop,
}

/// `[migrations.NAME.policies]`: a bundle's folder, or that with settings laid over the bundle's.
#[derive(Debug)]
pub enum Policy {
    /// The bundle's folder alone; its own settings are in force.
    Bundle(PathBuf),
    /// The bundle's folder, and settings that are laid over its own.
    WithSettings(PolicySettings),
}

/// A bundle with settings of this migration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// The bundle's folder, relative to the configuration's.
    pub bundle: PathBuf,
    /// Laid over the bundle's settings, field by field.
    #[serde(default)]
    pub settings: toml::Table,
}

// By hand, because the derived `untagged` forgets what was wrong with a table.
impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Policy;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a bundle's folder, or `{ bundle = FOLDER, settings = { .. } }`")
            }

            fn visit_str<E>(self, folder: &str) -> Result<Policy, E> {
                Ok(Policy::Bundle(folder.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Policy, A::Error> {
                PolicySettings::deserialize(MapAccessDeserializer::new(table)).map(Policy::WithSettings)
            }
        }
        deserializer.deserialize_any(Shape)
    }
}
