//! Finds one place of a JSON document without building the rest of it.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// A place in a document, as a JSON Pointer (RFC 6901) has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<String>);

impl Pointer {
    /// Reads `/a/b`; `None` if it does not begin with `/` or has a `~` that is not `~0` or `~1`.
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix('/')?;
        let is_escaped = |part: &str| part.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
        let parts = rest.split('/');
        parts
            .map(|part| is_escaped(part).then(|| part.replace("~1", "/").replace("~0", "~")))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// What is there, if anything is. Of members of the same name the last counts.
    ///
    /// # Errors
    /// If that is no JSON document.
    pub fn find(&self, document: &[u8]) -> Result<Option<Value>, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(document);
        let found = At(&self.0).deserialize(&mut reader)?;
        reader.end()?;
        Ok(found)
    }
}

/// The place that is so many members further down.
#[derive(Clone, Copy)]
struct At<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return serde::Deserialize::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (Some((name, rest)), mut found) = (self.0.split_first(), None) else { return Ok(None) };
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            if key == *name {
                found = map.next_value_seed(At(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let (Some((name, rest)), mut found) = (self.0.split_first(), None) else { return Ok(None) };
        // RFC 6901, 4: without leading zeros.
        let is_index = name == "0" || !name.starts_with('0') && name.bytes().all(|digit| digit.is_ascii_digit());
        let wanted = name.parse::<usize>().ok().filter(|_| is_index);
        for at in 0.. {
            if Some(at) == wanted {
                let Some(value) = items.next_element_seed(At(rest))? else { break };
                found = value;
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn find(pointer: &str, document: &str) -> Option<Value> {
        Pointer::parse(pointer).unwrap().find(document.as_bytes()).unwrap()
    }

    #[test]
    fn places_are_found_as_rfc_6901_has_them() {
        let document = r#"{"foo":["bar","baz"],"":0,"a/b":1,"m~n":8,"k\"l":6,"x":{"y":null},"2":"two"}"#;
        let all = [
            ("/foo", Some(json!(["bar", "baz"]))),
            ("/foo/0", Some(json!("bar"))),
            ("/foo/2", None),
            ("/foo/-", None),
            ("/foo/01", None),
            ("/", Some(json!(0))),
            ("/a~1b", Some(json!(1))),
            ("/m~0n", Some(json!(8))),
            ("/k\"l", Some(json!(6))),
            ("/x/y", Some(Value::Null)),
            ("/x/y/z", None),
            ("/2", Some(json!("two"))),
            ("/nothing", None),
        ];
        for (pointer, found) in all {
            assert_eq!(find(pointer, document), found, "{pointer}");
        }
        assert_eq!(find("/a", r#"{"a":1,"a":2}"#), Some(json!(2)), "the last counts");
        assert_eq!(find("/a", "true"), None);
    }

    #[test]
    fn what_is_no_pointer_or_no_document_is_refused() {
        for wrong in ["", "error", "/a~2", "/~"] {
            assert_eq!(Pointer::parse(wrong), None, "{wrong}");
        }
        for wrong in ["", "{", "<html>", r#"{"a":1} x"#, r#"{"b":[1,}"#] {
            assert!(Pointer::parse("/a").unwrap().find(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_is_in_the_whole_document(
            keys in prop::collection::vec(prop::sample::select(vec!["a", "b", "0", "1", "a/b", "~"]), 1..4),
            numbers in prop::collection::vec(0_i32..9, 1..6),
        ) {
            let mut value = json!(numbers);
            for key in &keys {
                value = json!({ *key: value, "other": [1, { "a": 2 }] });
            }
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            let path = keys.iter().rev().fold(String::new(), |path, key| path + "/" + &escaped(key));
            for pointer in [path.clone(), format!("{path}/0"), "/other/1/a".into(), format!("{path}/x")] {
                prop_assert_eq!(find(&pointer, &value.to_string()), value.pointer(&pointer).cloned(), "{}", pointer);
            }
        }
    }
}
