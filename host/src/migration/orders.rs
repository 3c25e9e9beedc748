//! What operators ask of a controller, and what it answers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    controller::Controller,
    effects::Cause,
    handle::{Activation, Command, Ordered, Verb},
    state::{Event, Order, State},
};
use crate::{
    clock,
    policy::port::{Action, Kind, Progress, Verdict},
    stage,
    store::records::SlotRecord,
};

impl Controller {
    pub(super) async fn command(&mut self, command: Command) {
        let Command { verb, actor, reason, reply } = command;
        let answer = match verb {
            Verb::SetFlag(flag, value) => self.set_flag(&flag, value, &actor, &reason).await,
            Verb::Activate(activation) => self.activate(*activation, &actor, &reason).await,
            Verb::Pause => self.order(Order::Pause, &actor, &reason).await,
            Verb::Resume => self.order(Order::Resume, &actor, &reason).await,
            Verb::Rollback => self.order(Order::Rollback, &actor, &reason).await,
            Verb::EmergencyRollback => self.order(Order::EmergencyRollback, &actor, &reason).await,
            Verb::Advance => match self.next_stage().await {
                Ok(action) => self.order(Order::Advance(action), &actor, &reason).await,
                Err(why) => Err(why),
            },
        };
        self.show();
        // Whoever asked may have gone; what was done is on record.
        drop(reply.send(answer));
    }

    async fn order(&mut self, order: Order, actor: &str, reason: &str) -> Result<Ordered, String> {
        let cause = Cause::operator(actor, reason);
        if let Some(why) = self.happen(Event::Ordered(order), cause).await {
            return Err(why);
        }
        let State { phase, stage, share, .. } = self.state;
        let message = format!("{} is {phase}, stage {stage}, with {share} on V2", self.parts.name);
        Ok(Ordered { message, detail: Value::Null })
    }

    /// Asks the stages policy what comes next, without its waiting for soak or evidence.
    async fn next_stage(&mut self) -> Result<Action, String> {
        if !self.state.is_staged() {
            // The step itself refuses, with the phase.
            return Ok(Action::Hold);
        }
        let progress = Progress { check: self.check(Vec::new()), verdict: Verdict::Healthy, forced: true };
        let slots = Arc::clone(&self.parts.slots);
        let asked = self.parts.tasks.spawn_blocking(move || stage::next(&slots, &progress)).await;
        let answered = asked.map_err(|e| e.to_string())?.ok_or("no stages policy is in charge")?;
        answered.answer.map(|next| next.action).map_err(|error| format!("the stages policy {error}"))
    }

    async fn set_flag(&mut self, flag: &str, value: Value, actor: &str, reason: &str) -> Result<Ordered, String> {
        let mut flags = self.parts.flags.clone();
        flags.set(flag, value.clone()).map_err(|e| e.to_string())?;
        let detail = serde_json::json!({ "flag": flag, "value": value, "reason": reason });
        let audited = self.audited(actor, "set-flag", detail);
        let stored = self.parts.store.set_flag(flag, &value, &audited).await;
        stored.map_err(|e| format!("the flag was not set: {}", crate::causes::chain(&e)))?;
        self.parts.flags = flags;
        self.happen(Event::FlagsChanged, Cause::operator(actor, reason)).await;
        Ok(Ordered { message: format!("{flag} is {value}"), detail: Value::Null })
    }

    /// Puts a policy in charge: on record first, then for the next question.
    async fn activate(&mut self, new: Activation, actor: &str, reason: &str) -> Result<Ordered, String> {
        let Activation { policy, component, configured } = new;
        let started = clock::mono();
        let (kind, digest) = (policy.kind, policy.digest().to_string());
        let from = self.parts.slots.get(kind).active().map(|p| p.digest().to_string());
        let record = SlotRecord {
            digest: digest.clone(),
            settings: policy.settings.to_string(),
            configured,
            memory: Vec::new(),
            updated_by: actor.into(),
            component,
        };
        let detail = json!({ "kind": kind, "from": from, "to": digest, "reason": reason });
        let audited = self.audited(actor, "activate-policy", detail.clone());
        let stored = self.parts.store.activate(kind, &record, &audited).await;
        stored.map_err(|e| format!("the policy was not put in charge: {}", crate::causes::chain(&e)))?;
        self.parts.slots.get(kind).activate(policy, Vec::new());
        if kind == Kind::Routing {
            self.happen(Event::FlagsChanged, Cause::operator(actor, reason)).await;
        }
        let took_us = u64::try_from(clock::mono().since(started).as_micros()).unwrap_or(u64::MAX);
        let message = format!("{kind} of {} is now {}", self.parts.name, digest.get(..12).unwrap_or(&digest));
        self.notice("policy-activated", "info", format!("{message}: {reason}"), Vec::new());
        Ok(Ordered { message, detail: json!({ "kind": kind, "from": from, "to": digest, "swap_us": took_us }) })
    }
}
