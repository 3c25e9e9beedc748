//! The guard for a V2 that goes on failing: what comes after the burst.
//!
//! A burst within one table may multiply the evidence so many times only (`max_error_step`), because it may be one event.
//! And a session that has failed is no unit any more. So a fault that hits all sessions of a small service within seconds
//! would be told by its first table alone, and never again. This sees whether it was a burst: V2's calls fail in each
//! table, many times V1's of the same operations, for as long as no burst lasts; and the sessions of the stage, all
//! together and not cut, speak against V2 beyond chance.
//!
//! Where few sessions make the calls, nobody can tell V2's fault from that of a caller. A V2 that fails half of its calls
//! for a minute, while V1 does not, is warned of all the same, and people are told that it is few.

use std::collections::BTreeMap;

use cutover_policy::{
    Batch,
    hypergeometric::Table,
    memory::{Fields, Text},
};

use crate::{process::Game, safety::Seen, units};

/// Longer than bursts last.
const LASTS_MS: u64 = 15_000;

/// Failed calls that are not one call tried again. Tables that show neither as many, nor so many calls that V2 is well, are
/// taken together.
const CALLS: u64 = 3;

/// V2's calls fail one in so many at least,
const ONE_IN: u64 = 20;

/// and more than so many times as often as V1's.
const TIMES: u64 = 3;

/// Sessions of V2 that must have failed.
const SESSIONS: u64 = 10;

/// What is warned of whoever's calls they are: for so long, so many failed calls at least, and half of V2's.
const PLAIN_MS: u64 = 60_000;
const PLAIN_CALLS: u64 = 100;

/// The natural logarithm of the odds against chance, a million to one: looked at again and again, the likelihood ratio of
/// a growing table is no e-value.
const BEYOND_CHANCE: f64 = 13.815_510_557_964_274;

/// Calls of the operations that both were called for, since V2 fails in each table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ailing {
    /// When the first of these tables began.
    pub since_ms: u64,
    /// When the last one did.
    pub last_ms: u64,
    /// V1's calls.
    pub v1_calls: u64,
    /// Those that failed.
    pub v1_errors: u64,
    /// V2's calls.
    pub v2_calls: u64,
    /// Those that failed; 0 if V2 does not ail.
    pub v2_errors: u64,
    /// What tables too small to say anything had: calls of V1, those that failed, calls of V2, those that failed.
    pub small: [u64; 4],
    /// When the first of those began.
    pub small_ms: u64,
}

impl Ailing {
    /// Adds a table. One in which nobody called both says nothing.
    pub fn add(&mut self, span: &[&Batch]) {
        let Some(first) = span.first() else { return };
        let mut operations: BTreeMap<&str, [u64; 4]> = BTreeMap::new();
        for calls in span.iter().flat_map(|batch| &batch.operations) {
            let sums = operations.entry(&calls.operation).or_default();
            let counts = [calls.v1.requests, calls.v1.errors, calls.v2.requests, calls.v2.errors];
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum = sum.saturating_add(count));
        }
        let both = operations.into_values().filter(|[n1, _, n2, _]| *n1 > 0 && *n2 > 0);
        let Some(own) = both.map(few).reduce(sum) else { return };
        if self.small[2] == 0 {
            self.small_ms = first.start_ms;
        }
        self.small = sum(self.small, own);
        let [n1, x1, n2, x2] = self.small;
        if x2 < CALLS && n2 <= (CALLS - 1) * ONE_IN {
            return;
        }
        let fails = x2 >= CALLS && x2 >= n2.div_ceil(ONE_IN);
        let worse = u128::from(x2) * u128::from(n1) > u128::from(x1) * u128::from(n2) * u128::from(TIMES);
        if !(fails && worse) {
            *self = Self::default();
            return;
        }
        if self.v2_errors == 0 {
            self.since_ms = self.small_ms;
        }
        self.last_ms = first.start_ms;
        self.small = [0; 4];
        let before = [self.v1_calls, self.v1_errors, self.v2_calls, self.v2_errors];
        [self.v1_calls, self.v1_errors, self.v2_calls, self.v2_errors] = sum(before, [n1, x1, n2, x2]);
    }

    /// Whether V2 ails; `seen` are the sessions of the stage.
    #[must_use]
    pub fn is_grave(&self, game: &Game, seen: &Seen) -> bool {
        if self.v2_errors == 0 || self.last_ms.saturating_sub(self.since_ms) < LASTS_MS || seen.x2 < SESSIONS {
            return false;
        }
        let table = Table::new((seen.n1, seen.x1), (seen.n2, seen.x2));
        let null = table.ln_probability(game.r0);
        game.effects.iter().any(|&(effect, _)| table.ln_probability(effect) - null >= BEYOND_CHANCE)
    }

    /// Whether V2 fails half of its calls for so long that people should look, whoever's calls they are.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let lasts = self.last_ms.saturating_sub(self.since_ms) >= PLAIN_MS;
        lasts && self.v2_errors >= PLAIN_CALLS && self.v2_errors >= self.v2_calls.div_ceil(2)
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        text.number(self.since_ms).number(self.last_ms).number(self.v1_calls).number(self.v1_errors);
        text.number(self.v2_calls).number(self.v2_errors);
        self.small.iter().for_each(|count| _ = text.number(*count));
        text.number(self.small_ms);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [since_ms, last_ms, v1_calls, v1_errors, v2_calls, v2_errors] = fields.numbers()?;
        let (small, [small_ms]) = (fields.numbers()?, fields.numbers()?);
        Some(Self { since_ms, last_ms, v1_calls, v1_errors, v2_calls, v2_errors, small, small_ms })
    }
}

fn sum([n1, x1, n2, x2]: [u64; 4], [m1, y1, m2, y2]: [u64; 4]) -> [u64; 4] {
    few([n1.saturating_add(m1), x1.saturating_add(y1), n2.saturating_add(m2), x2.saturating_add(y2)])
}

/// Each pool's calls and failures, so that sums of them are exact.
fn few([n1, x1, n2, x2]: [u64; 4]) -> [u64; 4] {
    let ([n1, x1], [n2, x2]) = (units::few([n1, x1]), units::few([n2, x2]));
    [n1, x1, n2, x2]
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;
    use crate::settings::{Settings, part};

    /// So many seconds in which each pool answers and fails as told.
    fn seconds(ailing: &mut Ailing, from_s: u64, count: u64, v1: (u64, u64), v2: (u64, u64)) {
        for second in from_s..from_s + count {
            let mut batch = batch(second * 1_000);
            batch.operations = vec![operation("a"), operation("b")];
            (batch.operations[0].v1, batch.operations[0].v2) = (calls(v1.0, v1.1, 1), calls(v2.0, v2.1, 1));
            // Of no account: V2 is not called for it.
            batch.operations[1].v1 = calls(1_000, 500, 1);
            ailing.add(&[&batch]);
        }
    }

    fn is_grave(ailing: &Ailing, seen: Seen) -> bool {
        let settings = Settings::default();
        assert!(part(settings.alpha_rollback) > 0.0);
        ailing.is_grave(&settings.game(settings.max_error_odds, settings.max_error_step), &seen)
    }

    const ALL_FAILED: Seen = Seen { n1: 99, x1: 0, n2: 101, x2: 101 };

    #[test]
    fn a_fault_of_all_sessions_at_once_is_found_when_it_lasts() {
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 15, (100, 0), (100, 50));
        assert!(!is_grave(&ailing, ALL_FAILED), "14 s may be a burst");
        seconds(&mut ailing, 15, 1, (100, 0), (100, 50));
        assert!(is_grave(&ailing, ALL_FAILED));
        assert_eq!((ailing.v2_calls, ailing.v2_errors, ailing.v1_calls), (1_600, 800, 1_600));
    }

    #[test]
    fn a_second_in_which_v2_is_well_or_v1_is_as_ill_begins_anew() {
        for (v1, v2) in [((100, 0), (100, 4)), ((100, 0), (41, 2)), ((100, 17), (100, 50)), ((100, 100), (100, 100))] {
            let mut ailing = Ailing::default();
            seconds(&mut ailing, 0, 60, (100, 0), (100, 50));
            seconds(&mut ailing, 60, 1, v1, v2);
            assert_eq!(ailing, Ailing::default(), "{v1:?} {v2:?}");
        }
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 60, (100, 0), (100, 50));
        let known = ailing;
        seconds(&mut ailing, 60, 5, (0, 0), (100, 50));
        seconds(&mut ailing, 65, 5, (100, 0), (0, 0));
        assert_eq!(ailing, known, "nobody called both");
    }

    #[test]
    fn seconds_too_small_to_say_anything_are_taken_together() {
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 10, (100, 0), (100, 50));
        let known = ailing;
        seconds(&mut ailing, 10, 2, (10, 0), (20, 1));
        assert_eq!((ailing.v2_errors, ailing.small, ailing.small_ms), (known.v2_errors, [20, 0, 40, 2], 10_000));
        seconds(&mut ailing, 12, 1, (10, 0), (1, 1));
        assert_eq!((ailing.v2_calls, ailing.v2_errors, ailing.last_ms), (1_041, 503, 12_000), "3 of 41 failed");
        seconds(&mut ailing, 13, 2, (10, 0), (20, 1));
        assert_eq!(ailing.since_ms, 0);
        seconds(&mut ailing, 15, 1, (10, 0), (1, 0));
        assert_eq!(ailing, Ailing::default(), "2 of 41 are a V2 that is well");
        seconds(&mut ailing, 16, 18, (10, 0), (2, 1));
        assert!(is_grave(&ailing, ALL_FAILED), "a call a second that fails is as much of a fault");
    }

    #[test]
    fn few_sessions_or_such_as_v1_has_are_no_reason() {
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 60, (100, 0), (100, 50));
        assert!(!ailing.is_plain(), "59 s");
        for seen in [
            Seen { n1: 1_000, x1: 0, n2: 50, x2: 9 },
            Seen { n1: 1_000, x1: 200, n2: 50, x2: 20 },
            Seen { n1: 0, x1: 0, n2: 50, x2: 50 },
        ] {
            assert!(!is_grave(&ailing, seen), "{seen:?}");
        }
    }

    #[test]
    fn half_of_the_calls_failing_for_a_minute_is_plain_whoever_calls() {
        for (v2, plain) in [((100, 50), true), ((100, 49), false), ((3, 1), false), ((2, 1), false), ((4, 2), true)] {
            let mut ailing = Ailing::default();
            seconds(&mut ailing, 0, 62, (100, 0), v2);
            assert_eq!(ailing.is_plain(), plain, "{v2:?}");
        }
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 62, (100, 20), (100, 50));
        assert!(!ailing.is_plain(), "V1 has more than a third of it");
    }

    #[test]
    fn counts_that_are_too_large_are_the_same_rates() {
        let mut ailing = Ailing::default();
        seconds(&mut ailing, 0, 70, (1 << 30, 1 << 26), (1 << 44, 1 << 40));
        assert_eq!(ailing, Ailing::default(), "both fail 6.25 %");
    }
}
