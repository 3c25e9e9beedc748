//! The script twins of the shipped policies give the answers of their originals.

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Finding, Gauge, OperationCalls},
    port::{Check, Comparison, Phase, Progress, Verdict},
    request::{Class, Ppm},
};

use super::{bundle, generate::Draw};

#[test]
fn sticky_share_makes_the_plans_of_its_original() {
    for settings in [
        "",
        "override_header = ''\nunshadowed = ['list']",
        "sticky = 'header:x-user'\noverride_header = 'X-Pool'\nshadow_share = '50%'\npinned = { list = 'v2', execute = 'v1' }",
    ] {
        let (original, twin) = (bundle("sticky-share", settings), bundle("sticky-share-rhai", settings));
        for number in 0..40 {
            let situation = Draw::new(number).situation();
            let plan = original.make_plan(&situation, &[]).answer.unwrap();
            assert_eq!(twin.make_plan(&situation, &[]).answer, Ok(plan), "{settings} {number}");
        }
    }
}

#[test]
fn standard_stages_takes_the_steps_of_its_original() {
    for settings in [
        "",
        "complete_after = '2h'\nshadow = { soak = '1h', min_compared = 50, max_different = '2%' }",
        "min_requests = 2000\nstages = [{ share = '30%', soak = '1h' }, { share = '100%', soak = '3h' }]\ncomplete_after = '1h'",
    ] {
        let (original, twin) = (bundle("standard-stages", settings), bundle("standard-stages-rhai", settings));
        let mut actions = std::collections::BTreeSet::new();
        for number in 0..12 {
            let mut draw = Draw::new(number);
            let phase = draw.of(&[Phase::Shadow, Phase::Ramping, Phase::Ramping, Phase::Paused]);
            let stage = if phase == Phase::Ramping { u32::try_from(draw.below(7)).unwrap() } else { 0 };
            // Shares of the list, and others.
            let share = draw.of(&[1, 50_000, 100_000, 250_000, 300_000, 310_000, 750_000, 1_000_000]);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let mut started = 0;
            for minutes in [10, 59, 60, 61, 119, 121, 300, 1_500] {
                let now = minutes * 60_000;
                if draw.one_in(9) {
                    started = now - 2_000;
                }
                let check = Check {
                    now_ms: UnixMs(now),
                    phase,
                    stage,
                    share: Ppm::new(share),
                    stage_started_ms: UnixMs(started),
                    batches: (1..5).rev().map(|ago| draw.batch_with_pairs(now - ago * 1_000)).collect(),
                };
                let verdict = draw.of(&[Verdict::Healthy, Verdict::Healthy, Verdict::Hold, Verdict::Warn]);
                let progress = Progress { check, verdict, forced: draw.one_in(6) };
                let (a, b) = (original.next(&progress, &one), twin.next(&progress, &other));
                assert_eq!(b.answer, a.answer, "{settings} {number} {minutes}");
                actions.insert(format!("{:?}", a.answer.unwrap().action).split('(').next().unwrap().to_owned());
                (one, other) = (a.memory, b.memory);
            }
        }
        assert!(actions.len() >= 3, "the inputs reach every action: {actions:?}");
    }
}

/// A second of a migration in which V2's memory grows in some runs, its sessions are counted in others, and its calls fail
/// from a step on: none, all, or half of them. In one run V2 is as V1, and sound.
fn troubled(draw: &mut Draw, start_ms: u64, number: u64, step: u64) -> Batch {
    let mut batch = draw.batch(start_ms);
    batch.v2.ready = batch.v2.ready.max(1);
    if number.is_multiple_of(2) {
        let grown = u64::from(number % 4 == 2) * start_ms * 40;
        batch.v2.rss_bytes = u64::from(batch.v2.ready) * ((100 << 20) + grown + draw.below(1 << 20));
        (batch.v1.ready, batch.v1.rss_bytes) = (2, (200 << 20) + draw.below(1 << 20));
    } else {
        for name in ["v1.failed-sessions", "v1.sessions", "v2.failed-sessions", "v2.sessions"] {
            batch.gauges.push(Gauge { name: name.into(), value: i64::try_from(draw.below(8)).unwrap() });
        }
    }
    (batch.v1.wanted, batch.v1.failures) = (2, u32::from(draw.one_in(60)));
    if number == 4 {
        batch.v2.failures = 0;
        for operation in &mut batch.operations {
            operation.v1.errors = 0;
            operation.v2 = operation.v1.clone();
        }
        return batch;
    }
    for calls in batch.operations.iter_mut().flat_map(|o| [&mut o.v2, &mut o.shadow]) {
        match number % 4 {
            _ if step < 20 => {}
            1 => calls.errors = calls.requests,
            2 => calls.errors = calls.requests / 2,
            _ => {}
        }
        calls.unit_errors = calls.errors;
    }
    batch
}

#[test]
fn thresholds_gives_the_verdicts_of_its_original() {
    let (mut rules, mut verdicts) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for settings in [
        "",
        "window = '5m'\nmin_requests = 20\nconsecutive = 1\np99_floor = '50ms'\nmemory_span = '1m'\nmemory_warm_up = '1m'\n\
         warm_up = '0s'\nmin_worker_failures = 1\nfailures_window = '1m'\nshared_ratio = 1.5\nlongest_window = '5m'",
        "min_requests = 3000\nmin_sessions = 90\nmin_failed_sessions = 9\nmin_slow_calls = 1\noutage_sessions = 40",
    ] {
        let (original, twin) = (bundle("thresholds", settings), bundle("thresholds-rhai", settings));
        for number in 0..8 {
            let mut draw = Draw::new(number);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let (mut stage, mut started) = (0, 0);
            for step in 1..40_u64 {
                // The clock of one run is set back half an hour.
                let now = step * 20_000 + 3_600_000 - u64::from(number == 6 && step > 30) * 1_800_000;
                if draw.one_in(12) {
                    (stage, started) = (stage + 1, now - 3_500);
                }
                let check = Check {
                    now_ms: UnixMs(now),
                    phase: if number % 4 == 3 { Phase::Shadow } else { Phase::Ramping },
                    stage,
                    share: Ppm::new(100_000),
                    stage_started_ms: UnixMs(started),
                    batches: (1..6).rev().map(|ago| troubled(&mut draw, now - ago * 1_000, number, step)).collect(),
                };
                let (a, b) = (original.judge(&check, &one), twin.judge(&check, &other));
                assert_eq!(b.answer, a.answer, "{settings} {number} {step}");
                let judged = a.answer.unwrap();
                verdicts.insert(judged.verdict.name());
                rules.extend(judged.findings.into_iter().map(|f: Finding| f.rule));
                (one, other) = (a.memory, b.memory);
            }
        }
    }
    assert_eq!((rules.len(), verdicts.len()), (13, 4), "the inputs reach every rule: {rules:?} {verdicts:?}");
}

/// A second in which little goes wrong, but for what is wrong with V2 in this run: its errors, everything, its workers,
/// or nothing. The draws alone fail so often that each run would end with the first check.
fn second(draw: &mut Draw, start_ms: u64, fault: u64) -> Batch {
    let mut batch = draw.batch(start_ms);
    for operation in &mut batch.operations {
        for calls in [&mut operation.v1, &mut operation.v2, &mut operation.shadow] {
            calls.errors = u64::from(calls.requests > 0 && draw.one_in(30));
            calls.unit_errors = calls.errors;
        }
        for calls in [&mut operation.v2, &mut operation.shadow] {
            match fault {
                1 if draw.one_in(4) => calls.errors = (calls.requests / 20).max(calls.errors),
                2 => calls.errors = calls.requests,
                _ => {}
            }
            calls.unit_errors = calls.errors;
        }
    }
    batch.v1.ready = 4;
    batch.v2.failures = u32::from(fault == 3 && draw.one_in(2));
    batch
}

/// Findings and verdicts are the same; evidence may differ in the last millionth, because the interpreter's logarithm is
/// not the one of the original.
#[test]
fn sequential_gives_the_verdicts_of_its_original() {
    let (mut rules, mut verdicts) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
    for settings in [
        "",
        "effects = 5\nslow_window = '1m'\nmax_error_odds = 1.5\nmax_p99_ratio = 1.5\nalpha_warn = '30%'\nbeta = '20%'",
        "weight_errors = '10%'\nweight_statuses = '0%'\nweight_slow = '30%'\nweight_p99 = '20%'\nweight_failures = '40%'\nslow_floor = '60ms'",
    ] {
        let (original, twin) = (bundle("sequential", settings), bundle("sequential-rhai", settings));
        for number in 0..8 {
            let mut draw = Draw::new(number);
            let (mut one, mut other) = (Vec::new(), Vec::new());
            let (mut stage, mut started) = (0, 0);
            let mut now = 0;
            for step in 1..40_u64 {
                if draw.one_in(15) {
                    (stage, started) = (stage + 1, now + 2_500);
                }
                // Mostly a check of five seconds, at times one after a stall.
                let seconds = draw.of(&[5, 5, 5, 7, 40]);
                let fault = if step < 20 { 0 } else { number % 4 };
                let batches = (0..seconds).map(|n| second(&mut draw, now + n * 1_000, fault)).collect();
                now += seconds * 1_000;
                let check = Check {
                    now_ms: UnixMs(now),
                    phase: if number == 5 { Phase::Shadow } else { Phase::Ramping },
                    stage,
                    share: Ppm::new(100_000),
                    stage_started_ms: UnixMs(started),
                    batches,
                };
                let (a, b) = (original.judge(&check, &one), twin.judge(&check, &other));
                let (expected, got) = (a.answer.unwrap(), b.answer.unwrap());
                assert_eq!(got.findings, expected.findings, "{settings} {number} {step}");
                assert_eq!(got.verdict, expected.verdict, "{settings} {number} {step}");
                let off = got.evidence.abs_diff(expected.evidence);
                assert!(off <= 1, "{settings} {number} {step}: {} and {}", got.evidence, expected.evidence);
                verdicts.insert(expected.verdict.name());
                rules.extend(expected.findings.into_iter().map(|f: Finding| f.rule));
                (one, other) = (a.memory, b.memory);
            }
        }
    }
    assert!(rules.len() >= 6 && verdicts.len() >= 3, "the inputs reach what they are for: {rules:?} {verdicts:?}");
}

/// A second in which V1 has a call or two at times, and V2 has more; V2's take so many times as long.
fn rare(draw: &mut Draw, start_ms: u64, serves_v1: bool, times: u64) -> Batch {
    let mut batch = draw.batch(start_ms);
    batch.gauges.clear();
    batch.v2 = batch.v1;
    batch.operations.truncate(1);
    let mut calls = |most: u64, times: u64| {
        let requests = draw.below(most + 1);
        let errors = u64::from(requests > 0 && draw.one_in(9));
        let mut calls = Calls { requests, errors, units: requests, unit_errors: errors, ..Calls::default() };
        (0..requests).for_each(|_| calls.latency.record((10_000 + draw.below(40_000)) * times));
        calls
    };
    let (v1, v2) = (calls(u64::from(serves_v1), 1), calls(2, times));
    let execute = OperationCalls { operation: "execute".into(), class: Class::Read, v1, v2, shadow: Calls::default() };
    batch.operations = vec![execute];
    batch
}

/// Of a V1 that has few calls, later still fewer, and at last none: what its p99 is, and whether it is gone.
#[test]
fn sequential_and_its_twin_know_the_same_of_a_v1_with_few_calls() {
    let mut rules = std::collections::BTreeSet::new();
    for (settings, share, times) in [
        ("", 750_000, 1),
        ("alpha_rollback = '0.0001%'\nwarm_up = '0s'", 750_000, 100),
        ("slow_window = '1m'\nobjective_p99 = '200ms'\nunsafe_error_rate = '50%'", 900_000, 1),
        ("objective_p99 = '200ms'", 900_000, 100),
    ] {
        let (original, twin) = (bundle("sequential", settings), bundle("sequential-rhai", settings));
        let mut draw = Draw::new(share);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let (mut now, mut started, mut stage) = (1_000_000, 1_000_000, 0);
        for step in 0..450_u64 {
            let gone = (260..300).contains(&step) || step >= 400;
            let length = if step < 200 { 5_000 } else { 400_000 };
            if step == 150 || step == 400 {
                (stage, started) = (stage + 1, now);
            }
            let served = |draw: &mut Draw| !gone && draw.one_in(2);
            let batches = (0..4).map(|n| {
                let serves_v1 = served(&mut draw);
                rare(&mut draw, now + n * 1_000, serves_v1, times)
            });
            let check = Check {
                batches: batches.collect(),
                now_ms: UnixMs(now + 5_000),
                phase: Phase::Ramping,
                stage,
                share: Ppm::new(if stage == 2 { 1_000_000 } else { u32::try_from(share).unwrap() }),
                stage_started_ms: UnixMs(started),
            };
            let (a, b) = (original.judge(&check, &one), twin.judge(&check, &other));
            let (expected, got) = (a.answer.unwrap(), b.answer.unwrap());
            assert_eq!((got.verdict, &got.findings), (expected.verdict, &expected.findings), "{settings} {step}");
            rules.extend(expected.findings.into_iter().map(|f: Finding| f.rule));
            (one, other, now) = (a.memory, b.memory, now + length);
        }
    }
    for rule in ["combined-errors", "latency-unjudged", "v2-p99", "v2-slow-alone"] {
        assert!(rules.contains(rule), "{rule}: {rules:?}");
    }
}

/// Nothing that fits the contract is an error, in the sandbox as natively.
#[test]
fn sequential_and_its_twin_judge_counts_of_any_size() {
    let (original, twin) = (bundle("sequential", ""), bundle("sequential-rhai", ""));
    for number in 0..6 {
        let mut draw = Draw::new(number);
        let (mut one, mut other) = (Vec::new(), Vec::new());
        for step in 0..10_u64 {
            let mut batch = second(&mut draw, step * 5_000, number % 4);
            for operation in &mut batch.operations {
                for calls in [&mut operation.v1, &mut operation.v2, &mut operation.shadow] {
                    for count in [&mut calls.requests, &mut calls.errors, &mut calls.units, &mut calls.unit_errors] {
                        *count = count.saturating_mul(1 << draw.below(63));
                    }
                }
            }
            let check = Check {
                now_ms: UnixMs(step * 5_000 + 5_000),
                phase: Phase::Ramping,
                stage: 0,
                share: Ppm::new(100_000),
                stage_started_ms: UnixMs(0),
                batches: vec![batch],
            };
            let (a, b) = (original.judge(&check, &one), twin.judge(&check, &other));
            assert!(a.answer.is_ok() && b.answer.is_ok(), "{number} {step}: {:?} {:?}", a.answer, b.answer);
            (one, other) = (a.memory, b.memory);
        }
    }
}

/// What a comparison says, without the words for people in which two JSON readers may differ.
fn without_words(outcomes: Vec<Comparison>) -> Vec<Comparison> {
    let plain = |outcome| match outcome {
        Comparison::Incomparable(_) => Comparison::Incomparable(String::new()),
        other => other,
    };
    outcomes.into_iter().map(plain).collect()
}

#[test]
fn comparisons_find_the_differences_of_their_originals() {
    for (name, settings) in [
        ("exact-compare", ""),
        ("json-compare", ""),
        ("json-compare", "unordered = ['/**']\nmax_differences = 3\nerror_messages = 'compare'"),
        (
            "json-compare",
            "ignore = [{ path = '/items/*/a' }]\ntolerance = { absolute = 1, relative = 0 }\nunordered = ['/**/items']",
        ),
    ] {
        let (original, twin) = (bundle(name, settings), bundle(&format!("{name}-rhai"), settings));
        let mut kinds = std::collections::BTreeSet::new();
        for number in 0..40 {
            let mut draw = Draw::new(number);
            let pairs: Vec<_> = (0..10).map(|_| draw.pair()).collect();
            let outcomes = original.compare(&pairs).answer.unwrap();
            let twins = twin.compare(&pairs).answer.unwrap();
            for ((pair, a), b) in pairs.iter().zip(without_words(outcomes)).zip(without_words(twins)) {
                assert_eq!(b, a, "{name} {settings} {number}: {} {}", text(&pair.v1.body), text(&pair.v2.body));
                kinds.insert(format!("{a:?}").split('(').next().unwrap().to_owned());
            }
        }
        assert!(kinds.len() >= 2 && (name == "exact-compare" || kinds.len() == 4), "{kinds:?}");
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// Five seconds of one operation, in which each pool answers and fails as told, by so many units, and the host counts
/// sessions as told.
fn told(n: u64, v1: [u64; 4], v2: [u64; 4], gauges: &[(&str, i64)]) -> Batch {
    let calls = |[requests, errors, units, unit_errors]: [u64; 4]| Calls {
        requests,
        errors,
        units,
        unit_errors,
        ..Calls::default()
    };
    let execute = OperationCalls {
        operation: "execute".into(),
        class: Class::Read,
        v1: calls(v1),
        v2: calls(v2),
        shadow: Calls::default(),
    };
    let mut batch = Draw::new(n).batch(n * 5_000);
    batch.operations = if v1 == [0; 4] && v2 == [0; 4] { Vec::new() } else { vec![execute] };
    batch.v2 = batch.v1;
    batch.gauges = gauges.iter().map(|&(name, value)| Gauge { name: name.into(), value }).collect();
    batch
}

/// What is seldom drawn: the two say the same at each check, and once what each is here for.
#[test]
fn judges_and_their_twins_say_the_same_of_odd_traffic() {
    type Told = fn(u64) -> Batch;
    let few: Told = |n| {
        let units = u64::from(n == 0);
        told(n, [2_000, 0, units, 0], [230, 177, units, units], &[("v2.failed-sessions", 0), ("v2.sessions", 0)])
    };
    let alone: Told = |n| {
        let v1 = if n < 60 { [3, 1, 3, 1] } else { [0; 4] };
        told(n, v1, [9, 3, 9, 3], &[])
    };
    let worse: Told = |n| {
        let (v1, bad) = if n < 60 { ([3, 0, 3, 0], 0) } else { ([0; 4], 3) };
        told(n, v1, [9, bad, 9, bad], &[])
    };
    let nobody: Told = |n| told(n, [0; 4], [0; 4], &[("v2.failed-sessions", 3), ("v2.sessions", 25)]);
    let negative: Told = |n| told(n, [30, 0, 30, 0], [30, 0, 30, 0], &[("v1.sessions", -9), ("v2.sessions", -25)]);
    let units: Told = |n| told(n, [0, 0, 25, 0], [0, 0, 25, 0], &[]);
    let most: Told = |n| told(n, [30, 0, 30, 0], [30, 0, 30, 0], &[("v2.sessions", i64::MAX)]);
    let huge: Told = |n| {
        let calls = [1 << 44, 1 << 40, 1 << 44, 1 << 40];
        told(n, calls, calls, &[("v2.failed-sessions", 1 << 40), ("v2.sessions", 1 << 44)])
    };
    let stuck: Told = |n| told(n, [500, 0, 9, 0], [30, 0, 5, 0], &[("v2.sessions", if n == 0 { 20 } else { 0 })]);
    let hopeless: Told = |n| told(n, [0; 4], [30, 2, 30, 2], &[("v2.failed-sessions", 2), ("v2.sessions", 30)]);
    for (name, told, expected) in [
        ("few", few, "v2-failing-few"),
        ("alone", alone, "evidence-of-safety"),
        ("worse", worse, "v2-errors-alone"),
        ("nobody", nobody, "not called yet"),
        ("negative", negative, "not called yet"),
        ("units", units, "not called yet"),
        ("most", most, "V2 failed none of 30 sessions"),
        ("huge", huge, ""),
        ("stuck", stuck, "and none came for 10m"),
        ("hopeless", hopeless, "not safe as long as so many fail"),
    ] {
        for judge in ["sequential", "thresholds"] {
            let (original, twin) = (bundle(judge, ""), bundle(&format!("{judge}-rhai"), ""));
            let (mut one, mut other, mut said) = (Vec::new(), Vec::new(), Vec::new());
            for n in 0..130_u64 {
                let check = Check {
                    now_ms: UnixMs(n * 5_000 + 5_000),
                    phase: Phase::Ramping,
                    stage: 0,
                    share: Ppm::new(100_000),
                    stage_started_ms: UnixMs(0),
                    batches: vec![told(n)],
                };
                let (a, b) = (original.judge(&check, &one), twin.judge(&check, &other));
                let (a_said, b_said) = (a.answer.unwrap(), b.answer.unwrap());
                assert_eq!(
                    (b_said.verdict, &b_said.findings),
                    (a_said.verdict, &a_said.findings),
                    "{judge} {name} {n}"
                );
                said.extend(a_said.findings.iter().flat_map(|f| [f.rule.clone(), f.note.clone()]));
                assert!(
                    a_said.verdict != Verdict::Healthy || !["nobody", "negative", "units"].contains(&name),
                    "{judge} {name}"
                );
                assert!(
                    a_said.verdict != Verdict::RollBack || !["alone", "huge"].contains(&name) || judge != "sequential",
                    "{name}"
                );
                (one, other) = (a.memory, b.memory);
            }
            let expects = judge == "sequential" && !expected.is_empty();
            assert!(!expects || said.iter().any(|said| said.contains(expected)), "{name}: {said:?}");
        }
    }
}

/// Back by a stage, or not: from 50 % to 75 %, where a call in a thousand failed before.
#[test]
fn standard_stages_and_its_twin_go_back_for_the_same_reasons() {
    let (original, twin) = (bundle("standard-stages", ""), bundle("standard-stages-rhai", ""));
    for (v1, v2, mirrored, goes_back) in [
        ([250, 75], [750, 225], 0, true),
        ([250, 75], [750, 0], 0, false),
        ([250, 120], [750, 160], 0, false),
        ([250, 0], [750, 225], 0, false),
        ([250, 75], [750, 225], 250, false),
        ([251, 75], [750, 225], 125, true),
    ] {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let stages = [
            (0_u64, 500_000, [500, 1], [500, 0], 0),
            (3_600_000, 750_000, v1, v2, mirrored),
            (3_700_000, 500_000, v1, v2, 0),
        ];
        for (number, (started, share, v1, v2, mirrored)) in stages.into_iter().enumerate() {
            let all = |[requests, errors]: [u64; 2]| [requests, errors, requests, errors];
            let batch = told(started / 5_000, all(v1), all(v2), &[("v1.mirrored{execute}", mirrored)]);
            let check = Check {
                now_ms: UnixMs(started + 60_000),
                phase: Phase::Ramping,
                stage: 3,
                share: Ppm::new(share),
                stage_started_ms: UnixMs(started),
                batches: vec![batch],
            };
            let progress = Progress { check, verdict: Verdict::Warn, forced: false };
            let (a, b) = (original.next(&progress, &one), twin.next(&progress, &other));
            assert_eq!(b.answer, a.answer, "{v1:?} {v2:?} {number}");
            let retreats = format!("{:?}", a.answer.unwrap().action).starts_with("Retreat");
            assert_eq!(retreats, number == 1 && goes_back, "{v1:?} {v2:?} {mirrored} {number}");
            (one, other) = (a.memory, b.memory);
        }
    }
}
