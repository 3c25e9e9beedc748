//! The guard outside of statistics: V2 answers nothing while V1 does.
//!
//! It counts the batches in a row in which every call of V2 failed. Ten failures in a row by chance have a probability
//! below one in a million at an error rate of 25 %, if they are of different sessions. One session that fails on each
//! of its calls is not an outage, and may be all that V2 serves; so there must be several, or many more calls.

use cutover_policy::{Batch, share};
use serde::{Deserialize, Serialize};

use crate::counting::v2;
use crate::settings::Settings;

/// Sessions that must have failed.
const SESSIONS: u64 = 3;

/// Or this many times the calls.
const PATIENCE: u64 = 5;

/// What happened since V2 last answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// V2's calls, all failed.
    pub failed: u64,
    /// Sessions of V2 that failed for the first time.
    pub sessions: u64,
    /// V1's calls of the same operations meanwhile.
    pub v1_calls: u64,
    /// Those that failed.
    pub v1_errors: u64,
}

impl Outage {
    /// Adds a batch.
    pub fn add(&mut self, batch: &Batch, mirrored: bool) {
        let mut answered = false;
        for operation in batch.operations.iter().filter(|o| v2(o, mirrored).requests > 0) {
            let v2 = v2(operation, mirrored);
            answered |= v2.errors < v2.requests;
            // Mirrored calls have no sessions; each is drawn by itself.
            let sessions = if mirrored { v2.errors } else { v2.unit_errors };
            self.failed = self.failed.saturating_add(v2.errors);
            self.sessions = self.sessions.saturating_add(sessions);
            self.v1_calls = self.v1_calls.saturating_add(operation.v1.requests);
            self.v1_errors = self.v1_errors.saturating_add(operation.v1.errors);
        }
        if answered {
            *self = Self::default();
        }
    }

    /// Whether it is one. Without calls of V1, as at a share of 100 %, nothing speaks for V1 being down as well.
    #[must_use]
    pub fn is_total(&self, settings: &Settings) -> bool {
        let needed = settings.outage_requests;
        let several = self.sessions >= SESSIONS || self.failed >= needed.saturating_mul(PATIENCE);
        let v1_bound = u128::from(settings.outage_v1_error_rate.0) * u128::from(self.v1_calls);
        let v1_works = self.v1_calls == 0 || u128::from(self.v1_errors) * u128::from(share::MILLION) < v1_bound;
        self.failed >= needed && several && v1_works
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
            outage.add(batch, false);
        }
        outage.is_total(&Settings::default())
    }

    #[test]
    fn ten_failures_in_a_row_are_an_outage() {
        assert!(after(&[second((95, 0), (5, 5)), second((95, 0), (5, 5))]));
        assert!(!after(&[second((95, 0), (5, 5)), second((95, 0), (4, 4))]));
        assert!(!after(&[second((95, 0), (5, 5)), second((95, 0), (6, 5))]));
        assert!(after(&[second((95, 0), (6, 5)), second((0, 0), (0, 0)), second((95, 0), (10, 10))]));
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
    fn mirrored_calls_count_in_shadow() {
        let mut batch = second((95, 0), (0, 0));
        batch.operations[1].shadow = cutover_policy::Calls { units: 0, unit_errors: 0, ..calls(10, 10, 1) };
        let mut outage = Outage::default();
        outage.add(&batch, true);
        assert!(outage.is_total(&Settings::default()));
    }
}
