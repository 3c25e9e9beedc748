//! Evidence that V2 is good enough: what `healthy` needs. No news is no evidence.
//!
//! Two mirror-image e-processes on errors, both since the stage began, because a larger share is a new load:
//! - **beside V1**: against "V2's odds of an error are at least `max_odds` times V1's" (a ratio of likelihoods, of an r
//!   below `max_odds` over that of `max_odds`). It works whatever the baseline is, but V1 and V2 must have errors for
//!   it to count: tables without any have one outcome.
//! - **on its own**: against "V2 fails at least `max_rate` of its units", L = (q/p)^x2 ((1-q)/(1-p))^(n2-x2) with q
//!   below p. It works when nothing fails at all, and at a share of 100 %, where there is no V1 to compare with.
//!
//! V2 is unsafe if both are true, so their mean is an e-process against that, and `healthy` is said of an unsafe V2
//! with a probability of at most beta. Wealth is cut at a hundred times what is needed, which no fair game minds, so
//! that a V2 that becomes worse loses it again soon.

use cutover_policy::hypergeometric::{Table, real};
use serde::{Deserialize, Serialize};

/// Alternatives as parts of the null's limit, half of the bets on each: with the usual limit of 3 times, a V2 that is
/// as good as V1, and a much better one. The first is also what the need for more units is reckoned with.
const BESIDE: [f64; 2] = [1.0 / 3.0, 0.1];

/// The same for the rate.
const ALONE: [f64; 2] = [0.1, 1.0 / 3.0];

/// Wealth is kept up to this many times what is needed.
const KEPT: f64 = 100.0;

/// When V2 is safe, fixed by the settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The odds ratio that is too much.
    pub max_odds: f64,
    /// The error rate that is too much.
    pub max_rate: f64,
    /// The evidence that is needed: 1/beta.
    pub needed: f64,
}

/// What speaks for V2 in this stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Safety {
    beside: [f64; 2],
    alone: [f64; 2],
    n1: u64,
    x1: u64,
    n2: u64,
    x2: u64,
}

/// What `healthy` still waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// V2's units in this stage.
    pub units: u64,
    /// Those that failed.
    pub errors: u64,
    /// About how many more are needed if V2 is as good as V1, or does not fail.
    pub more: u64,
}

impl Default for Safety {
    fn default() -> Self {
        Self { beside: [0.5; 2], alone: [0.5; 2], n1: 0, x1: 0, n2: 0, x2: 0 }
    }
}

impl Safety {
    /// Bets on the table of one operation. Operations multiply: one odds ratio and one rate for all of them.
    pub fn play(&mut self, limits: &Limits, table: &Table) {
        let null = table.ln_probability(limits.max_odds);
        for (bet, part) in self.beside.iter_mut().zip(BESIDE) {
            *bet *= libm::exp(table.ln_probability(limits.max_odds * part) - null);
        }
        let (bad, good) = (real(table.x2), real(table.n2 - table.x2));
        for (bet, part) in self.alone.iter_mut().zip(ALONE) {
            *bet *= libm::exp(bad * libm::log(part) + good * gain(limits.max_rate, part));
        }
        for bets in [&mut self.beside, &mut self.alone] {
            let cut = (KEPT * limits.needed / bets.iter().sum::<f64>()).min(1.0);
            for bet in bets {
                *bet *= cut;
            }
        }
        self.n1 = self.n1.saturating_add(table.n1);
        self.x1 = self.x1.saturating_add(table.x1);
        self.n2 = self.n2.saturating_add(table.n2);
        self.x2 = self.x2.saturating_add(table.x2);
    }

    /// The evidence: 1 at first.
    #[must_use]
    pub fn wealth(&self) -> f64 {
        f64::midpoint(self.beside.iter().sum(), self.alone.iter().sum())
    }

    /// What is missing; none if nothing is.
    #[must_use]
    pub fn need(&self, limits: &Limits) -> Option<Need> {
        let wealth = self.wealth();
        if wealth >= limits.needed {
            return None;
        }
        // How much the better of the two games must grow while the other stands still.
        let (beside, alone): (f64, f64) = (self.beside.iter().sum(), self.alone.iter().sum());
        let missing = |own: f64, other: f64| libm::log((2.0 * limits.needed - other) / own.max(f64::MIN_POSITIVE));
        let by_silence = missing(alone, beside) / gain(limits.max_rate, ALONE[0]);
        let by_errors = self.growth(limits).map(|growth| missing(beside, alone) / growth);
        let more = libm::ceil(by_errors.map_or(by_silence, |units| units.min(by_silence))).max(1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1, and `as` saturates")]
        let more = more as u64;
        Some(Need { units: self.n2, errors: self.x2, more })
    }

    /// What the comparison with V1 is expected to gain for each unit of V2, if V2 is as good: the divergence for each
    /// error, and the errors of both for each unit of V2.
    fn growth(&self, limits: &Limits) -> Option<f64> {
        let (n1, n2) = (real(self.n1), real(self.n2));
        let part = |odds: f64| n2 * odds / (n2 * odds + n1);
        let (is, limit) = (part(limits.max_odds * BESIDE[0]), part(limits.max_odds));
        let bad = real(self.x1.saturating_add(self.x2));
        let divergence = is * libm::log(is / limit) + (1.0 - is) * libm::log((1.0 - is) / (1.0 - limit));
        Some(divergence * bad / n2).filter(|growth| growth.is_finite() && *growth > 0.0)
    }
}

/// What a unit that does not fail adds to the logarithm of the evidence.
fn gain(max_rate: f64, part: f64) -> f64 {
    libm::log((1.0 - max_rate * part) / (1.0 - max_rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { max_odds: 3.0, max_rate: 0.01, needed: 20.0 };

    fn after(tables: impl IntoIterator<Item = Table>) -> Safety {
        let mut safety = Safety::default();
        tables.into_iter().for_each(|table| safety.play(&LIMITS, &table));
        safety
    }

    fn silence(units: usize) -> Safety {
        after(std::iter::repeat_n(Table { n1: 19, x1: 0, n2: 1, x2: 0 }, units))
    }

    #[test]
    fn nothing_seen_is_nothing_known() {
        assert_eq!(Safety::default().wealth().to_bits(), 1.0_f64.to_bits());
        let need = Safety::default().need(&LIMITS).unwrap();
        assert_eq!((need.units, need.errors, need.more), (0, 0, 405));
    }

    #[test]
    fn a_v2_that_never_fails_is_safe_as_soon_as_it_was_foretold() {
        let mut units = 0;
        while let Some(need) = silence(units).need(&LIMITS) {
            assert!(units < 1_000);
            let left = usize::try_from(need.more).unwrap();
            assert!((410..=450).contains(&(units + left)) || units < 300, "{units} and {left} more");
            units += 1;
        }
        assert!((410..=450).contains(&units), "{units}");
    }

    #[test]
    fn errors_on_both_sides_show_an_equal_v2() {
        // 5 % of each: far above the absolute limit, so only the comparison can tell.
        let equal =
            after((0..60).map(|i| Table { n1: 100, x1: 5, n2: 20, x2: u64::from(i % 3 != 0) + u64::from(i % 3 == 1) }));
        assert_eq!(equal.need(&LIMITS), None);
        assert!(equal.alone.iter().sum::<f64>() < 1.0);
    }

    #[test]
    fn a_v2_that_becomes_worse_loses_its_evidence() {
        let mut safety = silence(100_000);
        assert!(safety.wealth() <= KEPT * LIMITS.needed);
        let mut failing = 0;
        while safety.need(&LIMITS).is_none() {
            safety.play(&LIMITS, &Table { n1: 19, x1: 0, n2: 1, x2: 1 });
            failing += 1;
        }
        assert!(failing <= 6, "{failing}");
    }

    #[test]
    fn both_games_are_fair_at_the_edge_of_their_nulls() {
        let mean = |part: f64| 0.01 * part + 0.99 * libm::exp(gain(0.01, part));
        assert!(ALONE.iter().all(|&part| (mean(part) - 1.0).abs() < 1e-12));
        for truth in [3.0, 5.0, 100.0] {
            let tables = (0..=4).map(|x2| Table { n1: 30, x1: 4 - x2, n2: 10, x2 });
            let mean: f64 = tables
                .map(|t| {
                    let ratio = |part: f64| libm::exp(t.ln_probability(3.0 * part) - t.ln_probability(3.0));
                    libm::exp(t.ln_probability(truth)) * f64::midpoint(ratio(BESIDE[0]), ratio(BESIDE[1]))
                })
                .sum();
            assert!(mean <= 1.0 + 1e-12, "{mean} at {truth}");
        }
    }
}
