//! One side of a back-test: a rollback policy, a stages policy, or both, asked as the host asks them.

use serde::Serialize;

use super::{
    report::{Change, Cost, Errors, SideReport},
    runs::{Runs, Stand},
};
use cutover_model::port::{Action, Check, Judgement, Kind, Move, Phase, Progress, Verdict};
use cutover_policy_host::{
    PolicyError, ask::Asked, catch_up::Seen, engine::Policy, history::Recorded, installed::Title,
};

/// Changes that are kept with their findings; more are counted.
const MAX_CHANGES: usize = 1_000;

/// How a rollback policy is asked.
type Judge = Box<dyn FnMut(&Check, &[u8]) -> Asked<Judgement> + Send>;

/// How a stages policy is asked.
type Next = Box<dyn FnMut(&Progress, &[u8]) -> Asked<Move> + Send>;

/// A policy of a side, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReportedPolicy {
    /// The kind of policy.
    pub kind: Kind,
    /// The name that people know it by.
    pub name: String,
    /// The version that people know it by.
    pub version: String,
    /// SHA-256 of its component, lower-case hex.
    pub digest: String,
    /// The settings that it was asked with; null if they are not JSON.
    pub settings: serde_json::Value,
}

/// One side of a back-test: its policies with what they remember, and what they have said so far.
#[derive(Default)]
pub struct Side {
    policies: Vec<ReportedPolicy>,
    judge: Option<Subject<Judge>>,
    next: Option<Subject<Next>>,
    runs: Runs,
    seen: Seen,
    checks: u64,
    changes: Vec<Change>,
    more_changes: u64,
}

/// A policy with what it remembers and what it cost.
struct Subject<F> {
    ask: F,
    memory: Vec<u8>,
    cost: Cost,
    errors: Errors,
}

impl Side {
    /// Takes a policy by its kind, under the name that people know it by. False if it is of a kind that a back-test does not
    /// ask, or there is one of that kind.
    pub fn install(&mut self, policy: &Policy, title: Title) -> bool {
        let mut warm = policy.warm();
        match policy.kind {
            Kind::Rollback if self.judge.is_none() => {
                self.judge(Box::new(move |check, memory| warm.judge(check, memory)));
            }
            Kind::Stages if self.next.is_none() => {
                self.next(Box::new(move |progress, memory| warm.next(progress, memory)));
            }
            Kind::Rollback | Kind::Stages | Kind::Routing | Kind::Comparison | Kind::Adapter => return false,
        }
        self.policies.push(ReportedPolicy {
            kind: policy.kind,
            name: title.name,
            version: title.version,
            digest: policy.digest().to_string(),
            settings: serde_json::from_str(&policy.settings).unwrap_or_default(),
        });
        true
    }

    /// Takes whatever judges as a rollback policy does.
    pub fn judge(&mut self, judge: Judge) {
        self.judge = Some(Subject::new(judge));
    }

    /// Takes whatever moves as a stages policy does.
    pub fn next(&mut self, next: Next) {
        self.next = Some(Subject::new(next));
    }

    /// The kinds of its policies.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + use<> {
        let (judges, moves) = (self.judge.is_some(), self.next.is_some());
        [judges.then_some(Kind::Rollback), moves.then_some(Kind::Stages)].into_iter().flatten()
    }

    /// Whether it has a stages policy and no verdicts of its own.
    pub const fn needs_recorded_verdicts(&self) -> bool {
        self.judge.is_none() && self.next.is_some()
    }

    /// Asks about one check.
    pub(super) fn ask(&mut self, recorded: &Recorded) {
        let check = &self.seen.fresh(&recorded.check);
        let judged = self.judge.as_mut().map(|installed| installed.judge(check));
        // Nobody moves without a verdict, and nobody is asked to after a roll-back.
        let known = judged.as_ref().map_or(recorded.verdict, |judged| judged.as_ref().ok().map(|j| j.verdict));
        if recorded.verdict.is_none() && known.is_some() {
            self.seen.answered(check);
        }
        let staged = matches!(check.phase, Phase::Shadow | Phase::Ramping);
        let verdict = known.filter(|verdict| staged && *verdict != Verdict::RollBack);
        let moved = self.next.as_mut().zip(verdict).map(|(installed, verdict)| installed.next(check, verdict));

        let stand = Stand {
            verdict: judged.as_ref().map(|j| j.as_ref().map_or(Verdict::Hold, |j| j.verdict)),
            action: moved.as_ref().map(|m| m.as_ref().map_or(Action::Hold, |m| m.action)),
        };
        if self.runs.add(self.checks, check.now_ms, Some(stand)) {
            self.change(recorded, stand, judged, moved);
        }
        self.checks += 1;
    }

    fn change(
        &mut self,
        recorded: &Recorded,
        stand: Stand,
        judged: Option<Result<Judgement, PolicyError>>,
        moved: Option<Result<Move, PolicyError>>,
    ) {
        if self.changes.len() >= MAX_CHANGES {
            self.more_changes += 1;
            return;
        }
        let (mut findings, mut failed, mut evidence) = (Vec::new(), Vec::new(), 0);
        match judged {
            Some(Ok(judgement)) => (findings, evidence) = (judgement.findings, judgement.evidence),
            Some(Err(error)) => failed.push(error.to_string()),
            None => {}
        }
        match moved {
            Some(Ok(next)) => findings.extend(next.findings),
            Some(Err(error)) => failed.push(error.to_string()),
            None => {}
        }
        let check = &recorded.check;
        self.changes.push(Change {
            id: recorded.id,
            at: check.now_ms,
            phase: check.phase,
            stage: check.stage,
            share: check.share,
            verdict: stand.verdict,
            action: stand.action,
            findings,
            evidence,
            failed,
        });
    }

    /// What came of it.
    pub(super) fn end(self) -> SideReport {
        let rollback = self.judge.map(|installed| (installed.cost.shown(), installed.errors.shown())).unzip();
        let stages = self.next.map(|installed| (installed.cost.shown(), installed.errors.shown())).unzip();
        SideReport {
            policies: self.policies,
            verdicts: self.runs.verdicts(),
            actions: self.runs.actions(),
            changes: self.changes,
            more_changes: self.more_changes,
            first_warn: self.runs.with(Verdict::Warn).next().map(|(from, _)| from),
            first_roll_back: self.runs.with(Verdict::RollBack).next().map(|(from, _)| from),
            errors: [rollback.1, stages.1].into_iter().flatten().flatten().collect(),
            rollback: rollback.0,
            stages: stages.0,
            runs: self.runs,
        }
    }
}

impl<F> Subject<F> {
    fn new(ask: F) -> Self {
        Self { ask, memory: Vec::new(), cost: Cost::default(), errors: Errors::default() }
    }

    /// Keeps what the policy wants to remember if it answered, as the host does.
    fn learn<T>(&mut self, asked: Asked<T>, check: &Check) -> Result<T, PolicyError> {
        self.cost.add(asked.fuel, asked.took, asked.memory.len());
        match &asked.answer {
            Ok(_) => self.memory = asked.memory,
            Err(error) => self.errors.count(error, check.now_ms),
        }
        asked.answer
    }
}

impl Subject<Judge> {
    fn judge(&mut self, check: &Check) -> Result<Judgement, PolicyError> {
        let asked = (self.ask)(check, &self.memory);
        self.learn(asked, check)
    }
}

impl Subject<Next> {
    fn next(&mut self, check: &Check, verdict: Verdict) -> Result<Move, PolicyError> {
        let progress = Progress { check: check.clone(), verdict, forced: false };
        let asked = (self.ask)(&progress, &self.memory);
        self.learn(asked, check)
    }
}

impl std::fmt::Debug for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("policies", &self.policies).finish_non_exhaustive()
    }
}
