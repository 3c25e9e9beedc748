//! The shell around [`step`](super::step): performs effects in their order, the record first.

use std::{sync::Arc, time::Duration};

use super::{
    controller::Controller,
    rehearse::Rehearsed,
    snapshot::RollbackReport,
    state::{Effect, Event, State},
};
use crate::{
    clock::{self, Mono, UnixMs},
    judge::Answered,
    notify::Notice,
    observe::Recorder,
    policy::{
        facts::Finding,
        port::{Kind, Phase, Plan, Situation},
        record::{Call, Question, Role},
        slot::Seat,
        trial::Job,
    },
    pool::Pool,
    request::{Class, Ppm},
    route::Published,
    store::records::Decision,
};

/// How long workers may take to start before people are told; they go on starting.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// Who or what made something happen.
#[derive(Debug, Clone)]
pub struct Cause {
    /// An operator's reason; empty for policies, whose findings say why.
    pub reason: String,
    pub(super) actor: String,
    pub(super) policy: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) inputs: Option<Call>,
    at: Mono,
}

/// What pools report when they have done what they were told.
#[derive(Debug)]
pub enum Settled {
    /// The pools that the state needs are up.
    Ready,
    /// They are not up yet, and why.
    StillStarting(String),
    /// V2 has drained and stopped after a rollback.
    Drained {
        /// The rollback.
        report: RollbackReport,
    },
    /// A policy was shown what it would have seen.
    Rehearsed(Box<Rehearsed>),
}

impl Cause {
    /// An operator's order.
    pub fn operator(actor: &str, reason: &str) -> Self {
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        Self { reason, actor, policy: None, digest: None, inputs: None, at: clock::mono() }
    }

    /// The host itself.
    pub fn host() -> Self {
        Self::operator("host", "")
    }

    /// A policy's answer, with everything that is needed to ask it again.
    pub fn policy<T>(answered: &Answered<T>, call: Option<Call>, at: Mono) -> Self {
        Self {
            reason: String::new(),
            actor: "policy".into(),
            policy: Some(answered.seat.label()),
            digest: Some(answered.seat.policy.digest().to_string()),
            inputs: call,
            at,
        }
    }
}

impl Controller {
    /// Performs effects in their order. Returns why, if nothing was done because it could not be recorded.
    pub(super) async fn perform(&mut self, next: State, effects: Vec<Effect>, cause: Cause) -> Option<String> {
        let mut decision = None;
        let begins = effects.contains(&Effect::BeginStage).then(|| self.parts.split.recorder.stage() + 1);
        for effect in effects {
            match effect {
                Effect::Decide(decided) => match self.decide(&next, decided, &cause, begins).await {
                    Ok(made) => {
                        self.begin_time();
                        decision = Some(made);
                    }
                    Err(why) => {
                        self.beginning = None;
                        return Some(why);
                    }
                },
                Effect::Route => {
                    self.state = next.clone();
                    self.route().await;
                }
                Effect::OpenV2 => self.open_pools(),
                Effect::DrainV2 => self.stop_v2(decision.as_ref(), &cause, false),
                Effect::KillV2 => self.stop_v2(decision.as_ref(), &cause, true),
                Effect::BeginStage => {
                    // A batch belongs to one stage: what came before must not count for or against what follows.
                    self.end_batch(Recorder::begin_stage);
                    self.forget_sessions();
                }
                Effect::Notify => self.tell(decision.as_ref()),
            }
        }
        self.state = next;
        None
    }

    /// Puts a plan for the current state in force. Closing V2 asks nobody and waits for nothing.
    async fn route(&mut self) {
        let split = Arc::clone(&self.parts.split);
        let refuses = self.parts.store.refuses().is_some();
        if refuses || !self.state.v2_runs() {
            split.router.close();
            // While the pools start, V2 stays open: a flag or a policy that changes must not stop it.
            if refuses || self.state.phase != Phase::Preparing {
                split.v2.close();
            }
            self.stale_plan = None;
            return;
        }
        let slots = Arc::clone(&self.parts.slots);
        let situation = self.situation();
        let asked = self.parts.tasks.spawn_blocking(move || {
            let slot = slots.get(Kind::Routing);
            let (seat, memory) = slot.question()?;
            let asked = seat.policy.make_plan(&situation, &memory);
            if asked.answer.is_ok() {
                slot.remember(&seat, asked.memory.clone());
            }
            let question = Question::Routing(situation.clone());
            let call = Call::of(situation.now_ms, Role::Active, &seat, question, memory, &asked);
            Some((seat, situation, asked, call))
        });
        match asked.await {
            Ok(Some((seat, situation, asked, call))) => {
                self.log(call);
                let answer = asked.answer.clone();
                self.parts.trials.submit(Kind::Routing, || Job::Planned(situation, asked));
                match answer {
                    Ok(plan) => {
                        self.stale_plan = None;
                        let decider = seat.policy.decides().then_some(seat);
                        self.last_plan = Some((plan.clone(), decider.clone()));
                        self.publish(plan, decider);
                    }
                    Err(error) => {
                        self.keep_plan(format!("the routing policy {error}"));
                        self.count_failure(Kind::Routing, Some(&seat.policy), &error).await;
                    }
                }
            }
            Ok(None) => self.keep_plan("no routing policy is in charge; activate one".into()),
            Err(error) => self.keep_plan(format!("the routing policy could not be asked: {error}")),
        }
    }

    /// The last good plan stays, but never with more than the state allows.
    fn keep_plan(&mut self, why: String) {
        self.stale_plan = Some(why);
        if let Some((plan, decider)) = self.last_plan.clone() {
            self.publish(plan, decider);
        }
    }

    fn publish(&self, mut plan: Plan, decider: Option<Arc<Seat>>) {
        let flags = &self.parts.flags;
        plan.share = plan.share.min(self.state.share).min(flags.max_share());
        let mut control = self.parts.control;
        if !flags.shadow() {
            (plan.shadow_share, control.mirror_back) = (Ppm::ZERO, Ppm::ZERO);
        }
        self.parts.split.router.publish(Published { plan, v2_serves: flags.v2_enabled(), decider, control });
    }

    fn situation(&self) -> Situation {
        let operations = self.parts.split.operations.iter();
        Situation {
            now_ms: self.parts.clock.now(),
            migration: self.parts.name.clone(),
            phase: self.state.in_force(),
            stage: self.state.stage,
            share: self.state.share,
            salt: self.parts.salt.clone(),
            operations: operations.map(|(name, o)| (name.to_string(), *o)).collect::<Vec<(String, Class)>>(),
        }
    }

    /// Tells the pools what operators have switched.
    pub(super) fn switch_pools(&self) {
        let (split, flags) = (&self.parts.split, &self.parts.flags);
        for pool in [&split.v1, &split.v2].into_iter().filter_map(Pool::workers) {
            pool.switch_breakers(flags.circuit_breaker());
            pool.switch_optimizer(flags.pool_optimizer());
        }
    }

    /// Opens the pools that the state needs and reports when they are up. A drain that is still going on ends first.
    pub(super) fn open_pools(&self) {
        // Without a store V2 gets nobody, and what it would be told goes nowhere.
        let needs_v2 = self.state.needs_v2() && self.parts.store.refuses().is_none();
        let (split, settled) = (Arc::clone(&self.parts.split), self.settled.clone());
        split.v1.open();
        self.parts.tasks.spawn(async move {
            let _turn = split.v2_turn.lock().await;
            if needs_v2 {
                split.v2.open();
            }
            loop {
                let deadline = clock::mono() + START_PATIENCE;
                let ready = match split.v1.ready_by(deadline).await {
                    Ok(()) if needs_v2 => split.v2.ready_by(deadline).await,
                    other => other,
                };
                let report = match ready {
                    Ok(()) => Settled::Ready,
                    Err(failure) => Settled::StillStarting(failure.message),
                };
                let done = matches!(report, Settled::Ready);
                let closed = needs_v2 && !split.v2.is_open();
                if settled.send(report).await.is_err() || done || closed {
                    return;
                }
            }
        });
    }

    /// V2 is closed already; waits for its calls in flight and stops its workers, off the controller's path.
    fn stop_v2(&self, decision: Option<&Decision>, cause: &Cause, kill: bool) {
        let report = RollbackReport {
            decision: decision.map_or(0, |d| d.id),
            at: decision.map_or(UnixMs(0), |d| d.at),
            reason: decision.map_or_else(String::new, |d| d.reason.clone()),
            policy: cause.policy.clone(),
            digest: cause.digest.clone(),
            findings: decision.map_or_else(Vec::new, |d| d.findings.clone()),
            last_v2_request_us: 0,
            undrained: 0,
        };
        let (split, settled, at) = (Arc::clone(&self.parts.split), self.settled.clone(), cause.at);
        self.parts.tasks.spawn(async move {
            let _turn = split.v2_turn.lock().await;
            let undrained = if kill { 0 } else { split.v2.drain().await };
            split.v2.stop(kill).await;
            let last = split.v2.last_dispatch().since(at);
            let last_v2_request_us = u64::try_from(last.as_micros()).unwrap_or(u64::MAX);
            let report = RollbackReport { last_v2_request_us, undrained, ..report };
            // The controller is gone when the host stops.
            drop(settled.send(Settled::Drained { report }).await);
        });
    }

    /// Takes note of what pools report.
    pub(super) async fn settle(&mut self, settled: Settled) {
        match settled {
            Settled::Ready => {
                self.happen(Event::PoolsReady, Cause::host()).await;
                self.settled_once.cancel();
            }
            Settled::StillStarting(why) => {
                let message = format!("workers do not start; V1 keeps serving: {why}");
                self.notice("pools-not-ready", "critical", message, Vec::new());
            }
            Settled::Drained { report } => self.last_rollback = Some(report),
            Settled::Rehearsed(rehearsed) => self.rehearse(*rehearsed).await,
        }
    }

    fn tell(&self, decision: Option<&Decision>) {
        let Some(decision) = decision else { return };
        let severity = match decision.kind.as_str() {
            "rollback" => "critical",
            "pause" | "retreat" => "warning",
            _ => "info",
        };
        let move_ = format!("{} -> {}", decision.from_share, decision.to_share);
        let message = format!("{}: {} ({move_} on V2): {}", decision.kind, self.state.phase, decision.reason);
        self.notice(&decision.kind, severity, message, decision.findings.clone());
    }

    pub(super) fn notice(&self, event: &str, severity: &'static str, message: String, findings: Vec<Finding>) {
        let migration = self.parts.name.clone();
        self.parts.notifier.notify(Notice {
            at: self.parts.clock.wall(),
            migration,
            event: event.into(),
            severity,
            message,
            findings,
        });
    }
}
