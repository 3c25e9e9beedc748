//! The rollback policy that ships: fixed limits on V2's errors, latency, workers and memory, as on-call people know
//! them.
//!
//! Simple on purpose. It looks at calls, not at sessions, and asks the same question at each check, so it sometimes
//! rolls back a V2 that is as good as V1; a policy that weighs evidence does not, and costs more words to explain.

pub mod growth;
pub mod rules;
pub mod settings;
pub mod window;

use cutover_policy::{Batch, Check, Judgement, Policy, Problem, Rollback, Verdict, finding};
use serde::{Deserialize, Serialize};

use crate::growth::Samples;
use crate::rules::{Facts, Findings};
use crate::settings::Settings;
use crate::window::Window;

/// See the module.
#[derive(Debug)]
pub struct Thresholds(Settings);

/// What the policy remembers.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Calls and worker failures.
    window: Window,
    /// Resident memory of V2's workers.
    rss: Samples,
    /// Checks in a row in which a rule asked for a roll-back.
    in_a_row: u32,
}

impl Policy for Thresholds {
    type Settings = Settings;
    const NAME: &'static str = "thresholds";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "fixed limits on V2's errors, latency, workers and memory";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = settings.problems();
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl Rollback for Thresholds {
    type Memory = Memory;

    fn judge(&self, check: &Check, memory: &mut Memory) -> Result<Judgement, String> {
        let settings = &self.0;
        if memory.window.slide(check, settings.window.0) {
            memory.in_a_row = 0;
        }
        memory.rss.add(&check.batches, settings.memory_span.0);
        let facts = Facts {
            totals: memory.window.totals(),
            growth_ppm: memory.rss.growth_ppm(),
            cpu_ppm: latest(&check.batches, "host.cpu-ppm"),
            memory_ppm: latest(&check.batches, "host.memory-ppm"),
        };
        let said = rules::ask(settings, &facts);
        memory.in_a_row = if said.roll_back.is_empty() { 0 } else { memory.in_a_row.saturating_add(1) };
        Ok(self.verdict(said, memory.in_a_row))
    }
}

impl Thresholds {
    fn verdict(&self, said: Findings, in_a_row: u32) -> Judgement {
        let Findings { roll_back, warn, hold } = said;
        let patience = self.0.consecutive;
        let waits = !roll_back.is_empty() && in_a_row < patience;
        let verdict = match (roll_back.is_empty(), warn.is_empty(), hold.is_empty()) {
            (false, _, _) if !waits => Verdict::RollBack,
            (false, _, _) | (_, false, _) => Verdict::Warn,
            (true, true, false) => Verdict::Hold,
            (true, true, true) => Verdict::Healthy,
        };
        let wait = waits.then(|| {
            let note = format!("{in_a_row} of {patience} checks in a row ask for a roll-back");
            finding("consecutive", in_a_row.into(), patience.into(), "count", note)
        });
        Judgement {
            verdict,
            findings: [roll_back, warn, hold].into_iter().flatten().chain(wait).collect(),
            evidence: 0,
        }
    }
}

/// The latest value of a gauge; a negative one counts as 0.
fn latest(batches: &[Batch], name: &str) -> Option<u64> {
    let gauge = batches.iter().rev().find_map(|batch| batch.gauges.iter().find(|gauge| gauge.name == name))?;
    Some(u64::try_from(gauge.value).unwrap_or(0))
}

cutover_policy::export!(Thresholds: rollback);

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};
    use cutover_policy::{Gauge, Phase};

    use super::*;

    fn policy(json: &str) -> Thresholds {
        Thresholds::configure(serde_json::from_str(json).unwrap()).unwrap()
    }

    /// A second in which V1 answers 1000 calls and V2 as told.
    fn served(start_ms: u64, requests: u64, errors: u64) -> Batch {
        let mut batch = batch(start_ms);
        batch.operations.push(operation("execute"));
        batch.operations[0].v1 = calls(1_000, 10, 50_000);
        batch.operations[0].v2 = calls(requests, errors, 50_000);
        batch
    }

    fn check(now_ms: u64, batches: Vec<Batch>) -> Check {
        Check { now_ms, phase: Phase::Ramping, stage: 1, share: 100_000, stage_started_ms: 0, batches }
    }

    fn judge(policy: &Thresholds, batches: Vec<Batch>, memory: &mut Memory) -> (Verdict, Vec<String>) {
        let now = batches.last().map_or(0, |b| b.start_ms + 1_000);
        let judgement = policy.judge(&check(now, batches), memory).unwrap();
        assert_eq!(judgement.evidence, 0);
        (judgement.verdict, judgement.findings.into_iter().map(|f| f.rule).collect())
    }

    fn once(batch: Batch) -> (Verdict, Vec<String>) {
        judge(&policy("{}"), vec![batch], &mut Memory::default())
    }

    #[test]
    fn verdict_is_that_of_the_gravest_rule() {
        assert_eq!(once(served(0, 1_000, 10)), (Verdict::Healthy, vec![]));
        assert_eq!(once(served(0, 1_000, 25)), (Verdict::Warn, vec!["v2-degradation".into()]));
        assert_eq!(once(served(0, 1_000, 200)).0, Verdict::RollBack);
        assert_eq!(once(served(0, 50, 50)), (Verdict::Hold, vec!["too-little-data".into()]));
        assert_eq!(once(batch(0)), (Verdict::Hold, vec!["too-little-data".into()]));
    }

    #[test]
    fn no_batches_are_never_healthy() {
        assert_eq!(judge(&policy("{}"), Vec::new(), &mut Memory::default()).0, Verdict::Hold);
    }

    #[test]
    fn calls_of_several_checks_add_up() {
        let (policy, mut memory) = (policy("{}"), Memory::default());
        assert_eq!(judge(&policy, vec![served(0, 60, 0)], &mut memory).0, Verdict::Hold);
        assert_eq!(judge(&policy, vec![served(1_000, 60, 0)], &mut memory).0, Verdict::Healthy);
        assert_eq!(judge(&policy, vec![served(200_000, 60, 0)], &mut memory).0, Verdict::Hold);
    }

    #[test]
    fn patience_warns_until_checks_in_a_row_agree() {
        let (policy, mut memory) = (policy(r#"{ "consecutive": 2, "window": "1s" }"#), Memory::default());
        let mut at = |second: u64, errors| judge(&policy, vec![served(second * 5_000, 1_000, errors)], &mut memory);
        let (verdict, rules) = at(0, 200);
        assert_eq!((verdict, rules.last().map(String::as_str)), (Verdict::Warn, Some("consecutive")));
        assert_eq!(at(1, 0).0, Verdict::Healthy);
        assert_eq!(at(2, 200).0, Verdict::Warn);
        assert_eq!(at(3, 200).0, Verdict::RollBack);
    }

    #[test]
    fn host_is_judged_by_its_latest_gauges() {
        let with = |start, cpu| {
            let mut batch = served(start, 1_000, 10);
            batch.gauges = vec![Gauge { name: "host.cpu-ppm".into(), value: cpu }];
            batch
        };
        let at = |batches| judge(&policy("{}"), batches, &mut Memory::default());
        assert_eq!(at(vec![with(0, 990_000), with(1_000, 500_000)]).0, Verdict::Healthy);
        let expected = (Verdict::Warn, vec!["host-cpu".into()]);
        assert_eq!(at(vec![with(0, 500_000), with(1_000, 990_000), served(2_000, 1_000, 10)]), expected);
    }

    #[test]
    fn memory_growth_survives_a_change_of_stage() {
        let (policy, mut memory) = (policy("{}"), Memory::default());
        let mut verdicts = Vec::new();
        for minute in 0..=10 {
            let mut batch = served(minute * 60_000, 1_000, 10);
            (batch.v2.wanted, batch.v2.ready, batch.v2.rss_bytes) = (1, 1, (100 + minute) << 20);
            let stage = u32::from(minute > 5);
            let check = Check {
                stage,
                stage_started_ms: u64::from(stage) * 330_000,
                ..check(batch.start_ms + 1_000, vec![batch])
            };
            verdicts.push(policy.judge(&check, &mut memory).unwrap());
        }
        assert!(verdicts[..10].iter().all(|j| j.verdict == Verdict::Healthy));
        assert_eq!(verdicts[10].findings[0].rule, "v2-memory-growth");
    }

    #[test]
    fn an_hour_of_memory_is_small() {
        let (policy, mut memory) = (policy("{}"), Memory::default());
        for second in 0..3_600 {
            let mut batch = served(second * 1_000, 100, 1);
            (batch.v2.ready, batch.v2.rss_bytes) = (4, 400 << 20);
            judge(&policy, vec![batch], &mut memory);
        }
        let bytes = serde_json::to_vec(&memory).unwrap().len();
        assert!(bytes < 16_384, "{bytes} bytes");
    }
}
