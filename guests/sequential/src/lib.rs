//! The rollback policy that weighs evidence: one false alarm in a hundred migrations at most, however often and however
//! long it is asked, over all metrics together.
//!
//! It compares V2 with V1 in the same seconds and for the same operation, so that neither drift nor an incident that hits
//! both looks like a fault of V2 ([`hypergeometric`]); it bets on V2 being worse and says `roll-back` when the bets have
//! won 1/`alpha_rollback` times the stake ([`process`]); it bets on V2 being fine and says `healthy` only when those have won
//! 1/`beta` times the stake ([`safety`]). In between it says `hold` and how much is missing.
//!
//! Evidence against V2 is kept through the stages of a ramp: each table is judged given its own units, so shares may move, and
//! a fault that is small at 5 % adds up. It begins anew in the phase `shadow` and when a ramp begins, because V2 may
//! have been repaired. Evidence of safety begins anew with each stage, because a larger share is a new load.
//! The host counts a session that keeps failing once per *stage*, so the few that do count again in the next; that is
//! the one way in which tables are not independent, and the simulations in the tests bound what it costs.
//!
//! It is blind to what hits both pools alike, such as a V2 that ruins a database that V1 uses, and to memory; and it sees latency
//! call by call, so a handful of sessions whose calls are all slow look like more evidence than they are.

pub mod counting;
pub mod hypergeometric;
pub mod latency;
pub mod outage;
pub mod process;
pub mod run;
pub mod safety;
pub mod settings;
mod words;

use std::collections::BTreeMap;

use cutover_policy::{Batch, Check, Judgement, Phase, Policy, Problem, Rollback, Verdict};
use serde::{Deserialize, Serialize};

use crate::latency::Baseline;
use crate::outage::Outage;
use crate::process::{Game, Moment, Portfolio};
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
    /// Whether a table was counted in this stage.
    begun: bool,
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
        let moment = Moment { start_ms: first.start_ms, begins_stage: !memory.begun };
        memory.begun = true;
        for (_, table) in &counted.errors {
            memory.safety.play(&self.limits, table);
        }
        let metrics = [counted.errors, counted.slow, counted.p99, counted.failures];
        for ((portfolio, game), tables) in memory.against.iter_mut().zip(&self.games).zip(&metrics) {
            portfolio.play(game, tables, moment);
        }
        for batch in span {
            memory.outage.add(batch, mirrored);
        }
        memory.learn(span, self.settings.slow_window.0);
    }

    /// The weighted mean of the metrics' evidence; what is not weighted is never bet. A mean of e-processes is one, however
    /// they depend on each other.
    fn evidence(&self, memory: &Memory) -> f64 {
        let idle = 1.0 - self.weights.iter().sum::<f64>();
        let parts = memory.against.iter().zip(self.weights).map(|(portfolio, weight)| weight * portfolio.wealth());
        parts.fold(idle.max(0.0), |sum, part| sum + part)
    }

    fn verdict(&self, memory: &Memory, mirrored: bool) -> Judgement {
        let settings = &self.settings;
        let evidence = self.evidence(memory);
        let outage = memory.outage.is_total(settings).then(|| words::outage(settings, memory.outage));
        let verdict = if outage.is_some() || evidence >= 1.0 / part(settings.alpha_rollback) {
            Verdict::RollBack
        } else if evidence >= 1.0 / part(settings.alpha_warn) {
            Verdict::Warn
        } else if memory.safety.need(&self.limits).is_some() {
            Verdict::Hold
        } else {
            Verdict::Healthy
        };
        let mut findings: Vec<_> = outage.into_iter().collect();
        if evidence >= 1.0 / part(settings.alpha_warn) {
            let weighted = memory.against.each_ref().map(Portfolio::wealth);
            let main = |&metric: &usize| {
                let part = weighted.get(metric).zip(self.weights.get(metric)).map_or(0.0, |(e, w)| e * w);
                part * 10.0 >= evidence
            };
            let suspects = (0..METRICS).filter(main);
            findings.extend(suspects.filter_map(|metric| {
                let portfolio = memory.against.get(metric)?;
                words::suspect(settings, metric, portfolio, mirrored)
            }));
        } else if let Some(need) = memory.safety.need(&self.limits) {
            findings.push(words::need(need, mirrored));
        }
        Judgement { verdict, findings, evidence: millionths(libm::log10(evidence.max(f64::MIN_POSITIVE))) }
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
        let begins_ramp = check.phase == Phase::Ramping && check.stage == 0;
        if begins_ramp || self.place.is_none_or(|before| before.mirrored != mirrored) || mirrored {
            self.against = Default::default();
        }
        (self.place, self.begun) = (Some(place), false);
        (self.safety, self.outage) = Default::default();
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
