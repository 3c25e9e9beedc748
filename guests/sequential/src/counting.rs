//! From batches to tables: for each metric, units and bad units of both pools, operation by operation.
//!
//! Batches are counted together as long as they begin within 5 seconds: a table of one second at a share of 5 % mostly
//! has one unit of V2 or none. What the evidence says then hardly depends on how often the host asks.
//!
//! - `errors`: sessions with a call, and those that failed for the first time in this stage. In the phase `shadow` V2
//!   has no sessions; there it is mirrored calls against V1's calls. They are drawn call by call, so a session that
//!   fails on each of its calls does so on both sides.
//! - `slow`: calls beyond V1's p99, which about 1 % of V1's are.
//! - `p99`: V2's calls beyond `max_p99_ratio` times V1's p99, against V1's calls beyond once its p99. V2's odds are the
//!   larger ones if, and only if, V2's p99 is more than that many times V1's.
//! - `failures`: workers that failed, out of ready workers and seconds. V1 often has one worker only. A single worker
//!   is a short baseline, so each failure of V2 tells little (with 4 workers against 1 at most 1.25 times), and it
//!   takes some dozens. Fixed limits on worker failures are the business of the policy `thresholds`.

use std::collections::BTreeMap;

use cutover_policy::hypergeometric::Table;
use cutover_policy::{Batch, Calls, Members, OperationCalls};

use crate::latency::{self, Limits};

/// Batches that begin within this span make one table.
const SPAN_MS: u64 = 5_000;

/// The name under which workers are counted; they belong to no operation.
const WORKERS: &str = "workers";

/// Tables by metric and operation, ascending.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counted<'a> {
    /// See the module.
    pub errors: Vec<(&'a str, Table)>,
    /// See the module.
    pub slow: Vec<(&'a str, Table)>,
    /// See the module.
    pub p99: Vec<(&'a str, Table)>,
    /// See the module.
    pub failures: Vec<(&'a str, Table)>,
}

/// Units and bad units of V1 and of V2.
type Sums = ((u64, u64), (u64, u64));

/// Cuts batches, oldest first, into those that are counted together.
pub fn spans<'a>(batches: &[&'a Batch]) -> Vec<Vec<&'a Batch>> {
    let mut spans: Vec<Vec<&Batch>> = Vec::new();
    for &batch in batches {
        match spans.last_mut() {
            Some(span) if span.first().is_some_and(|f| batch.start_ms < f.start_ms.saturating_add(SPAN_MS)) => {
                span.push(batch);
            }
            _ => spans.push(vec![batch]),
        }
    }
    spans
}

/// Counts a span. An operation without limits has no slow calls.
pub fn count<'a>(span: &[&'a Batch], mirrored: bool, limits: &BTreeMap<&str, Limits>) -> Counted<'a> {
    let mut errors: BTreeMap<&str, Sums> = BTreeMap::new();
    let (mut slow, mut p99) = (errors.clone(), errors.clone());
    let mut failures = Sums::default();
    for batch in span {
        for calls in &batch.operations {
            let (name, v2) = (calls.operation.as_str(), v2(calls, mirrored));
            let units = |calls: &Calls| {
                if mirrored { (calls.requests, calls.errors) } else { (calls.units, calls.unit_errors) }
            };
            add(errors.entry(name).or_default(), units(&calls.v1), units(v2));
            if let Some(limit) = limits.get(name) {
                let v1 = latency::slow(&calls.v1, limit.p99_us);
                add(slow.entry(name).or_default(), v1, latency::slow(v2, limit.p99_us));
                add(p99.entry(name).or_default(), v1, latency::slow(v2, limit.doubled_us));
            }
        }
        add(&mut failures, workers(batch.v1), workers(batch.v2));
    }
    Counted { errors: tables(errors), slow: tables(slow), p99: tables(p99), failures: vec![(WORKERS, table(failures))] }
}

/// V2's calls of an operation: in the phase `shadow`, the mirrored ones.
pub const fn v2(calls: &OperationCalls, mirrored: bool) -> &Calls {
    if mirrored { &calls.shadow } else { &calls.v2 }
}

/// A worker that failed was at risk, too, although it is not ready at the end.
fn workers(members: Members) -> (u64, u64) {
    (u64::from(members.ready) + u64::from(members.failures), members.failures.into())
}

fn add(sums: &mut Sums, v1: (u64, u64), v2: (u64, u64)) {
    sums.0 = (sums.0.0.saturating_add(v1.0), sums.0.1.saturating_add(v1.1));
    sums.1 = (sums.1.0.saturating_add(v2.0), sums.1.1.saturating_add(v2.1));
}

fn tables(sums: BTreeMap<&str, Sums>) -> Vec<(&str, Table)> {
    sums.into_iter().map(|(name, sums)| (name, table(sums))).collect()
}

fn table((v1, v2): Sums) -> Table {
    Table::new(v1, v2)
}

#[cfg(test)]
mod tests {
    use cutover_policy::testing::{batch, calls, operation};

    use super::*;

    #[test]
    fn batches_within_five_seconds_are_one_span() {
        let batches: Vec<Batch> = [0, 1_000, 4_999, 5_000, 20_000, 21_000].map(batch).into();
        let lengths = spans(&batches.iter().collect::<Vec<_>>()).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths, [3, 1, 2]);
    }

    #[test]
    fn each_metric_counts_its_own_units() {
        let mut second = batch(0);
        let mut execute = operation("execute");
        (execute.v1, execute.v2, execute.shadow) = (calls(90, 9, 100), calls(10, 3, 250), calls(7, 2, 120));
        (execute.v2.units, execute.v2.unit_errors) = (5, 1);
        second.operations.push(execute);
        (second.v1.ready, second.v2.ready, second.v2.failures) = (1, 4, 1);
        let limits = BTreeMap::from([("execute", Limits { p99_us: 110, doubled_us: 220 })]);
        let table = |n1, x1, n2, x2| Table { n1, x1, n2, x2 };
        let two = [&second, &second];
        let served = count(&two, false, &limits);
        assert_eq!(served.errors, [("execute", table(180, 18, 10, 2))]);
        assert_eq!(served.slow, [("execute", table(180, 0, 20, 20))]);
        assert_eq!(served.p99, [("execute", table(180, 0, 20, 20))]);
        assert_eq!(served.failures, [(WORKERS, table(2, 0, 10, 2))]);
        let mirrored = count(&two, true, &BTreeMap::new());
        assert_eq!(mirrored.errors, [("execute", table(180, 18, 14, 4))]);
        assert!(mirrored.slow.is_empty() && mirrored.p99.is_empty());
        let mirrored = count(&two, true, &limits);
        assert_eq!((mirrored.slow[0].1.x2, mirrored.p99[0].1.x2), (14, 0));
    }
}
