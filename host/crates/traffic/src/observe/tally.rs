//! What is counted of one operation within a batch, and how it is written: calls in their fields, the rest as gauges.

use std::{collections::BTreeMap, fmt};

use super::{
    recorder::{Observation, Outcome},
    sessions::{Evidence, StatusClass},
};
use cutover_model::{
    facts::{Calls, Gauge, OperationCalls},
    request::{Class, FailureKind, PoolId},
};

/// Different causes of failures that are told apart within a batch; what comes besides is [`Failing::Other`].
const MAX_CAUSES: usize = 16;

/// Why a call failed, as far as it can be told in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failing {
    /// The answer has this status; with one that is no failure by itself, something else in the answer says so.
    Status(u16),
    /// There was no answer, or no whole one.
    Kind(FailureKind),
    /// There are too many causes.
    Other,
}

/// Counts of one operation.
#[derive(Debug)]
pub(super) struct Tally {
    class: Class,
    v1: Side,
    v2: Side,
    shadow: Side,
}

/// Counts of one pool's calls, or of mirrored ones.
#[derive(Debug, Default)]
struct Side {
    calls: Calls,
    sessions: u64,
    failed_sessions: u64,
    /// At the index of its [`StatusClass`].
    answers: [Answers; StatusClass::ALL.len()],
    /// Answers whose bodies say whether the call failed, and could not be looked at.
    unread: u64,
    /// The calls of `calls.errors`, by what failed them.
    failed: BTreeMap<Failing, u64>,
}

/// Answers of one class of status.
#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    count: u64,
    /// Units that had got none in the stage.
    units: u64,
    /// Units that got one now.
    first: u64,
}

/// The gauges of a batch, and the side and operation whose gauges are added.
struct Gauges<'a> {
    all: &'a mut Vec<Gauge>,
    side: &'static str,
    operation: &'a str,
}

impl Tally {
    /// The counts of an operation without calls.
    pub(super) fn new(class: Class) -> Self {
        let (v1, v2, shadow) = Default::default();
        Self { class, v1, v2, shadow }
    }

    /// Counts a call for the pool that served it, or as mirrored.
    pub(super) fn count(&mut self, call: &Observation<'_>, evidence: Evidence) {
        self.class = call.class;
        let side = match (call.pool, call.mirrored) {
            (PoolId::V1, _) => &mut self.v1,
            (PoolId::V2, true) => &mut self.shadow,
            (PoolId::V2, false) => &mut self.v2,
        };
        side.count(call, evidence);
    }

    /// Ends the batch: its calls, if there are any. What has no field of its own goes to `gauges`.
    pub(super) fn end(&mut self, operation: &str, gauges: &mut Vec<Gauge>) -> Option<OperationCalls> {
        let class = self.class;
        if [&self.v1, &self.v2, &self.shadow].into_iter().all(|side| side.calls.requests == 0) {
            return None;
        }
        let Self { v1, v2, shadow, .. } = std::mem::replace(self, Self::new(class));
        let [v1, v2, shadow] = [("v1", v1), ("v2", v2), ("shadow", shadow)]
            .map(|(side, counts)| counts.end(&mut Gauges { all: gauges, side, operation }));
        Some(OperationCalls { operation: operation.to_owned(), class, v1, v2, shadow })
    }
}

impl Side {
    fn count(&mut self, call: &Observation<'_>, evidence: Evidence) {
        let is_answered = call.outcome == Outcome::Answered;
        let calls = &mut self.calls;
        calls.requests += 1;
        calls.errors += u64::from(!is_answered);
        if let Some(failing) = Failing::of(call) {
            let is_known = self.failed.len() < MAX_CAUSES || self.failed.contains_key(&failing);
            *self.failed.entry(if is_known { failing } else { Failing::Other }).or_default() += 1;
        }
        calls.timeouts += u64::from(call.outcome == Outcome::Failed(FailureKind::Timeout));
        calls.failed_over += u64::from(call.failed_over && !is_answered);
        calls.units += u64::from(evidence.unit);
        calls.unit_errors += u64::from(evidence.unit_error);
        calls.latency.record(u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX));
        self.sessions += u64::from(evidence.session_of_operation);
        self.failed_sessions += u64::from(evidence.failed_of_operation);
        self.unread += u64::from(call.unread);
        let class = call.class_of_answer();
        let sessions = evidence.at_risk.into_iter().zip(evidence.first);
        for ((answers, of), (at_risk, first)) in self.answers.iter_mut().zip(StatusClass::ALL).zip(sessions) {
            answers.count += u64::from(class == Some(of));
            answers.units += u64::from(at_risk);
            answers.first += u64::from(first);
        }
    }

    fn end(self, gauges: &mut Gauges<'_>) -> Calls {
        for (Answers { count, units, first }, class) in self.answers.into_iter().zip(StatusClass::ALL) {
            gauges.push(class.name(), count);
            gauges.push(&format!("{}-first", class.name()), first);
            // A policy that does not find this gauge takes the calls' own units: so a 0 must be written.
            if units != self.calls.units {
                gauges.say(&format!("{}-units", class.name()), units);
            }
        }
        gauges.push("sessions", self.sessions);
        gauges.push("failed-sessions", self.failed_sessions);
        gauges.push("unread", self.unread);
        for (failing, count) in self.failed {
            gauges.push(&format!("failed-{failing}"), count);
        }
        self.calls
    }
}

impl Failing {
    fn of(call: &Observation<'_>) -> Option<Self> {
        match call.outcome {
            Outcome::Answered => None,
            Outcome::Failed(FailureKind::Worker) if call.status != 0 => Some(Self::Status(call.status)),
            Outcome::Failed(kind) => Some(Self::Kind(kind)),
        }
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(f),
            Self::Kind(kind) => f.write_str(kind.name()),
            Self::Other => f.write_str("other"),
        }
    }
}

impl Gauges<'_> {
    /// Adds what is not 0.
    fn push(&mut self, what: &str, value: u64) {
        if value > 0 {
            self.say(what, value);
        }
    }

    fn say(&mut self, what: &str, value: u64) {
        let name = format!("{}.{what}{{{}}}", self.side, self.operation);
        self.all.push(gauge(name, value));
    }
}

/// A count as a gauge.
pub(super) fn gauge(name: String, value: u64) -> Gauge {
    Gauge { name, value: i64::try_from(value).unwrap_or(i64::MAX) }
}
