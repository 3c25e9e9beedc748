//! Bodies as they mean to be: without the compression that they were sent with.

use std::io::{self, Read as _};

use flate2::read::{MultiGzDecoder, ZlibDecoder};

/// Why a body is not what it means to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undecoded {
    /// It is larger than what is kept.
    TooLarge,
    /// The host does not know the encoding.
    Unknown(String),
    /// It is not what its encoding says.
    Broken,
}

/// A body without its `content-encoding` (RFC 9110, 8.4), if it is not larger than `most` then. None if it has none.
pub(super) fn decode(encoding: &str, body: &[u8], most: usize) -> Result<Option<Vec<u8>>, Undecoded> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(None),
        // A HEAD is answered without the body that its fields are about.
        _ if body.is_empty() => Ok(None),
        "gzip" | "x-gzip" => read(MultiGzDecoder::new(body), most).map(Some),
        "deflate" => read(ZlibDecoder::new(body), most).map(Some),
        other => Err(Undecoded::Unknown(other.chars().take(64).collect())),
    }
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{GzEncoder, ZlibEncoder},
    };
    use proptest::prelude::*;

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    proptest! {
        #[test]
        fn what_was_compressed_is_read_as_it_was(body in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
            zlib.write_all(&body).unwrap();
            prop_assert_eq!(decode("GZip", &gzip(&body), 2_000), Ok(Some(body.clone())));
            prop_assert_eq!(decode("deflate", &zlib.finish().unwrap(), 2_000), Ok(Some(body.clone())));
            prop_assert_eq!(decode("identity", &body, 0), Ok(None));
        }
    }

    #[test]
    fn what_is_large_once_it_is_unpacked_is_too_large() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 8_192);
        assert_eq!(decode("gzip", &bomb, (1 << 20) - 1), Err(Undecoded::TooLarge));
        assert_eq!(decode("gzip", &bomb, 1 << 20).map(|body| body.map(|body| body.len())), Ok(Some(1 << 20)));
    }

    #[test]
    fn what_is_not_what_it_says_and_what_nobody_knows_are_told_apart() {
        assert_eq!(decode("gzip", b"{}", 10), Err(Undecoded::Broken));
        assert_eq!(decode("br", b"x", 10), Err(Undecoded::Unknown("br".into())));
        assert_eq!(decode("gzip, br", b"x", 10), Err(Undecoded::Unknown("gzip, br".into())));
        assert_eq!(decode("br", b"", 10), Ok(None), "a HEAD has none to decode");
    }
}
