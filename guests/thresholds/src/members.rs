//! V2's workers that failed, and V1's beside them, within a span that outlives stages: a share of traffic says little about
//! what kills a worker.

use cutover_policy::Batch;
use serde::{Deserialize, Serialize};

/// Slots of the span.
const SLOTS: u64 = 10;

/// Failures by tenths of the span, and how many members there are meant to be.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// When the slot began, and failures of V1's and of V2's members in it; ascending.
    slots: Vec<(u64, u64, u64)>,
    /// Members that V1 and V2 are meant to have.
    wanted: (u32, u32),
}

/// Failures within the span.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Of V1's members.
    pub v1: u64,
    /// Members that V1 is meant to have.
    pub v1_wanted: u32,
    /// Of V2's members.
    pub v2: u64,
    /// Members that V2 is meant to have.
    pub v2_wanted: u32,
}

impl Members {
    pub(crate) fn add(&mut self, batches: &[Batch], now_ms: u64, span_ms: u64) {
        for slot in &mut self.slots {
            slot.0 = slot.0.min(now_ms);
        }
        let length_ms = (span_ms / SLOTS).max(1_000);
        for batch in batches {
            let (at, v1, v2) = (batch.start_ms.min(now_ms), batch.v1.failures, batch.v2.failures);
            self.wanted = (batch.v1.wanted, batch.v2.wanted);
            match self.slots.last_mut() {
                _ if v1 == 0 && v2 == 0 => {}
                Some(slot) if at < slot.0.saturating_add(length_ms) => {
                    slot.1 = slot.1.saturating_add(v1.into());
                    slot.2 = slot.2.saturating_add(v2.into());
                }
                _ => self.slots.push((at, v1.into(), v2.into())),
            }
        }
        let from = now_ms.saturating_sub(span_ms);
        self.slots.retain(|slot| slot.0 >= from);
    }

    pub(crate) fn failures(&self) -> Failures {
        let sum = |of: fn(&(u64, u64, u64)) -> u64| self.slots.iter().map(of).fold(0, u64::saturating_add);
        Failures { v1: sum(|s| s.1), v1_wanted: self.wanted.0, v2: sum(|s| s.2), v2_wanted: self.wanted.1 }
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::batch;

    use super::*;

    const SPAN: u64 = 600_000;

    fn failed(start_ms: u64, v1: u32, v2: u32) -> Batch {
        let mut batch = batch(start_ms);
        (batch.v1.wanted, batch.v1.failures, batch.v2.wanted, batch.v2.failures) = (2, v1, 4, v2);
        batch
    }

    #[test]
    fn failures_leave_with_the_span() {
        let mut members = Members::default();
        for minute in 0..30 {
            members.add(&[failed(minute * 60_000, 0, 1)], minute * 60_000 + 5_000, SPAN);
            assert!(members.slots.len() <= 11);
        }
        assert_eq!(members.failures(), Failures { v1: 0, v1_wanted: 2, v2: 10, v2_wanted: 4 });
        members.add(&[failed(1_800_000, 1, 0)], 1_805_000, SPAN);
        assert_eq!(members.failures(), Failures { v1: 1, v1_wanted: 2, v2: 9, v2_wanted: 4 });
        members.add(&[], 9_000_000, SPAN);
        assert_eq!(members.failures(), Failures { v1: 0, v1_wanted: 2, v2: 0, v2_wanted: 4 });
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_failure_for_ever() {
        let mut members = Members::default();
        members.add(&[failed(9_000_000, 0, 3)], 9_001_000, SPAN);
        members.add(&[failed(1_000_000, 0, 1)], 1_001_000, SPAN);
        assert_eq!(members.failures().v2, 4);
        members.add(&[], 1_602_000, SPAN);
        assert_eq!(members.failures().v2, 0);
    }

    #[test]
    fn absurd_counts_do_not_overflow() {
        let mut members = Members { slots: vec![(0, u64::MAX, u64::MAX)], wanted: (0, 0) };
        members.add(&[failed(1, u32::MAX, u32::MAX), failed(200_000, 1, 1)], 300_000, SPAN);
        assert_eq!((members.failures().v1, members.failures().v2), (u64::MAX, u64::MAX));
    }
}
