//! The comparison policy for results that must agree byte for byte.
//!
//! For files, signatures and formats that are not JSON. It knows nothing of what the bytes mean, and has no settings.

use cutover_policy::{Comparison, Difference, Outcome, Pair, Policy, Problem, Side, text};
use schemars::JsonSchema;
use serde::Deserialize;

/// See the module.
#[derive(Debug)]
pub struct ExactCompare;

/// None.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

impl Policy for ExactCompare {
    type Settings = Settings;
    const NAME: &'static str = "exact-compare";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "two results are the same if they agree byte for byte, in success and in status";

    fn configure(Settings {}: Settings) -> Result<Self, Vec<Problem>> {
        Ok(Self)
    }
}

impl Comparison for ExactCompare {
    fn compare(&self, Pair { v1, v2, .. }: &Pair) -> Outcome {
        let mut differences = Vec::new();
        if v1.success != v2.success {
            differences.push(difference("success", v1.success.to_string(), v2.success.to_string()));
        }
        if v1.status != v2.status {
            differences.push(difference("status", v1.status.to_string(), v2.status.to_string()));
        }
        if v1.body != v2.body {
            differences.push(difference("value", shown(v1), shown(v2)));
        }
        if differences.is_empty() { Outcome::Same } else { Outcome::Different(differences) }
    }
}

fn difference(kind: &str, v1: String, v2: String) -> Difference {
    Difference { path: String::new(), kind: kind.into(), category: "semantic".into(), v1, v2 }
}

/// The first 200 characters; what is no UTF-8 is replaced.
fn shown(side: &Side) -> String {
    text::excerpt(&String::from_utf8_lossy(&side.body), 200)
}

cutover_policy::export!(ExactCompare: comparison);

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(v1: (bool, u16, &[u8]), v2: (bool, u16, &[u8])) -> Vec<String> {
        let side = |(success, status, body): (bool, u16, &[u8])| Side {
            success,
            status,
            media_type: String::new(),
            body: body.into(),
        };
        match ExactCompare.compare(&Pair { operation: "execute".into(), v1: side(v1), v2: side(v2) }) {
            Outcome::Same => Vec::new(),
            Outcome::Different(differences) => differences.into_iter().map(|d| d.kind).collect(),
            Outcome::Ignored(_) | Outcome::Incomparable(_) => panic!("bytes are equal or not"),
        }
    }

    #[test]
    fn the_same_bytes_are_the_same() {
        assert_eq!(kinds((true, 200, b"\xff"), (true, 200, b"\xff")), [""; 0]);
        assert_eq!(kinds((false, 0, b""), (false, 0, b"")), [""; 0]);
    }

    #[test]
    fn every_difference_is_named() {
        assert_eq!(kinds((true, 200, b"{}"), (true, 200, b"{ }")), ["value"]);
        assert_eq!(kinds((true, 200, b"a"), (true, 201, b"a")), ["status"]);
        assert_eq!(kinds((true, 200, b"a"), (false, 500, b"b")), ["success", "status", "value"]);
    }

    #[test]
    fn there_are_no_settings() {
        assert!(serde_json::from_str::<Settings>(r#"{ "strict": true }"#).is_err());
    }

    #[test]
    fn bundle_says_the_defaults() {
        let bundle: toml::Table = toml::from_str(include_str!("../../../policies/exact-compare/policy.toml")).unwrap();
        let json = serde_json::to_string(&bundle["settings"]).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&json).unwrap(), Settings::default());
    }
}
