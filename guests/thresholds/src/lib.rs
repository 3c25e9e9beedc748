//! The rollback policy that ships for those who want limits that they know: fixed ones on V2's errors, latency, workers and
//! memory.
//!
//! Simple on purpose: it holds the last minute against limits, and against V1's last minute. A limit counts only with
//! enough calls and sessions behind it, for several checks in a row, and where V1 is not in the same trouble. What it
//! refuses to do is weigh evidence over hours: a policy that does finds smaller faults, and costs more words to explain.

pub mod growth;
pub mod members;
pub mod rules;
pub mod settings;
pub mod statuses;
pub mod window;

use cutover_policy::{Batch, Check, Judgement, Phase, Policy, Problem, Rollback, Verdict, finding};
use serde::{Deserialize, Serialize};

use crate::{
    growth::{Plan, Samples},
    members::Members,
    rules::{Facts, Findings},
    settings::Settings,
    statuses::{Enough, Statuses},
    window::{Reach, Window},
};

/// A check of fewer calls than this part of `min_requests` that shows no trouble says neither yes nor no: at ten calls, one
/// that fails three in a hundred mostly shows none.
const TELLING: u64 = 4;

/// See the module.
#[derive(Debug)]
pub struct Thresholds(Settings);

/// What the policy remembers. That of versions before has other fields, and is forgotten.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Calls.
    calls: Window,
    /// Failures of workers.
    members: Members,
    /// Resident memory of workers.
    sizes: Samples,
    /// V1's p99 in microseconds when it had enough calls last.
    v1_p99_us: Option<u64>,
    /// Answers by class of status.
    statuses: Statuses,
    /// Checks in a row in which a rule asked for a roll-back.
    asking: u32,
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
        let reach = Reach {
            span_ms: settings.window.0,
            longest_ms: settings.longest_window.0.max(settings.window.0),
            enough: settings.min_requests,
        };
        let moved = memory.calls.slide(check, reach);
        if moved.begun {
            memory.asking = 0;
        }
        memory.members.add(&check.batches, check.now_ms, settings.failures_window.0);
        let plan = Plan { warm_up_ms: settings.memory_warm_up.0, span_ms: settings.memory_span.0 };
        memory.sizes.add(check, plan, moved.begun);
        memory.statuses.add(check, moved.begun, settings.min_requests);
        let mirrored = check.phase == Phase::Shadow;
        let window = memory.calls.totals();
        if window.v1.requests >= settings.min_requests {
            memory.v1_p99_us = rules::p99_us(&window.v1);
        }
        let facts = Facts {
            window,
            latest: moved.latest,
            run: memory.calls.run(),
            sessions: memory.calls.sessions(),
            mirrored,
            stage_age_ms: check.now_ms.saturating_sub(check.stage_started_ms),
            v1_p99_us: memory.v1_p99_us,
            statuses: memory.statuses.moved(
                mirrored,
                Enough {
                    calls: settings.min_requests,
                    sessions: settings.min_failed_sessions,
                    change_ppm: settings.warn_status_change.0.into(),
                },
            ),
            failures: memory.members.failures(),
            growth: memory.sizes.growth(),
            cpu_ppm: latest(&check.batches, "host.cpu-ppm"),
            memory_ppm: latest(&check.batches, "host.memory-ppm"),
        };
        let said = rules::ask(settings, &facts);
        if !said.roll_back.is_empty() {
            memory.asking = memory.asking.saturating_add(1);
        } else if !said.is_over || facts.latest.v2.requests >= settings.min_requests.div_ceil(TELLING) {
            memory.asking = 0;
        }
        Ok(self.verdict(said, memory.asking))
    }
}

impl Thresholds {
    fn verdict(&self, said: Findings, asking: u32) -> Judgement {
        let Findings { at_once, roll_back, warn, hold, notice, .. } = said;
        let patience = self.0.consecutive;
        let waits = !roll_back.is_empty() && asking < patience;
        let verdict = if !at_once.is_empty() || (!roll_back.is_empty() && !waits) {
            Verdict::RollBack
        } else if !roll_back.is_empty() || !warn.is_empty() {
            Verdict::Warn
        } else if !hold.is_empty() {
            Verdict::Hold
        } else {
            Verdict::Healthy
        };
        let wait = waits.then(|| {
            let note = format!("{asking} of {patience} checks in a row ask for a roll-back");
            finding("consecutive", asking.into(), patience.into(), "count", note)
        });
        let findings = [at_once, roll_back, warn, hold, notice].into_iter().flatten().chain(wait).collect();
        Judgement { verdict, findings, evidence: 0 }
    }
}

/// The latest value of a gauge; a negative one counts as 0.
fn latest(batches: &[Batch], name: &str) -> Option<u64> {
    let value = batches.iter().rev().find_map(|batch| batch.gauge(name))?;
    Some(u64::try_from(value).unwrap_or(0))
}

cutover_policy::export!(Thresholds: rollback);

#[cfg(test)]
mod tests;
