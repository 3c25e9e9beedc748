//! `fn compare(pair)`.

use std::sync::Arc;

use cutover_policy::{Comparison, Difference, Outcome, Pair};
use rhai::Dynamic;

use super::{answer, wrong};
use crate::{
    Rhai,
    functions::Function,
    shape::{self, Shape},
    values,
};

#[derive(Clone, Copy)]
enum Word {
    Same,
    Ignored,
    Different,
    Incomparable,
}

const WORDS: [(&str, Word); 4] = [
    ("same", Word::Same),
    ("ignored", Word::Ignored),
    ("different", Word::Different),
    ("incomparable", Word::Incomparable),
];

impl Comparison for Rhai {
    /// A script that fails has compared nothing, and says so in place of an outcome.
    fn compare(&self, pair: &Pair) -> Outcome {
        let shown = Dynamic::from(values::pair::Pair(Arc::new(pair.clone())));
        let answer = self.0.ask(Function::Compare, vec![shown]);
        answer.and_then(|value| outcome(value).map_err(wrong(Function::Compare))).unwrap_or_else(Outcome::Incomparable)
    }
}

fn outcome(value: Dynamic) -> Result<Outcome, String> {
    let (word, fields) = answer(value, "`same()`, `ignored(..)`, `different(..)` or `incomparable(why)`")?;
    let outcome = shape::word("answer", &word, &WORDS)?;
    let Some(mut fields) = fields else {
        return match outcome {
            Word::Same => Ok(Outcome::Same),
            Word::Ignored | Word::Different => {
                Err(format!("`{word}` does not say what; write `{word}([difference(..)])`"))
            }
            Word::Incomparable => Err("`incomparable` does not say why; write `incomparable(\"why\")`".into()),
        };
    };
    let outcome = match outcome {
        Word::Same => Outcome::Same,
        Word::Ignored => Outcome::Ignored(fields.list("differences", difference)?),
        Word::Different => Outcome::Different(fields.list("differences", difference)?),
        Word::Incomparable => Outcome::Incomparable(fields.required("why")?),
    };
    fields.end()?;
    Ok(outcome)
}

fn difference(path: &str, value: Dynamic) -> Result<Difference, String> {
    let what = "a difference, as `difference(path, kind, category, v1, v2)` makes it";
    let mut fields = Shape::of(path, value, what)?;
    let difference = Difference {
        path: fields.required("path")?,
        kind: fields.required("kind")?,
        category: fields.required("category")?,
        v1: fields.required("v1")?,
        v2: fields.required("v2")?,
    };
    fields.end()?;
    Ok(difference)
}
