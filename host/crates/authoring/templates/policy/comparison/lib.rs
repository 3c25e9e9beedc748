//! Compares JSON results field by field; some fields may differ.

use cutover_policy::{Comparison, Difference, Outcome, Pair, Policy, Problem, text};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

/// See the module.
#[derive(Debug)]
pub struct FieldCompare(Settings);

/// Its settings and their defaults; `policy.toml` says more.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Fields of the result that may differ.
    ignore: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ignore: ["duration_ms", "worker"].map(String::from).to_vec() }
    }
}

impl Policy for FieldCompare {
    type Settings = Settings;
    const NAME: &'static str = env!("CARGO_PKG_NAME");
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "compares JSON results field by field; some fields may differ";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        Ok(Self(settings))
    }
}

impl Comparison for FieldCompare {
    fn compare(&self, pair: &Pair) -> Outcome {
        let (v1, v2) = (&pair.v1, &pair.v2);
        if v1.success != v2.success {
            let (v1, v2) = (v1.success.to_string(), v2.success.to_string());
            let (kind, category) = ("success".into(), "semantic".into());
            return Outcome::Different(vec![Difference { path: String::new(), kind, category, v1, v2 }]);
        }
        // Two failures mean the same, whatever their words.
        if !v1.success || v1.body == v2.body {
            return Outcome::Same;
        }
        match (serde_json::from_slice(&v1.body), serde_json::from_slice(&v2.body)) {
            (Ok(v1), Ok(v2)) => self.outcome(&v1, &v2),
            (Err(error), _) => Outcome::Incomparable(format!("the result of V1 is not JSON: {error}")),
            (_, Err(error)) => Outcome::Incomparable(format!("the result of V2 is not JSON: {error}")),
        }
    }
}

impl FieldCompare {
    fn outcome(&self, v1: &Value, v2: &Value) -> Outcome {
        let (ignored, different): (Vec<_>, Vec<_>) = self.differences(v1, v2).partition(|d| d.category == "ignored");
        match (different.is_empty(), ignored.is_empty()) {
            (false, _) => Outcome::Different(different),
            (true, false) => Outcome::Ignored(ignored),
            (true, true) => Outcome::Same,
        }
    }

    /// Field by field; results that are not both objects are compared as a whole.
    fn differences<'a>(&'a self, v1: &'a Value, v2: &'a Value) -> impl Iterator<Item = Difference> + 'a {
        let fields = |value: &'a Value| value.as_object().into_iter().flatten().map(|(name, _)| name);
        let mut names: Vec<_> = fields(v1).chain(fields(v2)).collect();
        names.sort_unstable();
        names.dedup();
        let whole = (!v1.is_object() || !v2.is_object()).then(|| difference("", Some(v1), Some(v2), "semantic"));
        let by_field = names.into_iter().filter(|_| v1.is_object() && v2.is_object()).map(|name| {
            let category = if self.0.ignore.contains(name) { "ignored" } else { "semantic" };
            difference(&format!("/{}", name.replace('~', "~0").replace('/', "~1")), v1.get(name), v2.get(name), category)
        });
        whole.into_iter().chain(by_field).flatten()
    }
}

/// What differs at a place, as people read it.
fn difference(path: &str, v1: Option<&Value>, v2: Option<&Value>, category: &str) -> Option<Difference> {
    let kind = match (v1, v2) {
        (a, b) if a == b => return None,
        (Some(_), None) => "missing",
        (None, _) => "extra",
        (Some(_), Some(_)) => "value",
    };
    let shown = |value: Option<&Value>| value.map_or_else(String::new, |value| text::excerpt(&value.to_string(), 200));
    Some(Difference { path: path.into(), kind: kind.into(), category: category.into(), v1: shown(v1), v2: shown(v2) })
}

cutover_policy::export!(FieldCompare: comparison);

#[cfg(test)]
mod tests {
    use cutover_policy::Side;

    use super::*;

    fn outcome(v1: &str, v2: &str) -> Outcome {
        let policy = FieldCompare::configure(Settings::default()).expect("the defaults have no problems");
        let side = |body: &str| Side { success: true, status: 0, media_type: String::new(), body: body.into() };
        policy.compare(&Pair { operation: "execute".into(), v1: side(v1), v2: side(v2) })
    }

    #[test]
    fn fields_are_the_same_ignored_or_different() {
        assert_eq!(outcome(r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#), Outcome::Same);
        assert!(matches!(outcome(r#"{"worker":1}"#, r#"{"worker":2}"#), Outcome::Ignored(all) if all.len() == 1));
        assert!(matches!(outcome(r#"{"a":1}"#, r#"{"a":2}"#), Outcome::Different(all) if all[0].path == "/a"));
        assert!(matches!(outcome("[1]", "[2]"), Outcome::Different(all) if all[0].path.is_empty()));
        assert!(matches!(outcome("{", "{}"), Outcome::Incomparable(why) if why.contains("V1")));
    }
}
