//! Counts calls that are no evidence, because their callers chose the pool: no policy judges V1 or V2 by them.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::{
    recorder::{Observation, Outcome},
    tally::gauge,
};
use cutover_model::{facts::Gauge, request::PoolId};

/// What was counted since the host began, by operation and pool.
pub type Totals = BTreeMap<(Arc<str>, PoolId), Counts>;

/// Calls, and those that failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls, those that failed included.
    pub calls: u64,
    /// Those of `calls` that failed.
    pub failed: u64,
}

/// The counts of one migration, for the current batch and since the host began.
#[derive(Debug, Default)]
pub struct Apart(Mutex<Both>);

#[derive(Debug, Default)]
struct Both {
    batch: Totals,
    all: Totals,
}

impl Apart {
    /// Counts a call for its operation and pool.
    pub fn record(&self, call: &Observation<'_>) {
        let failed = u64::from(call.outcome != Outcome::Answered);
        let Both { batch, all } = &mut *self.0.lock();
        for totals in [batch, all] {
            let counts = totals.entry((Arc::clone(call.operation), call.pool)).or_default();
            counts.calls += 1;
            counts.failed += failed;
        }
    }

    /// What was counted since the host began.
    pub fn totals(&self) -> Totals {
        self.0.lock().all.clone()
    }

    /// What was counted since this was asked last.
    pub(super) fn cut(&self) -> Vec<Gauge> {
        let batch = std::mem::take(&mut self.0.lock().batch);
        let of = |((operation, pool), counts): ((Arc<str>, PoolId), Counts)| {
            let all = gauge(format!("{pool}.apart{{{operation}}}"), counts.calls);
            let failed = gauge(format!("{pool}.apart-failed{{{operation}}}"), counts.failed);
            [Some(all), Some(failed).filter(|_| counts.failed > 0)].into_iter().flatten()
        };
        batch.into_iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::{Measured, Recorder};
    use cutover_model::{
        clock::UnixMs,
        request::{Class, FailureKind},
    };

    #[test]
    fn what_callers_chose_is_counted_and_is_in_no_batch() {
        let recorder = Recorder::new(UnixMs(0));
        let operation: Arc<str> = "get".into();
        let call = Observation {
            operation: &operation,
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: false,
            session: None,
            outcome: Outcome::Failed(FailureKind::Worker),
            status: 500,
            unread: false,
            failed_over: false,
            took: Duration::ZERO,
        };
        recorder.apart().record(&call);
        recorder.apart().record(&Observation { outcome: Outcome::Answered, ..call });
        let batch = recorder.cut(UnixMs(1_000), Measured::default());
        assert_eq!(batch.operations, []);
        let gauges: Vec<_> = batch.gauges.iter().map(|gauge| (gauge.name.as_str(), gauge.value)).collect();
        assert_eq!(gauges, [("v1.sessions", 0), ("v2.apart-failed{get}", 1), ("v2.apart{get}", 2), ("v2.sessions", 0)]);
        assert!(recorder.cut(UnixMs(2_000), Measured::default()).gauges.iter().all(|g| !g.name.contains("apart")));
        assert_eq!(recorder.apart().totals()[&(operation, PoolId::V2)], Counts { calls: 2, failed: 1 });
    }
}
