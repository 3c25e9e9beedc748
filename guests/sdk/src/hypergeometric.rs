//! How likely is it that so many of the bad units were V2's? Fisher's noncentral hypergeometric distribution.
//!
//! Given how many units each pool had and how many were bad in all, V1's own rate of bad ones drops out: what is left
//! depends on the odds ratio alone. That is why neither a drifting baseline nor an incident that hits both pools, nor a
//! share that moves, looks like a fault of V2.
//!
//! It is here and not in a policy because scripts have it, too, as `likelihood_ratios`.
//!
//! A probability is summed outwards from its mode by the recurrence between neighbouring terms, in multiples of the
//! mode's own term, until a term adds nothing that a double can hold: about 18 standard deviations of terms, and at
//! most the way to the observed count. No factorial is taken, so nothing cancels. Tables with more than `MOST_BAD`
//! bad units are scaled down first, which bounds the cost and only loses evidence.

/// Bad units in one table; more are scaled down. A million steps or so is the most that a table can then cost.
const MOST_BAD: u64 = 1 << 16;

/// Units in one table; more are scaled down. Far below 2^53, so that doubles hold every product exactly enough.
const MOST_UNITS: u64 = 1 << 32;

/// A term below this part of the sum changes it by nothing.
const NOTHING: f64 = 1e-18;

/// Below this a product of terms is put away as a logarithm before it underflows.
const TINY: f64 = 1e-200;

/// Units of both pools in one span of time, and how many of them were bad.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Table {
    /// V1's units.
    pub n1: u64,
    /// V1's bad ones; at most `n1`.
    pub x1: u64,
    /// V2's units.
    pub n2: u64,
    /// V2's bad ones; at most `n2`.
    pub x2: u64,
}

impl Table {
    /// From units and bad units of each. A host that counts more bad units than units is not believed: the rest is cut.
    ///
    /// Counts that are too large are halved together, V1's bad ones rounded up and V2's down: that keeps the rates, and
    /// spreads V2's part of the bad ones less than chance would, so there is less evidence in it, never more.
    #[must_use]
    pub fn new((mut n1, x1): (u64, u64), (mut n2, x2): (u64, u64)) -> Self {
        let (mut x1, mut x2) = (x1.min(n1), x2.min(n2));
        while x1.saturating_add(x2) > MOST_BAD || n1.saturating_add(n2) > MOST_UNITS {
            (n1, x1, n2, x2) = (n1.div_ceil(2), x1.div_ceil(2), n2.div_ceil(2), x2 / 2);
        }
        Self { n1, x1, n2, x2 }
    }

    /// The counts of both, for reports.
    #[must_use]
    pub const fn plus(self, other: &Self) -> Self {
        Self {
            n1: self.n1.saturating_add(other.n1),
            x1: self.x1.saturating_add(other.x1),
            n2: self.n2.saturating_add(other.n2),
            x2: self.x2.saturating_add(other.x2),
        }
    }

    /// Bad units of both.
    #[must_use]
    pub const fn bad(&self) -> u64 {
        self.x1 + self.x2
    }

    /// Whether V2's part of the bad units could have been another; otherwise every likelihood ratio is 1.
    #[must_use]
    pub fn informs(&self) -> bool {
        self.least() < self.most()
    }

    /// The natural logarithm of P(x2 | n1, n2, x1 + x2) when V2's odds of a bad unit are `odds` times V1's.
    #[must_use]
    pub fn ln_probability(&self, odds: f64) -> f64 {
        let mode = self.mode(odds);
        // The rest of the way from one end of the support to the other, each in multiples of the mode's term.
        let mut up = Walk::new();
        for j in mode..self.most() {
            if up.is_over() && j >= self.x2 {
                break;
            }
            up.step(self.ratio(j) * odds, j + 1 == self.x2);
        }
        let mut down = Walk::new();
        for j in (self.least()..mode).rev() {
            if down.is_over() && j < self.x2 {
                break;
            }
            down.step(1.0 / (self.ratio(j) * odds), j == self.x2);
        }
        let observed = up.observed.or(down.observed).unwrap_or(0.0);
        observed - libm::log(1.0 + up.sum + down.sum)
    }

    /// About how many of the bad units are V2's at these odds, for reports.
    #[must_use]
    pub fn expected(&self, odds: f64) -> f64 {
        let at_risk = real(self.n2) * odds;
        real(self.bad()) * at_risk / (at_risk + real(self.n1)).max(1.0)
    }

    /// The least of V2's bad units that is possible.
    const fn least(&self) -> u64 {
        self.bad().saturating_sub(self.n1)
    }

    /// The most of them.
    fn most(&self) -> u64 {
        self.bad().min(self.n2)
    }

    /// The weight of j + 1 over that of j at odds of 1: C(n2, j+1) C(n1, k-j-1) / (C(n2, j) C(n1, k-j)).
    fn ratio(&self, j: u64) -> f64 {
        let rest = self.bad() - j;
        real(self.n2 - j) * real(rest) / (real(j + 1) * real(self.n1 + 1 - rest))
    }

    /// The likeliest count: weights rise to it and fall from it, so their ratio crosses 1 once.
    fn mode(&self, odds: f64) -> u64 {
        let (mut low, mut high) = (self.least(), self.most());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ratio(middle) * odds > 1.0 {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Terms on the way from the mode to one end of the support.
struct Walk {
    /// The current term is `term * exp(put_away)`.
    term: f64,
    put_away: f64,
    sum: f64,
    /// The logarithm of the term of the observed count, if it is on this side.
    observed: Option<f64>,
}

impl Walk {
    const fn new() -> Self {
        Self { term: 1.0, put_away: 0.0, sum: 0.0, observed: None }
    }

    fn step(&mut self, ratio: f64, is_observed: bool) {
        self.term *= ratio;
        if self.put_away == 0.0 {
            self.sum += self.term;
        }
        if self.term < TINY {
            self.put_away += libm::log(self.term);
            self.term = 1.0;
        }
        if is_observed {
            self.observed = Some(self.put_away + libm::log(self.term));
        }
    }

    /// Nothing more to add: terms only fall from here on.
    fn is_over(&self) -> bool {
        self.put_away < 0.0 || self.term < NOTHING * (1.0 + self.sum)
    }
}

/// A count as a double; exact below 2^53.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53; beyond, a part in 10^16 is lost")]
#[must_use]
pub const fn real(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// C(n, k), exact.
    fn choose(n: u64, k: u64) -> u128 {
        if k > n { 0 } else { (0..k).fold(1, |c, i| c * u128::from(n - i) / u128::from(i + 1)) }
    }

    /// By the definition, term by term.
    #[expect(clippy::cast_precision_loss, reason = "a double is near enough to compare with")]
    fn by_definition(table: Table, odds: f64) -> f64 {
        let weight = |j: u64| {
            (choose(table.n2, j) * choose(table.n1, table.bad() - j)) as f64 * odds.powi(i32::try_from(j).unwrap())
        };
        weight(table.x2) / (0..=table.bad()).map(weight).sum::<f64>()
    }

    /// All tables with these margins.
    fn outcomes(n1: u64, n2: u64, bad: u64) -> impl Iterator<Item = Table> {
        (bad.saturating_sub(n1)..=bad.min(n2)).map(move |x2| Table { n1, x1: bad - x2, n2, x2 })
    }

    #[test]
    fn every_small_table_has_the_probability_of_the_definition() {
        let mut tables = 0;
        for (n1, n2) in (0..=9).flat_map(|n1| (0..=9).map(move |n2| (n1, n2))) {
            for table in (0..=n1 + n2).flat_map(|bad| outcomes(n1, n2, bad)) {
                for odds in [0.1, 0.75, 1.0, 1.5, 7.0, 60.0] {
                    let (got, exact) = (libm::exp(table.ln_probability(odds)), by_definition(table, odds));
                    assert!((got - exact).abs() <= 1e-13 * exact, "{table:?} at {odds}: {got}, not {exact}");
                    tables += 1;
                }
            }
        }
        assert_eq!(tables, 6 * 3_025);
    }

    #[test]
    fn large_tables_agree_with_the_definition_and_do_not_underflow() {
        let table = Table { n1: 60, x1: 3, n2: 50, x2: 17 };
        for odds in [1.0, 8.0, 50.0] {
            assert!((libm::exp(table.ln_probability(odds)) / by_definition(table, odds) - 1.0).abs() < 1e-12);
        }
        // Nearly impossible: all 2000 bad units are V2's at a share of 1/1000. (1/1001)^2000 is far below any double.
        let far = Table { n1: 100_000_000, x1: 0, n2: 100_000, x2: 2_000 };
        let binomial = 2_000.0 * libm::log(1.0 / 1_001.0);
        assert!((far.ln_probability(1.0) / binomial - 1.0).abs() < 0.01, "{}", far.ln_probability(1.0));
    }

    #[test]
    fn a_ratio_of_likelihoods_is_an_e_value_for_every_null() {
        for (n1, n2, bad) in [(20, 1, 1), (95, 5, 2), (10, 10, 7), (3, 30, 5), (400, 20, 12), (4, 4, 8)] {
            for (r0, r) in [(1.0, 1.25), (1.0, 50.0), (1.5, 15.0)] {
                for truth in [0.01, 0.5, 1.0, r0] {
                    let mean: f64 = outcomes(n1, n2, bad)
                        .map(|t| libm::exp(t.ln_probability(truth) + t.ln_probability(r) - t.ln_probability(r0)))
                        .sum();
                    assert!(mean <= 1.0 + 1e-12, "{n1} {n2} {bad}: {mean} at {truth} for {r} over {r0}");
                    assert!(truth < r0 || mean > 1.0 - 1e-12, "at the edge of the null it is fair: {mean}");
                }
            }
        }
    }

    #[test]
    fn a_table_with_one_outcome_says_nothing() {
        for table in [
            Table::new((100, 0), (5, 0)),
            Table::new((0, 0), (5, 3)),
            Table::new((100, 7), (0, 0)),
            Table::new((4, 4), (4, 4)),
        ] {
            assert!(!table.informs());
            assert_eq!(table.ln_probability(1.0).to_bits(), table.ln_probability(30.0).to_bits());
        }
        assert!(Table::new((100, 0), (5, 1)).informs());
    }

    #[test]
    fn more_bad_units_than_units_are_cut() {
        assert_eq!(Table::new((3, 9), (1, 2)), Table { n1: 3, x1: 3, n2: 1, x2: 1 });
    }

    proptest! {
        #[test]
        fn any_counts_give_a_probability(n1: u64, x1: u64, n2: u64, x2: u64, odds in 0.01_f64..150.0) {
            let table = Table::new((n1, x1), (n2, x2));
            prop_assert!(table.bad() <= MOST_BAD && table.x1 <= table.n1 && table.x2 <= table.n2);
            let ln = table.ln_probability(odds);
            prop_assert!(ln.is_finite() && ln <= 1e-9, "{}", ln);
        }

        #[test]
        fn scaling_down_keeps_the_direction_and_loses_evidence(x1 in 40_000_u64..60_000, x2 in 40_000_u64..60_000) {
            let exact = Table { n1: 1 << 20, x1, n2: 1 << 20, x2 };
            let scaled = Table::new((1 << 20, x1), (1 << 20, x2));
            let ln_ratio = |t: Table| t.ln_probability(1.2) - t.ln_probability(1.0);
            prop_assert!(ln_ratio(scaled) <= ln_ratio(exact).max(0.0) + 1e-6);
        }
    }
}
