//! Puts policies into seats: in charge, back in charge, or beside the one in charge.
//!
//! On record first, then for the next question. A policy that remembers checks is shown those since the stage began, off
//! the controller's path, and then, between two checks, those that came meanwhile: it takes over with the memory that it
//! would have.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    controller::Controller,
    effects::{Cause, Settled},
    handle::{Newcomer, Ordered},
    state::Event,
};
use crate::{
    causes::chain,
    clock::{self, Mono, UnixMs},
    policy::{
        PolicyError,
        candidate::{Candidate, Evidence, Rule},
        engine::Policy,
        history::Recorded,
        port::Kind,
        rehearsal::Rehearsal,
        slot::Seat,
    },
    store::{
        Store, StoreError,
        records::Audited,
        seats::{Place, SeatRecord},
    },
};

/// Checks that are read from the store at once.
const PAGE: u32 = 500;

/// Failures after which a rehearsal ends: a policy that loops would take its whole time limit for each check.
const ENOUGH_FAILURES: u64 = 3;

/// A policy that is being put somewhere.
#[derive(Debug)]
pub struct Installing {
    /// Where.
    pub what: Install,
    /// Who wants it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Who waits for the answer; nobody, if the host itself wants it.
    pub reply: Option<oneshot::Sender<Result<Ordered, String>>>,
    /// Since when.
    pub started: Mono,
}

/// Where a policy is put.
#[derive(Debug)]
pub enum Install {
    /// In charge.
    Activate(Newcomer),
    /// Beside the one in charge.
    Candidate(Newcomer, Rule),
    /// The candidate, in charge.
    Promote(Kind),
    /// The previous one, back in charge.
    Revert(Kind),
    /// The candidate, away.
    Drop(Kind),
}

/// A policy that was shown what it would have seen until a moment.
#[derive(Debug)]
pub struct Rehearsed {
    installing: Installing,
    rehearsal: Rehearsal,
    until: UnixMs,
}

impl Install {
    /// Of which slot.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Activate(new) | Self::Candidate(new, _) => new.seat.policy.kind,
            Self::Promote(kind) | Self::Revert(kind) | Self::Drop(kind) => *kind,
        }
    }
}

impl Controller {
    /// Begins to put a policy somewhere; whoever waits is answered when it is done or refused.
    pub(super) async fn install(&mut self, installing: Installing) {
        let kind = installing.what.kind();
        let newcomer = match self.newcomer(&installing.what) {
            Ok(newcomer) => newcomer,
            Err(why) => return answer(installing, Err(why)),
        };
        if self.installing.contains(&kind) {
            let why = format!("another {kind} policy is just being put in its seat; try again in a moment");
            return answer(installing, Err(why));
        }
        self.installing.insert(kind);
        let state = &self.state;
        let blank = Rehearsed { installing, rehearsal: Rehearsal::default(), until: UnixMs(u64::MAX) };
        match newcomer.filter(|_| Rehearsal::is_for(kind) && state.is_judged()) {
            None if !Rehearsal::is_for(kind) => self.seat_now(blank).await,
            None => self.seat_between_checks(blank).await,
            Some(policy) => {
                let (store, name, settled) = (self.parts.store.clone(), self.parts.name.clone(), self.settled.clone());
                let since = state.since;
                self.parts.tasks.spawn(async move {
                    let Rehearsed { installing, .. } = blank;
                    let (rehearsal, until) = rehearse(&store, &name, policy, since).await;
                    let rehearsed = Rehearsed { installing, rehearsal, until };
                    // The controller is gone when the host stops.
                    drop(settled.send(Settled::Rehearsed(Box::new(rehearsed))).await);
                });
            }
        }
    }

    /// The policy that has to be shown what happened; none if it knows.
    fn newcomer(&self, what: &Install) -> Result<Option<Arc<Policy>>, String> {
        let slot = self.parts.slots.get(what.kind());
        let kind = what.kind();
        match what {
            Install::Activate(new) => Ok(Some(Arc::clone(&new.seat.policy))),
            Install::Candidate(new, _) => match slot.seat() {
                Some(_) => Ok(Some(Arc::clone(&new.seat.policy))),
                None => Err(format!("no {kind} policy is in charge that a candidate could be compared with")),
            },
            Install::Promote(_) | Install::Drop(_) if slot.candidate().is_none() => {
                Err(format!("no {kind} policy is a candidate"))
            }
            Install::Promote(_) | Install::Drop(_) => Ok(None),
            Install::Revert(_) => match slot.previous() {
                Some(seat) => Ok(Some(Arc::clone(&seat.policy))),
                None => Err(format!("there is no previous {kind} policy to go back to; activate one")),
            },
        }
    }

    /// Waits for the end of the check under way, so that the newcomer misses none.
    pub(super) async fn seat_between_checks(&mut self, rehearsed: Rehearsed) {
        self.rehearsed.push(rehearsed);
        if !self.asking {
            self.seat_all().await;
        }
    }

    /// Seats those that wait.
    pub(super) async fn seat_all(&mut self) {
        for mut rehearsed in std::mem::take(&mut self.rehearsed) {
            let what = &rehearsed.installing.what;
            if let Install::Promote(kind) = what
                && let Some(candidate) = self.parts.slots.get(*kind).candidate()
            {
                let (memory, until) = candidate.memory.lock().clone();
                let known = Rehearsal::new(memory);
                rehearsed.rehearsal = self.catch_up(Arc::clone(&candidate.seat.policy), known, until).await;
            } else if let Ok(Some(policy)) = self.newcomer(what) {
                rehearsed.rehearsal = self.catch_up(policy, rehearsed.rehearsal, rehearsed.until).await;
            }
            self.seat_now(rehearsed).await;
        }
    }

    async fn seat_now(&mut self, rehearsed: Rehearsed) {
        let Rehearsed { installing, rehearsal, .. } = rehearsed;
        self.installing.remove(&installing.what.kind());
        let done = self.seat(&installing, rehearsal).await;
        self.show();
        answer(installing, done);
    }

    /// Shows a policy the checks that came while it was being shown the others.
    async fn catch_up(&self, policy: Arc<Policy>, mut rehearsal: Rehearsal, until: UnixMs) -> Rehearsal {
        let missed: Vec<_> = self.recent.iter().filter(|(check, _)| check.now_ms > until).cloned().collect();
        if missed.is_empty() || rehearsal.failed > 0 {
            return rehearsal;
        }
        let before = rehearsal.clone();
        let shown = self.parts.tasks.spawn_blocking(move || {
            let mut warm = policy.warm();
            for (check, verdict) in missed {
                rehearsal.show(policy.kind, &mut warm, &check, verdict);
                if rehearsal.failed > 0 {
                    break;
                }
            }
            rehearsal
        });
        shown.await.unwrap_or(before)
    }

    async fn seat(&mut self, installing: &Installing, rehearsal: Rehearsal) -> Result<Ordered, String> {
        let kind = installing.what.kind();
        let slot = self.parts.slots.get(kind);
        let from = slot.seat().map(|seat| seat.policy.digest().to_string());
        let shown =
            json!({ "checks": rehearsal.checks, "failed": rehearsal.failed, "first_failure": rehearsal.first_failure });
        let (verb, label, to) = match &installing.what {
            Install::Activate(new) => ("activate-policy", new.seat.label(), new.seat.policy.digest().to_string()),
            Install::Candidate(new, _) => ("candidate-policy", new.seat.label(), new.seat.policy.digest().to_string()),
            Install::Promote(_) => labelled("promote-policy", slot.candidate().map(|c| c.seat.clone()).as_ref()),
            Install::Drop(_) => labelled("drop-candidate", slot.candidate().map(|c| c.seat.clone()).as_ref()),
            Install::Revert(_) => labelled("revert-policy", slot.previous().as_deref()),
        };
        let mut detail = json!({ "kind": kind, "policy": label, "from": from, "to": to, "replayed": shown, "reason": installing.reason });
        let audited = self.audited(&installing.actor, verb, detail.clone());
        let done = match &installing.what {
            Install::Activate(new) => self.take_over(new, rehearsal.memory, &audited).await,
            Install::Candidate(new, rule) => self.stand_by(new, *rule, rehearsal.memory, &audited).await,
            Install::Promote(_) => self.promote(kind, rehearsal.memory, &audited).await,
            Install::Revert(_) => self.go_back(kind, rehearsal.memory, &audited).await,
            Install::Drop(_) => self.dismiss(kind, &audited).await,
        };
        done.map_err(|e| format!("nothing was changed: {}", chain(&e)))?;
        let takes_charge = !matches!(installing.what, Install::Candidate(..) | Install::Drop(_));
        if takes_charge {
            self.failing.remove(&kind);
        }
        if kind == Kind::Routing && !matches!(installing.what, Install::Drop(_)) {
            self.happen(Event::FlagsChanged, Cause::operator(&installing.actor, &installing.reason)).await;
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
        Ok(Ordered { message, detail })
    }

    async fn take_over(&self, new: &Newcomer, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        let kind = new.seat.policy.kind;
        let record = record(new, memory.clone(), audited);
        self.parts.store.activate(kind, &record, false, audited).await?;
        self.parts.slots.get(kind).activate(new.seat.clone(), memory);
        Ok(())
    }

    async fn stand_by(&self, new: &Newcomer, rule: Rule, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        let kind = new.seat.policy.kind;
        let record = SeatRecord { rule: Some(rule), ..record(new, memory.clone(), audited) };
        self.parts.store.set_candidate(kind, Some(&record), audited).await?;
        let candidate = Candidate::new(new.seat.clone(), rule, audited.at, memory, Evidence::default());
        self.parts.slots.get(kind).stand_by(Some(Arc::new(candidate)));
        Ok(())
    }

    async fn promote(&self, kind: Kind, memory: Vec<u8>, audited: &Audited) -> Result<(), StoreError> {
        let slot = self.parts.slots.get(kind);
        let Some(candidate) = slot.candidate() else { return Ok(()) };
        let stored = self.parts.store.seat(&self.parts.name, kind, Place::Candidate).await?;
        let Some(stored) = stored else { return Ok(()) };
        let record = SeatRecord {
            memory: memory.clone(),
            rule: None,
            evidence: None,
            since: audited.at,
            updated_by: audited.actor.clone(),
            ..stored
        };
        self.parts.store.activate(kind, &record, true, audited).await?;
        slot.stand_by(None);
        slot.activate(candidate.seat.clone(), memory);
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
        if self.installing.contains(&kind) || slot.seat().is_none() {
            return;
        }
        self.failing.remove(&kind);
        if slot.previous().is_some() {
            let started = clock::mono();
            let installing =
                Installing { what: Install::Revert(kind), actor: "host".into(), reason: why, reply: None, started };
            // Boxed, because a failing plan leads here and going back leads to a plan.
            return Box::pin(self.install(installing)).await;
        }
        let detail = json!({ "kind": kind, "from": slot.seat().map(|s| s.policy.digest().to_string()), "reason": why });
        let audited = self.audited("host", "hold-policy", detail);
        if let Err(error) = self.parts.store.hold_slot(kind, &why, &audited).await {
            tracing::error!(migration = self.parts.name, "a held slot is not on record: {}", chain(&error));
        }
        self.parts.slots.get(kind).hold(why.clone());
        if kind == Kind::Routing {
            // The last good plan stays, but the policy is not asked about requests any more.
            self.last_plan = self.last_plan.take().map(|(plan, _)| (plan, None));
            Box::pin(self.happen(Event::FlagsChanged, Cause::host())).await;
        }
        let message = format!("nobody is in charge of {kind} any more, and it holds: {why}; activate another policy");
        self.notice("policy-held", "critical", message, Vec::new());
    }

    /// Counts a policy's failure. The first of its cause within a minute is audited; too many put it out of charge.
    pub(super) async fn count_failure(&mut self, kind: Kind, digest: &str, error: &PolicyError) {
        let now = clock::unix_ms();
        if self.failures.count(kind, error, now) {
            tracing::error!(migration = self.parts.name, %kind, "the policy {error}");
            let detail = json!({ "kind": kind, "digest": digest, "error": error, "message": error.to_string() });
            let audited = self.audited("host", "policy-failed", detail);
            if let Err(error) = self.parts.store.audit(&audited).await {
                tracing::error!(%error, "a policy's failure could not be audited");
            }
        }
        let in_charge = self.parts.slots.get(kind).seat();
        if in_charge.is_none_or(|seat| **seat.policy.digest() != *digest) {
            return;
        }
        let patience = self.parts.patience;
        let recent = self.failing.entry(kind).or_default();
        recent.push_back(now);
        while recent.front().is_some_and(|at| now.since(*at) > patience.within) {
            recent.pop_front();
        }
        if recent.len() >= patience.failures {
            let within = humantime::format_duration(patience.within);
            let why = format!("it failed {} times within {within}; the last time it {error}", recent.len());
            self.give_up(kind, why).await;
        }
    }
}

/// Shows a policy the checks since the stage began.
async fn rehearse(store: &Store, migration: &str, policy: Arc<Policy>, since: UnixMs) -> (Rehearsal, UnixMs) {
    let (mut rehearsal, mut until, mut after) = (Rehearsal::default(), UnixMs(0), 0);
    loop {
        let page = match store.checks(migration, since, UnixMs(u64::MAX), after, PAGE).await {
            Ok(page) => page,
            Err(error) => {
                tracing::error!(migration, "recorded checks cannot be replayed: {}", chain(&error));
                return (rehearsal, until);
            }
        };
        let Some(last) = page.last() else { return (rehearsal, until) };
        (after, until) = (last.id, last.now_ms);
        let (asked, before) = (Arc::clone(&policy), rehearsal.clone());
        let shown = tokio::task::spawn_blocking(move || {
            let mut warm = asked.warm();
            for stored in page {
                match stored.read() {
                    Ok(Recorded { check, verdict, .. }) => rehearsal.show(asked.kind, &mut warm, &check, verdict),
                    Err(error) => tracing::error!(%error, "a recorded check cannot be read"),
                }
                if rehearsal.failed >= ENOUGH_FAILURES {
                    break;
                }
            }
            rehearsal
        });
        rehearsal = shown.await.unwrap_or(before);
        if rehearsal.failed >= ENOUGH_FAILURES {
            return (rehearsal, UnixMs(u64::MAX));
        }
    }
}

fn record(new: &Newcomer, memory: Vec<u8>, audited: &Audited) -> SeatRecord {
    SeatRecord {
        title: new.seat.title.clone(),
        digest: new.seat.policy.digest().to_string(),
        wasi_stub: new.seat.wasi_stub,
        settings: new.seat.policy.settings.to_string(),
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

fn labelled(verb: &'static str, seat: Option<&Seat>) -> (&'static str, String, String) {
    let digest = seat.map_or_else(String::new, |seat| seat.policy.digest().to_string());
    (verb, seat.map_or_else(String::new, Seat::label), digest)
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

fn answer(installing: Installing, done: Result<Ordered, String>) {
    match installing.reply {
        // Whoever asked may have gone; what was done is on record.
        Some(reply) => drop(reply.send(done)),
        None => {
            if let Err(why) = done {
                tracing::error!("{why}");
            }
        }
    }
}
