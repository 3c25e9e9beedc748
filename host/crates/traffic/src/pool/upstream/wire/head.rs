//! Heads: of a request as it is written, and of an answer as it is read. Pure.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use httparse::ParserConfig;
use hyper::{Method, StatusCode, Version};

use super::{
    Broken,
    framing::{Chunk, Framing},
};
use crate::{
    http1::{MAX_FIELDS, MAX_HEAD},
    message::{Fields, ReplyHead, RequestHead, rules::Rules},
};

/// The head of an answer, and what comes after it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) head: ReplyHead,
    pub(super) framing: Framing,
    /// Whether the connection can be used again after the body.
    pub(super) reusable: bool,
}

impl Answer {
    /// Whether another head comes after this one (RFC 9110, 15.2).
    pub(super) fn is_interim(&self) -> bool {
        self.head.status.is_informational() && self.head.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// Writes the head of a request with a body of that length, with what the pool has set and removed.
pub(super) fn write(head: &RequestHead, length: usize, rules: Option<&Rules>, out: &mut Vec<u8>) {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    // What is written below is what holds.
    let is_written = |name: &[u8]| !matches!(name, b"content-length" | b"transfer-encoding");
    match rules {
        None => head.fields.write(out, is_written),
        Some(rules) => {
            head.fields.write(out, |name| is_written(name) && !rules.touches(name));
            rules.write_set(out);
        }
    }
    // A request of a method that may have a body says that it has none (RFC 9110, 8.6).
    let says_none = || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
    if length > 0 || says_none() || head.fields.has("content-length") {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(length.to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Takes the head of an answer to a request of this method out of what has come, if it is whole.
pub(super) fn parse(read: &mut BytesMut, method: &Method) -> Result<Option<Answer>, Broken> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut []);
    let parsed = ParserConfig::default().parse_response_with_uninit_headers(&mut response, read, &mut fields);
    let end = match parsed.map_err(Broken::Syntax)? {
        httparse::Status::Complete(end) => end,
        httparse::Status::Partial => return Ok(None),
    };
    if end > MAX_HEAD {
        return Err(Broken::TooLarge);
    }
    let version = if response.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let status = StatusCode::from_u16(response.code.unwrap_or(0));
    let status = status.map_err(|_out_of_range| Broken::Syntax(httparse::Error::Status))?;
    let reason = response.reason.filter(|reason| status.canonical_reason() != Some(reason));
    let reason = reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
    let mut fields = Fields::read(read.get(..end).unwrap_or_default(), response.headers);
    read.advance(end);
    let (framing, sure) = framing(&mut fields, method, status, version)?;
    let reusable = sure && framing != Framing::UntilClose && is_kept(&fields, version);
    Ok(Some(Answer { head: ReplyHead { status, reason, fields }, framing, reusable }))
}

/// How the end of an answer's body is known (RFC 9112, 6.3), and whether no other reader could see another end.
fn framing(
    fields: &mut Fields,
    method: &Method,
    status: StatusCode,
    version: Version,
) -> Result<(Framing, bool), Broken> {
    let no_body = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if no_body {
        return Ok((Framing::Length(0), true));
    }
    if fields.has("transfer-encoding") {
        let mut codings = fields.get_all("transfer-encoding");
        let is_chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case(b"chunked"));
        let is_alone = codings.next().is_none();
        drop(codings);
        if !is_chunked || !is_alone || version != Version::HTTP_11 {
            return Err(Broken::Framing("its transfer coding is not known"));
        }
        // If there are both, the coding holds, and the length is not passed on.
        let has_length = fields.remove("content-length");
        return Ok((Framing::Chunked(Chunk::Size), !has_length));
    }
    let mut lengths = fields.get_all("content-length");
    let Some(first) = lengths.next() else { return Ok((Framing::UntilClose, true)) };
    if lengths.any(|other| other != first) {
        return Err(Broken::Framing("it has several lengths"));
    }
    let length = std::str::from_utf8(first).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let length = length.and_then(|text| text.parse().ok()).ok_or(Broken::Framing("its length is no number"))?;
    Ok((Framing::Length(length), true))
}

/// Whether the upstream keeps the connection (RFC 9112, 9.3).
fn is_kept(fields: &Fields, version: Version) -> bool {
    if version == Version::HTTP_11 {
        !fields.has_token("connection", "close")
    } else {
        fields.has_token("connection", "keep-alive")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Option<Answer>, Broken> {
        parse(&mut BytesMut::from(text), &Method::GET)
    }

    fn framed(fields: &str) -> Result<(Framing, bool), Broken> {
        read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).map(|answer| {
            let answer = answer.unwrap();
            (answer.framing, answer.reusable)
        })
    }

    #[test]
    fn a_request_is_written_with_one_length_at_most() {
        let written = |method: &str, given: Option<&str>, length: usize| {
            let fields = [("host", "x")].into_iter().chain(given.map(|length| ("content-length", length))).collect();
            let (method, uri) = (method.parse().unwrap(), "/a?b=c".parse().unwrap());
            let mut out = Vec::new();
            write(&RequestHead { method, uri, version: Version::HTTP_11, fields }, length, None, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("GET", None, 0), "GET /a?b=c HTTP/1.1\r\nhost: x\r\n\r\n");
        let posted = "POST /a?b=c HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written("POST", None, 0), posted);
        assert_eq!(written("POST", Some("0"), 0), posted);
        let deleted = written("DELETE", Some("7"), 0);
        assert!(deleted.ends_with("content-length: 0\r\n\r\n"), "there is no body to be waited for");
        assert!(written("GET", Some("007"), 7).ends_with("x\r\ncontent-length: 7\r\n\r\n"));
        assert!(written("POST", None, 12).ends_with("x\r\ncontent-length: 12\r\n\r\n"));
    }

    #[test]
    fn a_head_is_taken_when_it_is_whole_and_the_body_stays() {
        let mut buffer =
            BytesMut::from("HTTP/1.1 404 Nothing Here\r\nX-A: 1\r\nx-a:2 \r\nx-b:\r\ncontent-length: 2\r\n");
        assert!(parse(&mut buffer, &Method::GET).unwrap().is_none());
        buffer.extend_from_slice(b"\r\nhi");
        let answer = parse(&mut buffer, &Method::GET).unwrap().unwrap();
        assert_eq!((answer.head.status.as_u16(), answer.framing, answer.reusable), (404, Framing::Length(2), true));
        assert_eq!(answer.head.fields.get_all("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(answer.head.fields.get("x-b"), Some(&b""[..]));
        assert_eq!((answer.head.reason.as_deref(), &buffer[..]), (Some(&b"Nothing Here"[..]), &b"hi"[..]));
    }

    #[test]
    fn the_end_of_a_body_is_where_rfc_9112_has_it() {
        assert_eq!(framed("content-length: 7\r\n").unwrap(), (Framing::Length(7), true));
        assert_eq!(framed("content-length: 7\r\ncontent-length: 7\r\n").unwrap(), (Framing::Length(7), true));
        assert_eq!(framed("").unwrap(), (Framing::UntilClose, false));
        assert_eq!(framed("transfer-encoding: Chunked\r\n").unwrap(), (Framing::Chunked(Chunk::Size), true));
        let both = framed("transfer-encoding: chunked\r\ncontent-length: 7\r\n").unwrap();
        assert_eq!(both, (Framing::Chunked(Chunk::Size), false), "the connection is not trusted any more");
        assert_eq!(framed("connection: x, Close\r\ncontent-length: 7\r\n").unwrap(), (Framing::Length(7), false));
        for wrong in [
            "content-length: 7\r\ncontent-length: 8\r\n",
            "content-length: 7, 8\r\n",
            "content-length: +7\r\n",
            "content-length: \r\n",
            "content-length: 99999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
        ] {
            assert!(matches!(framed(wrong), Err(Broken::Framing(_))), "{wrong}");
        }
    }

    #[test]
    fn answers_without_a_body_have_none_whatever_they_say() {
        let length = |method: &Method, line: &str| {
            let mut head = BytesMut::from(&*format!("{line}\r\ncontent-length: 7\r\n\r\n"));
            parse(&mut head, method).unwrap().unwrap().framing
        };
        assert_eq!(length(&Method::HEAD, "HTTP/1.1 200 OK"), Framing::Length(0));
        assert_eq!(length(&Method::GET, "HTTP/1.1 204 No Content"), Framing::Length(0));
        assert_eq!(length(&Method::GET, "HTTP/1.1 304 Not Modified"), Framing::Length(0));
        assert_eq!(length(&Method::GET, "HTTP/1.1 200 OK"), Framing::Length(7));
    }

    #[test]
    fn old_upstreams_keep_a_connection_only_if_they_say_so() {
        let kept =
            |fields: &str| read(&format!("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n{fields}\r\n")).unwrap().unwrap();
        assert!(!kept("").reusable && kept("connection: Keep-Alive\r\n").reusable);
        let chunked = read("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        assert!(matches!(chunked, Err(Broken::Framing(_))));
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        for wrong in
            ["\x16\x03\x01\x02", "HTTP/2 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\na b: c\r\n\r\n", "HTTP/1.1 99 x\r\n\r\n"]
        {
            assert!(read(wrong).is_err_and(|e| e.is_syntax()), "{wrong:?}");
        }
        let folded = read("HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n");
        assert!(folded.is_err_and(|e| e.is_syntax()), "obs-fold");
        let many = (0..=MAX_FIELDS).map(|n| format!("x-{n}: 1\r\n")).collect::<Vec<_>>().concat();
        assert!(matches!(framed(&many), Err(Broken::Syntax(httparse::Error::TooManyHeaders))));
        let hundred = read("HTTP/1.1 100 Continue\r\n\r\n").unwrap().unwrap();
        assert!(hundred.is_interim());
    }
}
