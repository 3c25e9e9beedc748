//! What is tolerated, how sure the judge must be, and what is wrong with a set of these.

use cutover_policy::{
    Problem, problem,
    settings::{Ratio, Share, Span},
    share,
};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{METRICS, process::Game, safety::Limits};

/// What a bell leaves far from its middle, so that there is something everywhere.
const LEAST_WEIGHT: f64 = 1e-6;

const ONE: Ratio = Ratio(share::MILLION);

/// All have defaults. "Odds" are those of a unit to be bad: nearly its rate, as long as that is small.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The probability with which a V2 that is good enough is ever rolled back, over all metrics and checks of a ramp.
    pub alpha_rollback: Share,
    /// The same for being warned of.
    pub alpha_warn: Share,
    /// V2's odds of a failed session over V1's that are still good enough. At least 1.
    pub max_error_odds: Ratio,
    /// V2's odds of a status of 3xx or 4xx over V1's, or V1's over V2's, that are no difference. At least 1.
    pub max_status_odds: Ratio,
    /// V2's odds of a call slower than V1's p99, over V1's, that are still good enough. At least 1.
    pub max_slow_odds: Ratio,
    /// V2's p99 over V1's that is still good enough. At least 1.
    pub max_p99_ratio: Ratio,
    /// V2's failures of workers per ready worker and second, over V1's, that are still good enough. At least 1.
    pub max_failure_odds: Ratio,
    /// The part of the evidence that errors make up.
    pub weight_errors: Share,
    /// The part that sessions with other statuses make up.
    pub weight_statuses: Share,
    /// The part that calls slower than V1's p99 make up.
    pub weight_slow: Share,
    /// The part that calls slower than `max_p99_ratio` times V1's p99 make up.
    pub weight_p99: Share,
    /// The part that failed workers make up. All five add up to at most 100%.
    pub weight_failures: Share,
    /// The effect that is likeliest, in multiples of what is good enough. Above 1.
    pub usual_effect: Ratio,
    /// Two thirds of effects are at most so many times larger or smaller. Above 1.
    pub effect_spread: Ratio,
    /// The smallest effect that is looked for, in multiples of what is good enough. Above 1.
    pub smallest_effect: Ratio,
    /// The largest effect that is looked for. Above the smallest.
    pub largest_effect: Ratio,
    /// Points of the logarithmic grid between them, 2 to 32.
    pub effects: u32,
    /// Checks with a bad unit within which V2 is likely to become worse, if it does. At least 1.
    pub planned_checks: u32,
    /// How far back V1's p99 reaches, 1m to 1h, or until it is of 200 calls.
    pub slow_window: Span,
    /// Calls faster than this are never slow.
    pub slow_floor: Span,
    /// The most that errors within 5s may multiply the evidence by. Above 1.
    pub max_error_step: Ratio,
    /// The most that other statuses within 5s may multiply the evidence by. Above 1.
    pub max_status_step: Ratio,
    /// The most that slow calls within 5s may multiply the evidence by. Above 1.
    pub max_slow_step: Ratio,
    /// How long after a stage began latencies do not count, because V2 is warming up; up to 1h.
    pub warm_up: Span,
    /// Calls of a session, where the host does not count sessions: evidence from latencies is divided by it. At least
    /// 1.
    pub calls_per_session: Ratio,
    /// V1's rate of failed sessions where nothing is known of it: what V2 is held against without V1, and both
    /// together.
    pub objective_error_rate: Share,
    /// V2's p99 that is good enough without V1, or with too few calls of it; 0ms to hold it against what is known of V1.
    pub objective_p99: Span,
    /// Calls in a row that V2 fails, all of them, from which everything goes back at once, whatever V1's rate is; where
    /// V1 hardly ever fails, five are enough. At least 1.
    pub outage_requests: u64,
    /// V1's error rate meanwhile, from which it is not V2's outage.
    pub outage_v1_error_rate: Share,
    /// The probability with which an unsafe V2 is ever called healthy in a stage.
    pub beta: Share,
    /// V2's odds of an error over V1's that are unsafe. Above 1.
    pub unsafe_error_odds: Ratio,
    /// V2's error rate that is unsafe. V2 is unsafe if both are true.
    pub unsafe_error_rate: Share,
}

/// The budgets are those of the design: 1 % for a roll-back, 5 % for a warning and for `healthy`.
///
/// Errors have a null of 1, not more: whoever waits for 5 times the errors at a share of 5 % has no evidence to give
/// away. It does not make the judge petty, since the smallest effect is 1.25 times: a V2 with 1.1 times V1's errors is
/// nearer to the null than to any bet, and found late if ever. Latency has one of 1.5, because a V2 that is a few
/// percent slower has 1.2 to 1.4 times as many calls beyond V1's p99. Weights follow: errors harm users most, and
/// ln(1/0.8) costs them least.
impl Default for Settings {
    fn default() -> Self {
        Self {
            alpha_rollback: Share(10_000),
            alpha_warn: Share(50_000),
            max_error_odds: ONE,
            max_status_odds: Ratio(2_000_000),
            max_slow_odds: Ratio(1_500_000),
            max_p99_ratio: Ratio(2_000_000),
            max_failure_odds: ONE,
            weight_errors: Share(900_000),
            weight_statuses: Share(30_000),
            weight_slow: Share(30_000),
            weight_p99: Share(30_000),
            weight_failures: Share(10_000),
            usual_effect: Ratio(4_000_000),
            effect_spread: Ratio(2_225_500),
            smallest_effect: Ratio(1_250_000),
            largest_effect: Ratio(50_000_000),
            effects: 8,
            planned_checks: 720,
            slow_window: Span(300_000),
            slow_floor: Span(1),
            max_error_step: Ratio(15_000_000),
            max_status_step: Ratio(100_000_000),
            max_slow_step: Ratio(10_000_000),
            warm_up: Span(60_000),
            calls_per_session: Ratio(10_000_000),
            objective_error_rate: Share(10_000),
            objective_p99: Span(0),
            outage_requests: 10,
            outage_v1_error_rate: Share(250_000),
            beta: Share(50_000),
            unsafe_error_odds: Ratio(3_000_000),
            unsafe_error_rate: Share(10_000),
        }
    }
}

impl Settings {
    /// Everything that is wrong beyond types, each with its field.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (field, value) in [
            ("alpha_rollback", self.alpha_rollback),
            ("alpha_warn", self.alpha_warn),
            ("beta", self.beta),
            ("outage_v1_error_rate", self.outage_v1_error_rate),
            ("unsafe_error_rate", self.unsafe_error_rate),
            ("objective_error_rate", self.objective_error_rate),
        ] {
            if value.0 == 0 || value.0 >= share::MILLION {
                problems.push(problem(field, "is not between 0% and 100%"));
            }
        }
        for (field, value, least) in [
            ("max_error_odds", self.max_error_odds, 1),
            ("max_status_odds", self.max_status_odds, 1),
            ("max_slow_odds", self.max_slow_odds, 1),
            ("max_p99_ratio", self.max_p99_ratio, 1),
            ("max_failure_odds", self.max_failure_odds, 1),
        ] {
            if value < ONE {
                problems.push(problem(field, format!("is below {least}, so a V2 that is as good as V1 is not enough")));
            }
        }
        for (field, value) in [
            ("smallest_effect", self.smallest_effect),
            ("usual_effect", self.usual_effect),
            ("effect_spread", self.effect_spread),
            ("max_error_step", self.max_error_step),
            ("max_status_step", self.max_status_step),
            ("max_slow_step", self.max_slow_step),
            ("unsafe_error_odds", self.unsafe_error_odds),
        ] {
            if value <= ONE {
                problems.push(problem(field, "is not above 1"));
            }
        }
        let sum: u64 = self.weights().iter().map(|w| u64::from(w.0)).sum();
        let minute_to_hour = 60_000..=3_600_000;
        for (wrong, field, message) in [
            (
                self.alpha_warn < self.alpha_rollback,
                "alpha_warn",
                "is below `alpha_rollback`, so nobody would be warned",
            ),
            (sum > u64::from(share::MILLION), "weight_errors", "makes the five weights more than 100%"),
            (self.largest_effect <= self.smallest_effect, "largest_effect", "is not above `smallest_effect`"),
            (!(2..=32).contains(&self.effects), "effects", "is not from 2 to 32"),
            (self.planned_checks == 0, "planned_checks", "is 0; at least 1 is planned"),
            (!minute_to_hour.contains(&self.slow_window.0), "slow_window", "is not from 1m to 1h"),
            (self.warm_up.0 > 3_600_000, "warm_up", "is over 1h"),
            (self.calls_per_session < ONE, "calls_per_session", "is below 1; a session has a call"),
            (self.outage_requests == 0, "outage_requests", "is 0; no calls are no outage, so it is at least 1"),
        ] {
            if wrong {
                problems.push(problem(field, message));
            }
        }
        problems
    }

    /// The parts of the evidence, in the order of metrics.
    pub(crate) const fn weights(&self) -> [Share; METRICS] {
        [self.weight_errors, self.weight_statuses, self.weight_slow, self.weight_p99, self.weight_failures]
    }

    /// The game on a metric that tolerates `r0`. Effects have the weights of a bell over the logarithmic grid, around
    /// what is usual: most of a bet is on what is found late enough to be worth half a nat.
    pub(crate) fn game(&self, r0: Ratio, most_per_table: Ratio) -> Game {
        let last = self.effects.saturating_sub(1);
        let smallest = libm::log(times(self.smallest_effect));
        let width = libm::log(times(self.largest_effect)) - smallest;
        let (middle, spread) = (libm::log(times(self.usual_effect)), libm::log(times(self.effect_spread)));
        let points = || (0..=last).map(|i| smallest + width * (f64::from(i) / f64::from(last)));
        let bell = |at: f64| {
            let off = (at - middle) / spread;
            libm::exp(-0.5 * off * off).max(LEAST_WEIGHT)
        };
        let sum: f64 = points().map(bell).sum();
        Game {
            r0: times(r0),
            effects: points().map(|at| (times(r0) * libm::exp(at), bell(at) / sum)).collect(),
            planned: f64::from(self.planned_checks),
            most_per_table: times(most_per_table),
            most: Game::MOST,
        }
    }

    /// When V2 is safe.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_odds: times(self.unsafe_error_odds),
            max_rate: part(self.unsafe_error_rate),
            needed: 1.0 / part(self.beta),
        }
    }
}

/// A ratio as a number.
pub(crate) fn times(ratio: Ratio) -> f64 {
    f64::from(ratio.0) / 1e6
}

/// A share as a number from 0 to 1.
pub(crate) fn part(share: Share) -> f64 {
    f64::from(share.0) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(json: serde_json::Value) -> Vec<String> {
        let settings: Settings = serde_json::from_value(json).unwrap();
        settings.problems().into_iter().map(|p| p.path).collect()
    }

    #[test]
    fn bundle_says_the_defaults() {
        let bundle: toml::Table = toml::from_str(include_str!("../../../policies/sequential/policy.toml")).unwrap();
        let json = serde_json::to_value(&bundle["settings"]).unwrap();
        assert_eq!(serde_json::from_value::<Settings>(json.clone()).unwrap(), Settings::default());
        let schema = schemars::schema_for!(Settings);
        let fields: Vec<_> = schema.as_value()["properties"].as_object().unwrap().keys().collect();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), fields);
    }

    #[test]
    fn defaults_have_no_problem() {
        assert_eq!(Settings::default().problems(), []);
    }

    #[test]
    fn each_problem_names_its_field() {
        let shares = [
            "alpha_rollback",
            "alpha_warn",
            "beta",
            "outage_v1_error_rate",
            "unsafe_error_rate",
            "objective_error_rate",
        ];
        for value in ["0%", "100%"] {
            let json = shares.iter().map(|&f| (f.to_owned(), value.into())).collect();
            assert_eq!(paths(serde_json::Value::Object(json)), shares);
        }
        let tolerated = ["max_error_odds", "max_status_odds", "max_slow_odds", "max_p99_ratio", "max_failure_odds"];
        let above = [
            "smallest_effect",
            "usual_effect",
            "effect_spread",
            "max_error_step",
            "max_status_step",
            "max_slow_step",
            "unsafe_error_odds",
        ];
        let json = tolerated.iter().chain(&above).map(|&f| (f.to_owned(), 0.9.into())).collect();
        assert_eq!(paths(serde_json::Value::Object(json)), [&tolerated[..], &above[..]].concat());
        for (json, path) in [
            (serde_json::json!({ "alpha_warn": "0.5%" }), "alpha_warn"),
            (serde_json::json!({ "weight_errors": "90.1%" }), "weight_errors"),
            (serde_json::json!({ "largest_effect": 1.25 }), "largest_effect"),
            (serde_json::json!({ "effects": 1 }), "effects"),
            (serde_json::json!({ "planned_checks": 0 }), "planned_checks"),
            (serde_json::json!({ "slow_window": "61m" }), "slow_window"),
            (serde_json::json!({ "warm_up": "61m" }), "warm_up"),
            (serde_json::json!({ "calls_per_session": 0.5 }), "calls_per_session"),
            (serde_json::json!({ "outage_requests": 0 }), "outage_requests"),
        ] {
            assert_eq!(paths(json), [path]);
        }
    }

    #[test]
    fn grid_is_logarithmic_and_its_weights_add_up() {
        let game = Settings::default().game(Ratio(1_500_000), ONE);
        let (first, last) = (game.effects[0].0, game.effects[7].0);
        assert!((first - 1.875).abs() < 1e-12 && (last - 75.0).abs() < 1e-10, "{first} {last}");
        let steps: Vec<_> = game.effects.windows(2).map(|w| w[1].0 / w[0].0).collect();
        assert!(steps.iter().all(|step| (step - steps[0]).abs() < 1e-12));
        assert!((game.effects.iter().map(|e| e.1).sum::<f64>() - 1.0).abs() < 1e-12);
    }
}
