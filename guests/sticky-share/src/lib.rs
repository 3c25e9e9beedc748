//! The routing policy that ships: sessions stick to the pool that the share gives them.
//!
//! A plan, nothing per request: V1 alone while shadowing or rolled back, otherwise the hash of the session against the
//! share. Callers can ask for a pool by header, and whole operations can be pinned.

use std::collections::BTreeMap;

use cutover_policy::{
    Condition, OperationClass, Phase, Plan, Policy, Problem, Routing, Rule, Situation, Target, Test, problem,
    settings::Share,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module.
#[derive(Debug)]
pub struct StickyShare(Settings);

/// A pool to pin to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// V1, whatever the share.
    V1,
    /// V2, if the phase lets V2 serve at all.
    V2,
}

/// All have defaults.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The request attribute that sticks.
    pub sticky: String,
    /// The header by which any caller asks for `v1` or `v2`; empty for none. The host has an override that takes a key.
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
            override_header: String::new(),
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

#[cfg(test)]
mod tests {
    use cutover_policy::Operation;
    use proptest::prelude::*;

    use super::*;

    const PHASES: [Phase; 7] = [
        Phase::Preparing,
        Phase::Shadow,
        Phase::Ramping,
        Phase::Complete,
        Phase::Decommissioned,
        Phase::Paused,
        Phase::RolledBack,
    ];

    fn plan(settings: &str, phase: Phase) -> Plan {
        let policy = StickyShare::configure(serde_json::from_str(settings).unwrap()).unwrap();
        let operation = |name: &str, class| Operation { name: name.into(), class };
        let situation = Situation {
            now_ms: 0,
            migration: "programs".into(),
            phase,
            stage: 0,
            share: 50_000,
            salt: "salt".into(),
            operations: vec![
                operation("create_program", OperationClass::Replicate),
                operation("delete_program", OperationClass::Exclusive),
                operation("health_check", OperationClass::Read),
                operation("list_programs", OperationClass::Read),
            ],
        };
        policy.make_plan(&situation, &mut ()).unwrap()
    }

    fn problems(settings: &str) -> Vec<String> {
        let settings = serde_json::from_str(settings).unwrap();
        StickyShare::configure(settings).unwrap_err().into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn each_phase_has_its_pool_and_its_mirror() {
        let expected = [
            (Target::V1, 0),
            (Target::V1, 1_000_000),
            (Target::Share, 100_000),
            (Target::V2, 0),
            (Target::V2, 0),
            (Target::V1, 0),
            (Target::V1, 0),
        ];
        for (phase, expected) in PHASES.into_iter().zip(expected) {
            let plan = plan("{}", phase);
            assert_eq!((plan.otherwise, plan.shadow_share), expected, "{phase:?}");
        }
    }

    #[test]
    fn sessions_stay_where_the_migration_puts_them() {
        let plan = plan("{}", Phase::Ramping);
        assert_eq!((plan.sticky.as_str(), plan.salt.as_str(), plan.share), ("session", "salt", 50_000));
    }

    #[test]
    fn reads_alone_are_mirrored_unless_excepted() {
        assert_eq!(plan("{}", Phase::Shadow).shadow_operations, ["health_check", "list_programs"]);
        let plan = plan(r#"{ "unshadowed": ["health_check"] }"#, Phase::Shadow);
        assert_eq!(plan.shadow_operations, ["list_programs"]);
    }

    #[test]
    fn callers_ask_for_a_pool_by_header() {
        let rules = plan(r#"{ "override_header": "X-Pool" }"#, Phase::Ramping).rules;
        let wanted = |pool: &str, target| Rule {
            name: format!("override-{pool}"),
            conditions: vec![Condition { attribute: "header:x-pool".into(), test: Test::OneOf(vec![pool.into()]) }],
            target,
        };
        assert_eq!(rules, [wanted("v1", Target::V1), wanted("v2", Target::V2)]);
        assert_eq!(plan("{}", Phase::Ramping).rules, [], "nobody asks unless that is set");
    }

    #[test]
    fn pins_come_after_overrides() {
        let settings = r#"{ "override_header": "x-pool", "pinned": { "list_programs": "v2", "execute": "v1" } }"#;
        let rules = plan(settings, Phase::Ramping).rules;
        let seen: Vec<_> = rules.iter().skip(2).map(|r| (r.conditions[0].test.clone(), r.target)).collect();
        let of = |operation: &str| Test::OneOf(vec![operation.into()]);
        assert_eq!(seen, [(of("execute"), Target::V1), (of("list_programs"), Target::V2)]);
    }

    #[test]
    fn each_problem_names_its_field() {
        assert_eq!(
            problems(r#"{ "sticky": "", "shadow_share": "101%", "ramping_shadow_share": 1000001 }"#),
            ["sticky", "shadow_share", "ramping_shadow_share"]
        );
        assert!(serde_json::from_str::<Settings>(r#"{ "stick": "session" }"#).is_err());
    }

    #[test]
    fn bundle_says_the_defaults() {
        let bundle: toml::Table = toml::from_str(include_str!("../../../policies/sticky-share/policy.toml")).unwrap();
        let json = serde_json::to_value(&bundle["settings"]).unwrap();
        assert_eq!(serde_json::from_value::<Settings>(json.clone()).unwrap(), Settings::default());
        let schema = schemars::schema_for!(Settings);
        for field in schema.as_value()["properties"].as_object().unwrap().keys() {
            assert!(json.get(field).is_some(), "{field} is not in the bundle");
        }
    }

    proptest! {
        #[test]
        fn no_plan_gives_more_than_the_migration_does(phase in prop::sample::select(&PHASES), ppm in 0_u32..=1_000_000) {
            let plan = plan(&format!(r#"{{ "ramping_shadow_share": {ppm} }}"#), phase);
            prop_assert_eq!(plan.share, 50_000);
            prop_assert!(plan.shadow_share <= 1_000_000);
            prop_assert!(plan.rules.iter().all(|rule| !rule.conditions.is_empty()));
        }
    }
}
