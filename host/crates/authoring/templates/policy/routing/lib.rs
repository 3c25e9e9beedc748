//! A beta ring: callers who say so get V2, some operations stay on V1, everybody else goes by the share.
//!
//! The host executes the plan for each request; the policy is asked again only when the migration moves.

use cutover_policy::{
    Condition, OperationClass, Phase, Plan, Policy, Problem, Routing, Rule, Situation, Target, Test, problem,
    settings::Share,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module.
#[derive(Debug)]
pub struct BetaRing(Settings);

/// Its settings and their defaults; `policy.toml` says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Requests that have this header go to V2.
    beta_header: String,
    /// Operations that stay on V1.
    pinned: Vec<String>,
    /// The share of V1-served reads that is mirrored while ramping.
    shadow_share: Share,
}

/// The share of V2 that is everything, in parts per million.
const ALL: u32 = 1_000_000;

impl Default for Settings {
    fn default() -> Self {
        Self { beta_header: "x-beta".into(), pinned: Vec::new(), shadow_share: Share(100_000) }
    }
}

impl Policy for BetaRing {
    type Settings = Settings;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "callers who say so get V2, everybody else goes by the share";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        if settings.shadow_share.0 > ALL {
            return Err(vec![problem("shadow_share", "is over 100%; no more than all can be mirrored")]);
        }
        Ok(Self(settings))
    }
}

impl Routing for BetaRing {
    /// This policy remembers nothing between calls.
    type Memory = ();

    fn make_plan(&self, situation: &Situation, (): &mut ()) -> Result<Plan, String> {
        let pinned = &self.0.pinned;
        let mut rules = Vec::new();
        if !pinned.is_empty() {
            rules.push(rule("pinned", "operation", Test::OneOf(pinned.clone()), Target::V1));
        }
        rules.push(rule("beta", &format!("header:{}", self.0.beta_header.to_lowercase()), Test::Present, Target::V2));
        let mirrored = situation.operations.iter().filter(|o| o.class == OperationClass::Read && !pinned.contains(&o.name));
        Ok(Plan {
            rules,
            otherwise: Target::Share,
            sticky: "session".into(),
            salt: situation.salt.clone(),
            share: situation.share,
            shadow_share: if situation.phase == Phase::Shadow { ALL } else { self.0.shadow_share.0 },
            shadow_operations: mirrored.map(|o| o.name.clone()).collect(),
        })
    }
}

/// A rule with one condition.
fn rule(name: &str, attribute: &str, test: Test, target: Target) -> Rule {
    Rule { name: name.into(), conditions: vec![Condition { attribute: attribute.into(), test }], target }
}

cutover_policy::export!(BetaRing: routing);

#[cfg(test)]
mod tests {
    use cutover_policy::Operation;

    use super::*;

    #[test]
    fn what_is_pinned_comes_before_the_beta_ring_and_is_not_mirrored() {
        let settings = Settings { pinned: vec!["execute".into()], ..Settings::default() };
        let policy = BetaRing::configure(settings).expect("these settings have no problems");
        let read = |name: &str| Operation { name: name.into(), class: OperationClass::Read };
        let situation = Situation {
            now_ms: 0,
            migration: "programs".into(),
            phase: Phase::Ramping,
            stage: 0,
            share: 50_000,
            salt: "programs".into(),
            operations: vec![read("execute"), read("list_programs")],
        };
        let plan = policy.make_plan(&situation, &mut ()).expect("it always answers");
        let names: Vec<_> = plan.rules.iter().map(|rule| rule.name.as_str()).collect();
        assert_eq!((names, plan.share), (vec!["pinned", "beta"], 50_000));
        assert_eq!(plan.shadow_operations, ["list_programs"]);
    }
}
