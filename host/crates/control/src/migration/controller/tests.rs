//! The controller with policies of a few lines and clocks that stand still.

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
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
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
const SHARE: Ppm = Ppm::new(50_000);

/// The migration's operation.
const OPERATION: &str = "get-order";

/// A policy that says what it was told to say, and remembers the moments of the checks that it was shown.
#[derive(Debug)]
struct Fake(Arc<Inside>);

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
    fn new(kind: Kind, name: &str, says: Result<Verdict, PolicyError>) -> Arc<Self> {
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

    fn judge(says: Result<Verdict, PolicyError>) -> Arc<Self> {
        Self::new(Kind::Rollback, "judge", says)
    }

    /// Answers only when it is let to. The other end hears when it was asked.
    fn gated(&self) -> (channel::Sender<()>, mpsc::UnboundedReceiver<()>) {
        let ((open, gate), (asked, hears)) = (channel::channel(), mpsc::unbounded_channel());
        *self.0.gate.lock() = Some((asked, gate));
        (open, hears)
    }

    fn say(&self, says: Result<Verdict, PolicyError>) {
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
struct World {
    controller: Controller,
    clocks: Wall,
    answers: mpsc::Sender<Option<Checked>>,
    checked: mpsc::Receiver<Option<Checked>>,
    _folder: TempDir,
    _members: TcpListener,
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
    async fn new(judge: &Arc<Fake>) -> Self {
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
    async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.clocks.advance(BATCH);
            self.controller.tick().await;
        }
    }

    /// V2 fails a call.
    fn fail(&self, kind: FailureKind, status: u16) {
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
    async fn ask(&mut self) {
        self.controller.questions.asking = self.controller.ask(&self.answers).await;
        assert!(self.controller.questions.asking, "there is something to ask");
    }

    /// Takes the answer to the check that was begun, as the controller's task does.
    async fn take(&mut self) {
        let answer = self.checked.recv().await.unwrap();
        self.controller.questions.asking = false;
        self.controller.on_check_finished(answer.unwrap()).await;
        self.controller.go_on().await;
    }

    /// Five seconds and a check.
    async fn check(&mut self) {
        self.pass(5).await;
        self.ask().await;
        self.take().await;
    }

    /// Gives an order, and hears the answer if that comes at once.
    async fn order(&mut self, verb: CommandKind) -> oneshot::Receiver<Result<CommandReply, Declined>> {
        let (reply, answer) = oneshot::channel();
        let at = self.clocks.mono();
        self.controller.command(Command { verb, actor: "anna".into(), reason: "a test".into(), at, reply }).await;
        answer
    }

    /// Takes one report of what goes on in the background.
    async fn settle(&mut self) {
        let settled = self.controller.inbox.settling.recv().await.unwrap();
        self.controller.settle(settled).await;
    }

    /// Waits for an answer while the controller takes what is reported in the background.
    async fn hear<T>(&mut self, mut answer: oneshot::Receiver<T>) -> T {
        loop {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(oneshot::error::TryRecvError::Empty) => self.settle().await,
                Err(oneshot::error::TryRecvError::Closed) => panic!("nobody answers"),
            }
        }
    }

    /// The moments of the checks that the policy in charge of rollbacks remembers.
    fn remembers(&self) -> Vec<UnixMs> {
        let (_, memory) = self.controller.parts.slots.get(Kind::Rollback).question().unwrap();
        memory.chunks(8).map(|at| UnixMs(u64::from_le_bytes(at.try_into().unwrap()))).collect()
    }

    /// The moments of the checks that were made.
    fn made(&self) -> Vec<UnixMs> {
        self.controller.questions.recent.iter().map(|(check, _)| check.now_ms).collect()
    }

    /// Kinds and actors of the decisions on record, oldest first.
    async fn decisions(&self) -> Vec<(String, String)> {
        let mut decisions = self.controller.parts.store.decisions("shop", 100).await.unwrap();
        decisions.reverse();
        decisions.into_iter().map(|decision| (decision.kind, decision.actor)).collect()
    }

    fn stands(&self) -> (Phase, Ppm) {
        (self.controller.state.phase, self.controller.state.share)
    }
}

fn admitted(policy: &Arc<Fake>) -> Install {
    let installed = InstalledPolicy::of(Arc::<Fake>::clone(policy));
    let (component, configured, changed) = (Vec::new(), String::new(), Vec::new());
    Install::Activate(AdmittedPolicy { installed, component, configured, changed })
}

fn named(kinds: &[(&str, &str)]) -> Vec<(String, String)> {
    kinds.iter().map(|(kind, actor)| ((*kind).to_owned(), (*actor).to_owned())).collect()
}

#[tokio::test]
async fn a_verdict_is_acted_on_and_on_record() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    assert_eq!(world.controller.shows.verdict.as_ref().unwrap().verdict, Verdict::Healthy);
    judge.say(Ok(Verdict::RollBack));
    world.check().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
    assert_eq!(world.decisions().await, named(&[("rollback", "policy")]));
    assert_eq!(world.controller.parts.split.router.share(), Ppm::ZERO);
}

#[tokio::test]
async fn an_order_in_the_middle_of_a_check_is_done_at_once_and_the_answer_changes_nothing() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let mut world = World::new(&judge).await;
    world.pass(5).await;
    let (open, _hears) = judge.gated();
    world.ask().await;
    world.order(CommandKind::Pause).await.await.unwrap().unwrap();
    assert_eq!(world.stands(), (Phase::Paused, SHARE), "nobody waits for the judge");
    open.send(()).unwrap();
    world.take().await;
    // It is about a state that is gone; the next answer is about this one.
    assert_eq!((world.stands(), world.controller.shows.verdict.is_none()), ((Phase::Paused, SHARE), true));
    assert_eq!(world.decisions().await, named(&[("pause", "anna")]));
    assert_eq!(world.remembers(), world.made(), "but the judge has seen the check");
    open.send(()).unwrap();
    world.check().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
}

#[tokio::test]
async fn a_judge_that_does_not_come_back_is_as_good_as_none_after_the_time_that_is_configured() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    let (open, _hears) = judge.gated();
    world.pass(5).await;
    world.ask().await;
    let limit = world.controller.parts.failsafe.no_verdict.as_secs();
    // It was heard five seconds ago.
    world.pass(limit - 6).await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    world.pass(1).await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO));
    assert_eq!(world.decisions().await, named(&[("rollback", "host")]));
    open.send(()).unwrap();
    world.take().await;
    assert_eq!(world.stands(), (Phase::RolledBack, Ppm::ZERO), "a late answer is about a state that is gone");
}

#[tokio::test]
async fn a_host_that_was_stopped_blames_nobody_for_it() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    let since = world.controller.parts.clock.now();
    world.clocks.advance(Duration::from_hours(1));
    world.controller.tick().await;
    assert_eq!(world.stands(), (Phase::Ramping, SHARE));
    let counted = world.controller.parts.clock.now().since(since);
    assert!(counted <= cutover_model::clock::timeline::MOST, "{counted:?} count as soak");
    assert_eq!(world.controller.clock_shown().gaps, 1);
}

#[tokio::test]
async fn a_newcomer_has_seen_every_check_of_the_stage_once_when_it_takes_charge() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    for _ in 0..3 {
        world.check().await;
    }
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Ok(Verdict::Healthy));
    // A check is under way when it comes.
    world.pass(5).await;
    let (open, _hears) = before.gated();
    world.ask().await;
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    open.send(()).unwrap();
    // The records of the checks before are written by then, because they are read behind them.
    world.take().await;
    let reply = world.hear(answer).await.unwrap();
    assert!(reply.message.contains("newcomer"), "{}", reply.message);
    assert_eq!((world.made().len(), world.remembers()), (4, world.made()));
    world.check().await;
    assert_eq!((world.made().len(), world.remembers()), (5, world.made()), "and goes on from there");
}

#[tokio::test]
async fn a_newcomer_that_fails_what_it_is_shown_does_not_take_charge() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    for _ in 0..3 {
        world.check().await;
    }
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Err(PolicyError::nonsense("it cannot count")));
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    let refused = world.hear(answer).await.unwrap_err();
    assert!(matches!(refused.code, Code::Policy(_)) && refused.message.contains("it cannot count"), "{refused:?}");
    let in_charge = world.controller.parts.slots.get(Kind::Rollback).installed().unwrap();
    assert_eq!((in_charge.title.name.as_str(), world.remembers()), ("judge", world.made()));
}

#[tokio::test]
async fn a_policy_that_keeps_failing_begins_afresh_and_is_then_put_out_of_charge() {
    let judge = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&judge).await;
    world.check().await;
    judge.say(Err(PolicyError::nonsense("it cannot read what it remembers")));
    for _ in 0..5 {
        assert!(!world.remembers().is_empty());
        world.check().await;
    }
    assert!(world.remembers().is_empty(), "it has lost its memory, and is still in charge");
    for _ in 0..5 {
        assert!(world.controller.parts.slots.get(Kind::Rollback).installed().is_some());
        world.check().await;
    }
    let slot = world.controller.parts.slots.get(Kind::Rollback);
    assert!(slot.installed().is_none(), "there is none before it to go back to");
    assert!(slot.held().unwrap().contains("it cannot read what it remembers"));
    assert_eq!(world.stands(), (Phase::Ramping, SHARE), "the share stays as long as the host's patience lasts");
}

#[tokio::test]
async fn a_policy_that_keeps_failing_makes_way_for_the_one_before_which_sees_what_it_missed() {
    let before = Fake::judge(Ok(Verdict::Healthy));
    let mut world = World::new(&before).await;
    world.check().await;
    let newcomer = Fake::new(Kind::Rollback, "newcomer", Ok(Verdict::Healthy));
    let answer = world.order(CommandKind::Install(Box::new(admitted(&newcomer)))).await;
    world.hear(answer).await.unwrap();
    newcomer.say(Err(PolicyError::nonsense("it lost its way")));
    for _ in 0..10 {
        world.check().await;
    }
    while world.controller.parts.slots.get(Kind::Rollback).installed().unwrap().title.name != "judge" {
        world.settle().await;
    }
    // Checks that nobody answered are shown again, so that the batches of each are seen once.
    world.check().await;
    assert_eq!(world.remembers().last(), world.made().last());
    assert_eq!(world.controller.shows.verdict.as_ref().unwrap().verdict, Verdict::Healthy);
}

#[tokio::test]
async fn the_task_takes_orders_while_the_judge_is_asked_and_ends_when_it_is_told_to() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let (open, mut hears) = judge.gated();
    let World { mut controller, _folder, _members, .. } = World::new(&judge).await;
    controller.parts.check_interval = Duration::from_millis(1);
    let (commands, inbox) = mpsc::channel(COMMANDS);
    controller.inbox.urgently = inbox;
    let stop = CancellationToken::new();
    let mut shown = controller.shown.subscribe();
    let tasks = TaskTracker::new();
    let running = tasks.spawn(controller.run(stop.clone()));
    hears.recv().await.unwrap();
    let (reply, answer) = oneshot::channel();
    let (verb, at) = (CommandKind::Pause, Mono::from_nanos(2));
    commands.send(Command { verb, actor: "anna".into(), reason: "a test".into(), at, reply }).await.unwrap();
    answer.await.unwrap().unwrap();
    assert_eq!(shown.borrow_and_update().state.phase, Phase::Paused);
    // Every question from now on is answered.
    drop(open);
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn whatever_is_taken_from_v2_says_what_it_failed_with() {
    let judge = Fake::judge(Ok(Verdict::RollBack));
    let mut world = World::new(&judge).await;
    world.fail(FailureKind::Worker, 503);
    world.fail(FailureKind::Worker, 503);
    world.fail(FailureKind::Timeout, 0);
    world.check().await;
    let decision = world.controller.parts.store.decisions("shop", 1).await.unwrap().remove(0);
    let causes = "in the last minute V2 failed with 503 (2 of `get-order`), timeout (1 of `get-order`)";
    assert_eq!(decision.reason, format!("as it was told; {causes}"));
    assert_eq!(decision.findings.iter().map(|finding| finding.observed).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(world.controller.state.because, Some(decision.reason));
}

#[tokio::test]
async fn differences_from_before_the_host_started_can_be_accepted() {
    let mut world = World::new(&Fake::judge(Ok(Verdict::Healthy))).await;
    let unknown = world.order(CommandKind::Accept("get".into())).await.await.unwrap().unwrap_err();
    assert_eq!((unknown.code, unknown.message.contains("there are `get-order`")), (Code::NotFound, true));
    world.order(CommandKind::Accept(OPERATION.into())).await.await.unwrap().unwrap();
    world.pass(1).await;
    let batch = world.controller.questions.pending.last().unwrap();
    assert!(batch.gauges.iter().any(|gauge| gauge.name == "pairs.accepted{get-order}" && gauge.value == 1));
}
