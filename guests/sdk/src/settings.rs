//! Types that settings are written in: shares as `"5%"`, spans of time as `"1h"`, ratios as `2.5`. All are integers
//! inside.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A share of a whole in parts per million. Written `"5%"`, `"0.01%"`, or as a whole number of ppm. May exceed 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// A span of time in milliseconds. Written `"250ms"`, `"30s"`, `"5m"`, `"1h"`, `"2d"`, or as a whole number of ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// A ratio of two values in parts per million, 1 000 000 is 1x. Written as a number such as `3` or `2.5`; at most 4294.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(pub u32);

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

impl Ratio {
    fn parse(number: f64) -> Option<Self> {
        let ppm = (number * 1e6).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was just checked")]
        (0.0..=f64::from(u32::MAX)).contains(&ppm).then_some(Self(ppm as u32))
    }
}

/// Reads a setting that is a number or a text. A visitor, because an untagged enum buffers and is large.
struct Reader<T> {
    expected: &'static str,
    whole: fn(u64) -> Option<T>,
    decimal: fn(f64) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

impl<T> de::Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        (self.whole)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        let whole = u64::try_from(number).ok().and_then(self.whole);
        whole.ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        (self.decimal)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a share such as \"5%\" or a whole number of parts per million",
            whole: |ppm| u32::try_from(ppm).ok().map(Self),
            decimal: |_| None,
            text: Self::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a span of time such as \"30s\" or \"1h\", or whole milliseconds",
            whole: |ms| Some(Self(ms)),
            decimal: |_| None,
            text: Self::parse,
        })
    }
}

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a ratio such as 3 or 2.5, as a number from 0 to 4294",
            whole: |n| u32::try_from(n).ok()?.checked_mul(1_000_000).map(Self),
            decimal: Self::parse,
            text: |_| None,
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
        let largest = UNITS.iter().rev().find(|(_, ms)| self.0 > 0 && self.0.is_multiple_of(*ms));
        let (unit, ms) = largest.copied().unwrap_or(("ms", 1));
        serializer.serialize_str(&format!("{}{unit}", self.0 / ms))
    }
}

impl Serialize for Ratio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.0 / 1_000_000, self.0 % 1_000_000) {
            (whole, 0) => serializer.serialize_u32(whole),
            _ => serializer.serialize_f64(f64::from(self.0) / 1e6),
        }
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

impl JsonSchema for Ratio {
    fn schema_name() -> Cow<'static, str> {
        "Ratio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "a ratio of two values: 3 or 2.5",
            "type": "number", "minimum": 0, "maximum": 4294,
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
            assert!(share(wrong).unwrap_err().contains("expected a share"), "{wrong}");
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
            assert!(span(wrong).unwrap_err().contains("expected a span"), "{wrong}");
        }
    }

    #[test]
    fn ratios_are_read_as_numbers() {
        let ratio = |json| serde_json::from_str::<Ratio>(json).map_err(|e| e.to_string());
        for (json, ppm) in [("3", 3_000_000), ("2.5", 2_500_000), ("0", 0), ("1e-6", 1), ("4294", 4_294_000_000)] {
            assert_eq!(ratio(json), Ok(Ratio(ppm)), "{json}");
        }
        for wrong in ["-1", "\"3\"", "4295", "-0.5", "1e30", "null", "true", "[3]"] {
            assert!(ratio(wrong).unwrap_err().contains("expected a ratio such as 3 or 2.5"), "{wrong}");
        }
    }

    #[test]
    fn all_are_written_as_they_are_read() {
        let all = (Share(50_000), Share(15), Span(3_600_000), Span(1_500), Ratio(3_000_000), Ratio(2_500_000));
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"["5%","0.0015%","1h","1500ms",3,2.5]"#);
    }
}
