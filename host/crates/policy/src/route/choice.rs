//! Who may choose a pool by what they send, and whose calls are evidence.
//!
//! Callers who choose are no sample of the others: what they get says little of what the rest would. So by default nobody
//! chooses, and what came by a choice is kept apart.

use sha2::{Digest as _, Sha256};

use cutover_model::{
    port::{Plan, Target},
    request::{Attribute, Attributes, PoolId},
};

/// The field by which callers show that they may choose.
const KEY: &str = "x-cutover-key";

/// See the module. Nobody chooses, and no rule of a plan is evidence, by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    /// How callers may choose a pool; `None` if they may not.
    pub choice: Option<Choice>,
    /// Rules of plans whose calls are evidence although they depend on what callers send.
    pub evidence: Vec<String>,
}

/// The header by which callers choose a pool, and the key that they need for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The field of the head, in lower case: its value is `v1` or `v2`.
    pub header: Attribute,
    /// What `x-cutover-key` has to be; anybody may choose if there is none.
    pub key: Option<Key>,
    /// Whether they get V2 also before the phase lets it serve.
    pub testers: bool,
    /// Whether their calls are evidence.
    pub evidence: bool,
}

/// The digest of a key: the key itself is shown nowhere, and comparing digests takes no longer the more of a key is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The digest of a key: the key itself is not kept.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key).into())
    }
}

impl Choice {
    /// The pool that a request asks for, if it may.
    pub fn asked(&self, request: &impl Attributes) -> Option<PoolId> {
        let pool = match request.attribute(&self.header)? {
            "v1" => PoolId::V1,
            "v2" => PoolId::V2,
            _ => return None,
        };
        let has_key = |key: &Key| {
            request.attribute(&Attribute::Header(KEY.to_owned())).is_some_and(|given| Key::of(given) == *key)
        };
        self.key.as_ref().is_none_or(has_key).then_some(pool)
    }
}

impl Callers {
    /// Whether calls that a rule of a plan sends to a pool are kept apart: callers choose what they send, but for the
    /// operation.
    pub(super) fn keeps_apart(&self, plan: &Plan, rule: usize) -> bool {
        plan.rules.get(rule).is_some_and(|rule| {
            matches!(rule.target, Target::V1 | Target::V2)
                && rule.conditions.iter().any(|condition| condition.attribute != "operation")
                && !self.evidence.contains(&rule.name)
        })
    }
}
