//! Misbehaves on demand, so that the host's tests can see that nothing of it reaches a request. Never shipped.
//!
//! `{ "do": "trap", "in": "rollback" }` traps when asked to judge and is sane otherwise. What a function cannot do by its
//! type it does as well as it can: `decide` has no error, so `refuse` traps there, `nonsense` is V2 in every phase, and
//! `huge` is sane.

pub mod misdeed;

use cutover_policy::{
    Action, AdaptedCall, Adapter, Call, Check, Choice, Comparison, Decide, Frame, Judgement, Move, Notice, Outcome,
    Pair, Phase, Plan, Policy, Problem, Progress, Reply, Rollback, Routing, Rule, Situation, Stages, Step, Target,
    Verdict, finding, problem,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::misdeed::{Left, Misdeed};

/// See the module.
#[derive(Debug)]
pub struct Hostile(Settings);

/// All have defaults.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What it does.
    #[serde(rename = "do")]
    pub misdeed: Misdeed,
    /// Where it does it.
    #[serde(rename = "in")]
    pub place: Place,
    /// What it says of V2 where it behaves.
    pub verdict: Opinion,
    /// Rounds of work before it does anything there; a round takes about a nanosecond.
    pub spins: u64,
    /// Characters that it wants to remember of each check.
    pub remember: usize,
}

/// A function of the contract.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// `policy.configure`.
    #[default]
    Configure,
    /// `routing.make-plan`.
    Plan,
    /// `decide.decide`.
    Decide,
    /// `stages.next`.
    Stages,
    /// `rollback.judge`.
    Rollback,
    /// `comparison.compare`.
    Comparison,
    /// Both functions of `adapter`.
    Adapter,
}

/// A verdict, as settings write it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Opinion {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// There is too little evidence.
    Hold,
    /// Something is wrong.
    Warn,
    /// V2 is worse.
    RollBack,
}

/// Absurdly many of small things.
const MANY: usize = 1_000_000;

/// An absurd number of bytes.
const LONG: usize = 32 << 20;

/// Larger than any share or stage.
const FOUR_BILLION: u32 = 4_000_000_000;

impl Hostile {
    /// Does what must not return, if this is the place for it; says what is left to do.
    fn act(&self, place: Place) -> Left {
        if self.0.place != place {
            return Left::Behave;
        }
        misdeed::spin(self.0.spins);
        self.0.misdeed.act()
    }
}

impl Policy for Hostile {
    type Settings = Settings;
    const NAME: &'static str = "hostile";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "misbehaves on demand; for tests of the host";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let policy = Self(settings);
        match policy.act(Place::Configure) {
            Left::Behave => Ok(policy),
            Left::Nonsense => Err(Vec::new()),
            Left::Huge => Err(vec![problem("do", "no"); MANY / 10]),
            Left::Refuse => Err(vec![problem("do", "is `refuse`")]),
        }
    }
}

impl Routing for Hostile {
    type Memory = ();

    fn make_plan(&self, situation: &Situation, (): &mut ()) -> Result<Plan, String> {
        let left = self.act(Place::Plan);
        let mut plan = Plan {
            rules: Vec::new(),
            // Asked for each request just when that is the place to misbehave in.
            otherwise: if self.0.place == Place::Decide { Target::Decide } else { Target::Share },
            sticky: "session".into(),
            salt: situation.salt.clone(),
            share: situation.share,
            shadow_share: 0,
            shadow_operations: Vec::new(),
        };
        match left {
            Left::Behave => {}
            Left::Nonsense => {
                plan.rules = vec![Rule { name: "Not A Name\n".into(), conditions: Vec::new(), target: Target::V2 }];
                plan.sticky = String::new();
                plan.share = FOUR_BILLION;
                plan.shadow_share = FOUR_BILLION;
                plan.shadow_operations = vec!["no-such-operation".into()];
            }
            Left::Huge => {
                plan.rules = vec![Rule { name: "r".into(), conditions: Vec::new(), target: Target::V2 }; MANY];
            }
            Left::Refuse => return Err("refused to plan".into()),
        }
        Ok(plan)
    }
}

impl Decide for Hostile {
    fn decide(&self, _: Frame<'_>) -> Choice {
        match self.act(Place::Decide) {
            Left::Behave | Left::Huge => Choice::Share,
            Left::Nonsense => Choice::V2,
            Left::Refuse => misdeed::trap(),
        }
    }
}

impl Stages for Hostile {
    type Memory = String;

    fn next(&self, progress: &Progress, _: bool, memory: &mut String) -> Result<Move, String> {
        match self.act(Place::Stages) {
            Left::Behave => Ok(Action::Hold.into()),
            Left::Nonsense if progress.phase == Phase::Shadow => Ok(Action::Complete.into()),
            Left::Nonsense => {
                let step = Step { stage: FOUR_BILLION, share: FOUR_BILLION, soak_ms: Some(u64::MAX) };
                Ok(Action::Advance(step).into())
            }
            Left::Huge => {
                *memory = "m".repeat(LONG);
                Ok(Action::Hold.into())
            }
            Left::Refuse => Err("refused to decide on the stage".into()),
        }
    }
}

impl Rollback for Hostile {
    type Memory = String;

    fn judge(&self, _: &Check, memory: &mut String) -> Result<Judgement, String> {
        *memory = "m".repeat(self.0.remember);
        match self.act(Place::Rollback) {
            Left::Behave => {
                let verdict = match self.0.verdict {
                    Opinion::Healthy => Verdict::Healthy,
                    Opinion::Hold => Verdict::Hold,
                    Opinion::Warn => Verdict::Warn,
                    Opinion::RollBack => Verdict::RollBack,
                };
                let findings = vec![finding("told-to", 1, 0, "count", "the settings say so")];
                Ok(Judgement { findings, ..verdict.into() })
            }
            // A roll-back rests on at least one finding.
            Left::Nonsense => Ok(Judgement { evidence: i64::MIN, ..Verdict::RollBack.into() }),
            Left::Huge => {
                let findings = vec![finding("r", 0, 0, "count", ""); MANY / 10];
                Ok(Judgement { findings, ..Verdict::Healthy.into() })
            }
            Left::Refuse => Err("refused to judge".into()),
        }
    }
}

impl Comparison for Hostile {
    fn compare(&self, _: &Pair) -> Outcome {
        Outcome::Same
    }

    fn compare_all(&self, pairs: &[Pair]) -> Vec<Outcome> {
        match self.act(Place::Comparison) {
            Left::Behave => pairs.iter().map(|pair| self.compare(pair)).collect(),
            // One too many, and differences that are none.
            Left::Nonsense => vec![Outcome::Different(Vec::new()); pairs.len() + 1],
            Left::Huge => vec![Outcome::Same; MANY],
            Left::Refuse => vec![Outcome::Incomparable("refused to compare".into()); pairs.len()],
        }
    }
}

impl Adapter for Hostile {
    fn adapt_call(&self, call: &Call) -> Result<AdaptedCall, String> {
        let mut adapted =
            AdaptedCall { operation: call.operation.clone(), body: call.body.clone(), notices: Vec::new() };
        match self.act(Place::Adapter) {
            Left::Behave => {}
            Left::Nonsense => {
                adapted.operation = "no-such-operation".into();
                adapted.body = b"not json".into();
                adapted.notices = vec![Notice { kind: "gossip".into(), message: String::new() }];
            }
            Left::Huge => adapted.body = vec![b'1'; LONG],
            Left::Refuse => return Err("refused to adapt the call".into()),
        }
        Ok(adapted)
    }

    fn adapt_reply(&self, _: &Call, reply: Reply) -> Result<Reply, String> {
        match self.act(Place::Adapter) {
            Left::Behave => Ok(reply),
            Left::Nonsense => Ok(Reply { success: !reply.success, body: b"not json".into() }),
            Left::Huge => Ok(Reply { body: vec![b'1'; LONG], ..reply }),
            Left::Refuse => Err("refused to adapt the reply".into()),
        }
    }
}

cutover_policy::export!(Hostile: routing, decide, stages, rollback, comparison, adapter);

#[cfg(test)]
mod tests;
