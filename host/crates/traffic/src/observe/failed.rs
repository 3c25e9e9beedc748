//! The rules by which an operation's calls count as failed, as the configuration has them: by the status of the answer,
//! a field of its head, a place in its body, or how long it took.
//!
//! These rules only count. Another try, V1 instead of V2, or the ejection of a member never depends on them: a rule
//! that is wrong may mislead a judge, and never changes an answer.

use std::time::Duration;

use serde_json::Value;

pub use super::field::Pointer;
use super::recorder::{Observation, Outcome};
use crate::message::{Fields, encoding};
use cutover_model::request::{Answer, Failure, FailureKind};

/// The largest body that is looked at.
pub const MOST: usize = 64 << 10;

/// What counts as failed. By default: statuses from 500 on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Statuses that count as failed; by default 500 to 599.
    pub statuses: Statuses,
    /// Fields of an answer's head, any of which counts as failed.
    pub headers: Vec<Header>,
    /// Places in an answer's body or a worker's result, any of which counts as failed.
    pub body: Vec<Place>,
    /// Places in a worker's refusal, any of which counts as failed.
    pub refusal: Vec<Place>,
    /// An answer whose head takes longer counts as failed; `None` for no limit.
    pub slower_than: Option<Duration>,
}

/// A set of statuses, 100 to 599.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statuses([u64; 8]);

/// A field of a head, and what its value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its name, in lower case.
    pub name: String,
    /// Its value, or the beginning of it.
    pub value: String,
    /// Whether `value` is the beginning alone.
    pub begins: bool,
}

/// A place in a document, and what has to be there for the call to have failed.
#[expect(missing_docs, reason = "the names and types of the fields say what they are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub pointer: Pointer,
    pub is: Is,
}

/// What has to be in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Is {
    /// Something that is not `null`, `false` or empty.
    Present,
    /// Nothing, or something of that kind.
    Absent,
    /// A value that is equal to one of these; numbers are equal by value.
    Equal(Vec<Value>),
}

/// What a body says of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// That the call did not fail.
    Fine,
    /// That the call failed.
    Failed,
    /// Nothing that can be read.
    Unread,
}

/// What a worker's call counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Whether it is counted as answered or failed.
    pub outcome: Outcome,
    /// The status that stands for its answer; see [`Observation::status`].
    pub status: u16,
    /// Whether its answer says whether it failed, and is too long to be looked at.
    pub unread: bool,
}

impl Default for Failed {
    fn default() -> Self {
        let mut statuses = Statuses::default();
        statuses.add(500, 599);
        Self { statuses, headers: Vec::new(), body: Vec::new(), refusal: Vec::new(), slower_than: None }
    }
}

impl Failed {
    /// Whether an answer with this head failed.
    pub fn by_head(&self, status: u16, fields: &Fields) -> bool {
        self.statuses.contains(status) || self.headers.iter().any(|header| header.is_in(fields))
    }

    /// Whether an answer that took so long failed.
    pub fn by_time(&self, took: Duration) -> bool {
        self.slower_than.is_some_and(|limit| took > limit)
    }

    /// Whether any rule looks at bodies.
    pub fn reads_bodies(&self) -> bool {
        !self.body.is_empty()
    }

    /// Whether the body of an answer of HTTP says so. An empty one lacks every place; one that is not to be there, as of an
    /// answer to HEAD, has nothing to say.
    pub fn by_body(&self, status: u16, fields: &Fields, body: &[u8]) -> Said {
        if self.reads_bodies() { self.by_body_in(&encoding::of(fields), status, fields, body) } else { Said::Fine }
    }

    /// The same for a body whose encoding is known, whatever `fields` say of that.
    pub fn by_body_in(&self, encoding: &str, status: u16, fields: &Fields, body: &[u8]) -> Said {
        if body.is_empty() {
            let is_left_out =
                matches!(status, 204 | 205 | 304) || fields.get("content-length").is_some_and(|n| n != b"0");
            let lacks = self.body.iter().any(|place| place.is == Is::Absent);
            if lacks && !is_left_out { Said::Failed } else { Said::Fine }
        } else if body.len() > MOST {
            Said::Unread
        } else {
            match encoding::decode(encoding, body, MOST) {
                Ok(None) => any(&self.body, body),
                Ok(Some(decoded)) => any(&self.body, &decoded),
                Err(_larger_or_not_what_it_says) => Said::Unread,
            }
        }
    }

    /// What a worker's call counts as that took so long. `failed` is why an attempt failed, if one did.
    pub fn count(&self, result: &Result<Answer, Failure>, failed: Option<FailureKind>, took: Duration) -> Counted {
        let (status, said) = match result {
            Ok(Answer::Success(result)) => (Observation::SUCCESS, by_document(&self.body, result.get())),
            Ok(Answer::Refused(error)) => (Observation::REFUSAL, by_document(&self.refusal, error.get())),
            Err(_) => (0, Said::Fine),
        };
        let is_bad = said == Said::Failed || self.by_time(took);
        let outcome = match failed.or(is_bad.then_some(FailureKind::Worker)) {
            Some(kind) => Outcome::Failed(kind),
            None => Outcome::Answered,
        };
        Counted { outcome, status, unread: said == Said::Unread }
    }
}

fn by_document(places: &[Place], document: &str) -> Said {
    match places {
        [] => Said::Fine,
        _ if document.len() > MOST => Said::Unread,
        _ => any(places, document.as_bytes()),
    }
}

fn any(places: &[Place], document: &[u8]) -> Said {
    let mut said = Said::Fine;
    for Place { pointer, is } in places {
        match pointer.find(document) {
            Ok(found) if is.holds(found.as_ref()) => return Said::Failed,
            Ok(_) => {}
            Err(_no_document) => said = Said::Unread,
        }
    }
    said
}

impl Is {
    fn holds(&self, found: Option<&Value>) -> bool {
        match self {
            Self::Present => found.is_some_and(is_something),
            Self::Absent => !found.is_some_and(is_something),
            Self::Equal(all) => found.is_some_and(|found| all.iter().any(|value| are_equal(value, found))),
        }
    }
}

fn is_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(_) => true,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Numbers are equal by their value: 1 is 1.0.
fn are_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

impl Header {
    fn is_in(&self, fields: &Fields) -> bool {
        fields.get_all(&self.name).any(|value| {
            if self.begins { value.starts_with(self.value.as_bytes()) } else { value == self.value.as_bytes() }
        })
    }
}

impl Statuses {
    /// Adds all from `first` to `last`.
    pub fn add(&mut self, first: u16, last: u16) {
        for status in first.max(100)..=last.min(599) {
            let (word, bit) = Self::place(status);
            if let Some(word) = self.0.get_mut(word) {
                *word |= bit;
            }
        }
    }

    /// Whether a status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        let (word, bit) = Self::place(status);
        status >= 100 && self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    const fn place(status: u16) -> (usize, u64) {
        let at = status.saturating_sub(100) as usize;
        (at / 64, 1 << (at % 64))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;
    use serde_json::{json, value::RawValue};

    use super::*;

    fn place(pointer: &str, is: Is) -> Failed {
        Failed { body: vec![Place { pointer: Pointer::parse(pointer).unwrap(), is }], ..Failed::default() }
    }

    fn said(failed: &Failed, body: &str) -> Said {
        failed.by_body(200, &Fields::default(), body.as_bytes())
    }

    #[test]
    fn by_default_statuses_from_500_on_are_failures_and_bodies_are_left_alone() {
        let failed = Failed::default();
        let fails: Vec<_> = (0..=999).filter(|status| failed.by_head(*status, &Fields::default())).collect();
        assert_eq!(fails, (500..=599).collect::<Vec<_>>());
        assert!(!failed.reads_bodies() && !failed.by_time(Duration::MAX));
        assert_eq!(said(&failed, "no json"), Said::Fine);
    }

    #[test]
    fn a_field_of_the_head_is_matched_whole_or_by_its_beginning() {
        let header = |value: &str, begins| Failed {
            headers: vec![Header { name: "x-error".into(), value: value.into(), begins }],
            ..Failed::default()
        };
        let fields: Fields = [("x-error", "E-42"), ("x-error", "late")].into_iter().collect();
        assert!(header("", true).by_head(200, &fields) && header("E-", true).by_head(200, &fields));
        assert!(header("late", false).by_head(200, &fields));
        assert!(!header("E-", false).by_head(200, &fields) && !header("F", true).by_head(200, &fields));
        assert!(!header("", true).by_head(200, &Fields::default()));
    }

    #[test]
    fn a_place_in_the_body_is_present_absent_or_equal() {
        let present = place("/errors", Is::Present);
        for (body, says) in [
            (r#"{"errors":[{"message":"x"}]}"#, Said::Failed),
            (r#"{"errors":[]}"#, Said::Fine),
            (r#"{"errors":null}"#, Said::Fine),
            (r#"{"errors":false}"#, Said::Fine),
            (r#"{"errors":0}"#, Said::Failed),
            ("{}", Said::Fine),
            ("", Said::Fine),
            ("<html>", Said::Unread),
        ] {
            assert_eq!(said(&present, body), says, "{body}");
        }
        let absent = place("/data", Is::Absent);
        assert_eq!(
            (said(&absent, "{}"), said(&absent, ""), said(&absent, "<html>")),
            (Said::Failed, Said::Failed, Said::Unread)
        );
        let head: Fields = [("content-length", "12")].into_iter().collect();
        assert_eq!(absent.by_body(200, &head, b""), Said::Fine, "an answer to HEAD");
        assert_eq!(absent.by_body(204, &Fields::default(), b""), Said::Fine);
        let none: Fields = [("content-length", "0")].into_iter().collect();
        assert_eq!(absent.by_body(200, &none, b""), Said::Failed);
        let equal = place("/ok", Is::Equal(vec![json!(false), json!(1)]));
        assert_eq!(said(&equal, r#"{"ok":false}"#), Said::Failed);
        assert_eq!(said(&equal, r#"{"ok":1.0}"#), Said::Failed);
        assert_eq!(said(&equal, r#"{"ok":true}"#), Said::Fine);
        assert_eq!(said(&equal, "{}"), Said::Fine);
    }

    #[test]
    fn what_is_compressed_is_read_and_what_is_too_large_or_something_else_is_not() {
        let failed = place("/error", Is::Present);
        let gzip: Fields = [("content-encoding", "gzip")].into_iter().collect();
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(br#"{"error":"no"}"#).unwrap();
        let packed = packed.finish().unwrap();
        assert_eq!(failed.by_body(200, &gzip, &packed), Said::Failed);
        let twice: Fields = [("content-encoding", "gzip"), ("content-encoding", "lz4")].into_iter().collect();
        for (fields, body) in [(&gzip, &b"{}"[..]), (&twice, &packed)] {
            assert_eq!(failed.by_body(200, fields, body), Said::Unread);
        }
        let plain: Fields = [("content-encoding", "identity")].into_iter().collect();
        assert_eq!(failed.by_body(200, &plain, b"{}"), Said::Fine);
        assert_eq!(failed.by_body(200, &plain, &vec![b' '; MOST + 1]), Said::Unread);
    }

    #[test]
    fn what_a_worker_says_counts_as_the_team_has_it() {
        let place = |pointer: &str, is| vec![Place { pointer: Pointer::parse(pointer).unwrap(), is }];
        let failed = Failed {
            body: place("/error", Is::Present),
            refusal: place("/type", Is::Equal(vec!["conflict".into()])),
            slower_than: Some(Duration::from_secs(1)),
            ..Failed::default()
        };
        let raw = |text: &str| RawValue::from_string(text.into()).unwrap();
        let success = |text: &str| Ok(Answer::Success(raw(text)));
        let refusal = |kind: &str| Ok(Answer::Refused(raw(&format!(r#"{{"type":"{kind}","error":"x"}}"#))));
        let (quick, good, bad) = (Duration::ZERO, Outcome::Answered, Outcome::Failed(FailureKind::Worker));
        for (result, took, outcome, status) in [
            (success(r#"{"error":"x"}"#), quick, bad, 200),
            (success(r#"{"type":"conflict"}"#), quick, good, 200),
            (refusal("conflict"), quick, bad, 400),
            (refusal("not_found"), quick, good, 400),
            (success("1"), Duration::from_secs(2), bad, 200),
        ] {
            assert_eq!(failed.count(&result, None, took), Counted { outcome, status, unread: false }, "{result:?}");
            let by_default = Failed::default().count(&result, None, took);
            assert_eq!(by_default, Counted { outcome: good, status, unread: false }, "{result:?}");
        }
        let retried = failed.count(&success("1"), Some(FailureKind::Timeout), quick);
        assert_eq!(retried.outcome, Outcome::Failed(FailureKind::Timeout), "a retry hides nothing");
        let long = success(&format!("\"{}\"", "x".repeat(MOST)));
        assert!(failed.count(&long, None, quick).unread && !Failed::default().count(&long, None, quick).unread);
    }

    proptest! {
        #[test]
        fn statuses_are_those_that_were_added(ranges in prop::collection::vec((100_u16..600, 100_u16..600), 0..5)) {
            let mut statuses = Statuses::default();
            for &(first, last) in &ranges {
                statuses.add(first, last);
            }
            for status in 0..1_000 {
                let is = ranges.iter().any(|&(a, b)| (a..=b).contains(&status));
                prop_assert_eq!(statuses.contains(status), is, "{}", status);
            }
        }
    }
}
