use cutover_policy::{
    Gauge,
    testing::{batch, calls, operation},
};
use proptest::prelude::*;

use super::*;

const MINUTE: Reach = Reach { span_ms: 60_000, longest_ms: 3_600_000, enough: 0 };

fn check(now_ms: u64, phase: Phase, stage: u32, stage_started_ms: u64, batches: Vec<Batch>) -> Check {
    Check { now_ms, phase, stage, share: 0, stage_started_ms, batches }
}

fn ramping(now_ms: u64, batches: Vec<Batch>) -> Check {
    check(now_ms, Phase::Ramping, 0, 0, batches)
}

fn served(start_ms: u64, requests: u64) -> Batch {
    let mut batch = batch(start_ms);
    batch.operations.push(operation("execute"));
    batch.operations[0].v1 = calls(2 * requests, 0, 100);
    batch.operations[0].v2 = calls(requests, 1, 100);
    batch.operations[0].shadow = calls(1, 0, 100);
    batch
}

fn failing(start_ms: u64, v1: (u64, u64), v2: (u64, u64)) -> Batch {
    let mut batch = served(start_ms, 0);
    batch.operations[0].v1 = calls(v1.0, v1.1, 100);
    batch.operations[0].v2 = calls(v2.0, v2.1, 100);
    batch
}

#[test]
fn calls_leave_with_the_window() {
    let mut window = Window::default();
    let batches = (0..90).map(|i| served(i * 1_000, 1)).collect();
    window.slide(&ramping(90_000, batches), MINUTE);
    assert_eq!(window.totals().v2.requests, 60);
    window.slide(&ramping(120_000, Vec::new()), MINUTE);
    assert_eq!(window.totals().v2.requests, 30);
}

#[test]
fn a_window_with_few_calls_reaches_further_back_and_no_further_than_it_may() {
    let reach = Reach { enough: 100, ..MINUTE };
    let mut window = Window::default();
    for minute in 0..120 {
        window.slide(&ramping((minute + 1) * 60_000, vec![served(minute * 60_000, 5)]), reach);
    }
    assert_eq!((window.totals().v2.requests, window.slices.len()), (100, 20));
    window.slide(&ramping(120 * 60_000, vec![served(119 * 60_000 + 500, 200)]), reach);
    assert_eq!(window.totals().v2.requests, 205, "enough calls of the last minute stand for themselves");
    window.slide(&ramping(300 * 60_000, vec![]), reach);
    assert_eq!(window.totals().v2.requests, 0, "what is older than an hour is forgotten");
}

#[test]
fn what_is_far_back_is_kept_in_few_slices() {
    let reach = Reach { enough: u64::MAX, ..MINUTE };
    let mut window = Window::default();
    for check in 0..1_000 {
        let batches = (0..5).map(|i| served(check * 5_000 + i * 1_000, 1)).collect();
        window.slide(&ramping(check * 5_000 + 5_000, batches), reach);
        assert!(window.slices.len() <= 123, "{}", window.slices.len());
    }
    assert!((3_500..=3_601).contains(&window.totals().v2.requests), "{}", window.totals().v2.requests);
}

#[test]
fn stages_do_not_mix() {
    let mut window = Window::default();
    let mut slide =
        |now, stage, started, batches| window.slide(&check(now, Phase::Ramping, stage, started, batches), MINUTE).begun;
    assert!(slide(5_000, 0, 1, vec![served(1, 50)]));
    assert!(!slide(6_000, 0, 1, vec![]));
    assert!(slide(9_000, 1, 7_000, vec![served(6_500, 7), served(7_500, 5)]));
    assert_eq!((window.totals().v2.requests, window.sessions.seen), (5, 5));
}

#[test]
fn shadow_is_judged_by_mirrored_operations() {
    let mut batch = served(0, 50);
    batch.operations.push(operation("write"));
    batch.operations[1].v1 = calls(1_000, 0, 100);
    let mut window = Window::default();
    let slid = window.slide(&check(1_000, Phase::Shadow, 0, 0, vec![batch]), MINUTE);
    for totals in [window.totals(), slid.latest] {
        assert_eq!((totals.v1.requests, totals.v2.requests), (100, 1));
    }
}

#[test]
fn a_long_window_is_remembered_in_sixty_slices() {
    let mut window = Window::default();
    let batches = (0..3_600).map(|i| served(i * 1_000, 1)).collect();
    window.slide(&ramping(3_600_000, batches), Reach { span_ms: 3_600_000, ..MINUTE });
    assert_eq!((window.slices.len(), window.totals().v2.requests), (60, 3_600));
}

#[test]
fn a_run_of_failures_ends_with_a_success_and_outlives_the_window() {
    let mut window = Window::default();
    let mut at = |minute: u64, v1, v2| {
        window.slide(&ramping(minute * 60_000 + 5_000, vec![failing(minute * 60_000, v1, v2)]), MINUTE);
        window.run()
    };
    assert_eq!(at(0, (50, 1), (10, 9)), Run::default());
    assert_eq!(at(1, (50, 1), (2, 2)), Run { calls: 2, failed: 2, v1_requests: 50, v1_errors: 1 });
    assert_eq!(at(9, (50, 2), (3, 3)), Run { calls: 5, failed: 5, v1_requests: 100, v1_errors: 3 });
    assert_eq!(at(10, (50, 2), (0, 0)).calls, 5, "no calls say nothing");
    assert_eq!(at(11, (50, 2), (3, 2)), Run::default());
}

#[test]
fn sessions_are_those_that_the_host_counted() {
    let mut window = Window::default();
    let mut batch = failing(0, (10, 0), (20, 8));
    let gauges = [("v1.sessions", 5), ("v2.failed-sessions", 2), ("v2.sessions", 3)];
    batch.gauges = gauges.map(|(name, value)| Gauge { name: name.into(), value }).into();
    window.slide(&ramping(5_000, vec![batch]), MINUTE);
    assert_eq!(window.sessions(), Sessions { seen: 3, failed: 2 });
    assert_eq!(window.totals().v2.failed, 2);
    window.slide(&ramping(10_000, vec![failing(6_000, (10, 0), (20, 8))]), MINUTE);
    assert_eq!(window.sessions(), Sessions { seen: 23, failed: 10 });
}

#[test]
fn a_clock_that_is_set_back_leaves_nothing_in_the_future() {
    let mut window = Window::default();
    window.slide(&ramping(7_200_000, (0..60).map(|i| served(7_140_000 + i * 1_000, 10)).collect()), MINUTE);
    for check in 0..30 {
        let now = 3_600_000 + check * 5_000;
        window.slide(&ramping(now, vec![served(now - 5_000, 10)]), MINUTE);
    }
    assert_eq!(window.totals().v2.requests, 120, "the last minute alone");
    // The stage began in what is the future now.
    let late = check(1_000_000, Phase::Ramping, 1, 5_000_000, vec![served(995_000, 7)]);
    window.slide(&late, MINUTE);
    assert_eq!(window.totals().v2.requests, 7);
}

#[test]
fn absurd_counts_do_not_overflow() {
    let mut window = Window::default();
    let batches = vec![served(0, u64::MAX / 2), served(1, u64::MAX / 2)];
    let slid = window.slide(&ramping(1_000, batches), MINUTE);
    assert_eq!((window.totals().v2.requests, slid.latest.v2.requests), (MOST, MOST));
}

proptest! {
    #[test]
    fn how_batches_are_dealt_to_checks_does_not_matter(counts in prop::collection::vec(0_u64..50, 1..40), cut in 0_usize..40) {
        let batches: Vec<_> = (0..).map(|i| i * 1_000).zip(&counts).map(|(at, &n)| served(at, n)).collect();
        let mut at_once = Window::default();
        at_once.slide(&ramping(40_000, batches.clone()), MINUTE);
        let mut in_two = Window::default();
        let (early, late) = batches.split_at(cut.min(batches.len()));
        in_two.slide(&ramping(1_000 * early.len() as u64, early.to_vec()), MINUTE);
        let stored = serde_json::to_vec(&in_two).unwrap();
        let mut in_two: Window = serde_json::from_slice(&stored).unwrap();
        in_two.slide(&ramping(40_000, late.to_vec()), MINUTE);
        prop_assert_eq!(in_two, at_once);
    }
}

#[test]
fn counts_that_are_too_large_keep_their_rate() {
    for bits in [4, 38, 40, 44, 50, 60] {
        let mut window = Window::default();
        let batches = (0..60).map(|n| failing(n * 1_000, (1 << bits, 1 << (bits - 4)), (1 << bits, 1 << (bits - 4))));
        window.slide(&ramping(60_000, batches.collect()), MINUTE);
        let Totals { v1, v2 } = window.totals();
        for Total { requests, errors, units, failed, .. } in [v1, v2] {
            assert_eq!((requests, units), (16 * errors, 16 * failed), "2^{bits}");
            assert!(requests <= MOST);
        }
    }
    assert_eq!(few([(1 << 40) + 1, 1 << 40, 3, 0], MOST), [(1 << 39) + 1, 1 << 39, 2, 0]);
    assert_eq!(few([u64::MAX, 1 << 60, 0, 1], MOST), [1 << 40, 1 << 36, 0, 1]);
}

#[test]
fn sessions_are_at_most_as_many_as_calls() {
    for (sessions, seen) in [(25, 5), (i64::MAX, 5), (-25, 0)] {
        let mut batch = failing(0, (10, 0), (5, 2));
        batch.operations[0].v2.units = 40;
        let gauge = |name: &str| Gauge { name: name.into(), value: sessions };
        batch.gauges = ["v1.failed-sessions", "v2.failed-sessions", "v2.sessions"].map(gauge).into();
        let mut window = Window::default();
        window.slide(&ramping(1_000, vec![batch]), MINUTE);
        assert_eq!((window.sessions, window.totals().v2.units), (Sessions { seen, failed: seen }, 5), "{sessions}");
    }
    let mut nobody = failing(0, (0, 0), (0, 0));
    nobody.operations[0].v2.units = 25;
    let mut window = Window::default();
    window.slide(&ramping(1_000, vec![nobody]), MINUTE);
    assert_eq!(window.sessions, Sessions::default());
}
