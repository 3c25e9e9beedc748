//! Asks the rollback policy, and turns its answer into an event. A policy that fails has said `hold`.

use std::sync::Arc;

use crate::migration::event::Event;
use cutover_model::{
    clock::{self, Mono},
    facts::{Batch, Finding},
    port::{Check, Judgement, Kind, Verdict},
};
use cutover_policy_host::{PolicyError, ask::Asked, installed::InstalledPolicy, slot::Slots};

/// What became of asking a policy.
#[derive(Debug, Clone)]
pub struct Answered<T> {
    /// The policy that was asked.
    pub installed: Arc<InstalledPolicy>,
    /// What it remembered before.
    pub memory: Vec<u8>,
    /// What it said, and what that cost.
    pub asked: Asked<T>,
    /// When the answer came.
    pub at: Mono,
}

/// Takes away from `batches` what is more than the policies in charge can be asked about at once, and returns it: the
/// newest ones, which a check of their own is for. Nothing is lost on a policy that adds up what it sees, and a check
/// after a stall does not fail for its size.
pub fn set_aside(migration: &str, slots: &Slots, batches: &mut Vec<Batch>) -> Vec<Batch> {
    let policies = [Kind::Rollback, Kind::Stages].into_iter().filter_map(|kind| slots.get(kind).active());
    let fitting = policies.map(|policy| policy.batches_at_once(batches)).min().unwrap_or(batches.len());
    let rest = batches.split_off(fitting);
    if !rest.is_empty() {
        let (asked, rest) = (batches.len(), rest.len());
        tracing::warn!(
            migration,
            asked,
            rest,
            "a check is larger than a quarter of `input_bytes`; it is made in several"
        );
    }
    rest
}

/// Asks the policy in charge; `None` if there is none. Blocks for at most the policy's time limit.
pub fn judge(slots: &Slots, check: &Check) -> Option<Answered<Judgement>> {
    let slot = slots.get(Kind::Rollback);
    let (installed, memory) = slot.question()?;
    let asked = installed.policy.judge(check, &memory);
    if asked.answer.is_ok() {
        slot.remember(&installed, asked.memory.clone());
    }
    Some(Answered { installed, memory, asked, at: clock::mono() })
}

/// The verdict that holds: `hold` if the policy failed or none is in charge.
pub fn verdict(answered: Option<&Answered<Judgement>>) -> Verdict {
    match answered.map(|a| &a.asked.answer) {
        Some(Ok(judgement)) => judgement.verdict,
        Some(Err(_)) | None => Verdict::Hold,
    }
}

/// What the controller makes of an answer.
pub fn event(answered: &Answered<Judgement>) -> Event {
    match &answered.asked.answer {
        Ok(judgement) => Event::Judged { verdict: judgement.verdict, findings: judgement.findings.clone() },
        Err(error) => Event::Judged { verdict: Verdict::Hold, findings: vec![failure(error)] },
    }
}

/// The finding that no rollback policy is in charge.
pub fn nobody() -> Finding {
    let note = "no rollback policy is in charge, so nothing moves; activate one".into();
    Finding { rule: "no-rollback-policy".into(), observed: 0, limit: 1, unit: "count".into(), note }
}

/// A failure as a finding, so that people see why nothing moves.
pub fn failure(error: &PolicyError) -> Finding {
    Finding {
        rule: format!("policy-{}", error.cause()),
        observed: 1,
        limit: 0,
        unit: "count".into(),
        note: format!("the policy {error}"),
    }
}
