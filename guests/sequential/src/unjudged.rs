//! Whether V2's latency was held against anything: without that it is not `healthy`, however slow it is.
//!
//! What counts is the part of V2's calls in this stage, over all operations: one that has a handful of calls would
//! otherwise hold a migration for ever, because V1 never has as many as a percentile takes. What is seldom called
//! can be slow and go unseen; of all calls it is a twentieth at most.

use std::collections::BTreeMap;

use crate::operation::Operation;

/// One call in so many may go unjudged.
const ONE_IN: u64 = 20;

/// V2's calls whose latency could not be judged.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unjudged<'a> {
    /// How many.
    pub(crate) calls: u64,
    /// All calls of V2 in this stage, once it was warm.
    pub(crate) of: u64,
    /// The operation that most of them are of.
    pub(crate) operation: &'a str,
    /// V1's calls of it that its p99 would be taken from.
    pub(crate) v1_calls: u64,
}

impl<'a> Unjudged<'a> {
    /// None if it is a twentieth or less.
    pub(crate) fn of(operations: &'a BTreeMap<String, Operation>) -> Option<Self> {
        let (mut calls, mut of) = (0_u64, 0_u64);
        let mut most: Option<(u64, &str, u64)> = None;
        for (name, operation) in operations {
            let [all, unjudged] = operation.timed();
            of = of.saturating_add(all);
            calls = calls.saturating_add(unjudged);
            if unjudged > most.map_or(0, |(most, ..)| most) {
                most = Some((unjudged, name.as_str(), operation.v1_calls()));
            }
        }
        let (_, operation, v1_calls) = most?;
        (calls > of / ONE_IN).then_some(Self { calls, of, operation, v1_calls })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twentieth_may_go_unjudged_and_no_more() {
        let mut operations =
            BTreeMap::from([("a".to_owned(), Operation::default()), ("b".into(), Operation::default())]);
        let mut count = |name: &str, calls, is_judged| {
            let (unjudged, judged) = if is_judged { (0, calls) } else { (calls, 0) };
            operations.get_mut(name).unwrap().count_timed(unjudged, judged);
            Unjudged::of(&operations).map(|unjudged| (unjudged.calls, unjudged.of, unjudged.operation.to_owned()))
        };
        assert_eq!(count("a", 95, true), None);
        assert_eq!(count("b", 5, false), None);
        assert_eq!(count("b", 1, false), Some((6, 101, "b".into())));
        // Settled by the twentieth that is judged.
        assert_eq!(count("b", 19, true), None);
        assert_eq!(count("b", 100, false), Some((106, 220, "b".into())));
        assert_eq!(count("b", 1, true), None);
    }
}
