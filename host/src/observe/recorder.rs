//! Counts observations into the batch of the current second.

use std::{
    collections::{BTreeMap, HashSet},
    hash::BuildHasher as _,
    sync::Arc,
    time::Duration,
};

use foldhash::quality::RandomState;
use parking_lot::Mutex;

use super::pairs::Pairs;
use crate::{
    clock::UnixMs,
    policy::facts::{Batch, Calls, Gauge, Members, OperationCalls},
    request::{Class, FailureKind, PoolId, Ppm},
};

/// Sessions that are told apart within a stage; beyond it every call is a session of its own, which errs towards
/// seeing more evidence, for and against.
const MAX_SESSIONS: usize = 1_000_000;

/// How a call ended, as far as its pool is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered; a refusal that is the caller's fault counts as an answer.
    Answered,
    /// Failed because of the pool.
    Failed(FailureKind),
}

/// A session, as far as one is told from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Session(u64);

/// The frozen fact of one call.
#[derive(Debug, Clone, Copy)]
pub struct Observation<'a> {
    /// The operation.
    pub operation: &'a Arc<str>,
    /// Its class.
    pub class: Class,
    /// Who served it.
    pub pool: PoolId,
    /// Whether the other pool had answered, so that nobody waited for this one.
    pub mirrored: bool,
    /// Its session, as [`Recorder::session`] has it.
    pub session: Option<Session>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the other pool answered instead.
    pub failed_over: bool,
    /// How long the pool took, queueing included.
    pub took: Duration,
}

/// What is measured at the end of a batch.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// V2's share.
    pub share: Ppm,
    /// V1's members.
    pub v1: Members,
    /// V2's members.
    pub v2: Members,
    /// Further measurements.
    pub gauges: Vec<Gauge>,
}

/// Counts the calls of one migration.
#[derive(Debug)]
pub struct Recorder {
    current: Mutex<Current>,
    pairs: Arc<Pairs>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Current {
    start: UnixMs,
    operations: BTreeMap<Arc<str>, OperationCalls>,
    /// Sessions with a call in this batch, for each operation.
    seen: HashSet<(PoolId, u64), RandomState>,
    /// Sessions that failed in this stage.
    failed: HashSet<(PoolId, u64), RandomState>,
}

impl Recorder {
    /// Begins a batch at `start`.
    pub fn new(start: UnixMs) -> Self {
        let current =
            Current { start, operations: BTreeMap::new(), seen: HashSet::default(), failed: HashSet::default() };
        Self { current: Mutex::new(current), pairs: Arc::default(), hasher: RandomState::default() }
    }

    /// A session by its sticky key.
    pub fn session(&self, key: &str) -> Session {
        Session(self.hasher.hash_one(key))
    }

    /// Counts a call.
    pub fn record(&self, call: Observation<'_>) {
        let session = call.session.map(|session| (self.hasher.hash_one((&**call.operation, session)), session.0));
        // What V1 is asked of V2's calls counts as V1's side: see `pairs`.
        let mirrored = call.mirrored && call.pool == PoolId::V2;
        if call.mirrored && !mirrored {
            self.pairs.mirror_back(call.operation);
        }
        let mut current = self.current.lock();
        let (fresh, first_failure) = match session.filter(|_| !mirrored) {
            Some(session) => current.unit(call.pool, session, call.outcome != Outcome::Answered),
            None => (!mirrored, !mirrored && call.outcome != Outcome::Answered),
        };
        if !current.operations.contains_key(call.operation) {
            let empty = OperationCalls {
                operation: call.operation.to_string(),
                class: call.class,
                v1: Calls::default(),
                v2: Calls::default(),
                shadow: Calls::default(),
            };
            current.operations.insert(Arc::clone(call.operation), empty);
        }
        let Some(operation) = current.operations.get_mut(call.operation) else { return };
        let calls = match (mirrored, call.pool) {
            (true, _) => &mut operation.shadow,
            (false, PoolId::V1) => &mut operation.v1,
            (false, PoolId::V2) => &mut operation.v2,
        };
        calls.requests += 1;
        calls.errors += u64::from(call.outcome != Outcome::Answered);
        calls.timeouts += u64::from(call.outcome == Outcome::Failed(FailureKind::Timeout));
        calls.failed_over += u64::from(call.failed_over);
        calls.units += u64::from(fresh);
        calls.unit_errors += u64::from(first_failure);
        calls.latency.record(u64::try_from(call.took.as_micros()).unwrap_or(u64::MAX));
    }

    /// Where pairs are counted.
    pub const fn pairs(&self) -> &Arc<Pairs> {
        &self.pairs
    }

    /// The first batch begins at `now`: nothing was recorded before.
    pub fn begin(&self, now: UnixMs) {
        self.current.lock().start = now;
    }

    /// The batch goes on at another time, by so many milliseconds later: it is as long as it was.
    pub fn shift(&self, by_ms: u64) {
        let mut current = self.current.lock();
        current.start = UnixMs(current.start.0.saturating_add(by_ms));
    }

    /// Ends the batch at `now` and begins the next.
    pub fn cut(&self, now: UnixMs, measured: Measured) -> Batch {
        let (comparisons, pairs) = self.pairs.cut();
        let mut gauges = measured.gauges;
        gauges.extend(pairs);
        gauges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut current = self.current.lock();
        let span = now.since(current.start);
        current.seen.clear();
        Batch {
            start_ms: std::mem::replace(&mut current.start, now),
            duration_ms: u32::try_from(span.as_millis()).unwrap_or(u32::MAX),
            share: measured.share,
            operations: std::mem::take(&mut current.operations).into_values().collect(),
            v1: measured.v1,
            v2: measured.v2,
            comparisons,
            gauges,
        }
    }

    /// A stage begins: every session may fail for the first time again.
    pub fn begin_stage(&self) {
        self.current.lock().failed.clear();
    }
}

impl Current {
    /// Whether a session counts as a unit of an operation in this batch, and whether this is its first failure at all.
    fn unit(&mut self, pool: PoolId, (in_operation, session): (u64, u64), failed: bool) -> (bool, bool) {
        let known = self.failed.contains(&(pool, session));
        let fresh = !known && (self.seen.len() >= MAX_SESSIONS || self.seen.insert((pool, in_operation)));
        let first = failed && !known && (self.failed.len() >= MAX_SESSIONS || self.failed.insert((pool, session)));
        (fresh, first)
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
        recorder.begin_stage();
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
}
