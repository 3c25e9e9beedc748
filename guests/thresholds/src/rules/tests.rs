use proptest::prelude::*;

use super::*;

fn total(requests: u64, errors: u64, p99_us: u64) -> Total {
    Total { requests, errors, p99_us: Some(p99_us) }
}

fn facts(v1: Total, v2: Total) -> Facts {
    Facts { totals: Totals { v1, v2, failures: 0, wanted: 4 }, ..Facts::default() }
}

fn said(settings: &Settings, facts: &Facts) -> Vec<String> {
    let Findings { roll_back, warn, hold } = ask(settings, facts);
    let levels = [("roll-back", roll_back), ("warn", warn), ("hold", hold)];
    levels.into_iter().flat_map(|(l, fs)| fs.into_iter().map(move |f| format!("{l}: {}: {}", f.rule, f.note))).collect()
}

/// V1 at 1 % errors and 95 ms, as in the migration plan that this product grew from.
fn plan(v2: Total) -> Vec<String> {
    said(&Settings::default(), &facts(total(10_000, 100, 95_000), v2))
}

#[test]
fn a_v2_like_v1_is_fine() {
    assert_eq!(plan(total(1_000, 10, 95_000)), [""; 0]);
    assert_eq!(plan(total(1_000, 0, 1_000)), [""; 0]);
}

#[test]
fn numbers_of_the_plan_degrade_by_fifty_eight() {
    // 2 % errors and 110 ms: (15.8 + 100) / 2.
    assert_eq!(
        plan(total(1_000, 20, 110_000)),
        ["warn: v2-degradation: V2 is 57.9 % worse than V1 in the mean of latency and errors, more than 10 %"]
    );
}

#[test]
fn error_rate_warns_and_then_rolls_back() {
    let rate = |errors| {
        let said = said(&Settings::default(), &facts(total(10, 0, 1), total(1_000, errors, 1)));
        (said.len() < 2).then(|| said.into_iter().next()).unwrap()
    };
    assert_eq!(rate(50), None);
    assert_eq!(rate(51).unwrap(), "warn: v2-error-rate: V2 fails 5.1 % of its calls, more than 5 %");
    assert_eq!(rate(100).unwrap(), "warn: v2-error-rate: V2 fails 10 % of its calls, more than 5 %");
    assert_eq!(rate(123).unwrap(), "roll-back: v2-error-rate: V2 fails 12.3 % of its calls, more than 10 %");
}

#[test]
fn a_hair_over_reads_as_over() {
    let facts = facts(Total::default(), total(1_000_000_000, 100_000_001, 1));
    let Findings { roll_back, .. } = ask(&Settings::default(), &facts);
    assert_eq!((roll_back[0].observed, roll_back[0].limit), (100_001, 100_000));
    assert_eq!(roll_back[0].note, "V2 fails 10.1 % of its calls, more than 10 %");
}

#[test]
fn three_times_the_errors_roll_back() {
    assert!(plan(total(1_000, 30, 95_000)).iter().all(|f| f.starts_with("warn")));
    assert_eq!(
        plan(total(1_000, 31, 95_000))[0],
        "roll-back: v2-error-ratio: V2's error rate is 3.1x V1's, more than 3x"
    );
}

#[test]
fn errors_of_a_v1_without_any_count_as_the_floor() {
    let at = |errors| said(&Settings::default(), &facts(total(10_000, 0, 1), total(10_000, errors, 1)));
    assert!(at(30).iter().all(|f| f.starts_with("warn: v2-degradation")));
    assert!(at(31)[0].starts_with("roll-back: v2-error-ratio"));
}

#[test]
fn twice_the_p99_rolls_back() {
    assert!(plan(total(1_000, 10, 190_000)).iter().all(|f| f.starts_with("warn: v2-degradation")));
    assert_eq!(
        plan(total(1_000, 10, 210_000))[..2],
        [
            "roll-back: v2-p99-ratio: V2's p99 is 2.22x V1's, more than 2x",
            "warn: v2-p99: V2's p99 is 210 ms, more than 200 ms",
        ]
    );
}

#[test]
fn p99_rules_are_silent_below_the_floor() {
    let settings = Settings { p99_floor: cutover_policy::settings::Span(5), ..Settings::default() };
    let at = |us| said(&settings, &facts(total(1_000, 0, 100), total(1_000, 0, us)));
    assert_eq!(at(4_999), [""; 0]);
    assert!(at(5_000)[0].starts_with("roll-back: v2-p99-ratio"));
}

#[test]
fn ratios_need_calls_of_v1() {
    let few = facts(total(99, 0, 1), total(1_000, 40, 100_000));
    assert_eq!(said(&Settings::default(), &few), [""; 0]);
}

#[test]
fn too_few_calls_say_so_but_workers_and_host_are_judged() {
    let mut facts = facts(total(1_000, 0, 1), total(99, 99, 1_000_000));
    assert_eq!(
        said(&Settings::default(), &facts),
        ["hold: too-little-data: V2 answered 99 of the 100 calls that a verdict needs"]
    );
    facts.totals.failures = 1;
    facts.growth_ppm = Some(100_001);
    facts.cpu_ppm = Some(800_001);
    facts.memory_ppm = Some(950_000);
    assert_eq!(
        said(&Settings::default(), &facts),
        [
            "roll-back: v2-worker-failures: workers of V2 failed 1 times, 25 % of 4, more than 10 %",
            "roll-back: v2-memory-growth: the memory of V2's workers grows 10.1 % an hour, more than 10 %",
            "warn: host-cpu: the host uses 80.1 % of its processors, more than 80 %",
            "warn: host-memory: the host uses 95 % of its memory, more than 90 %",
            "hold: too-little-data: V2 answered 99 of the 100 calls that a verdict needs",
        ]
    );
}

#[test]
fn at_the_limit_nothing_speaks() {
    let mut facts = facts(total(1_000, 0, 1), total(1_000, 0, 1));
    (facts.totals.failures, facts.totals.wanted) = (1, 10);
    (facts.growth_ppm, facts.cpu_ppm, facts.memory_ppm) = (Some(100_000), Some(800_000), Some(900_000));
    assert_eq!(said(&Settings::default(), &facts), [""; 0]);
}

prop_compose! {
    fn any_total()(requests in 0_u64..1 << 40, part in 0_u64..=1_000, p99_us in 0_u64..10_000_000_000) -> Total {
        Total { requests, errors: requests / 1_000 * part, p99_us: (requests > 0).then_some(p99_us) }
    }
}

proptest! {
    #[test]
    fn any_facts_are_judged_and_every_finding_is_over_its_limit(v1 in any_total(), v2 in any_total()) {
        let Findings { roll_back, warn, .. } = ask(&Settings::default(), &facts(v1, v2));
        for finding in roll_back.iter().chain(&warn) {
            prop_assert!(finding.observed > finding.limit, "{finding:?}");
        }
    }

    #[test]
    fn more_errors_never_look_better(requests in 100_u64..10_000, a in 0_u64..10_000, b in 0_u64..10_000, v1 in any_total()) {
        let at = |errors: u64| {
            let Findings { roll_back, warn, .. } = ask(&Settings::default(), &facts(v1, total(requests, errors.min(requests), 1)));
            (!roll_back.is_empty(), !roll_back.is_empty() || !warn.is_empty())
        };
        prop_assert!(at(a.min(b)) <= at(a.max(b)));
    }
}
