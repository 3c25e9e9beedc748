//! From batches to tables: for each metric, units and bad units of both pools, operation by operation.
//!
//! Batches are counted together as long as they begin within 5 seconds: a table of one second at a share of 5 % mostly
//! has one unit of V2 or none. What the evidence says then hardly depends on how often the host asks.
//!
//! - `errors`: sessions with a call, and those that failed for the first time in this stage. In the phase `shadow` V2
//!   has no sessions; there it is mirrored calls against V1's calls. They are drawn call by call, so a session that
//!   fails on each of its calls does so on both sides. Where V1 is called no more, V2 is held against what is known of
//!   V1, or against the objective.
//! - `statuses`: sessions whose calls were answered with a status of 4xx for the first time in this stage, and the same
//!   for 3xx; in `shadow`, calls. V2 may have more of them, or fewer: these are two metrics, because more is harm.
//! - `slow`: calls beyond V1's p99, which about 1 % of V1's are.
//! - `p99`: V2's calls beyond `max_p99_ratio` times V1's p99, against V1's calls beyond once its p99. V2's odds are the
//!   larger ones if, and only if, V2's p99 is more than that many times V1's. Without V1, calls beyond that ratio
//!   twice.
//! - `failures`: workers that failed, out of ready workers and seconds. V1 often has one worker only. A single worker
//!   is a short baseline, so each failure of V2 tells little (with 4 workers against 1 at most 1.25 times), and it
//!   takes some dozens. Fixed limits on worker failures are the business of the policy `thresholds`.

use std::collections::BTreeMap;

use cutover_policy::{Batch, Calls, Members, OperationCalls, hypergeometric::Table};

use crate::{
    latency::{self, Limits},
    process::{Entry, Units},
    units,
};

/// Batches that begin within this span make one table.
const SPAN_MS: u64 = 5_000;

/// The name under which workers are counted; they belong to no operation.
const WORKERS: &str = "workers";

/// The rate of V2's calls beyond a limit of latency that is good enough without V1: the limit is far off, and how
/// latencies are spread may differ from hour to hour.
const SLOW_ALONE: f64 = 0.05;

/// Classes of statuses: their gauges of V1 and V2 (units, those for the first time, and calls), and of mirrored calls.
const CLASSES: [Class; 2] = [
    Class {
        name: "3xx",
        units: ["v1.3xx-units", "v2.3xx-units"],
        first: ["v1.3xx-first", "v2.3xx-first"],
        calls: ["v1.3xx", "shadow.3xx"],
    },
    Class {
        name: "4xx",
        units: ["v1.4xx-units", "v2.4xx-units"],
        first: ["v1.4xx-first", "v2.4xx-first"],
        calls: ["v1.4xx", "shadow.4xx"],
    },
];

struct Class {
    name: &'static str,
    units: [&'static str; 2],
    first: [&'static str; 2],
    calls: [&'static str; 2],
}

/// What is known of an operation before a span.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Before {
    /// V1's limits of latency, from its calls of the last minutes.
    pub limits: Option<Limits>,
    /// The rate of failed units that is good enough without V1, if V1 was not called for a while.
    pub alone: Option<f64>,
    /// The latency that V2's calls may have without V1.
    pub far_us: Option<u64>,
}

/// V2's calls of an operation within a span that took some time.
#[derive(Debug, PartialEq, Eq)]
pub struct Timed {
    /// The operation.
    pub name: String,
    /// Those whose latency was held against nothing.
    pub unjudged: u64,
    /// Those that were held against a limit, and did not take too long.
    pub judged: u64,
}

/// Entries by metric, ascending by operation.
#[derive(Debug, Default, PartialEq)]
pub struct Counted {
    /// See the module.
    pub errors: Vec<Entry>,
    /// More statuses of 3xx and 4xx than V1 has.
    pub statuses: Vec<Entry>,
    /// Fewer: the pools are swapped.
    pub fewer: Vec<Entry>,
    /// See the module.
    pub slow: Vec<Entry>,
    /// See the module.
    pub p99: Vec<Entry>,
    /// See the module.
    pub failures: Vec<Entry>,
    /// What latencies there were.
    pub timed: Vec<Timed>,
}

/// Units and bad units of V1 and of V2.
type Sums = [u64; 4];

/// One operation within a span.
#[derive(Debug, Default, PartialEq)]
struct Operation {
    units: Sums,
    statuses: [Sums; 2],
    slow: Sums,
    p99: Sums,
    timed: u64,
}

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
pub fn count(span: &[&Batch], mirrored: bool, before: &BTreeMap<&str, Before>) -> Counted {
    let mut operations: BTreeMap<&str, Operation> = BTreeMap::new();
    let mut failures = Sums::default();
    for batch in span {
        for calls in &batch.operations {
            let name = calls.operation.as_str();
            let known = before.get(name).copied().unwrap_or_default();
            operations.entry(name).or_default().add(batch, calls, mirrored, known);
        }
        add(&mut failures, [workers(batch.v1), workers(batch.v2)]);
    }
    let mut counted = Counted { failures: vec![beside(WORKERS, failures)], ..Counted::default() };
    for (name, operation) in operations {
        operation.write(name, before.get(name).copied().unwrap_or_default(), &mut counted);
    }
    counted
}

/// V2's calls of an operation: in the phase `shadow`, the mirrored ones.
pub const fn v2(calls: &OperationCalls, mirrored: bool) -> &Calls {
    if mirrored { &calls.shadow } else { &calls.v2 }
}

impl Operation {
    fn add(&mut self, batch: &Batch, calls: &OperationCalls, mirrored: bool, known: Before) {
        let (v1, v2) = (&calls.v1, v2(calls, mirrored));
        let units = |calls: &Calls| if mirrored { [calls.requests, calls.errors] } else { units::units(calls) };
        add(&mut self.units, [units(v1), units(v2)]);
        if !batch.gauges.is_empty() {
            for (sums, class) in self.statuses.iter_mut().zip(&CLASSES) {
                add(sums, class.count(batch, calls, mirrored));
            }
        }
        self.timed = self.timed.saturating_add(latency::slow(v2, 0)[0]);
        if let Some(limits) = known.limits {
            let beyond = latency::slow(v1, limits.p99_us);
            add(&mut self.slow, [beyond, latency::slow(v2, limits.p99_us)]);
            add(&mut self.p99, [beyond, latency::slow(v2, limits.doubled_us)]);
        } else if let Some(far_us) = known.far_us {
            add(&mut self.p99, [[0, 0], latency::slow(v2, far_us)]);
        }
    }

    fn write(self, name: &str, known: Before, counted: &mut Counted) {
        let alone = |[_, _, n, x]: Sums, rate| Entry {
            name: name.to_owned(),
            units: {
                let table = Table::new((0, 0), (n, x));
                Units::Alone { n: table.n2, x: table.x2, rate }
            },
        };
        counted.errors.push(match known.alone {
            Some(rate) if self.units[0] == 0 => alone(self.units, rate),
            _ => beside(name, self.units),
        });
        for (sums, class) in self.statuses.into_iter().zip(&CLASSES) {
            if sums[1] > 0 || sums[3] > 0 {
                let name = format!("{} {name}", class.name);
                let [n1, x1, n2, x2] = sums;
                counted.fewer.push(beside(&name, [n2, x2, n1, x1]));
                counted.statuses.push(beside(&name, sums));
            }
        }
        if self.timed > 0 {
            let is_judged = known.limits.is_some() || known.far_us.is_some();
            let [_, _, _, far] = self.p99;
            let [unjudged, judged] = if is_judged { [0, self.timed.saturating_sub(far)] } else { [self.timed, 0] };
            counted.timed.push(Timed { name: name.to_owned(), unjudged, judged });
        }
        if known.limits.is_some() {
            counted.slow.push(beside(name, self.slow));
            counted.p99.push(beside(name, self.p99));
        } else if known.far_us.is_some() {
            counted.p99.push(alone(self.p99, SLOW_ALONE));
        }
    }
}

impl Class {
    fn count(&self, batch: &Batch, calls: &OperationCalls, mirrored: bool) -> [[u64; 2]; 2] {
        let name = calls.operation.as_str();
        let [v1, v2] = self.calls;
        if mirrored {
            return [[calls.v1.requests, batch.count_of(v1, name)], [calls.shadow.requests, batch.count_of(v2, name)]];
        }
        let of = |at: usize, calls: &Calls| {
            let (units, first) = (self.units.get(at).copied(), self.first.get(at).copied());
            let units =
                units.and_then(|gauge| batch.gauge_of(gauge, name)).map(|units| u64::try_from(units).unwrap_or(0));
            [units.unwrap_or(calls.units).min(calls.requests), first.map_or(0, |gauge| batch.count_of(gauge, name))]
        };
        [of(0, &calls.v1), of(1, &calls.v2)]
    }
}

/// A worker that failed was at risk, too, although it is not ready at the end.
fn workers(members: Members) -> [u64; 2] {
    [u64::from(members.ready) + u64::from(members.failures), members.failures.into()]
}

fn add(sums: &mut Sums, [[n1, x1], [n2, x2]]: [[u64; 2]; 2]) {
    for (sum, count) in sums.iter_mut().zip([n1, x1, n2, x2]) {
        *sum = sum.saturating_add(count);
    }
}

fn beside(name: &str, [n1, x1, n2, x2]: Sums) -> Entry {
    Entry { name: name.to_owned(), units: Units::Beside(Table::new((n1, x1), (n2, x2))) }
}

#[cfg(test)]
mod tests {
    use cutover_policy::{
        Gauge,
        testing::{batch, calls, operation},
    };

    use super::*;

    fn tables(entries: &[Entry]) -> Vec<(&str, Units)> {
        entries.iter().map(|entry| (entry.name.as_str(), entry.units)).collect()
    }

    fn table(n1: u64, x1: u64, n2: u64, x2: u64) -> Units {
        Units::Beside(Table { n1, x1, n2, x2 })
    }

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
        let limits = Some(Limits { p99_us: 110, doubled_us: 220 });
        let before = BTreeMap::from([("execute", Before { limits, ..Before::default() })]);
        let two = [&second, &second];
        let served = count(&two, false, &before);
        assert_eq!(tables(&served.errors), [("execute", table(180, 18, 10, 2))]);
        assert_eq!(tables(&served.slow), [("execute", table(180, 0, 20, 20))]);
        assert_eq!(tables(&served.p99), [("execute", table(180, 0, 20, 20))]);
        assert_eq!(tables(&served.failures), [(WORKERS, table(2, 0, 10, 2))]);
        let mirrored = count(&two, true, &BTreeMap::new());
        assert_eq!(tables(&mirrored.errors), [("execute", table(180, 18, 14, 4))]);
        assert!(mirrored.slow.is_empty() && mirrored.p99.is_empty() && mirrored.statuses.is_empty());
        let mirrored = count(&two, true, &before);
        assert_eq!(tables(&mirrored.slow), [("execute", table(180, 0, 14, 14))]);
        assert_eq!(tables(&mirrored.p99), [("execute", table(180, 0, 14, 0))]);
    }

    #[test]
    fn without_v1_there_is_what_is_known_of_it() {
        let mut second = batch(0);
        second.operations.push(operation("a"));
        second.operations[0].v2 = calls(10, 3, 4_000_000);
        let known = Before { limits: None, alone: Some(0.03), far_us: Some(80_000) };
        let alone = count(&[&second], false, &BTreeMap::from([("a", known)]));
        assert_eq!(tables(&alone.errors), [("a", Units::Alone { n: 10, x: 3, rate: 0.03 })]);
        assert_eq!(tables(&alone.p99), [("a", Units::Alone { n: 10, x: 10, rate: SLOW_ALONE })]);
        second.operations[0].v1 = calls(1, 0, 1);
        let both = count(&[&second], false, &BTreeMap::from([("a", known)]));
        assert_eq!(tables(&both.errors), [("a", table(1, 0, 10, 3))]);
    }

    #[test]
    fn statuses_are_counted_by_class_and_in_both_directions() {
        let mut second = batch(0);
        second.operations.push(operation("post"));
        (second.operations[0].v1, second.operations[0].v2) = (calls(95, 0, 1), calls(5, 0, 1));
        second.operations[0].shadow = calls(40, 0, 1);
        second.gauges = [
            ("shadow.4xx{post}", 30),
            ("v1.3xx-first{post}", 7),
            ("v1.3xx-units{post}", 90),
            ("v1.3xx{post}", 8),
            ("v2.4xx-first{post}", 4),
            ("v2.4xx-units{post}", 4),
        ]
        .map(|(name, value)| Gauge { name: name.into(), value })
        .into();
        let counted = count(&[&second], false, &BTreeMap::new());
        assert_eq!(tables(&counted.statuses), [("3xx post", table(90, 7, 5, 0)), ("4xx post", table(95, 0, 4, 4))]);
        assert_eq!(tables(&counted.fewer), [("3xx post", table(5, 0, 90, 7)), ("4xx post", table(4, 4, 95, 0))]);
        let mirrored = count(&[&second], true, &BTreeMap::new());
        assert_eq!(tables(&mirrored.statuses), [("3xx post", table(95, 8, 40, 0)), ("4xx post", table(95, 0, 40, 30))]);
    }
}
