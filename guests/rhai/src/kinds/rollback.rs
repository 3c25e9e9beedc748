//! `fn judge(check, memory)`.

use cutover_policy::{Check, Judgement, Rollback, Verdict};
use rhai::{Dynamic, INT};

use super::{answer, findings, wrong};
use crate::{Rhai, functions::Function, script::Memory, shape, values};

const VERDICTS: [(&str, Verdict); 4] =
    [("healthy", Verdict::Healthy), ("hold", Verdict::Hold), ("warn", Verdict::Warn), ("roll-back", Verdict::RollBack)];

impl Rollback for Rhai {
    type Memory = Memory;

    fn judge(&self, check: &Check, memory: &mut Memory) -> Result<Judgement, String> {
        let shown = Dynamic::from(values::check::Check::from(check));
        let answer = self.0.ask_remembering(Function::Judge, vec![shown], memory)?;
        judgement(answer).map_err(wrong(Function::Judge))
    }
}

fn judgement(value: Dynamic) -> Result<Judgement, String> {
    let (word, fields) = answer(value, "`healthy()`, `hold(..)`, `warn(..)` or `roll_back(..)`")?;
    let verdict = shape::word("answer", &word, &VERDICTS)?;
    let mut judgement = Judgement::from(verdict);
    if let Some(mut fields) = fields {
        judgement.findings = findings(&mut fields)?;
        judgement.evidence = fields.optional::<INT>("evidence")?.unwrap_or_default();
        fields.end()?;
    }
    if judgement.findings.is_empty() && matches!(verdict, Verdict::Warn | Verdict::RollBack) {
        return Err(format!("`{word}` has no finding; say why, as in `{}([finding(..)])`", word.replace('-', "_")));
    }
    Ok(judgement)
}
