use cutover_policy::{
    Gauge,
    testing::{batch, calls, operation},
};

use super::*;

const ENOUGH: Enough = Enough { calls: 100, sessions: 3, change_ppm: 100_000 };

fn check(phase: Phase, counts: [u64; 2], gauges: &[(&str, i64)]) -> Check {
    let mut batch = batch(0);
    batch.operations = vec![operation("post")];
    let of = &mut batch.operations[0];
    of.v1 = calls(counts[0], 0, 1);
    *(if phase == Phase::Shadow { &mut of.shadow } else { &mut of.v2 }) = calls(counts[1], 0, 1);
    let mut gauges: Vec<_> = gauges.iter().map(|&(name, value)| Gauge { name: name.to_owned(), value }).collect();
    gauges.push(Gauge { name: "v2.sessions".to_owned(), value: 0 });
    gauges.sort_by(|one, other| one.name.cmp(&other.name));
    batch.gauges = gauges;
    Check { now_ms: 5_000, phase, stage: 1, share: 100_000, stage_started_ms: 0, batches: vec![batch] }
}

fn moved(check: &Check) -> Option<[u64; 2]> {
    let mut statuses = Statuses::default();
    statuses.add(check, true, 100);
    let moved = statuses.moved(check.phase == Phase::Shadow, ENOUGH)?;
    assert_eq!(moved.operation, "post");
    Some(moved.ppm)
}

#[test]
fn a_v2_that_refuses_what_v1_takes_has_moved() {
    let refused = [("v2.4xx{post}", 100), ("v2.4xx-first{post}", 3)];
    assert_eq!(moved(&check(Phase::Ramping, [1_000, 100], &refused)), Some([0, 1_000_000]));
    let redirected = [("v2.3xx{post}", 50), ("v2.3xx-first{post}", 3)];
    assert_eq!(moved(&check(Phase::Ramping, [1_000, 100], &redirected)), Some([0, 500_000]));
    let mirrored = [("shadow.4xx{post}", 100), ("v2.4xx{post}", 0)];
    assert_eq!(moved(&check(Phase::Shadow, [1_000, 100], &mirrored)), Some([0, 1_000_000]));
}

#[test]
fn a_v2_that_takes_what_v1_refuses_has_moved() {
    let taken = [("v1.4xx{post}", 600), ("v1.4xx-first{post}", 40)];
    assert_eq!(moved(&check(Phase::Ramping, [1_000, 100], &taken)), Some([600_000, 0]));
}

#[test]
fn few_answers_few_sessions_small_changes_and_chance_are_none() {
    for (counts, gauges) in [
        ([1_000, 99], [("v2.4xx{post}", 99), ("v2.4xx-first{post}", 9)]),
        ([99, 1_000], [("v2.4xx{post}", 900), ("v2.4xx-first{post}", 9)]),
        ([1_000, 100], [("v2.4xx{post}", 100), ("v2.4xx-first{post}", 2)]),
        ([1_000, 1_000], [("v2.4xx{post}", 100), ("v2.4xx-first{post}", 9)]),
        ([1_000, 100], [("v2.4xx{post}", 12), ("v2.4xx-first{post}", 9)]),
    ] {
        assert_eq!(moved(&check(Phase::Ramping, counts, &gauges)), None, "{counts:?} {gauges:?}");
    }
}

#[test]
fn what_was_long_ago_is_outweighed_and_a_stage_begins_anew() {
    let mut statuses = Statuses::default();
    let refused = check(Phase::Ramping, [1_000, 1_000], &[("v2.4xx{post}", 1_000), ("v2.4xx-first{post}", 9)]);
    statuses.add(&refused, true, 100);
    assert!(statuses.moved(false, ENOUGH).is_some());
    let well = check(Phase::Ramping, [1_000, 1_000], &[]);
    (0..4).for_each(|_| statuses.add(&well, false, 100));
    assert_eq!(statuses.moved(false, ENOUGH), None, "{statuses:?}");
    statuses.add(&refused, true, 100);
    assert!(statuses.moved(false, ENOUGH).is_some(), "of the new stage alone");
}

#[test]
fn operations_are_bounded_and_history_without_gauges_says_nothing() {
    let mut statuses = Statuses::default();
    let mut wide = check(Phase::Ramping, [1, 1], &[]);
    wide.batches[0].operations = (0..1_000)
        .map(|n| {
            let mut of = operation(&format!("o{n}"));
            of.v2 = calls(1, 0, 1);
            of
        })
        .collect();
    statuses.add(&wide, true, 100);
    assert_eq!(statuses.0.len(), MOST);
    wide.batches[0].gauges.clear();
    statuses.add(&wide, true, 100);
    assert!(statuses.0.is_empty());
}

#[test]
fn no_count_breaks_it() {
    let mut statuses = Statuses::default();
    let most =
        check(Phase::Ramping, [u64::MAX, u64::MAX], &[("v2.4xx{post}", i64::MAX), ("v2.4xx-first{post}", i64::MAX)]);
    (0..3).for_each(|_| statuses.add(&most, false, u64::MAX));
    assert_eq!(statuses.moved(false, ENOUGH).unwrap().ppm, [0, 1_000_000]);
}

#[test]
fn counts_that_are_too_large_keep_their_rate() {
    let alike =
        [("v1.4xx-first{post}", 9), ("v1.4xx{post}", 1 << 40), ("v2.4xx-first{post}", 9), ("v2.4xx{post}", 1 << 36)];
    assert_eq!(moved(&check(Phase::Ramping, [1 << 44, 1 << 40], &alike)), None);
    let apart = [("v1.4xx{post}", 1 << 40), ("v2.4xx-first{post}", 9), ("v2.4xx{post}", 1 << 39)];
    assert_eq!(moved(&check(Phase::Ramping, [1 << 44, 1 << 40], &apart)), Some([62_500, 500_000]));
}
