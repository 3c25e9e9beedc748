//! What heads of HTTP/1.1 have in common, on the side of callers and on that of upstreams (RFC 9112). Pure.

use bytes::Bytes;
use httparse::Header;
use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

/// Fields of a head, at most.
pub const MAX_FIELDS: usize = 128;

/// The largest head. nginx takes 8 KiB of an upstream and 32 of a caller, `HAProxy` 16.
pub const MAX_HEAD: usize = 64 << 10;

/// Fields that a proxy adds to a head, at most.
pub const ADDED: usize = 6;

/// Where names and values of fields are in the bytes that they were read from.
#[derive(Debug)]
pub struct Spans {
    all: [[u16; 4]; MAX_FIELDS],
    count: usize,
}

impl Spans {
    /// Of fields that were read from these bytes, of which a head is no longer than [`MAX_HEAD`].
    pub fn of(bytes: &[u8], fields: &[Header<'_>]) -> Self {
        let start = bytes.as_ptr().addr();
        let small = |n: usize| u16::try_from(n).unwrap_or_default();
        let mut all = [[0; 4]; MAX_FIELDS];
        for (span, Header { name, value }) in all.iter_mut().zip(fields) {
            // An empty value may be anywhere.
            let value_at = if value.is_empty() { 0 } else { value.as_ptr().addr() - start };
            *span = [name.as_ptr().addr() - start, name.len(), value_at, value.len()].map(small);
        }
        Self { all, count: fields.len() }
    }

    /// The fields, as parts of the bytes: nothing is copied.
    ///
    /// # Errors
    /// If a name or a value is none.
    pub fn fields(&self, bytes: &Bytes) -> Result<HeaderMap, httparse::Error> {
        let mut headers = HeaderMap::with_capacity(self.count + ADDED);
        for span in self.all.iter().take(self.count) {
            let [name, name_length, value, value_length] = span.map(usize::from);
            let name = HeaderName::from_bytes(bytes.get(name..name + name_length).unwrap_or_default());
            let name = name.map_err(|_too_long| httparse::Error::HeaderName)?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(value..value + value_length));
            headers.append(name, value.map_err(|_control| httparse::Error::HeaderValue)?);
        }
        Ok(headers)
    }
}

/// Whether an empty line may have come with the bytes from `seen` on.
pub fn may_end(read: &[u8], seen: usize) -> bool {
    let new = read.get(seen.saturating_sub(3)..).unwrap_or_default();
    new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
}

/// Writes a field.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_looked_at_again_only_if_it_may_be_whole() {
        assert!(may_end(b"a\r\n\r\n", 4) && may_end(b"a\n\n", 2));
        assert!(!may_end(b"a\r\n\r", 0) && !may_end(b"\n\nabcdef", 6));
    }
}
