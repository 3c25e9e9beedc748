use cutover_policy::{
    Calls,
    testing::{batch, calls, operation},
};

use super::*;

fn policy(json: &str) -> Sequential {
    Sequential::configure(serde_json::from_str(json).unwrap()).unwrap()
}

/// Five seconds in which each pool answers and fails as told.
fn served(n: u64, v1: (u64, u64), v2: (u64, u64)) -> Batch {
    let mut batch = batch(n * 5_000);
    batch.operations.push(operation("execute"));
    batch.operations[0].v1 = calls(v1.0, v1.1, 50_000);
    batch.operations[0].v2 = calls(v2.0, v2.1, 50_000);
    batch
}

fn check(phase: Phase, stage: u32, stage_started_ms: u64, batches: Vec<Batch>) -> Check {
    Check { now_ms: 0, phase, stage, share: 50_000, stage_started_ms, batches }
}

fn ramping(batches: Vec<Batch>) -> Check {
    check(Phase::Ramping, 0, 0, batches)
}

fn rules(judgement: &Judgement) -> Vec<&str> {
    judgement.findings.iter().map(|f| f.rule.as_str()).collect()
}

#[test]
fn no_batches_are_never_healthy() {
    let judgement = policy("{}").judge(&ramping(Vec::new()), &mut Memory::default()).unwrap();
    assert_eq!((judgement.verdict, rules(&judgement)), (Verdict::Hold, vec!["evidence-of-safety"]));
    assert_eq!(
        judgement.findings[0].note,
        "V2 was not called yet in this stage; about 449 more without a fault of its own would show that it is safe"
    );
}

#[test]
fn v2_without_errors_becomes_healthy_with_evidence() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let verdicts: Vec<_> = (0..40)
        .map(|n| policy.judge(&ramping(vec![served(n, (475, 0), (25, 0))]), &mut memory).unwrap().verdict)
        .collect();
    let healthy = verdicts.iter().position(|&v| v == Verdict::Healthy).unwrap();
    assert!((16..=18).contains(&healthy), "{healthy}");
    assert!(verdicts[healthy..].iter().all(|&v| v == Verdict::Healthy));
    let other_stage = check(Phase::Ramping, 1, 200_000, Vec::new());
    assert_eq!(policy.judge(&other_stage, &mut memory).unwrap().verdict, Verdict::Hold);
}

/// V2 may be called a second before V1 is: its own slow calls are no measure of what V1 takes.
#[test]
fn v2_is_no_part_of_what_is_known_of_v1_where_v1_is_called_in_the_same_seconds() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let mut first = served(1, (0, 0), (300, 0));
    first.operations[0].v2 = calls(300, 0, 900_000);
    let second = Batch { start_ms: 6_000, ..served(1, (300, 0), (10, 0)) };
    policy.judge(&ramping(vec![first, second]), &mut memory).unwrap();
    let at = Moment { start_ms: 10_000, stage_started_ms: 0, share: 50_000 };
    let limits = memory.operations["execute"].before(&Settings::default(), at, false).limits.unwrap();
    assert!(limits.p99_us < 60_000, "{limits:?}");
}

#[test]
fn a_bad_v2_is_warned_of_and_then_rolled_back() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let mut said = Vec::new();
    for n in 0..8 {
        let judgement = policy.judge(&ramping(vec![served(n, (475, 1), (25, 1))]), &mut memory).unwrap();
        said.push((judgement.verdict, judgement.evidence));
        if judgement.verdict == Verdict::RollBack {
            assert_eq!(rules(&judgement), ["v2-errors"]);
            let finding = &judgement.findings[0];
            let (count, seconds) = (n + 1, 5 * (n + 1));
            let start = format!(
                "{count} sessions of V2 failed within {seconds}s and {count} of V1, where V2 had 5 % of them in `execute`"
            );
            assert!(finding.note.starts_with(&start), "{}", finding.note);
            assert!(finding.note.ends_with(" to 1 against V2 being as good"), "{}", finding.note);
            assert_eq!((finding.limit, finding.unit.as_str()), (1_000_000, "ratio-ppm"));
            assert!((10_000_000..30_000_000).contains(&finding.observed), "{}", finding.observed);
        }
    }
    let verdicts: Vec<_> = said.iter().map(|s| s.0).collect();
    assert!(verdicts.contains(&Verdict::Warn) && verdicts.contains(&Verdict::RollBack), "{said:?}");
    assert!(said.windows(2).all(|w| w[0].1 < w[1].1), "{said:?}");
    assert!(
        said.iter().all(|&(verdict, evidence)| (verdict == Verdict::RollBack) == (evidence >= 2_000_000)),
        "{said:?}"
    );
}

#[test]
fn one_burst_alone_does_not_roll_back() {
    let burst = ramping(vec![served(0, (475, 0), (25, 24))]);
    let judgement = policy("{}").judge(&burst, &mut Memory::default()).unwrap();
    assert_eq!(judgement.verdict, Verdict::Hold);
    let doubt = judgement.findings.iter().find(|finding| finding.rule == "in-doubt").unwrap();
    assert_eq!(doubt.note, "the last seconds alone would be a reason to warn: errors");
}

#[test]
fn a_busy_second_without_an_error_does_not_make_it_blind() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let spans = [(79_000, 0), (100, 0), (1_000, 500), (1_000, 500)];
    let verdicts: Vec<_> = (0..)
        .zip(spans)
        .map(|(n, (units, bad))| {
            let judgement = policy.judge(&ramping(vec![served(n, (units, 0), (units, bad))]), &mut memory).unwrap();
            memory = serde_json::from_slice(&serde_json::to_vec(&memory).unwrap()).unwrap();
            judgement.verdict
        })
        .collect();
    assert_eq!(verdicts, [Verdict::Healthy, Verdict::Healthy, Verdict::Hold, Verdict::RollBack]);
}

#[test]
fn an_outage_rolls_back_at_once() {
    let judgement = policy("{}").judge(&ramping(vec![served(0, (475, 1), (10, 10))]), &mut Memory::default()).unwrap();
    assert_eq!((judgement.verdict, rules(&judgement)[0]), (Verdict::RollBack, "v2-outage"));
    assert_eq!(judgement.findings[0].note, "V2 failed its last 10 calls, all of them, while V1 failed 1 of 475");
    let both = ramping(vec![served(0, (475, 400), (10, 10))]);
    assert_eq!(policy("{}").judge(&both, &mut Memory::default()).unwrap().verdict, Verdict::Hold);
}

#[test]
fn shadow_judges_mirrored_calls_against_v1s_calls() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let judge = |memory: &mut Memory, n, errors| {
        let mut batch = served(n, (475, 1), (0, 0));
        batch.operations[0].shadow = Calls { units: 0, unit_errors: 0, ..calls(50, errors, 50_000) };
        policy.judge(&check(Phase::Shadow, 0, 0, vec![batch]), memory).unwrap()
    };
    let first = judge(&mut memory, 0, 5);
    assert_eq!((first.verdict, rules(&first)), (Verdict::Hold, vec!["evidence-of-safety", "in-doubt"]));
    let bad = judge(&mut memory, 1, 5);
    assert_eq!(bad.verdict, Verdict::RollBack);
    assert!(bad.findings[0].note.starts_with("V2 fails 10 of 100 calls"), "{}", bad.findings[0].note);
    // A ramp begins anew.
    let next = policy.judge(&check(Phase::Ramping, 0, 10_000, Vec::new()), &mut memory).unwrap();
    assert_eq!(next.verdict, Verdict::Hold);
}

/// One session for everybody: V2 fails 77 % of the calls, and it is no evidence of more than one session.
#[test]
fn a_v2_that_fails_most_calls_of_few_sessions_is_warned_of() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let judged: Vec<_> = (0..20)
        .map(|n| {
            let mut batch = served(n, (2_000, 0), (230, 177));
            let execute = &mut batch.operations[0];
            for calls in [&mut execute.v1, &mut execute.v2] {
                (calls.units, calls.unit_errors) = (u64::from(n == 0), calls.errors.min(u64::from(n == 0)));
            }
            policy.judge(&ramping(vec![batch]), &mut memory).unwrap()
        })
        .collect();
    let verdicts: Vec<_> = judged.iter().map(|judged| judged.verdict).collect();
    assert_eq!(verdicts, [[Verdict::Hold; 12].as_slice(), &[Verdict::Warn; 8]].concat());
    assert_eq!(rules(&judged[12]), ["v2-failing-few"]);
    assert_eq!(
        judged[12].findings[0].note,
        "V2 goes on failing since 1m: 2 301 of 2 990 calls against V1's 0 of 26 000, and 1 of 1 sessions of this stage \
         against 0 of 1; so few may be one caller's fault"
    );
}

/// V1 was seen to fail a third of its calls just now, and V2 alone fails as many.
#[test]
fn v2_alone_is_held_against_what_v1_just_had() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let verdicts = |memory: &mut Memory, from: u64, v1, v2| {
        let judge = |n| policy.judge(&ramping(vec![served(n, v1, v2)]), memory).unwrap().verdict;
        (from..from + 60).map(judge).collect::<Vec<_>>()
    };
    verdicts(&mut memory, 0, (3, 1), (9, 3));
    let alone = verdicts(&mut memory, 60, (0, 0), (9, 3));
    assert!(!alone.contains(&Verdict::RollBack), "{alone:?}");
    // Where V1 had none, that is a fault.
    let mut memory = Memory::default();
    verdicts(&mut memory, 0, (3, 0), (9, 0));
    assert!(verdicts(&mut memory, 60, (0, 0), (9, 3)).contains(&Verdict::RollBack));
}

/// Nobody called, whatever the gauges say.
#[test]
fn sessions_of_no_calls_are_no_evidence() {
    for (sessions, units) in [(25, 0), (i64::MAX, 0), (-25, 0), (0, 25)] {
        let (policy, mut memory) = (policy("{}"), Memory::default());
        for n in 0..40 {
            let mut batch = served(n, (0, 0), (0, 0));
            (batch.operations[0].v1.units, batch.operations[0].v2.units) = (units, units);
            if units == 0 {
                batch.operations.clear();
                batch.gauges.push(cutover_policy::Gauge { name: "v2.sessions".into(), value: sessions });
            }
            assert_eq!(policy.judge(&ramping(vec![batch]), &mut memory).unwrap().verdict, Verdict::Hold, "{sessions}");
        }
    }
}

#[test]
fn other_phases_are_held() {
    for phase in [Phase::Preparing, Phase::Decommissioned, Phase::RolledBack] {
        let check = check(phase, 0, 0, vec![served(0, (475, 0), (500, 500))]);
        assert_eq!(policy("{}").judge(&check, &mut Memory::default()).unwrap(), Verdict::Hold.into());
    }
}

#[test]
fn batches_from_before_the_stage_are_left_out() {
    let mut memory = Memory::default();
    policy("{}").judge(&check(Phase::Ramping, 1, 5_001, vec![served(1, (475, 0), (25, 25))]), &mut memory).unwrap();
    assert_eq!(memory.against, <[Portfolio; METRICS]>::default());
}

#[test]
fn stages_share_one_budget() {
    let sum: f64 = (0..100_000).map(budget::of).sum();
    assert!(sum < 1.0 && sum > 0.9999, "{sum}");
    let mut memory = Memory::default();
    let arrive = |memory: &mut Memory, phase, stage, at| {
        memory.arrive(&check(phase, stage, at, Vec::new()), 20.0);
        memory.facts.stages
    };
    assert_eq!(arrive(&mut memory, Phase::Shadow, 0, 1), 0);
    assert_eq!(arrive(&mut memory, Phase::Ramping, 0, 2), 0);
    assert_eq!(arrive(&mut memory, Phase::Ramping, 1, 3), 1);
    assert_eq!(arrive(&mut memory, Phase::Ramping, 1, 3), 1);
    assert_eq!(arrive(&mut memory, Phase::Complete, 0, 4), 2);
    assert_eq!(arrive(&mut memory, Phase::Ramping, 0, 5), 0, "a ramp that begins again");
}

#[test]
fn dying_workers_are_found() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let found = (0..200).find(|&n| {
        let mut batch = served(n, (475, 0), (25, 0));
        (batch.v1.ready, batch.v2.ready, batch.v2.failures) = (4, 4, 1);
        let judgement = policy.judge(&ramping(vec![batch]), &mut memory).unwrap();
        judgement.verdict == Verdict::RollBack && rules(&judgement) == ["v2-worker-failures"]
    });
    assert!(found.is_some_and(|n| n < 40), "{found:?}");
}

#[test]
fn replay_is_byte_identical_however_memory_travels() {
    let policy = policy("{}");
    let checks: Vec<Check> = (0..200)
        .map(|n| {
            let mut batch = served(n, (400 + n % 90, n % 3), (20 + n % 7, u64::from(n % 11 == 0)));
            batch.operations.push(operation("list"));
            batch.operations[1].v1 = calls(300, n % 5, 10_000 + 300 * (n % 13));
            batch.operations[1].v2 = calls(30, n % 2, 11_000 + 900 * (n % 17));
            check(Phase::Ramping, u32::try_from(n / 100).unwrap(), n / 100 * 500_000, vec![batch])
        })
        .collect();
    let run = |through_bytes: bool| {
        let mut memory = Memory::default();
        let mut answers = Vec::new();
        for check in &checks {
            answers.push(policy.judge(check, &mut memory).unwrap());
            if through_bytes {
                memory = serde_json::from_slice(&serde_json::to_vec(&memory).unwrap()).unwrap();
            }
        }
        (answers, serde_json::to_vec(&memory).unwrap())
    };
    let (kept, stored) = (run(false), run(true));
    assert!(kept == stored && run(true) == stored, "a double does not come back as it was");
}

/// Written down once, and the same on every machine: no function of the platform's mathematics is used.
#[test]
fn evidence_is_the_same_everywhere() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    let mut evidence = Vec::new();
    for n in 0..6 {
        let batch = served(n, (470 + n, n % 2), (25, u64::from(n > 2)));
        evidence.push(policy.judge(&ramping(vec![batch]), &mut memory).unwrap().evidence);
    }
    assert_eq!(evidence, [-45_757, -93_609, -93_609, 241_652, 831_233, 1_415_065]);
}

#[test]
fn an_hour_of_memory_is_small() {
    let (policy, mut memory) = (policy("{}"), Memory::default());
    for n in 0..720 {
        let mut batch = batch(n * 5_000);
        for name in ["create", "delete", "execute", "health", "list"] {
            let mut operation = operation(name);
            operation.v1 = calls(95, 1, 20_000);
            // 60 different latencies in each batch, of 240 in all.
            operation.v1.latency = (0..60)
                .map(|i| cutover_policy::LatencyBucket { index: 300 + 4 * i + u32::try_from(n % 4).unwrap(), count: 2 })
                .collect();
            operation.v2 = calls(5, u64::from(n % 7 == 0), 20_000);
            batch.operations.push(operation);
        }
        policy.judge(&ramping(vec![batch]), &mut memory).unwrap();
    }
    let bytes = serde_json::to_vec(&memory).unwrap().len();
    assert!(bytes < 40_000, "{bytes} bytes");
}
