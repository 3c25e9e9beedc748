//! Raises V2's share stage by stage: each lasts a while, and goes up only while V2 is called and judged healthy.
//!
//! It only goes up: going back is the business of the rollback policy.

use cutover_policy::{
    Action, Finding, Move, Phase, Policy, Problem, Progress, Stages, Step, Verdict, finding, problem,
    settings::{Share, Span},
    text,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug)]
pub struct Steps(Settings);

/// Its settings and their defaults; `policy.toml` says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// V2's share in each stage; they rise, and the last is 100%.
    shares: Vec<Share>,
    /// How long each stage lasts at least.
    soak: Span,
    /// Calls of V2 that each stage needs, at least 1.
    min_requests: u64,
}

/// What it remembers from one question to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// When the stage began; other calls belong to another stage.
    stage_started_ms: u64,
    requests: u64,
}

/// The share at which V2 serves everything, in parts per million.
const ALL: Share = Share(1_000_000);

impl Default for Settings {
    fn default() -> Self {
        Self { shares: vec![Share(50_000), Share(250_000), ALL], soak: Span(3_600_000), min_requests: 100 }
    }
}

impl Policy for Steps {
    type Settings = Settings;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "raises V2's share stage by stage while it is called and healthy";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let rise = settings.shares.is_sorted_by(|one, next| one < next);
        if !rise || settings.shares.first() == Some(&Share(0)) || settings.shares.last() != Some(&ALL) {
            problems.push(problem("shares", "must rise from above 0% to 100%, as in [\"5%\", \"100%\"]"));
        }
        if settings.min_requests == 0 {
            problems.push(problem("min_requests", "is 0; it must be at least 1, because no calls are no evidence"));
        }
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl Stages for Steps {
    type Memory = Seen;

    fn next(&self, progress: &Progress, forced: bool, seen: &mut Seen) -> Result<Move, String> {
        seen.add(progress);
        let missing = self.missing(progress, seen);
        if !forced && !missing.is_empty() {
            return Ok(Move { action: Action::Hold, findings: missing });
        }
        Ok(match progress.phase {
            Phase::Shadow => self.step(0).into(),
            Phase::Ramping => self.step(progress.stage.saturating_add(1)).into(),
            _ => Action::Hold.into(),
        })
    }
}

impl Steps {
    /// What the stage still waits for.
    fn missing(&self, progress: &Progress, seen: &Seen) -> Vec<Finding> {
        let mut missing = Vec::new();
        let (elapsed, soak) = (progress.now_ms.saturating_sub(progress.stage_started_ms), self.0.soak.0);
        if elapsed < soak {
            let note = format!("lasted {} of {}", text::span(elapsed), text::span(soak));
            missing.push(finding("soak", elapsed, soak, "ms", note));
        }
        let (calls, needed) = (seen.requests, self.0.min_requests);
        if calls < needed {
            missing.push(finding("calls", calls, needed, "count", format!("V2 had {calls} of the {needed} calls needed")));
        }
        // In the shadow phase V2 has no callers yet, so `hold` does not stand in its way.
        let fine = match progress.verdict {
            Verdict::Healthy => true,
            Verdict::Hold => progress.phase == Phase::Shadow,
            Verdict::Warn | Verdict::RollBack => false,
        };
        if !fine {
            missing.push(finding("verdict", 0, 1, "verdicts", "the rollback policy does not call V2 healthy"));
        }
        missing
    }

    /// To a stage; past the last one V2 serves everything for good.
    fn step(&self, stage: u32) -> Action {
        let share = usize::try_from(stage).ok().and_then(|stage| self.0.shares.get(stage));
        share.map_or(Action::Complete, |share| Action::Advance(Step { stage, share: share.0, soak_ms: Some(self.0.soak.0) }))
    }
}

impl Seen {
    /// Adds what happened since the last question.
    fn add(&mut self, progress: &Progress) {
        if self.stage_started_ms != progress.stage_started_ms {
            *self = Self { stage_started_ms: progress.stage_started_ms, requests: 0 };
        }
        for operation in progress.batches.iter().flat_map(|batch| &batch.operations) {
            let calls = if progress.phase == Phase::Shadow { &operation.shadow } else { &operation.v2 };
            self.requests = self.requests.saturating_add(calls.requests);
        }
    }
}

cutover_policy::export!(Steps: stages);

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;

    fn next(now_ms: u64, stage: u32, requests: u64, forced: bool) -> Action {
        let policy = Steps::configure(Settings::default()).expect("the defaults have no problems");
        let mut batch = batch(0);
        batch.operations.push(operation("execute"));
        batch.operations[0].v2 = calls(requests, 0, 10_000);
        let (phase, share, verdict) = (Phase::Ramping, 50_000, Verdict::Healthy);
        let progress = Progress { now_ms, phase, stage, share, stage_started_ms: 0, verdict, batches: vec![batch] };
        policy.next(&progress, forced, &mut Seen::default()).expect("it always answers").action
    }

    #[test]
    fn a_stage_ends_after_its_time_and_its_calls() {
        let up = Action::Advance(Step { stage: 1, share: 250_000, soak_ms: Some(3_600_000) });
        assert_eq!(next(3_599_999, 0, 100, false), Action::Hold);
        assert_eq!(next(3_600_000, 0, 99, false), Action::Hold);
        assert_eq!(next(3_600_000, 0, 100, false), up);
        assert_eq!(next(0, 0, 0, true), up);
        assert_eq!(next(3_600_000, 2, 100, false), Action::Complete);
    }
}
