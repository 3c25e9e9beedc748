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
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// The attributes that `decide` wants.
    pub attributes: Vec<String>,
    /// JSON Schema of its settings.
    pub settings_schema: String,
}

/// The five kinds of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Which pool serves a request.
    Routing,
    /// When the share moves.
    Stages,
    /// Whether V2 is worse.
    Rollback,
    /// Whether two results are the same.
    Comparison,
    /// How V1's calls translate to V2.
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
    /// The pools are starting.
    Preparing,
    /// V1 serves everything; reads are mirrored to V2 and compared.
    Shadow,
    /// V2 serves a share.
    Ramping,
    /// V2 serves everything.
    Complete,
    /// V1 is gone.
    Decommissioned,
    /// Held; the share stays where it is.
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
    /// There is too little evidence.
    Hold,
    /// Something is wrong, but not wrong enough.
    Warn,
    /// V2 is worse.
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
    /// Now.
    pub now_ms: UnixMs,
    /// The migration.
    pub migration: String,
    /// Where it stands; while paused, the phase that it was paused in.
    pub phase: Phase,
    /// The stage, from 0.
    pub stage: u32,
    /// V2's share.
    pub share: Ppm,
    /// The salt of the session hash.
    pub salt: String,
    /// The operations, ascending by name.
    pub operations: Vec<(String, Class)>,
}

/// How a condition tests an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// It is one of these.
    OneOf(Vec<String>),
    /// It begins with this.
    Prefix(String),
    /// The request has it.
    Present,
    /// The request does not have it.
    Absent,
}

/// A test on one attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// The attribute's name.
    pub attribute: String,
    /// The test.
    pub test: Test,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// To V1.
    V1,
    /// To V2.
    V2,
    /// By the hash of its session.
    Share,
    /// As `decide` says.
    Decide,
}

/// All conditions hold: the request goes to the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The reason that callers see.
    pub name: String,
    /// The conditions.
    pub conditions: Vec<Condition>,
    /// Where to.
    pub target: Target,
}

/// How the host routes until the next plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The first rule that matches decides.
    pub rules: Vec<Rule>,
    /// Where a request goes that no rule matches.
    pub otherwise: Target,
    /// The attribute that is hashed.
    pub sticky: String,
    /// Hashed before it.
    pub salt: String,
    /// V2's share.
    pub share: Ppm,
    /// The share of V1-served reads that is mirrored.
    pub shadow_share: Ppm,
    /// The operations that may be mirrored.
    pub shadow_operations: Vec<String>,
}

impl Plan {
    /// V2 for everybody, where there is nobody else and no policy that says so.
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

/// What a rollback policy looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Now.
    pub now_ms: UnixMs,
    /// Where the migration stands.
    pub phase: Phase,
    /// The stage.
    pub stage: u32,
    /// V2's share.
    pub share: Ppm,
    /// When the stage began.
    pub stage_started_ms: UnixMs,
    /// What happened since the last check.
    pub batches: Vec<Batch>,
}

/// A verdict and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Every rule that spoke.
    pub findings: Vec<Finding>,
    /// Base-10 logarithm of the evidence against V2, in millionths.
    pub evidence: i64,
}

/// What a stages policy looks at: a check, and what the rollback policy said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The same that the rollback policy got.
    pub check: Check,
    /// What it said.
    pub verdict: Verdict,
    /// Whether an operator wants the next stage now.
    pub forced: bool,
}

/// A stage to go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The number of the stage.
    pub stage: u32,
    /// V2's share there.
    pub share: Ppm,
    /// How long it is meant to last; none for open-ended.
    pub soak: Option<Duration>,
}

/// What a stages policy wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Stay.
    Hold,
    /// Go up.
    Advance(Step),
    /// Go down.
    Retreat(Step),
    /// V2 serves everything from now on.
    Complete,
    /// Stay until an operator resumes.
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
    /// The action.
    pub action: Action,
    /// Why.
    pub findings: Vec<Finding>,
}

/// One pool's answer, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Whether the pool said that it succeeded.
    pub success: bool,
    /// The HTTP status, or 0 for a worker.
    pub status: u16,
    /// The media type.
    pub media_type: String,
    /// The result, or the error.
    pub body: Vec<u8>,
}

/// The same call answered by both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The operation.
    pub operation: String,
    /// V1's answer.
    pub v1: Side,
    /// V2's answer.
    pub v2: Side,
}

/// One place in which two results differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where, as a JSON Pointer.
    pub path: String,
    /// What kind.
    pub kind: String,
    /// What it means.
    pub category: String,
    /// V1's value.
    pub v1: String,
    /// V2's value.
    pub v2: String,
}

/// What a comparison says of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// Equal.
    Same,
    /// Equal but for these.
    Ignored(Vec<Difference>),
    /// Different.
    Different(Vec<Difference>),
    /// Cannot be compared, and why.
    Incomparable(String),
}

/// A call in the shape of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterCall {
    /// The operation.
    pub operation: String,
    /// The session; empty for none.
    pub session: String,
    /// The arguments, JSON.
    pub body: Vec<u8>,
}

/// A call in V2's shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdaptedCall {
    /// The operation to call on V2.
    pub operation: String,
    /// Its arguments, JSON.
    pub body: Vec<u8>,
    /// Kind and message of what callers ought to know.
    pub notices: Vec<(String, String)>,
}

/// An answer in the shape of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterReply {
    /// Whether it succeeded.
    pub success: bool,
    /// The result or the error, JSON.
    pub body: Vec<u8>,
}
