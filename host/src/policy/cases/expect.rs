//! Holds answers against expectations, field by field.

use serde::Serialize;

use super::{
    ask::{self, Answer, Mirrored},
    expect_format::{
        Bounds, Expect, ExpectDifference, ExpectError, ExpectFinding, ExpectNotice, ExpectOutcome, ExpectProblem,
    },
    format::target,
};
use crate::{
    policy::{
        PolicyError,
        facts::Finding,
        port::{Action, AdaptedCall, AdapterReply, Comparison, Difference, Judgement, Move, Plan},
    },
    route::Route,
};

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
    fn differ(&mut self, field: &str, expected: impl Into<String>, actual: impl Into<String>) {
        let (expected, actual) = (expected.into(), actual.into());
        self.0.push(Mismatch { field: field.to_owned(), expected, actual });
    }

    fn same(&mut self, field: &str, expected: Option<impl ToString>, actual: impl ToString) {
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
            Answer::Plan(plan, _) => compare_plan(expect, plan, &mut wrong),
            Answer::Outcomes(outcomes) => compare_outcomes(expect, outcomes, &mut wrong),
            Answer::Call(call) => compare_call(expect, call, &mut wrong),
            Answer::Reply(reply) => compare_reply(expect, reply, &mut wrong),
        },
    }
    wrong.0
}

/// Requests say what they expect themselves, whether or not their step does.
pub(super) fn compare_routes(routes: &[(Mirrored, Route)]) -> Vec<Mismatch> {
    let mut wrong = Mismatches::default();
    for (n, (expected, route)) in routes.iter().enumerate() {
        let field = |name: &str| format!("requests[{n}].{name}");
        let actual = || route.error.as_ref().map_or_else(String::new, |(e, _)| format!(", for `decide` {e}"));
        if let Some(pool) = expected.pool.filter(|&pool| pool != route.pool) {
            wrong.differ(&field("pool"), pool.name(), format!("{}{}", route.pool.name(), actual()));
        }
        if let Some(reason) = expected.reason.as_deref().filter(|&reason| *reason != *route.reason) {
            wrong.differ(&field("reason"), reason, format!("{}{}", route.reason, actual()));
        }
        wrong.same(&field("mirror"), expected.mirror, route.mirror);
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
    let (name, step) = ask::action(next.action);
    wrong.same("action", expect.action.map(|a| format!("{a:?}").to_lowercase()), name);
    if let Some(to) = &expect.to {
        match (next.action, step) {
            (Action::Advance(_) | Action::Retreat(_), Some(step)) => {
                wrong.same("to.stage", to.stage, step.stage);
                wrong.same("to.share", to.share.map(|s| s.0), step.share);
                let expected = to.soak.map(|s| ask::soak(s.0.map(|span| span.0)));
                wrong.same("to.soak", expected, ask::soak(step.soak));
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
fn compare_all<E, A>(
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

fn compare_plan(expect: &Expect, plan: &Plan, wrong: &mut Mismatches) {
    wrong.same("otherwise", expect.otherwise.map(target), target(plan.otherwise));
    wrong.same("share", expect.share.map(|s| s.0), plan.share);
    wrong.same("shadow_share", expect.shadow_share.map(|s| s.0), plan.shadow_share);
    wrong.same(
        "shadow_operations",
        expect.shadow_operations.as_ref().map(|names| names.join(", ")),
        plan.shadow_operations.join(", "),
    );
    wrong.same("sticky", expect.sticky.as_deref(), &plan.sticky);
    wrong.same("salt", expect.salt.as_deref(), &plan.salt);
    let Some(rules) = &expect.rules else { return };
    let attributes = |rule: &super::super::port::Rule| -> Vec<String> {
        rule.conditions.iter().map(|c| c.attribute.clone()).collect()
    };
    let all = rules.len() == plan.rules.len()
        && rules.iter().zip(&plan.rules).all(|(expected, rule)| {
            expected.name == rule.name
                && expected.target.is_none_or(|t| t == rule.target)
                && expected.attributes.as_ref().is_none_or(|a| *a == attributes(rule))
        });
    if !all {
        let expected: Vec<_> = rules
            .iter()
            .map(|r| {
                let to = r.target.map_or_else(String::new, |t| format!(" to {}", target(t)));
                let on = r.attributes.as_ref().map_or_else(String::new, |a| format!(" on {}", a.join(", ")));
                format!("{}{to}{on}", r.name)
            })
            .collect();
        let line = |r: &super::super::port::Rule| {
            format!("{} to {} on {}", r.name, target(r.target), attributes(r).join(", "))
        };
        wrong.differ("rules", listed(&expected), listed(&plan.rules.iter().map(line).collect::<Vec<_>>()));
    }
}

fn compare_outcomes(expect: &Expect, outcomes: &[Comparison], wrong: &mut Mismatches) {
    if let Some(expected) = &expect.outcomes {
        if expected.len() != outcomes.len() {
            let pairs = outcomes.len();
            return wrong.differ("outcomes", format!("{} outcomes", expected.len()), format!("{pairs} pairs"));
        }
        for (n, (expected, outcome)) in expected.iter().zip(outcomes).enumerate() {
            compare_outcome(&format!("outcomes[{n}]."), expected, outcome, wrong);
        }
    }
    let Some(outcome) = outcomes.first() else { return };
    wrong.same("outcome", expect.outcome.map(|o| format!("{o:?}").to_lowercase()), ask::outcome(outcome));
    compare_differences("differences", expect.differences.as_deref(), outcome, wrong);
    compare_why("why", expect.why.as_deref(), outcome, wrong);
}

fn compare_outcome(place: &str, expected: &ExpectOutcome, outcome: &Comparison, wrong: &mut Mismatches) {
    let name = format!("{:?}", expected.outcome).to_lowercase();
    wrong.same(&format!("{place}outcome"), Some(name), ask::outcome(outcome));
    compare_differences(&format!("{place}differences"), expected.differences.as_deref(), outcome, wrong);
    compare_why(&format!("{place}why"), expected.why.as_deref(), outcome, wrong);
}

fn compare_differences(
    field: &str,
    expected: Option<&[ExpectDifference]>,
    outcome: &Comparison,
    wrong: &mut Mismatches,
) {
    let Some(expected) = expected else { return };
    let actual: &[Difference] = match outcome {
        Comparison::Ignored(all) | Comparison::Different(all) => all,
        Comparison::Same | Comparison::Incomparable(_) => &[],
    };
    let given = |part: &Option<String>, name: &str| part.as_ref().map_or_else(String::new, |p| format!(", {name} {p}"));
    let wanted = |d: &ExpectDifference| {
        let parts = [(&d.kind, "kind"), (&d.category, "category"), (&d.v1, "v1"), (&d.v2, "v2")];
        format!("{:?}{}", d.path, parts.map(|(part, name)| given(part, name)).concat())
    };
    let is =
        |d: &Difference| format!("{:?}, kind {}, category {}, v1 {}, v2 {}", d.path, d.kind, d.category, d.v1, d.v2);
    let lines = (expected.iter().map(wanted).collect(), actual.iter().map(is).collect());
    compare_all(field, expected, actual, difference_holds, lines, true, wrong);
}

fn compare_why(field: &str, expected: Option<&str>, outcome: &Comparison, wrong: &mut Mismatches) {
    let Some(part) = expected else { return };
    match outcome {
        Comparison::Incomparable(why) if why.contains(part) => {}
        Comparison::Incomparable(why) => wrong.differ(field, format!("something with {part:?}"), why),
        other => wrong.differ(field, format!("something with {part:?}"), format!("nothing: `{}`", ask::outcome(other))),
    }
}

fn compare_call(expect: &Expect, call: &AdaptedCall, wrong: &mut Mismatches) {
    wrong.same("operation", expect.operation.as_deref(), &call.operation);
    wrong.same("json", expect.json.as_ref(), ask::body(&call.body));
    if let Some(expected) = &expect.notices {
        let holds = |e: &ExpectNotice, (kind, message): &(String, String)| {
            e.kind == *kind && e.message.as_ref().is_none_or(|part| message.contains(part))
        };
        let wanted = expected.iter().map(|e| format!("{}: {}", e.kind, e.message.as_deref().unwrap_or("..")));
        let is = call.notices.iter().map(|(kind, message)| format!("{kind}: {message}"));
        compare_all("notices", expected, &call.notices, holds, (wanted.collect(), is.collect()), true, wrong);
    }
}

fn compare_reply(expect: &Expect, reply: &AdapterReply, wrong: &mut Mismatches) {
    wrong.same("success", expect.success, reply.success);
    wrong.same("json", expect.json.as_ref(), ask::body(&reply.body));
}

fn finding_holds(expected: &ExpectFinding, finding: &Finding) -> bool {
    expected.rule == finding.rule
        && expected.observed.as_ref().is_none_or(|b| holds(b, finding.observed, &finding.unit))
        && expected.limit.as_ref().is_none_or(|b| holds(b, finding.limit, &finding.unit))
        && expected.unit.as_ref().is_none_or(|unit| *unit == finding.unit)
        && expected.note.as_ref().is_none_or(|part| finding.note.contains(part))
}

fn difference_holds(expected: &ExpectDifference, difference: &Difference) -> bool {
    let same = |expected: &Option<String>, actual: &str| expected.as_ref().is_none_or(|e| e == actual);
    expected.path == difference.path
        && same(&expected.kind, &difference.kind)
        && same(&expected.category, &difference.category)
        && same(&expected.v1, &difference.v1)
        && same(&expected.v2, &difference.v2)
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

fn listed(lines: &[String]) -> String {
    if lines.is_empty() { "none".into() } else { lines.join("\n") }
}
