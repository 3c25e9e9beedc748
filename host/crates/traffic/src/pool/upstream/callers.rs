//! Shares out the places of a pool among callers, so that no caller has all of them. Pure but for the counts.
//!
//! A caller gets another place as long as it has fewer than a multiple of those that are free (dynamic thresholds:
//! Choudhury and Hahne, IEEE/ACM Transactions on Networking, 1998, where queues share a memory). A caller that is alone
//! can have the configured share of all places; the more callers want many, the fewer each gets, and some places always
//! stay free for a caller that has few. The host need not know how many callers there are.
//!
//! Callers are counted by a hash of their address that nobody can foresee. Two that have the same hash, one in
//! thousands, count as one caller.

use std::{
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use foldhash::fast::RandomState;

/// How many callers are told apart.
const KNOWN: usize = 4_096;

/// The part of an IPv6 address by which callers are told apart: a caller with one address of a network has all of them.
const NETWORK: u128 = !0 << 64;

static SEED: OnceLock<RandomState> = OnceLock::new();

/// A caller, as far as pools tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(u16);

/// How many places of a pool each caller has.
#[derive(Debug)]
pub(super) struct Callers(Box<[AtomicU32]>);

impl Source {
    /// The caller at an address.
    pub fn of(address: IpAddr) -> Self {
        let hash = SEED.get_or_init(RandomState::default).hash_one(network(address));
        // As many as are told apart is a power of two below 2^16.
        Self(u16::try_from(hash % KNOWN as u64).unwrap_or_default())
    }
}

/// What of an address makes a caller: all of it, or its network of IPv6.
pub fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address) & NETWORK,
    }
}

impl Callers {
    pub(super) fn new() -> Self {
        Self((0..KNOWN).map(|_| AtomicU32::new(0)).collect())
    }

    /// Places that a caller has.
    pub(super) fn places(&self, of: Source) -> usize {
        self.0.get(usize::from(of.0)).map_or(0, |count| count.load(Ordering::Relaxed) as usize)
    }

    /// It has one more.
    pub(super) fn enter(&self, of: Source) {
        if let Some(count) = self.0.get(usize::from(of.0)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It has one less.
    pub(super) fn leave(&self, of: Source) {
        if let Some(count) = self.0.get(usize::from(of.0)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether a caller that has so many places may have another when so many are free; alone it may have `share_percent`.
pub(super) const fn may_have_another(own: usize, free: usize, share_percent: u32) -> bool {
    own == 0 || own * (100 - share_percent as usize) < share_percent as usize * free
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What callers get of so many places if all of them want all.
    fn greedy(callers: usize, places: usize, share: u32) -> Vec<usize> {
        let mut own = vec![0; callers];
        loop {
            let before = own.clone();
            for at in 0..callers {
                let free = places - own.iter().sum::<usize>();
                if free > 0 && may_have_another(own[at], free, share) {
                    own[at] += 1;
                }
            }
            if own == before {
                return own;
            }
        }
    }

    #[test]
    fn one_caller_has_its_share_and_several_leave_room_for_another() {
        assert_eq!(greedy(1, 1_000, 80), [800]);
        assert_eq!(greedy(2, 1_000, 80), [445, 444]);
        assert_eq!(greedy(1, 1_000, 100), [1_000]);
        assert_eq!(greedy(1, 1, 80), [1]);
        assert_eq!(greedy(1, 2, 80), [2], "of few places one caller has all");
        assert!(greedy(10, 1_000, 80).iter().sum::<usize>() < 980);
    }

    #[test]
    fn an_address_is_a_caller_and_so_is_a_network_of_ipv6() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        let apart = (0..100_u8).filter(|n| Source::of([10, 0, 0, *n].into()) != of("10.1.0.1")).count();
        assert!(apart > 90, "{apart}");
    }

    proptest! {
        #[test]
        fn whoever_has_nothing_gets_something_while_anything_is_free(
            callers in 1..12_usize, places in 1..500_usize, share in 1..=99_u32,
        ) {
            let own = greedy(callers, places, share);
            let (least, most) = (own.iter().min().unwrap(), own.iter().max().unwrap());
            prop_assert!(most - least <= 1, "all alike: {:?}", own);
            let alone = greedy(1, places, share)[0];
            prop_assert!(alone <= (places * share as usize).div_ceil(100).max(1));
        }
    }
}
