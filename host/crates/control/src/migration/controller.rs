//! The task that moves a migration: feeds events to [`step`](super::step), performs the effects, shows the result.
//!
//! One task for each migration. It cuts a batch each second, asks the policies each check interval on a blocking
//! thread, and takes commands at any time, also while policies are being asked: an answer to a question about a state
//! that is gone is thrown away.

mod groups;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use self::groups::V2Calls;
use self::groups::{Course, Guard, Installs, PlanInForce, Pools, Questions, Records, Shows, Trust};
use super::{
    checks::Checked,
    effects::{BackgroundEvent, Cause},
    failsafe,
    flags::Flags,
    handle::{Code, Command, Declined, Handle},
    rails::Rails,
    record::Unrecorded,
    snapshot::{self, ClockShown, Failures, Snapshot},
    step::step,
    succession, why,
};
use crate::{
    migration::event::{Effect, Event},
    notify::Notifier,
};
use cutover_model::{
    causes::chain,
    clock::{UnixMs, timeline::Clock},
    facts::{Batch, Gauge},
    port::{Action, Kind, Phase, Verdict},
};
use cutover_policy_host::{
    PolicyError,
    evaluation::{EvaluationQueue, Failed},
    route::Control,
    slot::Slots,
};
use cutover_store::{
    Store,
    markers::Markers,
    records::{Audited, Decision},
    state::State,
};
use cutover_traffic::{
    observe::{History, Recorder, machine::Machine, recorder::Measured},
    split::Split,
};

/// How long a batch is.
const BATCH: Duration = Duration::from_secs(1);

/// Batches that may wait for a check: an hour. Older ones are dropped, with a warning.
pub(super) const MAX_PENDING: usize = 3_600;

/// Commands that may wait.
const COMMANDS: usize = 64;

/// How often a policy may fail before it is put out of charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// So many failures put the policy out of charge,
    pub failures: usize,
    /// if they come within this time.
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
    /// The migration's name, as it is configured.
    pub name: String,
    /// The salt of its session hash.
    pub salt: String,
    /// How often policies are asked.
    pub check_interval: Duration,
    /// What is kept of V1 to hold V2 against.
    pub control: Control,
    /// Where it stood when it was last persisted.
    pub state: State,
    /// What operators have switched.
    pub flags: Flags,
    /// What its requests pass through.
    pub split: Arc<Split>,
    /// Who is in charge of what.
    pub slots: Arc<Slots>,
    /// The last batches, for pages, back-tests and reasons.
    pub history: Arc<History>,
    /// Where it is persisted.
    pub store: Store,
    /// Sends the configured notices.
    pub notifier: Notifier,
    /// The machine, for gauges.
    pub machine: Arc<Machine>,
    /// Where drains and starts run.
    pub tasks: TaskTracker,
    /// Where history is kept.
    pub records: TaskTracker,
    /// Where rollbacks are marked besides.
    pub markers: Markers,
    /// The number of its last decision on record; 0 if there is none.
    pub last_decision: i64,
    /// A rollback that the store does not know of: it led to `state`.
    pub unrecorded: Option<Decision>,
    /// Policies that were not admitted at start.
    pub refused: Vec<(Kind, PolicyError)>,
    /// Whether the stages policy may raise V2's share while V1 is down.
    pub raise_without_v1: bool,
    /// How often a policy may fail.
    pub patience: Patience,
    /// What the host does by itself.
    pub failsafe: failsafe::Settings,
    /// What no policy passes.
    pub rails: Rails,
    /// The time that its decisions rest on.
    pub clock: Clock,
    /// The moment of the last check on record.
    pub last_check: UnixMs,
    /// Who tries candidates out.
    pub evaluations: EvaluationQueue,
    /// Failures of policies that others ask.
    pub failed: mpsc::Receiver<Failed>,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    pub(super) parts: Parts,
    pub(super) state: State,
    pub(super) course: Course,
    pub(super) plan: PlanInForce,
    pub(super) questions: Questions,
    pub(super) installs: Installs,
    pub(super) shows: Shows,
    pub(super) records: Records,
    pub(super) trust: Trust,
    pub(super) guard: Guard,
    pub(super) pools: Pools,
    inbox: Inbox,
    /// Where work in the background reports that it has ended.
    pub(super) settled: mpsc::Sender<BackgroundEvent>,
    shown: watch::Sender<Arc<Snapshot>>,
}

/// What the controller is told, most urgent first.
#[derive(Debug)]
struct Inbox {
    /// Orders that take something from V2; they pass the others.
    urgently: mpsc::Receiver<Command>,
    commands: mpsc::Receiver<Command>,
    settling: mpsc::Receiver<BackgroundEvent>,
}

impl Controller {
    /// A controller and how to talk to it.
    pub fn new(mut parts: Parts) -> (Self, Handle) {
        let distrusted = succession::stands_in(&parts.slots, parts.refused.iter().map(|(kind, _)| *kind));
        let mut failures = Failures::default();
        for (kind, error) in parts.refused.drain(..) {
            failures.count(kind, &error, parts.clock.now());
        }
        let (orders, commands) = mpsc::channel(COMMANDS);
        let ((urgent, urgently), (settled, settling)) = (mpsc::channel(COMMANDS), mpsc::channel(COMMANDS));
        let mut state = parts.state.clone();
        // The first one is no other one.
        state.table = state.table.or_else(|| succession::table(&parts.slots));
        let unrecorded = parts.unrecorded.take().map(|decision| (decision, state.clone(), None));
        let unrecorded: Unrecorded = unrecorded.into_iter().collect();
        let first = first(&parts, &state, &failures, unrecorded.len());
        let (shown, watching) = watch::channel(Arc::new(first));
        let clock = parts.clock.clone();
        let controller = Self {
            course: Course::new(parts.last_decision),
            plan: PlanInForce::default(),
            questions: Questions::new(parts.last_check),
            installs: Installs::default(),
            shows: Shows::default(),
            records: Records::new(&parts.clock, unrecorded),
            trust: Trust { distrusted, failures, ..Trust::default() },
            guard: Guard::new(&parts),
            pools: Pools::default(),
            inbox: Inbox { urgently, commands, settling },
            parts,
            state,
            settled,
            shown,
        };
        (controller, Handle { commands: orders, urgent, shown: watching, clock })
    }

    /// Feeds events to the migration until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.open_pools();
        let mut batches = tokio::time::interval(BATCH);
        let mut checks = tokio::time::interval(self.parts.check_interval);
        batches.set_missed_tick_behavior(MissedTickBehavior::Skip);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (answers, mut checked) = mpsc::channel::<Option<Checked>>(1);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return self.keep_last().await,
                Some(command) = self.inbox.urgently.recv() => self.command(command).await,
                Some(command) = self.inbox.commands.recv() => self.command(command).await,
                Some(settled) = self.inbox.settling.recv() => self.settle(settled).await,
                Some(answer) = checked.recv() => {
                    self.questions.asking = false;
                    if let Some(answer) = answer {
                        self.on_check_finished(answer).await;
                    }
                    self.go_on().await;
                    if self.questions.behind {
                        checks.reset_immediately();
                    }
                }
                Some(failed) = self.parts.failed.recv() => {
                    self.count_failure(failed.kind, failed.policy.as_ref(), &failed.error).await;
                }
                _ = batches.tick() => self.tick().await,
                _ = checks.tick(), if !self.questions.asking && self.installs.last_looks == 0 => self.questions.asking = self.ask(&answers).await,
            }
            self.show();
        }
    }

    /// Keeps the batches that no check will see any more.
    async fn keep_last(&mut self) {
        self.try_to_catch_up().await;
        self.cut_batch();
        let batches = self.take_unrecorded();
        self.keep(batches, None, Vec::new());
    }

    pub(super) fn cut_batch(&mut self) {
        self.end_batch(Recorder::cut);
    }

    /// Ends a batch, and with it a stage if `cut` does.
    pub(super) fn end_batch(&mut self, cut: fn(&Recorder, UnixMs, Measured) -> Batch) {
        let split = &self.parts.split;
        let mut gauges = self.parts.machine.sample();
        let by_ms = std::mem::take(&mut self.guard.steps.in_batch);
        if by_ms != 0 {
            gauges.insert(0, Gauge { name: "host.clock-step-ms".into(), value: by_ms });
        }
        for pool in [&split.v1, &split.v2] {
            gauges.extend(pool.gauges());
        }
        // Also if nothing is mirrored just now: what other rules found must not count a moment longer.
        split.recorder.pairs().in_force(|| cutover_traffic::compare::rules(&self.parts.slots));
        let measured = Measured { share: split.router.share(), v1: split.v1.members(), v2: split.v2.members(), gauges };
        let batch = cut(&split.recorder, self.parts.clock.now(), measured);
        self.parts.history.push(batch.clone());
        if self.questions.pending.len() >= MAX_PENDING {
            tracing::warn!(migration = self.parts.name, "checks cannot keep up; the oldest batch is dropped");
            self.questions.pending.remove(0);
            if self.questions.owed.count > 0 { self.questions.owed.count -= 1 } else { self.questions.dropped += 1 }
        }
        self.questions.pending.push(batch);
    }

    /// Takes a step and performs its effects. An order that is refused changes nothing.
    pub(super) async fn apply(&mut self, event: Event, cause: Cause) -> Option<Declined> {
        let event = self.with_causes(event);
        let (facts, clock) = (self.facts(), &self.parts.clock);
        let mut taken = step(&self.state, event.clone(), &cause.reason, facts, clock.now());
        if matches!(&taken, Ok((_, effects)) if effects.contains(&Effect::BeginStage)) {
            // Where a stage begins, its time does; nobody was asked before it in `preparing`.
            let anchor = clock.anchor(self.state.phase == Phase::Preparing);
            taken = step(&self.state, event, &cause.reason, facts, anchor.show);
            self.course.beginning = Some(anchor);
        }
        match taken {
            Ok((_, effects)) if effects.is_empty() => None,
            Ok((next, effects)) => {
                let moved = next != self.state;
                if let Err(error) = self.perform(next, effects, cause).await {
                    let why = format!("nothing was changed, because it could not be recorded: {}", chain(&error));
                    tracing::error!(migration = self.parts.name, "{why}");
                    return Some(Declined::new(Code::NotRecorded, why));
                }
                if moved {
                    self.course.epoch += 1;
                    self.course.moved_at = self.parts.clock.mono();
                    self.shows.waiting_for.clear();
                }
                None
            }
            Err(refused) => Some(Declined::new(Code::WrongPhase, refused.0)),
        }
    }

    /// What takes something from V2 says what V2 failed with, whoever found it worse by whatever rule.
    fn with_causes(&self, mut event: Event) -> Event {
        if let Event::Judged { verdict: Verdict::RollBack, findings }
        | Event::Moved { action: Action::Retreat(_), findings }
        | Event::Failsafe { action: failsafe::Action::Rollback | failsafe::Action::Retreat, findings } = &mut event
        {
            findings.extend(why::failed_with(&self.parts.history.failures_of_v2(why::SECONDS, self.state.since)));
        }
        event
    }

    pub(super) fn audited(&self, actor: &str, action: &str, detail: Value) -> Audited {
        Audited {
            at: self.parts.clock.wall(),
            actor: actor.into(),
            migration: self.parts.name.clone(),
            action: action.into(),
            detail,
        }
    }

    pub(super) fn show(&self) {
        let snapshot = Snapshot {
            migration: self.parts.name.clone(),
            state: self.state.clone(),
            verdict: self.shows.verdict.clone(),
            waiting_for: self.absence().into_iter().chain(self.shows.waiting_for.iter().cloned()).collect(),
            policies: snapshot::in_charge(&self.parts.slots),
            held: snapshot::held(&self.parts.slots),
            flags: self.parts.flags.shown(),
            flags_off: self.parts.flags.off(),
            last_rollback: self.shows.last_rollback.clone(),
            decisions: self.course.decisions,
            policy_failures: self.trust.failures.all(),
            rails: self.parts.rails.clone(),
            stale_plan: self.plan.stale.clone(),
            failsafe: self.guard.failsafe.shown(self.parts.clock.up()),
            clock: self.clock_shown(),
            unrecorded: self.records.unrecorded.len(),
        };
        self.shown.send_replace(Arc::new(snapshot));
    }
}

/// What is shown before anything has happened.
fn first(parts: &Parts, state: &State, failures: &Failures, unrecorded: usize) -> Snapshot {
    Snapshot {
        migration: parts.name.clone(),
        state: state.clone(),
        verdict: None,
        waiting_for: Vec::new(),
        policies: snapshot::in_charge(&parts.slots),
        held: snapshot::held(&parts.slots),
        flags: parts.flags.shown(),
        flags_off: parts.flags.off(),
        last_rollback: None,
        decisions: 0,
        policy_failures: failures.all(),
        rails: parts.rails.clone(),
        stale_plan: None,
        failsafe: Vec::new(),
        clock: ClockShown {
            now: parts.clock.now(),
            ahead_ms: parts.clock.ahead_ms(),
            steps: 0,
            last_step: None,
            gaps: 0,
            last_gap: None,
        },
        unrecorded,
    }
}
