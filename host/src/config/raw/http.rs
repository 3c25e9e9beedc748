//! The shapes of what is said about HTTP: the listener, and pools of upstreams.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use super::defaults;

/// `[host.http]`: how requests are served, those of worker pools too.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http {
    /// Threads that serve; as many as there are cores unless it is set.
    pub threads: Option<usize>,
    /// Connections that are served at once, 1 to 1 000 000.
    pub max_connections: usize,
    /// Connections over which no whole head has come yet; of more, the oldest is closed.
    pub max_pending: usize,
    /// Requests that are served at once; more get 503.
    pub max_requests: usize,
    /// How long a caller may take to send a head.
    pub header_timeout: String,
    /// How long a connection may wait for its next request.
    pub keep_alive: String,
    /// How long a caller may not take what it is sent.
    pub send_timeout: String,
    /// Bytes a second at which a body must come and an answer must be taken; 0 for no such rule. Only the time counts
    /// in which the caller is waited for.
    pub min_rate: u64,
    /// How far behind that rate a caller may be before it is cut off.
    pub min_rate_grace: String,
    /// What upstreams are told of callers: `x-forwarded`, `forwarded` (RFC 7239), `both` or `none`.
    pub forwarded: String,
    /// Whether the host believes what callers say of those before them; for a host that only other proxies reach.
    pub trust_forwarded: bool,
    /// With `trust_forwarded`: how many proxies are before the host, 1 to 16.
    pub trusted_hops: u8,
    /// Whether connections begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Addresses or networks of the load balancers whose headers are believed; nobody else is served then.
    pub proxy_protocol_from: Vec<String>,
    /// Certificate and key for TLS with callers; plain HTTP unless it is set.
    pub tls: Option<Identity>,
    /// The upstreams for requests that belong to no migration; 404 unless it is set.
    pub default: Option<Upstreams>,
}

/// `[host.http.tls]`: the host's certificate, and what it asks of callers'.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate and those that vouch for it, as PEM.
    pub certificate: PathBuf,
    /// The private key of that certificate, as PEM.
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

/// `[migrations.NAME.session_cookie]`: the host's own session cookie.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCookie {
    /// The cookie's name; none of those in `session`.
    #[serde(default = "defaults::session_cookie")]
    pub name: String,
    /// The file with the key that cookies are signed with.
    pub key_file: PathBuf,
    /// Files with keys from before `key_file`, newest first: cookies signed with one of them are taken and signed again.
    #[serde(default)]
    pub previous_key_files: Vec<PathBuf>,
    /// How long the cookie lasts, 1m to 400d; until the browser is closed unless it is set.
    pub lifetime: Option<String>,
    /// The cookie's `Path`: the same for all that the migration serves.
    #[serde(default = "defaults::root")]
    pub path: String,
    /// The domain that it is for; the host that was asked unless it is set.
    pub domain: Option<String>,
    /// The cookie's `SameSite`: `lax`, `strict` or `none`.
    #[serde(default = "defaults::lax")]
    pub same_site: String,
    /// Whether it is sent over TLS alone; as the request came unless it is set.
    pub secure: Option<bool>,
    /// `share`: sessions move when the share reaches them; `creator`: those that began on V1 stay there until V2 has
    /// all.
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

/// `[host.admin_plane]`: how operators' connections are served.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminPlane {
    /// Connections that are served at once, 4 to 10 000; half of them may be orders about policies.
    pub max_connections: usize,
    /// How long an operator may take to send a head.
    pub header_timeout: String,
    /// How long an operator may take to send a body.
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

/// `[[migrations.NAME.match]]`: requests that belong to the migration. All of it must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// The host that requests ask for: a name, `*.SUFFIX`, or `*` for any.
    #[serde(default = "super::defaults::any")]
    pub host: String,
    /// The beginning of the path; empty for every path.
    #[serde(default)]
    pub path: String,
    /// Headers that a request must have, and the value of each.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// `[migrations.NAME.v1]` and `.v2` with `upstreams`: a pool of HTTP services.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// Their addresses, 1 to 256: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`.
    pub upstreams: Vec<String>,
    /// Whether they are spoken to by HTTP/2.
    #[serde(default)]
    pub http2: bool,
    /// How TLS is spoken to upstreams with `https://`.
    #[serde(default)]
    pub tls: Tls,
    /// How often the names of upstreams are looked up again.
    #[serde(default = "super::defaults::thirty_seconds")]
    pub dns_refresh: String,
    /// How long a connection is used for new requests; for as long as it is open unless it is set.
    pub max_connection_age: Option<String>,
    /// How long a connection may take to be made.
    #[serde(default = "super::defaults::two_seconds")]
    pub connect_timeout: String,
    /// How long a body may stand still, and how long a connection is kept without a request.
    #[serde(default = "super::defaults::one_minute")]
    pub idle_timeout: String,
    /// How long a body may take; of streams of events and calls of gRPC only if it is set.
    pub total_timeout: Option<String>,
    /// Bytes of a request's body that must have come before an upstream is asked; 0 asks at once.
    #[serde(default = "super::defaults::request_buffer")]
    pub request_buffer: usize,
    /// The part of an upstream's places that one caller alone may have, in percent.
    #[serde(default = "super::defaults::eighty")]
    pub caller_share: u32,
    /// Requests that one upstream is sent at once.
    #[serde(default = "super::defaults::thousand")]
    pub max_connections: usize,
    /// Requests that may wait for a place at an upstream; more are refused with 503.
    #[serde(default = "super::defaults::thousand")]
    pub max_waiting: usize,
    /// How often a request is tried again at most.
    #[serde(default = "super::defaults::one")]
    pub retries: u32,
    /// The part of requests that may be tried again, in percent.
    #[serde(default = "super::defaults::twenty")]
    pub retry_budget: u32,
    /// When upstreams that fail are ejected.
    #[serde(default)]
    pub ejection: Ejection,
    /// Which version of the PROXY protocol is spoken to them: `v1` or `v2`; none unless it is set.
    pub proxy_protocol: Option<String>,
    /// Fields that are set and removed for this pool alone, after what migration and operation say.
    #[serde(default)]
    pub headers: Headers,
    /// Active health checks; without them an upstream is up until requests fail.
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
    /// What is set and removed in fields of requests.
    pub request: FieldRules,
    /// What is set and removed in fields of the answers.
    pub response: FieldRules,
}

/// `request` and `response` of `headers`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldRules {
    /// Names of fields, and the only value that each then has.
    pub set: BTreeMap<String, String>,
    /// Names of fields that are removed.
    pub remove: Vec<String>,
}

/// `rate_limit` of a migration or an operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// What makes a caller: `address` or `session`.
    #[serde(default = "super::defaults::address")]
    pub per: String,
    /// How many requests a caller may send in a second, minute or hour: `100/s`.
    pub rate: String,
    /// How many requests a caller may send at once; as many as `rate` has unless it is set.
    pub burst: Option<u32>,
}

/// `tls` of a pool of upstreams.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// Certificates that are trusted, as PEM; the system's unless it is set.
    pub ca: Option<PathBuf>,
    /// The name that upstreams' certificates must be for; that of the address unless it is set.
    pub server_name: Option<String>,
    /// The certificate that the host shows, and those that vouch for it, as PEM; none unless it is set.
    pub client_cert: Option<PathBuf>,
    /// The private key of that certificate, as PEM.
    pub client_key: Option<PathBuf>,
}

/// `ejection` of a pool of upstreams.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ejection {
    /// Failures in a row after which an upstream is ejected.
    pub failures: u32,
    /// How long an upstream is out the first time; the n-th time n times as long, up to ten.
    pub time: String,
    /// The largest part of a pool that may be out at once, in percent.
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
    /// The path of the GET that must be answered with a status below 400.
    pub path: String,
    /// The `Host` of that request; that of the upstream unless it is set.
    pub host: Option<String>,
    /// The time between two health checks of an upstream.
    #[serde(default = "super::defaults::five_seconds")]
    pub interval: String,
    /// How long the answer to one health check may take.
    #[serde(default = "super::defaults::two_seconds")]
    pub timeout: String,
    /// Failures in a row after which an upstream is down.
    #[serde(default = "super::defaults::three")]
    pub failures: u32,
    /// Successes in a row after which it is up again.
    #[serde(default = "super::defaults::one")]
    pub successes: u32,
}
