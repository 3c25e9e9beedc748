//! The limits and their defaults, and what is wrong with a set of them.

use cutover_policy::{
    Problem, problem,
    settings::{Ratio, Share, Span},
    share, text,
};
use schemars::JsonSchema;
use serde::Deserialize;

/// All have defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How far back calls count.
    pub window: Span,
    /// How far back they count where V2 has fewer than `min_requests` of them. At most a day; never less than `window`.
    pub longest_window: Span,
    /// Calls of V2 within the window that its rates need, and calls of V1 that ratios need. At least 1.
    pub min_requests: u64,
    /// Distinct sessions on V2 in this stage that `healthy` needs.
    pub min_sessions: u64,
    /// Failed calls of V2 without which a limit on errors is no longer broken, that many less one. At least 1.
    pub min_errors: u64,
    /// Sessions of V2 that failed, of which the same holds. At least 1.
    pub min_failed_sessions: u64,
    /// Slow calls of V2, of which the same holds for limits on its p99. At least 1.
    pub min_slow_calls: u64,
    /// V1 has the same trouble unless V2 has more than this many times as much of it; then nothing goes back. 1 or more.
    pub shared_ratio: Ratio,
    /// Calls in a row that V2 fails, all of them, from which everything goes back at once; 0 for never.
    pub outage_requests: u64,
    /// Sessions that those calls are from; with `min_requests` calls one is enough.
    pub outage_sessions: u64,
    /// V2's error rate from which people are told.
    pub warn_error_rate: Share,
    /// V2's error rate from which everything goes back.
    pub max_error_rate: Share,
    /// V2's 99th percentile of latency, queueing included, from which people are told.
    pub warn_p99: Span,
    /// V2's 99th percentile of latency from which everything goes back where V1's is neither known nor remembered.
    pub max_p99: Span,
    /// V2's error rate over V1's from which everything goes back.
    pub max_error_ratio: Ratio,
    /// V2's 99th percentile of latency over V1's from which everything goes back.
    pub max_p99_ratio: Ratio,
    /// V1's error rate counts as at least this in ratios, so that one error is not infinitely many times none.
    pub error_floor: Share,
    /// Rules on the 99th percentile are silent while V2's is not this much above V1's.
    pub p99_floor: Span,
    /// How long a stage is too young for latency to send anything back.
    pub warm_up: Span,
    /// V2's workers that failed within `failures_window`, over those it is meant to have, from which everything goes back.
    pub max_worker_failures: Share,
    /// Failures of V2's workers below which none goes back. At least 1.
    pub min_worker_failures: u64,
    /// How far back they count. 10s to a day.
    pub failures_window: Span,
    /// Growth of the memory of V2's workers per hour from which everything goes back. May be over 100%.
    pub max_memory_growth: Share,
    /// The shortest span over which that growth is measured, 10s to 1h.
    pub memory_span: Span,
    /// How long workers fill their caches, from the beginning of a stage and of themselves, before it is measured.
    pub memory_warm_up: Span,
    /// The mean of V2's degradation in latency and in errors, in percent of V1's, from which people are told.
    pub warn_degradation: u32,
    /// How much of an operation's answers may move into or out of a class of status (3xx, 4xx) before people are told.
    pub warn_status_change: Share,
    /// The host's use of its processors that is shown, whatever the verdict (gauge `host.cpu-ppm`).
    pub warn_cpu: Share,
    /// The host's use of its memory from which people are told (gauge `host.memory-ppm`).
    pub warn_memory: Share,
    /// Checks in a row that must ask for a roll-back before there is one; until then they warn. At least 1.
    pub consecutive: u32,
}

/// The limits of the migration plan that this product grew from: it warns at 5 % errors, 200 ms, 80 % processor, 90 %
/// memory and a degradation of 10, and rolls back at 10 % errors, 3 times V1's errors, 2 times V1's latency, 10 % failed
/// workers and 10 % more memory per hour; V1's error rate counts as at least 0.1 %. How much must be seen before one of
/// them counts is ours, and so is what V1 has to do with it: with these, a V2 that is as good as V1 breaks a limit on
/// errors by chance in about one window of a million.
impl Default for Settings {
    fn default() -> Self {
        Self {
            window: Span(60_000),
            longest_window: Span(3_600_000),
            min_requests: 100,
            min_sessions: 3,
            min_errors: 5,
            min_failed_sessions: 3,
            min_slow_calls: 5,
            shared_ratio: Ratio(2_000_000),
            outage_requests: 10,
            outage_sessions: 2,
            warn_error_rate: Share(50_000),
            max_error_rate: Share(100_000),
            warn_p99: Span(200),
            max_p99: Span(5_000),
            max_error_ratio: Ratio(3_000_000),
            max_p99_ratio: Ratio(2_000_000),
            error_floor: Share(1_000),
            p99_floor: Span(25),
            warm_up: Span(30_000),
            max_worker_failures: Share(100_000),
            min_worker_failures: 3,
            failures_window: Span(600_000),
            max_memory_growth: Share(100_000),
            memory_span: Span(600_000),
            memory_warm_up: Span(1_800_000),
            warn_degradation: 10,
            warn_status_change: Share(100_000),
            warn_cpu: Share(800_000),
            warn_memory: Share(900_000),
            consecutive: 3,
        }
    }
}

/// A day.
const DAY_MS: u64 = 86_400_000;

impl Settings {
    /// Everything that is wrong beyond types, each with its field.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (field, value) in [
            ("warn_error_rate", self.warn_error_rate),
            ("max_error_rate", self.max_error_rate),
            ("error_floor", self.error_floor),
            ("max_worker_failures", self.max_worker_failures),
            ("warn_status_change", self.warn_status_change),
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
        for (field, value) in [
            ("max_error_ratio", self.max_error_ratio),
            ("max_p99_ratio", self.max_p99_ratio),
            ("shared_ratio", self.shared_ratio),
        ] {
            if value < one {
                problems.push(problem(field, "is below 1, so it would roll back a V2 that is as good as V1"));
            }
        }
        for (field, value) in [
            ("min_errors", self.min_errors),
            ("min_failed_sessions", self.min_failed_sessions),
            ("min_slow_calls", self.min_slow_calls),
            ("min_worker_failures", self.min_worker_failures),
        ] {
            if value == 0 {
                problems.push(problem(field, "is 0; nothing that happened breaks no limit, so it is at least 1"));
            }
        }
        for (wrong, field, message) in [
            (self.window.0 < 1_000, "window", "is below 1s, the length of a batch"),
            (self.longest_window.0 > DAY_MS, "longest_window", "is over a day"),
            (self.min_requests == 0, "min_requests", "is 0; no calls show nothing, so it is at least 1"),
            (self.error_floor.0 == 0, "error_floor", "is 0%; a ratio to no errors has no value"),
            (self.failures_window.0 < 10_000, "failures_window", "is below 10s"),
            (self.failures_window.0 > DAY_MS, "failures_window", "is over a day"),
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
        let over = [
            "warn_error_rate",
            "max_error_rate",
            "error_floor",
            "max_worker_failures",
            "warn_status_change",
            "warn_cpu",
            "warn_memory",
        ];
        let json = over.iter().map(|&f| (f.to_owned(), "101%".into())).collect();
        assert_eq!(paths(serde_json::Value::Object(json)), over);
        let zeros = [
            "min_errors",
            "min_failed_sessions",
            "min_slow_calls",
            "min_worker_failures",
            "window",
            "min_requests",
            "error_floor",
            "failures_window",
            "memory_span",
            "consecutive",
        ];
        let json = zeros.iter().map(|&f| (f.to_owned(), 0.into())).collect();
        assert_eq!(paths(serde_json::Value::Object(json)), zeros);
        let long = serde_json::json!({ "window": "2h", "failures_window": "25h", "longest_window": "2d", "shared_ratio": 0.5 });
        assert_eq!(paths(long), ["shared_ratio", "longest_window", "failures_window"]);
        assert_eq!(paths(serde_json::json!({ "warn_error_rate": "11%" })), ["warn_error_rate"]);
        assert_eq!(
            paths(serde_json::json!({ "max_p99_ratio": 0.9, "memory_span": "61m" })),
            ["max_p99_ratio", "memory_span"]
        );
        assert_eq!(paths(serde_json::json!({ "max_memory_growth": "300%", "max_error_ratio": 2.5 })), [""; 0]);
    }
}
