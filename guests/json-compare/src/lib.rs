//! The comparison policy that ships: two JSON results, structurally.
//!
//! Differences are JSON Pointers. How long a call took and who served it are ignored by default, numbers may differ by
//! the rounding of a print, and arrays keep their order unless told otherwise. What is not JSON, or is nested deeper
//! than 128, is incomparable rather than guessed at.

mod pattern;
pub mod settings;
mod walk;

use cutover_policy::{Comparison, Difference, Outcome, Pair, Policy, Problem, Side, text};
use serde_json::Value;

use crate::settings::{ErrorMessages, Rules, Settings};
use crate::walk::Walk;

/// See the module.
#[derive(Debug)]
pub struct JsonCompare(Rules);

impl Policy for JsonCompare {
    type Settings = Settings;
    const NAME: &'static str = "json-compare";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "compares two JSON results structurally, but for timing and identity";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        Rules::try_from(settings).map(Self)
    }
}

impl Comparison for JsonCompare {
    fn compare(&self, pair: &Pair) -> Outcome {
        let (v1, v2) = (&pair.v1, &pair.v2);
        if v1.success != v2.success {
            return Outcome::Different(vec![whole("success", "semantic", &v1.success, &v2.success)]);
        }
        let mut different = Vec::new();
        if v1.status != v2.status {
            different.push(whole("status", "semantic", &v1.status, &v2.status));
        }
        let mut ignored = Vec::new();
        if !v1.success && self.0.error_messages == ErrorMessages::Ignore {
            if v1.body != v2.body {
                ignored.push(whole("value", "format", &body(v1), &body(v2)));
            }
        } else if !(v1.body.is_empty() && v2.body.is_empty()) {
            let (one, other) = match (read("V1", v1), read("V2", v2)) {
                (Ok(one), Ok(other)) => (one, other),
                (Err(why), _) | (_, Err(why)) => return Outcome::Incomparable(why),
            };
            let mut walk = Walk::new(&self.0);
            walk.values(&one, &other);
            different.append(&mut walk.different);
            different.truncate(self.0.max_differences);
            ignored = walk.ignored;
        }
        match (different.is_empty(), ignored.is_empty()) {
            (false, _) => Outcome::Different(different),
            (true, false) => Outcome::Ignored(ignored),
            (true, true) => Outcome::Same,
        }
    }
}

/// `serde_json` itself refuses what is nested deeper than 128.
fn read(who: &str, side: &Side) -> Result<Value, String> {
    serde_json::from_slice(&side.body).map_err(|error| format!("the result of {who} cannot be read as JSON: {error}"))
}

fn body(side: &Side) -> String {
    text::excerpt(&String::from_utf8_lossy(&side.body), 200)
}

fn whole(kind: &str, category: &str, v1: &impl ToString, v2: &impl ToString) -> Difference {
    let (v1, v2) = (v1.to_string(), v2.to_string());
    Difference { path: String::new(), kind: kind.into(), category: category.into(), v1, v2 }
}

cutover_policy::export!(JsonCompare: comparison);

#[cfg(test)]
mod tests;
