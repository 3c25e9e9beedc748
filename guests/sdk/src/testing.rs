//! Plain data to test policies with: begin with nothing, set what the test is about.

use crate::{Batch, Calls, Comparisons, LatencyBucket, Members, OperationCalls, OperationClass};
use cutover_contract::histogram;

/// One second, begun at `start_ms`, in which nothing happened.
#[must_use]
pub fn batch(start_ms: u64) -> Batch {
    let members = Members { wanted: 0, ready: 0, failures: 0, queued: 0, rss_bytes: 0 };
    Batch {
        start_ms,
        duration_ms: 1_000,
        share: 0,
        operations: Vec::new(),
        v1: members,
        v2: members,
        comparisons: Comparisons { same: 0, ignored: 0, different: 0, incomparable: 0 },
        gauges: Vec::new(),
    }
}

/// An operation of class `read` that nobody called.
#[must_use]
pub fn operation(name: &str) -> OperationCalls {
    let none = calls(0, 0, 0);
    OperationCalls {
        operation: name.into(),
        class: OperationClass::Read,
        v1: none.clone(),
        v2: none.clone(),
        shadow: none,
    }
}

/// Calls that took `us` microseconds each, from a session each.
#[must_use]
pub fn calls(requests: u64, errors: u64, us: u64) -> Calls {
    let latency = LatencyBucket { index: histogram::index(us), count: requests };
    Calls {
        requests,
        errors,
        timeouts: 0,
        failed_over: 0,
        units: requests,
        unit_errors: errors,
        latency: if requests == 0 { Vec::new() } else { vec![latency] },
    }
}
