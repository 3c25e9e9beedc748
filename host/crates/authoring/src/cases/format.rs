//! A case file as people write it. Every struct refuses unknown fields; which of a step's fields mean something to a kind
//! of policy is checked by `read`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    notation::{Moment, Share, Span},
    traffic::Traffic,
};
use cutover_model::{
    port::{Phase, Target, Verdict},
    request::{Class, PoolId},
};

pub(super) use super::expect_format::{Expect, ExpectRefusal};

/// A file with cases of one bundle.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(rename = "about")]
    pub(super) _about: Option<String>,
    #[serde(default)]
    pub(super) settings: Map<String, Value>,
    #[serde(default)]
    pub(super) start: Map<String, Value>,
    #[serde(default)]
    pub(super) never: Vec<String>,
    /// Read one by one, so that an error can name the case.
    pub(super) cases: Vec<Value>,
}

/// A case: a sequence of questions to the policy, and what must come of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    pub(super) name: String,
    #[serde(rename = "about")]
    pub(super) _about: Option<String>,
    #[serde(default)]
    pub(super) settings: Map<String, Value>,
    #[serde(default)]
    pub(super) start: Map<String, Value>,
    /// Read one by one, so that an error can name the step.
    #[serde(default)]
    pub(super) steps: Vec<Value>,
    pub(super) expect: Option<Value>,
    #[serde(default)]
    pub(super) snapshot: bool,
    #[serde(default)]
    pub(super) obey: bool,
}

/// Where a case begins.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Start {
    pub(super) now: Option<Moment>,
    pub(super) phase: Option<Phase>,
    pub(super) stage: Option<u32>,
    pub(super) share: Option<Share>,
    pub(super) stage_age: Option<Span>,
    pub(super) memory: Option<Value>,
    pub(super) verdict: Option<Verdict>,
    pub(super) migration: Option<String>,
    pub(super) salt: Option<String>,
    pub(super) operations: Option<BTreeMap<String, Class>>,
}

/// One question, or several of the same shape.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Step {
    pub(super) expect: Option<Expect>,
    pub(super) until: Option<Expect>,
    pub(super) repeat: Option<u32>,
    pub(super) wait: Option<Span>,
    pub(super) at: Option<Moment>,
    pub(super) phase: Option<Phase>,
    pub(super) stage: Option<u32>,
    pub(super) share: Option<Share>,
    pub(super) batch: Option<Traffic>,
    pub(super) batches: Option<Vec<Traffic>>,
    pub(super) verdict: Option<Verdict>,
    pub(super) forced: bool,
    pub(super) migration: Option<String>,
    pub(super) salt: Option<String>,
    pub(super) operations: Option<BTreeMap<String, Class>>,
    pub(super) requests: Option<Vec<Routed>>,
    pub(super) pair: Option<Pair>,
    pub(super) pairs: Option<Vec<Pair>>,
    pub(super) call: Option<Call>,
    pub(super) reply: Option<Reply>,
}

/// A request and where the plan must send it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Routed {
    #[serde(default = "execute")]
    pub(super) operation: String,
    pub(super) session: Option<String>,
    #[serde(default)]
    pub(super) method: String,
    #[serde(default)]
    pub(super) path: String,
    #[serde(default)]
    pub(super) host: String,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) pool: Option<PoolId>,
    pub(super) reason: Option<String>,
    pub(super) mirror: Option<bool>,
}

/// A mirrored pair, which a comparison policy is asked about.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pair {
    #[serde(default = "execute")]
    pub(super) operation: String,
    pub(super) v1: Side,
    pub(super) v2: Side,
}

/// The answer of one pool; a success unless it says otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Side {
    #[serde(default = "yes")]
    pub(super) success: bool,
    #[serde(default)]
    pub(super) status: u16,
    pub(super) media_type: Option<String>,
    #[serde(default, deserialize_with = "given")]
    pub(super) json: Option<Value>,
    pub(super) body: Option<String>,
}

/// A call in V1's shape.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Call {
    #[serde(default = "execute")]
    pub(super) operation: String,
    #[serde(default)]
    pub(super) session: String,
    #[serde(default, deserialize_with = "given")]
    pub(super) json: Option<Value>,
    pub(super) body: Option<String>,
}

/// V2's reply to a call, which an adapter translates; a success unless it says otherwise.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reply {
    #[serde(default = "yes")]
    pub(super) success: bool,
    #[serde(default, deserialize_with = "given")]
    pub(super) json: Option<Value>,
    pub(super) body: Option<String>,
}

/// Tells `json: null` from no `json` at all.
pub(super) fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The operation that calls belong to where a case does not care.
pub(super) fn execute() -> String {
    "execute".into()
}

const fn yes() -> bool {
    true
}

/// As plans and case files name it.
pub(super) const fn target(target: Target) -> &'static str {
    match target {
        Target::V1 => "v1",
        Target::V2 => "v2",
        Target::Share => "share",
        Target::Decide => "decide",
    }
}
