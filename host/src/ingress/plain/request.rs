//! The head of a request without a body, as it is read. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf as _, BytesMut};
use httparse::ParserConfig;
use hyper::{Method, Uri, Version};

use crate::{
    http1::{MAX_FIELDS, MAX_HEAD},
    message::{Fields, RequestHead},
};

/// The largest room for a head that a connection keeps while it waits for the next.
const KEPT: usize = 512;

/// What begins what was read.
#[derive(Debug)]
pub(super) enum Taken {
    /// A request without a body, which is taken out.
    Request {
        /// Its head.
        head: Box<RequestHead>,
        /// Whether the caller wants no other answer over this connection.
        is_last: bool,
    },
    /// A part of a head.
    Part,
    /// Something else, which stays.
    Other,
}

/// Takes a request out of what was read, if it is a whole one of HTTP/1.1 without a body, without any wish for the
/// connection but to be closed, and for a path that is `wanted`.
pub(super) fn take(read: &mut BytesMut, wanted: impl FnOnce(&str) -> bool) -> Taken {
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
    if request.version != Some(1) || method == Method::CONNECT || !path.starts_with('/') || !wanted(path) {
        return Taken::Other;
    }
    let mut is_last = false;
    for field in request.headers.iter() {
        match Meaning::of(field.name) {
            Meaning::Other => return Taken::Other,
            Meaning::Connection => is_last |= closes(field.value),
            Meaning::None => {}
        }
    }
    let Ok(uri) = Uri::try_from(target) else { return Taken::Other };
    let fields = Fields::read(read.get(..end).unwrap_or_default(), request.headers);
    read.advance(end);
    if read.is_empty() && read.try_reclaim(KEPT + 1) {
        *read = BytesMut::new();
    }
    Taken::Request { head: Box::new(RequestHead { method, uri, version: Version::HTTP_11, fields }), is_last }
}

/// What a field says of the message, or of the connection.
enum Meaning {
    None,
    Connection,
    /// That there is a body, or that more is wanted than an answer.
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
            14 if is("content-length") => Self::Other,
            17 if is("transfer-encoding") => Self::Other,
            _ => Self::None,
        }
    }
}

fn closes(value: &[u8]) -> bool {
    value.split(|byte| *byte == b',').any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(text: &str) -> (Taken, String) {
        let mut read = BytesMut::from(text);
        let taken = take(&mut read, |path| path != "/v1/a/b");
        (taken, String::from_utf8(read.to_vec()).unwrap())
    }

    fn is_other(text: &str) -> bool {
        let (taken, rest) = taken(text);
        matches!(taken, Taken::Other) && rest == text
    }

    #[test]
    fn a_request_is_taken_and_what_follows_stays() {
        let (Taken::Request { head, is_last }, rest) =
            taken("\r\nGET /a?b=c HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a:2\r\nempty:\r\n\r\nGET /b")
        else {
            panic!("it is one")
        };
        assert_eq!((&head.method, head.uri.to_string(), is_last), (&Method::GET, "/a?b=c".into(), false));
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
            "content-length: 0",
            "Content-Length: 5",
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
            "GET /v1/a/b?c HTTP/1.1",
            "GET /v1/a/b#c/d HTTP/1.1",
            "\u{16}\u{3}\u{1}",
        ] {
            assert!(is_other(&format!("{line}\r\nhost: x\r\n\r\n")), "{line:?}");
        }
        let many = "x: 1\r\n".repeat(MAX_FIELDS + 1);
        assert!(is_other(&format!("GET / HTTP/1.1\r\n{many}\r\n")));
        let large = "x".repeat(usize::from(u16::MAX));
        assert!(is_other(&format!("GET / HTTP/1.1\r\nx: {large}\r\n\r\n")));
    }
}
