//! How case files write shares, spans of time, moments, sizes and values with a unit.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de};

use cutover_model::{clock::UnixMs, request::Ppm};

/// A share, written as `"5%"` or as a number of parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share(pub(super) Ppm);

/// A span of time, written as `"250ms"` or `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Span(pub(super) Duration);

/// A moment in UTC, written as `"2026-01-05T10:00:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment(pub(super) UnixMs);

/// A size, written as `"512MiB"` or as a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Size(pub(super) u64);

/// A value in the unit of the finding that it is held against, or one that says its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Amount {
    /// As it is written, for people.
    pub(super) text: String,
    value: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Plain(i64),
    Percent(i64),
    Times(i64),
    Time(Duration),
    Bytes(i64),
}

/// Sizes and what their unit stands for; longest first where one ends like another.
const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl Span {
    /// The span in whole milliseconds, rounded down.
    pub(super) fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// The span in whole microseconds, rounded down.
    pub(super) fn micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

impl Amount {
    /// As a number in `unit`; none if it is of another kind than that unit.
    pub(super) fn within(&self, unit: &str) -> Option<i64> {
        match (self.value, unit) {
            (Value::Plain(n), _)
            | (Value::Percent(n), "ppm")
            | (Value::Times(n), "ratio-ppm")
            | (Value::Bytes(n), "bytes") => Some(n),
            (Value::Time(span), "us") => i64::try_from(span.as_micros()).ok(),
            (Value::Time(span), "ms") => i64::try_from(span.as_millis()).ok(),
            _ => None,
        }
    }

    fn read(text: &str) -> Option<Value> {
        if let Some(number) = text.strip_suffix('%') {
            return millionths(number, 4).map(Value::Percent);
        }
        if let Some(number) = text.strip_suffix('x') {
            return millionths(number, 6).map(Value::Times);
        }
        if let Some(bytes) = size(text) {
            return i64::try_from(bytes).ok().map(Value::Bytes);
        }
        humantime::parse_duration(text).ok().map(Value::Time)
    }
}

/// A decimal number times ten to the power of `places`, without the detour over a float; none beyond that precision.
fn millionths(number: &str, places: usize) -> Option<i64> {
    let number = number.trim();
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || decimals.len() > places || !digits(whole) || !digits(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<places$}").parse().ok()
}

fn size(text: &str) -> Option<u64> {
    let (number, bytes) = SIZES.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Reads a number, a text or either.
struct Reader<T> {
    expected: &'static str,
    number: fn(i64) -> Option<T>,
    text: fn(&str) -> Option<T>,
}

impl<T> de::Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        (self.number)(number).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        let value = i64::try_from(number).ok().and_then(self.number);
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.text)(text.trim()).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = |ppm: i64| {
            let ppm = u32::try_from(ppm).ok().filter(|&ppm| ppm <= Ppm::ALL.get())?;
            Some(Self(Ppm::new(ppm)))
        };
        deserializer.deserialize_any(Reader {
            expected: "a share such as \"5%\", or parts per million up to 1000000",
            number: share,
            text: |text| {
                let ppm = millionths(text.strip_suffix('%')?, 4)?;
                let ppm = u32::try_from(ppm).ok().filter(|&ppm| ppm <= Ppm::ALL.get())?;
                Some(Self(Ppm::new(ppm)))
            },
        })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a span of time with its unit, such as \"250ms\" or \"1h 30m\"",
            number: |n| (n == 0).then_some(Self(Duration::ZERO)),
            text: |text| humantime::parse_duration(text).ok().map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a time in UTC such as \"2026-01-05T10:00:00Z\"",
            number: |_| None,
            text: |text| UnixMs::from_rfc3339(text).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a size such as \"512MiB\", or bytes",
            number: |n| u64::try_from(n).ok().map(Self),
            text: |text| size(text).map(Self),
        })
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader {
            expected: "a number, or a value such as \"12.5%\", \"2.5x\", \"200ms\" or \"1MiB\"",
            number: |n| Some(Self { text: n.to_string(), value: Value::Plain(n) }),
            text: |text| Self::read(text).map(|value| Self { text: text.to_owned(), value }),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T: de::DeserializeOwned>(json: serde_json::Value) -> Result<T, String> {
        serde_json::from_value(json).map_err(|e| e.to_string())
    }

    #[test]
    fn shares_are_percent_or_ppm_and_never_over_all() {
        for (json, ppm) in [(json!("5%"), 50_000), (json!("0.01 %"), 100), (json!(42), 42), (json!("100%"), 1_000_000)]
        {
            assert_eq!(read(json), Ok(Share(Ppm::new(ppm))));
        }
        for wrong in [json!("5"), json!("101%"), json!(1_000_001), json!(-1), json!("0.00001%"), json!(0.5), json!("%")]
        {
            assert!(read::<Share>(wrong.clone()).unwrap_err().contains("expected a share"), "{wrong}");
        }
    }

    #[test]
    fn spans_and_sizes_have_units() {
        assert_eq!(read(json!("1h 30m")), Ok(Span(Duration::from_mins(90))));
        assert_eq!(read(json!(0)), Ok(Span(Duration::ZERO)));
        assert!(read::<Span>(json!(5)).unwrap_err().contains("with its unit"));
        assert_eq!((read(json!("2MiB")), read(json!("3kB"))), (Ok(Size(2 << 20)), Ok(Size(3_000))));
        assert_eq!(read(json!("1 B")), Ok(Size(1)));
        assert!(read::<Size>(json!("1 MiBB")).is_err());
    }

    #[test]
    fn moments_are_rfc_3339() {
        assert_eq!(read(json!("2026-01-05T10:00:00Z")), Ok(Moment(UnixMs(1_767_607_200_000))));
        assert!(read::<Moment>(json!("Monday")).is_err());
    }

    #[test]
    fn amounts_are_read_in_the_unit_of_their_finding() {
        let within = |json, unit| read::<Amount>(json).unwrap().within(unit);
        assert_eq!(within(json!("12.5%"), "ppm"), Some(125_000));
        assert_eq!(within(json!("2.5x"), "ratio-ppm"), Some(2_500_000));
        assert_eq!((within(json!("200ms"), "us"), within(json!("200ms"), "ms")), (Some(200_000), Some(200)));
        assert_eq!(within(json!(-7), "count"), Some(-7));
        assert_eq!((within(json!("5%"), "us"), within(json!("1s"), "count")), (None, None));
        assert!(read::<Amount>(json!("many")).is_err());
    }
}
