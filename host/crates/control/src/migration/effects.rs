//! The shell around [`step`](super::step): performs effects in their order, the record first.

use std::sync::Arc;

use super::{
    controller::{Controller, V2Calls},
    snapshot::RollbackReport,
};
use crate::{
    migration::{catch_up::PendingCatchUp, event::Effect, judge::Answered},
    notify::Notice,
};
use cutover_model::{
    clock::{self, Mono},
    facts::Finding,
    port::{Kind, Phase, Plan, Situation},
    request::{Class, Ppm},
};
use cutover_policy_host::{
    evaluation::Job,
    installed::InstalledPolicy,
    record::{Call, Question, Role},
    route::Published,
};
use cutover_store::{StoreError, plans::LastPlan, records::Decision, state::State};
use cutover_traffic::observe::Recorder;

/// What made a decision happen, as it goes on record.
#[derive(Debug, Clone)]
pub struct Cause {
    /// An operator's reason; empty for policies, whose findings give the reasons.
    pub reason: String,
    pub(super) actor: String,
    pub(super) policy: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) inputs: Option<Call>,
    pub(super) at: Mono,
}

/// What pools report when they have done what they were told.
#[derive(Debug)]
pub enum BackgroundEvent {
    /// The pools that the state needs are up.
    Ready,
    /// They are not up yet, and why each of them is not.
    StillStarting {
        /// V1, if it is needed.
        v1: Option<String>,
        /// V2, if it is needed.
        v2: Option<String>,
    },
    /// V2's calls in flight have ended while it is to be replaced; with their number that were left.
    Idle(usize),
    /// V2 was replaced, and is ready.
    Returned,
    /// V2 has drained and stopped after a rollback.
    Drained {
        /// How the rollback went.
        report: RollbackReport,
    },
    /// A policy was shown what it would have seen.
    PendingCatchUp(Box<PendingCatchUp>),
}

impl Cause {
    /// The order of an operator, with its reason.
    pub fn operator(actor: &str, reason: &str) -> Self {
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        Self { reason, actor, policy: None, digest: None, inputs: None, at: clock::mono() }
    }

    /// What the host does by itself.
    pub fn host() -> Self {
        Self::operator("host", "")
    }

    /// A policy's answer, with everything that is needed to ask it again.
    pub fn policy<T>(answered: &Answered<T>, call: Option<Call>, at: Mono) -> Self {
        Self {
            reason: String::new(),
            actor: "policy".into(),
            policy: Some(answered.installed.label()),
            digest: Some(answered.installed.policy.digest().to_string()),
            inputs: call,
            at,
        }
    }
}

impl Controller {
    /// Performs effects in their order.
    ///
    /// # Errors
    /// When nothing was done, because it could not be recorded.
    pub(super) async fn perform(&mut self, next: State, effects: Vec<Effect>, cause: Cause) -> Result<(), StoreError> {
        let mut decision = None;
        let begins = effects.contains(&Effect::BeginStage).then(|| self.parts.split.recorder.stage() + 1);
        for effect in effects {
            match effect {
                Effect::Decide(decided) => match self.decide(&next, decided, &cause, begins).await {
                    Ok(made) => {
                        self.begin_time();
                        decision = Some(made);
                    }
                    Err(error) => {
                        self.course.beginning = None;
                        return Err(error);
                    }
                },
                Effect::Route => {
                    self.state = next.clone();
                    self.route().await;
                }
                Effect::OpenV2 => self.open_pools(),
                Effect::RestartV2 => {
                    self.pools.v2_calls = V2Calls::UnderWay;
                    self.restart_v2();
                }
                Effect::DrainV2 => self.stop_v2(decision.as_ref(), &cause, false),
                Effect::KillV2 => self.stop_v2(decision.as_ref(), &cause, true),
                Effect::BeginStage => {
                    // A batch belongs to one stage: what came before must not count for or against what follows.
                    self.end_batch(Recorder::begin_stage);
                    // What was said of the stage before is no verdict on this one.
                    self.shows.verdict = None;
                    self.forget_sessions();
                }
                Effect::Withhold(withheld, findings) => self.withhold(withheld, findings),
                Effect::Notify => self.tell(decision.as_ref()),
            }
        }
        self.state = next;
        Ok(())
    }

    /// Puts a plan for the current state in force. To close V2, no policy is asked and nothing is waited for.
    pub(super) async fn route(&mut self) {
        let split = Arc::clone(&self.parts.split);
        let only_v1 = self.only_v1();
        if only_v1 || !self.state.v2_runs() {
            split.router.close();
            // While the pools start, V2 stays open: a flag or a policy that changes must not stop it.
            if only_v1 || self.state.phase != Phase::Preparing {
                split.v2.close();
            }
            self.plan.stale = None;
            return;
        }
        let slots = Arc::clone(&self.parts.slots);
        let situation = self.situation();
        let asked = self.parts.tasks.spawn_blocking(move || {
            let slot = slots.get(Kind::Routing);
            let (installed, memory) = slot.question()?;
            let asked = installed.policy.make_plan(&situation, &memory);
            if asked.answer.is_ok() {
                slot.remember(&installed, asked.memory.clone());
            }
            let question = Question::Routing(situation.clone());
            let call = Call::of(situation.now_ms, Role::Active, &installed, question, memory, &asked);
            Some((installed, situation, asked, call))
        });
        match asked.await {
            Ok(Some((installed, situation, asked, call))) => {
                self.log(call);
                let answer = asked.answer.clone();
                self.parts.evaluations.submit(Kind::Routing, || Job::Planned(situation, asked));
                match answer {
                    Ok(plan) => {
                        self.plan.stale = None;
                        self.keep_for_restart(&installed, &plan);
                        let decider = installed.policy.decides().then_some(installed);
                        self.plan.last = Some((plan.clone(), decider.clone()));
                        self.publish(plan, decider);
                    }
                    Err(error) => {
                        self.keep_plan(format!("the routing policy {error}"));
                        self.count_failure(Kind::Routing, Some(&installed.policy), &error).await;
                    }
                }
            }
            Ok(None) => self.keep_plan("no routing policy is in charge; activate one".into()),
            Err(error) => self.keep_plan(format!("the routing policy could not be asked: {error}")),
        }
    }

    /// The last good plan stays, but never with more than the state allows.
    fn keep_plan(&mut self, why: String) {
        self.plan.stale = Some(why);
        let v2_alone = self.parts.split.v1.is_absent() && self.state.share == Ppm::ALL;
        if let Some((plan, decider)) = self.plan.last.clone() {
            self.publish(plan, decider);
        } else if v2_alone {
            // There is no other pool, whatever the policy would say.
            self.publish(Plan::all_to_v2(), None);
        }
    }

    /// The plan that was in force when the host was here last, if it was made for the phase that the migration is in.
    pub(super) fn restore(&mut self, last: Option<LastPlan>) {
        let Some(last) = last.filter(|last| last.phase == self.state.in_force()) else { return };
        let installed = self.parts.slots.get(Kind::Routing).question().map(|(installed, _)| installed);
        let decider =
            installed.filter(|installed| installed.policy.decides() && **installed.policy.digest() == *last.digest);
        self.plan.last = Some((last.plan, decider));
        self.keep_plan("the routing policy has not been asked yet".into());
    }

    /// A host that begins again has this plan in force before it serves anything.
    fn keep_for_restart(&mut self, installed: &InstalledPolicy, plan: &Plan) {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let digest = installed.policy.digest().to_string();
        let last = LastPlan { at: self.parts.clock.wall(), phase: self.state.in_force(), digest, plan: plan.clone() };
        self.in_turn(async move {
            if let Err(error) = store.keep_plan(&name, &last).await {
                tracing::error!(
                    migration = name,
                    "the plan in force is not kept: {}",
                    cutover_model::causes::chain(&error)
                );
            }
        });
    }

    fn publish(&self, mut plan: Plan, decider: Option<Arc<InstalledPolicy>>) {
        let flags = &self.parts.flags;
        let v1_absent = self.parts.split.v1.is_absent();
        // Without V1, a caller that is kept from V2 would get no answer at all.
        let most = if v1_absent { Ppm::ALL } else { flags.max_share() };
        plan.share = plan.share.min(self.state.share).min(most);
        let mut control = self.parts.control;
        if !flags.shadow() || self.state.redeploys {
            (plan.shadow_share, control.mirror_back) = (Ppm::ZERO, Ppm::ZERO);
        }
        let v2_serves = (flags.v2_enabled() || v1_absent) && !self.state.redeploys;
        // Before the ramp V2 has no callers, whatever a rule says.
        let most = if self.state.share > Ppm::ZERO { most } else { Ppm::ZERO };
        self.parts.split.router.publish(Published { plan, v2_serves, most, decider, control });
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

    fn tell(&self, decision: Option<&Decision>) {
        let Some(decision) = decision else { return };
        let severity = match decision.kind.as_str() {
            "rollback" => "critical",
            "pause" | "retreat" => "warning",
            _ => "info",
        };
        let move_ = format!("{} -> {}", decision.from_share, decision.to_share);
        let message = format!("{}: {} ({move_} on V2): {}", decision.kind, self.state.phase, decision.reason);
        let notice = self.made(&decision.kind, severity, message, decision.findings.clone());
        // What a person has ordered is no error of the host's.
        if matches!(decision.actor.as_str(), "host" | "policy") {
            self.parts.notifier.notify(notice);
        } else {
            self.parts.notifier.notify_of_order(notice);
        }
    }

    pub(super) fn notice(&self, event: &str, severity: &'static str, message: String, findings: Vec<Finding>) {
        self.parts.notifier.notify(self.made(event, severity, message, findings));
    }

    pub(super) fn made(&self, event: &str, severity: &'static str, message: String, findings: Vec<Finding>) -> Notice {
        let (at, migration) = (self.parts.clock.wall(), self.parts.name.clone());
        Notice { at, migration, event: event.into(), severity, message, findings }
    }
}
