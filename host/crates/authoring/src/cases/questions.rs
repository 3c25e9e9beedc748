//! The questions of a bundle's cases, for whoever wants to ask them for another reason: a bench.

use std::path::Path;

use super::{CasesError, ask, read, scene::Scene};
use crate::author::workload::{Question, Step};
use cutover_model::port::{Action, Move};
use cutover_policy_host::{ask::Asked, engine::Policy};

/// What the cases of a bundle ask with its own settings, in their order. The policy is asked in passing, because where a
/// migration stands and what is remembered may follow from its answers.
///
/// # Errors
/// Why the cases cannot be read.
pub fn questions(folder: &Path, policy: &Policy) -> Result<Vec<Step>, CasesError> {
    let cases = read::cases(folder, policy.kind)?;
    let mut steps = Vec::new();
    for case in cases.all.iter().filter(|case| case.refusal.is_none() && case.settings.is_empty()) {
        let mut scene = Scene::new(&case.start);
        let mut begins_with = Some(scene.memory.clone());
        'case: for step in &case.steps {
            if scene.enter(step).is_err() {
                break;
            }
            for _ in 0..step.repeat.unwrap_or(1) {
                let Some(question) = scene.question(policy.kind, step) else { break 'case };
                let question = plain(question);
                let (memory, action) = answer(policy, &question, &scene.memory);
                if let Some(memory) = memory {
                    scene.memory = memory;
                }
                if let Some(action) = action.filter(|_| case.obey) {
                    scene.obey(action);
                }
                steps.push(Step { question, begins_with: begins_with.take() });
            }
        }
    }
    Ok(steps)
}

/// What the policy remembers, and what it does, as far as that matters to the next question.
fn answer(policy: &Policy, question: &Question, memory: &[u8]) -> (Option<Vec<u8>>, Option<Action>) {
    fn kept<T>(asked: Asked<T>) -> Option<Vec<u8>> {
        asked.answer.is_ok().then_some(asked.memory)
    }
    match question {
        Question::Judge(check) => (kept(policy.judge(check, memory)), None),
        Question::MakePlan(situation) => (kept(policy.make_plan(situation, memory)), None),
        Question::Next(progress) => {
            let asked = policy.next(progress, memory);
            let action = asked.answer.as_ref().map(|Move { action, .. }| *action).ok();
            (kept(asked), action)
        }
        Question::Decide(_) | Question::Compare(_) | Question::AdaptCall(_) | Question::AdaptReply(..) => (None, None),
    }
}

fn plain(question: ask::Question) -> Question {
    match question {
        ask::Question::Judge(check) => Question::Judge(check),
        ask::Question::Next(progress) => Question::Next(progress),
        ask::Question::Plan(planned) => Question::MakePlan(planned.situation),
        ask::Question::Compare(pairs) => Question::Compare(pairs),
        ask::Question::AdaptCall(call) => Question::AdaptCall(call),
        ask::Question::AdaptReply(call, reply) => Question::AdaptReply(call, reply),
    }
}
