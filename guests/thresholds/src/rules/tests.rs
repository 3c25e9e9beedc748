use cutover_contract::histogram;
use cutover_policy::settings::{Share, Span};
use proptest::prelude::*;

use super::*;

/// Calls from a session each, of which all took `us`.
fn total(requests: u64, errors: u64, us: u64) -> Total {
    let mut total = Total { requests, errors, units: requests, failed: errors, ..Total::default() };
    total.latency.add(histogram::index(us), requests);
    total
}

/// The same over the window and in the latest check, in a stage that is old enough.
fn facts(v1: Total, v2: Total) -> Facts {
    let totals = Totals { v1, v2 };
    Facts {
        sessions: Sessions { seen: totals.v2.units, failed: totals.v2.failed },
        latest: totals.clone(),
        window: totals,
        stage_age_ms: 3_600_000,
        ..Facts::default()
    }
}

fn said(settings: &Settings, facts: &Facts) -> Vec<String> {
    let Findings { at_once, roll_back, warn, hold, notice, .. } = ask(settings, facts);
    let levels = [("at once", at_once), ("roll-back", roll_back), ("warn", warn), ("hold", hold), ("notice", notice)];
    levels.into_iter().flat_map(|(l, fs)| fs.into_iter().map(move |f| format!("{l}: {}: {}", f.rule, f.note))).collect()
}

fn by_default(v1: Total, v2: Total) -> Vec<String> {
    said(&Settings::default(), &facts(v1, v2))
}

/// V1 at 1 % errors and 95 ms, as in the migration plan that this product grew from.
fn plan(v2: Total) -> Vec<String> {
    by_default(total(10_000, 100, 95_000), v2)
}

#[test]
fn a_v2_like_v1_is_fine() {
    assert_eq!(plan(total(1_000, 10, 95_000)), [""; 0]);
    assert_eq!(plan(total(1_000, 0, 1_000)), [""; 0]);
}

#[test]
fn three_times_the_errors_and_more_latency_degrade_by_the_mean_of_both() {
    // 3 % errors and 122 ms: (177 + 28) / 2, V1's 100 failures counting as 113.
    assert_eq!(
        plan(total(1_000, 30, 122_000)),
        ["warn: v2-degradation: V2 is 103 % worse than V1 in the mean of latency and errors, more than 10 %"]
    );
}

#[test]
fn statuses_that_moved_warn() {
    let moved = Moved { operation: "post".to_owned(), class: "4xx", ppm: [12_340, 650_000] };
    let facts = Facts { statuses: Some(moved), ..facts(total(1_000, 0, 1), total(1_000, 0, 1)) };
    assert_eq!(
        said(&Settings::default(), &facts),
        [
            "warn: v2-statuses: 4xx are 65 % of V2's answers of post and 1.24 % of V1's, further apart than 10 %, whichever is right"
        ]
    );
}

#[test]
fn error_rate_warns_and_then_rolls_back() {
    let rate = |errors| by_default(Total::default(), total(1_000, errors, 1));
    assert_eq!(rate(54), [""; 0]);
    assert_eq!(rate(55), ["warn: v2-error-rate: V2 fails 5.5 % of its calls, more than 5 %"]);
    assert_eq!(rate(104), ["warn: v2-error-rate: V2 fails 10.4 % of its calls, more than 5 %"]);
    assert_eq!(rate(123), ["roll-back: v2-error-rate: V2 fails 12.3 % of its calls, more than 10 %"]);
}

#[test]
fn a_hair_over_reads_as_over() {
    let settings = Settings { min_errors: 1, ..Settings::default() };
    let Findings { roll_back, .. } = ask(&settings, &facts(Total::default(), total(1_000_000_000, 100_000_001, 1)));
    assert_eq!((roll_back[0].observed, roll_back[0].limit), (100_001, 100_000));
    assert_eq!(roll_back[0].note, "V2 fails 10.1 % of its calls, more than 10 %");
}

#[test]
fn trouble_that_v1_has_too_sends_nobody_back() {
    assert_eq!(
        by_default(total(1_000, 600, 1), total(1_000, 600, 1)),
        ["warn: v2-error-rate: V2 fails 60 % of its calls, more than 10 %; V1 fails 60 % of its own"]
    );
    assert_eq!(
        by_default(total(1_000, 1_000, 1), total(1_000, 115, 1)),
        ["warn: v2-error-rate: V2 fails 11.5 % of its calls, more than 10 %; V1 fails 100 % of its own"]
    );
    assert_eq!(by_default(total(1_000, 60, 1), total(1_000, 60, 1)), [""; 0], "a rate that both live with");
    let twice = by_default(total(1_000, 100, 1), total(1_000, 250, 1));
    assert!(twice[0].starts_with("roll-back: v2-error-rate"), "{twice:?}");
}

#[test]
fn failures_that_a_v1_with_few_calls_may_have_by_chance_are_counted() {
    // One of twenty may be a rate of 25 %, which V2's 60 % is more than twice of.
    let at = |errors| by_default(total(20, 1, 1), total(1_000, errors, 1));
    assert!(at(200)[0].starts_with("warn: v2-error-rate"));
    assert!(at(600)[0].starts_with("roll-back: v2-error-rate"));
    // Fewer than ten say nothing by failing none.
    assert!(by_default(total(3, 0, 1), total(1_000, 200, 1))[0].starts_with("roll-back: v2-error-rate"));
    assert!(by_default(total(3, 1, 1), total(1_000, 200, 1))[0].starts_with("warn: v2-error-rate"));
}

#[test]
fn one_client_that_fails_again_and_again_warns() {
    let one = Total { units: 201, failed: 1, ..total(3_000, 400, 1) };
    assert_eq!(
        by_default(total(3_000, 0, 1), one.clone()),
        [
            "warn: v2-error-rate: V2 fails 13.4 % of its calls, more than 10 %; 1 session failed for the first time, no \
             more than on V1, so it may be one client's fault",
            "warn: v2-error-ratio: V2's error rate is 134x V1's, more than 3x",
        ]
    );
    // Beside others that fail as V1's do.
    let v1 = Total { units: 9_000, failed: 90, ..total(9_000, 90, 1) };
    let beside = Total { units: 3_000, failed: 31, ..total(3_400, 430, 1) };
    assert!(by_default(v1, beside).iter().all(|f| f.starts_with("warn")));
    // Where nearly everybody has failed before, nobody fails for the first time.
    let mut all = facts(total(3_000, 0, 1), Total { units: 2, failed: 0, ..one });
    all.sessions.failed = 200;
    assert!(said(&Settings::default(), &all)[0].starts_with("roll-back"));
}

#[test]
fn errors_that_are_over_warn() {
    let mut past = facts(total(3_000, 0, 1), total(1_000, 200, 1));
    past.latest.v2 = total(100, 3, 1);
    let said = said(&Settings::default(), &past);
    assert!(said[1].ends_with("more than 10 %, but not in this check"), "{said:?}");
    assert!(said[0].starts_with("roll-back: v2-error-ratio"), "it still fails more than V1: {said:?}");
    past.latest.v2 = total(100, 0, 1);
    assert!(ask(&Settings::default(), &past).roll_back.is_empty());
}

#[test]
fn three_times_the_errors_roll_back() {
    assert!(plan(total(1_000, 37, 95_000)).iter().all(|f| f.starts_with("warn")));
    assert_eq!(
        plan(total(1_000, 38, 95_000))[0],
        "roll-back: v2-error-ratio: V2's error rate is 3.37x V1's, more than 3x"
    );
}

#[test]
fn errors_of_a_v1_without_any_count_as_the_floor() {
    let at = |errors| by_default(total(10_000, 0, 1), total(10_000, errors, 1));
    assert!(at(34).iter().all(|f| f.starts_with("warn: v2-degradation")));
    assert!(at(35)[0].starts_with("roll-back: v2-error-ratio"));
    assert_eq!(by_default(total(3_000, 0, 1), total(300, 1, 1)), [""; 0], "one failed call is nothing");
}

#[test]
fn twice_the_p99_rolls_back() {
    assert!(plan(total(1_000, 10, 180_000)).iter().all(|f| f.starts_with("warn: v2-degradation")));
    assert_eq!(
        plan(total(1_000, 10, 210_000))[..2],
        [
            "roll-back: v2-p99-ratio: V2's p99 is 2.22x V1's, more than 2x",
            "warn: v2-p99: V2's p99 is 213 ms, more than 200 ms",
        ]
    );
}

#[test]
fn a_cold_start_warns() {
    let mut v2 = total(197, 0, 20_000);
    v2.latency.add(histogram::index(900_000), 3);
    v2.requests = 200;
    assert_eq!(by_default(total(4_000, 0, 20_000), v2), ["warn: v2-p99: V2's p99 is 902 ms, more than 200 ms"]);
    let mut young = facts(total(4_000, 0, 20_000), total(200, 0, 150_000));
    young.stage_age_ms = 29_999;
    assert!(said(&Settings::default(), &young)[0].starts_with("warn: v2-p99-ratio"));
    young.stage_age_ms = 30_000;
    assert!(said(&Settings::default(), &young)[0].starts_with("roll-back: v2-p99-ratio"));
    young.latest.v2 = total(200, 0, 20_000);
    assert!(said(&Settings::default(), &young)[0].starts_with("warn: v2-p99-ratio"), "it is over");
}

#[test]
fn latency_that_nobody_feels_is_shown_and_no_reason_to_stay() {
    assert_eq!(
        by_default(total(6_000, 0, 215), total(600, 0, 300)),
        ["notice: v2-degradation: V2 is 20.5 % worse than V1 in the mean of latency and errors, more than 10 %"]
    );
    let busy = by_default(total(6_000, 0, 3_000), total(600, 0, 7_000));
    assert!(busy.iter().all(|f| f.starts_with("notice")), "{busy:?}");
    assert!(by_default(total(6_000, 0, 3_000), total(600, 0, 40_000))[0].starts_with("roll-back: v2-p99-ratio"));
    let none = Settings { p99_floor: Span(0), ..Settings::default() };
    assert!(said(&none, &facts(total(6_000, 0, 3_000), total(600, 0, 7_000)))[0].starts_with("roll-back"));
}

#[test]
fn a_slow_service_whose_v1_is_as_slow_is_fine() {
    assert_eq!(by_default(total(6_000, 0, 800_000), total(600, 0, 800_000)), [""; 0]);
}

#[test]
fn without_calls_of_v1_its_memory_stands_for_it() {
    let mut alone = facts(Total::default(), total(4_000, 0, 90_000));
    alone.v1_p99_us = Some(20_000);
    assert_eq!(
        said(&Settings::default(), &alone)[0],
        "roll-back: v2-p99-ratio: V2's p99 is 4.51x what V1's was, more than 4x"
    );
    alone.v1_p99_us = Some(30_000);
    assert_eq!(said(&Settings::default(), &alone), [""; 0]);
    let mut unknown = facts(Total::default(), total(4_000, 0, 8_000_000));
    assert_eq!(said(&Settings::default(), &unknown), ["roll-back: v2-p99: V2's p99 is 8.13 s, more than 5 s"]);
    unknown.window.v2 = total(4_000, 0, 4_000_000);
    assert!(said(&Settings::default(), &unknown)[0].starts_with("warn: v2-p99"));
}

#[test]
fn ratios_need_calls_of_v1() {
    assert_eq!(by_default(total(99, 0, 1), total(1_000, 40, 100_000)), [""; 0]);
}

#[test]
fn a_run_of_failures_is_an_outage() {
    let run = |calls, failed, v1_requests, v1_errors| {
        let facts =
            Facts { run: Run { calls, failed, v1_requests, v1_errors }, ..facts(Total::default(), Total::default()) };
        ask(&Settings::default(), &facts).at_once.into_iter().map(|f| f.note).collect::<Vec<_>>()
    };
    let none = [""; 0];
    assert_eq!(run(10, 2, 90, 1), ["V2 failed its last 10 calls, all of them; V1 failed 1 of 90 meanwhile"]);
    assert_eq!(run(9, 9, 90, 0), none);
    assert_eq!(run(10, 2, 0, 0).len(), 1, "V1 is not asked, so nothing says that it fails too");
    assert_eq!(run(10, 2, 90, 45), none, "V1 fails every other");
    assert_eq!(run(99, 1, 90, 0), none, "one client");
    assert_eq!(run(100, 1, 90, 0).len(), 1, "nobody else was answered");
    let never = Settings { outage_requests: 0, ..Settings::default() };
    let facts = Facts { run: Run { calls: 1_000, failed: 9, ..Run::default() }, ..Facts::default() };
    assert!(ask(&never, &facts).at_once.is_empty());
}

#[test]
fn too_few_calls_say_so_but_workers_and_host_are_judged() {
    let mut facts = facts(total(1_000, 0, 1), total(99, 99, 1_000_000));
    let hold = "hold: too-little-data: V2 answered 99 of the 100 calls that a verdict needs";
    assert_eq!(said(&Settings::default(), &facts), [hold]);
    facts.failures = Failures { v1: 0, v1_wanted: 2, v2: 3, v2_wanted: 4 };
    facts.growth = Some(Growth { ppm: 200_000, sure_ppm: 100_001 });
    facts.cpu_ppm = Some(800_001);
    facts.memory_ppm = Some(950_000);
    assert_eq!(
        said(&Settings::default(), &facts),
        [
            "roll-back: v2-worker-failures: workers of V2 failed 3 times, 75 % of 4, more than 10 %",
            "roll-back: v2-memory-growth: the memory of V2's workers grows 20 % an hour, more than 10 %",
            "warn: host-memory: the host uses 95 % of its memory, more than 90 %",
            hold,
            "notice: host-cpu: the host uses 80.1 % of its processors, more than 80 %",
        ]
    );
}

#[test]
fn too_few_sessions_say_so() {
    let mut few = facts(Total::default(), total(1_000, 0, 1));
    few.sessions.seen = 2;
    assert_eq!(
        said(&Settings::default(), &few),
        ["hold: too-little-data: 2 of the 3 sessions that a verdict needs were on V2 in this stage"]
    );
    few.mirrored = true;
    assert_eq!(said(&Settings::default(), &few), [""; 0], "mirrored calls have none");
}

#[test]
fn a_worker_that_is_restarted_is_no_failure_rate() {
    let at = |v1, v2, v2_wanted| {
        let facts = Facts {
            failures: Failures { v1, v1_wanted: 4, v2, v2_wanted },
            ..facts(Total::default(), total(500, 0, 1))
        };
        said(&Settings::default(), &facts)
    };
    assert_eq!(at(0, 1, 1), [""; 0]);
    assert_eq!(at(0, 2, 1), [""; 0]);
    assert!(at(0, 3, 1)[0].starts_with("roll-back"));
    assert_eq!(at(0, 10, 100), [""; 0]);
    assert_eq!(
        at(4, 6, 4),
        ["warn: v2-worker-failures: workers of V2 failed 6 times, 150 % of 4, more than 10 %; V1's failed 4 times"]
    );
}

#[test]
fn at_the_limit_nothing_speaks() {
    let mut facts = facts(total(1_000, 0, 1), total(1_000, 0, 1));
    facts.failures = Failures { v1: 0, v1_wanted: 0, v2: 10, v2_wanted: 100 };
    facts.growth = Some(Growth { ppm: 300_000, sure_ppm: 100_000 });
    (facts.cpu_ppm, facts.memory_ppm) = (Some(800_000), Some(900_000));
    assert_eq!(said(&Settings::default(), &facts), [""; 0]);
}

/// Counts of every magnitude.
fn counts() -> impl Strategy<Value = u64> {
    (0_u32..=64, any::<u64>()).prop_map(|(bits, n)| if bits == 0 { 0 } else { n >> (64 - bits) })
}

prop_compose! {
    fn any_total()(requests in counts(), part in 0_u64..=1_000, units in counts(), us in counts()) -> Total {
        let (requests, units) = (requests.min(1 << 40), units.min(1 << 40));
        Total { units, failed: units / 1_000 * part, ..total(requests, requests / 1_000 * part, us) }
    }
}

prop_compose! {
    fn any_facts()(
        v1 in any_total(), v2 in any_total(), one in any_total(), other in any_total(), run in prop::array::uniform4(counts()),
        more in prop::array::uniform6(counts()), growth in prop::array::uniform2(counts()), mirrored in any::<bool>(),
    ) -> Facts {
        let [calls, failed, v1_requests, v1_errors] = run;
        let [age, p99, v1_failures, v2_failures, wanted, gauge] = more;
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Facts {
            window: Totals { v1, v2 },
            latest: Totals { v1: one, v2: other },
            run: Run { calls, failed, v1_requests, v1_errors },
            sessions: Sessions { seen: calls, failed },
            mirrored,
            stage_age_ms: age,
            v1_p99_us: Some(p99),
            statuses: (calls > failed).then(|| Moved { operation: "a".to_owned(), class: "4xx", ppm: [0, 100_001] }),
            failures: Failures { v1: v1_failures, v1_wanted: narrow(gauge), v2: v2_failures, v2_wanted: narrow(wanted) },
            growth: Some(Growth { ppm: growth[0], sure_ppm: growth[1] }),
            cpu_ppm: Some(gauge),
            memory_ppm: Some(gauge),
        }
    }
}

proptest! {
    #[test]
    fn any_facts_are_judged_and_every_finding_is_over_its_limit(facts in any_facts()) {
        let Findings { at_once, roll_back, warn, notice, .. } = ask(&Settings::default(), &facts);
        for finding in at_once.iter().chain(&roll_back).chain(&warn).chain(&notice) {
            let cut = finding.observed == i64::MAX;
            prop_assert!(finding.observed > finding.limit || cut, "{finding:?}");
        }
    }

    #[test]
    fn more_errors_never_look_better(requests in 100_u64..10_000, a in 0_u64..10_000, b in 0_u64..10_000, v1 in any_total()) {
        let at = |errors: u64| {
            let Findings { roll_back, warn, .. } = ask(&Settings::default(), &facts(v1.clone(), total(requests, errors.min(requests), 1)));
            (!roll_back.is_empty(), !roll_back.is_empty() || !warn.is_empty())
        };
        prop_assert!(at(a.min(b)) <= at(a.max(b)));
    }

    #[test]
    fn a_v2_that_fails_no_more_than_v1_never_goes_back_for_its_errors(v1 in any_total(), part in 0_u64..=100, rate in 1_u32..1_000_000) {
        let v2 = total(v1.requests, v1.errors / 100 * part, 1);
        let settings = Settings { max_error_rate: Share(rate), warn_error_rate: Share(rate), ..Settings::default() };
        let v1 = Total { units: v1.requests, failed: v1.errors, ..v1 };
        let Findings { roll_back, .. } = ask(&settings, &facts(v1, v2));
        prop_assert!(roll_back.iter().all(|f| !f.rule.contains("error")), "{roll_back:?}");
    }
}
