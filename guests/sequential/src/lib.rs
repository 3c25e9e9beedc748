//! The rollback policy that weighs evidence: one false alarm in a hundred migrations at most, however often and however
//! long it is asked, over all metrics together.
//!
//! It compares V2 with V1 in the same seconds and for the same operation, so that neither drift nor an incident that
//! hits both looks like a fault of V2 ([`cutover_policy::hypergeometric`]); it bets on V2 being worse and says
//! `roll-back` when the bets have won 1/`alpha_rollback` times the stake ([`process`]); it bets on V2 being fine and
//! says `healthy` only when those have won 1/`beta` times the stake ([`safety`]). In between it says `hold` and how
//! much is missing.
//!
//! **Without V1**, at a share of 100 % or for operations that only V2 is called for, V2 is held against what V1 was
//! like by hour of the day, and against an objective ([`hours`]).
//!
//! **What both share.** A V2 that ruins a database that V1 uses makes both fail alike. So the rate of both together is
//! held against V1's from before, by an e-process of its own that says `warn`: the ramp stays where it is.
//!
//! **Stages.** All evidence begins anew with a stage. Safety, because a larger share is a new load. Evidence against
//! V2, because the host counts a session that keeps failing once per *stage*: shares may move under the test, but a V2
//! that has by chance got more such sessions would have them held against it in each stage, and kept evidence rolled
//! back 1.5 % of healthy ramps in a simulation. So that a ramp has one budget nevertheless, its first stage gets 90 %
//! of it, and the n-th after it 10 % / n(n+1): later stages have larger shares, where evidence comes fast. These add up
//! to 1, and so do the chances of a false alarm (a union bound, which needs no independence). The phase `shadow` has a
//! budget of its own, and a ramp that begins again has a new one, because V2 may have been repaired.

pub mod ailing;
mod budget;
pub mod counting;
pub mod dispersion;
mod facts;
pub mod hours;
pub mod latency;
pub mod operation;
pub mod outage;
pub mod process;
pub mod run;
pub mod safety;
pub mod sessions;
pub mod settings;
mod units;
mod unjudged;
mod verdict;
mod words;

use std::collections::BTreeMap;

use cutover_policy::{Batch, Check, Judgement, Phase, Policy, Problem, Rollback, Verdict};
use serde::{Deserialize, Serialize};

use crate::{
    counting::{Before, Counted, Timed},
    facts::Facts,
    operation::{Moment, Operation},
    process::{Entry, Fund, Game, Portfolio, Units, ln_binomial},
    safety::{Limits, Safety},
    settings::{Settings, part},
};

/// See the module.
#[derive(Debug)]
pub struct Sequential {
    settings: Settings,
    /// One for each metric.
    games: [Game; METRICS],
    /// The part of the evidence that each makes up; what is left of 1 is never bet.
    weights: [f64; METRICS],
    /// On the rate of both pools together.
    combined: Game,
    limits: Limits,
    /// What statistics that only warn must have won.
    warns_at: f64,
}

/// `errors`, `statuses`, `slow`, `p99` and `failures`, in this order everywhere.
const METRICS: usize = 5;

/// Operations that are remembered by themselves; later ones are judged beside V1 only. It bounds memory.
const MOST_OPERATIONS: usize = 256;

/// What the policy remembers.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    facts: Facts,
    /// Evidence against V2, one for each metric.
    against: [Portfolio; METRICS],
    /// Evidence that V2 has fewer of some statuses than V1.
    fewer: Portfolio,
    /// Evidence that both together fail more than V1 did.
    combined: Fund,
    /// Evidence for V2.
    safety: Safety,
    /// What is known of V1 by operation.
    operations: BTreeMap<String, Operation>,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            facts: Facts::default(),
            against: Default::default(),
            fewer: Portfolio::default(),
            combined: Fund::of(1.0),
            safety: Safety::default(),
            operations: BTreeMap::new(),
        }
    }
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
        let one = cutover_policy::settings::Ratio(1_000_000);
        let games = [
            s.game(s.max_error_odds, s.max_error_step),
            s.game(s.max_status_odds, s.max_status_step),
            s.game(s.max_slow_odds, s.max_slow_step),
            s.game(one, s.max_slow_step),
            s.game(s.max_failure_odds, s.max_error_step),
        ];
        let weights = s.weights().map(part);
        let limits = s.limits();
        let warns_at = 1.0 / part(s.alpha_warn);
        // It is to be over soon after the incident is.
        let combined = Game { most: 100.0 * warns_at, ..s.game(one, s.max_error_step) };
        Ok(Self { settings, games, weights, combined, limits, warns_at })
    }
}

impl Rollback for Sequential {
    type Memory = Memory;

    fn judge(&self, check: &Check, memory: &mut Memory) -> Result<Judgement, String> {
        match check.phase {
            Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Paused => {}
            Phase::Preparing | Phase::Decommissioned | Phase::RolledBack => return Ok(Verdict::Hold.into()),
        }
        memory.arrive(check, self.warns_at);
        let mirrored = check.phase == Phase::Shadow;
        // Batches that began before the stage mix shares.
        let batches: Vec<&Batch> = check.batches.iter().filter(|b| b.start_ms >= check.stage_started_ms).collect();
        for span in counting::spans(&batches) {
            let at = Moment::of(check, span.first().map_or(0, |first| first.start_ms));
            self.count(&span, mirrored, at, memory);
        }
        Ok(self.verdict(memory, mirrored))
    }
}

impl Sequential {
    /// Adds what happened within a few seconds. Latencies count once V2 is warm.
    fn count(&self, span: &[&Batch], mirrored: bool, at: Moment, memory: &mut Memory) {
        let settings = &self.settings;
        let ill = memory.combined.wealth() >= self.warns_at;
        let known = memory.operations.iter_mut().map(|(name, operation)| {
            let before = operation.before(settings, at, ill);
            if let Some(limits) = before.limits {
                operation.keep_p99(limits.p99_us);
            }
            (name.as_str(), before)
        });
        let before: BTreeMap<&str, Before> = known.collect();
        let mut counted = counting::count(span, mirrored, &before);
        if at.start_ms.saturating_sub(at.stage_started_ms) < settings.warm_up.0 {
            (counted.slow, counted.p99, counted.timed) = Default::default();
        }
        let clusters = memory.facts.clusters[0].index();
        for batch in span {
            memory.facts.outage.add(batch, mirrored, clusters);
        }
        if !mirrored {
            memory.facts.ailing.add(span);
        }
        self.bet(&counted, span, mirrored, memory);
        for Entry { units, .. } in &counted.errors {
            if let Units::Beside(table) = units {
                memory.safety.compare(&self.limits, table);
            }
        }
        memory.safety.count(&self.limits, span, mirrored);
        memory.learn(span, settings, at, self.warns_at);
        for Timed { name, unjudged, judged } in &counted.timed {
            if let Some(operation) = memory.operations.get_mut(name) {
                operation.count_timed(*unjudged, *judged);
            }
        }
    }

    /// All that is bet against V2. `doubts` are the metrics of which the span alone would be a reason to warn.
    fn bet(&self, counted: &Counted, span: &[&Batch], mirrored: bool, memory: &mut Memory) {
        let start_ms = span.first().map_or(0, |first| first.start_ms);
        let Memory { facts, against, fewer, combined, operations, .. } = memory;
        let sessions = facts.sessions.add(span, crate::settings::times(self.settings.calls_per_session));
        let of_calls = if mirrored { 1.0 } else { sessions };
        let metrics = [&counted.errors, &counted.statuses, &counted.slow, &counted.p99, &counted.failures];
        let tempered = [1.0, 1.0, of_calls, of_calls, 1.0];
        let both = if mirrored { None } else { Some(self.combine(&counted.errors, operations)) };
        if let Some((entries, ratios)) = both {
            let power = process::power(&facts.clusters[0]);
            facts.ill = self.bet_on_both(&entries, &ratios, power, combined, start_ms);
        }
        let swapped = process::power(&facts.clusters[1]);
        facts.differs = fewer.play(&self.games[1], &counted.fewer, swapped, start_ms) >= self.warns_at;
        facts.doubts = 0;
        for (metric, (portfolio, game)) in against.iter_mut().zip(&self.games).enumerate() {
            let (Some(entries), Some(clusters)) = (metrics.get(metric), facts.clusters.get_mut(metric)) else {
                continue;
            };
            let power = tempered.get(metric).copied().unwrap_or(1.0).min(process::power(clusters));
            if portfolio.play(game, entries, power, start_ms) >= self.warns_at {
                facts.doubts |= 1 << metric;
            }
            clusters.add_entries(entries);
        }
    }

    /// Units of both pools, and the logarithms of the likelihood ratios of each effect, over the operations that V1 is
    /// called for.
    fn combine(&self, errors: &[Entry], operations: &BTreeMap<String, Operation>) -> ((u64, u64, f64), Vec<f64>) {
        let unknown = Operation::default();
        let (mut units, mut bad, mut expected) = (0_u64, 0_u64, 0.0);
        let mut ratios = vec![0.0; self.combined.effects.len()];
        for Entry { name, units: of_both } in errors {
            let Units::Beside(table) = of_both else { continue };
            let operation = operations.get(name).unwrap_or(&unknown);
            let rate = operation.good_enough(&self.settings);
            let (n, x) = (table.n1.saturating_add(table.n2), table.bad());
            if table.n1 > 0 && n > 0 {
                units = units.saturating_add(n);
                bad = bad.saturating_add(x);
                expected += cutover_policy::hypergeometric::real(n) * rate;
                for (sum, (effect, _)) in ratios.iter_mut().zip(&self.combined.effects) {
                    *sum += ln_binomial(n, x, rate, *effect);
                }
            }
        }
        ((units, bad, expected), ratios)
    }

    /// Whether this span alone would be a reason to warn of both.
    fn bet_on_both(
        &self,
        &(n2, x2, expected): &(u64, u64, f64),
        ratios: &[f64],
        power: f64,
        combined: &mut Fund,
        start_ms: u64,
    ) -> bool {
        if n2 == 0 {
            return false;
        }
        let ratios: Vec<f64> = ratios.iter().map(|ratio| ratio * power).collect();
        combined.count(&run::Run { n2, x2, ..run::Run::default() }, expected, start_ms);
        combined.play(&self.combined, &ratios);
        let effects = ratios.iter().zip(&self.combined.effects);
        effects.map(|(ratio, (_, part))| part * libm::exp(ratio.min(process::MOST_LN))).sum::<f64>() >= self.warns_at
    }
}

impl Memory {
    /// Keeps what still counts where the migration stands now.
    fn arrive(&mut self, check: &Check, warns_at: f64) {
        if !self.facts.arrive(check) {
            return;
        }
        let ill = self.combined.wealth() >= warns_at;
        for operation in self.operations.values_mut() {
            operation.end_stage(check.stage_started_ms, ill);
        }
        (self.against, self.fewer, self.safety) = Default::default();
        self.combined = Fund::of(1.0);
    }

    /// Adds what V1 was like, for what comes after.
    fn learn(&mut self, span: &[&Batch], settings: &Settings, at: Moment, warns_at: f64) {
        let ill = self.combined.wealth() >= warns_at;
        let all = || span.iter().flat_map(|batch| &batch.operations);
        for calls in all() {
            if !self.operations.contains_key(&calls.operation) && self.operations.len() < MOST_OPERATIONS {
                self.operations.insert(calls.operation.clone(), Operation::default());
            }
            if let Some(operation) = self.operations.get_mut(&calls.operation) {
                operation.add(at.start_ms, calls, settings, ill);
            }
        }
        for calls in all() {
            if let Some(operation) = self.operations.get_mut(&calls.operation) {
                operation.learn(at, calls);
            }
        }
        self.operations.values_mut().for_each(|operation| operation.end_span(at));
    }
}

cutover_policy::export!(Sequential: rollback);

#[cfg(test)]
mod reference;
#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;
