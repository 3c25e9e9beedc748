//! A controller in its first stage, with policies of a few lines and clocks that stand still.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc as channel},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_util::task::TaskTracker;

use super::super::*;
use crate::{
    migration::{
        failsafe,
        handle::{AdmittedPolicy, CommandKind, CommandReply},
        install::Install,
        rails::Rails,
    },
    notify,
};
use cutover_model::{
    clock::{Mono, Reading, Wall, timeline::Timeline},
    facts::Finding,
    port::{Check, Description, Judgement, Plan, Progress, Situation, Target, Verdict},
    request::{Class, FailureKind, PoolId, Ppm},
};
use cutover_policy_host::{
    ask::{Asked, KeptPort, PolicyPort},
    evaluation::Queues,
    installed::InstalledPolicy,
};
use cutover_traffic::{
    observe::recorder::{Observation, Outcome},
    pool::{
        Pool, UpstreamPool, UpstreamSpec,
        upstream::{Address, Connector, Ejection, Lookup},
    },
};

/// The share of V2 where a test begins: the first stage.
pub(super) const SHARE: Ppm = Ppm::new(50_000);

/// The migration's operation.
pub(super) const OPERATION: &str = "get-order";

/// A policy that says what it was told to say, and remembers the moments of the checks that it was shown.
#[derive(Debug)]
pub(super) struct Fake(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    kind: Kind,
    name: Arc<str>,
    settings: Arc<str>,
    description: Arc<Description>,
    says: Mutex<Result<Verdict, PolicyError>>,
    /// It says that it was asked, and answers once for each message, or always once nobody can send one any more.
    gate: Mutex<Option<(mpsc::UnboundedSender<()>, channel::Receiver<()>)>>,
}

impl Fake {
    pub(super) fn new(kind: Kind, name: &str, says: Result<Verdict, PolicyError>) -> Arc<Self> {
        let description = Description {
            name: name.into(),
            version: "1.0.0".into(),
            summary: String::new(),
            attributes: Vec::new(),
            settings_schema: "{}".into(),
        };
        let (says, gate) = (Mutex::new(says), Mutex::default());
        let (name, description, settings) = (name.into(), description.into(), "{}".into());
        Arc::new(Self(Arc::new(Inside { kind, name, settings, description, says, gate })))
    }

    pub(super) fn judge(says: Result<Verdict, PolicyError>) -> Arc<Self> {
        Self::new(Kind::Rollback, "judge", says)
    }

    /// Answers only when it is let to. The other end hears when it was asked.
    pub(super) fn gated(&self) -> (channel::Sender<()>, mpsc::UnboundedReceiver<()>) {
        let ((open, gate), (asked, hears)) = (channel::channel(), mpsc::unbounded_channel());
        *self.0.gate.lock() = Some((asked, gate));
        (open, hears)
    }

    pub(super) fn say(&self, says: Result<Verdict, PolicyError>) {
        *self.0.says.lock() = says;
    }
}

impl Inside {
    fn answer<T>(&self, at: UnixMs, memory: &[u8], answer: impl FnOnce(Verdict) -> T) -> Asked<T> {
        if let Some((asked, gate)) = &*self.gate.lock() {
            // Whoever listens may have gone.
            let (_heard, _opened) = (asked.send(()), gate.recv());
        }
        match self.says.lock().clone() {
            Ok(verdict) => {
                let memory = [memory, &at.0.to_le_bytes()].concat();
                let (fuel, took, memory_peak) = (1, Duration::ZERO, 0);
                Asked { answer: Ok(answer(verdict)), memory, fuel, took, memory_peak }
            }
            Err(error) => Asked::not(error),
        }
    }

    fn judged(&self, check: &Check, memory: &[u8]) -> Asked<Judgement> {
        let findings = vec![Finding {
            rule: "fake".into(),
            observed: 1,
            limit: 0,
            unit: String::new(),
            note: "as it was told".into(),
        }];
        self.answer(check.now_ms, memory, |verdict| Judgement { verdict, findings, evidence: 0 })
    }
}

impl PolicyPort for Fake {
    fn kind(&self) -> Kind {
        self.0.kind
    }

    fn settings(&self) -> &Arc<str> {
        &self.0.settings
    }

    fn description(&self) -> &Arc<Description> {
        &self.0.description
    }

    fn digest(&self) -> &Arc<str> {
        &self.0.name
    }

    fn judge(&self, check: &Check, memory: &[u8]) -> Asked<Judgement> {
        self.0.judged(check, memory)
    }

    fn make_plan(&self, situation: &Situation, memory: &[u8]) -> Asked<Plan> {
        let plan = Plan { otherwise: Target::V1, share: situation.share, ..Plan::all_to_v2() };
        self.0.answer(situation.now_ms, memory, |_| plan)
    }

    fn kept(&self) -> Box<dyn KeptPort> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}

impl KeptPort for Fake {
    fn judge(&mut self, check: &Check, memory: &[u8]) -> Asked<Judgement> {
        self.0.judged(check, memory)
    }

    fn next(&mut self, _progress: &Progress, _memory: &[u8]) -> Asked<cutover_model::port::Move> {
        Asked::not(PolicyError::nonsense("nobody asks this of it"))
    }
}

/// A controller in its first stage, what it is asked through, and what it stands on.
pub(super) struct World {
    pub(super) controller: Controller,
    pub(super) clocks: Wall,
    answers: mpsc::Sender<Option<Checked>>,
    checked: mpsc::Receiver<Option<Checked>>,
    pub(super) _folder: TempDir,
    pub(super) _members: TcpListener,
}

/// A pool whose members take connections and say nothing.
fn pool(id: PoolId, members: &TcpListener) -> Pool {
    let second = Duration::from_secs(1);
    let spec = UpstreamSpec {
        label: format!("shop/{id}"),
        id,
        is_absent: false,
        upstreams: vec![Address::parse(&format!("http://{}", members.local_addr().unwrap())).unwrap()],
        connector: Connector::new(false, None).unwrap(),
        lookup: Lookup::default(),
        dns_refresh: second,
        max_connection_age: None,
        connect_timeout: second,
        idle_timeout: second,
        total_timeout: second,
        stream_total_timeout: None,
        request_buffer: 0,
        caller_share_percent: 100,
        max_connections: 1,
        max_waiting: 1,
        retries: 0,
        retry_budget_percent: 0,
        ejection: Ejection { failures: 5, time: second, most_percent: 50 },
        proxy_protocol: None,
        headers: None,
        health: None,
        drain_timeout: Duration::ZERO,
        stream_timeout: Duration::ZERO,
    };
    let pool = UpstreamPool::new(spec, 1);
    pool.open();
    Pool::Upstreams(pool)
}

impl World {
    pub(super) async fn new(judge: &Arc<Fake>) -> Self {
        let (folder, members) = (TempDir::new().unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let reading = Reading { mono: Mono::from_nanos(1), wall: UnixMs(1_800_000_000_000) };
        let clocks = Wall::paused(reading);
        let clock = Clock::new(clocks.clone(), Timeline::new(reading));
        let state = State { phase: Phase::Ramping, share: SHARE, ..State::new(clock.now()) };
        let store = Store::open(&folder.path().join("store.db")).await.unwrap();
        let slots = Arc::<Slots>::default();
        slots.get(Kind::Rollback).activate(InstalledPolicy::of(Arc::<Fake>::clone(judge)), Vec::new());
        let routing = Fake::new(Kind::Routing, "routing", Ok(Verdict::Healthy));
        slots.get(Kind::Routing).activate(InstalledPolicy::of(routing), Vec::new());
        let (evaluations, Queues { failures, .. }) = EvaluationQueue::new(Arc::clone(&slots));
        let pools = (pool(PoolId::V1, &members), pool(PoolId::V2, &members));
        let recorder = Arc::new(Recorder::new(clock.now()));
        let operations = BTreeMap::from([(OPERATION.into(), Class::Read)]);
        let split = Split::new(operations, pools, recorder, evaluations.clone(), Arc::default());
        let (notifier, _delivery) = notify::notifier(Arc::new(ArcSwap::from_pointee(Vec::new())));
        let (mut controller, _handle) = Controller::new(Parts {
            name: "shop".into(),
            salt: String::new(),
            check_interval: Duration::from_secs(5),
            control: Control::default(),
            state,
            flags: Flags::new(BTreeMap::new(), BTreeMap::new()).unwrap(),
            split: Arc::new(split),
            slots,
            history: Arc::default(),
            store,
            notifier,
            machine: Arc::default(),
            tasks: TaskTracker::new(),
            records: TaskTracker::new(),
            markers: Markers::new(folder.path().join("markers")),
            last_decision: 0,
            unrecorded: None,
            refused: Vec::new(),
            raise_without_v1: false,
            patience: Patience::default(),
            failsafe: failsafe::Settings::default(),
            rails: Rails::default(),
            clock,
            last_check: UnixMs(0),
            evaluations,
            failed: failures,
        });
        controller.begin(None).await;
        let (answers, checked) = mpsc::channel(1);
        Self { controller, clocks, answers, checked, _folder: folder, _members: members }
    }

    /// So many seconds pass, in each of which the controller looks around.
    pub(super) async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clocks.advance(BATCH);
            self.controller.tick().await;
        }
    }

    /// V2 fails a call.
    pub(super) fn fail(&self, kind: FailureKind, status: u16) {
        self.controller.parts.split.recorder.record(Observation {
            operation: &OPERATION.into(),
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: false,
            session: None,
            outcome: Outcome::Failed(kind),
            status,
            unread: false,
            failed_over: false,
            took: Duration::ZERO,
        });
    }

    /// Begins a check, whose answer is not taken yet.
    pub(super) async fn ask(&mut self) {
        self.controller.questions.asking = self.controller.ask(&self.answers).await;
        assert!(self.controller.questions.asking, "there is something to ask");
    }

    /// Takes the answer to the check that was begun, as the controller's task does.
    pub(super) async fn take(&mut self) {
        let answer = self.checked.recv().await.unwrap();
        self.controller.questions.asking = false;
        self.controller.on_check_finished(answer.unwrap()).await;
        self.controller.go_on().await;
    }

    /// Five seconds and a check.
    pub(super) async fn check(&mut self) {
        self.pass(5).await;
        self.ask().await;
        self.take().await;
    }

    /// Gives an order, and hears the answer if that comes at once.
    pub(super) async fn order(&mut self, verb: CommandKind) -> oneshot::Receiver<Result<CommandReply, Declined>> {
        let (reply, answer) = oneshot::channel();
        let at = self.clocks.mono();
        self.controller.command(Command { verb, actor: "anna".into(), reason: "a test".into(), at, reply }).await;
        answer
    }

    /// Takes one report of what goes on in the background.
    pub(super) async fn settle(&mut self) {
        let settled = self.controller.inbox.settling.recv().await.unwrap();
        self.controller.settle(settled).await;
    }

    /// Waits for an answer while the controller takes what is reported in the background.
    pub(super) async fn hear<T>(&mut self, mut answer: oneshot::Receiver<T>) -> T {
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => self.settle().await,
                Err(oneshot::error::TryRecvError::Closed) => panic!("nobody answers"),
            }
        }
    }

    /// The moments of the checks that the policy in charge of rollbacks remembers.
    pub(super) fn remembers(&self) -> Vec<UnixMs> {
        let (_, memory) = self.controller.parts.slots.get(Kind::Rollback).question().unwrap();
        memory.chunks(8).map(|at| UnixMs(u64::from_le_bytes(at.try_into().unwrap()))).collect()
    }

    /// The moments of the checks that were made.
    pub(super) fn made(&self) -> Vec<UnixMs> {
        self.controller.questions.recent.iter().map(|(check, _)| check.now_ms).collect()
    }

    /// Kinds and actors of the decisions on record, oldest first.
    pub(super) async fn decisions(&self) -> Vec<(String, String)> {
        let mut decisions = self.controller.parts.store.decisions("shop", 100).await.unwrap();
        decisions.reverse();
        decisions.into_iter().map(|decision| (decision.kind, decision.actor)).collect()
    }

    pub(super) fn stands(&self) -> (Phase, Ppm) {
        (self.controller.state.phase, self.controller.state.share)
    }
}

pub(super) fn admitted(policy: &Arc<Fake>) -> Install {
    let installed = InstalledPolicy::of(Arc::<Fake>::clone(policy));
    let (component, configured, changed) = (Vec::new(), String::new(), Vec::new());
    Install::Activate(AdmittedPolicy { installed, component, configured, changed })
}

pub(super) fn named(kinds: &[(&str, &str)]) -> Vec<(String, String)> {
    kinds.iter().map(|(kind, actor)| ((*kind).to_owned(), (*actor).to_owned())).collect()
}
