//! The task that moves a migration: feeds events to [`step`](super::step), performs the effects, shows the result.
//!
//! One task for each migration. It cuts a batch each second, asks the policies each check interval on a blocking
//! thread, and takes commands at any time, also while policies are being asked: an answer to a question about a state
//! that is gone is thrown away.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    effects::{Cause, Settled},
    flags::Flags,
    handle::{Command, Handle},
    rehearse::Rehearsed,
    snapshot::{self, Failures, Judged, RollbackReport, Snapshot},
    state::{Event, State},
    step::step,
};
use crate::{
    clock::{self, UnixMs},
    judge::{self, Answered},
    notify::Notifier,
    observe::{History, machine::Machine, recorder::Measured},
    policy::{
        PolicyError,
        facts::{Batch, Finding},
        port::{Check, Judgement, Kind, Move, Plan, Progress, Verdict},
        record::{Call, Question, Role},
        slot::{Seat, Slots},
        trial::{Failed, Job, Trials},
    },
    split::Split,
    stage,
    store::{
        Store,
        records::Audited,
        seats::{Place, Remembered},
    },
};

/// How long a batch is.
const BATCH: Duration = Duration::from_secs(1);

/// Batches that may wait for a check: an hour. Older ones are dropped, with a warning.
const MAX_PENDING: usize = 3_600;

/// Commands that may wait.
const COMMANDS: usize = 64;

/// Checks that are kept to show to a policy that takes over, after it was shown those in the store: more than pass while
/// it is shown those.
const RECENT: usize = 128;

/// How often a policy may fail before it is put out of charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// So many times,
    pub failures: usize,
    /// within this.
    pub within: Duration,
}

impl Default for Patience {
    /// Five times within a minute.
    fn default() -> Self {
        Self { failures: 5, within: Duration::from_mins(1) }
    }
}

/// What a controller is made of.
#[derive(Debug)]
pub struct Parts {
    /// The migration's name.
    pub name: String,
    /// The salt of its session hash.
    pub salt: String,
    /// How often policies are asked.
    pub check_interval: Duration,
    /// Where it stood when it was last persisted.
    pub state: State,
    /// What operators have switched.
    pub flags: Flags,
    /// What its requests pass through.
    pub split: Arc<Split>,
    /// Who is in charge of what.
    pub slots: Arc<Slots>,
    /// Its batches.
    pub history: Arc<History>,
    /// Where it is persisted.
    pub store: Store,
    /// Who is told.
    pub notifier: Notifier,
    /// The machine, for gauges.
    pub machine: Arc<Machine>,
    /// Where drains and starts run.
    pub tasks: TaskTracker,
    /// Where history is kept.
    pub records: TaskTracker,
    /// Policies that were not admitted at start.
    pub refused: Vec<(Kind, PolicyError)>,
    /// How often a policy may fail.
    pub patience: Patience,
    /// Who tries candidates out.
    pub trials: Trials,
    /// Failures of policies that others ask.
    pub failed: mpsc::Receiver<Failed>,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    pub(super) parts: Parts,
    pub(super) state: State,
    /// Counts states, so that answers about a state that is gone are recognised.
    epoch: u64,
    /// With the policy that its `decide` is asked of.
    pub(super) last_plan: Option<(Plan, Option<Arc<Seat>>)>,
    pub(super) stale_plan: Option<String>,
    pending: Vec<Batch>,
    /// Whether some of them were there for the last check and did not fit it.
    behind: bool,
    last_check: UnixMs,
    /// What was put on record last, which may still be under way.
    writing: Option<JoinHandle<()>>,
    verdict: Option<Judged>,
    waiting_for: Vec<Finding>,
    pub(super) last_rollback: Option<RollbackReport>,
    pub(super) decisions: u64,
    pub(super) failures: Failures,
    /// When the policies in charge failed lately.
    pub(super) failing: BTreeMap<Kind, VecDeque<UnixMs>>,
    /// Whether policies are being asked right now.
    pub(super) asking: bool,
    /// The last checks and what was said of them.
    pub(super) recent: VecDeque<(Check, Option<Verdict>)>,
    /// Slots that get a policy just now.
    pub(super) installing: BTreeSet<Kind>,
    /// Newcomers that wait for the check under way to end.
    pub(super) waiting: Vec<Rehearsed>,
    /// Newcomers that are shown the last checks; until they have seen them, no new check is made.
    pub(super) last_looks: usize,
    commands: mpsc::Receiver<Command>,
    pub(super) settled_once: CancellationToken,
    pub(super) settled: mpsc::Sender<Settled>,
    settling: mpsc::Receiver<Settled>,
    shown: watch::Sender<Arc<Snapshot>>,
}

/// What became of a check.
struct Checked {
    epoch: u64,
    check: Check,
    judged: Option<Answered<Judgement>>,
    staged: Option<Answered<Move>>,
}

impl Controller {
    /// A controller and how to talk to it.
    pub fn new(mut parts: Parts) -> (Self, Handle) {
        let mut failures = Failures::default();
        for (kind, error) in parts.refused.drain(..) {
            failures.count(kind, &error, clock::unix_ms());
        }
        let (orders, commands) = mpsc::channel(COMMANDS);
        let (settled, settling) = mpsc::channel(COMMANDS);
        let state = parts.state.clone();
        let first = Snapshot {
            migration: parts.name.clone(),
            state: state.clone(),
            verdict: None,
            waiting_for: Vec::new(),
            policies: snapshot::in_charge(&parts.slots),
            held: snapshot::held(&parts.slots),
            flags: parts.flags.shown(),
            last_rollback: None,
            decisions: 0,
            policy_failures: failures.all(),
            stale_plan: None,
        };
        let (shown, watching) = watch::channel(Arc::new(first));
        let settled_once = CancellationToken::new();
        let handle = Handle { commands: orders, shown: watching, settled: settled_once.clone() };
        let controller = Self {
            parts,
            state,
            epoch: 0,
            last_plan: None,
            stale_plan: None,
            pending: Vec::new(),
            behind: false,
            last_check: UnixMs(0),
            writing: None,
            verdict: None,
            waiting_for: Vec::new(),
            last_rollback: None,
            decisions: 0,
            failures,
            failing: BTreeMap::new(),
            asking: false,
            recent: VecDeque::new(),
            installing: BTreeSet::new(),
            waiting: Vec::new(),
            last_looks: 0,
            commands,
            settled_once,
            settled,
            settling,
            shown,
        };
        (controller, handle)
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.switch_pools();
        self.open_pools();
        let mut batches = tokio::time::interval(BATCH);
        let mut checks = tokio::time::interval(self.parts.check_interval);
        batches.set_missed_tick_behavior(MissedTickBehavior::Skip);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (answers, mut checked) = mpsc::channel::<Option<Checked>>(1);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.keep_last(),
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(settled) = self.settling.recv() => self.settle(settled).await,
                Some(answer) = checked.recv() => {
                    self.asking = false;
                    if let Some(answer) = answer {
                        self.learn(answer).await;
                    }
                    self.go_on().await;
                    if self.behind {
                        checks.reset_immediately();
                    }
                }
                Some(failed) = self.parts.failed.recv() => {
                    self.count_failure(failed.kind, failed.policy.as_ref(), &failed.error).await;
                }
                _ = batches.tick() => self.cut_batch(),
                _ = checks.tick(), if !self.asking && self.last_looks == 0 => self.asking = self.ask(&answers).await,
            }
            self.show();
        }
    }

    /// Keeps the batches that no check will see any more.
    fn keep_last(&mut self) {
        self.cut_batch();
        let batches = std::mem::take(&mut self.pending);
        self.keep(batches, None, Vec::new());
    }

    pub(super) fn cut_batch(&mut self) {
        let split = &self.parts.split;
        let mut gauges = self.parts.machine.sample();
        for pool in [&split.v1, &split.v2] {
            gauges.extend(pool.gauges());
        }
        let measured = Measured { share: split.router.share(), v1: split.v1.members(), v2: split.v2.members(), gauges };
        let batch = split.recorder.cut(clock::unix_ms(), measured);
        self.parts.history.push(batch.clone());
        if self.pending.len() >= MAX_PENDING {
            tracing::warn!(migration = self.parts.name, "checks cannot keep up; the oldest batch is dropped");
            self.pending.remove(0);
        }
        self.pending.push(batch);
    }

    /// Asks the policies on a blocking thread; false if there is nothing to ask.
    async fn ask(&mut self, answers: &mpsc::Sender<Option<Checked>>) -> bool {
        if self.stale_plan.is_some() {
            self.happen(Event::FlagsChanged, Cause::host()).await;
        }
        let mut batches = std::mem::take(&mut self.pending);
        self.behind = false;
        if !self.state.is_judged() {
            self.keep(batches, None, Vec::new());
            return false;
        }
        self.pending = judge::set_aside(&self.parts.name, &self.parts.slots, &mut batches);
        self.behind = !self.pending.is_empty();
        let behind = self.behind;
        let check = self.check(batches);
        let (epoch, staged, slots) = (self.epoch, self.state.is_staged(), Arc::clone(&self.parts.slots));
        let asked = self.parts.tasks.spawn_blocking(move || {
            let judged = judge::judge(&slots, &check);
            let verdict = judge::verdict(judged.as_ref());
            // Without a judge nobody would notice a bad V2, so nobody is asked for more of it; nor while the judge has yet
            // to see what came last.
            let has_verdict = judged.as_ref().is_some_and(|answered| answered.asked.answer.is_ok());
            let ask_stages = staged && has_verdict && !behind && verdict != Verdict::RollBack;
            let progress = Progress { check, verdict, forced: false };
            let staged = ask_stages.then(|| stage::next(&slots, &progress)).flatten();
            Checked { epoch, check: progress.check, judged, staged }
        });
        let answers = answers.clone();
        self.parts.tasks.spawn(async move {
            let checked = asked.await.map_err(|error| tracing::error!(%error, "a check panicked")).ok();
            // The controller is gone when the host stops.
            drop(answers.send(checked).await);
        });
        true
    }

    /// What policies are asked about. No two checks are of the same moment: by that they are known in the records.
    pub(super) fn check(&mut self, batches: Vec<Batch>) -> Check {
        self.last_check = clock::unix_ms().after(self.last_check);
        Check {
            now_ms: self.last_check,
            phase: self.state.in_force(),
            stage: self.state.stage,
            share: self.state.share,
            stage_started_ms: self.state.since,
            batches,
        }
    }

    /// Takes the policies' answers as events, unless the state that they are about is gone.
    async fn learn(&mut self, checked: Checked) {
        let Checked { epoch, check, judged, staged } = checked;
        let verdict = judged.as_ref().and_then(|answered| answered.asked.answer.as_ref().ok()).map(|j| j.verdict);
        let progress = |verdict| Progress { check: check.clone(), verdict, forced: false };
        let judged_call = judged.as_ref().map(|a| record(a, Question::Rollback(check.clone())));
        let staged_call = staged.as_ref().zip(verdict).map(|(a, v)| record(a, Question::Stages(progress(v))));
        let calls = [&judged_call, &staged_call].into_iter().flatten().cloned().collect();
        self.keep(check.batches.clone(), Some((check.clone(), verdict)), calls);
        if let Some(answered) = &judged {
            self.parts.trials.submit(Kind::Rollback, || Job::Judged(check.clone(), answered.asked.clone()));
        }
        if let Some((answered, verdict)) = staged.as_ref().zip(verdict) {
            self.parts.trials.submit(Kind::Stages, || Job::Staged(progress(verdict), answered.asked.clone()));
        }
        if epoch != self.epoch {
            return;
        }
        if judged.is_none() {
            self.waiting_for = vec![judge::nobody()];
        }
        if let Some(answered) = judged {
            if let Err(error) = &answered.asked.answer {
                self.waiting_for = vec![judge::failure(error)];
                self.count_failure(Kind::Rollback, Some(&answered.seat.policy), error).await;
            }
            let judgement = answered.asked.answer.clone().unwrap_or_else(|error| Judgement {
                verdict: Verdict::Hold,
                findings: vec![judge::failure(&error)],
                evidence: 0,
            });
            let Judgement { verdict, findings, evidence } = judgement;
            self.verdict = Some(Judged { at: check.now_ms, verdict, findings, evidence });
            let cause = Cause::policy(&answered, judged_call, answered.at);
            self.happen(judge::event(&answered), cause).await;
        }
        let Some(answered) = staged.filter(|_| epoch == self.epoch) else { return };
        if let Err(error) = &answered.asked.answer {
            self.count_failure(Kind::Stages, Some(&answered.seat.policy), error).await;
        }
        if let Event::Moved { findings, .. } = stage::event(&answered) {
            self.waiting_for = findings;
        }
        let cause = Cause::policy(&answered, staged_call, answered.at);
        self.happen(stage::event(&answered), cause).await;
    }

    /// Takes a step and performs its effects. An order that is refused changes nothing.
    pub(super) async fn happen(&mut self, event: Event, cause: Cause) -> Option<String> {
        let switches = self.parts.flags.switches();
        match step(&self.state, event, &cause.reason, switches, clock::unix_ms()) {
            Ok((_, effects)) if effects.is_empty() => None,
            Ok((next, effects)) => {
                let moved = next != self.state;
                let failed = self.perform(next, effects, cause).await;
                if moved && failed.is_none() {
                    self.epoch += 1;
                    self.waiting_for.clear();
                }
                failed
            }
            Err(refused) => Some(refused.0),
        }
    }

    pub(super) fn audited(&self, actor: &str, action: &str, detail: Value) -> Audited {
        Audited {
            at: clock::unix_ms(),
            actor: actor.into(),
            migration: self.parts.name.clone(),
            action: action.into(),
            detail,
        }
    }

    /// Keeps history, the log and memories, off the controller's path: what is lost here is history, not state.
    fn keep(&mut self, batches: Vec<Batch>, check: Option<(Check, Option<Verdict>)>, calls: Vec<Call>) {
        if let Some(check) = &check {
            if self.recent.len() >= RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(check.clone());
        }
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let remembered = remembered(&self.parts.slots);
        self.in_turn(async move {
            let kept = async {
                store.record_metrics(&name, &batches).await?;
                if let Some((check, verdict)) = check {
                    store.record_check(&name, &check, verdict).await?;
                }
                store.log_calls(&name, &calls).await?;
                store.remember(&name, remembered).await
            };
            if let Err(error) = kept.await {
                tracing::error!(migration = name, "history is not kept: {}", crate::causes::chain(&error));
            }
        });
    }

    /// Writes in the order in which things happened: the log is read in that order, and what a policy remembered before
    /// must not replace what it remembers now.
    fn in_turn(&mut self, write: impl Future<Output = ()> + Send + 'static) {
        let before = self.writing.take();
        self.writing = Some(self.parts.records.spawn(async move {
            if let Some(before) = before {
                // One that panicked has ended, too.
                drop(before.await);
            }
            write.await;
        }));
    }

    /// Logs calls that no check is behind.
    pub(super) fn log(&mut self, call: Call) {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        self.in_turn(async move {
            if let Err(error) = store.log_calls(&name, &[call]).await {
                tracing::error!(migration = name, "a call is not on record: {}", crate::causes::chain(&error));
            }
        });
    }

    /// Logs an operator's question to the stages policy.
    pub(super) fn log_stage(&mut self, answered: &Answered<Move>, progress: &Progress) {
        self.log(record(answered, Question::Stages(progress.clone())));
    }

    pub(super) fn show(&self) {
        let snapshot = Snapshot {
            migration: self.parts.name.clone(),
            state: self.state.clone(),
            verdict: self.verdict.clone(),
            waiting_for: self.waiting_for.clone(),
            policies: snapshot::in_charge(&self.parts.slots),
            held: snapshot::held(&self.parts.slots),
            flags: self.parts.flags.shown(),
            last_rollback: self.last_rollback.clone(),
            decisions: self.decisions,
            policy_failures: self.failures.all(),
            stale_plan: self.stale_plan.clone(),
        };
        self.shown.send_replace(Arc::new(snapshot));
    }
}

/// The record of an answer that counts.
fn record<T: serde::Serialize>(answered: &Answered<T>, question: Question) -> Call {
    let at = question.now().unwrap_or_default();
    Call::of(at, Role::Active, &answered.seat, question, answered.memory.clone(), &answered.asked)
}

/// What the policies in charge and their candidates remember now.
fn remembered(slots: &Slots) -> Vec<Remembered> {
    let active = slots.iter().filter_map(|(_, slot)| {
        let (seat, memory) = slot.question()?;
        Some(Remembered::of(Place::Active, &seat.policy, memory, None))
    });
    let candidates = slots.iter().filter_map(|(_, slot)| {
        let candidate = slot.candidate()?;
        let (memory, _) = candidate.memory.lock().clone();
        let evidence = Some(candidate.evidence.lock().clone());
        Some(Remembered::of(Place::Candidate, &candidate.seat.policy, memory, evidence))
    });
    active.chain(candidates).collect()
}
