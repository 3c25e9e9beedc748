//! What the controller does each second: looks at the clock, ends the batch, and stands guard over V2
//! ([`failsafe`](super::failsafe)).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde_json::json;

use super::{
    controller::Controller,
    effects::Cause,
    failsafe::{Facts, Fault, Said},
    snapshot::{ClockShown, ClockStep},
};
use crate::migration::event::Event;
use cutover_model::{
    clock::{
        Mono,
        timeline::{Clock, Looked},
    },
    port::{Kind, Phase},
    request::Ppm,
};

/// How long an answer or a record may take beyond two checks before it is late.
const LATE: Duration = Duration::from_secs(5);

/// Every so many seconds it is looked whether a rollback still has its marker.
const KEEP_MARKER: u32 = 10;

/// Steps of the wall clock that come closer than this are on record as one.
const STEPS_APART: Duration = Duration::from_mins(1);

/// Failures in a row on questions with something in them, after which an answer to a question with nothing in it does not
/// count: some policies fail just when there is something to see.
const FAILS_WHEN_IT_MATTERS: u32 = 2;

/// How a policy that is asked at each check answered last.
#[derive(Debug)]
pub(super) struct Liveness {
    answered: Mono,
    failing: Option<Fault>,
    failures: u32,
}

/// Whether the store takes what is handed to it, as those see it who write.
#[derive(Debug, Clone)]
pub(super) struct Recording {
    writes: Arc<Mutex<Writes>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct Writes {
    /// When those began that are under way or wait for their turn.
    waiting: VecDeque<Mono>,
    failing: Option<Fault>,
}

/// The steps of the wall clock.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// How many milliseconds it stepped since the last batch.
    pub(super) in_batch: i64,
    count: u64,
    last: Option<ClockStep>,
    /// When they were put on record last, and what came since.
    recorded: Option<Mono>,
    unrecorded: i64,
    /// The times in which the host did not run, and those of them that are not on record yet.
    gaps: u64,
    last_gap: Option<ClockStep>,
    unrecorded_gap: Duration,
}

impl Liveness {
    /// One that begins now.
    pub(super) const fn new(now: Mono) -> Self {
        Self { answered: now, failing: None, failures: 0 }
    }

    /// It answered; whether there was something in the question, such as a call of V2, and whether there is something left
    /// that it failed to answer: then it is still failing.
    pub(super) fn answered(&mut self, now: Mono, had_calls: bool, owes: bool) {
        if owes {
            self.answered = now;
            return;
        }
        if had_calls {
            *self = Self::new(now);
            return;
        }
        self.answered = now;
        if self.failures < FAILS_WHEN_IT_MATTERS {
            self.failing = None;
        }
    }

    pub(super) fn failed(&mut self, now: Mono, why: String) {
        self.failures += 1;
        self.is_missing(now, why);
    }

    /// No policy is in charge that could be asked.
    pub(super) fn is_missing(&mut self, now: Mono, why: String) {
        let since = self.failing.take().map_or(now, |fault| fault.since);
        self.failing = Some(Fault { since, why });
    }

    fn fault(&self, now: Mono, late: Duration) -> Option<Fault> {
        let silent = now.since(self.answered) > late;
        let silence = || Fault { since: self.answered, why: "the rollback policy was not heard in time".into() };
        self.failing.clone().or_else(|| silent.then(silence))
    }
}

impl Recording {
    /// One by whose clock nothing was written yet.
    pub(super) fn new(clock: Clock) -> Self {
        Self { writes: Arc::default(), clock }
    }

    /// Something is handed in.
    pub(super) fn begin(&self) {
        self.writes.lock().waiting.push_back(self.clock.up());
    }

    /// What was handed in first is done with, and whether it is on record.
    pub(super) fn end<E: std::error::Error>(&self, done: Result<(), &E>) {
        let mut writes = self.writes.lock();
        writes.waiting.pop_front();
        drop(writes);
        self.heard(done);
    }

    /// What the store says to a write that waits for no other.
    pub(super) fn heard<E: std::error::Error>(&self, done: Result<(), &E>) {
        let mut writes = self.writes.lock();
        writes.failing = done.err().map(|error| {
            let since = writes.failing.take().map_or_else(|| self.clock.up(), |fault| fault.since);
            Fault { since, why: cutover_model::causes::chain(error) }
        });
    }

    fn fault(&self, now: Mono, late: Duration) -> Option<Fault> {
        let writes = self.writes.lock();
        let stuck = writes.waiting.front().copied().filter(|began| now.since(*began) > late);
        let stuck = || Some(Fault { since: stuck?, why: "a record is not written in time".into() });
        writes.failing.clone().or_else(stuck)
    }
}

impl Controller {
    /// A second is over.
    pub(super) async fn tick(&mut self) {
        self.look_at_clock().await;
        self.look_at_v1();
        self.cut_batch();
        self.try_to_catch_up().await;
        self.stand_guard().await;
        self.records.markers.looks = self.records.markers.looks.wrapping_add(1);
        if self.records.markers.looks.is_multiple_of(KEEP_MARKER) {
            self.keep_marker();
        }
    }

    async fn look_at_clock(&mut self) {
        let now = self.parts.clock.mono();
        let Looked { stepped_ms, gap } = self.parts.clock.look();
        if let Some(gap) = gap {
            let steps = &mut self.guard.steps;
            let by_ms = i64::try_from(gap.as_millis()).unwrap_or(i64::MAX);
            steps.gaps += 1;
            steps.unrecorded_gap = steps.unrecorded_gap.saturating_add(gap);
            steps.last_gap = Some(ClockStep { at: self.parts.clock.wall(), by_ms });
            tracing::warn!(
                migration = self.parts.name,
                gap_ms = by_ms,
                "the host did not run; that counts for nothing"
            );
        }
        if let Some(by_ms) = stepped_ms {
            let steps = &mut self.guard.steps;
            steps.in_batch = steps.in_batch.saturating_add(by_ms);
            steps.unrecorded = steps.unrecorded.saturating_add(by_ms);
            steps.count += 1;
            steps.last = Some(ClockStep { at: self.parts.clock.wall(), by_ms });
            tracing::warn!(migration = self.parts.name, by_ms, "the wall clock stepped; nothing is judged by it");
        }
        let apart = self.guard.steps.recorded.is_none_or(|at| now.since(at) >= STEPS_APART);
        if !apart {
            return;
        }
        self.record_gap(now).await;
        if self.guard.steps.unrecorded == 0 {
            return;
        }
        let by_ms = std::mem::take(&mut self.guard.steps.unrecorded);
        self.guard.steps.recorded = Some(now);
        let ahead_ms = self.parts.clock.ahead_ms();
        let audited = self.audited("host", "clock-step", json!({ "by_ms": by_ms, "ahead_ms": ahead_ms }));
        if let Err(error) = self.parts.store.audit(&audited).await {
            tracing::error!("a step of the clock is not on record: {}", cutover_model::causes::chain(&error));
        }
        let message = format!(
            "the wall clock stepped by {by_ms} ms; soaks, windows and batches go on as if it had not, and policies are \
             told a time that is {ahead_ms} ms ahead of it"
        );
        self.notice("clock-step", "warning", message, Vec::new());
    }

    /// Times in which the host did not run are on record and told like steps of the clock.
    async fn record_gap(&mut self, now: Mono) {
        let gap = std::mem::take(&mut self.guard.steps.unrecorded_gap);
        if gap.is_zero() {
            return;
        }
        self.guard.steps.recorded = Some(now);
        let (gap_ms, ahead_ms) = (u64::try_from(gap.as_millis()).unwrap_or(u64::MAX), self.parts.clock.ahead_ms());
        let audited = self.audited("host", "clock-gap", json!({ "gap_ms": gap_ms, "ahead_ms": ahead_ms }));
        if let Err(error) = self.parts.store.audit(&audited).await {
            tracing::error!("a gap in time is not on record: {}", cutover_model::causes::chain(&error));
        }
        let message = format!(
            "the host did not run for {gap_ms} ms, because it was stopped or had no processor: that is no soak, and nobody \
             counts as lost for it; policies are told a time that is {ahead_ms} ms ahead of the wall clock"
        );
        self.notice("clock-gap", "warning", message, Vec::new());
    }

    async fn stand_guard(&mut self) {
        let now = self.parts.clock.up();
        let late = self.parts.check_interval.saturating_mul(2) + LATE;
        for (kind, pulse) in [(Kind::Rollback, &mut self.guard.judge), (Kind::Stages, &mut self.guard.stages)] {
            if self.parts.slots.get(kind).active().is_none() {
                pulse.is_missing(now, format!("nobody is in charge of {kind}"));
            }
        }
        let (flags, state) = (&self.parts.flags, &self.state);
        let may_serve = flags.v2_enabled() && flags.max_share() > Ppm::ZERO;
        let held_back = if !flags.switches().auto_rollback {
            Some("nothing is done: the flag `auto_rollback` is off, so people decide")
        } else if !self.parts.split.v1.can_serve() {
            Some("nothing is done: V1 has nobody who could take the callers")
        } else {
            None
        };
        let nothing = cutover_model::facts::Batch::default();
        let facts = Facts {
            // Without a store that takes records from the start, V1 serves everybody.
            serves: self.parts.store.refuses().is_none() && may_serve && state.share > Ppm::ZERO && state.is_judged(),
            judge: self.guard.judge.fault(now, late),
            store: self.records.recording.fault(now, late),
            // Without a judge it is not asked.
            stages: self.guard.stages.failing.clone().filter(|_| state.phase == Phase::Ramping),
            held_back,
            can_pause: state.phase == Phase::Ramping,
            batch: self.questions.pending.last().unwrap_or(&nothing),
        };
        for said in self.guard.failsafe.observe(now, facts) {
            match said {
                Said::Alarm { event, severity, message, findings } => self.notice(event, severity, message, findings),
                Said::Act { action, findings } => {
                    drop(self.apply(Event::Failsafe { action, findings }, Cause::host()).await);
                }
            }
        }
    }

    /// The clock, as it is shown.
    pub(super) fn clock_shown(&self) -> ClockShown {
        let clock = &self.parts.clock;
        ClockShown {
            now: clock.now(),
            ahead_ms: clock.ahead_ms(),
            steps: self.guard.steps.count,
            last_step: self.guard.steps.last,
            gaps: self.guard.steps.gaps,
            last_gap: self.guard.steps.last_gap,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::clock;

    const LATE_AFTER: Duration = Duration::from_secs(15);

    fn at(second: u64) -> Mono {
        Mono::from_nanos(second * 1_000_000_000)
    }

    fn since(pulse: &Liveness, second: u64) -> Option<Mono> {
        pulse.fault(at(second), LATE_AFTER).map(|fault| fault.since)
    }

    #[test]
    fn a_policy_that_fails_when_there_is_something_to_see_is_failing() {
        let mut pulse = Liveness::new(at(0));
        pulse.failed(at(5), "trapped".into());
        pulse.answered(at(6), false, false);
        assert_eq!(since(&pulse, 6), None, "once may be chance");
        for second in [10, 12, 14] {
            pulse.failed(at(second), "trapped".into());
            pulse.answered(at(second + 1), false, false);
            assert_eq!(since(&pulse, second + 1), Some(at(10)));
        }
        pulse.answered(at(19), true, true);
        assert_eq!(since(&pulse, 19), Some(at(10)), "it has yet to answer what it failed at");
        pulse.answered(at(20), true, false);
        assert_eq!(since(&pulse, 20), None);
    }

    #[test]
    fn a_policy_that_is_not_heard_or_not_there_is_lost_until_it_answers() {
        let mut pulse = Liveness::new(at(0));
        assert_eq!((since(&pulse, 15), since(&pulse, 16)), (None, Some(at(0))));
        for second in 20..30 {
            pulse.is_missing(at(second), "nobody is in charge".into());
        }
        assert_eq!(since(&pulse, 30), Some(at(20)));
        pulse.answered(at(31), false, false);
        assert_eq!(since(&pulse, 31), None, "whoever is new has answered all that it was asked");
    }

    #[test]
    fn a_store_that_fails_or_hangs_is_lost_since_it_began_to() {
        let wall = clock::Wall::default();
        let timeline = clock::timeline::Timeline::new(wall.read());
        let recording = Recording::new(Clock::new(wall, timeline));
        let full = std::io::Error::other("the disk is full");
        let fault = |second| recording.fault(at(second), LATE_AFTER);
        assert_eq!(fault(u64::MAX / 2_000_000_000), None);
        recording.begin();
        recording.end(Err(&full));
        let since = fault(0).unwrap().since;
        recording.heard(Err(&full));
        assert_eq!(fault(0), Some(Fault { since, why: "the disk is full".into() }));
        recording.heard::<std::io::Error>(Ok(()));
        assert_eq!(fault(0), None);
        recording.begin();
        assert!(
            recording.fault(clock::mono() + LATE_AFTER * 2, LATE_AFTER).unwrap().why.contains("not written in time")
        );
    }
}
