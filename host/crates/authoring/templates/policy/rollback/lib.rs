//! Rolls back when too many of V2's calls fail, and warns before that.
//!
//! Calls are counted from the beginning of a stage on: stages differ in V2's share, and so in what it has to bear.

use cutover_policy::{
    Check, Judgement, Phase, Policy, Problem, Rollback, Verdict, finding, problem, settings::Share, text,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug)]
pub struct ErrorRate(Settings);

/// Its settings and their defaults; `policy.toml` says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Calls of V2 that a stage needs before it is judged, at least 1.
    min_requests: u64,
    /// The share of failed calls over which people are told.
    warn_error_rate: Share,
    /// The share of failed calls over which everything goes back.
    max_error_rate: Share,
}

/// What it remembers from one check to the next.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Seen {
    /// When the stage began; other counts belong to another stage.
    stage_started_ms: u64,
    requests: u64,
    errors: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { min_requests: 50, warn_error_rate: Share(20_000), max_error_rate: Share(50_000) }
    }
}

impl Policy for ErrorRate {
    type Settings = Settings;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "rolls back when too many of V2's calls fail, and warns before that";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        if settings.min_requests == 0 {
            problems.push(problem("min_requests", "is 0; it must be at least 1, because no calls are no evidence"));
        }
        if settings.warn_error_rate > settings.max_error_rate {
            problems.push(problem("warn_error_rate", "is over `max_error_rate`; people are told before"));
        }
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl Rollback for ErrorRate {
    type Memory = Seen;

    fn judge(&self, check: &Check, seen: &mut Seen) -> Result<Judgement, String> {
        seen.add(check);
        let wanted = &self.0;
        if seen.requests < wanted.min_requests {
            let note = format!("V2 answered {} of the {} calls needed", seen.requests, wanted.min_requests);
            let few = finding("v2-requests", seen.requests, wanted.min_requests, "count", note);
            return Ok(Judgement { findings: vec![few], ..Verdict::Hold.into() });
        }
        let rate = seen.error_rate_ppm();
        let (verdict, limit) = match rate {
            _ if rate > u64::from(wanted.max_error_rate.0) => (Verdict::RollBack, wanted.max_error_rate),
            _ if rate > u64::from(wanted.warn_error_rate.0) => (Verdict::Warn, wanted.warn_error_rate),
            _ => return Ok(Verdict::Healthy.into()),
        };
        let limit = u64::from(limit.0);
        let note = format!("{} of V2's calls failed, {} may", text::percent(text::round_up(rate)), text::percent(limit));
        Ok(Judgement { findings: vec![finding("v2-error-rate", rate, limit, "ppm", note)], ..verdict.into() })
    }
}

impl Seen {
    /// Adds what happened since the last check. In the shadow phase V2 has no callers, but mirrored calls.
    fn add(&mut self, check: &Check) {
        if self.stage_started_ms != check.stage_started_ms {
            *self = Self { stage_started_ms: check.stage_started_ms, ..Self::default() };
        }
        for operation in check.batches.iter().flat_map(|batch| &batch.operations) {
            let calls = if check.phase == Phase::Shadow { &operation.shadow } else { &operation.v2 };
            self.requests = self.requests.saturating_add(calls.requests);
            self.errors = self.errors.saturating_add(calls.errors);
        }
    }

    /// Rounded up, so that what is over a limit also reads as over it.
    fn error_rate_ppm(&self) -> u64 {
        let ppm = (u128::from(self.errors) * 1_000_000).div_ceil(u128::from(self.requests.max(1)));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

cutover_policy::export!(ErrorRate: rollback);

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;

    fn verdict(requests: u64, errors: u64) -> Verdict {
        let policy = ErrorRate::configure(Settings::default()).expect("the defaults have no problems");
        let mut batch = batch(0);
        batch.operations.push(operation("execute"));
        batch.operations[0].v2 = calls(requests, errors, 10_000);
        let (phase, stage, share) = (Phase::Ramping, 0, 50_000);
        let check = Check { now_ms: 5_000, phase, stage, share, stage_started_ms: 0, batches: vec![batch] };
        policy.judge(&check, &mut Seen::default()).expect("it always answers").verdict
    }

    #[test]
    fn the_verdict_follows_the_share_of_failed_calls() {
        assert_eq!(verdict(49, 49), Verdict::Hold);
        assert_eq!(verdict(100, 2), Verdict::Healthy);
        assert_eq!(verdict(100, 3), Verdict::Warn);
        assert_eq!(verdict(100, 6), Verdict::RollBack);
    }
}
