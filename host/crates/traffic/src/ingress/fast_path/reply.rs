//! The head of an answer, as it is written, and how its body ends. Pure.

use std::cell::RefCell;

use hyper::{StatusCode, body::SizeHint};

use crate::message::ReplyHead;
use cutover_model::clock::UnixMs;

thread_local! {
    /// The date that was written last, and the second that it is of.
    static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// How a caller knows where a body ends (RFC 9112, 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// The answer has no body.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

impl Framing {
    /// The framing of this answer's body; `is_head` says whether the request was a `HEAD`.
    pub(super) fn of(head: &ReplyHead, body: SizeHint, is_head: bool) -> Self {
        if is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Self::None;
        }
        body.exact().map_or(Self::Chunked, Self::Length)
    }
}

/// Whether the answer says that the connection ends with it.
pub(super) fn closes(head: &ReplyHead) -> bool {
    head.fields.get("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"))
}

/// Writes the head; `is_last` if the connection ends with this answer. `now` is asked if the answer has no date.
pub(super) fn write(
    head: &ReplyHead,
    framing: Framing,
    is_last: bool,
    now: impl FnOnce() -> UnixMs,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    match &head.reason {
        Some(reason) => out.extend_from_slice(reason),
        None => out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes()),
    }
    out.extend_from_slice(b"\r\n");
    // Without a body, the length is what it would be, and not for us to say; a 204 has none (RFC 9110, 8.6).
    let keeps_length = framing == Framing::None && head.status != StatusCode::NO_CONTENT;
    head.fields.write(out, |name| match name {
        b"connection" | b"transfer-encoding" => false,
        b"content-length" => keeps_length,
        _ => true,
    });
    match framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            decimal(length, out);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    if is_last {
        out.extend_from_slice(b"connection: close\r\n");
    }
    if !head.fields.has("date") {
        date(now(), out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes an interim answer.
pub(super) fn write_interim(head: &ReplyHead, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    head.fields.write(out, |name| !matches!(name, b"content-length" | b"transfer-encoding"));
    out.extend_from_slice(b"\r\n");
}

/// An answer without a date gets one (RFC 9110, 6.6.1).
fn date(now: UnixMs, out: &mut Vec<u8>) {
    let second = now.0 / 1_000;
    LAST.with_borrow_mut(|(of, text)| {
        if *of != second || text.is_empty() {
            (*of, *text) = (second, now.http_date());
        }
        out.extend_from_slice(b"date: ");
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(b"\r\n");
    });
}

fn decimal(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + u8::try_from(number % 10).unwrap_or_default());
        number /= 10;
        if number == 0 {
            break;
        }
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, all: &[(&str, &str)]) -> ReplyHead {
        let fields = all.iter().copied().collect();
        ReplyHead { fields, ..ReplyHead::of(StatusCode::from_u16(status).unwrap()) }
    }

    fn written(status: u16, fields: &[(&str, &str)], framing: Framing, is_last: bool) -> String {
        let mut out = Vec::new();
        write(&head(status, fields), framing, is_last, || UnixMs(784_111_777_500), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_answer_has_one_length_or_chunks() {
        let fields = [("date", "now"), ("content-length", "7"), ("transfer-encoding", "chunked"), ("a", "b")];
        let with = |framing, is_last| written(200, &fields, framing, is_last);
        let begin = "HTTP/1.1 200 OK\r\ndate: now\r\n";
        assert_eq!(with(Framing::Length(10), false), format!("{begin}a: b\r\ncontent-length: 10\r\n\r\n"));
        assert_eq!(with(Framing::Length(0), false), format!("{begin}a: b\r\ncontent-length: 0\r\n\r\n"));
        assert_eq!(with(Framing::Chunked, false), format!("{begin}a: b\r\ntransfer-encoding: chunked\r\n\r\n"));
        assert_eq!(with(Framing::None, true), format!("{begin}content-length: 7\r\na: b\r\nconnection: close\r\n\r\n"));
        let none = written(204, &fields, Framing::None, false);
        assert_eq!(none, "HTTP/1.1 204 No Content\r\ndate: now\r\na: b\r\n\r\n");
    }

    #[test]
    fn an_answer_without_a_date_gets_that_of_now() {
        let text = written(599, &[], Framing::Length(0), false);
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!(text, format!("HTTP/1.1 599 \r\ncontent-length: 0\r\ndate: {date}\r\n\r\n"));
        assert_eq!(written(599, &[], Framing::Length(0), false), text);
    }

    #[test]
    fn the_end_of_a_body_is_known_from_its_length_or_from_chunks() {
        let of = |status: u16, length: Option<u64>, is_head| {
            Framing::of(&head(status, &[]), length.map_or_else(SizeHint::new, SizeHint::with_exact), is_head)
        };
        assert_eq!((of(200, Some(3), false), of(200, None, false)), (Framing::Length(3), Framing::Chunked));
        assert_eq!((of(204, Some(0), false), of(304, Some(0), false)), (Framing::None, Framing::None));
        assert_eq!(of(200, Some(0), true), Framing::None);
    }
}
