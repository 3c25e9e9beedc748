//! A ring of people who get V2 first, decided per request. Never shipped: a plan says the same in a rule and costs a
//! tenth of it (`policies/beta-ring`). This is what the benches hold against other rule engines.

use cutover_policy::{Choice, Decide, Frame, Phase, Plan, Policy, Problem, Routing, Situation, Target};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module.
#[derive(Debug)]
pub struct RingDecide(Settings);

/// All have defaults.
#[derive(Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Values of `x-beta` that are in the ring.
    pub rings: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { rings: vec!["beta".into(), "internal".into()] }
    }
}

impl Policy for RingDecide {
    type Settings = Settings;
    const NAME: &'static str = "ring-decide";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "the ring and the share, decided per request; for benches of the host";
    const ATTRIBUTES: &'static [&'static str] = &["header:x-beta"];

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        Ok(Self(settings))
    }
}

impl Routing for RingDecide {
    type Memory = ();

    fn make_plan(&self, situation: &Situation, (): &mut ()) -> Result<Plan, String> {
        let otherwise = match situation.phase {
            Phase::Ramping => Target::Decide,
            Phase::Complete | Phase::Decommissioned => Target::V2,
            Phase::Preparing | Phase::Shadow | Phase::Paused | Phase::RolledBack => Target::V1,
        };
        Ok(Plan {
            rules: Vec::new(),
            otherwise,
            sticky: "session".into(),
            salt: situation.salt.clone(),
            share: situation.share,
            shadow_share: 0,
            shadow_operations: Vec::new(),
        })
    }
}

impl Decide for RingDecide {
    /// Attributes behind the first are not looked at.
    fn decide(&self, frame: Frame<'_>) -> Choice {
        let ring = frame.attributes().next().flatten();
        let in_the_ring = ring.is_some_and(|ring| self.0.rings.iter().any(|known| known == ring));
        if in_the_ring || frame.is_v2() { Choice::V2 } else { Choice::V1 }
    }
}

cutover_policy::export!(RingDecide: routing, decide);

#[cfg(test)]
mod tests {
    use cutover_contract::frame;

    use super::*;

    fn decided(settings: &str, position: u32, ring: Option<&str>) -> Choice {
        let policy = RingDecide::configure(serde_json::from_str(settings).unwrap()).unwrap();
        let mut packed = Vec::new();
        frame::pack(&mut packed, position, 250_000, [ring, Some("beta")].into_iter());
        policy.decide(Frame::read(&packed).unwrap())
    }

    #[test]
    fn the_ring_and_the_share_get_v2() {
        let all = [(0, None), (249_999, Some("stable")), (900_000, Some("beta")), (900_000, Some("internal"))];
        assert!(all.into_iter().all(|(position, ring)| decided("{}", position, ring) == Choice::V2));
        for ring in [None, Some("stable"), Some("BETA")] {
            assert_eq!(decided("{}", 250_000, ring), Choice::V1, "{ring:?}");
        }
        assert_eq!(decided(r#"{ "rings": [] }"#, 900_000, Some("beta")), Choice::V1);
    }

    #[test]
    fn requests_are_decided_while_ramping_alone() {
        let policy = RingDecide::configure(Settings::default()).unwrap();
        let otherwise = |phase| {
            let situation = Situation {
                now_ms: 0,
                migration: "programs".into(),
                phase,
                stage: 0,
                share: 250_000,
                salt: "programs".into(),
                operations: Vec::new(),
            };
            policy.make_plan(&situation, &mut ()).unwrap().otherwise
        };
        assert_eq!(otherwise(Phase::Ramping), Target::Decide);
        assert_eq!(otherwise(Phase::Complete), Target::V2);
        assert_eq!(otherwise(Phase::RolledBack), Target::V1);
    }
}
