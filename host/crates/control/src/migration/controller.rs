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
    checks::{Checked, Owed},
    effects::{BackgroundEvent, Cause},
    failsafe::{self, Failsafe},
    flags::Flags,
    guard::{Liveness, Recording, Steps},
    handle::{Code, Command, Declined, Handle},
    presence::Presence,
    rails::Rails,
    record::{Marks, Unrecorded},
    snapshot::{self, ClockShown, Failures, Judged, RollbackReport, Snapshot},
    step::step,
    succession,
    told::Told,
};
use crate::{
    migration::{
        catch_up::PendingCatchUp,
        event::{Effect, Event},
    },
    notify::Notifier,
    state::State,
    store::{
        Store,
        markers::Markers,
        records::{Audited, Decision},
    },
};
use cutover_model::{
    clock::{
        self, Mono, UnixMs,
        timeline::{Anchor, Clock},
    },
    facts::{Batch, Finding, Gauge},
    port::{Check, Kind, Phase, Plan, Verdict},
};
use cutover_policy_host::{
    PolicyError,
    evaluation::{EvaluationQueue, Failed},
    installed::InstalledPolicy,
    route::Control,
    slot::Slots,
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

/// Calls of a V2 that is to be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum V2Calls {
    /// Some may be under way.
    #[default]
    UnderWay,
    /// They have ended.
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Controller {
    pub(super) parts: Parts,
    pub(super) state: State,
    /// Counts states, so that answers about a state that is gone are recognised.
    pub(super) epoch: u64,
    /// When the migration moved last.
    pub(super) moved_at: Mono,
    /// With the policy that its `decide` is asked of.
    pub(super) last_plan: Option<(Plan, Option<Arc<InstalledPolicy>>)>,
    pub(super) stale_plan: Option<String>,
    pub(super) pending: Vec<Batch>,
    /// Those that the rollback policy failed to answer.
    pub(super) owed: Owed,
    /// Batches that no check saw, since the last one.
    pub(super) dropped: usize,
    /// Whether some of them were there for the last check and did not fit it.
    pub(super) behind: bool,
    pub(super) last_check: UnixMs,
    /// What was put on record last, which may still be under way.
    pub(super) writing: Option<JoinHandle<()>>,
    pub(super) verdict: Option<Judged>,
    pub(super) waiting_for: Vec<Finding>,
    /// What people were told of that moved nothing.
    pub(super) told: Told,
    pub(super) last_rollback: Option<RollbackReport>,
    pub(super) decisions: u64,
    pub(super) last_decision: i64,
    pub(super) markers: Marks,
    /// What the store does not know of yet.
    pub(super) unrecorded: Unrecorded,
    /// Why nothing goes up until a person resumes, where that is yet to be decided.
    pub(super) distrusted: Option<String>,
    pub(super) failures: Failures,
    /// When the policies in charge failed lately.
    pub(super) failing: BTreeMap<Kind, VecDeque<Mono>>,
    /// When policies in charge began afresh, because they kept failing with what they remembered.
    pub(super) afresh: BTreeMap<Kind, Mono>,
    pub(super) failsafe: Failsafe,
    pub(super) judge: Liveness,
    pub(super) stages: Liveness,
    pub(super) recording: Recording,
    pub(super) steps: Steps,
    /// From where time goes on once the decision under way is on record.
    pub(super) beginning: Option<Anchor>,
    /// When the last decision was made, by the wall clock.
    pub(super) decided_at: UnixMs,
    /// Whether policies are being asked right now.
    pub(super) asking: bool,
    /// The last checks and what was said of them.
    pub(super) recent: VecDeque<(Check, Option<Verdict>)>,
    /// Slots that get a policy just now.
    pub(super) installing: BTreeSet<Kind>,
    /// Newcomers that wait for the check under way to end.
    pub(super) waiting: Vec<PendingCatchUp>,
    /// Newcomers that are shown the last checks; until they have seen them, no new check is made.
    pub(super) last_looks: usize,
    /// Whether V1 is there.
    pub(super) presence: Presence,
    /// Whether people know that nothing goes back to a V1 that is down.
    pub(super) withheld: bool,
    /// Whether V2, which is to be replaced, has calls.
    pub(super) v2_calls: V2Calls,
    commands: mpsc::Receiver<Command>,
    /// Orders that pass the others.
    urgently: mpsc::Receiver<Command>,
    pub(super) settled: mpsc::Sender<BackgroundEvent>,
    settling: mpsc::Receiver<BackgroundEvent>,
    shown: watch::Sender<Arc<Snapshot>>,
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
        let controller = Self {
            failsafe: Failsafe::new(&parts.failsafe, parts.check_interval),
            judge: Liveness::new(parts.clock.up()),
            stages: Liveness::new(parts.clock.up()),
            recording: Recording::new(parts.clock.clone()),
            steps: Steps::default(),
            beginning: None,
            decided_at: UnixMs(0),
            afresh: BTreeMap::new(),
            last_check: parts.last_check,
            last_decision: parts.last_decision,
            parts,
            state,
            epoch: 0,
            moved_at: Mono::default(),
            last_plan: None,
            stale_plan: None,
            pending: Vec::new(),
            owed: Owed::default(),
            dropped: 0,
            behind: false,
            writing: None,
            verdict: None,
            waiting_for: Vec::new(),
            told: Told::default(),
            last_rollback: None,
            decisions: 0,
            markers: Marks::default(),
            unrecorded,
            distrusted,
            failures,
            failing: BTreeMap::new(),
            asking: false,
            recent: VecDeque::new(),
            installing: BTreeSet::new(),
            waiting: Vec::new(),
            last_looks: 0,
            commands,
            urgently,
            presence: Presence::default(),
            withheld: false,
            v2_calls: V2Calls::default(),
            settled,
            settling,
            shown,
        };
        (controller, Handle { commands: orders, urgent, shown: watching })
    }

    /// Runs until `shutdown`.
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
                Some(command) = self.urgently.recv() => self.command(command).await,
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(settled) = self.settling.recv() => self.settle(settled).await,
                Some(answer) = checked.recv() => {
                    self.asking = false;
                    if let Some(answer) = answer {
                        self.on_check_finished(answer).await;
                    }
                    self.go_on().await;
                    if self.behind {
                        checks.reset_immediately();
                    }
                }
                Some(failed) = self.parts.failed.recv() => {
                    self.count_failure(failed.kind, failed.policy.as_ref(), &failed.error).await;
                }
                _ = batches.tick() => self.tick().await,
                _ = checks.tick(), if !self.asking && self.last_looks == 0 => self.asking = self.ask(&answers).await,
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
        let by_ms = std::mem::take(&mut self.steps.in_batch);
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
        if self.pending.len() >= MAX_PENDING {
            tracing::warn!(migration = self.parts.name, "checks cannot keep up; the oldest batch is dropped");
            self.pending.remove(0);
            if self.owed.count > 0 { self.owed.count -= 1 } else { self.dropped += 1 }
        }
        self.pending.push(batch);
    }

    /// Takes a step and performs its effects. An order that is refused changes nothing.
    pub(super) async fn apply(&mut self, event: Event, cause: Cause) -> Option<Declined> {
        let (facts, clock) = (self.facts(), &self.parts.clock);
        let mut taken = step(&self.state, event.clone(), &cause.reason, facts, clock.now());
        if matches!(&taken, Ok((_, effects)) if effects.contains(&Effect::BeginStage)) {
            // Where a stage begins, its time does; nobody was asked before it in `preparing`.
            let anchor = clock.anchor(self.state.phase == Phase::Preparing);
            taken = step(&self.state, event, &cause.reason, facts, anchor.show);
            self.beginning = Some(anchor);
        }
        match taken {
            Ok((_, effects)) if effects.is_empty() => None,
            Ok((next, effects)) => {
                let moved = next != self.state;
                let failed = self.perform(next, effects, cause).await;
                if moved && failed.is_none() {
                    self.epoch += 1;
                    self.moved_at = clock::mono();
                    self.waiting_for.clear();
                }
                failed.map(|why| Declined::new(Code::NotRecorded, why))
            }
            Err(refused) => Some(Declined::new(Code::WrongPhase, refused.0)),
        }
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
            verdict: self.verdict.clone(),
            waiting_for: self.absence().into_iter().chain(self.waiting_for.iter().cloned()).collect(),
            policies: snapshot::in_charge(&self.parts.slots),
            held: snapshot::held(&self.parts.slots),
            flags: self.parts.flags.shown(),
            flags_off: self.parts.flags.off(),
            last_rollback: self.last_rollback.clone(),
            decisions: self.decisions,
            policy_failures: self.failures.all(),
            rails: self.parts.rails.clone(),
            stale_plan: self.stale_plan.clone(),
            failsafe: self.failsafe.shown(self.parts.clock.up()),
            clock: self.clock_shown(),
            unrecorded: self.unrecorded.len(),
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
