//! Types that settings are written in: shares as `"5%"`, spans of time as `"1h"`. Both are integers inside.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A share of a whole in parts per million. Written `"5%"`, `"0.01%"`, or as a whole number of ppm. May exceed 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// A span of time in milliseconds. Written `"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"2d"`, or as a whole number of ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// The units of a span, longest first so that `ms` is not read as `m`.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Share {
    fn parse(text: &str) -> Option<Self> {
        let number = text.strip_suffix('%')?.trim();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if decimals.len() > 4 || !(whole.bytes().chain(decimals.bytes())).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let decimals: u32 = format!("{decimals:0<4}").parse().ok()?;
        whole.parse::<u32>().ok()?.checked_mul(10_000)?.checked_add(decimals).map(Self)
    }
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = UNITS.iter().find_map(|(suffix, ms)| Some((text.strip_suffix(suffix)?, ms)))?;
        number.trim().parse::<u64>().ok()?.checked_mul(*unit).map(Self)
    }
}

/// A number or a text, as settings are written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = match Raw::deserialize(deserializer) {
            Ok(Raw::Number(ppm)) => u32::try_from(ppm).ok().map(Self),
            Ok(Raw::Text(text)) => Self::parse(&text),
            Err(_) => None,
        };
        share.ok_or_else(|| de::Error::custom("expected a share such as \"5%\" or a whole number of parts per million"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = match Raw::deserialize(deserializer) {
            Ok(Raw::Number(ms)) => Some(Self(ms)),
            Ok(Raw::Text(text)) => Self::parse(&text),
            Err(_) => None,
        };
        span.ok_or_else(|| {
            de::Error::custom("expected a span of time such as \"30s\" or \"1h\", or whole milliseconds")
        })
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        let text = if rest == 0 { format!("{whole}%") } else { format!("{whole}.{rest:04}%") };
        serializer.serialize_str(&text)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let largest = UNITS.iter().rev().find(|(_, ms)| self.0 > 0 && self.0 % ms == 0);
        let (unit, ms) = largest.copied().unwrap_or(("ms", 1));
        serializer.serialize_str(&format!("{}{unit}", self.0 / ms))
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a share: \"5%\", or a whole number of parts per million",
            "anyOf": [{ "type": "string", "pattern": r"^\d+(\.\d{1,4})?\s*%$" }, { "type": "integer", "minimum": 0 }],
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a span of time: \"250ms\", \"30s\", \"5m\", \"1h\", \"2d\", or whole milliseconds",
            "anyOf": [{ "type": "string", "pattern": r"^\d+\s*(ms|s|m|h|d)$" }, { "type": "integer", "minimum": 0 }],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(json: &str) -> Result<Share, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    fn span(json: &str) -> Result<Span, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn shares_are_read_as_percent_or_ppm() {
        for (json, ppm) in [("\"5%\"", 50_000), ("\"0.01%\"", 100), ("\"100 %\"", 1_000_000), ("42", 42)] {
            assert_eq!(share(json), Ok(Share(ppm)), "{json}");
        }
        for wrong in ["\"5\"", "\"%\"", "\"-5%\"", "\"0.00001%\"", "5.5", "null", "\"99999999%\""] {
            assert!(share(wrong).unwrap_err().starts_with("expected a share"), "{wrong}");
        }
    }

    #[test]
    fn spans_are_read_with_a_unit_or_as_milliseconds() {
        for (json, ms) in
            [("\"250ms\"", 250), ("\"1h\"", 3_600_000), ("\"2 d\"", 172_800_000), ("7", 7), ("\"5m\"", 300_000)]
        {
            assert_eq!(span(json), Ok(Span(ms)), "{json}");
        }
        for wrong in ["\"1\"", "\"h\"", "\"-1s\"", "1.5", "\"99999999999999999999d\""] {
            assert!(span(wrong).unwrap_err().starts_with("expected a span"), "{wrong}");
        }
    }

    #[test]
    fn both_are_written_as_they_are_read() {
        assert_eq!(
            serde_json::to_string(&(Share(50_000), Share(15), Span(3_600_000), Span(1_500))).unwrap(),
            r#"["5%","0.0015%","1h","1500ms"]"#
        );
    }
}
