//! Asks the stages policy, and turns its answer into an event. A policy that fails has said `hold`.

use crate::migration::{
    event::Event,
    judge::{Answered, failure},
};
use cutover_model::{
    clock,
    port::{Action, Kind, Move, Progress},
};
use cutover_policy_host::slot::Slots;

/// Asks the policy in charge; `None` if there is none. Blocks for at most the policy's time limit.
pub fn next(slots: &Slots, progress: &Progress) -> Option<Answered<Move>> {
    let slot = slots.get(Kind::Stages);
    let (installed, memory) = slot.question()?;
    let asked = installed.policy.next(progress, &memory);
    // A forced step is an operator's question, not part of what the policy has seen.
    if asked.answer.is_ok() && !progress.forced {
        slot.remember(&installed, asked.memory.clone());
    }
    Some(Answered { installed, memory, asked, at: clock::mono() })
}

/// What the controller makes of an answer.
pub fn event(answered: &Answered<Move>) -> Event {
    match &answered.asked.answer {
        Ok(next) => Event::Moved { action: next.action, findings: next.findings.clone() },
        Err(error) => Event::Moved { action: Action::Hold, findings: vec![failure(error)] },
    }
}
