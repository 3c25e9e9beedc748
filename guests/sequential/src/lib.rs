//! The rollback policy that weighs evidence: one false alarm in a hundred migrations at most, however often and however
//! long it is asked, over all metrics together.
//!
//! It compares V2 with V1 in the same seconds and for the same operation, so that neither drift nor an incident that
//! hits both looks like a fault of V2 ([`cutover_policy::hypergeometric`]); it bets on V2 being worse and says `roll-back` when the
//! bets have won 1/`alpha_rollback` times the stake ([`process`]); it bets on V2 being fine and says `healthy` only
//! when those have won 1/`beta` times the stake ([`safety`]). In between it says `hold` and how much is missing.
//!
//! **Stages.** All evidence begins anew with a stage. Safety, because a larger share is a new load. Evidence against
//! V2, because the host counts a session that keeps failing once per *stage*: shares may move under the test, but a V2
//! that has by chance got more such sessions would have them held against it in each stage, and kept evidence rolled
//! back 1.5 % of healthy ramps in a simulation. So that a ramp has one budget nevertheless, its first stage gets 70 %
//! of it, and the n-th after it 30 % / n(n+1): later stages have larger shares, where evidence comes fast. These add up
//! to 1, and so do the chances of a false alarm (a union bound, which needs no independence). The phase `shadow` has a
//! budget of its own, and a ramp that begins again has a new one, because V2 may have been repaired.
//!
//! It is blind to what hits both pools alike, such as a V2 that ruins a database that V1 uses, and to memory; and it
//! sees latency call by call, so a handful of sessions whose calls are all slow look like more evidence than they are.

pub mod counting;
pub mod latency;
pub mod outage;
pub mod process;
pub mod run;
pub mod safety;
pub mod settings;
mod words;

use std::collections::BTreeMap;

use cutover_policy::{Batch, Check, Finding, Judgement, Phase, Policy, Problem, Rollback, Verdict};
use serde::{Deserialize, Serialize};

use crate::latency::Baseline;
use crate::outage::Outage;
use crate::process::{Game, Portfolio};
use crate::safety::{Limits, Safety};
use crate::settings::{Settings, part};

/// See the module.
#[derive(Debug)]
pub struct Sequential {
    settings: Settings,
    /// One for each metric.
    games: [Game; METRICS],
    /// The part of the evidence that each makes up; what is left of 1 is never bet.
    weights: [f64; METRICS],
    limits: Limits,
}

/// `errors`, `slow`, `p99` and `failures`, in this order everywhere.
const METRICS: usize = 4;

/// The part of the budget that a ramp's first stage has: its share is the smallest, so it is where evidence is scarce.
const FIRST_STAGE: f64 = 0.7;

/// What the policy remembers.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    place: Option<Place>,
    /// Evidence against V2, one for each metric.
    against: [Portfolio; METRICS],
    /// Evidence for it.
    safety: Safety,
    outage: Outage,
    /// V1's latencies by operation.
    baselines: BTreeMap<String, Baseline>,
    /// Stages of this ramp before this one.
    stages: u32,
}

/// What tells one stage from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    mirrored: bool,
    stage: u32,
    started_ms: u64,
}

impl Policy for Sequential {
    type Settings = Settings;
    const NAME: &'static str = "sequential";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "weighs evidence for and against V2, valid however often and long it is asked";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = settings.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let s = &settings;
        let games = [
            s.game(s.max_error_odds, s.max_error_step),
            s.game(s.max_slow_odds, s.max_slow_step),
            s.game(cutover_policy::settings::Ratio(1_000_000), s.max_slow_step),
            s.game(s.max_failure_odds, s.max_error_step),
        ];
        let weights = [s.weight_errors, s.weight_slow, s.weight_p99, s.weight_failures].map(part);
        let limits = s.limits();
        Ok(Self { settings, games, weights, limits })
    }
}

impl Rollback for Sequential {
    type Memory = Memory;

    fn judge(&self, check: &Check, memory: &mut Memory) -> Result<Judgement, String> {
        match check.phase {
            Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Paused => {}
            Phase::Preparing | Phase::Decommissioned | Phase::RolledBack => return Ok(Verdict::Hold.into()),
        }
        memory.arrive(check);
        let mirrored = check.phase == Phase::Shadow;
        // Batches that began before the stage mix shares.
        let batches: Vec<&Batch> = check.batches.iter().filter(|b| b.start_ms >= check.stage_started_ms).collect();
        for span in counting::spans(&batches) {
            self.count(&span, mirrored, memory);
        }
        Ok(self.verdict(memory, mirrored))
    }
}

impl Sequential {
    fn count(&self, span: &[&Batch], mirrored: bool, memory: &mut Memory) {
        let Some(first) = span.first() else { return };
        let floor_us = self.settings.slow_floor.0.saturating_mul(1_000);
        let ratio_ppm = self.settings.max_p99_ratio.0;
        let known = memory.baselines.iter();
        let limits = known.filter_map(|(name, b)| Some((name.as_str(), b.limits(ratio_ppm, floor_us)?))).collect();
        let counted = counting::count(span, mirrored, &limits);
        for (_, table) in &counted.errors {
            memory.safety.play(&self.limits, table);
        }
        let metrics = [counted.errors, counted.slow, counted.p99, counted.failures];
        for ((portfolio, game), tables) in memory.against.iter_mut().zip(&self.games).zip(&metrics) {
            portfolio.play(game, tables, first.start_ms);
        }
        for batch in span {
            memory.outage.add(batch, mirrored);
        }
        memory.learn(span, self.settings.slow_window.0);
    }

    /// The weighted mean of the metrics' evidence, times the stage's part of the budget; what is not weighted is never
    /// bet. A mean of e-processes is one, however they depend on each other.
    fn evidence(&self, memory: &Memory) -> f64 {
        let idle = 1.0 - self.weights.iter().sum::<f64>();
        let parts = memory.against.iter().zip(self.weights).map(|(portfolio, weight)| weight * portfolio.wealth());
        parts.fold(idle.max(0.0), |sum, part| sum + part) * budget(memory.stages)
    }

    fn verdict(&self, memory: &Memory, mirrored: bool) -> Judgement {
        let settings = &self.settings;
        let evidence = self.evidence(memory);
        let outage = memory.outage.is_total(settings).then(|| words::outage(settings, memory.outage));
        let need = memory.safety.need(&self.limits);
        let suspicious = evidence >= 1.0 / part(settings.alpha_warn);
        let verdict = if outage.is_some() || evidence >= 1.0 / part(settings.alpha_rollback) {
            Verdict::RollBack
        } else if suspicious {
            Verdict::Warn
        } else if need.is_some() {
            Verdict::Hold
        } else {
            Verdict::Healthy
        };
        let mut findings: Vec<_> = outage.into_iter().collect();
        if suspicious {
            findings.extend(self.suspects(memory, mirrored));
        } else if verdict == Verdict::Hold {
            findings.extend(need.map(|need| words::need(need, mirrored)));
        }
        Judgement { verdict, findings, evidence: millionths(libm::log10(evidence.max(f64::MIN_POSITIVE))) }
    }

    /// The metrics that make up a tenth of the evidence or more, the gravest first.
    fn suspects(&self, memory: &Memory, mirrored: bool) -> Vec<Finding> {
        let parts = memory.against.iter().zip(self.weights).map(|(portfolio, weight)| weight * portfolio.wealth());
        let mut suspects: Vec<_> = parts.zip(&memory.against).enumerate().collect();
        suspects.sort_by(|(_, (a, _)), (_, (b, _))| b.total_cmp(a));
        let gravest = suspects.first().map_or(0.0, |(_, (part, _))| *part);
        let main = suspects.into_iter().filter(|(_, (part, _))| part * 10.0 >= gravest);
        main.filter_map(|(metric, (_, portfolio))| words::suspect(&self.settings, metric, portfolio, mirrored))
            .collect()
    }
}

impl Memory {
    /// Keeps what still counts where the migration stands now.
    fn arrive(&mut self, check: &Check) {
        let mirrored = check.phase == Phase::Shadow;
        let place = Place { mirrored, stage: check.stage, started_ms: check.stage_started_ms };
        if self.place == Some(place) {
            return;
        }
        let begins = check.phase == Phase::Ramping && check.stage == 0;
        let goes_on = !mirrored && !begins && self.place.is_some_and(|before| !before.mirrored);
        self.stages = if goes_on { self.stages.saturating_add(1) } else { 0 };
        self.place = Some(place);
        (self.against, self.safety, self.outage) = Default::default();
    }

    /// Adds V1's latencies, for what comes after.
    fn learn(&mut self, span: &[&Batch], window_ms: u64) {
        for batch in span {
            for calls in &batch.operations {
                match self.baselines.get_mut(&calls.operation) {
                    Some(baseline) => baseline.add(&calls.v1, batch.start_ms, window_ms),
                    None if calls.v1.latency.is_empty() => {}
                    None => {
                        let mut baseline = Baseline::default();
                        baseline.add(&calls.v1, batch.start_ms, window_ms);
                        self.baselines.insert(calls.operation.clone(), baseline);
                    }
                }
            }
        }
        self.baselines.retain(|_, baseline| !baseline.is_empty());
    }
}

/// The part of a ramp's budget that its n-th stage has.
fn budget(stage: u32) -> f64 {
    let n = f64::from(stage);
    if stage == 0 { FIRST_STAGE } else { (1.0 - FIRST_STAGE) / (n * (n + 1.0)) }
}

/// For the host, which takes integers.
#[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and logarithms of doubles are below 400")]
fn millionths(value: f64) -> i64 {
    libm::round(value * 1e6) as i64
}

cutover_policy::export!(Sequential: rollback);

#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;
