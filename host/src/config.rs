//! Configuration: TOML as people write it, turned into types that cannot be wrong. The only reader of files and of the
//! environment.
//!
//! [`raw`] has the shape of the file and refuses unknown fields; `validate` makes the types below and reports *every*
//! problem with its path, so that a file is mended in one go; [`bundle`](cutover_policy_host::bundle) reads policy
//! bundles.

pub mod advice;
pub mod differences;
pub mod given;
mod limits;
pub mod raw;
mod shape;
mod validate;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use toml::de::DeTable;

use cutover_control::migration::{controller::Patience, failsafe, rails::Rails};
use cutover_model::{clock::Wall, environment, port::Kind, request::Class};
use cutover_policy_host::{
    bundle::Bundle,
    engine::Limits,
    route::{Callers, Control},
    trust::Trust,
};
use cutover_traffic::{
    dispatch::Operation,
    ingress::{Settings, table::Match},
    pool::{PoolSpec, UpstreamSpec},
    proxy::{affinity::SessionCookie, catalogue::Catalogue, head::SessionKey, headers::Forwarding, limit::Limit},
};

/// Mistakes of syntax that are told at once: after one, the parser may take others for some.
const MOST_ERRORS: usize = 5;

/// A configuration without problems: every value of it is within its range.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address and port where requests come in.
    pub data_plane: SocketAddr,
    /// How requests are served: connections, times and TLS.
    pub http: Settings,
    /// The upstreams for requests that belong to no migration; none to answer them with 404.
    pub default_upstreams: Option<UpstreamSpec>,
    /// What upstreams are told of callers.
    pub forwarding: Forwarding,
    /// Address and port where operators come in.
    pub admin: SocketAddr,
    /// By which names operators may ask for it, besides its address and those of this machine.
    pub admin_hosts: Vec<String>,
    /// How operators' connections are served.
    pub admin_plane: AdminPlane,
    /// The path of the store's SQLite file.
    pub store: PathBuf,
    /// Where rollbacks are marked besides: a folder that is not on the store's disk, if possible.
    pub rollback_markers: PathBuf,
    /// The folder with the components of guests, as `NAME.wasm`.
    pub components: PathBuf,
    /// Folders below which a request may name a bundle: those of the configured bundles, and those that are listed.
    pub policy_folders: Vec<PathBuf>,
    /// Where compiled policies are kept; none to keep none.
    pub policy_cache: Option<PathBuf>,
    /// URLs that get every notice by POST; empty if nobody is told.
    pub webhooks: Vec<hyper::Uri>,
    /// What a policy may use for one question: memory, time and sizes.
    pub limits: Limits,
    /// How often a policy may fail before it is put out of charge.
    pub patience: Patience,
    /// Which signatures a policy needs; none without listed keys.
    pub trust: Trust,
    /// How long the rows of `pool_metrics` are kept.
    pub keep_metrics: Duration,
    /// How long the checks that policies were asked about are kept.
    pub keep_history: Duration,
    /// How long the log of calls to policies is kept.
    pub keep_policy_log: Duration,
    /// The most bytes of the store: beyond that the oldest calls and checks go, however long they are to be kept.
    pub store_bytes: u64,
    /// The wall clock; the system's, whatever the file says. Tests set it.
    pub wall: Wall,
    /// The migrations, ascending by name; never empty.
    pub migrations: Vec<MigrationConfig>,
    /// As it was written, to be held against another.
    pub source: toml::Table,
}

/// How connections to the admin plane are served.
#[derive(Debug, Clone, Copy)]
pub struct AdminPlane {
    /// Connections that are served at once.
    pub max_connections: usize,
    /// How long a body may take to come.
    pub body_timeout: Duration,
    /// How long operators may take to send a head, to take an answer, and between two requests.
    pub limits: cutover_traffic::ingress::reaper::Limits,
}

/// Which bundles must be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bundles {
    /// All of them: one that cannot be read is a problem of the configuration.
    All,
    /// Only those that can be read: for the others the store may have a policy.
    Readable,
}

/// One migration, as the file says it and with the defaults filled in.
#[derive(Debug, Clone)]
pub struct MigrationConfig {
    /// The migration's name, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// The salt of its session hash; its name unless it is set.
    pub salt: String,
    /// How often the rollback and stages policies are asked.
    pub check_interval: Duration,
    /// What the host does when nobody judges, nothing is recorded, or V2 fails everything.
    pub failsafe: failsafe::Settings,
    /// Limits on raising V2's share that no policy passes.
    pub rails: Rails,
    /// How long callers wait, unless their operation has a deadline of its own.
    pub deadline: Duration,
    /// The part of a caller's time that is kept for V1 after V2 failed a read, in percent.
    pub failover_reserve_percent: u32,
    /// Whether the stages policy may raise V2's share while V1 is gone.
    pub raise_without_v1: bool,
    /// Mirrored calls that may be under way at once.
    pub shadow_budget: usize,
    /// How long a mirrored call may take, unless its operation has a deadline of its own.
    pub shadow_timeout: Duration,
    /// What is kept of V1 to hold V2 against.
    pub control: Control,
    /// Which callers may choose a pool; nobody by default.
    pub callers: Arc<Callers>,
    /// How its requests come in, and who serves them.
    pub plane: PlaneConfig,
    /// The bundle of the policy that is to be in charge of each kind.
    pub policies: BTreeMap<Kind, Bundle>,
    /// Policies whose bundles cannot be read, and why; none but in a configuration that is read to serve.
    pub unreadable: BTreeMap<Kind, String>,
    /// Flags that the environment sets, by name; they win over those in the store.
    pub flags: BTreeMap<String, serde_json::Value>,
}

/// How requests come in.
#[derive(Debug, Clone)]
pub enum PlaneConfig {
    /// As calls of operations, for pools of workers.
    Operations(Box<OperationsConfig>),
    /// As HTTP requests, for pools of upstreams.
    Http(Box<HttpConfig>),
}

impl PlaneConfig {
    /// Whether the configuration has left V1 out.
    pub fn is_v1_absent(&self) -> bool {
        match self {
            Self::Operations(config) => config.v1.is_absent,
            Self::Http(config) => config.v1.is_absent,
        }
    }
}

impl MigrationConfig {
    /// Workers that its pools have at most.
    pub fn most_workers(&self) -> usize {
        match &self.plane {
            PlaneConfig::Operations(config) => [&config.v1, &config.v2].map(PoolSpec::most_workers).iter().sum(),
            PlaneConfig::Http(_) => 0,
        }
    }
}

/// A migration of worker pools.
#[derive(Debug, Clone)]
pub struct OperationsConfig {
    /// The operations that callers may call, by name.
    pub operations: BTreeMap<Arc<str>, Operation>,
    /// The pool that is being replaced.
    pub v1: PoolSpec,
    /// The pool that replaces it.
    pub v2: PoolSpec,
}

/// A migration of HTTP services.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The requests that belong to it, by host, path and headers.
    pub matches: Vec<Match>,
    /// Where the sticky key is looked for.
    pub session: Vec<SessionKey>,
    /// The host's own session cookie, if it sets one.
    pub cookie: Option<SessionCookie>,
    /// Tells which operation a request is.
    pub catalogue: Catalogue,
    /// The class of every operation, by its name.
    pub classes: BTreeMap<Arc<str>, Class>,
    /// The deadlines of operations that have one of their own.
    pub deadlines: BTreeMap<Arc<str>, Duration>,
    /// The operations whose callers are limited, with their limits.
    pub rate_limits: Vec<(Arc<str>, Arc<Limit>)>,
    /// Those that fail by taking long: from when on, and their own deadlines.
    pub limits: BTreeMap<Arc<str>, (Duration, Option<Duration>)>,
    /// What upstreams are told of callers.
    pub forwarding: Forwarding,
    /// Header fields that mirrored requests are sent without; in lower case.
    pub shadow_drop: Vec<String>,
    /// The pool that is being replaced.
    pub v1: UpstreamSpec,
    /// The pool that replaces it.
    pub v2: UpstreamSpec,
}

/// One value of a configuration that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where, as a path of fields: `migrations.programs.v2.workers`.
    pub path: String,
    /// What is wrong, and how to mend it, as the end of a sentence.
    pub message: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration `{path}`")]
    Read {
        /// The path of the file.
        path: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML, or has a field of the wrong type or of an unknown name.
    #[error("`{path}` is not a configuration: {message}")]
    Syntax {
        /// The path of the file; empty for a text that was not read from one.
        path: String,
        /// What the parser says, with line and column.
        message: String,
    },
    /// Its values are wrong.
    #[error("`{path}` has {} problem(s):\n{}", .problems.len(), lines(.problems))]
    Problems {
        /// The path of the file; empty for a text that was not read from one.
        path: String,
        /// Every problem that was found, with its path; never empty.
        problems: Vec<Problem>,
    },
}

impl Config {
    /// Reads a configuration and everything that it names. Relative paths are relative to the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        Self::load_with(file, Bundles::All)
    }

    /// [`Config::load`] for a host that starts: a bundle that cannot be read keeps nobody from being served.
    ///
    /// # Errors
    /// Everything else that is wrong with it.
    pub fn load_to_serve(file: &Path) -> Result<Self, ConfigError> {
        Self::load_with(file, Bundles::Readable)
    }

    fn load_with(file: &Path, bundles: Bundles) -> Result<Self, ConfigError> {
        let path = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        let base = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Self::parse_with(&text, base, &environment::flags(), bundles).map_err(|error| match error {
            ConfigError::Syntax { message, .. } => ConfigError::Syntax { path, message },
            ConfigError::Problems { problems, .. } => ConfigError::Problems { path, problems },
            other @ ConfigError::Read { .. } => other,
        })
    }

    /// Reads a configuration from text; relative paths are relative to `base`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, base: &Path, flags: &[(String, String)]) -> Result<Self, ConfigError> {
        Self::parse_with(text, base, flags, Bundles::All)
    }

    /// [`Config::parse`], as far as bundles must be readable.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse_with(
        text: &str,
        base: &Path,
        flags: &[(String, String)],
        bundles: Bundles,
    ) -> Result<Self, ConfigError> {
        let (file, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            return Err(ConfigError::Syntax { path: String::new(), message: syntax(text, errors) });
        }
        let shape::Read { value, mut problems, doubtful } = shape::read::<raw::File>(text, &file);
        match value.map(|raw| validate::config(raw, base, flags, bundles)) {
            Some(Ok(config)) if problems.is_empty() => {
                return Ok(Self { source: text.parse().unwrap_or_default(), ..config });
            }
            // What is said of places that could not be read is not true.
            Some(Err(more)) => {
                problems.extend(more.into_iter().filter(|more| !shape::concerns(&doubtful, &more.path)));
            }
            Some(Ok(_)) | None => {}
        }
        Err(ConfigError::Problems { path: String::new(), problems })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.path, self.message)
    }
}

/// What the parser says, of each place where it stumbled.
fn syntax(text: &str, errors: Vec<toml::de::Error>) -> String {
    let said = errors.into_iter().take(MOST_ERRORS).map(|mut error| {
        error.set_input(Some(text));
        error.to_string().trim_end().to_owned()
    });
    said.collect::<Vec<_>>().join("\n")
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}
