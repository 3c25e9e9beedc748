//! Asks any policy a small question of any kind.

use std::sync::Arc;

use cutover_model::{
    clock::UnixMs,
    facts::Batch,
    port::{AdapterCall, AdapterReply, Check, Pair, Phase, Progress, Side, Situation, Verdict},
    request::{Class, Ppm},
};
use cutover_policy_host::{
    PolicyError,
    admission::admit,
    engine::{Engine, Policy},
};

use super::contract::Export;

/// Compiles, admits and asks; the first error of these.
pub(crate) fn first_error(engine: &Arc<Engine>, component: &[u8], export: Export) -> Result<(), PolicyError> {
    ask(&admit(engine, export.kind(), component, "{}")?, export)
}

/// Asks the question that an export answers; `describe` and `configure` were asked when the policy was admitted.
pub(crate) fn ask(policy: &Policy, export: Export) -> Result<(), PolicyError> {
    match export {
        Export::Describe | Export::Configure | Export::Judge => policy.judge(&check(), b"").answer.map(drop),
        Export::MakePlan => policy.make_plan(&situation(), b"").answer.map(drop),
        Export::Decide => policy.decide(&frame()).map(drop),
        Export::Next => policy.next(&progress(), b"").answer.map(drop),
        Export::Compare => policy.compare(&[pair(), pair()]).answer.map(drop),
        Export::AdaptCall => policy.adapt_call(&call()).answer.map(drop),
        Export::AdaptReply => policy.adapt_reply(&call(), reply()).answer.map(drop),
    }
}

pub(crate) fn check() -> Check {
    Check {
        now_ms: UnixMs(1_000_000),
        phase: Phase::Ramping,
        stage: 1,
        share: Ppm::new(100_000),
        stage_started_ms: UnixMs(1),
        batches: vec![Batch::default(); 3],
    }
}

pub(crate) fn progress() -> Progress {
    Progress { check: check(), verdict: Verdict::Healthy, forced: false }
}

pub(crate) fn situation() -> Situation {
    Situation {
        now_ms: UnixMs(1_000_000),
        migration: "m".into(),
        phase: Phase::Ramping,
        stage: 1,
        share: Ppm::new(100_000),
        salt: "salt".into(),
        operations: vec![("read".into(), Class::Read)],
    }
}

pub(crate) fn pair() -> Pair {
    let side = Side { success: true, status: 200, media_type: "application/json".into(), body: b"{}".into() };
    Pair { operation: "read".into(), v1: side.clone(), v2: side }
}

pub(crate) fn call() -> AdapterCall {
    AdapterCall { operation: "read".into(), session: "s".into(), body: b"{}".into() }
}

pub(crate) fn reply() -> AdapterReply {
    AdapterReply { success: true, body: b"{}".into() }
}

/// What `decide` gets for a policy that wants no attributes.
pub(crate) fn frame() -> Vec<u8> {
    let mut frame = Vec::new();
    cutover_contract::frame::pack(&mut frame, 1, 100_000, std::iter::empty());
    frame
}
