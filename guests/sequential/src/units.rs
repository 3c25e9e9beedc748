//! What is believed of counts, whoever counted them.
//!
//! A session is known by its calls. So there are never more sessions in a table, new or failed ones, and never more units
//! of an operation, than there were calls: no calls are no evidence. And counts that are too large for exact sums are
//! halved together, units and bad ones: cut one by one they would be another rate.

use cutover_policy::{Batch, Calls, OperationCalls};

/// The most that is counted, a million million: sums of it are exact in doubles.
const MOST: u64 = 1 << 40;

/// Units of calls, and those that failed for the first time.
pub(crate) fn units(calls: &Calls) -> [u64; 2] {
    let units = calls.units.min(calls.requests);
    [units, calls.unit_errors.min(units)]
}

/// Sessions of V1 and of V2 that are new in the stage, and those that failed for the first time; none where the host does
/// not count sessions. One that fails may have been new long before.
pub(crate) fn sessions(span: &[&Batch]) -> Option<[[u64; 2]; 2]> {
    span.iter().find_map(|batch| batch.gauge("v2.sessions"))?;
    let of = |gauges: [&str; 2], calls: fn(&OperationCalls) -> &Calls| {
        let operations = span.iter().flat_map(|batch| &batch.operations);
        let most = operations.map(|operation| calls(operation).requests).fold(0, u64::saturating_add);
        gauges.map(|gauge| span.iter().map(|batch| batch.count(gauge)).fold(0, u64::saturating_add).min(most))
    };
    Some([
        of(["v1.sessions", "v1.failed-sessions"], |operation| &operation.v1),
        of(["v2.sessions", "v2.failed-sessions"], |operation| &operation.v2),
    ])
}

/// The most units of V2 that one batch has.
pub(crate) fn widest(span: &[&Batch]) -> u64 {
    let of = |batch: &&Batch| batch.operations.iter().map(|o| units(&o.v2)[0]).fold(0, u64::saturating_add);
    span.iter().map(of).max().unwrap_or(0)
}

/// A count of units and one of bad ones, halved until sums of them are exact.
pub(crate) fn few([mut n, mut x]: [u64; 2]) -> [u64; 2] {
    while n.max(x) > MOST {
        (n, x) = (n.div_ceil(2), x.div_ceil(2));
    }
    [n, x]
}

#[cfg(test)]
mod tests {
    use cutover_policy::{
        Gauge,
        testing::{batch, calls, operation},
    };

    use super::*;

    #[test]
    fn sessions_and_units_are_at_most_as_many_as_calls() {
        let mut second = batch(0);
        let gauge = |name: &str, value| Gauge { name: name.into(), value };
        second.gauges = vec![gauge("v1.sessions", -3), gauge("v2.failed-sessions", 9), gauge("v2.sessions", i64::MAX)];
        assert_eq!(sessions(&[&second]), Some([[0, 0], [0, 0]]), "nobody called");
        second.operations = vec![operation("a"), operation("b")];
        (second.operations[0].v2, second.operations[1].v2) = (calls(4, 0, 1), calls(3, 0, 1));
        assert_eq!(sessions(&[&second, &batch(1_000)]), Some([[0, 0], [7, 7]]));
        assert_eq!(units(&Calls { units: 25, unit_errors: 25, ..calls(4, 0, 1) }), [4, 4]);
        second.gauges.clear();
        assert_eq!((sessions(&[&second]), widest(&[&second])), (None, 7));
    }

    #[test]
    fn counts_that_are_too_large_keep_their_rate() {
        assert_eq!(few([1 << 44, 1 << 40]), [1 << 40, 1 << 36]);
        assert_eq!(few([10, 1 << 41]), [5, 1 << 40]);
        assert_eq!(few([1 << 40, 0]), [1 << 40, 0]);
    }
}
