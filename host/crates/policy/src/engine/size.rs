//! How large a question is: about the bytes that it takes in the memory of the guest that gets it.
//!
//! Counted before a guest is asked, so that one that cannot have room for a question is not filled with half of it.
//! Texts count with their length, numbers and the ends of lists with the bytes that the canonical ABI gives them.

use cutover_model::{
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

/// What a check has beside its batches.
const CHECK: usize = 64;

pub(super) fn check(check: &Check) -> usize {
    CHECK + check.batches.iter().map(batch).sum::<usize>()
}

/// How many of the first batches fit a check of `room` bytes.
pub(super) fn batches_within(batches: &[Batch], room: usize) -> usize {
    within(batches.iter().map(batch), room.saturating_sub(CHECK))
}

/// How many of the first pairs fit a question of `room` bytes.
pub(super) fn pairs_within(pairs: &[Pair], room: usize) -> usize {
    within(pairs.iter().map(pair), room)
}

/// How many of the first of these sizes fit `room` together.
fn within(sizes: impl Iterator<Item = usize>, room: usize) -> usize {
    let sums = sizes.scan(0_usize, |sum, size| {
        *sum = sum.saturating_add(size);
        Some(*sum)
    });
    sums.take_while(|sum| *sum <= room).count()
}

pub(super) fn situation(situation: &Situation) -> usize {
    let operations = situation.operations.iter().map(|(name, _)| 2 * ENDS + name.len()).sum::<usize>();
    64 + situation.migration.len() + situation.salt.len() + operations
}

pub(super) fn pairs(pairs: &[Pair]) -> usize {
    pairs.iter().map(pair).sum()
}

pub(super) fn pair(pair: &Pair) -> usize {
    let side = |side: &Side| 3 * ENDS + side.media_type.len() + side.body.len();
    ENDS + pair.operation.len() + side(&pair.v1) + side(&pair.v2)
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
    use proptest::prelude::*;

    use super::*;
    use cutover_model::{clock::UnixMs, facts::Gauge, port::Phase, request::Ppm};

    proptest! {
        #[test]
        fn what_fits_fits_and_not_one_more(bodies in proptest::collection::vec(0_usize..2_000, 0..20), room in 0_usize..9_000) {
            let side = |n: usize| Side { success: true, status: 200, media_type: String::new(), body: vec![b' '; n] };
            let all: Vec<_> =
                bodies.iter().map(|n| Pair { operation: "read".into(), v1: side(*n), v2: side(0) }).collect();
            let fitting = pairs_within(&all, room);
            prop_assert!(pairs(&all[..fitting]) <= room);
            prop_assert!(fitting == all.len() || pairs(&all[..=fitting]) > room);

            let named = |n: &usize| Batch { gauges: vec![Gauge { name: "g".repeat(*n), value: 0 }], ..Batch::default() };
            let mut question = check_of(0);
            question.batches = bodies.iter().map(named).collect();
            let fitting = batches_within(&question.batches, room);
            question.batches.truncate(fitting + 1);
            prop_assert!(fitting == bodies.len() || check(&question) > room);
            question.batches.truncate(fitting);
            prop_assert!(fitting == 0 || check(&question) <= room);
        }
    }

    fn check_of(batches: usize) -> Check {
        Check {
            now_ms: UnixMs(0),
            phase: Phase::Shadow,
            stage: 0,
            share: Ppm::ZERO,
            stage_started_ms: UnixMs(0),
            batches: vec![Batch::default(); batches],
        }
    }

    #[test]
    fn a_question_grows_with_what_is_in_it() {
        let side = |body: &str| Side { success: true, status: 200, media_type: String::new(), body: body.into() };
        let pair = |body| Pair { operation: "read".into(), v1: side(body), v2: side("") };
        assert_eq!(pairs(&[pair("12345")]), pairs(&[pair("")]) + 5);
        assert_eq!(pairs(&[pair(""), pair("")]), 2 * pairs(&[pair("")]));

        assert_eq!(check(&check_of(10)) - check(&check_of(0)), 10 * BATCH);
    }
}
