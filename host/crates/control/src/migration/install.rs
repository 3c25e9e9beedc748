//! Puts policies into slots: in charge, back in charge, or beside the one in charge.
//!
//! On record first, then for the next question. A policy that remembers checks is shown those since the stage began
//! before (see [`catch_up`](crate::migration::catch_up)): it takes over with the memory that it would have.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    controller::Controller,
    effects::Cause,
    handle::{AdmittedPolicy, Code, CommandReply, Declined},
    succession::{lets_go_up, until_resumed},
};
use crate::migration::{
    catch_up::{CatchUpStart, PendingCatchUp},
    event::Event,
};
use cutover_model::{
    causes::chain,
    clock::{self, Mono, UnixMs},
    port::Kind,
};
use cutover_policy_host::{
    PolicyError,
    ask::PolicyPort,
    candidate::{Candidate, Evidence, Rule},
    catch_up::CatchUp,
    installed::InstalledPolicy,
};
use cutover_store::{
    StoreError,
    records::Audited,
    slots::{SlotRecord, SlotRole},
};

/// A policy that is being put somewhere.
#[derive(Debug)]
pub struct PendingInstall {
    /// What goes into which slot.
    pub what: Install,
    /// Who ordered it, as it goes on record.
    pub actor: String,
    /// The actor's reason.
    pub reason: String,
    /// Who waits for the answer; nobody, if the host itself wants it.
    pub reply: Option<oneshot::Sender<Result<CommandReply, Declined>>>,
    /// When the order came; it fails if it takes too long.
    pub started: Mono,
}

/// Where a policy is put.
#[derive(Debug)]
pub enum Install {
    /// This policy becomes the active one of its slot.
    Activate(AdmittedPolicy),
    /// Beside the one in charge.
    Candidate(AdmittedPolicy, Rule),
    /// The candidate, in charge.
    Promote(Kind),
    /// The previous one, back in charge.
    Revert(Kind),
    /// The slot's candidate is removed.
    Drop(Kind),
}

impl PendingInstall {
    fn answer(self, done: Result<CommandReply, Declined>) {
        match (self.reply, done) {
            // Whoever asked may have gone; what was done is on record.
            (Some(reply), done) => drop(reply.send(done)),
            (None, Err(why)) => tracing::error!("{why}"),
            (None, Ok(_)) => {}
        }
    }
}

impl PendingInstall {
    /// Whether somebody wants to put a policy in charge: whom it is shown to fail is told so instead. What the host itself does
    /// comes after something worse, and a candidate is there to be watched.
    pub(super) const fn can_wait(&self) -> bool {
        self.reply.is_some() && matches!(self.what, Install::Activate(_) | Install::Promote(_) | Install::Revert(_))
    }
}

impl Install {
    /// The slot that it changes.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Activate(new) | Self::Candidate(new, _) => new.installed.policy.kind(),
            Self::Promote(kind) | Self::Revert(kind) | Self::Drop(kind) => *kind,
        }
    }
}

impl Controller {
    /// Begins to put a policy somewhere; whoever waits is answered when it is done or refused.
    pub(super) async fn install(&mut self, installing: PendingInstall) {
        let kind = installing.what.kind();
        if let Some(installed) = self.in_charge_already(&installing.what) {
            let (label, digest) = (installed.label(), installed.policy.digest().to_string());
            let message = format!(
                "{label} is in charge of {kind} of {} with the same settings: nothing was changed",
                self.parts.name
            );
            let detail = json!({ "kind": kind, "policy": label, "from": digest, "to": digest, "changed": [] });
            return installing.answer(Ok(CommandReply { message, detail }));
        }
        let learner = match self.learner(&installing.what) {
            Ok(learner) => learner,
            Err(why) => return installing.answer(Err(why)),
        };
        if self.installs.under_way.contains(&kind) {
            let why = format!("another {kind} policy is just being put in its slot; try again in a moment");
            return installing.answer(Err(Declined::new(Code::Busy, why)));
        }
        self.installs.under_way.insert(kind);
        if !CatchUp::is_for(kind) {
            return self.install_now(PendingCatchUp::new(installing, CatchUpStart { policy: None, ..learner })).await;
        }
        let policy = learner.policy.filter(|_| self.state.is_judged());
        self.catch_up(PendingCatchUp::new(installing, CatchUpStart { policy, ..learner })).await;
    }

    /// Whoever activates what is active wants nothing else; the policy before stays the one to go back to.
    fn in_charge_already(&self, what: &Install) -> Option<Arc<InstalledPolicy>> {
        let Install::Activate(new) = what else { return None };
        let installed = self.parts.slots.get(what.kind()).installed()?;
        let same = installed.title == new.installed.title
            && installed.policy.digest() == new.installed.policy.digest()
            && installed.policy.settings() == new.installed.policy.settings()
            && installed.wasi_stub == new.installed.wasi_stub;
        same.then_some(installed)
    }

    /// Who has to be shown what happened.
    fn learner(&self, what: &Install) -> Result<CatchUpStart, Declined> {
        let slot = self.parts.slots.get(what.kind());
        let kind = what.kind();
        let learner =
            |policy: Option<&Arc<dyn PolicyPort>>, memory, from| CatchUpStart { policy: policy.cloned(), memory, from };
        let nothing = |what: String| Err(Declined::new(Code::NotFound, what));
        let blank = |policy| Ok(learner(Some(policy), Vec::new(), self.state.since));
        match what {
            Install::Activate(new) => blank(&new.installed.policy),
            Install::Candidate(new, _) => match slot.installed() {
                Some(_) => blank(&new.installed.policy),
                None => nothing(format!("no {kind} policy is in charge that a candidate could be compared with")),
            },
            Install::Promote(_) => match slot.candidate() {
                // It missed some, so what it remembers is not what it would.
                Some(candidate) if candidate.evidence.lock().left_out > 0 => blank(&candidate.installed.policy),
                Some(candidate) => {
                    let (memory, from) = candidate.memory.lock().clone();
                    Ok(learner(Some(&candidate.installed.policy), memory, from))
                }
                None => nothing(format!("no {kind} policy is a candidate")),
            },
            Install::Drop(_) if slot.candidate().is_none() => nothing(format!("no {kind} policy is a candidate")),
            Install::Drop(_) => Ok(learner(None, Vec::new(), UnixMs(0))),
            Install::Revert(_) => match slot.previous() {
                Some(installed) => blank(&installed.policy),
                None => nothing(format!("there is no previous {kind} policy to go back to; activate one")),
            },
        }
    }

    pub(super) async fn install_now(&mut self, pending: PendingCatchUp) {
        let PendingCatchUp { installing, catch_up, from: seen, .. } = pending;
        self.installs.under_way.remove(&installing.what.kind());
        let done = self.put_in_place(&installing, catch_up, seen).await;
        self.show();
        installing.answer(done);
    }

    /// Leaves everything as it is.
    pub(super) fn refuse(&mut self, installing: PendingInstall, why: Declined) {
        self.installs.under_way.remove(&installing.what.kind());
        installing.answer(Err(why));
    }

    async fn put_in_place(
        &mut self,
        installing: &PendingInstall,
        catch_up: CatchUp,
        seen: UnixMs,
    ) -> Result<CommandReply, Declined> {
        let kind = installing.what.kind();
        let slot = self.parts.slots.get(kind);
        let from = slot.installed().map(|installed| installed.policy.digest().to_string());
        let shown =
            json!({ "checks": catch_up.checks, "failed": catch_up.failed, "first_failure": catch_up.first_failure });
        let (verb, label, to) = match &installing.what {
            Install::Activate(new) => {
                ("activate-policy", new.installed.label(), new.installed.policy.digest().to_string())
            }
            Install::Candidate(new, _) => {
                ("candidate-policy", new.installed.label(), new.installed.policy.digest().to_string())
            }
            Install::Promote(_) => labelled("promote-policy", slot.candidate().map(|c| c.installed.clone()).as_ref()),
            Install::Drop(_) => labelled("drop-candidate", slot.candidate().map(|c| c.installed.clone()).as_ref()),
            Install::Revert(_) => labelled("revert-policy", slot.previous().as_deref()),
        };
        let mut detail = json!({ "kind": kind, "policy": label, "from": from, "to": to, "replayed": shown, "reason": installing.reason });
        if let Install::Activate(new) | Install::Candidate(new, _) = &installing.what
            && let Value::Object(detail) = &mut detail
        {
            detail.insert("changed".into(), json!(new.changed));
        }
        let audited = self.audited(&installing.actor, verb, detail.clone());
        let done = match &installing.what {
            Install::Activate(new) => self.take_over(new, catch_up.memory, &audited).await,
            Install::Candidate(new, rule) => self.stand_by(new, *rule, (catch_up.memory, seen), &audited).await,
            Install::Promote(_) => self.promote(kind, catch_up.memory, &audited).await,
            Install::Revert(_) => self.go_back(kind, catch_up.memory, &audited).await,
            Install::Drop(_) => self.dismiss(kind, &audited).await,
        };
        done.map_err(|e| {
            let code = if matches!(e, StoreError::NoCandidate(_)) { Code::NotFound } else { Code::NotRecorded };
            Declined::new(code, format!("nothing was changed: {}", chain(&e)))
        })?;
        let takes_charge = !matches!(installing.what, Install::Candidate(..) | Install::Drop(_));
        if takes_charge {
            self.trust.failing.remove(&kind);
        }
        if kind == Kind::Stages && takes_charge {
            self.admit_table(Cause::operator(&installing.actor, &installing.reason)).await;
        }
        if installing.reply.is_none() && matches!(installing.what, Install::Revert(_)) && lets_go_up(kind) {
            self.trust.distrusted = Some(until_resumed(kind, &label, &installing.reason));
            self.distrust().await;
        }
        if kind == Kind::Routing && !matches!(installing.what, Install::Drop(_)) {
            self.apply(Event::FlagsChanged, Cause::operator(&installing.actor, &installing.reason)).await;
        }
        let took_us = u64::try_from(clock::mono().since(installing.started).as_micros()).unwrap_or(u64::MAX);
        if let Value::Object(detail) = &mut detail {
            detail.insert("swap_us".into(), took_us.into());
        }
        let message = match installing.what {
            Install::Candidate(..) => format!("{label} is a candidate for {kind} of {}", self.parts.name),
            Install::Drop(_) => format!("{label} is no candidate for {kind} of {} any more", self.parts.name),
            Install::Activate(_) | Install::Promote(_) | Install::Revert(_) => {
                format!("{kind} of {} is now {label}", self.parts.name)
            }
        };
        let severity = if installing.reply.is_none() { "warning" } else { "info" };
        self.notice(event_of(&installing.what), severity, format!("{message}: {}", installing.reason), Vec::new());
        Ok(CommandReply { message, detail })
    }

    async fn take_over(&self, new: &AdmittedPolicy, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        let kind = new.installed.policy.kind();
        let record = record(new, memory.clone(), audited);
        self.parts.store.activate(kind, &record, false, audited).await?;
        self.parts.slots.get(kind).activate(new.installed.clone(), memory);
        Ok(())
    }

    async fn stand_by(
        &self,
        new: &AdmittedPolicy,
        rule: Rule,
        (memory, from): (Vec<u8>, UnixMs),
        audited: &Audited,
    ) -> Result<(), StoreError> {
        let kind = new.installed.policy.kind();
        let since = self.parts.clock.now();
        let record = SlotRecord { rule: Some(rule), since, ..record(new, memory.clone(), audited) };
        self.parts.store.set_candidate(kind, Some(&record), audited).await?;
        let candidate = Candidate::new(new.installed.clone(), rule, since, (memory, from), Evidence::default());
        self.parts.slots.get(kind).stand_by(Some(&Arc::new(candidate)));
        Ok(())
    }

    async fn promote(&self, kind: Kind, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        let slot = self.parts.slots.get(kind);
        let stored = self.parts.store.policy_in_slot(&self.parts.name, kind, SlotRole::Candidate).await?;
        let (Some(candidate), Some(stored)) = (slot.candidate(), stored) else {
            return Err(StoreError::NoCandidate(kind));
        };
        let record = SlotRecord {
            memory: memory.clone(),
            rule: None,
            evidence: None,
            since: audited.at,
            updated_by: audited.actor.clone(),
            ..stored
        };
        self.parts.store.activate(kind, &record, true, audited).await?;
        slot.stand_by(None);
        slot.activate(candidate.installed.clone(), memory);
        Ok(())
    }

    async fn go_back(&self, kind: Kind, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        self.parts.store.revert(kind, &memory, audited).await?;
        self.parts.slots.get(kind).revert(memory);
        Ok(())
    }

    async fn dismiss(&self, kind: Kind, audited: &Audited) -> Result<(), StoreError> {
        self.parts.store.set_candidate(kind, None, audited).await?;
        self.parts.slots.get(kind).stand_by(None);
        Ok(())
    }

    /// Takes a policy that failed too often out of charge: back to the previous one, or, without one, nobody.
    pub(super) async fn give_up(&mut self, kind: Kind, why: String) {
        let slot = self.parts.slots.get(kind);
        if self.installs.under_way.contains(&kind) || slot.installed().is_none() {
            return;
        }
        self.trust.failing.remove(&kind);
        if slot.previous().is_some() {
            let started = clock::mono();
            let installing =
                PendingInstall { what: Install::Revert(kind), actor: "host".into(), reason: why, reply: None, started };
            // Boxed, because a failing plan leads here and going back leads to a plan.
            return Box::pin(self.install(installing)).await;
        }
        let detail =
            json!({ "kind": kind, "from": slot.installed().map(|s| s.policy.digest().to_string()), "reason": why });
        let audited = self.audited("host", "hold-policy", detail);
        if let Err(error) = self.parts.store.hold_slot(kind, &why, &audited).await {
            tracing::error!(migration = self.parts.name, "a held slot is not on record: {}", chain(&error));
        }
        self.parts.slots.get(kind).hold(why.clone());
        if kind == Kind::Routing {
            // The last good plan stays, but the policy is not asked about requests any more.
            self.plan.last = self.plan.last.take().map(|(plan, _)| (plan, None));
            Box::pin(self.apply(Event::FlagsChanged, Cause::host())).await;
        }
        let message = format!("nobody is in charge of {kind} any more, and it holds: {why}; activate another policy");
        self.notice("policy-held", "critical", message, Vec::new());
    }

    /// Counts a policy's failure. The first of its cause within a minute is audited; too many put it out of charge.
    /// Without a policy it is the slot that failed: nobody was in charge.
    pub(super) async fn count_failure(
        &mut self,
        kind: Kind,
        policy: Option<&Arc<dyn PolicyPort>>,
        error: &PolicyError,
    ) {
        let now = self.parts.clock.mono();
        if self.trust.failures.count(kind, error, self.parts.clock.now()) {
            tracing::error!(migration = self.parts.name, %kind, "the policy {error}");
            let detail = json!({ "kind": kind, "digest": policy.map(|p| p.digest()), "error": error, "message": error.to_string() });
            let audited = self.audited("host", "policy-failed", detail);
            if let Err(error) = self.parts.store.audit(&audited).await {
                tracing::error!(%error, "a policy's failure could not be audited");
            }
        }
        let in_charge = self.parts.slots.get(kind).installed();
        if !in_charge.is_some_and(|installed| policy.is_some_and(|policy| Arc::ptr_eq(policy, &installed.policy))) {
            return;
        }
        let patience = self.parts.patience;
        let recent = self.trust.failing.entry(kind).or_default();
        recent.push_back(now);
        while recent.front().is_some_and(|at| now.since(*at) > patience.within) {
            recent.pop_front();
        }
        if recent.len() >= patience.failures {
            let within = humantime::format_duration(patience.within);
            let why = format!("it failed {} times within {within}; the last time it {error}", recent.len());
            if !self.begin_afresh(kind, &why).await {
                self.give_up(kind, why).await;
            }
        }
    }
}

fn record(new: &AdmittedPolicy, memory: Vec<u8>, audited: &Audited) -> SlotRecord {
    SlotRecord {
        title: new.installed.title.clone(),
        digest: new.installed.policy.digest().to_string(),
        wasi_stub: new.installed.wasi_stub,
        settings: new.installed.policy.settings().to_string(),
        configured: new.configured.clone(),
        memory,
        held: None,
        rule: None,
        evidence: None,
        since: audited.at,
        updated_by: audited.actor.clone(),
        component: new.component.clone(),
    }
}

fn labelled(verb: &'static str, installed: Option<&InstalledPolicy>) -> (&'static str, String, String) {
    let digest = installed.map_or_else(String::new, |installed| installed.policy.digest().to_string());
    (verb, installed.map_or_else(String::new, InstalledPolicy::label), digest)
}

const fn event_of(what: &Install) -> &'static str {
    match what {
        Install::Activate(_) => "policy-activated",
        Install::Candidate(..) => "candidate-set",
        Install::Promote(_) => "candidate-promoted",
        Install::Revert(_) => "policy-reverted",
        Install::Drop(_) => "candidate-dropped",
    }
}
