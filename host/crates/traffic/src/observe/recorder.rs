//! Counts observations into the batch of the current second.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use super::{
    apart::Apart,
    marks::{Group, Marks},
    pairs::Pairs,
    sessions::{Did, Evidence, Fresh, Session, Sessions, StatusClass},
    tally::{Tally, gauge},
};
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Comparisons, Gauge, Members},
    request::{Class, FailureKind, PoolId, Ppm},
};

/// How a call ended, as far as its pool is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered; a refusal that is the caller's fault counts as an answer.
    Answered,
    /// Failed because of the pool, or by what the team says of its answer.
    Failed(FailureKind),
}

/// What is known of one call when it has ended.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    pub operation: &'a Arc<str>,
    pub class: Class,
    /// The pool that served it.
    pub pool: PoolId,
    /// Whether the other pool had answered, so that the caller did not wait for this one. Mirrored calls to V1 count as
    /// V1's, those to V2 apart.
    pub mirrored: bool,
    /// Its session, as [`Recorder::session`] makes it; `None` if the caller named none.
    pub session: Option<Session>,
    pub outcome: Outcome,
    /// The status of its answer, as HTTP has it; [`Observation::SUCCESS`] and [`Observation::REFUSAL`] for workers, 0 without
    /// an answer or [if it is no sample](Observation::no_sample).
    pub status: u16,
    /// Whether the body of its answer says whether it failed, and could not be looked at.
    pub unread: bool,
    /// Whether the other pool answered instead.
    pub failed_over: bool,
    /// How long the pool took to the head of its answer, queueing included.
    pub took: Duration,
}

/// What is measured at the end of a batch.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug, Clone, Default)]
pub struct Measured {
    pub share: Ppm,
    pub v1: Members,
    pub v2: Members,
    /// What else is measured, by name.
    pub gauges: Vec<Gauge>,
}

/// What a store knows of the sessions of a stage.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The secret key of their hashes.
    pub key: [u8; 16],
    /// The number of the stage. Each stage has the next one.
    pub stage: i64,
    /// What the sessions did for the first time in this stage.
    pub marks: Marks,
}

/// Counts the calls of one migration.
#[derive(Debug)]
pub struct Recorder {
    current: Mutex<Current>,
    pairs: Arc<Pairs>,
    apart: Apart,
    /// The key of the hash of sessions. A recorder that was never begun has none, and uses zeros.
    key: OnceLock<[u8; 16]>,
}

#[derive(Debug)]
struct Current {
    start: UnixMs,
    /// The operations by name, with their numbers in `sessions`.
    operations: BTreeMap<Arc<str>, (usize, Tally)>,
    /// Sessions of all operations that did something for the first time in the stage, by pool.
    new_sessions: [u64; 2],
    failed_sessions: [u64; 2],
    sessions: Sessions,
    /// The number of the stage.
    stage: i64,
    /// What sessions did for the first time in batches that are not on record yet, oldest first.
    unwritten: VecDeque<Vec<Fresh>>,
}

impl Observation<'_> {
    /// The status of a worker's success.
    pub const SUCCESS: u16 = 200;
    /// The status of a worker's refusal.
    pub const REFUSAL: u16 = 400;

    /// The status to count of an answer that V1 gave in V2's place. It is none: V2 chose the request by failing it, so V1 has
    /// no more answers of that class than V2. A failure keeps its status, which says how V1 fails.
    pub const fn no_sample(outcome: Outcome, status: u16) -> u16 {
        match outcome {
            Outcome::Answered => 0,
            Outcome::Failed(_) => status,
        }
    }

    pub(super) fn class_of_answer(&self) -> Option<StatusClass> {
        StatusClass::of(self.status).filter(|_| self.outcome == Outcome::Answered)
    }
}

impl Recorder {
    /// Begins a batch at `start`.
    pub fn new(start: UnixMs) -> Self {
        let (operations, sessions, unwritten) = Default::default();
        let current =
            Current { start, operations, new_sessions: [0; 2], failed_sessions: [0; 2], sessions, stage: 0, unwritten };
        Self { current: Mutex::new(current), pairs: Arc::default(), apart: Apart::default(), key: OnceLock::new() }
    }

    /// A session by its sticky key.
    pub fn session(&self, key: &str) -> Session {
        let secret = self.key.get().copied().unwrap_or_default();
        Session(SipHasher13::new_with_key(&secret).hash(key.as_bytes()))
    }

    /// Counts a call in the current batch.
    pub fn record(&self, call: Observation<'_>) {
        if call.mirrored && call.pool == PoolId::V1 {
            self.pairs.mirror_back(call.operation);
        }
        let mut current = self.current.lock();
        let Current { operations, sessions, new_sessions, failed_sessions, .. } = &mut *current;
        if !operations.contains_key(call.operation) {
            let new = (sessions.add_operation(), Tally::new(call.class));
            operations.insert(Arc::clone(call.operation), new);
        }
        let Some((operation, tally)) = operations.get_mut(call.operation) else { return };
        let did = Did {
            operation: *operation,
            pool: call.pool,
            failed: call.outcome != Outcome::Answered,
            class: call.class_of_answer(),
        };
        // What is mirrored to V2 is what V1's callers asked: the sessions are V1's.
        let is_shadow = call.mirrored && call.pool == PoolId::V2;
        let evidence = match call.session {
            _ if is_shadow => Evidence::default(),
            Some(session) => sessions.see(session, did),
            None => Evidence::alone(did),
        };
        if let (Some(new), Some(failed)) =
            (new_sessions.get_mut(call.pool as usize), failed_sessions.get_mut(call.pool as usize))
        {
            *new += u64::from(evidence.session);
            *failed += u64::from(evidence.unit_error);
        }
        tally.count(&call, evidence);
    }

    /// Where calls are counted that are no evidence.
    pub const fn apart(&self) -> &Apart {
        &self.apart
    }

    /// Where pairs are counted.
    pub const fn pairs(&self) -> &Arc<Pairs> {
        &self.pairs
    }

    /// The first batch begins at `now`: nothing was recorded before.
    pub fn begin(&self, now: UnixMs) {
        self.current.lock().start = now;
    }

    /// Continues the stage of which a store knows this. Nothing was recorded before.
    pub fn go_on(&self, known: &Known) {
        // If this is said twice, the first key stays, and no session is found again.
        let _is_first = self.key.set(known.key);
        let mut current = self.current.lock();
        current.stage = known.stage;
        let Current { operations, sessions, .. } = &mut *current;
        sessions.restore(&known.marks, |sessions, Group { operation, .. }| {
            // Its class is known with its first call.
            let new = || (sessions.add_operation(), Tally::new(Class::Exclusive));
            operations.entry(Arc::clone(operation)).or_insert_with(new).0
        });
    }

    /// The batch goes on at another time, by so many milliseconds later: it is as long as it was.
    pub fn shift(&self, by_ms: u64) {
        let mut current = self.current.lock();
        current.start = UnixMs(current.start.0.saturating_add(by_ms));
    }

    /// Ends the batch at `now` and begins the next.
    pub fn cut(&self, now: UnixMs, mut measured: Measured) -> Batch {
        let pairs = self.pairs.cut();
        measured.gauges.extend(self.apart.cut());
        self.current.lock().cut(now, measured, pairs)
    }

    /// Ends the batch at `now`, with which a stage ends: each session may come and fail for the first time again.
    pub fn begin_stage(&self, now: UnixMs, mut measured: Measured) -> Batch {
        let pairs = self.pairs.cut();
        measured.gauges.extend(self.apart.cut());
        let mut current = self.current.lock();
        let batch = current.cut(now, measured, pairs);
        current.sessions.begin_stage();
        current.stage += 1;
        // What is not written yet of a stage that is over is not needed.
        current.unwritten.iter_mut().for_each(Vec::clear);
        batch
    }

    /// The number of the stage.
    pub fn stage(&self) -> i64 {
        self.current.lock().stage
    }

    /// What sessions did for the first time in the first so many batches of which that was not taken yet, with the number of
    /// the stage. It is to be written down with these batches.
    pub fn take_marks(&self, batches: usize) -> (i64, Marks) {
        let mut current = self.current.lock();
        let batches = batches.min(current.unwritten.len());
        let taken: Vec<_> = current.unwritten.drain(..batches).collect();
        let mut names = vec![None; current.operations.len()];
        for (name, (number, _)) in &current.operations {
            if let Some(of) = names.get_mut(*number) {
                *of = Some(Arc::clone(name));
            }
        }
        let (stage, level) = (current.stage, current.sessions.level());
        drop(current);
        let mut marks = Marks { level, ..Marks::default() };
        for Fresh { operation, pool, mark, session } in taken.into_iter().flatten() {
            if let Some(Some(operation)) = names.get(operation) {
                marks.add(Group { operation: Arc::clone(operation), pool, mark }, session);
            }
        }
        (stage, marks)
    }
}

impl Current {
    fn cut(&mut self, now: UnixMs, measured: Measured, (comparisons, pairs): (Comparisons, Vec<Gauge>)) -> Batch {
        let span = now.since(self.start);
        let fresh = self.sessions.end_batch();
        self.unwritten.push_back(fresh);
        let mut gauges = measured.gauges;
        gauges.extend(pairs);
        let operations = self.operations.iter_mut();
        let operations = operations.filter_map(|(name, (_, tally))| tally.end(name, &mut gauges)).collect();
        let new = std::mem::take(&mut self.new_sessions).into_iter().zip(["v1.sessions", "v2.sessions"]);
        // These are said also when they are 0: then they are counted.
        gauges.extend(new.map(|(count, name)| gauge(name.into(), count)));
        let failed = std::mem::take(&mut self.failed_sessions).into_iter();
        let failed = failed.zip(["v1.failed-sessions", "v2.failed-sessions"]).filter(|(count, _)| *count > 0);
        gauges.extend(failed.map(|(count, name)| gauge(name.into(), count)));
        gauges.sort_by(|a, b| a.name.cmp(&b.name));
        Batch {
            start_ms: std::mem::replace(&mut self.start, now),
            duration_ms: u32::try_from(span.as_millis()).unwrap_or(u32::MAX),
            share: measured.share,
            operations,
            v1: measured.v1,
            v2: measured.v2,
            comparisons,
            gauges,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: &Arc<str>, session: Option<Session>, outcome: Outcome) -> Observation<'_> {
        Observation {
            operation,
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: false,
            session,
            outcome,
            status: 200,
            unread: false,
            failed_over: false,
            took: Duration::from_micros(1_500),
        }
    }

    #[test]
    fn a_session_that_always_fails_is_one_piece_of_evidence() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "execute".into();
        let failed = Outcome::Failed(FailureKind::Worker);
        for _ in 0..20 {
            recorder.record(call(&operation, Some(recorder.session("broken")), failed));
        }
        recorder.record(call(&operation, Some(recorder.session("fine")), Outcome::Answered));
        recorder.record(call(&operation, None, failed));
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        let v2 = &batch.operations[0].v2;
        assert_eq!((v2.requests, v2.errors, v2.units, v2.unit_errors), (22, 21, 3, 2));
        assert_eq!((v2.latency.total(), batch.duration_ms), (22, 1_000));

        recorder.record(call(&operation, Some(recorder.session("broken")), failed));
        let next = recorder.cut(UnixMs(2_000), Measured::default());
        assert_eq!((next.operations[0].v2.units, next.operations[0].v2.unit_errors), (0, 0));
        recorder.begin_stage(UnixMs(2_000), Measured::default());
        recorder.record(call(&operation, Some(recorder.session("broken")), failed));
        let stage = recorder.cut(UnixMs(3_000), Measured::default());
        assert_eq!((stage.operations[0].v2.units, stage.operations[0].v2.unit_errors), (1, 1));
    }

    #[test]
    fn a_session_is_a_unit_of_each_operation_that_it_calls_until_it_fails() {
        let recorder = Recorder::new(UnixMs(0));
        let (create, execute): (Arc<str>, Arc<str>) = ("create".into(), "execute".into());
        recorder.record(call(&create, Some(recorder.session("s")), Outcome::Answered));
        recorder.record(call(&execute, Some(recorder.session("s")), Outcome::Failed(FailureKind::Worker)));
        recorder.record(call(&create, Some(recorder.session("s")), Outcome::Answered));
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        let units: Vec<_> = batch.operations.iter().map(|o| (o.v2.units, o.v2.unit_errors)).collect();
        assert_eq!(units, [(1, 0), (1, 1)]);
    }

    #[test]
    fn a_batch_in_which_time_is_set_forward_is_as_long_as_it_was() {
        let recorder = Recorder::new(UnixMs(1_000));
        recorder.shift(3_600_000);
        let batch = recorder.cut(UnixMs(3_601_400), Measured::default());
        assert_eq!((batch.start_ms, batch.duration_ms), (UnixMs(3_601_000), 400));
    }

    #[test]
    fn mirrored_calls_are_counted_apart_from_what_callers_saw() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "execute".into();
        recorder
            .record(Observation { mirrored: true, ..call(&operation, Some(recorder.session("s")), Outcome::Answered) });
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        let calls = &batch.operations[0];
        assert_eq!((calls.v2.requests, calls.shadow.requests, calls.shadow.units), (0, 1, 0));
    }

    fn gauge(batch: &Batch, name: &str) -> Option<i64> {
        batch.gauges.iter().find(|gauge| gauge.name == name).map(|gauge| gauge.value)
    }

    #[test]
    fn gauges_say_what_has_no_field() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "a".into();
        let refused = |session: Option<&str>| Observation {
            status: 403,
            ..call(&operation, session.map(|key| recorder.session(key)), Outcome::Answered)
        };
        recorder.record(refused(Some("s")));
        recorder.record(refused(Some("s")));
        recorder.record(call(&operation, Some(recorder.session("t")), Outcome::Failed(FailureKind::Worker)));
        recorder.record(Observation { pool: PoolId::V1, status: 302, unread: true, ..refused(None) });
        recorder.record(Observation { mirrored: true, ..refused(None) });
        let cut = |gauges| recorder.cut(UnixMs(1_000), Measured { gauges, ..Measured::default() });
        let batch = cut(vec![Gauge { name: "w".into(), value: 1 }, Gauge { name: "host.x".into(), value: 0 }]);
        let all: Vec<_> = batch.gauges.iter().map(|gauge| format!("{}={}", gauge.name, gauge.value)).collect();
        let expected = [
            "host.x=0",
            "shadow.4xx{a}=1",
            "v1.3xx-first{a}=1",
            "v1.3xx{a}=1",
            "v1.sessions=1",
            "v1.sessions{a}=1",
            "v1.unread{a}=1",
            "v2.4xx-first{a}=1",
            "v2.4xx{a}=2",
            "v2.failed-200{a}=1",
            "v2.failed-sessions=1",
            "v2.failed-sessions{a}=1",
            "v2.sessions=2",
            "v2.sessions{a}=2",
            "w=1",
        ];
        assert_eq!(all, expected);

        recorder.record(refused(Some("s")));
        recorder.record(call(&operation, Some(recorder.session("t")), Outcome::Answered));
        let next = cut(Vec::new());
        // Of both, one has failed before, and the other one got a 4xx before.
        assert_eq!((next.operations[0].v2.units, gauge(&next, "v2.4xx-units{a}")), (1, None));
        assert_eq!((gauge(&next, "v2.3xx-units{a}"), gauge(&next, "v2.sessions")), (Some(2), Some(0)));
        recorder.record(refused(Some("s")));
        let last = cut(Vec::new());
        assert_eq!((last.operations[0].v2.units, gauge(&last, "v2.4xx-units{a}")), (1, Some(0)), "a 0 is said");
    }

    #[test]
    fn failures_are_counted_by_status_or_kind_and_the_causes_are_bounded() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "a".into();
        let failed = |kind, status| Observation { status, ..call(&operation, None, Outcome::Failed(kind)) };
        recorder.record(failed(FailureKind::Worker, 503));
        recorder.record(failed(FailureKind::Worker, 503));
        recorder.record(failed(FailureKind::Worker, 0));
        // Its head was there, and the rest was not.
        recorder.record(failed(FailureKind::Timeout, 200));
        recorder.record(call(&operation, None, Outcome::Answered));
        recorder.record(Observation { pool: PoolId::V1, ..failed(FailureKind::Connection, 0) });
        recorder.record(Observation { mirrored: true, ..failed(FailureKind::Worker, 500) });
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        let causes = |batch: &Batch| {
            let failed = batch.gauges.iter().filter(|gauge| gauge.name.contains(".failed-"));
            failed.map(|gauge| (gauge.name.clone(), gauge.value)).collect::<Vec<_>>()
        };
        let expected = [
            ("shadow.failed-500{a}", 1),
            ("v1.failed-connection{a}", 1),
            ("v1.failed-sessions", 1),
            ("v1.failed-sessions{a}", 1),
            ("v2.failed-503{a}", 2),
            ("v2.failed-sessions", 4),
            ("v2.failed-sessions{a}", 4),
            ("v2.failed-timeout{a}", 1),
            ("v2.failed-worker{a}", 1),
        ];
        assert_eq!(causes(&batch), expected.map(|(name, value)| (name.to_owned(), value)));
        for status in 500..600 {
            recorder.record(failed(FailureKind::Worker, status));
        }
        let batch = recorder.cut(UnixMs(2_000), Measured::default());
        assert_eq!(gauge(&batch, "v2.failed-other{a}"), Some(84));
        assert_eq!(causes(&batch).len(), 16 + 1 + 2, "and the sessions");
    }

    #[test]
    fn what_counts_as_failed_is_in_no_class_and_a_call_that_did_not_fail_over_no_failure() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "a".into();
        let failed = call(&operation, None, Outcome::Failed(FailureKind::Worker));
        recorder.record(Observation { status: 403, ..failed });
        recorder.record(Observation { status: 503, failed_over: true, ..call(&operation, None, Outcome::Answered) });
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        let v2 = &batch.operations[0].v2;
        assert_eq!((v2.requests, v2.errors, v2.failed_over, gauge(&batch, "v2.4xx{a}")), (2, 1, 0, None));
    }
}
