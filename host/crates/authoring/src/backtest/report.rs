//! What a back-test found, as plain data.

use std::{collections::BTreeMap, time::Duration};

use cutover_contract::histogram::{self, Histogram};
use serde::Serialize;

use super::{
    gaps::Gap,
    runs::{Difference, Runs},
    side::ReportedPolicy,
};
use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Action, Phase, Verdict},
    request::Ppm,
};
use cutover_policy_host::{PolicyError, history::Mark};

/// Differences that are kept; more are counted.
const MAX_DIFFERENCES: usize = 1_000;

/// Everything that a back-test found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How much history was read, and what it lacks.
    pub history: History,
    /// What each side said: the policy, and the one that it is held against.
    pub sides: Vec<SideReport>,
    /// How often each verdict was recorded; empty if none was.
    pub recorded: BTreeMap<&'static str, u64>,
    /// Where they differ: the sides from each other, and each from what was recorded.
    pub differences: Vec<Differences>,
    /// How long after each fault each side noticed.
    pub faults: Vec<Fault>,
}

/// How much history was read, and what it lacks.
#[derive(Debug, Clone, Default, Serialize)]
pub struct History {
    /// The number of checks.
    pub checks: u64,
    /// The number of batches in these checks.
    pub batches: u64,
    /// When the first check was.
    pub from: UnixMs,
    /// When the last one was.
    pub to: UnixMs,
    /// How long its stage had lasted when the first batch began: what policies did not see.
    pub begins_within_stage_ms: u64,
    /// Spans that the history has nothing of; the first ones, if there are many.
    pub gaps: Vec<Gap>,
    /// The number of further gaps, which are not listed.
    pub more_gaps: u64,
    /// The marks that were read, such as faults.
    pub marks: Vec<Mark>,
    /// Lines of types that this program does not know.
    pub unknown_lines: u64,
}

/// What one side said.
#[derive(Debug, Clone, Serialize)]
pub struct SideReport {
    /// The policies that were asked: a rollback policy, a stages policy, or both.
    pub policies: Vec<ReportedPolicy>,
    /// The number of checks with each verdict, by its name.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// The number of checks with each stage action, by its name.
    pub actions: BTreeMap<&'static str, u64>,
    /// Every check at which it said something else than before, the first one included.
    pub changes: Vec<Change>,
    /// The number of further changes, which are not listed.
    pub more_changes: u64,
    /// When it first said `warn`; none if it never did.
    pub first_warn: Option<UnixMs>,
    /// When it first said `roll-back`; none if it never did.
    pub first_roll_back: Option<UnixMs>,
    /// How its policies failed, by cause; empty if they did not.
    pub errors: Vec<ErrorCount>,
    /// What the answers of the rollback policy cost; none if the side has no such policy.
    pub rollback: Option<CostShown>,
    /// What the answers of the stages policy cost; none if the side has no such policy.
    pub stages: Option<CostShown>,
    /// What it said of every check; not in the JSON.
    #[serde(skip)]
    pub runs: Runs,
}

/// A check at which a side said something else than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The check's number in the store; 0 if it has none.
    pub id: i64,
    /// When the check was made.
    pub at: UnixMs,
    /// The phase at that check.
    pub phase: Phase,
    /// The stage at that check, from 0.
    pub stage: u32,
    /// V2's share at that check.
    pub share: Ppm,
    /// The verdict from here on; none from a side without a rollback policy.
    pub verdict: Option<Verdict>,
    /// The stage action from here on; none if the stages policy was not asked.
    pub action: Option<Action>,
    /// What the new answer rests on.
    pub findings: Vec<Finding>,
    /// Base-10 logarithm of the evidence against V2, in millionths.
    pub evidence: i64,
    /// What policies that failed at this check failed with.
    pub failed: Vec<String>,
}

/// Failures with one cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// The name of the cause, as [`PolicyError::cause`] has it.
    pub cause: &'static str,
    /// How many failures had this cause.
    pub count: u64,
    /// When the first of them was.
    pub first: UnixMs,
    /// What the first of them said.
    pub message: String,
}

/// Where two sides differ, or a side and what was recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Differences {
    /// The one: `policy` or `against`.
    pub left: &'static str,
    /// The other: `against` or `recorded`.
    pub right: &'static str,
    /// Checks of which both spoke.
    pub compared: u64,
    /// Checks on which they differ.
    pub differing: u64,
    /// Those checks as spans; the first ones, if there are many.
    pub spans: Vec<Difference>,
    /// The number of further spans, which are not listed.
    pub more_spans: u64,
}

/// A fault, and when each side noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// When the fault began, as its mark says.
    pub at: UnixMs,
    /// One for each side with a rollback policy, in their order.
    pub noticed: Vec<Option<Noticed>>,
}

/// How long after a fault a side said what, in milliseconds; none if it never did, 0 if it did already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Noticed {
    /// Until it warned or rolled back.
    pub warn_after_ms: Option<u64>,
    /// Until it said `roll-back`.
    pub roll_back_after_ms: Option<u64>,
    /// Spans of roll-back that began before the fault.
    pub false_roll_backs: u64,
}

/// What a policy's answers cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CostShown {
    /// The number of questions.
    pub questions: u64,
    /// Units of fuel of all answers together.
    pub fuel: u64,
    /// Units of fuel of the dearest answer.
    pub max_fuel: u64,
    /// The time of all answers together, in microseconds.
    pub took_us: u64,
    /// Half took at most this, in nanoseconds.
    pub p50_ns: u64,
    /// 99 % took at most this, in nanoseconds.
    pub p99_ns: u64,
    /// The most that it remembered, in bytes.
    pub max_memory: usize,
}

/// What a policy's answers cost, as it is added up.
#[derive(Debug, Clone, Default)]
pub(super) struct Cost {
    questions: u64,
    fuel: u64,
    max_fuel: u64,
    took: Duration,
    /// How long answers took; here the buckets hold nanoseconds.
    times: Histogram,
    max_memory: usize,
}

/// Failures counted by cause, with the first one of each.
#[derive(Debug, Clone, Default)]
pub(super) struct Errors(Vec<ErrorCount>);

impl Report {
    /// Puts together what was read, what was said, and what was recorded.
    pub(super) fn new(history: History, sides: Vec<SideReport>, recorded: &Runs, faults: &[UnixMs]) -> Self {
        let mut pairs: Vec<_> = match &sides[..] {
            [policy, against] => vec![Differences::of(("policy", &policy.runs), ("against", &against.runs))],
            _ => Vec::new(),
        };
        if !recorded.is_empty() {
            let named = ["policy", "against"].into_iter().zip(&sides).filter(|(_, side)| side.rollback.is_some());
            pairs.extend(named.map(|(name, side)| Differences::of((name, &side.runs), ("recorded", recorded))));
        }
        let noticed =
            |at| sides.iter().map(|side| side.rollback.as_ref().map(|_| Noticed::of(&side.runs, at))).collect();
        let faults = faults.iter().map(|&at| Fault { at, noticed: noticed(at) }).collect();
        Self { history, recorded: recorded.verdicts(), differences: pairs, faults, sides }
    }
}

impl Differences {
    fn of((left, mine): (&'static str, &Runs), (right, theirs): (&'static str, &Runs)) -> Self {
        let (mut spans, compared) = mine.differences(theirs);
        let differing = spans.iter().map(|span| span.checks).sum();
        let more_spans = spans.len().saturating_sub(MAX_DIFFERENCES) as u64;
        spans.truncate(MAX_DIFFERENCES);
        Self { left, right, compared, differing, spans, more_spans }
    }
}

impl Noticed {
    fn of(runs: &Runs, fault: UnixMs) -> Self {
        let after =
            |(from, over): (UnixMs, UnixMs)| (over > fault || from >= fault).then(|| from.0.saturating_sub(fault.0));
        let first = |verdict| runs.with(verdict).find_map(after);
        let roll_back_after_ms = first(Verdict::RollBack);
        let warn_after_ms = [first(Verdict::Warn), roll_back_after_ms].into_iter().flatten().min();
        let false_roll_backs = runs.with(Verdict::RollBack).filter(|(from, _)| *from < fault).count() as u64;
        Self { warn_after_ms, roll_back_after_ms, false_roll_backs }
    }
}

impl Cost {
    /// Adds one answer: its fuel, its time, and the bytes that it wanted to remember.
    pub(super) fn add(&mut self, fuel: u64, took: Duration, memory: usize) {
        self.questions += 1;
        self.fuel = self.fuel.saturating_add(fuel);
        self.max_fuel = self.max_fuel.max(fuel);
        self.took += took;
        self.times.add(histogram::index(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)), 1);
        self.max_memory = self.max_memory.max(memory);
    }

    /// As it is shown.
    pub(super) fn shown(&self) -> CostShown {
        CostShown {
            questions: self.questions,
            fuel: self.fuel,
            max_fuel: self.max_fuel,
            took_us: u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX),
            p50_ns: self.times.quantile_us(500_000).unwrap_or(0),
            p99_ns: self.times.quantile_us(990_000).unwrap_or(0),
            max_memory: self.max_memory,
        }
    }
}

impl Errors {
    /// Counts a failure at this moment by its cause.
    pub(super) fn count(&mut self, error: &PolicyError, at: UnixMs) {
        match self.0.iter_mut().find(|known| known.cause == error.cause()) {
            Some(known) => known.count += 1,
            None => self.0.push(ErrorCount { cause: error.cause(), count: 1, first: at, message: error.to_string() }),
        }
    }

    /// As they are shown.
    pub(super) fn shown(self) -> Vec<ErrorCount> {
        self.0
    }
}
