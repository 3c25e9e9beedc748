//! `joined(batches)`: several batches as one, so that a script counts a few seconds in one go.
//!
//! Calls, members and comparisons add up, and so do gauges that are about an operation or a pool's sessions: they are
//! counts. Units at risk of a status (`v1.4xx-units{..}`) are left out of a batch in which they equal `units`; if any
//! batch has them, they are put in everywhere, so that the sum is that of all.

use std::{collections::BTreeMap, sync::Arc};

use cutover_policy::{Comparisons, Members};
use rhai::{Array, INT, ImmutableString};

use super::{
    calls::{Calls, Tally},
    check::{Batch, Operation, Span, gauge},
};

/// Gauges that are left out where they equal units, and whether they are V1's.
const UNITS: [(&str, bool); 4] =
    [("v1.3xx-units", true), ("v1.4xx-units", true), ("v2.3xx-units", false), ("v2.4xx-units", false)];

/// Batches as one, which begins where the first does.
pub(crate) fn joined(batches: Array) -> Batch {
    let batches: Vec<Batch> = batches.into_iter().filter_map(rhai::Dynamic::try_cast).collect();
    let spans = || batches.iter().map(Batch::span);
    let first = spans().next();
    let span = Span {
        start_ms: first.map_or(0, |first| first.start_ms),
        duration_ms: spans().map(|span| span.duration_ms).fold(0, u32::saturating_add),
        share: spans().next_back().map_or(0, |last| last.share),
        operations: operations(&batches),
        v1: spans().map(|span| span.v1).fold(NOBODY, members),
        v2: spans().map(|span| span.v2).fold(NOBODY, members),
        comparisons: spans().map(|span| span.comparisons).fold(NOTHING, comparisons),
        gauges: gauges(&batches),
    };
    Batch::from(span)
}

/// The most units of V2 that one batch has.
pub(crate) fn widest(batches: Array) -> INT {
    let batches = batches.into_iter().filter_map(rhai::Dynamic::try_cast::<Batch>);
    let units =
        batches.map(|batch| batch.span().operations.iter().map(|o| o.v2.tally().units).fold(0, u64::saturating_add));
    super::int(units.max().unwrap_or(0))
}

const NOBODY: Members = Members { wanted: 0, ready: 0, failures: 0, queued: 0, rss_bytes: 0 };

const NOTHING: Comparisons = Comparisons { same: 0, ignored: 0, different: 0, incomparable: 0 };

fn members(a: Members, b: Members) -> Members {
    Members {
        wanted: a.wanted.saturating_add(b.wanted),
        ready: a.ready.saturating_add(b.ready),
        failures: a.failures.saturating_add(b.failures),
        queued: a.queued.saturating_add(b.queued),
        rss_bytes: a.rss_bytes.saturating_add(b.rss_bytes),
    }
}

fn comparisons(a: Comparisons, b: Comparisons) -> Comparisons {
    Comparisons {
        same: a.same.saturating_add(b.same),
        ignored: a.ignored.saturating_add(b.ignored),
        different: a.different.saturating_add(b.different),
        incomparable: a.incomparable.saturating_add(b.incomparable),
    }
}

fn operations(batches: &[Batch]) -> Vec<Operation> {
    let mut sums: BTreeMap<ImmutableString, (&'static str, [Tally; 3])> = BTreeMap::new();
    for operation in batches.iter().flat_map(|batch| &batch.span().operations) {
        let (_, [v1, v2, shadow]) =
            sums.entry(operation.name.clone()).or_insert_with(|| (operation.class, Default::default()));
        v1.add(operation.v1.tally());
        v2.add(operation.v2.tally());
        shadow.add(operation.shadow.tally());
    }
    let whole = |(name, (class, tallies)): (ImmutableString, (&'static str, [Tally; 3]))| {
        let [v1, v2, shadow] = tallies.map(Calls::from);
        Operation { name, class, v1, v2, shadow }
    };
    sums.into_iter().map(whole).collect()
}

fn gauges(batches: &[Batch]) -> Vec<(ImmutableString, INT)> {
    let mut sums: BTreeMap<ImmutableString, INT> = BTreeMap::new();
    let mut add = |name: ImmutableString, value: INT| {
        let sum = sums.entry(name).or_default();
        *sum = sum.saturating_add(value);
    };
    for (name, value) in batches.iter().flat_map(|batch| &batch.span().gauges) {
        add(name.clone(), *value);
    }
    for (units, of_v1) in UNITS {
        let has = |span: &Span| span.gauges.iter().any(|(name, _)| name.strip_prefix(units).is_some_and(is_of));
        if !batches.iter().any(|batch| has(batch.span())) {
            continue;
        }
        for (span, operation) in batches.iter().map(Batch::span).flat_map(|s| s.operations.iter().map(move |o| (s, o)))
        {
            let name = format!("{units}{{{}}}", operation.name);
            if gauge(span, &name).is_none() {
                let calls = if of_v1 { &operation.v1 } else { &operation.v2 };
                add(name.into(), super::int(calls.tally().units));
            }
        }
    }
    sums.into_iter().collect()
}

fn is_of(rest: &str) -> bool {
    rest.starts_with('{')
}

impl From<Span> for Batch {
    fn from(span: Span) -> Self {
        Self::new(Arc::new(span))
    }
}
