//! The rate that callers have to keep when they send or take a body. Pure.
//!
//! Only the time that the host waits for the caller counts: a caller who is held up by an upstream is not slow. Each
//! byte pays for its part of a second, and nobody can pay ahead: a burst buys no long silence. A caller who is behind
//! by more than the grace is cut off. Apache's `mod_reqtimeout` (`MinRate`) and Kestrel (`MinRequestBodyDataRate`)
//! count alike.

use std::time::Duration;

/// The rate that a caller has to keep, and how far it may fall behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes a second; 0 if there is no rate to keep.
    pub rate: u64,
    /// How far behind the rate a caller may be before it is cut off.
    pub grace: Duration,
}

impl Pace {
    /// No rate to keep.
    pub const NONE: Self = Self { rate: 0, grace: Duration::ZERO };

    /// How far behind a caller is that was `behind`, and then kept one waiting for so long for so many bytes.
    pub fn behind(self, behind: Duration, waited: Duration, bytes: usize) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        (behind + waited).saturating_sub(self.time_of(bytes))
    }

    /// How long one waits for a caller that is `behind`; none for as long as it takes.
    pub fn left(self, behind: Duration) -> Option<Duration> {
        (self.rate > 0).then(|| self.grace.saturating_sub(behind))
    }

    /// The same for what the system gathers, up to so many bytes, before it says that any of them are gone.
    #[must_use]
    pub fn gathered(self, bytes: usize) -> Self {
        Self { grace: self.grace + self.time_of(bytes), ..self }
    }

    /// How long so many bytes may take.
    fn time_of(self, bytes: usize) -> Duration {
        let nanos = (bytes as u64).saturating_mul(1_000_000_000).checked_div(self.rate);
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace { rate: 500, grace: Duration::from_secs(10) };

    /// When a caller is cut off that sends so many bytes after each of these waits; none if it is not.
    fn cut(pace: Pace, waits: impl IntoIterator<Item = (Duration, usize)>) -> Option<Duration> {
        let (mut behind, mut passed) = (Duration::ZERO, Duration::ZERO);
        for (waited, bytes) in waits {
            let left = pace.left(behind)?;
            if waited > left {
                return Some(passed + left);
            }
            behind = pace.behind(behind, waited, bytes);
            passed += waited;
        }
        None
    }

    #[test]
    fn who_drips_is_cut_off_after_the_grace_and_who_pauses_within_it_is_not() {
        let seconds = Duration::from_secs;
        let drip = std::iter::repeat_n((seconds(1), 1), 100);
        assert!(cut(PACE, drip.clone()).is_some_and(|at| (seconds(10)..seconds(11)).contains(&at)));
        assert_eq!(cut(PACE, [(seconds(9), 1), (seconds(1), 5_000), (seconds(9), 1)]), None);
        let burst = [(Duration::ZERO, 100_000_000), (seconds(9), 1), (seconds(9), 1)];
        assert_eq!(
            cut(PACE, burst),
            Some((seconds(9) + seconds(10)).saturating_sub(PACE.behind(Duration::ZERO, seconds(9), 1)))
        );
        assert_eq!(cut(Pace::NONE, drip), None);
        let gathered = PACE.gathered(50_000);
        assert_eq!(cut(gathered, [(seconds(109), 50_000), (seconds(101), 50_000)]), None);
    }

    proptest! {
        #[test]
        fn who_keeps_the_rate_is_never_cut_off_and_who_keeps_half_of_it_always_is(
            rate in 1..1_000_000_u64,
            grace_ms in 1..60_000_u64,
            parts in prop::collection::vec(1..=100_u64, 1..40),
        ) {
            let pace = Pace { rate, grace: Duration::from_millis(grace_ms) };
            // Each part takes as long as it may, but no longer than the grace.
            let most = rate.saturating_mul(grace_ms) / 1_000;
            let parts: Vec<_> = parts.iter().map(|percent| (most * percent / 100).max(1)).collect();
            let part = |bytes: u64, times: u32| {
                (Duration::from_nanos(bytes * 1_000_000_000 / rate) * times, usize::try_from(bytes).unwrap())
            };
            if most > 0 {
                prop_assert_eq!(cut(pace, parts.iter().map(|bytes| part(*bytes, 1))), None);
            }
            let slow = parts.iter().cycle().map(|bytes| part(*bytes, 2));
            prop_assert!(cut(pace, slow.take(1_000)).is_some());
        }
    }
}
