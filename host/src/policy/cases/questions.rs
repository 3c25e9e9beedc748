//! The questions of a bundle's cases, for whoever wants to ask them for another reason: a bench.

use std::{path::Path, sync::Arc};

use super::{
    CasesError,
    answer::Answer,
    ask::{Asker, Question},
    read,
    scene::Scene,
};
use crate::policy::{
    author::workload::{Question as Asked, Step},
    engine::Policy,
};

/// What the cases of a bundle ask with its own settings, in their order. The policy is asked in passing, because where a
/// migration stands and what is remembered may follow from its answers.
///
/// # Errors
/// Why the cases cannot be read.
pub fn questions(folder: &Path, policy: &Arc<Policy>) -> Result<Vec<Step>, CasesError> {
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
                let given = question.ask(&mut Asker::Fresh(policy), policy, &scene.memory);
                if given.answer.is_ok() {
                    scene.memory = given.memory;
                }
                if let (true, Ok(Answer::Move(next))) = (case.obey, &given.answer) {
                    scene.obey(next.action);
                }
                steps.push(Step { question: plain(question), begins_with: begins_with.take() });
            }
        }
    }
    Ok(steps)
}

fn plain(question: Question) -> Asked {
    match question {
        Question::Judge(check) => Asked::Judge(check),
        Question::Next(progress) => Asked::Next(progress),
        Question::Plan(asked) => Asked::MakePlan(asked.0),
        Question::Compare(pairs) => Asked::Compare(pairs),
        Question::AdaptCall(call) => Asked::AdaptCall(call),
        Question::AdaptReply(call, reply) => Asked::AdaptReply(call, reply),
    }
}
