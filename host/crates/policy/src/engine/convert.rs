//! Between the host's own types and those that `bindgen!` writes. Copies, and decides nothing.

use std::time::Duration;

use cutover_contract::histogram::Histogram;

use super::bindings as b;
use cutover_model::{
    facts,
    port::{self, Description},
    request::{Class, Ppm},
};

use b::{
    adapter::exports::cutover::policy::adapter as wa,
    comparison::exports::cutover::policy::comparison as wc,
    decide::exports::cutover::policy::decide as wd,
    policy::{cutover::policy::types as wt, exports::cutover::policy::policy as wp},
    rollback::exports::cutover::policy::rollback as wr,
    routing::exports::cutover::policy::routing as wo,
    stages::exports::cutover::policy::stages as ws,
};

pub(super) fn description(d: wp::Description) -> Description {
    Description {
        name: d.name,
        version: d.version,
        summary: d.summary,
        attributes: d.attributes,
        settings_schema: d.settings_schema,
    }
}

pub(super) fn problems(problems: Vec<wt::Problem>) -> Vec<String> {
    let said = |p: wt::Problem| if p.path.is_empty() { p.message } else { format!("`{}` {}", p.path, p.message) };
    problems.into_iter().map(said).collect()
}

pub(super) fn situation(s: &port::Situation) -> wo::Situation {
    wo::Situation {
        now_ms: s.now_ms.0,
        migration: s.migration.clone(),
        phase: phase(s.phase),
        stage: s.stage,
        share: s.share.get(),
        salt: s.salt.clone(),
        operations: s
            .operations
            .iter()
            .map(|(name, c)| wo::Operation { name: name.clone(), class: class(*c) })
            .collect(),
    }
}

pub(super) fn plan(p: wo::Plan) -> port::Plan {
    port::Plan {
        rules: p.rules.into_iter().map(rule).collect(),
        otherwise: target(p.otherwise),
        sticky: p.sticky,
        salt: p.salt,
        share: Ppm::new(p.share),
        shadow_share: Ppm::new(p.shadow_share),
        shadow_operations: p.shadow_operations,
    }
}

fn rule(r: wo::Rule) -> port::Rule {
    let condition = |c: wo::Condition| port::Condition {
        attribute: c.attribute,
        test: match c.test {
            wo::Test::OneOf(values) => port::Test::OneOf(values),
            wo::Test::Prefix(prefix) => port::Test::Prefix(prefix),
            wo::Test::Present => port::Test::Present,
            wo::Test::Absent => port::Test::Absent,
        },
    };
    port::Rule { name: r.name, conditions: r.conditions.into_iter().map(condition).collect(), target: target(r.target) }
}

const fn target(t: wo::Target) -> port::Target {
    match t {
        wo::Target::V1 => port::Target::V1,
        wo::Target::V2 => port::Target::V2,
        wo::Target::Share => port::Target::Share,
        wo::Target::Decide => port::Target::Decide,
    }
}

pub(super) const fn choice(c: wd::Choice) -> port::Target {
    match c {
        wd::Choice::V1 => port::Target::V1,
        wd::Choice::V2 => port::Target::V2,
        wd::Choice::Share => port::Target::Share,
    }
}

pub(super) fn check(c: &port::Check) -> wr::Check {
    wr::Check {
        now_ms: c.now_ms.0,
        phase: phase(c.phase),
        stage: c.stage,
        share: c.share.get(),
        stage_started_ms: c.stage_started_ms.0,
        batches: c.batches.iter().map(batch).collect(),
    }
}

pub(super) fn judgement(a: wr::Answer) -> (port::Judgement, Vec<u8>) {
    let verdict = match a.verdict {
        wt::Verdict::Healthy => port::Verdict::Healthy,
        wt::Verdict::Hold => port::Verdict::Hold,
        wt::Verdict::Warn => port::Verdict::Warn,
        wt::Verdict::RollBack => port::Verdict::RollBack,
    };
    (port::Judgement { verdict, findings: findings(a.findings), evidence: a.evidence }, a.memory)
}

pub(super) fn progress(p: &port::Progress) -> ws::Progress {
    let c = &p.check;
    ws::Progress {
        now_ms: c.now_ms.0,
        phase: phase(c.phase),
        stage: c.stage,
        share: c.share.get(),
        stage_started_ms: c.stage_started_ms.0,
        verdict: match p.verdict {
            port::Verdict::Healthy => wt::Verdict::Healthy,
            port::Verdict::Hold => wt::Verdict::Hold,
            port::Verdict::Warn => wt::Verdict::Warn,
            port::Verdict::RollBack => wt::Verdict::RollBack,
        },
        batches: c.batches.iter().map(batch).collect(),
    }
}

pub(super) fn next(a: ws::Answer) -> (port::Move, Vec<u8>) {
    let step = |s: ws::Step| port::Step {
        stage: s.stage,
        share: Ppm::new(s.share),
        soak: s.soak_ms.map(Duration::from_millis),
    };
    let action = match a.action {
        ws::Action::Hold => port::Action::Hold,
        ws::Action::Advance(s) => port::Action::Advance(step(s)),
        ws::Action::Retreat(s) => port::Action::Retreat(step(s)),
        ws::Action::Complete => port::Action::Complete,
        ws::Action::Pause => port::Action::Pause,
    };
    (port::Move { action, findings: findings(a.findings) }, a.memory)
}

pub(super) fn pairs(pairs: &[port::Pair]) -> Vec<wc::Pair> {
    let side = |s: &port::Side| wc::Side {
        success: s.success,
        status: s.status,
        media_type: s.media_type.clone(),
        body: s.body.clone(),
    };
    pairs.iter().map(|p| wc::Pair { operation: p.operation.clone(), v1: side(&p.v1), v2: side(&p.v2) }).collect()
}

pub(super) fn outcomes(outcomes: Vec<wc::Outcome>) -> Vec<port::Comparison> {
    let all = |d: Vec<wc::Difference>| d.into_iter().map(difference).collect();
    let outcome = |o| match o {
        wc::Outcome::Same => port::Comparison::Same,
        wc::Outcome::Ignored(d) => port::Comparison::Ignored(all(d)),
        wc::Outcome::Different(d) => port::Comparison::Different(all(d)),
        wc::Outcome::Incomparable(why) => port::Comparison::Incomparable(why),
    };
    outcomes.into_iter().map(outcome).collect()
}

fn difference(d: wc::Difference) -> port::Difference {
    port::Difference { path: d.path, kind: d.kind, category: d.category, v1: d.v1, v2: d.v2 }
}

pub(super) fn call(c: &port::AdapterCall) -> wa::Call {
    wa::Call { operation: c.operation.clone(), session: c.session.clone(), body: c.body.clone() }
}

pub(super) fn adapted(a: wa::AdaptedCall) -> port::AdaptedCall {
    port::AdaptedCall {
        operation: a.operation,
        body: a.body,
        notices: a.notices.into_iter().map(|n| (n.kind, n.message)).collect(),
    }
}

pub(super) fn reply(r: port::AdapterReply) -> wa::Reply {
    wa::Reply { success: r.success, body: r.body }
}

pub(super) fn replied(r: wa::Reply) -> port::AdapterReply {
    port::AdapterReply { success: r.success, body: r.body }
}

const fn phase(p: port::Phase) -> wt::Phase {
    match p {
        port::Phase::Preparing => wt::Phase::Preparing,
        port::Phase::Shadow => wt::Phase::Shadow,
        port::Phase::Ramping => wt::Phase::Ramping,
        port::Phase::Complete => wt::Phase::Complete,
        port::Phase::Decommissioned => wt::Phase::Decommissioned,
        port::Phase::Paused => wt::Phase::Paused,
        port::Phase::RolledBack => wt::Phase::RolledBack,
    }
}

const fn class(c: Class) -> wt::OperationClass {
    match c {
        Class::Read => wt::OperationClass::Read,
        Class::Replicate => wt::OperationClass::Replicate,
        Class::Exclusive => wt::OperationClass::Exclusive,
    }
}

fn findings(findings: Vec<wt::Finding>) -> Vec<facts::Finding> {
    let finding = |f: wt::Finding| facts::Finding {
        rule: f.rule,
        observed: f.observed,
        limit: f.limit,
        unit: f.unit,
        note: f.note,
    };
    findings.into_iter().map(finding).collect()
}

fn batch(batch: &facts::Batch) -> wt::Batch {
    let operation = |o: &facts::OperationCalls| wt::OperationCalls {
        operation: o.operation.clone(),
        class: class(o.class),
        v1: calls(&o.v1),
        v2: calls(&o.v2),
        shadow: calls(&o.shadow),
    };
    let c = batch.comparisons;
    wt::Batch {
        start_ms: batch.start_ms.0,
        duration_ms: batch.duration_ms,
        share: batch.share.get(),
        operations: batch.operations.iter().map(operation).collect(),
        v1: members(batch.v1),
        v2: members(batch.v2),
        comparisons: wt::Comparisons {
            same: c.same,
            ignored: c.ignored,
            different: c.different,
            incomparable: c.incomparable,
        },
        gauges: batch.gauges.iter().map(|g| wt::Gauge { name: g.name.clone(), value: g.value }).collect(),
    }
}

fn calls(c: &facts::Calls) -> wt::Calls {
    wt::Calls {
        requests: c.requests,
        errors: c.errors,
        timeouts: c.timeouts,
        failed_over: c.failed_over,
        units: c.units,
        unit_errors: c.unit_errors,
        latency: latency(&c.latency),
    }
}

fn latency(histogram: &Histogram) -> Vec<wt::LatencyBucket> {
    histogram.buckets().iter().map(|&(index, count)| wt::LatencyBucket { index, count }).collect()
}

const fn members(m: facts::Members) -> wt::Members {
    wt::Members { wanted: m.wanted, ready: m.ready, failures: m.failures, queued: m.queued, rss_bytes: m.rss_bytes }
}
