//! Where a case stands from step to step: the clock, the phase, the share. Makes questions of steps.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    ask::{Mirrored, Planned, Question},
    format::{Call, Pair, Reply, Routed, Side, Start, Step},
    notation::Moment,
};
use cutover_model::{
    clock::{self, UnixMs},
    facts::Batch,
    port::{self, Action, AdapterCall, AdapterReply, Check, Kind, Phase, Progress, Situation, Verdict},
    request::{Class, Head, Ppm, Request},
};

/// 2026-01-05T10:00:00Z, a Monday within office hours.
const BEGIN: UnixMs = UnixMs(1_767_607_200_000);

/// The host's default check interval: what passes before a step without batches.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The stage of a V2 that has just begun to serve, as the shipped stages have it.
const FIRST_SHARE: Ppm = Ppm::new(50_000);

/// How long routed requests may take; nothing waits for them.
const DEADLINE: Duration = Duration::from_mins(1);

/// Where a case stands.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    now: UnixMs,
    phase: Phase,
    stage: u32,
    share: Ppm,
    stage_started: UnixMs,
    verdict: Verdict,
    migration: String,
    salt: Option<String>,
    operations: BTreeMap<String, Class>,
    /// What the policy remembers.
    pub(super) memory: Vec<u8>,
}

impl Scene {
    /// Where a case begins.
    pub(super) fn new(start: &Start) -> Self {
        let phase = start.phase.unwrap_or(Phase::Ramping);
        let now = start.now.map_or(BEGIN, |Moment(at)| at);
        let age = start.stage_age.unwrap_or_default().millis();
        let operations = || {
            let usual =
                [("execute", Class::Read), ("create_program", Class::Replicate), ("health_check", Class::Exclusive)];
            usual.map(|(name, class)| (name.to_owned(), class)).into()
        };
        let memory = match &start.memory {
            None => Vec::new(),
            Some(Value::String(text)) => text.clone().into_bytes(),
            Some(json) => json.to_string().into_bytes(),
        };
        Self {
            now,
            phase,
            stage: start.stage.unwrap_or(0),
            share: start.share.map_or_else(|| usual_share(phase), |s| s.0),
            stage_started: UnixMs(now.0.saturating_sub(age)),
            verdict: start.verdict.unwrap_or(Verdict::Healthy),
            migration: start.migration.clone().unwrap_or_else(|| "programs".into()),
            salt: start.salt.clone(),
            operations: start.operations.clone().unwrap_or_else(operations),
            memory,
        }
    }

    /// Moves to where a step wants it, once, before its repetitions.
    ///
    /// # Errors
    /// That time would have to go back.
    pub(super) fn enter(&mut self, step: &Step) -> Result<(), String> {
        if let Some(Moment(at)) = step.at.filter(|Moment(at)| *at < self.now) {
            let (at, now) = (at.rfc3339(), self.now.rfc3339());
            return Err(format!("`at` is {at}, and it is {now} already"));
        }
        let phase = step.phase.filter(|&p| p != self.phase);
        if let Some(phase) = phase {
            (self.phase, self.share, self.stage) = (phase, usual_share(phase), 0);
        }
        let stage = step.stage.filter(|&s| s != self.stage);
        self.stage = stage.unwrap_or(self.stage);
        if phase.is_some() || stage.is_some() {
            self.stage_started = self.now;
        }
        self.share = step.share.map_or(self.share, |s| s.0);
        self.verdict = step.verdict.unwrap_or(self.verdict);
        self.operations = step.operations.clone().unwrap_or_else(|| std::mem::take(&mut self.operations));
        self.migration = step.migration.clone().unwrap_or_else(|| std::mem::take(&mut self.migration));
        self.salt = step.salt.clone().or(self.salt.take());
        Ok(())
    }

    /// Lets the step's time pass and makes its question. `None` if it is not one for this kind, which `read` rules out.
    pub(super) fn question(&mut self, kind: Kind, step: &Step) -> Option<Question> {
        match kind {
            Kind::Rollback => Some(Question::Judge(self.check(step))),
            Kind::Stages => {
                let check = self.check(step);
                Some(Question::Next(Progress { check, verdict: self.verdict, forced: step.forced }))
            }
            Kind::Routing => {
                self.pass(step, false);
                let requests = step.requests.iter().flatten().map(request).collect();
                // As the host routes: V2 is out of reach while its pool starts and after a rollback, and otherwise the
                // plan alone decides.
                let v2_serves = !matches!(self.phase, Phase::Preparing | Phase::RolledBack);
                Some(Question::Plan(Box::new(Planned { situation: self.situation(), v2_serves, requests })))
            }
            Kind::Comparison => {
                let pairs = step.pair.iter().chain(step.pairs.iter().flatten());
                Some(Question::Compare(pairs.map(pair).collect()))
            }
            Kind::Adapter => {
                let call = adapter_call(step.call.as_ref()?);
                Some(match &step.reply {
                    None => Question::AdaptCall(call),
                    Some(reply) => Question::AdaptReply(call, adapter_reply(reply)),
                })
            }
        }
    }

    /// Does what a stages policy says, as the host does.
    pub(super) fn obey(&mut self, action: Action) {
        match action {
            Action::Hold => return,
            Action::Advance(step) | Action::Retreat(step) => {
                (self.phase, self.stage, self.share) = (Phase::Ramping, step.stage, step.share);
            }
            Action::Complete => (self.phase, self.share) = (Phase::Complete, Ppm::ALL),
            Action::Pause => self.phase = Phase::Paused,
        }
        self.stage_started = self.now;
    }

    fn pass(&mut self, step: &Step, busy: bool) {
        let idle = if busy { Duration::ZERO } else { CHECK_INTERVAL };
        let wait = step.wait.map_or(idle, |span| span.0);
        let waited = self.now.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        // Repetitions come after the first, so that only that one is at the moment itself.
        self.now = UnixMs(step.at.map_or(waited, |Moment(at)| if at > self.now { at.0 } else { waited }));
    }

    fn check(&mut self, step: &Step) -> Check {
        let traffic: Vec<_> = step.batch.iter().chain(step.batches.iter().flatten()).collect();
        self.pass(step, !traffic.is_empty());
        let mut batches: Vec<Batch> = Vec::new();
        for part in traffic {
            batches.extend(part.expand(self.now, self.share));
            self.now = UnixMs(self.now.0.saturating_add(part.seconds() * 1_000));
        }
        let (now_ms, phase, stage, share) = (self.now, self.phase, self.stage, self.share);
        Check { now_ms, phase, stage, share, stage_started_ms: self.stage_started, batches }
    }

    fn situation(&self) -> Situation {
        Situation {
            now_ms: self.now,
            migration: self.migration.clone(),
            phase: self.phase,
            stage: self.stage,
            share: self.share,
            salt: self.salt.clone().unwrap_or_else(|| self.migration.clone()),
            operations: self.operations.iter().map(|(name, &class)| (name.clone(), class)).collect(),
        }
    }
}

const fn usual_share(phase: Phase) -> Ppm {
    match phase {
        Phase::Ramping | Phase::Paused => FIRST_SHARE,
        Phase::Complete | Phase::Decommissioned => Ppm::ALL,
        Phase::Preparing | Phase::Shadow | Phase::RolledBack => Ppm::ZERO,
    }
}

fn request(routed: &Routed) -> (Request, Mirrored) {
    let head = Head {
        method: routed.method.clone(),
        path: routed.path.clone(),
        host: routed.host.clone(),
        headers: routed.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone())).collect(),
    };
    let request = Request {
        id: "case".into(),
        operation: routed.operation.as_str().into(),
        session: routed.session.as_deref().map(Into::into),
        arguments: Arc::default(),
        deadline: clock::mono() + DEADLINE,
        head: Arc::new(head),
    };
    (request, Mirrored { pool: routed.pool, reason: routed.reason.clone(), mirror: routed.mirror })
}

fn pair(pair: &Pair) -> port::Pair {
    port::Pair { operation: pair.operation.clone(), v1: side(&pair.v1), v2: side(&pair.v2) }
}

fn side(side: &Side) -> port::Side {
    let json = side.json.is_some();
    let media_type = || if json { "application/json".to_owned() } else { String::new() };
    port::Side {
        success: side.success,
        status: side.status,
        media_type: side.media_type.clone().unwrap_or_else(media_type),
        body: bytes(side.json.as_ref(), side.body.as_deref()),
    }
}

fn adapter_call(call: &Call) -> AdapterCall {
    let body = match (&call.json, &call.body) {
        (None, None) => b"{}".to_vec(),
        (json, body) => bytes(json.as_ref(), body.as_deref()),
    };
    AdapterCall { operation: call.operation.clone(), session: call.session.clone(), body }
}

fn adapter_reply(reply: &Reply) -> AdapterReply {
    AdapterReply { success: reply.success, body: bytes(reply.json.as_ref(), reply.body.as_deref()) }
}

fn bytes(json: Option<&Value>, body: Option<&str>) -> Vec<u8> {
    json.map_or_else(|| body.unwrap_or_default().as_bytes().to_vec(), |json| json.to_string().into_bytes())
}
