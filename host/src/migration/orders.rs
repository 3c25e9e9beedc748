//! What operators ask of a controller, and what it answers.

use std::sync::Arc;

use serde_json::Value;

use super::{
    controller::Controller,
    effects::Cause,
    handle::{Command, Ordered, Verb},
    seats::Installing,
    state::{Event, Order, State},
    withhold::V1,
};
use crate::{
    clock,
    policy::port::{Action, Progress, Verdict},
    stage,
};

impl Controller {
    pub(super) async fn command(&mut self, command: Command) {
        let Command { verb, actor, reason, reply } = command;
        let answer = match verb {
            Verb::Install(what) => {
                let installing = Installing { what: *what, actor, reason, reply: Some(reply), started: clock::mono() };
                return self.install(installing).await;
            }
            Verb::SetFlag(flag, value) => self.set_flag(&flag, value, &actor, &reason).await,
            Verb::Pause => self.order(Order::Pause, &actor, &reason).await,
            Verb::Resume => self.order(Order::Resume, &actor, &reason).await,
            Verb::Rollback => self.order(Order::Rollback, &actor, &reason).await,
            Verb::EmergencyRollback => self.order(Order::EmergencyRollback, &actor, &reason).await,
            Verb::AdvanceWithoutV1 => self.order(Order::AdvanceWithoutV1, &actor, &reason).await,
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
        let mut message = format!("{} is {phase}, stage {stage}, with {share} on V2", self.parts.name);
        if self.state.needs_v1() && self.facts().v1 != V1::Serves {
            message.push_str("; V1 is down: whoever is on it gets errors until it is back");
        }
        Ok(Ordered { message, detail: Value::Null })
    }

    /// Asks the stages policy what comes next, without its waiting for soak or evidence.
    async fn next_stage(&mut self) -> Result<Action, String> {
        if !self.state.is_staged() {
            // The step itself refuses, with the phase.
            return Ok(Action::Hold);
        }
        let progress = Progress { check: self.check(Vec::new()), verdict: Verdict::Healthy, forced: true };
        let asked_about = progress.clone();
        let slots = Arc::clone(&self.parts.slots);
        let asked = self.parts.tasks.spawn_blocking(move || stage::next(&slots, &progress)).await;
        let answered = asked.map_err(|e| e.to_string())?.ok_or("no stages policy is in charge")?;
        self.log_stage(&answered, &asked_about);
        answered.asked.answer.map(|next| next.action).map_err(|error| format!("the stages policy {error}"))
    }

    async fn set_flag(&mut self, flag: &str, value: Value, actor: &str, reason: &str) -> Result<Ordered, String> {
        let mut flags = self.parts.flags.clone();
        flags.set(flag, value.clone()).map_err(|e| e.to_string())?;
        let detail = serde_json::json!({ "flag": flag, "value": value, "reason": reason });
        let audited = self.audited(actor, "set-flag", detail);
        let stored = self.parts.store.set_flag(flag, &value, &audited).await;
        stored.map_err(|e| format!("the flag was not set: {}", crate::causes::chain(&e)))?;
        self.parts.flags = flags;
        self.switch_pools();
        self.happen(Event::FlagsChanged, Cause::operator(actor, reason)).await;
        Ok(Ordered { message: format!("{flag} is {value}"), detail: Value::Null })
    }
}
