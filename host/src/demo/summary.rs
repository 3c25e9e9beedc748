//! Sums up what the demo showed, and whether every promise was kept.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::replay::Replayed;
use cutover_control::migration::snapshot::RollbackReport;
use cutover_model::{
    clock::UnixMs,
    facts::{Comparisons, Finding},
    request::Ppm,
};

/// The longest that V2 may get new calls after the verdict.
const MAX_LAST_V2_US: u64 = 1_000;

/// V2's throughput over V1's, for each worker, at least.
const MIN_SPEEDUP: f64 = 0.95;

/// What the demo showed, as one object for people and programs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// How many calls clients made, and who answered them.
    pub requests: Requests,
    /// The stages of the ramp.
    pub stages: Vec<StageSeen>,
    /// Policies that were swapped under load.
    pub swaps: Vec<Swap>,
    /// What the comparison policy said of mirrored pairs.
    pub comparisons: Comparisons,
    /// The rollback after V2 was broken, and how long it took.
    pub rollback: Rollback,
    /// V2 against V1 on work that waits.
    pub throughput: Throughput,
    /// The number of decisions on record at the end.
    pub decisions: usize,
    /// Questions to policies that were asked again afterwards.
    pub replayed: Replayed,
    /// What the first failed call came back with; none if no call failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_failure: Option<String>,
    /// Mirrored results that differed while V2 was sound.
    #[serde(skip)]
    pub different_before_fault: u64,
    /// Calls that were sent after the rollback and that V2 answered.
    #[serde(skip)]
    pub v2_after_rollback: u64,
}

/// How many calls clients made, and who answered them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Requests {
    /// All calls, mirrored ones not included.
    pub total: u64,
    /// Calls that failed or were answered wrongly.
    pub client_failures: u64,
    /// Calls that V1 answered.
    pub v1: u64,
    /// Calls that V2 answered.
    pub v2: u64,
    /// Calls that V2 failed and V1 answered.
    pub failed_over: u64,
    /// Calls that were mirrored.
    pub shadowed: u64,
}

/// One stage of the ramp, as it went.
#[derive(Debug, Clone, Serialize)]
pub struct StageSeen {
    /// V2's share in the stage, as the stages policy set it.
    pub share_ppm: Ppm,
    /// The share of sessions that went to V2, in parts per million.
    pub observed_share_ppm: u64,
    /// Calls that clients made in the stage.
    pub requests: u64,
    /// Sessions that these calls were of.
    pub sessions: u64,
}

/// A policy that was swapped under load.
#[derive(Debug, Clone, Serialize)]
pub struct Swap {
    /// The kind of policy, as configuration names it.
    pub kind: String,
    /// SHA-256 of the component that was in charge before.
    pub from: String,
    /// SHA-256 of the component that is in charge since.
    pub to: String,
    /// From reading the bundle to the new policy being in charge, in milliseconds.
    pub took_ms: u64,
    /// Calls of clients that failed while it was swapped.
    pub failed_requests: u64,
}

/// How V2 was found to be worse, and how fast V1 had everything again.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rollback {
    /// Why, in the words of the decision.
    pub reason: String,
    /// The policy that decided: name, version and digest.
    pub policy: String,
    /// The facts that the decision rests on.
    pub findings: Vec<Finding>,
    /// From the fault to the verdict, in milliseconds.
    pub detected_ms: u64,
    /// From the verdict to the last call that was sent to V2, in microseconds.
    pub last_v2_request_us: u64,
}

/// How many calls V1's and V2's pools serve of work that waits and computes nothing.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Throughput {
    /// V1's calls per second.
    pub v1_rps: f64,
    /// V2's calls per second.
    pub v2_rps: f64,
    /// The number of V2's workers; V1 has one.
    pub workers: usize,
    /// V2's calls per second over V1's.
    pub ratio: f64,
}

impl Swap {
    pub(super) fn new(detail: &Value, took: Duration, failed_requests: u64) -> Self {
        let text = |field: &str| detail.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        Self { kind: text("kind"), from: text("from"), to: text("to"), took_ms, failed_requests }
    }
}

impl Summary {
    pub(super) fn rolled_back(&mut self, report: &RollbackReport, injected: UnixMs) {
        let (policy, digest) = (report.policy.clone().unwrap_or_default(), report.digest.clone().unwrap_or_default());
        self.rollback = Rollback {
            reason: report.reason.clone(),
            policy: format!("{policy} ({})", short(&digest)),
            findings: report.findings.clone(),
            detected_ms: u64::try_from(report.at.since(injected).as_millis()).unwrap_or(u64::MAX),
            last_v2_request_us: report.last_v2_request_us,
        };
    }

    /// Every promise that was broken, as a phrase.
    pub fn broken_promises(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |kept: bool, what: String| {
            if !kept {
                broken.push(what);
            }
        };
        let failures = self.requests.client_failures;
        let first = self.first_failure.as_deref().unwrap_or_default();
        promise(failures == 0, format!("{failures} calls failed, the first with {first}"));
        promise(self.stages.len() >= 4, format!("only {} stages were reached", self.stages.len()));
        for stage in &self.stages {
            let what = format!(
                "{} of sessions were meant for V2, {} ppm went there",
                stage.share_ppm, stage.observed_share_ppm
            );
            promise(stage.is_within_four_sigma(), what);
        }
        promise(!self.swaps.is_empty(), "no policy was swapped".into());
        for swap in &self.swaps {
            promise(swap.from != swap.to, "the swap did not change the policy".into());
            promise(swap.failed_requests == 0, format!("{} calls failed during a swap", swap.failed_requests));
        }
        let different = self.different_before_fault;
        promise(different == 0, format!("{different} results of a sound V2 differed"));
        promise(!self.rollback.policy.is_empty(), "no policy rolled back".into());
        promise(!self.rollback.findings.is_empty(), "the rollback does not say why".into());
        let last = self.rollback.last_v2_request_us;
        promise(last < MAX_LAST_V2_US, format!("V2 still got a call {last} us after the verdict"));
        promise(
            self.v2_after_rollback == 0,
            format!("V2 answered {} calls after the rollback", self.v2_after_rollback),
        );
        #[expect(clippy::cast_precision_loss, reason = "a handful of workers")]
        let wanted = MIN_SPEEDUP * self.throughput.workers as f64;
        let ratio = self.throughput.ratio;
        promise(ratio >= wanted, format!("V2 did {ratio:.2}x of V1, less than {wanted:.2}x"));
        promise(self.decisions > 0, "no decision is on record".into());
        let Replayed { calls, same } = self.replayed;
        promise(
            calls > 0 && same == calls,
            format!("{same} of {calls} questions were answered alike when asked again"),
        );
        broken
    }

    /// The report, for people.
    pub(super) fn lines(&self) -> Vec<String> {
        let r = &self.requests;
        let mut lines = vec![
            "report".into(),
            format!("  calls       {} in all, {} failed for clients", r.total, r.client_failures),
            format!(
                "              {} by V1, {} by V2, {} failed over, {} mirrored",
                r.v1, r.v2, r.failed_over, r.shadowed
            ),
        ];
        for stage in &self.stages {
            let observed = Ppm::new(u32::try_from(stage.observed_share_ppm).unwrap_or(u32::MAX));
            let (share, sessions) = (stage.share_ppm.to_string(), stage.sessions);
            lines.push(format!(
                "  stage       {share:>5}: {observed} of {sessions} sessions on V2, {} calls",
                stage.requests
            ));
        }
        let c = self.comparisons;
        lines.push(format!(
            "  compared    {} same, {} ignored, {} different, {} incomparable",
            c.same, c.ignored, c.different, c.incomparable
        ));
        let b = &self.rollback;
        lines.push(format!("  rollback    by {}, {} ms after the fault", b.policy, b.detected_ms));
        for finding in &b.findings {
            lines.push(format!("              {}: {}", finding.rule, finding.note));
        }
        let last = b.last_v2_request_us;
        lines.push(format!("              last new call to V2 {last} us after the verdict"));
        let t = &self.throughput;
        lines.push(format!("  throughput  {:.2}x with {} workers", t.ratio, t.workers));
        lines.push(format!("  decisions   {} on record", self.decisions));
        let Replayed { calls, same } = self.replayed;
        lines.push(format!(
            "  replayed    {same} of {calls} questions to policies the same, byte for byte, fuel included"
        ));
        let broken = self.broken_promises();
        lines.push(if broken.is_empty() {
            "every promise was kept".into()
        } else {
            format!("BROKEN: {}", broken.join("; "))
        });
        lines
    }
}

impl StageSeen {
    /// Whether the observed share is what a binomial draw of that many sessions gives, within four standard deviations.
    fn is_within_four_sigma(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "counts of a demo")]
        let (sessions, observed) = (self.sessions as f64, self.observed_share_ppm as f64 / 1e6);
        let share = f64::from(self.share_ppm.get()) / 1e6;
        let sigma = (share * (1.0 - share) / sessions.max(1.0)).sqrt();
        (observed - share).abs() <= 4.0 * sigma
    }
}

/// The first twelve digits of a digest.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_summary_keeps_no_promise() {
        let broken = Summary::default().broken_promises().join("; ");
        for part in ["only 0 stages", "no policy was swapped", "no policy rolled back", "no decision"] {
            assert!(broken.contains(part), "{part} in {broken}");
        }
    }

    #[test]
    fn four_sigma_is_about_sessions() {
        let stage = |sessions, observed_share_ppm| StageSeen {
            share_ppm: Ppm::new(50_000),
            observed_share_ppm,
            requests: 1,
            sessions,
        };
        assert!(stage(400, 80_000).is_within_four_sigma());
        assert!(!stage(400, 100_000).is_within_four_sigma());
        assert!(!stage(40_000, 60_000).is_within_four_sigma());
    }
}
