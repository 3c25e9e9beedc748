//! The host trusts nothing that a policy answers: what can be clamped is clamped, what cannot is nonsense.

use super::{
    engine::Description,
    error::PolicyError,
    facts::Finding,
    port::{
        Action, AdaptedCall, Comparison, Difference, Judgement, Move, Phase, Plan, Progress, Situation, Step, Target,
        Test, Verdict,
    },
};
use crate::request::{Attribute, Ppm};

/// The longest text that is kept; longer ones are cut.
const MAX_TEXT: usize = 4096;

/// The longest list that is kept; a longer list of rules is nonsense, longer lists of findings are cut.
const MAX_ITEMS: usize = 1000;

/// Cuts a text at a character.
pub fn text(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
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
    for (n, rule) in plan.rules.iter().enumerate() {
        if !is_name(&rule.name) {
            return Err(PolicyError::nonsense(format!(
                "the name of rule {n} is not 1 to 64 characters of `a-z 0-9 -`"
            )));
        }
        for condition in &rule.conditions {
            if !is_attribute(&condition.attribute) {
                let attribute = text(condition.attribute.clone());
                return Err(PolicyError::nonsense(format!(
                    "rule `{}` tests the attribute `{attribute}`, which no request has",
                    rule.name
                )));
            }
            if matches!(&condition.test, Test::OneOf(values) if values.len() > MAX_ITEMS) {
                return Err(PolicyError::nonsense(format!("rule `{}` lists more than {MAX_ITEMS} values", rule.name)));
            }
        }
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
    Ok(plan)
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
        Action::Advance(s) if !first && s.stage != now.stage + 1 => return wrong(s, "stages go up one by one"),
        Action::Advance(s) if s.share <= now.share && !(first && s.share > Ppm::ZERO) => {
            return wrong(s, "an advance raises the share");
        }
        Action::Retreat(s) if first || s.stage >= now.stage || s.share >= now.share => {
            return wrong(s, "a retreat goes to a lower stage and share");
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

/// A call whose arguments are a JSON object.
pub(super) fn adapted(mut call: AdaptedCall) -> Result<AdaptedCall, PolicyError> {
    if serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&call.body).is_err() {
        return Err(PolicyError::nonsense("the arguments of the adapted call are not a JSON object"));
    }
    call.notices.truncate(MAX_ITEMS);
    Ok(call)
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
