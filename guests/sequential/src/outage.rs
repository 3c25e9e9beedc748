//! The guard outside of statistics: V2 answers nothing while V1 does.
//!
//! It counts the batches in a row in which every call of V2 failed. How many failures there must be depends on V1's
//! rate meanwhile: by chance they come in a row with a probability of at most one in a hundred million, if they are of
//! different sessions. That is five at a rate of 2.5 %, and as many as the setting says, ten, from 16 % on, or where V1
//! was not called. One session that fails on each of its calls is not an outage, and may be all that V2 serves; so
//! there must be several, or many more calls. Several are more where V1's failures come in clusters: one caller without
//! a session that tries again looks like many.

use cutover_policy::{
    Batch,
    hypergeometric::real,
    memory::{Fields, Text},
    share,
};

use crate::{counting::v2, settings::Settings, units};

/// Failures in a row that are an outage at least, where V1 hardly ever fails.
const FEWEST: u64 = 5;

/// The natural logarithm of the probability with which they come by chance.
const BY_CHANCE: f64 = -18.420_680_743_952_367;

/// Sessions that must have failed.
const SESSIONS: f64 = 3.0;

/// Or this many times the calls.
const PATIENCE: u64 = 5;

/// What happened since V2 last answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outage {
    /// V2's calls, all failed.
    pub failed: u64,
    /// Sessions of V2 that failed for the first time.
    pub sessions: u64,
    /// V1's calls of the same operations meanwhile.
    pub v1_calls: u64,
    /// Those that failed.
    pub v1_errors: u64,
    /// How many failures one cause made when V2 last answered.
    pub clusters: f64,
}

impl Default for Outage {
    fn default() -> Self {
        Self { failed: 0, sessions: 0, v1_calls: 0, v1_errors: 0, clusters: 1.0 }
    }
}

impl Outage {
    /// Adds a batch; `clusters` is how many failures one cause makes, as far as is known before it.
    pub fn add(&mut self, batch: &Batch, mirrored: bool, clusters: f64) {
        let mut answered = false;
        for operation in batch.operations.iter().filter(|o| v2(o, mirrored).requests > 0) {
            let v2 = v2(operation, mirrored);
            answered |= v2.errors < v2.requests;
            // Mirrored calls have no sessions; each is drawn by itself.
            let sessions = if mirrored { v2.errors } else { units::units(v2)[1] };
            self.failed = self.failed.saturating_add(v2.errors);
            self.sessions = self.sessions.saturating_add(sessions);
            let [calls, errors] = units::few([operation.v1.requests, operation.v1.errors]);
            self.v1_calls = self.v1_calls.saturating_add(calls);
            self.v1_errors = self.v1_errors.saturating_add(errors);
        }
        if answered {
            *self = Self { clusters, ..Self::default() };
        }
    }

    /// Whether it is one. Without calls of V1, as at a share of 100 %, nothing speaks for V1 being down as well.
    #[must_use]
    pub fn is_total(&self, settings: &Settings) -> bool {
        let needed = self.needed(settings);
        let several = real(self.sessions) >= SESSIONS * self.clusters || self.failed >= needed.saturating_mul(PATIENCE);
        let v1_bound = u128::from(settings.outage_v1_error_rate.0) * u128::from(self.v1_calls);
        let v1_works = self.v1_calls == 0 || u128::from(self.v1_errors) * u128::from(share::MILLION) < v1_bound;
        self.failed >= needed && several && v1_works
    }

    /// Failures in a row that are needed, at V1's rate meanwhile.
    #[must_use]
    pub fn needed(&self, settings: &Settings) -> u64 {
        let rate = (real(self.v1_errors) + 1.0) / (real(self.v1_calls) + 2.0);
        let most = settings.outage_requests;
        (FEWEST..most).find(|&in_a_row| real(in_a_row) * libm::log(rate) <= BY_CHANCE).unwrap_or(most)
    }

    /// Writes it as part of what is remembered.
    pub(crate) fn write(&self, text: &mut Text) {
        text.number(self.failed).number(self.sessions).number(self.v1_calls).number(self.v1_errors);
        text.doubles(&[self.clusters]);
    }

    /// Reads it again.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let [failed, sessions, v1_calls, v1_errors] = fields.numbers()?;
        Some(Self { failed, sessions, v1_calls, v1_errors, clusters: fields.double()? })
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;

    /// A second in which each pool answers and fails as told, each call from a session of its own.
    fn second(v1: (u64, u64), v2: (u64, u64)) -> Batch {
        let mut batch = batch(0);
        batch.operations = vec![operation("a"), operation("b")];
        batch.operations[0].v1 = calls(v1.0, v1.1, 1);
        batch.operations[1].v1 = calls(v1.0, v1.1, 1);
        batch.operations[1].v2 = calls(v2.0, v2.1, 1);
        batch
    }

    fn after(batches: &[Batch]) -> bool {
        let mut outage = Outage::default();
        for batch in batches {
            outage.add(batch, false, 1.0);
        }
        outage.is_total(&Settings::default())
    }

    #[test]
    fn failures_in_a_row_are_an_outage() {
        assert!(after(&[second((95, 0), (3, 3)), second((95, 0), (3, 3))]));
        assert!(!after(&[second((95, 0), (2, 2)), second((95, 0), (2, 2))]));
        assert!(!after(&[second((95, 0), (5, 5)), second((95, 0), (6, 5))]));
        assert!(after(&[second((95, 0), (6, 5)), second((0, 0), (0, 0)), second((95, 0), (6, 6))]));
    }

    #[test]
    fn how_many_depends_on_v1() {
        let needed =
            |v1_calls, v1_errors| Outage { v1_calls, v1_errors, ..Outage::default() }.needed(&Settings::default());
        assert_eq!([needed(1_000, 0), needed(1_000, 30), needed(1_000, 60), needed(1_000, 90)], [5, 6, 7, 8]);
        assert_eq!([needed(1_000, 200), needed(0, 0), needed(u64::MAX, u64::MAX)], [10; 3]);
        let few = Settings { outage_requests: 3, ..Settings::default() };
        assert_eq!(Outage { v1_calls: 1_000, ..Outage::default() }.needed(&few), 3);
    }

    #[test]
    fn an_outage_of_both_is_not_v2s() {
        assert!(!after(&[second((100, 25), (10, 10))]));
        assert!(after(&[second((100, 24), (10, 10))]));
        assert!(after(&[second((0, 0), (10, 10))]));
    }

    #[test]
    fn one_session_that_always_fails_needs_more_calls() {
        let mut sick = second((95, 0), (10, 10));
        sick.operations[1].v2.unit_errors = 1;
        assert!(!after(&[sick.clone()]));
        assert!(after(&vec![sick; 5]));
    }

    #[test]
    fn clusters_of_v1_are_no_sessions() {
        let storm = |clusters| Outage { failed: 11, sessions: 11, v1_calls: 500, v1_errors: 11, clusters };
        assert_eq!([1.0, 11.0].map(|clusters| storm(clusters).is_total(&Settings::default())), [true, false]);
        assert!(Outage { failed: 30, sessions: 30, ..storm(11.0) }.is_total(&Settings::default()));
    }

    #[test]
    fn mirrored_calls_count_in_shadow() {
        let mut batch = second((95, 0), (0, 0));
        batch.operations[1].shadow = cutover_policy::Calls { units: 0, unit_errors: 0, ..calls(10, 10, 1) };
        let mut outage = Outage::default();
        outage.add(&batch, true, 1.0);
        assert!(outage.is_total(&Settings::default()));
    }
}
