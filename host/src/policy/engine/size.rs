//! How large a question is: about the bytes that it takes in the memory of the guest that gets it.
//!
//! Counted before a guest is asked, so that one that cannot have room for a question is not filled with half of it.
//! Texts count with their length, numbers and the ends of lists with the bytes that the canonical ABI gives them.

use crate::policy::{
    facts::{Batch, Calls},
    port::{AdapterCall, AdapterReply, Check, Pair, Side, Situation},
};

/// Where a text or a list is: pointer and length.
const ENDS: usize = 8;

/// The numbers of [`Calls`].
const CALLS: usize = 7 * 8 + ENDS;

/// The numbers of a [`Batch`].
const BATCH: usize = 160;

/// A bucket of a histogram.
const BUCKET: usize = 16;

pub(super) fn check(check: &Check) -> usize {
    64 + check.batches.iter().map(batch).sum::<usize>()
}

pub(super) fn situation(situation: &Situation) -> usize {
    let operations = situation.operations.iter().map(|(name, _)| 2 * ENDS + name.len()).sum::<usize>();
    64 + situation.migration.len() + situation.salt.len() + operations
}

pub(super) fn pairs(pairs: &[Pair]) -> usize {
    let side = |side: &Side| 3 * ENDS + side.media_type.len() + side.body.len();
    pairs.iter().map(|pair| ENDS + pair.operation.len() + side(&pair.v1) + side(&pair.v2)).sum()
}

pub(super) fn call(call: &AdapterCall) -> usize {
    3 * ENDS + call.operation.len() + call.session.len() + call.body.len()
}

pub(super) fn reply(reply: &AdapterReply) -> usize {
    2 * ENDS + reply.body.len()
}

fn batch(batch: &Batch) -> usize {
    let operations = batch.operations.iter().map(|operation| {
        2 * ENDS
            + operation.operation.len()
            + [&operation.v1, &operation.v2, &operation.shadow].map(calls).iter().sum::<usize>()
    });
    let gauges = batch.gauges.iter().map(|gauge| 2 * ENDS + gauge.name.len()).sum::<usize>();
    BATCH + operations.sum::<usize>() + gauges
}

fn calls(calls: &Calls) -> usize {
    CALLS + BUCKET * calls.latency.buckets().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::UnixMs, policy::port::Phase, request::Ppm};

    #[test]
    fn a_question_grows_with_what_is_in_it() {
        let side = |body: &str| Side { success: true, status: 200, media_type: String::new(), body: body.into() };
        let pair = |body| Pair { operation: "read".into(), v1: side(body), v2: side("") };
        assert_eq!(pairs(&[pair("12345")]), pairs(&[pair("")]) + 5);
        assert_eq!(pairs(&[pair(""), pair("")]), 2 * pairs(&[pair("")]));

        let check_of = |batches| Check {
            now_ms: UnixMs(0),
            phase: Phase::Shadow,
            stage: 0,
            share: Ppm::ZERO,
            stage_started_ms: UnixMs(0),
            batches: vec![Batch::default(); batches],
        };
        assert_eq!(check(&check_of(10)) - check(&check_of(0)), 10 * BATCH);
    }
}
