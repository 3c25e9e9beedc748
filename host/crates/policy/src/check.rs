//! The host trusts nothing that a policy answers: what can be clamped is clamped, what cannot is nonsense.

use super::error::PolicyError;
use cutover_model::{
    facts::Finding,
    port::{
        Action, AdaptedCall, Comparison, Condition, Description, Difference, Judgement, Move, Phase, Plan, Progress,
        Rule, Situation, Step, Target, Test, Verdict,
    },
    request::{Attribute, Ppm},
};

/// The longest text that is kept; longer ones are cut.
const MAX_TEXT: usize = 4096;

/// The longest list that is kept; a longer list of rules is nonsense, longer lists of findings are cut.
const MAX_ITEMS: usize = 1000;

/// The most values that a plan may list in all: each request may be compared with every one of them, which takes some
/// nanoseconds for each.
const MAX_VALUES: usize = 10_000;

/// Names that an error lists, and the longest one of them.
const MAX_NAMES: usize = 20;
const MAX_NAME: usize = 400;

/// Cuts a text at a character.
pub fn text(text: String) -> String {
    cut_at(text, MAX_TEXT)
}

fn cut_at(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

/// Cuts a list of names that an error is to show: a component may have any number of them, of any length.
pub(super) fn names(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names = names.into_iter();
    let mut shown: Vec<_> =
        names.by_ref().take(MAX_NAMES).map(|name| cutover_model::escape::line_of(&name, MAX_NAME)).collect();
    let more = names.count();
    if more > 0 {
        shown.push(format!("and {more} more"));
    }
    shown
}

/// A description with a usable name and known attributes.
pub(super) fn description(mut d: Description) -> Result<Description, PolicyError> {
    if !is_name(&d.name) {
        return Err(PolicyError::nonsense(format!(
            "its name `{}` is not 1 to 64 characters of `a-z 0-9 -`",
            text(d.name)
        )));
    }
    if let Some(unknown) = d.attributes.iter().find(|a| !is_attribute(a)) {
        return Err(PolicyError::nonsense(format!(
            "it wants the attribute `{}`, which no request has",
            text(unknown.clone())
        )));
    }
    d.version = text(d.version);
    d.summary = text(d.summary);
    d.attributes.truncate(MAX_ITEMS);
    Ok(d)
}

/// A plan whose rules can be executed and whose share is not more than the migration gives.
pub(super) fn plan(mut plan: Plan, situation: &Situation, decides: bool) -> Result<Plan, PolicyError> {
    if plan.rules.len() > MAX_ITEMS {
        return Err(PolicyError::nonsense(format!("its plan has {} rules, more than {MAX_ITEMS}", plan.rules.len())));
    }
    let conditions = plan.rules.iter().map(|rule| rule.conditions.len()).sum::<usize>();
    if conditions > MAX_ITEMS {
        return Err(PolicyError::nonsense(format!("its plan has {conditions} conditions, more than {MAX_ITEMS}")));
    }
    plan.rules.iter().enumerate().try_for_each(|(n, rule)| self::rule(n, rule))?;
    let values = plan.rules.iter().flat_map(|rule| &rule.conditions).map(listed).sum::<usize>();
    if values > MAX_VALUES {
        return Err(PolicyError::nonsense(format!("its plan lists {values} values, more than {MAX_VALUES}")));
    }
    let mut targets = plan.rules.iter().map(|r| r.target).chain([plan.otherwise]);
    if !decides && targets.any(|t| t == Target::Decide) {
        return Err(PolicyError::nonsense("its plan asks for `decide`, which it does not export"));
    }
    if !is_attribute(&plan.sticky) {
        return Err(PolicyError::nonsense(format!("its plan sticks by `{}`, which no request has", text(plan.sticky))));
    }
    plan.salt = text(plan.salt);
    plan.share = plan.share.min(situation.share);
    let known = |operation: &String| situation.operations.iter().any(|(name, _)| name == operation);
    plan.shadow_operations.retain(known);
    plan.shadow_operations.sort_unstable();
    plan.shadow_operations.dedup();
    Ok(plan)
}

/// A rule with a usable name, which tests what requests have.
fn rule(n: usize, rule: &Rule) -> Result<(), PolicyError> {
    if !is_name(&rule.name) {
        return Err(PolicyError::nonsense(format!("the name of rule {n} is not 1 to 64 characters of `a-z 0-9 -`")));
    }
    for condition in &rule.conditions {
        if !is_attribute(&condition.attribute) {
            let attribute = text(condition.attribute.clone());
            return Err(PolicyError::nonsense(format!(
                "rule `{}` tests the attribute `{attribute}`, which no request has",
                rule.name
            )));
        }
        if listed(condition) > MAX_ITEMS {
            return Err(PolicyError::nonsense(format!("rule `{}` lists more than {MAX_ITEMS} values", rule.name)));
        }
    }
    Ok(())
}

/// How many values a condition compares with.
fn listed(condition: &Condition) -> usize {
    if let Test::OneOf(values) = &condition.test { values.len() } else { 0 }
}

/// A judgement that says why.
pub(super) fn judgement(mut judgement: Judgement) -> Result<Judgement, PolicyError> {
    if judgement.findings.is_empty() && matches!(judgement.verdict, Verdict::RollBack | Verdict::Warn) {
        return Err(PolicyError::nonsense(format!("it says `{}` without a finding", judgement.verdict)));
    }
    judgement.findings = findings(judgement.findings);
    Ok(judgement)
}

/// A move that the rules of a migration allow: one stage up with a higher share, or down with a lower one.
pub(super) fn next(mut next: Move, progress: &Progress) -> Result<Move, PolicyError> {
    let now = &progress.check;
    let wrong = |step: Step, rule: &str| {
        let at = format!("stage {} at {}", now.stage, now.share);
        Err(PolicyError::nonsense(format!("it moves from {at} to stage {} at {}, but {rule}", step.stage, step.share)))
    };
    let first = now.phase == Phase::Shadow;
    match next.action {
        Action::Advance(s) if first && s.stage != 0 => return wrong(s, "a ramp begins at stage 0"),
        Action::Advance(s) if !first && s.stage.checked_sub(now.stage) != Some(1) => {
            return wrong(s, "stages go up one by one");
        }
        Action::Advance(s) if s.share <= now.share && !(first && s.share > Ppm::ZERO) => {
            return wrong(s, "an advance raises the share");
        }
        Action::Retreat(s) if first || s.stage > now.stage || s.share >= now.share => {
            return wrong(s, "a retreat goes to a lower share, and not to a higher stage");
        }
        Action::Complete if first => return Err(PolicyError::nonsense("it completes a migration that never ramped")),
        Action::Advance(_) | Action::Retreat(_) | Action::Complete | Action::Hold | Action::Pause => {}
    }
    next.findings = findings(next.findings);
    Ok(next)
}

/// One outcome for each pair.
pub(super) fn outcomes(mut outcomes: Vec<Comparison>, pairs: usize) -> Result<Vec<Comparison>, PolicyError> {
    if outcomes.len() != pairs {
        return Err(PolicyError::nonsense(format!("it gave {} outcomes for {pairs} pairs", outcomes.len())));
    }
    for outcome in &mut outcomes {
        match outcome {
            Comparison::Same => {}
            Comparison::Ignored(all) | Comparison::Different(all) => {
                all.truncate(MAX_ITEMS);
                all.iter_mut().for_each(cut);
            }
            Comparison::Incomparable(why) => *why = text(std::mem::take(why)),
        }
    }
    Ok(outcomes)
}

/// A call of an operation, whose arguments are a JSON object.
pub(super) fn adapted(mut call: AdaptedCall) -> Result<AdaptedCall, PolicyError> {
    if !(1..=MAX_TEXT).contains(&call.operation.len()) {
        let bytes = call.operation.len();
        return Err(PolicyError::nonsense(format!(
            "the operation of the adapted call has {bytes} bytes, not 1 to {MAX_TEXT}"
        )));
    }
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&call.body).is_err() {
        return Err(PolicyError::nonsense("the arguments of the adapted call are not a JSON object"));
    }
    for (kind, message) in &mut call.notices {
        *kind = text(std::mem::take(kind));
        *message = text(std::mem::take(message));
    }
    Ok(call)
}

/// A call of the operation that was called, under the name that V2 has for it.
///
/// # Errors
/// It is of another operation.
pub fn renamed(call: AdaptedCall, operation: &str, name: &str) -> Result<AdaptedCall, PolicyError> {
    if call.operation == name {
        return Ok(call);
    }
    let other = text(call.operation);
    Err(PolicyError::nonsense(format!(
        "it makes a call of `{other}` of one of `{operation}`, which V2 has as `{name}`; if V2 has another name for that \
         operation, say so with `operations.{operation}.v2_name` of the migration"
    )))
}

fn findings(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.truncate(MAX_ITEMS);
    for f in &mut findings {
        for part in [&mut f.rule, &mut f.unit, &mut f.note] {
            *part = text(std::mem::take(part));
        }
    }
    findings
}

fn cut(d: &mut Difference) {
    for part in [&mut d.path, &mut d.kind, &mut d.category, &mut d.v1, &mut d.v2] {
        *part = text(std::mem::take(part));
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_attribute(name: &str) -> bool {
    Attribute::parse(name).is_some()
}

#[cfg(test)]
mod tests;
