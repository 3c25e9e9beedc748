//! Holds answers against expectations, field by field.

use std::fmt;

use serde::Serialize;

use super::{
    answer::{self, Answer},
    expect_format::{Bounds, Expect, ExpectError, ExpectFinding, ExpectProblem},
    expect_pairs, expect_plan,
};
use cutover_model::{
    facts::Finding,
    port::{Action, Judgement, Move},
};
use cutover_policy_host::PolicyError;

/// A field that is not what a case expects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// The field, as the case names it.
    pub field: String,
    /// What the case expects, a line for each thing.
    pub expected: String,
    /// What the policy answered.
    pub actual: String,
}

/// Collects what does not match.
#[derive(Debug, Default)]
pub(super) struct Mismatches(pub(super) Vec<Mismatch>);

impl Mismatches {
    pub(super) fn differ(&mut self, field: &str, expected: impl Into<String>, actual: impl Into<String>) {
        let (expected, actual) = (expected.into(), actual.into());
        self.0.push(Mismatch { field: field.to_owned(), expected, actual });
    }

    pub(super) fn same(&mut self, field: &str, expected: Option<impl ToString>, actual: impl fmt::Display) {
        if let Some(expected) = expected {
            let (expected, actual) = (expected.to_string(), actual.to_string());
            if expected != actual {
                self.differ(field, expected, actual);
            }
        }
    }
}

/// What does not match; empty if all does.
pub(super) fn compare(expect: &Expect, answer: &Result<Answer, PolicyError>) -> Vec<Mismatch> {
    let mut wrong = Mismatches::default();
    match (answer, &expect.error) {
        (Err(error), Some(expected)) => compare_error(expected, error, &mut wrong),
        (Err(error), None) => {
            wrong.differ("answer", "one", format!("error `{}`: it {error}", error.cause()));
        }
        (Ok(_), Some(expected)) => wrong.differ("error", format!("`{}`", expected.cause), "none: it answered"),
        (Ok(answer), None) => match answer {
            Answer::Judgement(judgement) => compare_judgement(expect, judgement, &mut wrong),
            Answer::Move(next) => compare_move(expect, next, &mut wrong),
            Answer::Plan(plan, _) => expect_plan::compare_plan(expect, plan, &mut wrong),
            Answer::Outcomes(outcomes) => expect_pairs::compare_outcomes(expect, outcomes, &mut wrong),
            Answer::Call(call) => expect_pairs::compare_call(expect, call, &mut wrong),
            Answer::Reply(reply) => expect_pairs::compare_reply(expect, reply, &mut wrong),
        },
    }
    wrong.0
}

/// Whether an error is the expected one.
pub(super) fn compare_error(expected: &ExpectError, error: &PolicyError, wrong: &mut Mismatches) {
    let said = format!("`{}`: it {error}", error.cause());
    let other_words = expected.message.as_ref().is_some_and(|part| !error.to_string().contains(part));
    if expected.cause != error.cause() {
        wrong.differ("error", format!("`{}`", expected.cause), said);
    } else if other_words {
        let part = expected.message.as_deref().unwrap_or_default();
        wrong.differ("error.message", format!("something with {part:?}"), said);
    }
}

/// Whether just these problems were found in the settings.
pub(super) fn compare_problems(expected: &[ExpectProblem], error: &PolicyError, wrong: &mut Mismatches) {
    let PolicyError::Settings { problems } = error else {
        return wrong.differ("problems", "problems with the settings", format!("`{}`: it {error}", error.cause()));
    };
    // Problems are sentences that begin with their path in backticks, unless they concern the whole.
    let split = |problem: &String| match problem.strip_prefix('`').and_then(|rest| rest.split_once("` ")) {
        Some((path, message)) => (path.to_owned(), message.to_owned()),
        None => (String::new(), problem.clone()),
    };
    let actual: Vec<_> = problems.iter().map(split).collect();
    let holds = |e: &ExpectProblem, (path, message): &(String, String)| {
        e.path == *path && e.message.as_ref().is_none_or(|part| message.contains(part))
    };
    let wanted = expected.iter().map(|e| format!("`{}` {}", e.path, e.message.as_deref().unwrap_or("..")));
    let is = actual.iter().map(|(path, message)| format!("`{path}` {message}"));
    compare_all("problems", expected, &actual, holds, (wanted.collect(), is.collect()), true, wrong);
}

fn compare_judgement(expect: &Expect, judgement: &Judgement, wrong: &mut Mismatches) {
    wrong.same("verdict", expect.verdict, judgement.verdict);
    if let Some(bounds) = expect.evidence.as_ref().filter(|bounds| !holds(bounds, judgement.evidence, "")) {
        wrong.differ("evidence", bounds_text(bounds), judgement.evidence.to_string());
    }
    compare_findings(expect, &judgement.findings, wrong);
}

fn compare_move(expect: &Expect, next: &Move, wrong: &mut Mismatches) {
    let (name, step) = answer::action(next.action);
    wrong.same("action", expect.action.map(|a| format!("{a:?}").to_lowercase()), name);
    if let Some(to) = &expect.to {
        match (next.action, step) {
            (Action::Advance(_) | Action::Retreat(_), Some(step)) => {
                wrong.same("to.stage", to.stage, step.stage);
                wrong.same("to.share", to.share.map(|s| s.0), step.share);
                let expected = to.soak.map(|s| answer::soak(s.0.map(|span| span.0)));
                wrong.same("to.soak", expected, answer::soak(step.soak));
            }
            _ => wrong.differ("to", "a stage to go to", format!("none: it says `{name}`")),
        }
    }
    compare_findings(expect, &next.findings, wrong);
}

fn compare_findings(expect: &Expect, findings: &[Finding], wrong: &mut Mismatches) {
    if let Some(expected) = &expect.findings {
        let lines = (expected.iter().map(finding_text).collect(), findings.iter().map(shown_finding).collect());
        compare_all("findings", expected, findings, finding_holds, lines, true, wrong);
    }
    if let Some(expected) = &expect.findings_include {
        let lines = (expected.iter().map(finding_text).collect(), findings.iter().map(shown_finding).collect());
        compare_all("findings_include", expected, findings, finding_holds, lines, false, wrong);
    }
}

/// Pairs each expected thing with one that is there; with `all`, none may be left over.
pub(super) fn compare_all<E, A>(
    field: &str,
    expected: &[E],
    actual: &[A],
    holds: fn(&E, &A) -> bool,
    (expected_lines, actual_lines): (Vec<String>, Vec<String>),
    all: bool,
    wrong: &mut Mismatches,
) {
    let mut free: Vec<&A> = actual.iter().collect();
    let found = expected.iter().all(|e| {
        let at = free.iter().position(|a| holds(e, a));
        at.map(|at| free.swap_remove(at)).is_some()
    });
    if !found || (all && !free.is_empty()) {
        wrong.differ(field, listed(&expected_lines), listed(&actual_lines));
    }
}

fn finding_holds(expected: &ExpectFinding, finding: &Finding) -> bool {
    expected.rule == finding.rule
        && expected.observed.as_ref().is_none_or(|b| holds(b, finding.observed, &finding.unit))
        && expected.limit.as_ref().is_none_or(|b| holds(b, finding.limit, &finding.unit))
        && expected.unit.as_ref().is_none_or(|unit| *unit == finding.unit)
        && expected.note.as_ref().is_none_or(|part| finding.note.contains(part))
}

/// A bound in another kind of unit than the value holds for none.
fn holds(bounds: &Bounds, value: i64, unit: &str) -> bool {
    let min = bounds.min.as_ref().is_none_or(|a| a.within(unit).is_some_and(|min| value >= min));
    min && bounds.max.as_ref().is_none_or(|a| a.within(unit).is_some_and(|max| value <= max))
}

fn bounds_text(bounds: &Bounds) -> String {
    match (&bounds.min, &bounds.max) {
        (Some(value), _) if bounds.exact => value.text.clone(),
        (Some(min), Some(max)) => format!("{} to {}", min.text, max.text),
        (Some(min), None) => format!("at least {}", min.text),
        (None, Some(max)) => format!("at most {}", max.text),
        (None, None) => "anything".into(),
    }
}

fn finding_text(expected: &ExpectFinding) -> String {
    let ExpectFinding { rule, observed, limit, unit, note } = expected;
    let bounds = [("observed", observed), ("limit", limit)]
        .into_iter()
        .filter_map(|(name, bounds)| Some(format!("{name} {}", bounds_text(bounds.as_ref()?))));
    let words = [("unit", unit), ("note", note)]
        .into_iter()
        .filter_map(|(name, part)| Some(format!("{name} {}", part.as_ref()?)));
    [rule.clone()].into_iter().chain(bounds).chain(words).collect::<Vec<_>>().join(", ")
}

fn shown_finding(finding: &Finding) -> String {
    let Finding { rule, observed, limit, unit, note } = finding;
    format!("{rule}, observed {observed}, limit {limit}, unit {unit}, note {note}")
}

pub(super) fn listed(lines: &[String]) -> String {
    if lines.is_empty() { "none".into() } else { lines.join("\n") }
}
