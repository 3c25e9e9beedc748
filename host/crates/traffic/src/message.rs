//! Heads of messages, as the host passes them on.
//!
//! Most fields of a head are looked at once and written again. They are kept as lines in one piece, in the order in which
//! they came, with names in lower case; a map of them costs more than all else that is done with a head. Whatever hyper
//! reads or writes is turned into one or the other.

pub(crate) mod encoding;
pub mod rules;

use std::{cell::RefCell, mem};

use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    body::Bytes,
    ext::ReasonPhrase,
    header::{HeaderName, HeaderValue},
    http::{request, response},
};

/// Room for what the host adds to a head: text, and fields.
const ADDED: (usize, usize) = (224, 8);

/// What a thread keeps of heads that are done with: how many, and of what size at most.
const SPARES: usize = 64;
const SPARE_SIZE: usize = 4 << 10;

thread_local! {
    static SPARE: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
}

/// The fields of a head, in the order in which they came. Names are in lower case.
#[derive(Default)]
pub struct Fields {
    /// The lines, those of removed fields included.
    text: Vec<u8>,
    list: Vec<Line>,
    /// A bit for each name that there is or was, which other names share.
    names: u64,
}

/// Where a field is: `name: value` and the end of the line.
#[derive(Debug, Clone, Copy)]
struct Line {
    start: u32,
    /// Bytes of the name.
    name: u32,
    /// Where the value ends.
    end: u32,
}

/// The head of a request.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub uri: Uri,
    /// The version that its sender speaks.
    pub version: Version,
    pub fields: Fields,
}

/// The head of an answer.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Default)]
pub struct ReplyHead {
    pub status: StatusCode,
    /// The reason phrase, if it is not the usual one of the status.
    pub reason: Option<Bytes>,
    pub fields: Fields,
}

impl Fields {
    /// The fields of a head of HTTP/1.1 in which a parser has found these.
    pub fn read(head: &[u8], found: &[httparse::Header<'_>]) -> Self {
        let at = |part: &[u8]| part.as_ptr().addr() - head.as_ptr().addr();
        let Some(first) = found.first().map(|field| at(field.name.as_bytes())) else { return Self::default() };
        let lines = head.get(first..).unwrap_or_default();
        let mut fields = Self::with_room(lines.len(), found.len());
        fields.text.extend_from_slice(lines);
        for httparse::Header { name, value } in found {
            let start = at(name.as_bytes()) - first;
            let end = start + name.len() + 2 + value.len();
            // As a rule a line is already what would be written.
            if fields.text.get(start + name.len()..).is_some_and(|rest| rest.starts_with(b": "))
                && (value.is_empty() || at(value) - first + value.len() == end)
                && fields.text.get(end..).is_some_and(|rest| rest.starts_with(b"\r\n"))
            {
                fields.push(start, name.len(), end);
            } else {
                fields.append(name.as_bytes(), value);
            }
        }
        fields
    }

    fn with_room(size: usize, count: usize) -> Self {
        let mut fields = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten().unwrap_or_default();
        fields.text.reserve(size + ADDED.0);
        fields.list.reserve(count + ADDED.1);
        fields
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.list.iter().map(|line| (self.name(line), self.value(line)))
    }

    /// Names and values that are visible ASCII, in order.
    pub fn all_text(&self) -> impl Iterator<Item = (&str, &str)> {
        self.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)))
    }

    /// The value of the first field of this name, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.get_all(name).next()
    }

    /// The values of all fields of this name, which is in lower case.
    pub fn get_all(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let list = if self.names & bit(name.as_bytes()) == 0 { &[] } else { &*self.list };
        list.iter().filter(move |line| self.is(line, name)).map(|line| self.value(line))
    }

    /// The value of the first field of this name, if it is visible ASCII.
    pub fn text(&self, name: &str) -> Option<&str> {
        text(self.get(name)?)
    }

    /// The values of all fields of this name that are visible ASCII.
    pub fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.get_all(name).filter_map(text)
    }

    /// The elements of a list, which may be in several fields (RFC 9110, 5.6.1).
    pub fn tokens(&self, name: &str) -> impl Iterator<Item = &str> {
        self.texts(name).flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
    }

    /// Whether a list has an element, in whatever case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|t| t.eq_ignore_ascii_case(token))
    }

    /// Whether there is a field of this name.
    pub fn has(&self, name: &str) -> bool {
        self.names & bit(name.as_bytes()) != 0 && self.list.iter().any(|line| self.is(line, name))
    }

    /// Adds a field at the end. What cannot be a value is left out.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if is_value(value) {
            self.append(name.as_bytes(), value);
        }
    }

    /// Makes this the only field of its name. What cannot be a value is left out.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        if is_value(value) {
            self.remove(name);
            self.append(name.as_bytes(), value);
        }
    }

    /// Adds a field with the value that another has, if there is one.
    pub fn repeat(&mut self, name: &str, as_name: &str) {
        if let Some(value) = self.get(name).map(<[u8]>::to_vec) {
            self.append(as_name.as_bytes(), &value);
        }
    }

    /// Removes all fields of a name; whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        if !self.has(name) {
            return false;
        }
        self.keep_if(|n| n != name.as_bytes());
        true
    }

    /// Removes all fields whose names begin so, `_` being `-`.
    pub fn remove_prefixed(&mut self, prefix: &[u8]) {
        let begins = |name: &[u8]| name.get(..prefix.len()).is_some_and(|start| is_variable(start, prefix));
        if self.list.iter().any(|line| begins(self.name(line))) {
            self.keep_if(|name| !begins(name));
        }
    }

    /// Removes all fields of a name, `_` being `-`.
    pub fn remove_variable(&mut self, name: &str) {
        if self.list.iter().any(|line| is_variable(self.name(line), name.as_bytes())) {
            self.keep_if(|other| !is_variable(other, name.as_bytes()));
        }
    }

    /// The values of all fields of a name, `_` being `-`.
    pub fn get_variables(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(move |(other, _)| is_variable(other, name.as_bytes())).map(|(_, value)| value)
    }

    /// Keeps fields of these names alone.
    pub fn keep_if(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let Self { text, list, .. } = self;
        list.retain(|line| keep(bytes(text, line.start, line.start + line.name)));
    }

    /// Writes the lines of fields of these names.
    pub fn write(&self, out: &mut Vec<u8>, keep: impl Fn(&[u8]) -> bool) {
        // Lines that are next to each other are written at once.
        let (mut start, mut end) = (0, 0);
        for line in self.list.iter().filter(|line| keep(self.name(line))) {
            if line.start != end {
                out.extend_from_slice(bytes(&self.text, start, end));
                start = line.start;
            }
            end = line.end + 2;
        }
        out.extend_from_slice(bytes(&self.text, start, end));
    }

    /// The fields as a map, for hyper.
    pub fn to_map(&self) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(self.list.len());
        let text = Bytes::copy_from_slice(&self.text);
        for line in &self.list {
            let name = HeaderName::from_bytes(self.name(line));
            let value = (line.start + line.name + 2) as usize..line.end as usize;
            let value =
                HeaderValue::from_maybe_shared(text.slice(value.start.min(text.len())..value.end.min(text.len())));
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        map
    }

    fn append(&mut self, name: &[u8], value: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(b": ");
        self.text.extend_from_slice(value);
        let end = self.text.len();
        self.text.extend_from_slice(b"\r\n");
        self.push(start, name.len(), end);
    }

    /// A line is there.
    fn push(&mut self, start: usize, name: usize, end: usize) {
        if let Some(name) = self.text.get_mut(start..start + name) {
            name.make_ascii_lowercase();
            self.names |= bit(name);
        }
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.list.push(Line { start: small(start), name: small(name), end: small(end) });
    }

    fn is(&self, line: &Line, name: &str) -> bool {
        line.name as usize == name.len() && self.name(line) == name.as_bytes()
    }

    fn name(&self, line: &Line) -> &[u8] {
        bytes(&self.text, line.start, line.start + line.name)
    }

    fn value(&self, line: &Line) -> &[u8] {
        bytes(&self.text, line.start + line.name + 2, line.end)
    }
}

/// One of 64 bits, for a name in lower case.
fn bit(name: &[u8]) -> u64 {
    let first = name.first().copied().unwrap_or_default();
    1 << ((name.len() * 7 + usize::from(first)) % 64)
}

fn bytes(text: &[u8], start: u32, end: u32) -> &[u8] {
    text.get(start as usize..end as usize).unwrap_or_default()
}

/// A value as text, if it is visible ASCII.
fn text(value: &[u8]) -> Option<&str> {
    let is_visible = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| is_visible)
}

/// Whether nothing in it would end the field, or is otherwise no part of one (RFC 9110, 5.5).
fn is_value(value: &[u8]) -> bool {
    value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}

impl Drop for Fields {
    fn drop(&mut self) {
        if self.text.capacity() == 0 || self.text.capacity() > SPARE_SIZE {
            return;
        }
        let (mut text, mut list) = (mem::take(&mut self.text), mem::take(&mut self.list));
        text.clear();
        list.clear();
        // A thread that ends keeps nothing.
        let _ended = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(Self { text, list, names: 0 });
            }
        });
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let size = map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut fields = Self::with_room(size, map.len());
        map.iter().for_each(|(name, value)| fields.append(name.as_str().as_bytes(), value.as_bytes()));
        fields
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Fields {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(all: I) -> Self {
        let mut fields = Self::with_room(0, 0);
        all.into_iter().for_each(|(name, value)| fields.add(name, value));
        fields
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = self.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        f.debug_list().entries(all).finish()
    }
}

impl From<request::Parts> for RequestHead {
    fn from(parts: request::Parts) -> Self {
        let fields = Fields::from(&parts.headers);
        Self { method: parts.method, uri: parts.uri, version: parts.version, fields }
    }
}

impl ReplyHead {
    /// An answer without fields.
    pub fn of(status: StatusCode) -> Self {
        Self { status, ..Self::default() }
    }

    /// The head as hyper has it.
    pub fn into_parts(self) -> response::Parts {
        let mut parts = hyper::Response::new(()).into_parts().0;
        (parts.status, parts.headers) = (self.status, self.fields.to_map());
        if let Some(reason) = self.reason.and_then(|reason| ReasonPhrase::try_from(reason).ok()) {
            parts.extensions.insert(reason);
        }
        parts
    }
}

impl From<response::Parts> for ReplyHead {
    fn from(parts: response::Parts) -> Self {
        let reason = parts.extensions.get::<ReasonPhrase>().map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
        Self { status: parts.status, reason, fields: Fields::from(&parts.headers) }
    }
}

/// Whether a field is of a name for a service that takes fields as variables, in which `-` is `_` (RFC 3875, 4.1.18).
fn is_variable(field: &[u8], name: &[u8]) -> bool {
    field.len() == name.len() && field.iter().zip(name).all(|(a, b)| a == b || (*a == b'_' && *b == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(all: &[(&str, &str)]) -> Fields {
        all.iter().copied().collect()
    }

    fn written(fields: &Fields) -> String {
        let mut out = Vec::new();
        fields.write(&mut out, |_| true);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_stay_in_order_and_are_found_by_name() {
        let mut all = fields(&[("X-A", "1"), ("host", "x"), ("x-a", "2"), ("empty", "")]);
        assert_eq!(all.get_all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!((all.get("empty"), all.get("emp"), all.text("host")), (Some(&b""[..]), None, Some("x")));
        all.set("x-a", "3");
        assert!(all.remove("empty") && !all.remove("empty"));
        assert_eq!(written(&all), "host: x\r\nx-a: 3\r\n");
    }

    #[test]
    fn lines_are_read_as_they_are_and_written_as_they_should_be() {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nX-A:1\r\nx-b:  2 \r\nEmpty:\r\nnone: \r\nX-C: 3\nlast: 4\r\n\r\n";
        let mut found = [httparse::EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut found);
        assert!(request.parse(head).unwrap().is_complete());
        let mut read = Fields::read(head, request.headers);
        assert_eq!(written(&read), "host: x\r\nx-a: 1\r\nx-b: 2\r\nempty: \r\nnone: \r\nx-c: 3\r\nlast: 4\r\n");
        read.remove("x-a");
        read.set("empty", "no more");
        assert_eq!(written(&read), "host: x\r\nx-b: 2\r\nnone: \r\nx-c: 3\r\nlast: 4\r\nempty: no more\r\n");
        assert_eq!(written(&Fields::read(head, &[])), "");
    }

    #[test]
    fn lists_may_be_in_several_fields() {
        let all = fields(&[("connection", "close, X-a,, "), ("connection", "Upgrade")]);
        assert_eq!(all.tokens("connection").collect::<Vec<_>>(), ["close", "X-a", "Upgrade"]);
        assert!(all.has_token("connection", "upgrade") && !all.has_token("connection", "up"));
    }

    #[test]
    fn what_would_be_another_field_is_left_out() {
        let mut all = fields(&[("a", "1"), ("b", "1\r\nc: 2"), ("b", "\0")]);
        all.set("a", "\n");
        assert_eq!(written(&all), "a: 1\r\n");
        all.set("a", "t\té");
        assert_eq!((all.text("a"), all.get("a")), (None, Some("t\té".as_bytes())));
    }

    proptest! {
        #[test]
        fn nothing_is_lost_through_hyper(all in proptest::collection::vec(("[a-z][a-z0-9-]{0,12}", "[ -~]{0,20}"), 0..20)) {
            let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let before = fields(&all);
            let after = Fields::from(&before.to_map());
            let sorted = |fields: &Fields| {
                let mut all: Vec<_> = fields.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
                all.sort();
                all
            };
            prop_assert_eq!(sorted(&before), sorted(&after));
        }
    }
}
