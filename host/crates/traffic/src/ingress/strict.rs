//! What hyper lets pass and no proxy should: framing that two readers may read in two ways. Pure.

use hyper::{
    HeaderMap, StatusCode, Version,
    header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING},
};

use crate::{
    http1::MAX_FIELDS,
    proxy::{Reply, refuse},
};

/// The longest body that anybody may announce: more than that fits no signed number of 64 bits, and is cut off by many.
pub(super) const LONGEST: u64 = u64::MAX >> 1;

/// Why a request is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// Its body is encoded for this connection in a way that the host does not read (RFC 9112, 6.1).
    #[error("`chunked` is the only transfer coding that is served")]
    Coding,
    /// It is in chunks of chunks (RFC 9112, 7.1).
    #[error("`chunked` must not be applied more than once")]
    Chunked,
    /// Lengths that are none, or differ.
    #[error("`Content-Length` must be one number")]
    Length,
    /// A length that no body has.
    #[error("`Content-Length` is more than {LONGEST}")]
    Longest,
    /// It has too many fields.
    #[error("a request must not have more than {MAX_FIELDS} fields")]
    Fields,
}

impl Refused {
    /// What the caller is told. It is not listened to any further.
    pub(super) fn reply(self) -> Reply {
        let status = match self {
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Chunked | Self::Length | Self::Longest => StatusCode::BAD_REQUEST,
            Self::Fields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        };
        let mut reply = refuse(status, "request", &self.to_string());
        reply.head.fields.set("connection", "close");
        reply
    }
}

/// Verifies the fields of a request that hyper has read, and makes of several lengths that are the same one (RFC 9110, 8.6).
pub(super) fn verify(version: Version, fields: &mut HeaderMap) -> Result<(), Refused> {
    if fields.len() > MAX_FIELDS {
        return Err(Refused::Fields);
    }
    if version == Version::HTTP_11 {
        let codings = fields.get_all(TRANSFER_ENCODING).into_iter();
        let codings = codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let mut codings = codings.map(<[u8]>::trim_ascii).filter(|coding| !coding.is_empty()).peekable();
        if codings.peek().is_some() {
            let (mut all, mut chunked) = (0, 0);
            for coding in codings {
                all += 1;
                chunked += usize::from(coding.eq_ignore_ascii_case(b"chunked"));
            }
            match (all, chunked) {
                (1, 1) => {}
                (_, 2..) => return Err(Refused::Chunked),
                _ => return Err(Refused::Coding),
            }
        }
    }
    let mut lengths = fields.get_all(CONTENT_LENGTH).into_iter();
    let Some(first) = lengths.next().cloned() else { return Ok(()) };
    let mut is_repeated = false;
    for other in lengths {
        if *other != first {
            return Err(Refused::Length);
        }
        is_repeated = true;
    }
    length(first.as_bytes())?;
    if is_repeated {
        fields.insert(CONTENT_LENGTH, first);
    }
    Ok(())
}

/// Whether it is the length of a body (RFC 9110, 8.6).
pub(super) fn length(value: &[u8]) -> Result<u64, Refused> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refused::Length);
    }
    let number = HeaderValue::from_bytes(value).ok().and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    number.filter(|number| *number <= LONGEST).ok_or(Refused::Longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(version: Version, all: &[(&str, &str)]) -> Result<HeaderMap, Refused> {
        let mut fields = HeaderMap::new();
        for (name, value) in all {
            fields.append(name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        verify(version, &mut fields).map(|()| fields)
    }

    #[test]
    fn chunked_alone_is_a_transfer_coding() {
        let of = |values: &[&str]| {
            let all: Vec<_> = values.iter().map(|value| ("transfer-encoding", *value)).collect();
            verified(Version::HTTP_11, &all).err()
        };
        for fine in [&["chunked"][..], &["Chunked"], &[", chunked,"], &[]] {
            assert_eq!(of(fine), None, "{fine:?}");
        }
        for unknown in [&["gzip, chunked"][..], &["gzip", "chunked"], &["identity"], &["chunked;q=1"], &["xchunked"]] {
            assert_eq!(of(unknown), Some(Refused::Coding), "{unknown:?}");
        }
        assert_eq!(of(&["chunked, chunked"]), Some(Refused::Chunked));
        assert_eq!(of(&["chunked", "chunked"]), Some(Refused::Chunked));
    }

    #[test]
    fn lengths_are_one_number() {
        let of = |values: &[&str]| {
            let all: Vec<_> = values.iter().map(|value| ("content-length", *value)).collect();
            verified(Version::HTTP_2, &all).map(|fields| fields.get_all(CONTENT_LENGTH).iter().count())
        };
        assert_eq!((of(&[]), of(&["5"]), of(&["5", "5"])), (Ok(0), Ok(1), Ok(1)));
        for wrong in [&["5", "6"][..], &["5, 5"], &["+5"], &["-1"], &[""], &["0x5"], &["5", "5 5"]] {
            assert_eq!(of(wrong), Err(Refused::Length), "{wrong:?}");
        }
        assert_eq!(of(&["9223372036854775807"]), Ok(1));
        for long in ["9223372036854775808", "18446744073709551615", "99999999999999999999999"] {
            assert_eq!(of(&[long]), Err(Refused::Longest), "{long}");
        }
    }

    #[test]
    fn fields_are_counted_whatever_the_version() {
        let many = |count| vec![("x-many", "1"); count];
        assert!(verified(Version::HTTP_2, &many(MAX_FIELDS)).is_ok());
        assert_eq!(verified(Version::HTTP_2, &many(MAX_FIELDS + 1)).unwrap_err(), Refused::Fields);
    }
}
