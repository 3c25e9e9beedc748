//! The comparison policy that ships: two JSON results, structurally.
//!
//! Differences are JSON Pointers. How long a call took and who served it are ignored by default, numbers may differ by
//! the rounding of a print, and arrays keep their order unless told otherwise. Where V1 answers with JSON and V2 does not,
//! they differ, whatever V2 sent instead. What V1 says to be JSON and is not, or is nested deeper than 128, is incomparable
//! rather than guessed at, unless both sent the same bytes; what V1 says to be something else is compared byte by byte.

mod pattern;
pub mod settings;
mod walk;

use cutover_policy::{Comparison, Difference, Outcome, Pair, Policy, Problem, Side, text};
use serde_json::Value;

use crate::{
    settings::{ErrorMessages, MediaTypes, Rules, Settings},
    walk::Walk,
};

/// HTTP's statuses of an answer, and of one that has nothing new.
const OK: u16 = 200;
const NOT_MODIFIED: u16 = 304;

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
        if v1.status == NOT_MODIFIED && v2.status == OK {
            return Outcome::Incomparable("V1 says that nothing was modified, and V2 has sent the whole".into());
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
        } else {
            let (has_bodies, types) = (!v1.body.is_empty() || !v2.body.is_empty(), [v1, v2].map(media_type));
            if self.0.media_types == MediaTypes::Compare && has_bodies && types[0] != types[1] {
                different.push(whole("media-type", "semantic", &types[0], &types[1]));
            }
            match self.bodies(v1, v2) {
                Ok(mut found) => {
                    different.append(&mut found.different);
                    ignored = found.ignored;
                }
                Err(why) if different.is_empty() => return Outcome::Incomparable(why),
                // What was found is enough to say that they are not the same.
                Err(_) => {}
            }
            different.truncate(self.0.max_differences);
        }
        match (different.is_empty(), ignored.is_empty()) {
            (false, _) => Outcome::Different(different),
            (true, false) => Outcome::Ignored(ignored),
            (true, true) => Outcome::Same,
        }
    }
}

/// Where two bodies differ.
#[derive(Default)]
struct Found {
    different: Vec<Difference>,
    ignored: Vec<Difference>,
}

impl JsonCompare {
    /// Fails if V1's body is not what V1 says that it is.
    fn bodies(&self, v1: &Side, v2: &Side) -> Result<Found, String> {
        if v1.body == v2.body {
            return Ok(Found::default());
        }
        match (read("V1", v1), read("V2", v2)) {
            (Ok(one), Ok(other)) => {
                let mut walk = Walk::new(&self.0);
                walk.values(&one, &other);
                Ok(Found { different: walk.different, ignored: walk.ignored })
            }
            (Ok(_), Err(_)) => Ok(Found { different: vec![bodies("type", v1, v2)], ..Found::default() }),
            (Err(_), _) if v1.body.is_empty() || !may_be_json(&media_type(v1)) => {
                Ok(Found { different: vec![bodies("value", v1, v2)], ..Found::default() })
            }
            (Err(why), _) => Err(why),
        }
    }
}

/// Without its parameters, in lower case.
fn media_type(side: &Side) -> String {
    side.media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Who does not say what it is may mean JSON.
fn may_be_json(media_type: &str) -> bool {
    media_type.is_empty() || media_type.contains("json")
}

/// `serde_json` itself refuses what is nested deeper than 128.
fn read(who: &str, side: &Side) -> Result<Value, String> {
    serde_json::from_slice(&side.body).map_err(|error| format!("the result of {who} cannot be read as JSON: {error}"))
}

fn body(side: &Side) -> String {
    text::excerpt(&String::from_utf8_lossy(&side.body), 200)
}

fn bodies(kind: &str, v1: &Side, v2: &Side) -> Difference {
    whole(kind, "semantic", &body(v1), &body(v2))
}

fn whole(kind: &str, category: &str, v1: &impl ToString, v2: &impl ToString) -> Difference {
    let (v1, v2) = (v1.to_string(), v2.to_string());
    Difference { path: String::new(), kind: kind.into(), category: category.into(), v1, v2 }
}

cutover_policy::export!(JsonCompare: comparison);

#[cfg(test)]
mod tests;
