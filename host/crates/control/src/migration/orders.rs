//! What operators ask of a controller, and what it answers.

use std::sync::Arc;

use serde_json::Value;

use super::{
    controller::{Controller, V2Calls},
    effects::Cause,
    flags::FlagError,
    handle::{Code, Command, CommandKind, CommandReply, Declined},
    withhold::V1,
};
use crate::migration::{
    event::{Event, Transition},
    install::PendingInstall,
    stage,
};
use cutover_model::{
    clock,
    port::{Action, Phase, Progress, Verdict},
    request::Ppm,
};
use cutover_policy_host::PolicyError;
use cutover_store::state::State;

impl Controller {
    pub(super) async fn command(&mut self, command: Command) {
        let Command { verb, actor, reason, at, reply } = command;
        let answer = match verb {
            // Given twice at once, by two people or by a client that tries again, it is one step.
            CommandKind::Advance | CommandKind::Retreat(None) if at < self.course.moved_at => Err(self.moved()),
            CommandKind::Install(what) => {
                let installing =
                    PendingInstall { what: *what, actor, reason, reply: Some(reply), started: clock::mono() };
                return self.install(installing).await;
            }
            CommandKind::SetFlag(flag, value) => self.set_flag(&flag, value, &actor, &reason).await,
            CommandKind::Pause => self.order(Transition::Pause, &actor, &reason).await,
            CommandKind::Resume => self.order(Transition::Resume, &actor, &reason).await,
            CommandKind::Rollback => self.order(Transition::Rollback, &actor, &reason).await,
            CommandKind::EmergencyRollback => self.order(Transition::EmergencyRollback, &actor, &reason).await,
            CommandKind::AdvanceWithoutV1 => self.order(Transition::AdvanceWithoutV1, &actor, &reason).await,
            CommandKind::AdvanceTo(share) => self.order(Transition::AdvanceTo(share), &actor, &reason).await,
            CommandKind::Retreat(to) => self.order(Transition::Retreat(to), &actor, &reason).await,
            CommandKind::Redeploy => self.order(Transition::Redeploy, &actor, &reason).await,
            CommandKind::Redeployed => self.redeployed(&actor, &reason).await,
            CommandKind::Accept(operation) => self.accept(&operation, &actor, &reason).await,
            CommandKind::Advance => match self.next_stage().await {
                Ok(action) => self.order(Transition::Advance(action), &actor, &reason).await,
                Err(why) => Err(why),
            },
        };
        self.show();
        // Whoever asked may have gone; what was done is on record.
        drop(reply.send(answer));
    }

    fn moved(&self) -> Declined {
        let State { phase, share, .. } = self.state;
        let message = format!(
            "{} moved after this was asked for, and is {phase} now, with {share} on V2, so nothing was done; if it is to go on \
             from there, ask again",
            self.parts.name
        );
        Declined::new(Code::Moved, message)
    }

    async fn order(&mut self, order: Transition, actor: &str, reason: &str) -> Result<CommandReply, Declined> {
        let cause = Cause::operator(actor, reason);
        if let Some(why) = self.apply(Event::Ordered(order), cause).await {
            return Err(why);
        }
        if let Err(error) = self.parts.store.is_known().await {
            tracing::warn!("the store does not note that people know it: {}", cutover_model::causes::chain(&error));
        }
        // The effect is there; the answer says that it stays.
        let unmarked = match order {
            Transition::Rollback | Transition::EmergencyRollback => self.marked().await,
            Transition::Pause
            | Transition::Resume
            | Transition::Advance(_)
            | Transition::AdvanceTo(_)
            | Transition::AdvanceWithoutV1
            | Transition::Retreat(_)
            | Transition::Redeploy => None,
        };
        let State { phase, share, .. } = self.state;
        let mut message = format!("{} is {phase}, with {share} on V2", self.parts.name);
        if self.state.needs_v1() && self.facts().v1 != V1::Serves {
            message.push_str("; V1 is down: whoever is on it gets errors until it is back");
        } else if let Some(next) = what_next(&self.state, &self.parts.name) {
            message.push_str(&next);
        }
        if let Some(unmarked) = unmarked {
            message.push_str("; ");
            message.push_str(&unmarked);
        }
        Ok(CommandReply { message, detail: Value::Null })
    }

    /// Asks the stages policy what comes next, without its waiting for soak or evidence.
    async fn next_stage(&mut self) -> Result<Action, Declined> {
        if !self.state.is_staged() {
            // The step itself refuses, with the phase.
            return Ok(Action::Hold);
        }
        let progress = Progress { check: self.check(Vec::new()), verdict: Verdict::Healthy, forced: true };
        let asked_about = progress.clone();
        let slots = Arc::clone(&self.parts.slots);
        let asked = self.parts.tasks.spawn_blocking(move || stage::next(&slots, &progress)).await;
        let asked = asked.map_err(|e| Declined::new(Code::Refused, e.to_string()))?;
        let nobody = || Declined::new(Code::NotFound, "no stages policy is in charge; activate one");
        let answered = asked.ok_or_else(nobody)?;
        self.log_stage(&answered, &asked_about);
        let failed =
            |error: PolicyError| Declined::new(Code::Policy(error.cause()), format!("the stages policy {error}"));
        answered.asked.answer.map(|next| next.action).map_err(failed)
    }

    /// V2's upstreams were replaced, as whoever did it says.
    async fn redeployed(&mut self, actor: &str, reason: &str) -> Result<CommandReply, Declined> {
        let wrong = |why: &str| Declined::new(Code::WrongPhase, why);
        if !self.state.redeploys {
            return Err(wrong("V2 is not being replaced; `redeploy` without `--done` begins that"));
        }
        if self.parts.split.v2.workers().is_some() {
            return Err(wrong(
                "V2's workers are started anew by the host, which goes on by itself when they are ready",
            ));
        }
        if self.pools.v2_calls == V2Calls::UnderWay && !self.parts.split.v2.is_open() {
            return Err(wrong("V2 still has calls in flight; try again in a moment"));
        }
        let audited = self.audited(actor, "redeployed", serde_json::json!({ "reason": reason }));
        let stored = self.parts.store.audit(&audited).await;
        stored.map_err(|e| Declined::new(Code::NotRecorded, cutover_model::causes::chain(&e)))?;
        self.await_v2();
        let message = format!(
            "V2 of {} gets {} again as soon as it is ready; `cutover status` says what it waits for",
            self.parts.name, self.state.share
        );
        Ok(CommandReply { message, detail: Value::Null })
    }

    /// The differences of an operation that were seen so far are known and accepted: they hold nobody any more.
    async fn accept(&mut self, operation: &str, actor: &str, reason: &str) -> Result<CommandReply, Declined> {
        let pairs = Arc::clone(self.parts.split.recorder.pairs());
        let totals = pairs.totals();
        // What was found before the host started holds as well, and is known to the stages policy alone.
        let known = &self.parts.split.operations;
        let Some((operation, _)) = known.get_key_value(operation) else {
            let known: Vec<_> = known.keys().map(|name| format!("`{name}`")).collect();
            let message = format!("there is no operation `{operation}`; there are {}", known.join(", "));
            return Err(Declined::new(Code::NotFound, message));
        };
        let different = totals.get(operation).map_or(0, |fates| fates.different);
        let detail = serde_json::json!({ "operation": operation, "different": different, "reason": reason });
        let audited = self.audited(actor, "accept-differences", detail.clone());
        let stored = self.parts.store.audit(&audited).await;
        stored.map_err(|e| Declined::new(Code::NotRecorded, cutover_model::causes::chain(&e)))?;
        pairs.accept(operation);
        let message = format!(
            "what differed of {operation} so far is accepted, {different} pair(s) since the host started and whatever is on \
             record from before: it holds nothing any more, and what differs from now on does"
        );
        self.parts.notifier.notify_of_order(self.made(
            "differences-accepted",
            "info",
            format!("{message}: {reason}"),
            Vec::new(),
        ));
        Ok(CommandReply { message, detail })
    }

    async fn set_flag(
        &mut self,
        flag: &str,
        value: Value,
        actor: &str,
        reason: &str,
    ) -> Result<CommandReply, Declined> {
        let mut flags = self.parts.flags.clone();
        flags.set(flag, value.clone()).map_err(|e| {
            let code = if matches!(e, FlagError::Unknown(_)) { Code::UnknownFlag } else { Code::WrongFlag };
            Declined::new(code, e.to_string())
        })?;
        let weakens = flags.off().into_iter().find(|off| off.flag == flag && off.weakens());
        if let Some(off) = weakens.as_ref().filter(|_| reason.trim().is_empty()) {
            let message = format!("say why (`--reason`): with `{flag}` off, {}", off.meaning);
            return Err(Declined::new(Code::NoReason, message));
        }
        let limits = ["pool_v2_enabled", "gradual_rollout_percentage"].contains(&flag);
        if limits && self.parts.split.v1.is_absent() && flags.max_for_v2() < Ppm::ALL {
            let why =
                "the flag was not set: the configuration has no V1, so whoever is kept from V2 is served by nobody";
            return Err(Declined::new(Code::WrongFlag, why));
        }
        let detail = serde_json::json!({ "flag": flag, "value": value, "reason": reason });
        let audited = self.audited(actor, "set-flag", detail);
        let stored = self.parts.store.set_flag(flag, &value, &audited).await;
        stored.map_err(|e| {
            Declined::new(Code::NotRecorded, format!("the flag was not set: {}", cutover_model::causes::chain(&e)))
        })?;
        self.parts.flags = flags;
        self.switch_pools();
        self.apply(Event::FlagsChanged, Cause::operator(actor, reason)).await;
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let (severity, means) = match weakens {
            Some(off) => ("warning", format!("; {}", off.meaning)),
            None => ("info", String::new()),
        };
        let notice =
            self.made("flag-set", severity, format!("{actor} set `{flag}` to {value}{means}{why}"), Vec::new());
        if severity == "info" {
            self.parts.notifier.notify_of_order(notice);
        } else {
            self.parts.notifier.notify(notice);
        }
        Ok(CommandReply { message: format!("{flag} is {value}{means}"), detail: Value::Null })
    }
}

/// What whoever ordered something may want to know next.
fn what_next(state: &State, name: &str) -> Option<String> {
    Some(match state.phase {
        _ if state.redeploys => {
            format!("; V1 has V2's callers until it is back, and `cutover status {name}` says what it waits for")
        }
        Phase::Preparing => format!("; it goes on by itself when V2 is ready (`cutover wait {name} --for shadow`)"),
        Phase::Paused => "; `resume` goes on".into(),
        Phase::RolledBack => "; `resume` begins again".into(),
        Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Decommissioned => return None,
    })
}
