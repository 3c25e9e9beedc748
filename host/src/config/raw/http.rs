//! The shapes of what is said about HTTP: the listener, and pools of upstreams.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::defaults;

/// `[host.http]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Threads that serve; as many as there are cores unless it is set.
    pub threads: Option<usize>,
    /// Connections that are served at once.
    pub max_connections: usize,
    /// Connections over which no whole head has come yet.
    pub max_pending: usize,
    /// Requests that are served at once.
    pub max_requests: usize,
    /// How long a caller may take to send a head.
    pub header_timeout: String,
    /// How long a connection may wait for its next request.
    pub keep_alive: String,
    /// How long a caller may not take what it is sent.
    pub send_timeout: String,
    /// Bytes a second that a body must come or be taken at; 0 for none.
    pub min_rate: u64,
    /// How far behind that a caller may be.
    pub min_rate_grace: String,
    /// `x-forwarded`, `forwarded`, `both` or `none`.
    pub forwarded: String,
    /// Whether callers are believed what they say of those before them.
    pub trust_forwarded: bool,
    /// How many proxies are before the host, if they are trusted.
    pub trusted_hops: u8,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Whose headers are believed.
    pub proxy_protocol_from: Vec<String>,
    /// TLS, if it is spoken.
    pub tls: Option<Identity>,
    /// Who gets what belongs to no migration.
    pub default: Option<Upstreams>,
}

/// `[host.http.tls]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// Its key, as PEM.
    pub key: PathBuf,
    /// Whose certificates of callers are believed, as PEM.
    pub client_ca: Option<PathBuf>,
    /// Whether callers have to show one: `require` or `optional`.
    pub client_auth: Option<String>,
    /// The field in which upstreams are told its subject.
    pub client_subject_header: Option<String>,
    /// The field in which they are told all of it.
    pub client_cert_header: Option<String>,
}

/// `[migrations.NAME.session_cookie]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCookie {
    /// Its name.
    #[serde(default = "defaults::session_cookie")]
    pub name: String,
    /// The file with the key that it is signed with.
    pub key_file: PathBuf,
    /// How long it lasts; until the browser is closed unless it is set.
    pub lifetime: Option<String>,
    /// The path that it is for.
    #[serde(default = "defaults::root")]
    pub path: String,
    /// The domain that it is for; the host that was asked unless it is set.
    pub domain: Option<String>,
    /// `lax`, `strict` or `none`.
    #[serde(default = "defaults::lax")]
    pub same_site: String,
    /// Whether it is sent over TLS alone; as the request came unless it is set.
    pub secure: Option<bool>,
    /// `share` or `creator`.
    #[serde(default = "defaults::share")]
    pub stay: String,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            threads: None,
            max_connections: 20_000,
            max_pending: 10_000,
            max_requests: 10_000,
            header_timeout: "10s".into(),
            keep_alive: "75s".into(),
            send_timeout: "60s".into(),
            min_rate: 500,
            min_rate_grace: "10s".into(),
            forwarded: "x-forwarded".into(),
            trust_forwarded: false,
            trusted_hops: 1,
            proxy_protocol: false,
            proxy_protocol_from: Vec::new(),
            tls: None,
            default: None,
        }
    }
}

/// `[host.admin_plane]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminPlane {
    /// Connections that are served at once.
    pub max_connections: usize,
    /// How long an operator may take to send a head.
    pub header_timeout: String,
    /// How long one may take to send a body.
    pub body_timeout: String,
    /// How long a connection may wait for its next request.
    pub keep_alive: String,
    /// How long an operator may not take what it is sent.
    pub send_timeout: String,
}

impl Default for AdminPlane {
    fn default() -> Self {
        Self {
            max_connections: 64,
            header_timeout: "10s".into(),
            body_timeout: "1m".into(),
            keep_alive: "75s".into(),
            send_timeout: "30s".into(),
        }
    }
}

/// `[[migrations.NAME.match]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// A host, `*.SUFFIX`, or `*`.
    #[serde(default = "super::defaults::any")]
    pub host: String,
    /// How paths begin.
    #[serde(default)]
    pub path: String,
    /// Headers and their values.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// `[migrations.NAME.v1]` and `.v2` with `upstreams`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// Their addresses.
    pub upstreams: Vec<String>,
    /// Whether they are spoken to by HTTP/2.
    #[serde(default)]
    pub http2: bool,
    /// TLS to them.
    #[serde(default)]
    pub tls: Tls,
    /// How often names are looked up again.
    #[serde(default = "super::defaults::thirty_seconds")]
    pub dns_refresh: String,
    /// How long a connection is used for new requests.
    pub max_connection_age: Option<String>,
    /// How long a connection may take to be made.
    #[serde(default = "super::defaults::two_seconds")]
    pub connect_timeout: String,
    /// How long a body may stand still.
    #[serde(default = "super::defaults::one_minute")]
    pub idle_timeout: String,
    /// How long a body may take; of streams of events and calls of gRPC only if it is set.
    pub total_timeout: Option<String>,
    /// Bytes of a body that have to be here before an upstream is asked.
    #[serde(default = "super::defaults::request_buffer")]
    pub request_buffer: usize,
    /// The part of an upstream's places that one caller alone may have, in percent.
    #[serde(default = "super::defaults::eighty")]
    pub caller_share: u32,
    /// Requests that one upstream is sent at once.
    #[serde(default = "super::defaults::thousand")]
    pub max_connections: usize,
    /// Requests that may wait.
    #[serde(default = "super::defaults::thousand")]
    pub max_waiting: usize,
    /// How often a request is tried again at most.
    #[serde(default = "super::defaults::one")]
    pub retries: u32,
    /// The part of requests that may be tried again, in percent.
    #[serde(default = "super::defaults::twenty")]
    pub retry_budget: u32,
    /// When upstreams are ejected.
    #[serde(default)]
    pub ejection: Ejection,
    /// Which version of the PROXY protocol is spoken to them.
    pub proxy_protocol: Option<String>,
    /// What is set and removed in fields.
    #[serde(default)]
    pub headers: Headers,
    /// How upstreams are asked how they are.
    pub health: Option<Health>,
    /// How long requests may take when the pool is drained.
    #[serde(default = "super::defaults::thirty_seconds")]
    pub drain_timeout: String,
    /// How long streams may go on when the pool is drained.
    #[serde(default = "super::defaults::ten_seconds")]
    pub stream_timeout: String,
}

/// `headers` of a migration, an operation or a pool of upstreams.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Headers {
    /// Fields of requests.
    pub request: FieldRules,
    /// Fields of their answers.
    pub response: FieldRules,
}

/// `request` and `response` of `headers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRules {
    /// Names, and the only value that each has.
    pub set: BTreeMap<String, String>,
    /// Names.
    pub remove: Vec<String>,
}

/// `rate_limit` of a migration or an operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// What makes a caller: `address` or `session`.
    #[serde(default = "super::defaults::address")]
    pub per: String,
    /// So many in a second, minute or hour: `100/s`.
    pub rate: String,
    /// So many at once; as many as `rate` has unless it is set.
    pub burst: Option<u32>,
}

/// `tls` of a pool of upstreams.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates that are trusted, as PEM.
    pub ca: Option<PathBuf>,
    /// The name that certificates must be for.
    pub server_name: Option<String>,
    /// The certificate that the host shows, and those that vouch for it, as PEM.
    pub client_cert: Option<PathBuf>,
    /// Its key, as PEM.
    pub client_key: Option<PathBuf>,
}

/// `ejection` of a pool of upstreams.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Failures in a row.
    pub failures: u32,
    /// How long the first time.
    pub time: String,
    /// The largest part of a pool, in percent.
    pub most: u32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self { failures: 5, time: "30s".into(), most: 50 }
    }
}

/// `health` of a pool of upstreams.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is asked for.
    pub path: String,
    /// The `Host` that is asked for.
    pub host: Option<String>,
    /// How often.
    #[serde(default = "super::defaults::five_seconds")]
    pub interval: String,
    /// How long an answer may take.
    #[serde(default = "super::defaults::two_seconds")]
    pub timeout: String,
    /// Failures in a row.
    #[serde(default = "super::defaults::three")]
    pub failures: u32,
    /// Successes in a row.
    #[serde(default = "super::defaults::one")]
    pub successes: u32,
}
