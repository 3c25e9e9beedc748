//! The limits and their defaults, and what is wrong with a set of them.

use cutover_policy::settings::{Ratio, Share, Span};
use cutover_policy::{Problem, problem, share, text};
use schemars::JsonSchema;
use serde::Deserialize;

/// All have defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How far back calls and worker failures count.
    pub window: Span,
    /// Calls of V2 within the window that its rates need, and calls of V1 that ratios need. At least 1.
    pub min_requests: u64,
    /// V2's error rate from which people are told.
    pub warn_error_rate: Share,
    /// V2's error rate from which everything goes back.
    pub max_error_rate: Share,
    /// V2's 99th percentile of latency, queueing included, from which people are told.
    pub warn_p99: Span,
    /// V2's error rate over V1's from which everything goes back.
    pub max_error_ratio: Ratio,
    /// V2's 99th percentile of latency over V1's from which everything goes back.
    pub max_p99_ratio: Ratio,
    /// V1's error rate counts as at least this in ratios, so that one error is not infinitely many times none.
    pub error_floor: Share,
    /// Rules on the 99th percentile are silent while V2's is below this.
    pub p99_floor: Span,
    /// V2's workers that failed within the window, over those it is meant to have, from which everything goes back.
    pub max_worker_failures: Share,
    /// Growth of the memory of V2's workers per hour from which everything goes back. May be over 100%.
    pub max_memory_growth: Share,
    /// The shortest span over which that growth is measured, 10s to 1h.
    pub memory_span: Span,
    /// The mean of V2's degradation in latency and in errors, in percent of V1's, from which people are told.
    pub warn_degradation: u32,
    /// The host's use of its processors from which people are told (gauge `host.cpu-ppm`).
    pub warn_cpu: Share,
    /// The host's use of its memory from which people are told (gauge `host.memory-ppm`).
    pub warn_memory: Share,
    /// Checks in a row that must ask for a roll-back before there is one; until then they warn. At least 1.
    pub consecutive: u32,
}

/// The limits of the migration plan that this product grew from: it warns at 5 % errors, 200 ms, 80 % processor, 90 %
/// memory and a degradation of 10, and rolls back at 10 % errors, 3 times V1's errors, 2 times V1's latency, 10 % failed
/// workers and 10 % more memory per hour; V1's error rate counts as at least 0.1 %. It knows no window, no minimum and
/// no patience; those are ours: 12 checks of 5 s, 100 calls, and none.
impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Span(60_000),
            min_requests: 100,
            warn_error_rate: Share(50_000),
            max_error_rate: Share(100_000),
            warn_p99: Span(200),
            max_error_ratio: Ratio(3_000_000),
            max_p99_ratio: Ratio(2_000_000),
            error_floor: Share(1_000),
            p99_floor: Span(0),
            max_worker_failures: Share(100_000),
            max_memory_growth: Share(100_000),
            memory_span: Span(600_000),
            warn_degradation: 10,
            warn_cpu: Share(800_000),
            warn_memory: Share(900_000),
            consecutive: 1,
        }
    }
}

impl Settings {
    /// Everything that is wrong beyond types, each with its field.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (field, value) in [
            ("warn_error_rate", self.warn_error_rate),
            ("max_error_rate", self.max_error_rate),
            ("error_floor", self.error_floor),
            ("max_worker_failures", self.max_worker_failures),
            ("warn_cpu", self.warn_cpu),
            ("warn_memory", self.warn_memory),
        ] {
            if value.0 > share::MILLION {
                problems.push(problem(field, "is over 100%"));
            }
        }
        if self.warn_error_rate > self.max_error_rate {
            let max = text::percent(self.max_error_rate.0.into());
            problems.push(problem("warn_error_rate", format!("is above the {max} of `max_error_rate`")));
        }
        let one = Ratio(1_000_000);
        for (field, value) in [("max_error_ratio", self.max_error_ratio), ("max_p99_ratio", self.max_p99_ratio)] {
            if value < one {
                problems.push(problem(field, "is below 1, so it would roll back a V2 that is as good as V1"));
            }
        }
        for (wrong, field, message) in [
            (self.window.0 < 1_000, "window", "is below 1s, the length of a batch"),
            (self.min_requests == 0, "min_requests", "is 0; no calls show nothing, so it is at least 1"),
            (self.error_floor.0 == 0, "error_floor", "is 0%; a ratio to no errors has no value"),
            (self.memory_span.0 < 10_000, "memory_span", "is below 10s"),
            (self.memory_span.0 > 3_600_000, "memory_span", "is over 1h, for which samples are kept"),
            (self.consecutive == 0, "consecutive", "is 0; at least 1 check asks for a roll-back"),
        ] {
            if wrong {
                problems.push(problem(field, message));
            }
        }
        problems
    }
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
        let bundle: toml::Table = toml::from_str(include_str!("../../../policies/thresholds/policy.toml")).unwrap();
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
        let over =
            ["warn_error_rate", "max_error_rate", "error_floor", "max_worker_failures", "warn_cpu", "warn_memory"];
        let json = over.iter().map(|&f| (f.to_owned(), "101%".into())).collect();
        assert_eq!(paths(serde_json::Value::Object(json)), over);
        let zeros =
            serde_json::json!({ "window": 0, "min_requests": 0, "error_floor": 0, "memory_span": 0, "consecutive": 0 });
        assert_eq!(paths(zeros), ["window", "min_requests", "error_floor", "memory_span", "consecutive"]);
        assert_eq!(paths(serde_json::json!({ "warn_error_rate": "11%" })), ["warn_error_rate"]);
        assert_eq!(
            paths(serde_json::json!({ "max_p99_ratio": 0.9, "memory_span": "61m" })),
            ["max_p99_ratio", "memory_span"]
        );
        assert_eq!(paths(serde_json::json!({ "max_memory_growth": "300%", "max_error_ratio": 2.5 })), [""; 0]);
    }
}
