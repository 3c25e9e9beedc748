//! Requests, replies and their vocabulary: plain data that every stage may use.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::clock::{Mono, UnixMs};

/// Which implementation of the service a pool runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolId {
    /// The implementation that is being replaced.
    V1,
    /// The implementation that replaces it.
    V2,
}

impl PoolId {
    /// `v1` or `v2`, as it is written in configuration, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What repeating or duplicating an operation means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Changes nothing; may be shadowed and may fail over.
    Read,
    /// Applied to both pools, so that state exists in both; V1's answer counts.
    Replicate,
    /// Served by one pool, never shadowed, never repeated.
    Exclusive,
}

impl Class {
    /// As it is written in configuration, JSON and on the terminal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Replicate => "replicate",
            Self::Exclusive => "exclusive",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A share in parts per million, 0 to 1 000 000 by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Ppm(u32);

impl Ppm {
    /// 0 ppm, which is 0 %.
    pub const ZERO: Self = Self(0);
    /// 1 000 000 ppm, which is 100 %.
    pub const ALL: Self = Self(1_000_000);

    /// From parts per million; more than 1 000 000 counts as 1 000 000.
    pub const fn new(ppm: u32) -> Self {
        if ppm > Self::ALL.0 { Self::ALL } else { Self(ppm) }
    }

    /// Reads a percentage as it is written: `5%`, `0.01%`. `None` if the text is not one, or more than 100 %.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?;
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        let is_number = |digits: &str| (1..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        if !is_number(whole) || !is_number(part) {
            return None;
        }
        let ppm = whole.parse::<u32>().ok()? * 10_000 + format!("{part:0<4}").parse::<u32>().ok()?;
        (ppm <= Self::ALL.0).then_some(Self(ppm))
    }

    /// The share in parts per million, 0 to 1 000 000.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Ppm {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(Self::new)
    }
}

impl fmt::Display for Ppm {
    /// As percent: `5%`, `0.01%`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        if rest == 0 {
            write!(f, "{whole}%")
        } else {
            write!(f, "{whole}.{}%", format!("{rest:04}").trim_end_matches('0'))
        }
    }
}

/// One call of an operation, as the ingress has read it.
#[derive(Debug, Clone)]
pub struct Request {
    /// From `x-request-id`, or made by the ingress.
    pub id: Arc<str>,
    /// The name of the operation that is called.
    pub operation: Arc<str>,
    /// The sticky key, from `x-session-id`; `None` for a caller that sent none.
    pub session: Option<Arc<str>>,
    /// The arguments of the operation, a JSON object; empty if the caller sent none.
    pub arguments: Arc<serde_json::Map<String, serde_json::Value>>,
    /// When the caller stops waiting. No attempt begins after it.
    pub deadline: Mono,
    /// The parts of the HTTP request that rules may look at besides operation and session.
    pub head: Arc<Head>,
}

/// The parts of an HTTP request that routing rules may look at.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The method, in upper case.
    pub method: String,
    /// The path, without the query; empty if there is none, and then rules find no path.
    pub path: String,
    /// The host that the caller asked for.
    pub host: String,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
}

/// A part of a request that routing rules may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// The name of the operation that the request calls.
    Operation,
    /// The sticky key, which a request may be without.
    Session,
    /// The HTTP method, in upper case.
    Method,
    /// The path, without the query.
    Path,
    /// The host that the caller asked for.
    Host,
    /// A header, by its name in lower case.
    Header(String),
}

/// Why a request went to its pool: the name of a rule, or one of the host's own words. Those are counted by nobody, so that a
/// request that no rule matches touches no memory that other threads write.
#[derive(Debug, Clone)]
pub enum Reason {
    /// One of the host's own words, such as `v2-closed`.
    Word(&'static str),
    /// The name of the rule in the plan that matched.
    Rule(Arc<str>),
}

impl std::ops::Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Word(word) => word,
            Self::Rule(name) => name,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self)
    }
}

/// The pool in which a session stays, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// The pool that serves the session.
    pub pool: PoolId,
    /// When the session came to that pool.
    pub begun: UnixMs,
}

/// What routing looks at of a request, whatever its protocol.
pub trait Attributes {
    /// The request's id: a draw of its own for what is decided request by request.
    fn id(&self) -> &str;

    /// The name of the operation that the request calls.
    fn operation(&self) -> &str;

    /// The value of an attribute; `None` if the request does not have it.
    fn attribute(&self, attribute: &Attribute) -> Option<&str>;

    /// Where its session stays, if sessions do.
    fn home(&self) -> Option<Home> {
        None
    }
}

impl Attribute {
    /// Reads a name as routing policies write it; `None` for what no request has.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "operation" => Self::Operation,
            "session" => Self::Session,
            "method" => Self::Method,
            "path" => Self::Path,
            "host" => Self::Host,
            header => {
                let header = header.strip_prefix("header:")?;
                let fits = (1..=256).contains(&header.len()) && !header.contains(char::is_uppercase);
                return fits.then(|| Self::Header(header.to_owned()));
            }
        })
    }
}

impl Attributes for Request {
    fn id(&self) -> &str {
        &self.id
    }

    fn operation(&self) -> &str {
        &self.operation
    }

    fn attribute(&self, attribute: &Attribute) -> Option<&str> {
        let text = match attribute {
            Attribute::Operation => &*self.operation,
            Attribute::Session => self.session.as_deref()?,
            Attribute::Method => &self.head.method,
            Attribute::Path => &self.head.path,
            Attribute::Host => &self.head.host,
            Attribute::Header(name) => self.head.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())?,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// What a pool answered. Neither variant is a failure of the pool.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The operation succeeded with this result, as JSON.
    Success(Box<RawValue>),
    /// The caller's fault: an unknown program, bad arguments. Not a failure of the pool.
    Refused(Box<RawValue>),
}

/// Why a pool did not answer, by cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Failure {
    /// The category, as it is counted in metrics.
    pub kind: FailureKind,
    /// One sentence on what happened; callers of operations get it with the error.
    pub message: String,
    /// Whether the member may have seen the call. A call that was never sent can safely go elsewhere.
    pub sent: bool,
}

/// Categories of failure, as they are counted in metrics and named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// A member could not be started.
    Initialization,
    /// A member could not be reached, or went away.
    Connection,
    /// A member answered something that is not the protocol.
    Communication,
    /// A member did not answer before the deadline.
    Timeout,
    /// No member was free in time, or the queue was full.
    Resource,
    /// A member did not pass its health check.
    HealthCheck,
    /// A member could not be brought up to the session's state.
    Session,
    /// The member is up, and its program raised an error.
    Worker,
    /// The pool is closed, or the host is at fault.
    System,
}

impl FailureKind {
    /// All categories, in the order of [`FailureKind::index`].
    pub const ALL: [Self; 9] = [
        Self::Initialization,
        Self::Connection,
        Self::Communication,
        Self::Timeout,
        Self::Resource,
        Self::HealthCheck,
        Self::Session,
        Self::Worker,
        Self::System,
    ];

    /// Its place in [`FailureKind::ALL`], for tables with a counter for each category.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// As it is written in metrics and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Initialization => "initialization",
            Self::Connection => "connection",
            Self::Communication => "communication",
            Self::Timeout => "timeout",
            Self::Resource => "resource",
            Self::HealthCheck => "health-check",
            Self::Session => "session",
            Self::Worker => "worker",
            Self::System => "system",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Failure {
    /// A failure of a call that a member may have seen.
    pub fn sent(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), sent: true }
    }

    /// A failure before any member saw the call.
    pub fn unsent(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), sent: false }
    }
}

/// What the caller gets: the answer or failure, who gave it and why it went there.
#[derive(Debug)]
pub struct Served {
    /// The answer, or why there is none.
    pub result: Result<Answer, Failure>,
    /// The pool that gave it; after a failover, the pool that answered in the end.
    pub pool: PoolId,
    /// Why it went there: a rule's name, `share`, `failover`, `replicate`.
    pub reason: Reason,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_clamped_and_read_as_percent() {
        assert_eq!(Ppm::new(4_000_000_000), Ppm::ALL);
        for (ppm, text) in [(50_000, "5%"), (100, "0.01%"), (1_000_000, "100%"), (0, "0%"), (12_345, "1.2345%")] {
            assert_eq!(Ppm::new(ppm).to_string(), text);
            assert_eq!(Ppm::parse(text), Some(Ppm::new(ppm)));
        }
        for wrong in ["", "%", "5", "101%", "100.0001%", "-1%", "1.%", ".5%", "0.00001%", "1e2%", " 5%"] {
            assert_eq!(Ppm::parse(wrong), None, "{wrong}");
        }
    }
}
