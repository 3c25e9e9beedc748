//! Where the body of an answer ends (RFC 9112, 6.3 and 7.1). Pure: bytes in, parts of the body out.

use bytes::{Bytes, BytesMut};
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::Broken;

/// The longest line before a chunk: its size, and extensions, which are ignored.
const MAX_LINE: usize = 4 << 10;

/// The largest trailer section, in bytes and in fields.
const MAX_TRAILERS: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// Bodies with more than this left to come are read in larger parts.
const LONG: u64 = 16 << 10;

/// How the end of a body is known, and how far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// It comes in chunks.
    Chunked(Chunk),
    /// It ends with the connection.
    UntilClose,
}

/// Where in a chunked body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Before a chunk's size.
    Size,
    /// So many bytes of a chunk are left.
    Data(u64),
    /// Before the line end after a chunk.
    LineEnd,
    /// In the trailer section.
    Trailers,
    /// After the trailer section.
    End,
}

/// What comes next in a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A part of it.
    Data(Bytes),
    /// The fields of its trailer section.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// What has come is not enough to say.
    More,
}

impl Framing {
    /// All of the body, if it has a length and all of it has come.
    pub(super) fn whole(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        let Self::Length(left) = self else { return None };
        let length = usize::try_from(*left).ok().filter(|length| *length <= buffer.len())?;
        *left = 0;
        Some(buffer.split_to(length).freeze())
    }

    /// Whether much of the body is still to come.
    pub(super) const fn is_long(self) -> bool {
        match self {
            Self::Length(left) | Self::Chunked(Chunk::Data(left)) => left > LONG,
            Self::Chunked(_) => false,
            Self::UntilClose => true,
        }
    }

    /// Whether nothing more comes.
    pub(super) const fn is_ended(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// The connection was closed.
    pub(super) const fn at_close(self) -> Result<(), Broken> {
        if matches!(self, Self::UntilClose) { Ok(()) } else { Err(Broken::Closed) }
    }

    /// Takes the next part of the body out of what has come.
    pub(super) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match self {
                Self::Length(0) | Self::Chunked(Chunk::End) => return Ok(Step::End),
                _ if buffer.is_empty() => return Ok(Step::More),
                Self::Length(left) => return Ok(Step::Data(take(buffer, left))),
                Self::UntilClose => return Ok(Step::Data(buffer.split().freeze())),
                Self::Chunked(chunk) => {
                    if let Some(step) = chunk.step(buffer)? {
                        return Ok(step);
                    }
                }
            }
        }
    }
}

impl Chunk {
    /// None if it has come further, but not to anything that can be passed on.
    fn step(&mut self, buffer: &mut BytesMut) -> Result<Option<Step>, Broken> {
        match self {
            Self::End => return Ok(Some(Step::End)),
            // `httparse` takes a line without a size for the last chunk's.
            Self::Size if !buffer.first().is_some_and(u8::is_ascii_hexdigit) => {
                return Err(Broken::Framing("a chunk has no size"));
            }
            Self::Size => match httparse::parse_chunk_size(buffer) {
                Ok(httparse::Status::Complete((start, size))) => {
                    drop(buffer.split_to(start));
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Ok(httparse::Status::Partial) if buffer.len() < MAX_LINE => return Ok(Some(Step::More)),
                Ok(httparse::Status::Partial) => return Err(Broken::Framing("the size of a chunk has no end")),
                Err(httparse::InvalidChunkSize) => return Err(Broken::Framing("a chunk has no size")),
            },
            Self::Data(left) => {
                let data = take(buffer, left);
                if *left == 0 {
                    *self = Self::LineEnd;
                }
                return Ok(Some(Step::Data(data)));
            }
            Self::LineEnd => match buffer.as_ref() {
                [b'\r', b'\n', ..] => {
                    drop(buffer.split_to(2));
                    *self = Self::Size;
                }
                [b'\r'] => return Ok(Some(Step::More)),
                _ => return Err(Broken::Framing("a chunk is longer than it says")),
            },
            Self::Trailers => return self.trailers(buffer).map(Some),
        }
        if buffer.is_empty() { Ok(Some(Step::More)) } else { Ok(None) }
    }

    fn trailers(&mut self, buffer: &mut BytesMut) -> Result<Step, Broken> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let (end, found) = match httparse::parse_headers(buffer, &mut fields) {
            Ok(httparse::Status::Complete(complete)) => complete,
            Ok(httparse::Status::Partial) if buffer.len() < MAX_TRAILERS => return Ok(Step::More),
            Ok(httparse::Status::Partial) => return Err(Broken::TooLarge),
            Err(error) => return Err(Broken::Syntax(error)),
        };
        let mut trailers = HeaderMap::with_capacity(found.len());
        for field in found {
            let name = HeaderName::from_bytes(field.name.as_bytes());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(field.value)) {
                trailers.append(name, value);
            }
        }
        drop(buffer.split_to(end));
        *self = Self::End;
        Ok(if trailers.is_empty() { Step::End } else { Step::Trailers(trailers) })
    }
}

/// As much of what is left as has come.
fn take(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
    *left -= length as u64;
    buffer.split_to(length).freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What comes out if the bytes come in parts, and what is left of them.
    fn decode(mut framing: Framing, parts: &[&[u8]]) -> Result<(String, usize, bool, usize), Broken> {
        let (mut buffer, mut text, mut trailers, mut ended) = (BytesMut::new(), String::new(), 0, false);
        for part in parts {
            buffer.extend_from_slice(part);
            loop {
                match framing.step(&mut buffer)? {
                    Step::Data(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                    Step::Trailers(fields) => trailers += fields.len(),
                    Step::More => break,
                    Step::End => {
                        ended = true;
                        break;
                    }
                }
            }
        }
        Ok((text, trailers, ended, buffer.len()))
    }

    const CHUNKED: Framing = Framing::Chunked(Chunk::Size);

    #[test]
    fn a_body_of_a_length_ends_there_and_what_follows_is_left() {
        let decoded = decode(Framing::Length(5), &[b"he", b"lloHTTP"]).unwrap();
        assert_eq!(decoded, ("hello".into(), 0, true, 4));
        assert!(!decode(Framing::Length(5), &[b"hell"]).unwrap().2);
        assert!(matches!(Framing::Length(1).at_close(), Err(Broken::Closed)));
        assert!(Framing::UntilClose.at_close().is_ok());
    }

    #[test]
    fn chunks_are_joined_and_trailers_are_read() {
        let body = b"5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\nrest";
        assert_eq!(decode(CHUNKED, &[body]).unwrap(), ("hello world".into(), 2, true, 4));
        assert_eq!(decode(CHUNKED, &[b"0\r\n\r\n"]).unwrap(), (String::new(), 0, true, 0));
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        for wrong in
            [&b"x\r\n"[..], b"5\r\nhelloo\r\n", b"\r\n", b"-1\r\n", b"fffffffffffffffff\r\n", b"0\r\n : x\r\n\r\n"]
        {
            assert!(decode(CHUNKED, &[wrong]).is_err_and(|e| e.is_syntax()), "{}", String::from_utf8_lossy(wrong));
        }
        let long = format!("1;{}", "x".repeat(MAX_LINE));
        assert!(matches!(decode(CHUNKED, &[long.as_bytes()]), Err(Broken::Framing(_))));
        let many = format!("0\r\nx: {}", "x".repeat(MAX_TRAILERS));
        assert!(matches!(decode(CHUNKED, &[many.as_bytes()]), Err(Broken::TooLarge)));
    }

    proptest! {
        #[test]
        fn where_the_bytes_part_does_not_matter(
            chunks in proptest::collection::vec("[a-z]{1,20}", 0..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..12),
        ) {
            let mut body = chunks.iter().map(|c| format!("{:x}\r\n{c}\r\n", c.len())).collect::<Vec<_>>().concat();
            body.push_str("0\r\nx-sum: 1\r\n\r\n");
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
            at.extend([0, body.len()]);
            at.sort_unstable();
            let parts: Vec<&[u8]> = at.windows(2).map(|w| &body.as_bytes()[w[0]..w[1]]).collect();
            prop_assert_eq!(decode(CHUNKED, &parts).unwrap(), (chunks.concat(), 1, true, 0));
        }
    }
}
