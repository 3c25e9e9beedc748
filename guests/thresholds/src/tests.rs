use cutover_policy::{
    Calls, Gauge, LatencyBucket,
    testing::{batch, calls, operation},
};
use proptest::prelude::*;

use super::*;

fn policy(json: &str) -> Thresholds {
    Thresholds::configure(serde_json::from_str(json).unwrap()).unwrap()
}

/// A second in which V1 answers 1000 calls and V2 as told.
fn served(start_ms: u64, requests: u64, errors: u64) -> Batch {
    let mut batch = batch(start_ms);
    batch.operations.push(operation("execute"));
    batch.operations[0].v1 = calls(1_000, 10, 50_000);
    batch.operations[0].v2 = calls(requests, errors, 50_000);
    batch
}

fn check(now_ms: u64, batches: Vec<Batch>) -> Check {
    Check { now_ms, phase: Phase::Ramping, stage: 1, share: 100_000, stage_started_ms: 0, batches }
}

fn judge(policy: &Thresholds, batches: Vec<Batch>, memory: &mut Memory) -> (Verdict, Vec<String>) {
    let now = batches.last().map_or(0, |b| b.start_ms + 1_000);
    let judgement = policy.judge(&check(now, batches), memory).unwrap();
    assert_eq!(judgement.evidence, 0);
    (judgement.verdict, judgement.findings.into_iter().map(|f| f.rule).collect())
}

fn once(batch: Batch) -> (Verdict, Vec<String>) {
    judge(&policy(r#"{ "consecutive": 1 }"#), vec![batch], &mut Memory::default())
}

#[test]
fn verdict_is_that_of_the_gravest_rule() {
    assert_eq!(once(served(0, 1_000, 10)), (Verdict::Healthy, vec![]));
    assert_eq!(once(served(0, 1_000, 25)), (Verdict::Warn, vec!["v2-degradation".into()]));
    assert_eq!(once(served(0, 1_000, 200)).0, Verdict::RollBack);
    assert_eq!(once(served(0, 50, 49)), (Verdict::Hold, vec!["too-little-data".into()]));
    assert_eq!(once(served(0, 50, 50)), (Verdict::RollBack, vec!["v2-outage".into(), "too-little-data".into()]));
    assert_eq!(once(batch(0)), (Verdict::Hold, vec!["too-little-data".into()]));
}

#[test]
fn no_batches_are_never_healthy() {
    assert_eq!(judge(&policy("{}"), Vec::new(), &mut Memory::default()).0, Verdict::Hold);
}

#[test]
fn calls_of_several_checks_add_up() {
    let (policy, mut memory) = (policy(r#"{ "longest_window": "1m" }"#), Memory::default());
    assert_eq!(judge(&policy, vec![served(0, 60, 0)], &mut memory).0, Verdict::Hold);
    assert_eq!(judge(&policy, vec![served(1_000, 60, 0)], &mut memory).0, Verdict::Healthy);
    assert_eq!(judge(&policy, vec![served(200_000, 60, 0)], &mut memory).0, Verdict::Hold);
}

#[test]
fn a_service_with_little_traffic_is_judged_over_a_longer_time() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    for minute in 0..60 {
        let verdict = judge(&policy, vec![served(minute * 60_000, 3, 0)], &mut memory).0;
        assert_eq!(verdict, if minute < 33 { Verdict::Hold } else { Verdict::Healthy }, "{minute}");
    }
    let went = (60..120)
        .find(|minute| judge(&policy, vec![served(minute * 60_000, 3, 1)], &mut memory).0 == Verdict::RollBack);
    assert!(went.is_some_and(|minute| minute < 80), "a third of V2's three calls a minute fails: {went:?}");
}

#[test]
fn patience_warns_until_checks_in_a_row_agree() {
    let (policy, mut memory) = (policy(r#"{ "window": "1s" }"#), Memory::default());
    let mut at =
        |second: u64, requests, errors| judge(&policy, vec![served(second * 5_000, requests, errors)], &mut memory);
    let (verdict, rules) = at(0, 1_000, 200);
    assert_eq!((verdict, rules.last().map(String::as_str)), (Verdict::Warn, Some("consecutive")));
    assert_eq!(at(1, 1_000, 0).0, Verdict::Healthy);
    assert_eq!([2, 3].map(|n| at(n, 1_000, 200).0), [Verdict::Warn; 2]);
    assert_ne!(at(4, 0, 0).0, Verdict::RollBack, "a check without calls says neither yes nor no");
    assert_eq!(at(5, 1_000, 200).0, Verdict::RollBack);
}

#[test]
fn host_is_judged_by_its_latest_gauges() {
    let with = |start, cpu| {
        let mut batch = served(start, 1_000, 10);
        batch.gauges = vec![Gauge { name: "host.cpu-ppm".into(), value: cpu }];
        batch
    };
    let at = |batches| judge(&policy("{}"), batches, &mut Memory::default());
    assert_eq!(at(vec![with(0, 990_000), with(1_000, 500_000)]), (Verdict::Healthy, vec![]));
    let expected = (Verdict::Healthy, vec!["host-cpu".into()]);
    assert_eq!(at(vec![with(0, 500_000), with(1_000, 990_000), served(2_000, 1_000, 10)]), expected);
}

#[test]
fn what_v1_was_is_remembered_over_stages() {
    let (policy, mut memory) = (policy(r#"{ "warm_up": 0, "consecutive": 1 }"#), Memory::default());
    assert_eq!(judge(&policy, vec![served(0, 1_000, 0)], &mut memory).0, Verdict::Healthy);
    let mut alone = batch(70_000);
    alone.operations.push(operation("execute"));
    alone.operations[0].v2 = calls(1_000, 0, 300_000);
    let all = Check { stage: 5, share: 1_000_000, stage_started_ms: 70_000, ..check(75_000, vec![alone]) };
    let said = policy.judge(&all, &mut memory).unwrap();
    assert_eq!((said.verdict, said.findings[0].rule.as_str()), (Verdict::RollBack, "v2-p99-ratio"), "{said:?}");
}

#[test]
fn memory_of_versions_before_is_forgotten() {
    let old = r#"{"window":{"stage":{"mirrored":false,"number":1,"started_ms":0},"slices":["0|1|0|||1|0||0|4"]},"rss":"0|0|0|","in_a_row":7}"#;
    assert_eq!(serde_json::from_str::<Memory>(old).unwrap(), Memory::default());
}

#[test]
fn an_hour_of_memory_is_small() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    for second in 0..3_600 {
        let mut batch = served(second * 1_000, 100, 1);
        (batch.v2.ready, batch.v2.rss_bytes) = (4, 400 << 20);
        judge(&policy, vec![batch], &mut memory);
    }
    let bytes = serde_json::to_vec(&memory).unwrap().len();
    assert!(bytes < 16_384, "{bytes} bytes");
}

/// Counts of every magnitude, often none.
fn count() -> impl Strategy<Value = u64> {
    (0_u32..=64, any::<u64>()).prop_map(|(bits, n)| if bits == 0 { 0 } else { n >> (64 - bits) })
}

fn any_calls() -> impl Strategy<Value = Calls> {
    let bucket = (0_u32..2_000, count()).prop_map(|(index, count)| LatencyBucket { index, count });
    let counts = prop::array::uniform6(count());
    (counts, prop::collection::vec(bucket, 0..4)).prop_map(
        |([requests, errors, timeouts, failed_over, units, unit_errors], latency)| Calls {
            requests,
            errors,
            timeouts,
            failed_over,
            units,
            unit_errors,
            latency,
        },
    )
}

prop_compose! {
    fn any_batch()(
        all in prop::array::uniform3(any_calls()), members in prop::array::uniform6(count()), gauges in prop::array::uniform3(any::<i64>()),
        counted in any::<bool>(),
    ) -> Batch {
        let mut batch = batch(0);
        let [v1, v2, shadow] = all;
        batch.operations.push(cutover_policy::OperationCalls { v1, v2, shadow, ..operation("execute") });
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        (batch.v1.wanted, batch.v1.ready, batch.v1.rss_bytes) = (narrow(members[0]), narrow(members[1]), members[2]);
        (batch.v2.wanted, batch.v2.ready, batch.v2.rss_bytes) = (narrow(members[3]), narrow(members[4]), members[5]);
        batch.v2.failures = narrow(members[0]);
        let names = ["host.cpu-ppm", "v2.failed-sessions", "v2.sessions"];
        let gauges = names.into_iter().zip(gauges).filter(|(name, _)| counted || name.starts_with("host"));
        batch.gauges = gauges.map(|(name, value)| Gauge { name: name.into(), value }).collect();
        batch
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Counts of every magnitude, holes of every length, steps of the clock both ways, changes of stage and phase.
    #[test]
    fn any_history_is_judged_and_remembered_in_bounds(
        steps in prop::collection::vec((prop::collection::vec(any_batch(), 0..6), -4_000_000_000_i64..4_000_000_000, 0_u8..12, any::<u64>()), 1..40),
    ) {
        let policy = policy(r#"{ "memory_warm_up": 0 }"#);
        let mut memory = Memory::default();
        let (mut now, mut stage, mut started) = (1_u64 << 40, 0, 1 << 40);
        for (batches, step, kind, odd) in steps {
            now = match kind {
                0 => odd,
                1 | 2 => now.saturating_add_signed(step),
                _ => now.saturating_add(5_000),
            };
            if kind == 3 {
                (stage, started) = (stage + 1, now);
            }
            let dated = (0..).zip(batches).map(|(n, batch)| Batch { start_ms: now.saturating_sub(5_000).saturating_add(n * 1_000), ..batch });
            let phase = if kind == 4 { Phase::Shadow } else { Phase::Ramping };
            let asked = Check { now_ms: now, phase, stage, share: 1, stage_started_ms: started, batches: dated.collect() };
            let said = policy.judge(&asked, &mut memory).unwrap();
            prop_assert!(!(said.verdict == Verdict::RollBack && said.findings.is_empty()));
            let written = serde_json::to_vec(&memory).unwrap();
            prop_assert!(written.len() < 65_536);
            prop_assert_eq!(&serde_json::from_slice::<Memory>(&written).unwrap(), &memory);
        }
    }
}
