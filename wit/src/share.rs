//! Which sessions belong to V2 at a given share.
//!
//! The split is one hash, one multiply and one shift: `position = murmur3_x86_32(salt ':' key) * 1 000 000 >> 32`, and
//! a session belongs to V2 while its position is below the share. So a larger share only adds sessions, and the same
//! salt gives the same sessions again after a rollback. The hash is `MurmurHash3_x86_32` with seed 0 (Austin Appleby,
//! public domain), the one that the field's feature-flag evaluators use.

use std::io::Read;

/// A whole, in parts per million.
pub const MILLION: u32 = 1_000_000;

/// Where a session stands between 0 and 999 999, for good.
#[must_use]
pub fn position(salt: &str, key: &str) -> u32 {
    let mut text = salt.as_bytes().chain(b":".as_slice()).chain(key.as_bytes());
    // Reading from memory cannot fail; 0 would be a session that moves first, which is harmless.
    scale(murmur3::murmur3_32(&mut text, 0).unwrap_or(0))
}

/// Whether a session at `position` belongs to V2 at `share_ppm`.
#[must_use]
pub const fn is_v2(position: u32, share_ppm: u32) -> bool {
    position < share_ppm
}

/// Maps a 32-bit hash evenly onto 0..1 000 000.
#[must_use]
pub const fn scale(hash: u32) -> u32 {
    ((hash as u64 * MILLION as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys with known hashes, published with the test bed of a feature-flag evaluator that splits the same way.
    #[test]
    fn hash_agrees_with_published_boundary_keys() {
        for (key, hash) in
            [("ejOoVL", 0), ("bY9fO-", 1), ("SI7p-", 0x7fff_ffff), ("6LvT0", 0x8000_0000), ("ceQdGm", 0xffff_ffff)]
        {
            assert_eq!(murmur3::murmur3_32(&mut key.as_bytes(), 0).unwrap(), hash, "{key}");
        }
        assert_eq!(scale(0), 0);
        assert_eq!(scale(0x8000_0000), 500_000);
        assert_eq!(scale(u32::MAX), 999_999);
    }

    #[test]
    fn observed_share_is_within_four_sigma_of_its_target() {
        for share in [100, 1_000, 50_000, 250_000, 500_000, 999_000] {
            let (n, p) = (200_000_u32, f64::from(share) / 1e6);
            let on_v2 = |i: &u32| is_v2(position("m", &format!("s{i}")), share);
            let hits = u32::try_from((0..n).filter(on_v2).count()).unwrap();
            let sigma = (p * (1.0 - p) * f64::from(n)).sqrt();
            let off = (f64::from(hits) - p * f64::from(n)).abs();
            assert!(off <= 4.0 * sigma, "share {share}: {hits} of {n}, {off:.1} off with sigma {sigma:.1}");
        }
    }

    proptest! {
        #[test]
        fn a_larger_share_only_adds_sessions(salt in ".{0,8}", key in ".{0,40}", a in 0..=MILLION, b in 0..=MILLION) {
            let at = position(&salt, &key);
            prop_assert!(at < MILLION);
            prop_assert!(!is_v2(at, a.min(b)) || is_v2(at, a.max(b)));
            prop_assert!(!is_v2(at, 0) && is_v2(at, MILLION));
        }
    }
}
