//! A request without a body or with a short one, as it is read. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::ParserConfig;
use hyper::{Method, Uri, Version};

use super::super::strict::{self, Refused};
use crate::{
    http1::{MAX_FIELDS, MAX_HEAD},
    message::{Fields, RequestHead},
    pool::upstream::{
        Outgoing,
        upload::{SHORT, Upload},
    },
};

/// The largest room for a head that a connection keeps while it waits for the next.
const KEPT: usize = 512;

/// What begins what was read.
#[derive(Debug)]
pub(super) enum Taken {
    /// A request, which is taken out.
    Request {
        /// It, with all of its body.
        request: Outgoing,
        /// Whether the caller wants no other answer over this connection.
        is_last: bool,
    },
    /// A part of a head.
    Part,
    /// A head, and a part of a short body: the request is whole when there are so many bytes.
    PartOfBody(usize),
    /// Something else, which stays.
    Other,
    /// A head that must be refused, and not be given to hyper.
    Refused(Refused),
}

/// Takes a request out of what was read, if it is a whole one of HTTP/1.1 with a short body or none, and without any wish
/// for the connection but to be closed.
pub(super) fn take(read: &mut BytesMut) -> Taken {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let end = match ParserConfig::default().parse_request_with_uninit_headers(&mut request, read, &mut fields) {
        Ok(httparse::Status::Complete(end)) => end,
        Ok(httparse::Status::Partial) => return Taken::Part,
        Err(_malformed) => return Taken::Other,
    };
    let (Some(method), Some(target)) = (request.method, request.path) else { return Taken::Other };
    // A fragment is no part of a target (RFC 9112, 3.2).
    if end >= MAX_HEAD || target.contains('#') {
        return Taken::Other;
    }
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let Ok(method) = Method::from_bytes(method.as_bytes()) else { return Taken::Other };
    let mut is_other = request.version != Some(1) || method == Method::CONNECT || !path.starts_with('/');
    let (mut is_last, mut length) = (false, None);
    for field in request.headers.iter() {
        match Meaning::of(field.name) {
            Meaning::Other => is_other = true,
            Meaning::Connection => is_last |= closes(field.value),
            Meaning::Length => match short(field.value) {
                Some(given) if length.is_none() => length = Some(given),
                // Hyper takes a length beyond all numbers for a head that is too large.
                None if strict::length(field.value) == Err(Refused::Longest) => {
                    return Taken::Refused(Refused::Longest);
                }
                // Whether several that are the same are one is not for this to say.
                _ => is_other = true,
            },
            Meaning::None => {}
        }
    }
    if is_other {
        return Taken::Other;
    }
    let Ok(uri) = Uri::try_from(target) else { return Taken::Other };
    let length = length.unwrap_or(0);
    if read.len() < end + length {
        return Taken::PartOfBody(end + length);
    }
    let fields = Fields::read(read.get(..end).unwrap_or_default(), request.headers);
    let body = Bytes::copy_from_slice(read.get(end..end + length).unwrap_or_default());
    read.advance(end + length);
    if read.is_empty() && read.try_reclaim(KEPT + 1) {
        *read = BytesMut::new();
    }
    let head = Box::new(RequestHead { method, uri, version: Version::HTTP_11, fields });
    Taken::Request { request: Outgoing { head, body: Upload::whole(body), interims: None, ends: None }, is_last }
}

/// What a field says of the message, or of the connection.
enum Meaning {
    None,
    Connection,
    /// How long the body is.
    Length,
    /// That a body comes in parts, or that more is wanted than an answer.
    Other,
}

impl Meaning {
    fn of(name: &str) -> Self {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            2 if is("te") => Self::Other,
            6 if is("expect") => Self::Other,
            7 if is("upgrade") => Self::Other,
            10 if is("connection") => Self::Connection,
            14 if is("content-length") => Self::Length,
            17 if is("transfer-encoding") => Self::Other,
            _ => Self::None,
        }
    }
}

/// The length of a short body; none if it is longer, or no number as RFC 9112, 6.2 has it.
fn short(value: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|length| *length <= SHORT)
}

fn closes(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Taken, String) {
        let mut read = BytesMut::from(text);
        let taken = take(&mut read);
        (taken, String::from_utf8(read.to_vec()).unwrap())
    }

    fn is_other(text: &str) -> bool {
        let (taken, rest) = taken(text);
        matches!(taken, Taken::Other) && rest == text
    }

    #[test]
    fn a_request_is_taken_and_what_follows_stays() {
        let (Taken::Request { request: Outgoing { head, body, .. }, is_last }, rest) =
            taken("\r\nGET /a?b=c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:2\r\nempty:\r\n\r\nGET /b")
        else {
            panic!("it is one")
        };
        assert_eq!((&head.method, head.uri.to_string(), is_last), (&Method::GET, "/a?b=c".into(), false));
        assert!(body.is_empty());
        assert_eq!(head.fields.get_all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!((head.fields.text("host"), head.fields.text("empty"), &*rest), (Some("x"), Some(""), "GET /b"));
    }

    #[test]
    fn the_caller_may_want_the_connection_closed() {
        for (fields, closes) in [("close", true), ("keep-alive", false), ("x,  Close", true), ("closed", false)] {
            let (taken, _) = taken(&format!("DELETE / HTTP/1.1\r\nhost: x\r\nConnection: {fields}\r\n\r\n"));
            assert!(matches!(taken, Taken::Request { is_last, .. } if is_last == closes), "{fields}");
        }
    }

    #[test]
    fn a_short_body_is_taken_with_its_head() {
        for (length, body) in [("0", ""), ("5", "a\r\nb\n"), ("0005", "GET /")] {
            let whole = format!("POST /a HTTP/1.1\r\nhost: x\r\nContent-Length: {length}\r\n\r\n{body}");
            let (Taken::Request { request, is_last: false }, rest) = taken(&format!("{whole}GET /b")) else {
                panic!("{whole:?}")
            };
            assert_eq!((request.body.as_whole(), &*rest), (Some(body.as_bytes()), "GET /b"));
            assert_eq!(request.head.fields.text("content-length"), Some(length));
            for end in whole.len() - body.len()..whole.len() {
                let (taken, rest) = taken(&whole[..end]);
                assert!(matches!(taken, Taken::PartOfBody(n) if n == whole.len()) && rest == whole[..end], "{taken:?}");
            }
        }
    }

    #[test]
    fn what_is_not_whole_waits() {
        let whole = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        for end in 0..whole.len() {
            let (taken, rest) = taken(&whole[..end]);
            assert!(matches!(taken, Taken::Part) && rest == whole[..end], "{rest:?}");
        }
    }

    #[test]
    fn whatever_is_more_than_a_question_is_for_somebody_else_and_stays_whole() {
        for field in [
            "content-length: 16385",
            "content-length: +5",
            "content-length: -0",
            "content-length: 5, 5",
            "content-length: 0x5",
            "content-length: 5 5",
            "content-length:",
            "content-length : 5",
            "content-length: 4\r\ncontent-length: 4",
            "content-length: 4\r\nContent-Length: 0",
            "content-length: 4\r\ntransfer-encoding: chunked",
            "transfer-encoding: chunked\r\ncontent-length: 4",
            "content-length: 4\r\nexpect: 100-continue",
            "content-length: 4\r\ntransfer-encoding: identity",
            "transfer-encoding: chunked",
            "Transfer-Encoding : chunked",
            "transfer_encoding\0: chunked",
            "upgrade: websocket",
            "EXPECT: 100-continue",
            "te: trailers",
            "x: a\r\n folded",
            "x: a\0",
        ] {
            assert!(is_other(&format!("POST /a HTTP/1.1\r\nhost: x\r\n{field}\r\n\r\nrest")), "{field}");
        }
        for line in [
            "GET / HTTP/1.0",
            "GET / HTTP/2.0",
            "GET http://x/ HTTP/1.1",
            "CONNECT x:80 HTTP/1.1",
            "OPTIONS * HTTP/1.1",
            "GET  / HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET /\u{7f} HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(is_other(&format!("{line}\r\nhost: x\r\n\r\n")), "{line:?}");
        }
        for length in ["18446744073709551615", "99999999999999999999999999"] {
            for more in ["", "expect: 100-continue\r\n"] {
                let (taken, _) =
                    taken(&format!("POST / HTTP/1.1\r\nhost: x\r\n{more}content-length: {length}\r\n\r\n"));
                assert!(matches!(taken, Taken::Refused(Refused::Longest)), "{length}");
            }
        }
        let many = "x: 1\r\n".repeat(MAX_FIELDS + 1);
        assert!(is_other(&format!("GET / HTTP/1.1\r\n{many}\r\n")));
        let large = "x".repeat(usize::from(u16::MAX));
        assert!(is_other(&format!("GET / HTTP/1.1\r\nx: {large}\r\n\r\n")));
    }
}
