//! Where a suspicion comes from, for people: the counts since V2 last did as well as the null allows.
//!
//! Evidence does not need them. Without them a fault that begins after a good hour would be reported with the counts of
//! that hour.

use cutover_policy::{
    hypergeometric::real,
    memory::{Fields, Text},
};

use crate::process::Units;

/// Counts since V2 last did as well as the null allows: where a suspicion comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Run {
    /// When it began.
    pub since_ms: u64,
    /// When its latest span began.
    pub latest_ms: u64,
    /// V1's units, 0 where V2 is alone.
    pub n1: u64,
    /// V1's bad ones.
    pub x1: u64,
    /// V2's units.
    pub n2: u64,
    /// V2's bad ones.
    pub x2: u64,
    /// V2's bad units above what the null expects.
    pub(crate) excess: f64,
}

impl Run {
    /// The counts of a span and operation.
    #[must_use]
    pub fn of(units: &Units) -> Self {
        let mut run = Self::default();
        run.plus(units);
        run
    }

    /// Adds the counts of another operation in the same span.
    pub fn plus(&mut self, units: &Units) {
        let [n1, x1, n2, x2] = match *units {
            Units::Beside(table) => [table.n1, table.x1, table.n2, table.x2],
            Units::Alone { n, x, .. } => [0, 0, n, x],
        };
        self.n1 = self.n1.saturating_add(n1);
        self.x1 = self.x1.saturating_add(x1);
        self.n2 = self.n2.saturating_add(n2);
        self.x2 = self.x2.saturating_add(x2);
    }

    /// Adds the counts of a span that began at `start_ms`; `expected` of V2's bad ones are what the null expects.
    pub fn add(&mut self, span: &Self, expected: f64, start_ms: u64) {
        if self.excess <= 0.0 {
            *self = Self { since_ms: start_ms, ..Self::default() };
        }
        self.latest_ms = start_ms.max(self.since_ms);
        self.n1 = self.n1.saturating_add(span.n1);
        self.x1 = self.x1.saturating_add(span.x1);
        self.n2 = self.n2.saturating_add(span.n2);
        self.x2 = self.x2.saturating_add(span.x2);
        self.excess += real(span.x2) - expected;
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        text.number(self.since_ms).number(self.latest_ms.saturating_sub(self.since_ms));
        text.number(self.n1).number(self.x1).number(self.n2).number(self.x2).doubles(&[self.excess]);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [since_ms, lasts_ms, n1, x1, n2, x2] = fields.numbers()?;
        let latest_ms = since_ms.saturating_add(lasts_ms);
        Some(Self { since_ms, latest_ms, n1, x1, n2, x2, excess: fields.double()? })
    }

    /// The odds ratio that explains the counts best, in parts per million. Half a unit is added to each count (Haldane
    /// and Anscombe), so that no bad units of V1 are not infinitely fewer.
    #[must_use]
    pub fn odds_ratio_ppm(&self) -> u64 {
        let odds = |bad: u64, units: u64| (real(bad) + 0.5) / (real(units.saturating_sub(bad)) + 0.5);
        millionths(odds(self.x2, self.n2) / odds(self.x1, self.n1))
    }

    /// V2's rate of bad units, in parts per million.
    #[must_use]
    pub fn rate_ppm(&self) -> u64 {
        millionths(real(self.x2) / real(self.n2.max(1)))
    }

    /// The rate that the null allows, in parts per million.
    #[must_use]
    pub fn allowed_ppm(&self) -> u64 {
        millionths((real(self.x2) - self.excess).max(0.0) / real(self.n2.max(1)))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and `as` saturates")]
fn millionths(value: f64) -> u64 {
    libm::round(value * 1e6) as u64
}

#[cfg(test)]
mod tests {
    use cutover_policy::hypergeometric::Table;

    use super::*;

    #[test]
    fn a_good_hour_is_not_held_against_a_bad_minute() {
        let mut run = Run::default();
        let mut add = |start_ms, x1, x2| {
            let table = Table { n1: 95, x1, n2: 5, x2 };
            run.add(&Run::of(&Units::Beside(table)), table.expected(1.0), start_ms);
            run
        };
        for minute in 0..60 {
            add(minute, 2, 0);
        }
        add(60, 2, 3);
        let bad = add(61, 0, 4);
        assert_eq!((bad.since_ms, bad.latest_ms, bad.n1, bad.x1, bad.n2, bad.x2), (60, 61, 190, 2, 10, 7));
    }

    #[test]
    fn odds_ratio_is_finite_without_bad_units_of_v1() {
        let run = Run { n1: 1_000, x1: 0, n2: 100, x2: 10, ..Run::default() };
        assert_eq!(run.odds_ratio_ppm() / 1_000_000, 232);
        let even = Run { n1: 1_000, x1: 100, n2: 100, x2: 10, ..Run::default() };
        assert!((990_000..1_060_000).contains(&even.odds_ratio_ppm()));
    }

    #[test]
    fn rates_are_those_of_v2_and_of_what_was_expected() {
        let mut run = Run::default();
        run.add(&Run::of(&Units::Alone { n: 1_000, x: 400, rate: 0.03 }), 30.0, 5);
        assert_eq!((run.rate_ppm(), run.allowed_ppm()), (400_000, 30_000));
    }
}
