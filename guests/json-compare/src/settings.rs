//! What is ignored, how near numbers must be, and what is wrong with such settings.

use cutover_policy::{Problem, problem};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// All have defaults.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Places that may differ. The first rule that matches gives the category.
    pub ignore: Vec<Ignore>,
    /// How near two numbers must be.
    pub tolerance: Tolerance,
    /// Patterns of arrays whose order does not matter.
    pub unordered: Vec<String>,
    /// Whether the words of two failures are compared.
    pub error_messages: ErrorMessages,
    /// Whether the media types of two results are compared.
    pub media_types: MediaTypes,
    /// Differences that are reported of a pair, 1 to 1000.
    pub max_differences: usize,
}

/// Places that may differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ignore {
    /// A JSON Pointer (RFC 6901) in which a segment `*` is any one segment and `**` any number of them, also none.
    pub path: String,
    /// What such a difference means to the team.
    #[serde(default = "ignored")]
    pub category: String,
}

/// How near two numbers must be: by the larger of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tolerance {
    /// The largest difference that does not matter.
    pub absolute: f64,
    /// The largest difference that does not matter as a part of the larger number. Two integers are often identifiers;
    /// for them only `absolute` counts.
    pub relative: f64,
}

/// Whether the words of two failures are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorMessages {
    /// They are compared as results are.
    Compare,
    /// Both failed, and that is enough.
    Ignore,
}

/// Whether the media types of two results are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MediaTypes {
    /// They are, without their parameters: callers choose a parser by them.
    Compare,
    /// Only bodies count.
    Ignore,
}

/// What two versions of a service never have in common: how long they took and who they are.
const IGNORED: [(&str, &str); 10] = [
    ("/**/duration_ms", "timing"),
    ("/**/elapsed_ms", "timing"),
    ("/**/latency_ms", "timing"),
    ("/**/timestamp", "timing"),
    ("/**/started_at", "timing"),
    ("/**/finished_at", "timing"),
    ("/**/request_id", "identity"),
    ("/**/worker", "identity"),
    ("/**/pid", "identity"),
    ("/**/host", "identity"),
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignore: IGNORED.map(|(path, category)| Ignore { path: path.into(), category: category.into() }).into(),
            tolerance: Tolerance::default(),
            unordered: Vec::new(),
            error_messages: ErrorMessages::Ignore,
            media_types: MediaTypes::Compare,
            max_differences: 32,
        }
    }
}

/// Relative: what printing and reading again costs a number, with room.
impl Default for Tolerance {
    fn default() -> Self {
        Self { absolute: 0.0, relative: 1e-9 }
    }
}

fn ignored() -> String {
    "ignored".into()
}

/// Settings with their patterns read.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) ignore: Vec<(Pattern, String)>,
    pub(crate) unordered: Vec<Pattern>,
    pub(crate) tolerance: Tolerance,
    pub(crate) error_messages: ErrorMessages,
    pub(crate) media_types: MediaTypes,
    pub(crate) max_differences: usize,
}

impl TryFrom<Settings> for Rules {
    type Error = Vec<Problem>;

    fn try_from(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut read = |field: String, text: &str| {
            Pattern::parse(text).map_err(|message| problems.push(problem(field, message))).ok()
        };
        let (mut ignore, mut unordered) = (Vec::new(), Vec::new());
        for (i, rule) in settings.ignore.into_iter().enumerate() {
            ignore.extend(read(format!("ignore[{i}].path"), &rule.path).map(|pattern| (pattern, rule.category)));
        }
        for (i, path) in settings.unordered.iter().enumerate() {
            unordered.extend(read(format!("unordered[{i}]"), path));
        }
        let Tolerance { absolute, relative } = settings.tolerance;
        for (field, value) in [("tolerance.absolute", absolute), ("tolerance.relative", relative)] {
            if !value.is_finite() || value < 0.0 {
                problems.push(problem(field, "is not a number of 0 or more"));
            }
        }
        if !(1..=1_000).contains(&settings.max_differences) {
            problems.push(problem("max_differences", "is not between 1 and 1000"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let Settings { tolerance, error_messages, media_types, max_differences, .. } = settings;
        Ok(Self { ignore, unordered, tolerance, error_messages, media_types, max_differences })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundle_says_the_defaults() {
        let bundle: toml::Table = toml::from_str(include_str!("../../../policies/json-compare/policy.toml")).unwrap();
        let json = serde_json::to_value(&bundle["settings"]).unwrap();
        assert_eq!(serde_json::from_value::<Settings>(json.clone()).unwrap(), Settings::default());
        let schema = schemars::schema_for!(Settings);
        let mut fields: Vec<_> = schema.as_value()["properties"].as_object().unwrap().keys().collect();
        let mut said: Vec<_> = json.as_object().unwrap().keys().collect();
        fields.sort();
        said.sort();
        assert_eq!(said, fields);
    }

    #[test]
    fn each_problem_names_its_field() {
        let json = serde_json::json!({
            "ignore": [{ "path": "/ok" }, { "path": "no-slash" }],
            "unordered": ["/a/~2"],
            "tolerance": { "absolute": -1 },
            "max_differences": 0,
        });
        let problems = Rules::try_from(serde_json::from_value::<Settings>(json).unwrap()).unwrap_err();
        let paths: Vec<_> = problems.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["ignore[1].path", "unordered[0]", "tolerance.absolute", "max_differences"]);
        assert!(Rules::try_from(Settings::default()).is_ok());
    }

    #[test]
    fn a_category_can_be_left_out() {
        let rule: Ignore = serde_json::from_str(r#"{ "path": "/a" }"#).unwrap();
        assert_eq!(rule.category, "ignored");
    }
}
