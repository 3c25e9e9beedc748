//! Where a suspicion comes from, for people: the counts since V2 last did as well as the null allows.
//!
//! Evidence does not need them. Without them a fault that begins after a good hour would be reported with the counts of
//! that hour.

use cutover_policy::hypergeometric::{Table, real};
use cutover_policy::memory::{Fields, Text};
use serde::Deserialize;

/// Counts since V2 last did as well as the null allows: where a suspicion comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Run {
    /// When it began.
    pub since_ms: u64,
    /// Its units.
    pub n1: u64,
    /// V1's bad ones.
    pub x1: u64,
    /// V2's units.
    pub n2: u64,
    /// V2's bad ones.
    pub x2: u64,
    /// V2's bad units above what the null expects.
    excess: f64,
}

impl Run {
    /// Adds the units from `start_ms` on; `expected` of V2's bad ones are what the null expects.
    pub fn add(&mut self, table: &Table, expected: f64, start_ms: u64) {
        if self.excess <= 0.0 {
            *self = Self { since_ms: start_ms, ..Self::default() };
        }
        self.n1 = self.n1.saturating_add(table.n1);
        self.x1 = self.x1.saturating_add(table.x1);
        self.n2 = self.n2.saturating_add(table.n2);
        self.x2 = self.x2.saturating_add(table.x2);
        self.excess += real(table.x2) - expected;
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        text.number(self.since_ms).number(self.n1).number(self.x1).number(self.n2).number(self.x2);
        text.doubles(&[self.excess]);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [since_ms, n1, x1, n2, x2] = fields.numbers()?;
        Some(Self { since_ms, n1, x1, n2, x2, excess: fields.double()? })
    }

    /// The odds ratio that explains the counts best, in parts per million. Half a unit is added to each count (Haldane
    /// and Anscombe), so that no bad units of V1 are not infinitely fewer.
    #[must_use]
    pub fn odds_ratio_ppm(&self) -> u64 {
        let odds = |bad: u64, units: u64| (real(bad) + 0.5) / (real(units.saturating_sub(bad)) + 0.5);
        let ratio = odds(self.x2, self.n2) / odds(self.x1, self.n1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and `as` saturates")]
        let ppm = (ratio * 1e6) as u64;
        ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_hour_is_not_held_against_a_bad_minute() {
        let mut run = Run::default();
        let mut add = |start_ms, x1, x2| {
            let table = Table { n1: 95, x1, n2: 5, x2 };
            run.add(&table, table.expected(1.0), start_ms);
            run
        };
        for minute in 0..60 {
            add(minute, 2, 0);
        }
        add(60, 2, 3);
        let bad = add(61, 0, 4);
        assert_eq!((bad.since_ms, bad.n1, bad.x1, bad.n2, bad.x2), (60, 190, 2, 10, 7));
    }

    #[test]
    fn odds_ratio_is_finite_without_bad_units_of_v1() {
        let run = Run { n1: 1_000, x1: 0, n2: 100, x2: 10, ..Run::default() };
        assert_eq!(run.odds_ratio_ppm() / 1_000_000, 232);
        let even = Run { n1: 1_000, x1: 100, n2: 100, x2: 10, ..Run::default() };
        assert!((990_000..1_060_000).contains(&even.odds_ratio_ppm()));
    }
}
