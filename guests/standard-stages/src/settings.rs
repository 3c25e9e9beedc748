//! What the stages are, what shadowing must show, and what is wrong with such a list.

use cutover_policy::{
    Problem, problem,
    settings::{Ratio, Share, Span},
    share, text,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All have defaults.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The stages in their order. Shares rise strictly, the last is 100%.
    pub stages: Vec<Stage>,
    /// What `shadow` must show before the first stage.
    pub shadow: Shadow,
    /// What mirrored pairs must show, in `shadow` and while ramping.
    pub pairs: Pairs,
    /// When both pools fail right after a raise.
    pub retreat: Retreat,
    /// V2 calls that a stage needs before it may end. At least 1: no evidence is no success.
    pub min_requests: u64,
    /// How long the last stage lasts before V2 serves everything for good. Without it an operator says so.
    pub complete_after: Option<Span>,
}

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// V2's share of the sessions.
    pub share: Share,
    /// How long it lasts at least. Only the last stage may leave it out; one given there delays `complete_after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soak: Option<Span>,
}

/// What `shadow` must show before the first stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Shadow {
    /// How long it lasts at least.
    pub soak: Span,
    /// Mirrored pairs that must have been compared; those that cannot be compared do not count.
    pub min_compared: u64,
    /// The share of the compared pairs that may differ.
    pub max_different: Share,
}

/// What mirrored pairs must show, by operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Pairs {
    /// The share of the compared pairs that may differ while ramping; `shadow` has its own.
    pub max_different: Share,
    /// The share of the pairs that may turn out not to be comparable.
    pub max_incomparable: Share,
    /// The share of the pairs that must be compared, but for those left out for want of room.
    pub min_coverage: Share,
    /// Pairs that an operation must have for its coverage to be looked at, and what the shares above are parts of at least.
    pub enough: u64,
    /// So many of the last pairs are looked at, and up to as many again: what is older counts no longer.
    pub window: u64,
}

/// When a raise is taken back although the judge only warns: both pools fail more than before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retreat {
    /// How long after a raise; `0s` never takes one back.
    pub within: Span,
    /// The failed share of the calls of both pools over that in the stage before, which is still good enough.
    pub max_ratio: Ratio,
    /// Failed calls that it takes at least.
    pub min_errors: u64,
}

/// The shares and soaks of the migration plan that this product grew from: 5, 10, 25, 50, 75 and 100 % for 1, 1, 2, 4
/// and 8 hours and open-ended. Its stages demand health but no amount of calls; 100 is our floor for a share of errors
/// to mean anything.
impl Default for Settings {
    fn default() -> Self {
        let plan = [(5, Some(1)), (10, Some(1)), (25, Some(2)), (50, Some(4)), (75, Some(8)), (100, None)];
        Self {
            stages: plan
                .map(|(percent, hours)| Stage {
                    share: Share(percent * 10_000),
                    soak: hours.map(|h: u64| Span(h * 3_600_000)),
                })
                .into(),
            shadow: Shadow::default(),
            pairs: Pairs::default(),
            retreat: Retreat::default(),
            min_requests: 100,
            complete_after: None,
        }
    }
}

impl Default for Shadow {
    fn default() -> Self {
        Self { soak: Span(0), min_compared: 100, max_different: Share(0) }
    }
}

/// Three times the failures within ten minutes are hardly chance where the judge warns, too; what begins later is less
/// likely to be of the raise.
impl Default for Retreat {
    fn default() -> Self {
        Self { within: Span(600_000), max_ratio: Ratio(3_000_000), min_errors: 10 }
    }
}

/// A thousand pairs without a difference say that fewer than three of a thousand differ (95 %). Half of an operation's
/// pairs are more than any one kind of answer that is not compared may hide behind.
impl Default for Pairs {
    fn default() -> Self {
        Self {
            max_different: Share(0),
            max_incomparable: Share(10_000),
            min_coverage: Share(500_000),
            enough: 100,
            window: 1_000,
        }
    }
}

impl Settings {
    /// Everything that is wrong beyond types, each with its field.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let last = self.stages.len().saturating_sub(1);
        let mut below = Share(0);
        for (i, stage) in self.stages.iter().enumerate() {
            let field = format!("stages[{i}].share");
            match stage.share {
                Share(0) => problems.push(problem(field, "is 0%; a stage gives V2 something")),
                Share(ppm) if ppm > share::MILLION => problems.push(problem(field, "is over 100%")),
                share if share <= below => {
                    let before = text::percent(below.0.into());
                    problems.push(problem(field, format!("is not above the {before} of the stage before")));
                }
                share if i == last && share.0 < share::MILLION => {
                    problems.push(problem(field, "is the last stage and must be 100%"));
                }
                _ => {}
            }
            below = below.max(stage.share);
            if stage.soak.is_none() && i != last {
                problems.push(problem(format!("stages[{i}].soak"), "is missing; only the last stage is open-ended"));
            }
        }
        if self.stages.is_empty() {
            problems.push(problem("stages", "is empty; the shortest list is one stage of 100%"));
        }
        for (field, share) in [
            ("shadow.max_different", self.shadow.max_different),
            ("pairs.max_different", self.pairs.max_different),
            ("pairs.max_incomparable", self.pairs.max_incomparable),
            ("pairs.min_coverage", self.pairs.min_coverage),
        ] {
            if share.0 > share::MILLION {
                problems.push(problem(field, "is over 100%"));
            }
        }
        for (field, pairs) in [("pairs.enough", self.pairs.enough), ("pairs.window", self.pairs.window)] {
            if pairs == 0 {
                problems.push(problem(field, "is 0; it is a number of pairs, at least 1"));
            }
        }
        if self.retreat.max_ratio.0 < share::MILLION {
            problems.push(problem("retreat.max_ratio", "is below 1, so both pools may not even fail as before"));
        }
        if self.retreat.min_errors == 0 {
            problems
                .push(problem("retreat.min_errors", "is 0; without a failed call nothing fails, so it is at least 1"));
        }
        if self.min_requests == 0 {
            problems
                .push(problem("min_requests", "is 0; a stage that nobody called shows nothing, so it is at least 1"));
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn problems(json: serde_json::Value) -> Vec<String> {
        let settings: Settings = serde_json::from_value(json).unwrap();
        settings.problems().into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    }

    #[test]
    fn bundle_says_the_defaults() {
        let text = include_str!("../../../policies/standard-stages/policy.toml");
        let bundle: toml::Table = toml::from_str(text).unwrap();
        let json = serde_json::to_string(&bundle["settings"]).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), Settings::default());
        let schema = schemars::schema_for!(Settings);
        for field in schema.as_value()["properties"].as_object().unwrap().keys() {
            assert!(text.contains(field), "{field} is not in the bundle");
        }
    }

    #[test]
    fn defaults_and_the_shortest_list_have_no_problem() {
        assert_eq!(Settings::default().problems(), []);
        assert_eq!(problems(serde_json::json!({ "stages": [{ "share": "100%" }] })), [""; 0]);
    }

    #[test]
    fn each_problem_names_its_field() {
        let json = serde_json::json!({
            "stages": [
                { "share": "0%", "soak": "1h" },
                { "share": "20%" },
                { "share": "10%", "soak": "1h" },
                { "share": "101%", "soak": "1h" },
            ],
            "shadow": { "max_different": "200%" },
            "pairs": { "max_incomparable": "101%", "window": 0 },
            "retreat": { "max_ratio": 0.9, "min_errors": 0 },
            "min_requests": 0,
        });
        let paths: Vec<_> = problems(json).into_iter().map(|p| p.split(':').next().unwrap().to_owned()).collect();
        let fields = ["stages[0].share", "stages[1].soak", "stages[2].share", "stages[3].share"];
        let retreat = ["retreat.max_ratio", "retreat.min_errors"];
        assert_eq!(
            paths,
            [
                &fields[..],
                &["shadow.max_different", "pairs.max_incomparable", "pairs.window"],
                &retreat,
                &["min_requests"]
            ]
            .concat()
        );
        assert_eq!(problems(serde_json::json!({ "stages": [] })).len(), 1);
        assert_eq!(
            problems(serde_json::json!({ "stages": [{ "share": "10%", "soak": "1h" }, { "share": "99%" }] })),
            ["stages[1].share: is the last stage and must be 100%"]
        );
    }

    proptest! {
        #[test]
        fn a_list_is_accepted_just_when_it_rises_to_all(shares in prop::collection::vec(0_u32..=1_100_000, 0..6)) {
            let stages = shares.iter().map(|&ppm| Stage { share: Share(ppm), soak: Some(Span(1)) }).collect();
            let rises = shares.is_sorted_by(|a, b| a < b) && shares.first().is_some_and(|&s| s > 0);
            let good = rises && shares.last() == Some(&share::MILLION);
            prop_assert_eq!(Settings { stages, ..Settings::default() }.problems().is_empty(), good);
        }
    }
}
