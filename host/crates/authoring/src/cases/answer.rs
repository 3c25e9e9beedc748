//! Answers of all kinds, what coverage counts them as, and how they are shown.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{ask::Mirrored, format::target};
use cutover_model::{
    facts::Finding,
    port::{Action, AdaptedCall, AdapterReply, Comparison, Difference, Judgement, Move, Plan, Step, Test},
};
use cutover_policy_host::route::Route;

/// What a policy answered, whatever its kind.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    Judgement(Judgement),
    Move(Move),
    /// The plan, and each request with where it went.
    Plan(Plan, Vec<(Mirrored, Route)>),
    Outcomes(Vec<Comparison>),
    Call(AdaptedCall),
    Reply(AdapterReply),
}

impl Answer {
    /// The names by which coverage counts it: its verdict, action, outcomes or targets.
    pub(super) fn names(&self) -> Vec<&'static str> {
        match self {
            Self::Judgement(judgement) => vec![judgement.verdict.name()],
            Self::Move(next) => vec![action(next.action).0],
            Self::Plan(plan, _) => {
                plan.rules.iter().map(|rule| rule.target).chain([plan.otherwise]).map(target).collect()
            }
            Self::Outcomes(outcomes) => outcomes.iter().map(outcome).collect(),
            Self::Call(_) => vec!["call"],
            Self::Reply(_) => vec!["reply"],
        }
    }

    /// Its findings; none for kinds that have none.
    pub(super) fn findings(&self) -> &[Finding] {
        match self {
            Self::Judgement(judgement) => &judgement.findings,
            Self::Move(next) => &next.findings,
            Self::Plan(..) | Self::Outcomes(_) | Self::Call(_) | Self::Reply(_) => &[],
        }
    }

    /// All of it, as people and snapshots see it.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Judgement(Judgement { verdict, findings, evidence }) => {
                json!({ "verdict": verdict, "evidence": evidence, "findings": findings })
            }
            Self::Move(next) => {
                let (name, step) = action(next.action);
                let mut shown = json!({ "action": name, "findings": next.findings });
                if let (Some(step), Some(map)) = (step, shown.as_object_mut()) {
                    map.insert("to".into(), stage(step));
                }
                shown
            }
            Self::Plan(plan, routed) => shown_plan(plan, routed),
            Self::Outcomes(outcomes) => json!({ "outcomes": outcomes.iter().map(shown_outcome).collect::<Vec<_>>() }),
            Self::Call(call) => {
                let notices: Vec<_> =
                    call.notices.iter().map(|(kind, message)| json!({ "kind": kind, "message": message })).collect();
                json!({ "operation": call.operation, "json": body(&call.body), "notices": notices })
            }
            Self::Reply(reply) => json!({ "success": reply.success, "json": body(&reply.body) }),
        }
    }
}

/// The name of an action, and where it goes.
pub(super) const fn action(action: Action) -> (&'static str, Option<Step>) {
    match action {
        Action::Hold => ("hold", None),
        Action::Advance(step) => ("advance", Some(step)),
        Action::Retreat(step) => ("retreat", Some(step)),
        Action::Complete => ("complete", None),
        Action::Pause => ("pause", None),
    }
}

/// The name of an outcome.
pub(super) const fn outcome(outcome: &Comparison) -> &'static str {
    match outcome {
        Comparison::Same => "same",
        Comparison::Ignored(_) => "ignored",
        Comparison::Different(_) => "different",
        Comparison::Incomparable(_) => "incomparable",
    }
}

/// A body as JSON, or as a text if it is none.
pub(super) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_not_json| String::from_utf8_lossy(bytes).into())
}

/// How long a stage lasts, for people.
pub(super) fn soak(soak: Option<Duration>) -> String {
    soak.map_or_else(|| "none".into(), |span| humantime::format_duration(span).to_string())
}

fn stage(step: Step) -> Value {
    json!({ "stage": step.stage, "share": step.share.to_string(), "soak": soak(step.soak) })
}

fn shown_plan(plan: &Plan, routed: &[(Mirrored, Route)]) -> Value {
    let rules = plan.rules.iter().map(|rule| {
        let conditions: Map<_, _> = rule.conditions.iter().map(|c| (c.attribute.clone(), condition(&c.test))).collect();
        json!({ "name": rule.name, "conditions": conditions, "target": rule.target })
    });
    let mut shown = json!({
        "rules": rules.collect::<Vec<_>>(),
        "otherwise": plan.otherwise,
        "sticky": plan.sticky,
        "salt": plan.salt,
        "share": plan.share.to_string(),
        "shadow_share": plan.shadow_share.to_string(),
        "shadow_operations": plan.shadow_operations,
    });
    if let (false, Some(map)) = (routed.is_empty(), shown.as_object_mut()) {
        let requests = routed.iter().map(|(_, r)| json!({ "pool": r.pool, "reason": &*r.reason, "mirror": r.mirror }));
        map.insert("requests".into(), requests.collect());
    }
    shown
}

fn condition(test: &Test) -> Value {
    match test {
        Test::OneOf(values) => json!({ "one-of": values }),
        Test::Prefix(prefix) => json!({ "prefix": prefix }),
        Test::Present => "present".into(),
        Test::Absent => "absent".into(),
    }
}

fn shown_outcome(said: &Comparison) -> Value {
    let differences = |all: &[Difference]| json!({ "outcome": outcome(said), "differences": all });
    match said {
        Comparison::Same => json!({ "outcome": "same" }),
        Comparison::Ignored(all) | Comparison::Different(all) => differences(all),
        Comparison::Incomparable(why) => json!({ "outcome": "incomparable", "why": why }),
    }
}
