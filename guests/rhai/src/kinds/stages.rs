//! `fn next(progress, forced, memory)`.

use cutover_policy::{Action, Move, Progress, Stages, Step};
use rhai::Dynamic;

use super::{answer, findings, wrong};
use crate::{
    Rhai,
    functions::Function,
    helpers::units,
    script::Memory,
    shape::{self, Shape},
    values,
};

#[derive(Clone, Copy)]
enum Word {
    Hold,
    Advance,
    Retreat,
    Complete,
    Pause,
}

const WORDS: [(&str, Word); 5] = [
    ("hold", Word::Hold),
    ("advance", Word::Advance),
    ("retreat", Word::Retreat),
    ("complete", Word::Complete),
    ("pause", Word::Pause),
];

impl Stages for Rhai {
    type Memory = Memory;

    fn next(&self, progress: &Progress, forced: bool, memory: &mut Memory) -> Result<Move, String> {
        let shown = Dynamic::from(values::check::Check::from(progress));
        let answer = self.0.ask_remembering(Function::Next, vec![shown, forced.into()], memory)?;
        next(answer).map_err(wrong(Function::Next))
    }
}

fn next(value: Dynamic) -> Result<Move, String> {
    let what = "`hold(..)`, `advance(stage, share, soak)`, `retreat(..)`, `complete()` or `pause(..)`";
    let (word, fields) = answer(value, what)?;
    let action = shape::word("answer", &word, &WORDS)?;
    let mut fields = match (fields, action) {
        (Some(fields), _) => fields,
        (None, Word::Advance | Word::Retreat) => {
            return Err(format!("`{word}` does not say where to; write `{word}(stage, share, soak)`"));
        }
        (None, _) => Shape::of("answer", rhai::Map::new().into(), what)?,
    };
    let action = match action {
        Word::Hold => Action::Hold,
        Word::Advance => Action::Advance(step(&mut fields)?),
        Word::Retreat => Action::Retreat(step(&mut fields)?),
        Word::Complete => Action::Complete,
        Word::Pause => Action::Pause,
    };
    let findings = findings(&mut fields)?;
    fields.end()?;
    Ok(Move { action, findings })
}

fn step(fields: &mut Shape) -> Result<Step, String> {
    let stage = fields.required("stage")?;
    let share = fields.take("share").ok_or("`answer.share` is missing, and has to be a share such as \"5%\"")?;
    let share = units::share(&share).map_err(|e| format!("`answer.share` is wrong: {}", units::why(&e)))?;
    let soak = fields.take("soak").as_ref().map(units::span).transpose();
    let soak_ms = soak.map_err(|e| format!("`answer.soak` is wrong: {}", units::why(&e)))?;
    Ok(Step { stage, share, soak_ms })
}
