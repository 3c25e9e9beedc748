//! The batches of the last hour, and what they add up to.

use std::collections::{BTreeMap, VecDeque};

use parking_lot::RwLock;
use serde::Serialize;

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Members},
    request::PoolId,
};

/// Batches that are kept: an hour of seconds.
const KEPT: usize = 3_600;

/// Gauges that are added up: what is known of answers besides that they failed or not.
const ANSWERS: [&str; 9] =
    ["v1.3xx", "v1.4xx", "v1.unread", "v2.3xx", "v2.4xx", "v2.unread", "shadow.3xx", "shadow.4xx", "shadow.unread"];

/// Batches of one migration, newest last, and totals since the host began.
#[derive(Debug, Default)]
pub struct History(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    batches: VecDeque<Batch>,
    totals: Totals,
}

/// Counts since the host began.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Calls by operation: V1's, V2's and mirrored ones.
    pub operations: BTreeMap<String, [Calls; 3]>,
    /// What gauges count of the answers of an operation, such as `v2.4xx`, by operation.
    pub answers: BTreeMap<(&'static str, String), u64>,
    /// What was found by comparing pairs of all operations.
    pub comparisons: Comparisons,
    /// Members that failed: V1's and V2's.
    pub failures: [u64; 2],
}

/// One pool over a window of batches, for people.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PoolWindow {
    /// Calls of all operations.
    pub requests: u64,
    /// Those of `requests` that failed.
    pub errors: u64,
    /// Those of `requests` that failed and that the other pool answered instead.
    pub failed_over: u64,
    /// The part of `requests` that failed, in parts per million; 0 without calls.
    pub error_ppm: u64,
    /// Calls per second, rounded down; 0 without batches.
    pub rps: u64,
    /// Median latency in microseconds; `None` without calls.
    pub p50_us: Option<u64>,
    /// 99th percentile of latency in microseconds; `None` without calls.
    pub p99_us: Option<u64>,
    /// Its members at the end of the window.
    pub members: Members,
}

impl History {
    /// Adds a batch, and forgets the oldest if there is more than an hour of them. Totals keep counting it.
    pub fn push(&self, batch: Batch) {
        let mut inner = self.0.write();
        inner.totals.add(&batch);
        if inner.batches.len() >= KEPT {
            inner.batches.pop_front();
        }
        inner.batches.push_back(batch);
    }

    /// The last `seconds` batches of one pool, all operations together.
    pub fn window(&self, pool: PoolId, seconds: usize) -> PoolWindow {
        let inner = self.0.read();
        let mut calls = Calls::default();
        let mut span_ms = 0;
        let first = inner.batches.len().saturating_sub(seconds);
        for batch in inner.batches.range(first..) {
            span_ms += u64::from(batch.duration_ms);
            for operation in &batch.operations {
                calls.merge(match pool {
                    PoolId::V1 => &operation.v1,
                    PoolId::V2 => &operation.v2,
                });
            }
        }
        let last = inner.batches.back();
        PoolWindow {
            requests: calls.requests,
            errors: calls.errors,
            failed_over: calls.failed_over,
            error_ppm: (calls.errors * 1_000_000).checked_div(calls.requests).unwrap_or(0),
            rps: (calls.requests * 1_000).checked_div(span_ms).unwrap_or(0),
            p50_us: calls.latency.quantile_us(500_000),
            p99_us: calls.latency.quantile_us(990_000),
            members: last.map_or_else(Members::default, |b| match pool {
                PoolId::V1 => b.v1,
                PoolId::V2 => b.v2,
            }),
        }
    }

    /// How often each cause failed calls of V2, mirrored ones where V2 has no others, in the last `seconds` batches of a
    /// stage that began at `since`: operation, cause as the gauge `v2.failed-CAUSE{OPERATION}` names it, and count. Most
    /// frequent first.
    pub fn failures_of_v2(&self, seconds: usize, since: UnixMs) -> Vec<(String, String, u64)> {
        let inner = self.0.read();
        let first = inner.batches.len().saturating_sub(seconds);
        let batches = || inner.batches.range(first..).filter(|batch| batch.start_ms >= since);
        let has_callers = batches().flat_map(|batch| &batch.operations).any(|operation| operation.v2.requests > 0);
        let prefix = if has_callers { "v2.failed-" } else { "shadow.failed-" };
        let mut counts = BTreeMap::<(&str, &str), u64>::new();
        for gauge in batches().flat_map(|batch| &batch.gauges) {
            let named = gauge.name.strip_prefix(prefix).and_then(|name| name.strip_suffix('}')?.split_once('{'));
            // Sessions are counted besides.
            let Some((cause, operation)) = named.filter(|(cause, _)| *cause != "sessions") else { continue };
            let count = counts.entry((operation, cause)).or_default();
            *count = count.saturating_add(u64::try_from(gauge.value).unwrap_or(0));
        }
        let mut counts: Vec<_> =
            counts.into_iter().map(|((operation, cause), count)| (operation.into(), cause.into(), count)).collect();
        counts.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
        counts
    }

    /// The last `seconds` batches together: milliseconds, pairs that were compared, and calls of V2.
    pub fn lately(&self, seconds: usize) -> (u64, u64, u64) {
        let inner = self.0.read();
        let first = inner.batches.len().saturating_sub(seconds);
        inner.batches.range(first..).fold((0, 0, 0), |(span_ms, compared, calls), batch| {
            let Comparisons { same, ignored, different, .. } = batch.comparisons;
            let v2: u64 = batch.operations.iter().map(|operation| operation.v2.requests).sum();
            (span_ms + u64::from(batch.duration_ms), compared + same + ignored + different, calls + v2)
        })
    }

    /// Everything since the host began.
    pub fn totals(&self) -> Totals {
        self.0.read().totals.clone()
    }
}

impl Totals {
    fn add(&mut self, batch: &Batch) {
        for operation in &batch.operations {
            let [v1, v2, shadow] = self.operations.entry(operation.operation.clone()).or_default();
            v1.merge(&operation.v1);
            v2.merge(&operation.v2);
            shadow.merge(&operation.shadow);
        }
        for gauge in &batch.gauges {
            let counted = gauge.name.strip_suffix('}').and_then(|name| name.split_once('{'));
            let Some((name, operation)) = counted else { continue };
            if let Some(name) = ANSWERS.into_iter().find(|known| *known == name) {
                let count = self.answers.entry((name, operation.to_owned())).or_default();
                *count = count.saturating_add(u64::try_from(gauge.value).unwrap_or(0));
            }
        }
        self.comparisons.merge(batch.comparisons);
        let [v1, v2] = &mut self.failures;
        *v1 += u64::from(batch.v1.failures);
        *v2 += u64::from(batch.v2.failures);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::{
        facts::{Gauge, OperationCalls},
        request::Class,
    };

    #[test]
    fn causes_of_failures_are_those_of_v2s_callers_and_of_mirrored_calls_where_it_has_none() {
        let history = History::default();
        let gauge = |name: &str, value| Gauge { name: name.into(), value };
        let batch = |second: u64, has_callers: bool, gauges| {
            let v2 = Calls { requests: u64::from(has_callers), ..Calls::default() };
            let (class, operation, none) = (Class::Read, "read".into(), Calls::default());
            let read = OperationCalls { operation, class, v1: none.clone(), v2, shadow: none };
            history.push(Batch {
                start_ms: UnixMs(second * 1_000),
                operations: vec![read],
                gauges,
                ..Batch::default()
            });
        };
        let of = |operation: &str, cause: &str, count| (operation.to_owned(), cause.to_owned(), count);
        batch(0, false, vec![gauge("shadow.failed-timeout{read}", 9)]);
        batch(1, false, vec![gauge("shadow.failed-503{a{b}}", 2)]);
        let all = [of("read", "timeout", 9), of("a{b}", "503", 2)];
        assert_eq!(history.failures_of_v2(60, UnixMs(0)), all);
        assert_eq!(history.failures_of_v2(60, UnixMs(1_000)), all[1..], "of the stage");
        assert_eq!(history.failures_of_v2(1, UnixMs(0)), all[1..], "of the last second");
        let gauges =
            vec![gauge("v2.failed-500{read}", 1), gauge("v2.failed-sessions{read}", 1), gauge("v2.failed-sessions", 7)];
        batch(2, true, gauges);
        assert_eq!(history.failures_of_v2(60, UnixMs(0)), [of("read", "500", 1)]);
    }

    #[test]
    fn classes_of_answers_are_added_up_by_operation_and_nothing_else_is() {
        let history = History::default();
        let gauge = |name: &str, value| Gauge { name: name.into(), value };
        for value in [2, 3] {
            let gauges = vec![
                gauge("v2.4xx{a{b}}", value),
                gauge("v2.4xx-first{a}", 1),
                gauge("v2.sessions", 9),
                gauge("x}", 1),
            ];
            history.push(Batch { gauges, ..Batch::default() });
        }
        assert_eq!(history.totals().answers, BTreeMap::from([(("v2.4xx", "a{b}".to_owned()), 5)]));
    }
}
