//! The round trip of a check: the policies are asked on a blocking thread, and their answers become events.
//!
//! What was asked and answered is kept in the order in which it happened, off the controller's path. An answer about a
//! state that is gone changes nothing.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{
    controller::{Controller, MAX_PENDING},
    effects::Cause,
    rails,
    snapshot::Judged,
    step, told,
};
use crate::migration::{
    event::Event,
    judge::{self, Answered},
    stage,
};
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Finding},
    port::{Action, Check, Judgement, Kind, Move, Progress, Verdict},
    request::Ppm,
};
use cutover_policy_host::{
    evaluation::Job,
    record::{Call, Question, Role},
    slot::Slots,
};
use cutover_store::slots::{Remembered, SlotRole};

/// Checks that are kept to show to a policy that takes over, after it was shown those in the store: more than pass while
/// it is shown those.
const RECENT: usize = 128;

/// What became of a check.
pub(super) struct Checked {
    epoch: u64,
    check: Check,
    /// So many of its batches, the oldest, were in an earlier check.
    repeated: usize,
    judged: Option<Answered<Judgement>>,
    staged: Option<Answered<Move>>,
}

/// Batches that were in questions which the rollback policy failed: the oldest of those that wait. They are on record.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// How many batches these are.
    pub(super) count: usize,
    /// When the oldest of them began, and of those that it is just asked about again.
    pub(super) from: Option<UnixMs>,
    /// How many batches it is asked about at most until it has answered them.
    fewer: Option<usize>,
}

impl Controller {
    /// Asks the policies on a blocking thread; false if there is nothing to ask.
    pub(super) async fn ask(&mut self, answers: &mpsc::Sender<Option<Checked>>) -> bool {
        if self.plan.stale.is_some() {
            self.apply(Event::FlagsChanged, Cause::host()).await;
        }
        self.distrust().await;
        self.questions.behind = false;
        if !self.state.is_judged() || self.parts.store.refuses().is_some() {
            let batches = self.take_unrecorded();
            self.keep(batches, None, Vec::new());
            return false;
        }
        let mut batches = std::mem::take(&mut self.questions.pending);
        self.questions.pending = judge::set_aside(&self.parts.name, &self.parts.slots, &mut batches);
        if let Some(fewer) = self.questions.owed.fewer.filter(|fewer| *fewer < batches.len()) {
            self.questions.pending.splice(..0, batches.split_off(fewer));
        }
        let repeated = self.questions.owed.count.min(batches.len());
        self.questions.owed.count -= repeated;
        self.questions.behind = !self.questions.pending.is_empty();
        let behind = self.questions.behind;
        let check = self.check(batches);
        let (epoch, staged, slots) = (self.course.epoch, self.state.is_staged(), Arc::clone(&self.parts.slots));
        let staged = staged && self.trust.distrusted.is_none();
        let asked = self.parts.tasks.spawn_blocking(move || {
            let judged = judge::judge(&slots, &check);
            let verdict = judge::verdict(judged.as_ref());
            // Without a judge nobody would notice a bad V2, so nobody is asked for more of it; nor while the judge has yet
            // to see what came last.
            let has_verdict = judged.as_ref().is_some_and(|answered| answered.asked.answer.is_ok());
            let ask_stages = staged && has_verdict && !behind && verdict != Verdict::RollBack;
            let progress = Progress { check, verdict, forced: false };
            let staged = ask_stages.then(|| stage::next(&slots, &progress)).flatten();
            Checked { epoch, check: progress.check, repeated, judged, staged }
        });
        let answers = answers.clone();
        self.parts.tasks.spawn(async move {
            let checked = asked.await.map_err(|error| tracing::error!(%error, "a check panicked")).ok();
            // The controller is gone when the host stops.
            drop(answers.send(checked).await);
        });
        true
    }

    /// What policies are asked about. No two checks are of the same moment: by that they are known in the records.
    pub(super) fn check(&mut self, batches: Vec<Batch>) -> Check {
        self.questions.last_check = self.parts.clock.now().after(self.questions.last_check);
        Check {
            now_ms: self.questions.last_check,
            phase: self.state.in_force(),
            stage: self.state.stage,
            share: self.state.share,
            stage_started_ms: self.state.since,
            batches,
        }
    }

    /// Takes the policies' answers as events, unless the state that they are about is gone.
    pub(super) async fn on_check_finished(&mut self, checked: Checked) {
        let Checked { epoch, check, repeated, judged, staged } = checked;
        let verdict = judged.as_ref().and_then(|answered| answered.asked.answer.as_ref().ok()).map(|j| j.verdict);
        let progress = |verdict| Progress { check: check.clone(), verdict, forced: false };
        let judged_call = judged.as_ref().map(|a| record(a, Question::Rollback(check.clone())));
        let staged_call = staged.as_ref().zip(verdict).map(|(a, v)| record(a, Question::Stages(progress(v))));
        let calls = [&judged_call, &staged_call].into_iter().flatten().cloned().collect();
        let fresh = check.batches.get(repeated..).unwrap_or_default().to_vec();
        self.keep(fresh, Some((check.clone(), verdict)), calls);
        self.take_back(&check, judged.as_ref().map(|answered| answered.asked.answer.is_ok()));
        // What it failed is shown again with the next question, and then to candidates, too: to each once.
        if let Some(answered) = judged.as_ref().filter(|answered| answered.asked.answer.is_ok()) {
            self.parts.evaluations.submit(Kind::Rollback, || Job::Judged(check.clone(), answered.asked.clone()));
        }
        if let Some((answered, verdict)) = staged.as_ref().zip(verdict) {
            self.parts.evaluations.submit(Kind::Stages, || Job::Staged(progress(verdict), answered.asked.clone()));
        }
        let (now, owes) = (self.parts.clock.up(), self.questions.owed.count > 0);
        match judged.as_ref().map(|answered| &answered.asked.answer) {
            Some(Ok(_)) => self.guard.judge.answered(now, had_calls(&check), owes),
            Some(Err(error)) => self.guard.judge.failed(now, format!("the rollback policy {error}")),
            None => self.guard.judge.is_missing(now, judge::nobody().note),
        }
        match staged.as_ref().map(|answered| &answered.asked.answer) {
            Some(Ok(_)) => self.guard.stages.answered(now, true, false),
            Some(Err(error)) => self.guard.stages.failed(now, format!("the stages policy {error}")),
            None => {}
        }
        if epoch != self.course.epoch {
            return;
        }
        if judged.is_none() {
            self.shows.waiting_for = vec![judge::nobody()];
        }
        if let Some(answered) = judged {
            if let Err(error) = &answered.asked.answer {
                self.shows.waiting_for = vec![judge::failure(error)];
                self.count_failure(Kind::Rollback, Some(&answered.installed.policy), error).await;
            }
            let judgement = answered.asked.answer.clone().unwrap_or_else(|error| Judgement {
                verdict: Verdict::Hold,
                findings: vec![judge::failure(&error)],
                evidence: 0,
            });
            let Judgement { verdict, findings, evidence } = judgement;
            let news = self.shows.told.of_judge(verdict, &findings, now);
            self.tell_of("warning", "the judge warns of V2", news);
            self.shows.verdict = Some(Judged { at: check.now_ms, verdict, findings, evidence });
            let cause = Cause::policy(&answered, judged_call, answered.at);
            self.apply(judge::event(&answered), cause).await;
        }
        let Some(answered) = staged.filter(|_| epoch == self.course.epoch) else { return };
        if let Err(error) = &answered.asked.answer {
            self.count_failure(Kind::Stages, Some(&answered.installed.policy), error).await;
        }
        if let Event::Moved { findings, action } = stage::event(&answered) {
            let has_callers = self.state.share > Ppm::ZERO;
            let news = self.shows.told.of_stages(has_callers && action == Action::Hold, &findings, now);
            self.tell_of("held", "the share is held", news);
            let held = step::held(&self.state, action, self.max_for_v2(), self.parts.clock.now());
            let rail = self.rail(action, verdict.unwrap_or(Verdict::Hold));
            let is_held = rail.is_some();
            self.shows.waiting_for = held.or(rail).map_or(findings, |held| vec![held]);
            if is_held {
                return;
            }
        }
        let cause = Cause::policy(&answered, staged_call, answered.at);
        self.apply(stage::event(&answered), cause).await;
    }

    /// Tells people of findings, if there are any.
    fn tell_of(&self, event: &str, what: &str, findings: Vec<Finding>) {
        if !findings.is_empty() {
            self.notice(event, "warning", format!("{what}: {}", told::sentence(&findings)), findings);
        }
    }

    /// Why the host does not raise the share as a policy wants.
    fn rail(&self, action: Action, verdict: Verdict) -> Option<Finding> {
        let totals = self.parts.split.recorder.pairs().totals();
        let facts = rails::Facts {
            verdict,
            compared: totals.values().map(|fates| fates.compared).sum(),
            now: self.parts.clock.now(),
            wall: self.parts.clock.wall(),
        };
        self.parts.rails.holds(&self.state, action, facts)
    }

    /// Batches that wait for a check and are not on record yet; those that are go.
    pub(super) fn take_unrecorded(&mut self) -> Vec<Batch> {
        let owed = std::mem::take(&mut self.questions.owed).count.min(self.questions.pending.len());
        self.questions.pending.drain(..owed);
        std::mem::take(&mut self.questions.pending)
    }

    /// Only an answer makes batches seen: those of a question that failed are shown again, before what came since. In half
    /// as many at once, so that a question that was too much is not for ever; `behind` stays until all are answered, and
    /// so nobody is asked to raise the share. None says that nobody was there to be asked.
    fn take_back(&mut self, check: &Check, is_answered: Option<bool>) {
        let (asked, owed) = (check.batches.len(), &mut self.questions.owed);
        if is_answered != Some(false) {
            owed.fewer = owed.fewer.filter(|_| owed.count > 0).map(|fewer| fewer.saturating_mul(2));
            owed.from = self.questions.pending.first().filter(|_| owed.count > 0).map(|batch| batch.start_ms);
            return;
        }
        owed.count += asked;
        owed.from = owed.from.or_else(|| check.batches.first().map(|batch| batch.start_ms));
        owed.fewer = if owed.count > 0 { Some((asked / 2).max(1)) } else { None };
        // Not at once: it would fail again.
        self.questions.behind = false;
        self.questions.pending.splice(..0, check.batches.iter().cloned());
        let too_many = self.questions.pending.len().saturating_sub(MAX_PENDING);
        self.questions.pending.drain(..too_many);
        owed.count = owed.count.saturating_sub(too_many);
    }

    /// Keeps history, the log and memories, off the controller's path: what is lost here is history, not state.
    pub(super) fn keep(&mut self, batches: Vec<Batch>, check: Option<(Check, Option<Verdict>)>, calls: Vec<Call>) {
        if let Some(check) = &check {
            if self.questions.recent.len() >= RECENT {
                self.questions.recent.pop_front();
            }
            self.questions.recent.push_back(check.clone());
        }
        if self.parts.store.refuses().is_some() {
            drop(self.parts.split.recorder.take_marks(batches.len() + std::mem::take(&mut self.questions.dropped)));
            return;
        }
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let remembered = remembered(&self.parts.slots);
        let recording = self.records.recording.clone();
        recording.begin();
        // Those of batches that nobody was asked about go with them: their sessions are new once more.
        let sessions =
            self.parts.split.recorder.take_marks(batches.len() + std::mem::take(&mut self.questions.dropped));
        self.in_turn(async move {
            let kept = async {
                store.record_metrics(&name, &batches).await?;
                if let Some((check, verdict)) = check {
                    store.record_check(&name, &check, verdict, &sessions).await?;
                }
                store.log_calls(&name, &calls).await?;
                store.remember(&name, remembered).await
            };
            let kept = kept.await;
            recording.end(kept.as_ref().copied());
            if let Err(error) = kept {
                tracing::error!(migration = name, "history is not kept: {}", cutover_model::causes::chain(&error));
            }
        });
    }

    /// Writes in the order in which things happened: the log is read in that order, and what a policy remembered before
    /// must not replace what it remembers now.
    pub(super) fn in_turn(&mut self, write: impl Future<Output = ()> + Send + 'static) {
        let before = self.records.writing.take();
        self.records.writing = Some(self.parts.records.spawn(async move {
            if let Some(before) = before {
                // One that panicked has ended, too.
                drop(before.await);
            }
            write.await;
        }));
    }

    /// Logs calls that no check is behind.
    pub(super) fn log(&mut self, call: Call) {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        self.in_turn(async move {
            if let Err(error) = store.log_calls(&name, &[call]).await {
                tracing::error!(migration = name, "a call is not on record: {}", cutover_model::causes::chain(&error));
            }
        });
    }

    /// Removes what is known of sessions in stages that are over.
    pub(super) fn forget_sessions(&mut self) {
        let (store, name) = (self.parts.store.clone(), self.parts.name.clone());
        let stage = self.parts.split.recorder.stage();
        self.in_turn(async move {
            if let Err(error) = store.forget_sessions(&name, stage).await {
                tracing::warn!(migration = name, "old sessions are kept: {}", cutover_model::causes::chain(&error));
            }
        });
    }

    /// Logs an operator's question to the stages policy.
    pub(super) fn log_stage(&mut self, answered: &Answered<Move>, progress: &Progress) {
        self.log(record(answered, Question::Stages(progress.clone())));
    }
}

/// Whether V2 was called.
fn had_calls(check: &Check) -> bool {
    check.batches.iter().flat_map(|batch| &batch.operations).any(|o| o.v2.requests > 0 || o.shadow.requests > 0)
}

/// The record of an answer that counts.
fn record<T: serde::Serialize>(answered: &Answered<T>, question: Question) -> Call {
    let at = question.now().unwrap_or_default();
    Call::of(at, Role::Active, &answered.installed, question, answered.memory.clone(), &answered.asked)
}

/// What the policies in charge and their candidates remember now.
fn remembered(slots: &Slots) -> Vec<Remembered> {
    let active = slots.iter().filter_map(|(_, slot)| {
        let (installed, memory) = slot.question()?;
        Some(Remembered::of(SlotRole::Active, &*installed.policy, memory, None))
    });
    let candidates = slots.iter().filter_map(|(_, slot)| {
        let candidate = slot.candidate()?;
        let (memory, _) = candidate.memory.lock().clone();
        let evidence = Some(candidate.evidence.lock().clone());
        Some(Remembered::of(SlotRole::Candidate, &*candidate.installed.policy, memory, evidence))
    });
    active.chain(candidates).collect()
}
