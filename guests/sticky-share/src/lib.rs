//! The routing policy that ships: sessions stick to the pool that the share gives them.
//!
//! A plan, nothing per request: V1 alone while shadowing or rolled back, otherwise the hash of the session against the
//! share. Callers can ask for a pool by header, and whole operations can be pinned.

use std::collections::BTreeMap;

use cutover_policy::settings::Share;
use cutover_policy::{
    Condition, OperationClass, Phase, Plan, Policy, Problem, Routing, Rule, Situation, Target, Test, problem,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module.
#[derive(Debug)]
pub struct StickyShare(Settings);

/// A pool to pin to.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// V1, whatever the share.
    V1,
    /// V2, if the phase lets V2 serve at all.
    V2,
}

/// All have defaults.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The request attribute that sticks.
    pub sticky: String,
    /// The header by which a caller asks for `v1` or `v2`; empty to forbid it.
    pub override_header: String,
    /// Operations that always go to one pool.
    pub pinned: BTreeMap<String, Pin>,
    /// The share of V1-served reads that is mirrored to V2 while in the phase `shadow`.
    pub shadow_share: Share,
    /// The share that is mirrored while ramping.
    pub ramping_shadow_share: Share,
    /// Reads that are never mirrored.
    pub unshadowed: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sticky: "session".into(),
            override_header: "x-cutover-pool".into(),
            pinned: BTreeMap::new(),
            shadow_share: Share(1_000_000),
            ramping_shadow_share: Share(100_000),
            unshadowed: Vec::new(),
        }
    }
}

impl Policy for StickyShare {
    type Settings = Settings;
    const NAME: &'static str = "sticky-share";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "sessions stick to the pool that the share gives them";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if settings.sticky.is_empty() {
            problems.push(problem("sticky", "is empty; name a request attribute such as `session` or `header:x-user`"));
        }
        for (field, share) in
            [("shadow_share", settings.shadow_share), ("ramping_shadow_share", settings.ramping_shadow_share)]
        {
            if share.0 > 1_000_000 {
                problems.push(problem(field, "is over 100%"));
            }
        }
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl Routing for StickyShare {
    type Memory = ();

    fn make_plan(&self, situation: &Situation, (): &mut ()) -> Result<Plan, String> {
        let settings = &self.0;
        let (otherwise, shadow) = match situation.phase {
            Phase::Preparing | Phase::Paused | Phase::RolledBack => (Target::V1, 0),
            Phase::Shadow => (Target::V1, settings.shadow_share.0),
            Phase::Ramping => (Target::Share, settings.ramping_shadow_share.0),
            Phase::Complete | Phase::Decommissioned => (Target::V2, 0),
        };
        Ok(Plan {
            rules: self.overrides().chain(self.pins()).collect(),
            otherwise,
            sticky: settings.sticky.clone(),
            salt: situation.salt.clone(),
            share: situation.share,
            shadow_share: shadow,
            shadow_operations: situation
                .operations
                .iter()
                .filter(|o| o.class == OperationClass::Read && !settings.unshadowed.contains(&o.name))
                .map(|o| o.name.clone())
                .collect(),
        })
    }
}

impl StickyShare {
    fn overrides(&self) -> impl Iterator<Item = Rule> {
        let header = &self.0.override_header;
        let pools = [("override-v1", "v1", Target::V1), ("override-v2", "v2", Target::V2)];
        pools.into_iter().filter(|_| !header.is_empty()).map(move |(name, pool, target)| Rule {
            name: name.into(),
            conditions: vec![Condition {
                attribute: format!("header:{}", header.to_lowercase()),
                test: Test::OneOf(vec![pool.into()]),
            }],
            target,
        })
    }

    fn pins(&self) -> impl Iterator<Item = Rule> {
        self.0.pinned.iter().map(|(operation, pin)| Rule {
            name: "pinned".into(),
            conditions: vec![Condition { attribute: "operation".into(), test: Test::OneOf(vec![operation.clone()]) }],
            target: match pin {
                Pin::V1 => Target::V1,
                Pin::V2 => Target::V2,
            },
        })
    }
}

cutover_policy::export!(StickyShare: routing);
