//! How many requests one caller may send: so many in a span of time, and so many at once.
//!
//! The rule is the generic cell rate algorithm (ITU-T I.371, 5.4.4): the host keeps for each caller only the time at
//! which its next request would come if it sent them evenly. A request that comes too long before that is refused, and
//! costs nothing.
//!
//! The table of callers is bounded. Each caller belongs into one of many small sets; where a set is full, the caller in
//! it that is furthest from its limit is forgotten, and begins again with a whole burst. So a sender with many
//! addresses pushes out callers that send little, who lose nothing by it, and not those that are at their limits.

use std::{
    borrow::Cow,
    hash::BuildHasher as _,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::pool::upstream::callers::network;
use cutover_model::clock::Mono;

/// How many sets of callers there are.
const SETS: usize = 8_192;

/// Callers in each set: 65 536 in all, in a megabyte.
const WAYS: usize = 8;

/// How often one caller may send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time between two, if they come evenly; in nanoseconds.
    period: u64,
    /// So many may come at once.
    burst: u32,
}

/// Who counts as one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Its address, or its network of 64 bits of IPv6.
    Address,
    /// Its session; its address if it has none.
    Session,
}

/// A limit for each caller, and those who have sent something lately.
#[derive(Debug)]
pub struct Limiter {
    rate: Rate,
    per: Per,
    seed: RandomState,
    sets: Box<[Mutex<[Known; WAYS]>]>,
}

/// A limit as it is for one operation, which may share it with others.
#[derive(Debug)]
pub struct Limit {
    limiter: Arc<Limiter>,
    refused: AtomicU64,
}

/// A caller, and when its next request would come. The default is no caller, and one that has sent nothing for long.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    tag: u64,
    next: u64,
}

impl Rate {
    /// From a configuration: `100/s`, `30/m`, `1000/h`; none if it is nothing of the kind.
    pub fn parse(text: &str, burst: Option<u32>) -> Option<Self> {
        let (number, unit) = text.split_once('/')?;
        let number = number.trim().parse::<u32>().ok().filter(|number| (1..=1_000_000).contains(number))?;
        let unit = match unit.trim() {
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return None,
        };
        let period = nanos(unit) / u64::from(number);
        Some(Self { period, burst: burst.unwrap_or(number).max(1) })
    }

    /// When the request after one that comes now would come, given when this one would have; or how long it is too early.
    const fn admit(self, next: u64, now: u64) -> Result<u64, u64> {
        let tolerance = self.period.saturating_mul(self.burst as u64 - 1);
        if next > now.saturating_add(tolerance) {
            return Err(next - now - tolerance);
        }
        let from = if next > now { next } else { now };
        Ok(from.saturating_add(self.period))
    }
}

impl Limiter {
    /// A limiter that has seen no caller yet.
    pub fn new(rate: Rate, per: Per) -> Self {
        Self { rate, per, seed: RandomState::default(), sets: (0..SETS).map(|_| Mutex::default()).collect() }
    }

    /// Counts a request of a caller.
    ///
    /// # Errors
    /// How long it is too early.
    fn admit(&self, hash: u64, now: Mono) -> Result<(), Duration> {
        let tag = hash | 1;
        let Some(set) = usize::try_from(hash / 2 % SETS as u64).ok().and_then(|at| self.sets.get(at)) else {
            return Ok(());
        };
        let mut set = set.lock();
        let next = set.iter().find(|known| known.tag == tag).map_or(0, |known| known.next);
        let next = self.rate.admit(next, now.nanos()).map_err(Duration::from_nanos)?;
        let own = set.iter().position(|known| known.tag == tag);
        let at = own.or_else(|| (0..WAYS).min_by_key(|at| set.get(*at).map_or(u64::MAX, |known| known.next)));
        if let Some(place) = at.and_then(|at| set.get_mut(at)) {
            *place = Known { tag, next };
        }
        Ok(())
    }
}

impl Limit {
    /// A limit of its own on what it refuses, with the callers of `limiter`.
    pub fn of(limiter: &Arc<Limiter>) -> Arc<Self> {
        Arc::new(Self { limiter: Arc::clone(limiter), refused: AtomicU64::new(0) })
    }

    /// Counts a request of the caller at an address, or of its session.
    ///
    /// # Errors
    /// When it may come again.
    pub fn admit<'a>(
        &self,
        address: IpAddr,
        session: impl FnOnce() -> Option<Cow<'a, str>>,
        now: Mono,
    ) -> Result<(), Duration> {
        let Limiter { per, seed, .. } = &*self.limiter;
        let hash = match per {
            Per::Address => seed.hash_one(network(address)),
            Per::Session => {
                session().map_or_else(|| seed.hash_one(network(address)), |session| seed.hash_one(&*session))
            }
        };
        self.limiter.admit(hash, now).inspect_err(|_early| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// Requests that were refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

// Two limits are equal if they have the same rule, whatever callers have sent.
impl PartialEq for Limit {
    fn eq(&self, other: &Self) -> bool {
        (self.limiter.rate, self.limiter.per) == (other.limiter.rate, other.limiter.per)
    }
}

impl Eq for Limit {}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Mono {
        // Not at time zero, where no host ever is.
        Mono::from_nanos((1_000_000 + ms) * 1_000_000)
    }

    fn limit(text: &str, burst: u32, per: Per) -> Arc<Limit> {
        Limit::of(&Arc::new(Limiter::new(Rate::parse(text, Some(burst)).unwrap(), per)))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rates_are_numbers_in_a_second_minute_or_hour() {
        let of = |text| Rate::parse(text, None).map(|rate| (rate.period, rate.burst));
        assert_eq!(of("100/s"), Some((10_000_000, 100)));
        assert_eq!(of("30/m"), Some((2_000_000_000, 30)));
        assert_eq!(of("1 / h"), Some((3_600_000_000_000, 1)));
        for wrong in ["", "100", "0/s", "-1/s", "1.5/s", "1/d", "1/", "/s", "1000001/s"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_at_a_time() {
        let limit = limit("10/s", 3, Per::Address);
        let admit = |ms| limit.admit(ip("10.0.0.1"), || None, at(ms)).map_err(|wait| wait.as_millis());
        assert_eq!([admit(0), admit(0), admit(0)], [Ok(()); 3]);
        assert_eq!(admit(0), Err(100));
        assert_eq!(admit(40), Err(60), "who is refused has not made it worse");
        assert_eq!((admit(100), admit(100)), (Ok(()), Err(100)));
        assert_eq!([admit(10_000), admit(10_000), admit(10_000)], [Ok(()); 3], "time gives no more than a burst");
        assert_eq!((admit(10_000), limit.refused()), (Err(100), 4));
    }

    #[test]
    fn callers_are_limited_each_alone_by_address_or_session() {
        let by_address = limit("1/h", 1, Per::Address);
        let admits = |address: &str| by_address.admit(ip(address), || Some("s".into()), at(0)).is_ok();
        assert_eq!([admits("10.0.0.1"), admits("10.0.0.2"), admits("10.0.0.1")], [true, true, false]);
        assert_eq!([admits("2001:db8::1"), admits("2001:db8::2")], [true, false], "a network is one caller");
        let by_session = limit("1/h", 1, Per::Session);
        let admits = |address: &str, session: Option<&'static str>| {
            by_session.admit(ip(address), || session.map(Cow::Borrowed), at(0)).is_ok()
        };
        assert_eq!([admits("10.0.0.1", Some("a")), admits("10.0.0.1", Some("b"))], [true, true]);
        assert_eq!([admits("10.0.0.2", Some("a")), admits("10.0.0.2", None)], [false, true]);
        assert!(!admits("10.0.0.2", None), "who has no session is known by address");
    }

    #[test]
    fn who_is_at_the_limit_stays_known_however_many_others_come() {
        let limit = limit("1/h", 100, Per::Address);
        let greedy = ip("192.0.2.1");
        for _ in 0..100 {
            limit.admit(greedy, || None, at(0)).unwrap();
        }
        for n in 0..200_000_u32 {
            let other = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            limit.admit(other, || None, at(1)).unwrap();
        }
        assert!(limit.admit(greedy, || None, at(2)).is_err());
    }

    proptest! {
        #[test]
        fn no_window_has_more_than_its_part_and_a_burst(
            gaps in prop::collection::vec(0..400_u64, 1..200), burst in 1..20_u32,
        ) {
            let rate = Rate::parse("10/s", Some(burst)).unwrap();
            let (mut now, mut next, mut admitted) = (1_000_000_000_u64, 0, Vec::new());
            for gap in gaps {
                now += gap * 1_000_000;
                match rate.admit(next, now) {
                    Ok(then) => {
                        next = then;
                        admitted.push(now);
                    }
                    Err(wait) => prop_assert!(rate.admit(next, now + wait).is_ok(), "it is told when it may come"),
                }
            }
            for (n, from) in admitted.iter().enumerate() {
                for (m, to) in admitted.iter().enumerate().skip(n) {
                    let most = (to - from) / 100_000_000 + u64::from(burst);
                    prop_assert!((m - n + 1) as u64 <= most, "{} in {} ms", m - n + 1, (to - from) / 1_000_000);
                }
            }
        }
    }
}
