//! What reading heads of HTTP/1.1 has in common for callers and for upstreams (RFC 9112). Pure.

/// Fields of a head, at most.
pub const MAX_FIELDS: usize = 128;

/// The largest head. nginx takes 8 KiB of an upstream and 32 of a caller, `HAProxy` 16.
pub const MAX_HEAD: usize = 64 << 10;

/// Whether an empty line may have come with the bytes from `seen` on.
pub fn may_end(read: &[u8], seen: usize) -> bool {
    let new = read.get(seen.saturating_sub(3)..).unwrap_or_default();
    new.windows(2).any(|two| two == b"\n\n") || new.windows(3).any(|three| three == b"\n\r\n")
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
