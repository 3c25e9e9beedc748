//! What is asked of policies and what they answer, without a word of how they run. Mirrors `wit/`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::facts::{Batch, Finding};
use crate::{
    clock::UnixMs,
    request::{Class, Ppm},
};

/// Who a policy says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// A short name such as `thresholds`, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// The policy's own version, such as `1.4.0`; not the version of the contract.
    pub version: String,
    /// One sentence on what the policy does, for people.
    pub summary: String,
    /// The request attributes that `decide` wants, in the order of its frame. Empty for a policy that is not asked per
    /// request.
    pub attributes: Vec<String>,
    /// JSON Schema (2020-12) of the settings that the policy takes, with their defaults.
    pub settings_schema: String,
}

/// The five kinds of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Says which pool serves a request. Asked for a plan when something changes; the host executes the plan.
    Routing,
    /// Says when V2's share moves. Asked in every check, after the rollback policy.
    Stages,
    /// Says whether V2 is worse than V1. Asked in every check, in all phases in which V2 gets calls.
    Rollback,
    /// Says whether V1's and V2's results are the same. Asked off the request's path, for mirrored pairs.
    Comparison,
    /// Translates calls in V1's shape to V2's, and V2's replies back.
    Adapter,
}

impl Kind {
    /// All kinds, in the order of the data flow.
    pub const ALL: [Self; 5] = [Self::Routing, Self::Adapter, Self::Comparison, Self::Rollback, Self::Stages];

    /// As it is written in configuration, in WIT and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routing => "routing",
            Self::Stages => "stages",
            Self::Rollback => "rollback",
            Self::Comparison => "comparison",
            Self::Adapter => "adapter",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| {
            format!("`{text}` is not a kind of policy; the kinds are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// Where a migration stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The pools are starting; V1 serves everything as soon as it can.
    Preparing,
    /// V1 serves everything; reads are mirrored to V2 and the results compared.
    Shadow,
    /// V2 serves a share, stage by stage.
    Ramping,
    /// V2 serves everything; V1 still stands by for a rollback.
    Complete,
    /// V1's pool is closed for good; nothing goes back to it.
    Decommissioned,
    /// Held by an operator or a policy; the share stays where it is until an operator resumes.
    Paused,
    /// V1 serves everything because V2 was judged worse.
    RolledBack,
}

impl Phase {
    /// As it is written in JSON and on the terminal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Shadow => "shadow",
            Self::Ramping => "ramping",
            Self::Complete => "complete",
            Self::Decommissioned => "decommissioned",
            Self::Paused => "paused",
            Self::RolledBack => "rolled-back",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a rollback policy thinks of V2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// There is enough evidence, and nothing is wrong.
    Healthy,
    /// There is too little evidence: the share does not go up.
    Hold,
    /// Something is wrong, but not wrong enough for a rollback: the share does not go up, and people are told.
    Warn,
    /// V2 is worse: everything goes back to V1.
    RollBack,
}

impl Verdict {
    /// As it is written in JSON and on the terminal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Hold => "hold",
            Self::Warn => "warn",
            Self::RollBack => "roll-back",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a routing plan is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Situation {
    /// The moment of the question, on the timeline that policies are told (`clock::timeline`).
    pub now_ms: UnixMs,
    /// The name of the migration that is to be routed.
    pub migration: String,
    /// The migration's phase. While it is paused, this is the phase that it was paused in.
    pub phase: Phase,
    /// The stage, counted from 0; 0 outside of `ramping`.
    pub stage: u32,
    /// The share of sessions that the migration gives to V2. A plan may not give more.
    pub share: Ppm,
    /// The salt of the session hash. A plan that keeps it keeps every session in its pool.
    pub salt: String,
    /// The operations and their classes, ascending by name.
    pub operations: Vec<(String, Class)>,
}

/// How a condition tests an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// The value equals one of these.
    OneOf(Vec<String>),
    /// The value begins with this text.
    Prefix(String),
    /// The request has the attribute, whatever its value.
    Present,
    /// The request does not have the attribute.
    Absent,
}

/// A test on one attribute of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The attribute's name, as [`crate::request::Attribute::parse`] reads it.
    pub attribute: String,
    /// How the attribute's value is tested. A request without the attribute passes only [`Test::Absent`].
    pub test: Test,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// V1 serves the request, whatever the share.
    V1,
    /// V2 serves the request if the phase lets V2 serve at all; otherwise V1 does.
    V2,
    /// The hash of the session decides, against the plan's share.
    Share,
    /// The policy is asked for this request. Only a policy that exports `decide` may name it.
    Decide,
}

/// A rule of a plan: a request that meets all conditions goes to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Shown to callers as the reason for their pool, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// All of them must hold; an empty list matches every request.
    pub conditions: Vec<Condition>,
    /// Which pool serves a request that matches, or what decides on it.
    pub target: Target,
}

/// How the host routes until the next plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Tried in this order; the first rule that matches decides.
    pub rules: Vec<Rule>,
    /// Which pool serves a request that no rule matches, or what decides on it.
    pub otherwise: Target,
    /// The attribute that is hashed for the share; a request without it is hashed by its request id.
    pub sticky: String,
    /// Hashed before the attribute's value. Another salt distributes the sessions anew.
    pub salt: String,
    /// The share of sessions that V2 serves; never above the migration's.
    pub share: Ppm,
    /// The share of V1-served reads that is mirrored to V2; zero mirrors none.
    pub shadow_share: Ppm,
    /// The operations that may be mirrored; of these only reads are.
    pub shadow_operations: Vec<String>,
}

impl Plan {
    /// A plan that sends every request to V2. Used where V1 is gone and no policy gave a plan.
    pub fn all_to_v2() -> Self {
        Self {
            rules: Vec::new(),
            otherwise: Target::V2,
            sticky: "session".into(),
            salt: String::new(),
            share: Ppm::ALL,
            shadow_share: Ppm::ZERO,
            shadow_operations: Vec::new(),
        }
    }
}

/// What a rollback policy is shown at a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The moment of the check, on the timeline that policies are told (`clock::timeline`).
    pub now_ms: UnixMs,
    /// Where the migration stands at the check.
    pub phase: Phase,
    /// The stage, counted from 0; 0 outside of `ramping`.
    pub stage: u32,
    /// The share of sessions that the migration gives to V2.
    pub share: Ppm,
    /// When the stage began, on the same timeline as `now_ms`; outside of `ramping`, when the phase began.
    pub stage_started_ms: UnixMs,
    /// The batches since the last check, oldest first; empty if there was none.
    pub batches: Vec<Batch>,
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// What the rollback policy thinks of V2.
    pub verdict: Verdict,
    /// One for each rule that spoke. A verdict of `warn` or `roll-back` has at least one.
    pub findings: Vec<Finding>,
    /// Base-10 logarithm of the evidence against V2, in millionths: 2 000 000 is 100 to 1. 0 from a policy that does
    /// not measure evidence.
    pub evidence: i64,
}

/// What a stages policy looks at: a check, and what the rollback policy said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The same check that the rollback policy got.
    pub check: Check,
    /// What the rollback policy said of that check.
    pub verdict: Verdict,
    /// True if an operator asked to advance now: the policy names the next stage without waiting for soak or evidence.
    pub forced: bool,
}

/// A stage to go to, with its share and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The number of the stage in this ramp, counted from 0.
    pub stage: u32,
    /// V2's share in that stage.
    pub share: Ppm,
    /// How long the stage is meant to last, for people to see; none if it has no end.
    pub soak: Option<Duration>,
}

/// What a stages policy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The share stays as it is.
    Hold,
    /// The share goes up to this stage, which must be the next one.
    Advance(Step),
    /// The share goes down to this earlier stage.
    Retreat(Step),
    /// V2 serves everything from now on, and the ramp is over.
    Complete,
    /// The migration is paused, until an operator resumes it.
    Pause,
}

impl Action {
    /// Without the stage that it names, as it is counted and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Advance(_) => "advance",
            Self::Retreat(_) => "retreat",
            Self::Complete => "complete",
            Self::Pause => "pause",
        }
    }
}

/// A stage action and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// What is to become of the share.
    pub action: Action,
    /// Why, for people: what a hold waits for, or what an advance rests on.
    pub findings: Vec<Finding>,
}

/// One pool's answer, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Whether the pool said that it succeeded.
    pub success: bool,
    /// The HTTP status, or 0 for a worker.
    pub status: u16,
    /// The media type, such as `application/json`; empty if unknown.
    pub media_type: String,
    /// The result, or the error if the pool did not succeed.
    pub body: Vec<u8>,
}

/// The answers of both pools to the same call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The name of the operation that was called.
    pub operation: String,
    /// V1's answer, the one that the caller got.
    pub v1: Side,
    /// V2's answer to the mirrored call.
    pub v2: Side,
}

/// One place in which two results differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where in the result, as a JSON Pointer (RFC 6901); empty for the whole result.
    pub path: String,
    /// What kind of difference: `missing`, `extra`, `type`, `value`, `order`, `length`, `success`, `status`, or a
    /// policy's own word.
    pub kind: String,
    /// What it means to the team, such as `semantic`, `timing`, `identity` or `format`.
    pub category: String,
    /// V1's value as text, for people.
    pub v1: String,
    /// V2's value as text, for people.
    pub v2: String,
}

/// What a comparison says of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// The results are equal.
    Same,
    /// The results are equal but for these differences, which the policy's rules ignore.
    Ignored(Vec<Difference>),
    /// The results differ in these places.
    Different(Vec<Difference>),
    /// The results cannot be compared, for this reason.
    Incomparable(String),
}

/// A call in the shape of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterCall {
    /// The operation's name in that version.
    pub operation: String,
    /// The session; empty if the call has none.
    pub session: String,
    /// The arguments as a JSON object.
    pub body: Vec<u8>,
}

/// A call in V2's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedCall {
    /// The name of the operation to call on V2.
    pub operation: String,
    /// The arguments for V2, as a JSON object.
    pub body: Vec<u8>,
    /// Kind (`deprecation` or `hint`) and message of what callers ought to know; counted and logged.
    pub notices: Vec<(String, String)>,
}

/// An answer in the shape of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterReply {
    /// Whether the call succeeded.
    pub success: bool,
    /// The result, or the error if the call did not succeed, as JSON.
    pub body: Vec<u8>,
}
