//! Decodes bodies from the compression that they were sent with, so that their contents can be read.
//!
//! The encodings are those that browsers and clients ask for: gzip and deflate (RFC 9110, 8.4.1), brotli (RFC 7932) and
//! Zstandard (RFC 8878, with the window of RFC 9659). The caller bounds what is unpacked, whatever a body claims.

use std::io::{self, Read as _};

use brotli_decompressor::Decompressor;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use super::Fields;

/// Encodings that one body may be in, one in the other.
const MAX_LAYERS: usize = 3;

/// The largest window of Zstandard over HTTP: RFC 9659 has clients accept 8 MB.
const ZSTD_WINDOW: u64 = 8 << 20;

/// How many bytes brotli reads at once.
const BROTLI_BUFFER: usize = 4 << 10;

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Undecoded {
    /// Decoded, it is larger than the caller allows.
    TooLarge,
    /// The host does not know the encoding.
    Unknown(String),
    /// Its bytes are not of the encoding that it names.
    Broken,
}

/// All encodings that a head names, in the order in which they were applied; empty if there are none.
pub(crate) fn of(fields: &Fields) -> String {
    fields.tokens("content-encoding").collect::<Vec<_>>().join(", ")
}

/// A body without its `content-encoding` (RFC 9110, 8.4), if it is not larger than `most` then. None if it has none.
pub(crate) fn decode(encoding: &str, body: &[u8], most: usize) -> Result<Option<Vec<u8>>, Undecoded> {
    let unknown = |name: &str| Undecoded::Unknown(name.trim().chars().take(64).collect());
    let layers = encoding.split(',').map(|layer| layer.trim().to_ascii_lowercase());
    let layers: Vec<_> = layers.filter(|layer| !layer.is_empty() && layer != "identity").collect();
    // A HEAD is answered without the body that its fields are about.
    if layers.is_empty() || body.is_empty() {
        return Ok(None);
    }
    if layers.len() > MAX_LAYERS {
        return Err(unknown(encoding));
    }
    let mut decoded = None::<Vec<u8>>;
    // They are listed in the order in which they were applied.
    for layer in layers.iter().rev() {
        let packed = decoded.as_deref().unwrap_or(body);
        decoded = Some(match layer.as_str() {
            "gzip" | "x-gzip" => read(MultiGzDecoder::new(packed), most)?,
            "deflate" => read(ZlibDecoder::new(packed), most)?,
            "br" => read(Decompressor::new(packed, BROTLI_BUFFER), most)?,
            "zstd" => zstd(packed, most)?,
            _ => return Err(unknown(encoding)),
        });
    }
    Ok(decoded)
}

fn read(decoder: impl io::Read, most: usize) -> Result<Vec<u8>, Undecoded> {
    let mut body = Vec::new();
    // One more, so that what is too large is seen to be.
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    match decoder.take(limit).read_to_end(&mut body) {
        Ok(_) if body.len() > most => Err(Undecoded::TooLarge),
        Ok(_) => Ok(body),
        Err(_) => Err(Undecoded::Broken),
    }
}

/// One frame after the other, as they may follow each other.
fn zstd(mut packed: &[u8], most: usize) -> Result<Vec<u8>, Undecoded> {
    let mut body = Vec::new();
    while !packed.is_empty() {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(ZSTD_WINDOW);
        let frame = StreamingDecoder::new_with_decoder(&mut packed, frame).map_err(|_wrong| Undecoded::Broken)?;
        if usize::try_from(frame.decoder.content_size()).is_ok_and(|size| size > most) {
            return Err(Undecoded::TooLarge);
        }
        body.append(&mut read(frame, most - body.len())?);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use brotli::CompressorWriter;
    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn br(body: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        CompressorWriter::new(&mut packed, 4_096, 5, 22).write_all(body).unwrap();
        packed
    }

    fn zst(body: &[u8]) -> Vec<u8> {
        compress_to_vec(body, CompressionLevel::Fastest)
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_read_as_it_was(body in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
            zlib.write_all(&body).unwrap();
            prop_assert_eq!(decode("GZip", &gzip(&body), 2_000), Ok(Some(body.clone())));
            prop_assert_eq!(decode("deflate", &zlib.finish().unwrap(), 2_000), Ok(Some(body.clone())));
            prop_assert_eq!(decode("identity", &body, 0), Ok(None));
            prop_assert_eq!(decode("br", &br(&body), 2_000), Ok(Some(body.clone())));
            prop_assert_eq!(decode("zstd", &zst(&body), 2_000), Ok(Some(body.clone())));
            let frames = [zst(&body), zst(b"more")].concat();
            prop_assert_eq!(decode("zstd", &frames, 2_004), Ok(Some([&body[..], b"more"].concat())));
            prop_assert_eq!(decode("gzip, br", &br(&gzip(&body)), 4_000), Ok(Some(body)));
        }
    }

    #[test]
    fn what_is_large_once_it_is_unpacked_is_too_large() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 8_192);
        assert_eq!(decode("gzip", &bomb, (1 << 20) - 1), Err(Undecoded::TooLarge));
        assert_eq!(decode("gzip", &bomb, 1 << 20).map(|body| body.map(|body| body.len())), Ok(Some(1 << 20)));
        let zeros = vec![0; 1 << 20];
        for (encoding, bomb) in [("br", br(&zeros)), ("zstd", zst(&zeros)), ("gzip, gzip", gzip(&bomb))] {
            assert!(bomb.len() < 8_192, "{encoding}: {}", bomb.len());
            assert_eq!(decode(encoding, &bomb, (1 << 20) - 1), Err(Undecoded::TooLarge), "{encoding}");
        }
        let frames = [zst(&zeros[..600_000]), zst(&zeros[..600_000])].concat();
        assert_eq!(decode("zstd", &frames, 1 << 20), Err(Undecoded::TooLarge), "together");
    }

    #[test]
    fn what_is_not_what_it_says_and_what_nobody_knows_are_told_apart() {
        assert_eq!(decode("gzip", b"{}", 10), Err(Undecoded::Broken));
        for encoding in ["br", "zstd", "gzip, br"] {
            assert_eq!(decode(encoding, b"no such thing", 99), Err(Undecoded::Broken), "{encoding}");
        }
        for encoding in ["compress", "gzip, lz4", "br, br, br, br"] {
            assert_eq!(decode(encoding, b"x", 10), Err(Undecoded::Unknown(encoding.into())));
        }
        assert_eq!(decode("br", b"", 10), Ok(None), "a HEAD has none to decode");
    }
}
