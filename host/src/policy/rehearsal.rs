//! Shows a policy what it would have seen, so that it takes over with the memory that it would have.

use serde::Serialize;

use super::{
    PolicyError,
    engine::WarmPolicy,
    port::{Check, Kind, Progress, Verdict},
};

/// A policy's memory while it is shown recorded checks, and how it did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rehearsal {
    /// What it remembers so far.
    #[serde(skip)]
    pub memory: Vec<u8>,
    /// Checks that it was shown.
    pub checks: u64,
    /// Those that it failed; its memory is then what it was before.
    pub failed: u64,
    /// Why, the first time.
    pub first_failure: Option<PolicyError>,
}

impl Rehearsal {
    /// One that begins with a memory.
    pub fn new(memory: Vec<u8>) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Whether policies of a kind remember checks.
    pub const fn is_for(kind: Kind) -> bool {
        matches!(kind, Kind::Rollback | Kind::Stages)
    }

    /// Shows it the next check. `verdict` is what was in force; a check without one was not shown to stages policies.
    pub fn show(&mut self, kind: Kind, policy: &mut WarmPolicy, check: &Check, verdict: Option<Verdict>) {
        let (failure, memory) = match (kind, verdict) {
            (Kind::Rollback, _) => {
                let asked = policy.judge(check, &self.memory);
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
