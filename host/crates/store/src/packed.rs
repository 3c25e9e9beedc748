//! Deflated bytes, alone or as what follows others that are much the same.
//!
//! A policy's memory changes little from one check to the next. Deflate (RFC 1951) refers back to what came before, as far
//! as its window of 32 KiB reaches: so the memory before is put through the compressor first and left out of what is kept.
//! To unpack it, the same bytes go before it again, as blocks that are stored and not compressed: they fill the window,
//! whatever compressor there was.

use std::io::{self, Read as _};

use flate2::{
    Compress, Compression, FlushCompress, Status,
    read::{DeflateDecoder, ZlibDecoder},
};

/// How far back deflate refers.
const WINDOW: usize = 32 << 10;

/// The most bytes of a block that is stored.
const BLOCK: usize = 0xffff;

/// Bytes on their own, as zlib (RFC 1950).
pub(super) fn alone(bytes: &[u8]) -> Vec<u8> {
    let mut packer = Compress::new(Compression::default(), true);
    run(&mut packer, bytes, FlushCompress::Finish)
}

/// The bytes of [`alone`], at most so many.
///
/// # Errors
/// When they are not what [`alone`] gave, or more.
pub(super) fn read_alone(packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
    whole(ZlibDecoder::new(packed), 0, most)
}

/// Bytes that follow `base`.
pub(super) fn after(base: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut packer = Compress::new(Compression::default(), false);
    run(&mut packer, window(base), FlushCompress::Sync);
    run(&mut packer, bytes, FlushCompress::Finish)
}

/// The bytes of [`after`], at most so many.
///
/// # Errors
/// When they are not what [`after`] gave for this base, or more.
pub(super) fn read_after(base: &[u8], packed: &[u8], most: u64) -> io::Result<Vec<u8>> {
    let base = window(base);
    let mut stream = Vec::with_capacity(base.len() + packed.len() + 5);
    for block in base.chunks(BLOCK) {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        // Not the last block, and stored; its length, and the same with all bits turned.
        stream.push(0);
        stream.extend(length.to_le_bytes());
        stream.extend((!length).to_le_bytes());
        stream.extend_from_slice(block);
    }
    stream.extend_from_slice(packed);
    whole(DeflateDecoder::new(stream.as_slice()), base.len(), most)
}

fn window(base: &[u8]) -> &[u8] {
    base.get(base.len().saturating_sub(WINDOW)..).unwrap_or(base)
}

fn whole(from: impl io::Read, skip: usize, most: u64) -> io::Result<Vec<u8>> {
    let skipped = u64::try_from(skip).unwrap_or(u64::MAX);
    let limit = most.saturating_add(skipped).saturating_add(1);
    let mut bytes = Vec::new();
    from.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() < skip || u64::try_from(bytes.len()).unwrap_or(u64::MAX) >= limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it has another length than it had"));
    }
    bytes.drain(..skip);
    Ok(bytes)
}

/// What the packer gives for more bytes.
fn run(packer: &mut Compress, mut bytes: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() / 4 + 64);
    loop {
        let (before, had) = (packer.total_in(), out.len());
        // There is room in `out`, and that is all that it can lack.
        let status = packer.compress_vec(bytes, &mut out, flush).unwrap_or(Status::StreamEnd);
        let taken = usize::try_from(packer.total_in() - before).unwrap_or(bytes.len());
        bytes = bytes.get(taken..).unwrap_or_default();
        let is_done = status == Status::StreamEnd || (flush == FlushCompress::Sync && out.len() < out.capacity());
        if is_done && bytes.is_empty() {
            return out;
        }
        if out.len() == out.capacity() || out.len() == had {
            out.reserve(out.capacity().max(64));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_much_the_same_takes_little() {
        let fields: Vec<_> = (0..400).map(|n| format!("{{\"n\":{n},\"x\":0.{}}}", n * 7_919 % 10_007)).collect();
        let text = fields.join(",");
        let later = text.replace("\"n\":7,", "\"n\":8,");
        let (whole, little) = (alone(text.as_bytes()), after(text.as_bytes(), later.as_bytes()));
        assert!(little.len() * 10 < whole.len(), "{} and {}", little.len(), whole.len());
        assert_eq!(read_after(text.as_bytes(), &little, 1 << 20).unwrap(), later.as_bytes());
    }

    #[test]
    fn what_is_not_what_was_packed_is_an_error_and_never_more_than_is_wanted() {
        let bytes = vec![0; 1 << 20];
        for packed in [alone(&bytes), after(b"base", &bytes)] {
            assert!(read_alone(&packed, 1 << 19).is_err());
            assert!(read_after(b"base", &packed, 1 << 19).is_err());
        }
        assert!(read_alone(b"text", 10).is_err());
        assert!(read_after(b"other", &after(b"base", b"base and more"), 0).is_err());
    }

    proptest! {
        #[test]
        fn anything_comes_back_whatever_it_follows(
            base in proptest::collection::vec(any::<u8>(), 0..300),
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            repeat in 1..400_usize,
        ) {
            let (base, bytes) = (base.repeat(repeat), [bytes.clone(), base, bytes].concat().repeat(repeat / 10));
            let most = bytes.len() as u64;
            prop_assert_eq!(&read_alone(&alone(&bytes), most).unwrap(), &bytes);
            prop_assert_eq!(&read_after(&base, &after(&base, &bytes), most).unwrap(), &bytes);
        }
    }
}
