//! A short form for what policies remember much of.
//!
//! Memory is read and written with each question. As plain JSON that can take longer than the judgement itself: each
//! field costs the reading of its name, and each number of a list is looked for anew. What there is much of is better
//! written as a text of [`Packed`] fields, which people can still read: `1767225600000|54|1|327:2 3 3;339:5`.
//!
//! ```
//! use cutover_policy::memory::{Fields, Packed, Text};
//!
//! /// One second.
//! #[derive(Debug, Default, PartialEq)]
//! struct Second {
//!     start_ms: u64,
//!     latency: Vec<(u32, u64)>,
//!     bets: Vec<f64>,
//! }
//!
//! /// As memory of an older version has it.
//! #[derive(serde::Deserialize)]
//! struct Plain {
//!     start_ms: u64,
//! }
//!
//! impl From<Plain> for Second {
//!     fn from(plain: Plain) -> Self {
//!         Self { start_ms: plain.start_ms, ..Self::default() }
//!     }
//! }
//!
//! impl Packed for Second {
//!     type Plain = Plain;
//!
//!     fn write(&self, text: &mut Text) {
//!         text.number(self.start_ms).buckets(&self.latency).doubles(&self.bets);
//!     }
//!
//!     fn read(fields: &mut Fields<'_>) -> Option<Self> {
//!         Some(Self { start_ms: fields.number()?, latency: fields.buckets()?, bets: fields.doubles()? })
//!     }
//! }
//!
//! cutover_policy::packed!(Second);
//!
//! let second = Second { start_ms: 5_000, latency: vec![(460, 1), (461, 12), (470, 3)], bets: vec![1.0] };
//! let json = serde_json::to_string(&second).unwrap();
//! assert_eq!(json, r#""5000|460:1 12;470:3|3ff0000000000000""#);
//! assert_eq!(serde_json::from_str::<Second>(&json).unwrap(), second);
//! assert_eq!(serde_json::from_str::<Second>(r#"{ "start_ms": 7 }"#).unwrap().start_ms, 7);
//! ```

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serializer,
    de::{
        self, DeserializeOwned, MapAccess, SeqAccess,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
    ser::Error as _,
};

/// Between fields.
const SEPARATOR: u8 = b'|';

/// A part of memory that is written as a text of fields. It is also read from the plain JSON object or list that it was before
/// it was packed, so that a policy that begins to pack keeps what it remembered.
pub trait Packed: Sized {
    /// The plain form.
    type Plain: DeserializeOwned + Into<Self>;

    /// Writes its fields.
    fn write(&self, text: &mut Text);

    /// Reads them in the same order; none if they are not such.
    fn read(fields: &mut Fields<'_>) -> Option<Self>;
}

/// Where fields are written.
#[derive(Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    /// Whether there is a field, which may be empty.
    begun: bool,
}

/// Where fields are read from.
#[derive(Debug)]
pub struct Fields<'a> {
    /// None after the last field.
    rest: Option<&'a [u8]>,
}

/// Lets `serde` write and read a [`Packed`] type as such: `cutover_policy::packed!(Second);`.
#[macro_export]
macro_rules! packed {
    ($type:ty) => {
        impl $crate::__private::serde::Serialize for $type {
            fn serialize<S: $crate::__private::serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $crate::memory::serialize(self, serializer)
            }
        }

        impl<'de> $crate::__private::serde::Deserialize<'de> for $type {
            fn deserialize<D: $crate::__private::serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::memory::deserialize(deserializer)
            }
        }
    };
}

/// What [`packed!`](crate::packed) writes with.
///
/// # Errors
/// What the serializer says.
pub fn serialize<T: Packed, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = Text { bytes: Vec::with_capacity(512), begun: false };
    value.write(&mut text);
    serializer.serialize_str(std::str::from_utf8(&text.bytes).map_err(S::Error::custom)?)
}

/// What [`packed!`](crate::packed) reads with.
///
/// # Errors
/// When it is neither a text of fields nor the plain object or list.
pub fn deserialize<'de, T: Packed, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Either(PhantomData))
}

struct Either<T>(PhantomData<T>);

impl<'de, T: Packed> de::Visitor<'de> for Either<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text of fields, or the object or list that it was before")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        let mut fields = Fields::new(text);
        let read = T::read(&mut fields).filter(|_| fields.is_over());
        read.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<T, A::Error> {
        T::Plain::deserialize(SeqAccessDeserializer::new(seq)).map(Into::into)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::Plain::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
    }
}

impl Text {
    /// Appends a number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.begin();
        self.push(number);
        self
    }

    /// Appends a field that was written before, such as a part of memory that need not be read at each question. What has a
    /// `|` is several fields.
    pub fn raw(&mut self, field: &str) -> &mut Self {
        self.begin();
        self.bytes.extend_from_slice(field.as_bytes());
        self
    }

    /// Appends a histogram's buckets and their counts, ascending: `460:1 12;470:3` are one call in bucket 460, 12 in 461
    /// and 3 in 470.
    pub fn buckets(&mut self, buckets: &[(u32, u64)]) -> &mut Self {
        self.begin();
        let mut next = None;
        for &(index, count) in buckets {
            if next == Some(index) {
                self.bytes.push(b' ');
            } else {
                if next.is_some() {
                    self.bytes.push(b';');
                }
                self.push(index.into());
                self.bytes.push(b':');
            }
            self.push(count);
            next = Some(index.wrapping_add(1));
        }
        self
    }

    /// Appends doubles, exact to the bit: 16 hexadecimal digits each, as IEEE 754 has them, the highest first.
    pub fn doubles(&mut self, doubles: &[f64]) -> &mut Self {
        self.begin();
        for double in doubles {
            let bits = double.to_bits();
            #[expect(clippy::cast_possible_truncation, reason = "one half after the other")]
            for half in [(bits >> 32) as u32, bits as u32] {
                self.bytes.extend_from_slice(&hexadecimal(half).to_be_bytes());
            }
        }
        self
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            self.bytes.push(SEPARATOR);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a digit")]
    fn push(&mut self, mut number: u64) {
        if number < 10 {
            self.bytes.push(b'0' + number as u8);
            return;
        }
        let mut digits = [0; 20];
        let mut used = 0;
        for place in digits.iter_mut().rev() {
            *place = b'0' + (number % 10) as u8;
            used += 1;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(digits.split_at(digits.len() - used).1);
    }
}

impl From<Text> for String {
    /// What was written, for those who keep it themselves.
    fn from(text: Text) -> Self {
        Self::from_utf8(text.bytes).unwrap_or_default()
    }
}

impl<'a> Fields<'a> {
    /// The fields of a text.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { rest: Some(text.as_bytes()) }
    }

    /// The next field as a number.
    pub fn number(&mut self) -> Option<u64> {
        let (number, after) = number(self.rest?)?;
        self.go_on(after)?;
        Some(number)
    }

    /// The next field as it was written, to be read later.
    pub fn raw(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let length = rest.iter().position(|&byte| byte == SEPARATOR).unwrap_or(rest.len());
        let (field, after) = rest.split_at(length);
        self.go_on(after)?;
        std::str::from_utf8(field).ok()
    }

    /// The next fields as numbers.
    pub fn numbers<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = self.number()?;
        }
        Some(numbers)
    }

    /// The next field as buckets; see [`Text::buckets`].
    pub fn buckets(&mut self) -> Option<Vec<(u32, u64)>> {
        let mut rest = self.rest?;
        let mut found = Vec::new();
        if !matches!(rest, [] | [SEPARATOR, ..]) {
            found.reserve(32);
            let mut next = None;
            loop {
                let index = if let Some(index) = next {
                    index
                } else {
                    let (index, after) = number(rest)?;
                    rest = after.strip_prefix(b":")?;
                    u32::try_from(index).ok()?
                };
                let (count, after) = number(rest)?;
                found.push((index, count));
                (next, rest) = match after {
                    [b' ', more @ ..] => (Some(index.checked_add(1)?), more),
                    [b';', more @ ..] => (None, more),
                    end => {
                        rest = end;
                        break;
                    }
                };
            }
        }
        self.go_on(rest)?;
        Some(found)
    }

    /// The next field as doubles; see [`Text::doubles`].
    pub fn doubles(&mut self) -> Option<Vec<f64>> {
        let (doubles, []) = self.raw()?.as_bytes().as_chunks::<16>() else { return None };
        let double = |digits: &[u8; 16]| {
            let [high, low] = digits.as_chunks::<8>().0 else { return None };
            let half = |digits: &[u8; 8]| parse(u64::from_be_bytes(*digits));
            Some(f64::from_bits(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
        };
        let mut found = Vec::with_capacity(doubles.len());
        for digits in doubles {
            found.push(double(digits)?);
        }
        Some(found)
    }

    /// The next field as one double; see [`Text::doubles`].
    pub fn double(&mut self) -> Option<f64> {
        match self.doubles()?.as_slice() {
            [double] => Some(*double),
            _ => None,
        }
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.rest.is_none()
    }

    fn go_on(&mut self, after: &'a [u8]) -> Option<()> {
        self.rest = match after {
            [] => None,
            [SEPARATOR, rest @ ..] => Some(rest),
            _ => return None,
        };
        Some(())
    }
}

/// The number that a text begins with, and what comes after it.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let (&first, mut rest) = text.split_first()?;
    let mut number = digit(first)?;
    while let Some((&next, after)) = rest.split_first() {
        let Some(digit) = digit(next) else { break };
        // Looking for an overflow takes a multiplication of 128 bits there; it cannot come before the twentieth digit.
        number = if number < SAFE { number * 10 + digit } else { number.checked_mul(10)?.checked_add(digit)? };
        rest = after;
    }
    Some((number, rest))
}

/// Another digit fits behind any number below this.
const SAFE: u64 = u64::MAX / 10;

fn digit(byte: u8) -> Option<u64> {
    let value = byte.wrapping_sub(b'0');
    (value < 10).then_some(value.into())
}

/// A byte in each of the eight places.
const fn each(byte: u8) -> u64 {
    u64::from_be_bytes([byte; 8])
}

/// The eight hexadecimal digits of 32 bits, all at once, as the bytes of a number.
const fn hexadecimal(bits: u32) -> u64 {
    let mut spread = bits as u64;
    spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
    spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
    spread = (spread | spread << 4) & each(0x0f);
    // 1 in the places of values from 10 on, which are letters.
    let letters = ((spread + each(0x80 - 10)) >> 7) & each(1);
    spread + each(b'0') + letters * (b'a' - b'0' - 10) as u64
}

/// The way back; none if the bytes are not eight digits.
fn parse(digits: u64) -> Option<u32> {
    let letters = (digits >> 6) & each(1);
    let mut bits = (digits & each(0x0f)).wrapping_add(letters * 9) & each(0x0f);
    bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    let bits = (bits | bits >> 16) as u32;
    (hexadecimal(bits) == digits).then_some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(text: &str) -> Option<Vec<(u32, u64)>> {
        let mut fields = Fields::new(text);
        fields.buckets().filter(|_| fields.is_over())
    }

    fn written(write: impl FnOnce(&mut Text)) -> String {
        let mut text = Text::default();
        write(&mut text);
        text.into()
    }

    #[test]
    fn buckets_come_back_as_they_were() {
        for (list, text) in [
            (vec![], ""),
            (vec![(0, 0)], "0:0"),
            (vec![(1, 10), (2, 999), (4, 1_000)], "1:10 999;4:1000"),
            (vec![(u32::MAX - 1, 7), (u32::MAX, u64::MAX)], "4294967294:7 18446744073709551615"),
        ] {
            assert_eq!(
                written(|t| {
                    t.buckets(&list);
                }),
                text
            );
            assert_eq!(buckets(text), Some(list));
        }
    }

    #[test]
    fn what_are_no_buckets_is_refused() {
        for wrong in [
            ";",
            "1",
            "1:",
            "1:2;",
            "1:2 ",
            ":2",
            "1:2:3",
            "1 2",
            "1:x",
            "1:-2",
            "1:2|",
            "4294967295:1 2",
            "4294967296:1",
            "1:18446744073709551616",
        ] {
            assert_eq!(buckets(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn fields_are_read_in_their_order_and_to_the_end() {
        assert_eq!(
            written(|t| {
                t.doubles(&[]).number(1).buckets(&[]);
            }),
            "|1|"
        );
        let text = written(|t| {
            t.number(7).buckets(&[]).doubles(&[]).number(1_230);
        });
        assert_eq!(text, "7|||1230");
        let mut fields = Fields::new(&text);
        assert_eq!(
            (fields.number(), fields.buckets(), fields.doubles(), fields.number()),
            (Some(7), Some(vec![]), Some(vec![]), Some(1_230))
        );
        assert!(fields.is_over() && fields.number().is_none() && fields.buckets().is_none());
        for wrong in ["", "|", "x", "1x", "-1", "18446744073709551616"] {
            assert_eq!(Fields::new(wrong).number(), None, "{wrong}");
        }
    }

    #[test]
    fn doubles_come_back_to_the_bit() {
        let mut bits = 1_u64;
        let all: Vec<f64> = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            f64::from_bits(bits)
        })
        .take(1_000)
        .chain([0.0, -0.0, f64::MIN_POSITIVE, f64::INFINITY])
        .collect();
        let text = written(|t| {
            t.doubles(&all);
        });
        assert!(text.starts_with(&format!("{:016x}{:016x}", all[0].to_bits(), all[1].to_bits())));
        let back = Fields::new(&text).doubles().unwrap();
        assert!(all.iter().map(|d| d.to_bits()).eq(back.iter().map(|d| d.to_bits())));
    }

    #[test]
    fn only_eight_lower_case_digits_are_hexadecimal() {
        let good = *b"0123456789abcdef";
        assert_eq!(Fields::new("0123456789abcdef").doubles().map(|d| d[0].to_bits()), Some(0x0123_4567_89ab_cdef));
        for (place, byte) in (0..16).flat_map(|place| (0..=u8::MAX).map(move |byte| (place, byte))) {
            if byte == SEPARATOR {
                // It ends the field: what follows is another.
                continue;
            }
            let mut digits = good;
            digits[place] = byte;
            let Ok(text) = std::str::from_utf8(&digits) else { continue };
            let is_digit = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            assert_eq!(Fields::new(text).doubles().is_some(), is_digit, "{text:?}");
        }
        assert_eq!(Fields::new("3ff").doubles(), None);
    }
}
