//! Which member gets the next request: the better of two drawn at random, by load times latency. Pure.
//!
//! Two choices ("The Power of Two Choices in Randomized Load Balancing", Mitzenmacher 2001) avoid both the herd of
//! "the least loaded of all" and the blindness of a draw. Load is requests in flight; latency is a peak-sensitive moving
//! average ([`Latency`]), as Finagle's balancer has it: a slow answer counts at once, and is forgotten slowly.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use cutover_model::clock::Mono;

/// After this time a latency counts a third (1/e) of what it did.
const DECAY: Duration = Duration::from_secs(10);

/// A latency this young has not been forgotten noticeably.
const FRESH: Duration = Duration::from_millis(10);

/// What a request in flight costs where nothing was answered yet: as much as a very slow member.
const UNKNOWN_NS: u64 = 1_000_000_000;

/// A moving average of the time to the first byte that jumps to peaks. Any number of threads may add to it; an update
/// that is lost in a race is one of thousands.
#[derive(Debug, Default)]
pub struct Latency {
    average_ns: AtomicU64,
    at_ns: AtomicU64,
}

impl Latency {
    /// Takes what a request took.
    pub fn add(&self, took: Duration, now: Mono) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let old = self.average_ns.load(Ordering::Relaxed);
        let span = now.nanos().saturating_sub(self.at_ns.load(Ordering::Relaxed));
        self.at_ns.store(now.nanos(), Ordering::Relaxed);
        let new = if took >= old { took } else { mix(old, took, span) };
        self.average_ns.store(new, Ordering::Relaxed);
    }

    /// The average, in nanoseconds; none before the first answer. It is forgotten while nothing is added, so that a
    /// member that was slow once is asked again.
    pub fn average_ns(&self, now: Mono) -> Option<u64> {
        let average = Some(self.average_ns.load(Ordering::Relaxed)).filter(|ns| *ns > 0)?;
        let span = now.since(Mono::from_nanos(self.at_ns.load(Ordering::Relaxed)));
        Some(if span < FRESH { average } else { mix(average, 1, u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)) })
    }
}

/// The old average with the weight e^(-span/decay), the new value with the rest.
fn mix(old: u64, new: u64, span_ns: u64) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "an average needs no more than 52 bits")]
    let (old, new, span) = (old as f64, new as f64, span_ns as f64);
    let weight = (-span / DECAY.as_secs_f64() / 1e9).exp();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two that fit")]
    let mixed = (old * weight + new * (1.0 - weight)) as u64;
    mixed.max(1)
}

/// What one more request costs where so many are in flight.
pub fn cost(in_flight: usize, latency_ns: Option<u64>) -> u64 {
    let load = in_flight as u64;
    match latency_ns {
        Some(latency) => latency.saturating_mul(load + 1),
        None => UNKNOWN_NS.saturating_mul(load),
    }
}

/// The member for the next request: `usable` says whether a member may have it, `cost` what it costs there, `chance` is
/// a random number. `None` if no member is usable.
pub fn choose(
    members: usize,
    chance: u64,
    usable: impl Fn(usize) -> bool,
    cost: impl Fn(usize) -> u64,
) -> Option<usize> {
    if members == 0 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "halves of a random number are random")]
    let (one, other) = (chance as usize, (chance >> 32) as usize);
    let from = |start: usize| (0..members).map(|step| (start + step) % members).find(|at| usable(*at));
    let first = from(one % members)?;
    // Another one, if there is another: it begins after the first.
    let second = from((first + 1 + other % members.saturating_sub(1).max(1)) % members)?;
    Some(if cost(second) < cost(first) { second } else { first })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn peaks_count_at_once_and_are_forgotten_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.average_ns(Mono::from_nanos(0)), None);
        let at = |seconds: u64| Mono::from_nanos(seconds * 1_000 * MS);
        latency.add(Duration::from_millis(10), at(1));
        latency.add(Duration::from_millis(500), at(2));
        assert_eq!(latency.average_ns(at(2)), Some(500 * MS));
        latency.add(Duration::from_millis(10), at(3));
        let soon = latency.average_ns(at(3)).unwrap();
        assert!((440 * MS..460 * MS).contains(&soon), "{soon}");
        latency.add(Duration::from_millis(10), at(60));
        assert!(latency.average_ns(at(60)).unwrap() < 13 * MS);
        assert!(latency.average_ns(at(160)).unwrap() < MS, "who is not asked is forgotten");
    }

    #[test]
    fn who_never_answered_is_tried_once() {
        assert!(cost(0, None) < cost(0, Some(1)));
        assert!(cost(1, None) > cost(1, Some(100 * MS)));
    }

    #[test]
    fn the_slow_one_of_two_gets_little() {
        let costs = [cost(0, Some(100 * MS)), cost(5, Some(2 * MS))];
        for chance in 0..64_u64 {
            let drawn = chance.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            assert_eq!(choose(2, drawn, |_| true, |at| costs[at]), Some(1));
        }
    }

    proptest! {
        #[test]
        fn the_chosen_is_usable_and_everybody_can_be_chosen(usable in prop::collection::vec(any::<bool>(), 1..9), chance: u64) {
            let chosen = choose(usable.len(), chance, |at| usable[at], |_| 1);
            prop_assert_eq!(chosen.is_some(), usable.contains(&true));
            prop_assert!(chosen.is_none_or(|at| usable[at]));
        }

        #[test]
        fn the_dearest_of_three_or_more_is_never_chosen(members in 3_usize..9, dear in 0_usize..9, chance: u64) {
            let dear = dear % members;
            let chosen = choose(members, chance, |_| true, |at| u64::from(at == dear) + 1);
            prop_assert_ne!(chosen, Some(dear));
        }
    }
}
