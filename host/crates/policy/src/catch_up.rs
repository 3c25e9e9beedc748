//! Shows a policy what it would have seen, so that it takes over with the memory that it would have.

use std::time::Duration;

use serde::Serialize;

use super::{PolicyError, ask::KeptPort};
use cutover_model::{
    clock::UnixMs,
    port::{Check, Kind, Progress, Verdict},
};

/// A policy's memory while it is shown recorded checks, and how it did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CatchUp {
    /// What it remembers so far.
    #[serde(skip)]
    pub memory: Vec<u8>,
    /// The number of checks that it was shown.
    pub checks: u64,
    /// Those that it failed; its memory is then what it was before.
    pub failed: u64,
    /// Why it failed the first time; none if it never did.
    pub first_failure: Option<PolicyError>,
    #[serde(skip)]
    seen: Seen,
}

/// What a policy has seen of batches that were shown more than once: those of a check that the one in charge failed were
/// shown to it again, in the checks after that. Whoever answered that check gets each batch once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen(UnixMs);

impl Seen {
    /// A check with the batches that are new.
    pub fn fresh(&mut self, check: &Check) -> Check {
        if check.now_ms < self.0 {
            // Time was mended.
            self.0 = UnixMs(0);
        }
        let mut fresh = check.clone();
        fresh.batches.retain(|batch| batch.start_ms >= self.0);
        fresh
    }

    /// It answered a check that the one in charge did not.
    pub fn answered(&mut self, check: &Check) {
        if let Some(last) = check.batches.last() {
            self.0 = self.0.max(last.start_ms + Duration::from_millis(last.duration_ms.into()));
        }
    }
}

impl CatchUp {
    /// One that begins with this memory, empty for a policy that has seen nothing.
    pub fn new(memory: Vec<u8>) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Whether policies of a kind remember checks.
    pub const fn is_for(kind: Kind) -> bool {
        matches!(kind, Kind::Rollback | Kind::Stages)
    }

    /// Shows it the next check. `verdict` is what was in force; a check without one was not shown to stages policies.
    pub fn show(&mut self, kind: Kind, policy: &mut dyn KeptPort, check: &Check, verdict: Option<Verdict>) {
        let (failure, memory) = match (kind, verdict) {
            (Kind::Rollback, verdict) => {
                let asked = policy.judge(&self.seen.fresh(check), &self.memory);
                if asked.answer.is_ok() && verdict.is_none() {
                    self.seen.answered(check);
                }
                (asked.answer.err(), asked.memory)
            }
            (Kind::Stages, Some(verdict)) if verdict != Verdict::RollBack => {
                let asked = policy.next(&Progress { check: check.clone(), verdict, forced: false }, &self.memory);
                (asked.answer.err(), asked.memory)
            }
            (Kind::Stages | Kind::Routing | Kind::Comparison | Kind::Adapter, _) => return,
        };
        self.checks += 1;
        match failure {
            None => self.memory = memory,
            Some(error) => {
                self.failed += 1;
                self.first_failure.get_or_insert(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::{facts::Batch, port::Phase, request::Ppm};

    fn check(now: u64, batches: std::ops::Range<u64>) -> Check {
        let batch = |n| Batch { start_ms: UnixMs(n * 1_000), duration_ms: 1_000, ..Batch::default() };
        Check {
            now_ms: UnixMs(now * 1_000),
            phase: Phase::Ramping,
            stage: 0,
            share: Ppm::new(50_000),
            stage_started_ms: UnixMs(0),
            batches: batches.map(batch).collect(),
        }
    }

    #[test]
    fn what_was_shown_again_is_seen_once_by_who_answered_it_and_again_by_who_did_not() {
        let starts = |check: &Check| check.batches.iter().map(|batch| batch.start_ms.0 / 1_000).collect::<Vec<_>>();
        let (failed, again, rest) = (check(15, 10..15), check(20, 10..12), check(21, 12..20));
        let mut seen = Seen::default();
        assert_eq!(starts(&seen.fresh(&failed)), [10, 11, 12, 13, 14]);
        let mut did_not = seen;
        seen.answered(&failed);
        assert_eq!((starts(&seen.fresh(&again)), starts(&seen.fresh(&rest))), (vec![], vec![15, 16, 17, 18, 19]));
        assert_eq!(starts(&did_not.fresh(&again)), [10, 11]);
        assert_eq!(starts(&seen.fresh(&check(9, 5..9))), [5, 6, 7, 8], "time was mended");
    }
}
