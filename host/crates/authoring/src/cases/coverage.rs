//! What the cases of a bundle made its policy say, and what they did not.

use std::collections::BTreeSet;

use serde::Serialize;

use super::answer::Answer;
use cutover_model::port::Kind;

/// What a whole run made a policy say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Rules of findings that it gave.
    pub findings: Vec<String>,
    /// Declared rules that no case made it give.
    pub missed_findings: Vec<String>,
    /// Verdicts, actions, outcomes or targets that it gave.
    pub answers: Vec<String>,
    /// Those of its kind that no case made it give, but for those that it never gives.
    pub missed_answers: Vec<String>,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    findings: BTreeSet<String>,
    answers: BTreeSet<&'static str>,
}

/// The answers of a kind, by the names of [`Answer::names`].
pub(super) const fn names(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Routing => &["v1", "v2", "share", "decide"],
        Kind::Stages => &["hold", "advance", "retreat", "complete", "pause"],
        Kind::Rollback => &["healthy", "hold", "warn", "roll-back"],
        Kind::Comparison => &["same", "ignored", "different", "incomparable"],
        Kind::Adapter => &["call", "reply"],
    }
}

impl Seen {
    pub(super) fn add(&mut self, answer: &Answer) {
        self.findings.extend(answer.findings().iter().map(|finding| finding.rule.clone()));
        self.answers.extend(answer.names());
    }

    /// `never` are answers that the cases say the policy never gives, `decides` whether it exports `decide`.
    pub(super) fn coverage(self, kind: Kind, declared: &[String], never: &BTreeSet<String>, decides: bool) -> Coverage {
        let missed =
            |name: &&&str| !self.answers.contains(*name) && !never.contains(**name) && (decides || **name != "decide");
        Coverage {
            missed_answers: names(kind).iter().filter(missed).map(|&name| name.to_owned()).collect(),
            missed_findings: declared.iter().filter(|rule| !self.findings.contains(*rule)).cloned().collect(),
            answers: self.answers.iter().map(|&name| name.to_owned()).collect(),
            findings: self.findings.into_iter().collect(),
        }
    }
}

impl Coverage {
    /// Whether everything that the policy may say was said.
    pub const fn is_full(&self) -> bool {
        self.missed_findings.is_empty() && self.missed_answers.is_empty()
    }
}
