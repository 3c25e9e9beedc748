//! Services with a call in some seconds, where V1 has few of them.

use super::*;

/// A check each 5 s from a fresh memory, at a share of 90 % unless it says otherwise; the numbers of the checks that gave
/// each verdict, up to the first `roll-back`, and the last answer.
fn judged(
    policy: &Sequential,
    checks: u64,
    share: u32,
    mut each: impl FnMut(u64) -> Batch,
) -> (Vec<Verdict>, Option<Judgement>) {
    let (mut memory, mut verdicts, mut last) = (Memory::default(), Vec::new(), None);
    // Not at the beginning of an hour: what is known of V1 by hour changes in the middle.
    let from = 1_000_000;
    for n in 0..checks {
        let batches = vec![Batch { start_ms: from + n * CHECK_MS, ..each(n) }];
        let check = Check { share, ..check(from + (n + 1) * CHECK_MS, 0, from, batches) };
        let judgement = policy.judge(&check, &mut memory).unwrap();
        let verdict = judgement.verdict;
        last = Some(judgement);
        verdicts.push(verdict);
        if verdict == Verdict::RollBack {
            break;
        }
    }
    (verdicts, last)
}

/// V1 is called each 20 s or so, and mostly not in the seconds in which V2 fails.
#[test]
fn few_calls_of_v1_are_no_v1_that_is_gone() {
    for (rps, share, errors) in [(0.5, 900_000, 0.2), (0.5, 900_000, 0.02), (0.2, 750_000, 0.2), (2.0, 990_000, 0.2)] {
        let at = Traffic { rps, share: f64::from(share) / 1e6, errors: (errors, errors) };
        let what = format!("{rps}/s at {} %, both fail {errors}, 2 h", share / 10_000);
        false_alarms(&what, runs(1_000), |policy, chance| {
            let (verdicts, _) = judged(policy, 1_440, share, |n| traffic(chance, n * CHECK_MS, 5.0, at));
            verdicts.iter().position(|verdict| *verdict == Verdict::RollBack).map(|n| n as u64)
        });
    }
}

/// V1 is called no more after half an hour in which it failed a fifth of its few calls.
#[test]
fn v2_alone_may_fail_as_often_as_v1_did() {
    for rps in [0.5, 5.0] {
        false_alarms(&format!("{rps}/s at 50 %, and only V2 from 30 minutes on"), runs(1_000), |policy, chance| {
            let mut memory = Memory::default();
            let each = |n| {
                let (stage, share) = if n < CHECKS { (0, 0.5) } else { (1, 1.0) };
                let at = Traffic { rps, share, errors: (0.2, 0.2) };
                let batch = traffic(chance, n * CHECK_MS, 5.0, at);
                let check = check((n + 1) * CHECK_MS, stage, u64::from(stage) * CHECKS * CHECK_MS, vec![batch]);
                Check { share: if stage == 0 { 500_000 } else { 1_000_000 }, ..check }
            };
            (0..2 * CHECKS)
                .map(each)
                .position(|check| policy.judge(&check, &mut memory).unwrap().verdict == Verdict::RollBack)
                .map(|n| n as u64)
        });
    }
}

/// Latencies where V1 has a call each 3 s, or each 50 s: less than a percentile takes in five minutes, or in two hours.
fn slow(rates: (f64, f64), times: f64, seed: u64, policy: &Sequential) -> (Vec<Verdict>, Option<Judgement>) {
    let chance = &mut Chance(seed);
    let share = if rates.0 < rates.1 { 900_000 } else { 500_000 };
    judged(policy, 1_440, share, |n| timed_batch(chance, n, rates, 0.5, (1.0, times)))
}

#[test]
fn a_far_slower_v2_is_never_healthy_where_v1_has_few_calls() {
    let policy = default_policy();
    for seed in 0..runs(100).max(5) {
        let (verdicts, _) = slow((0.3, 0.3), 100.0, seed, &policy);
        assert!(!verdicts.contains(&Verdict::Healthy), "{seed}");
        assert_eq!(verdicts.last(), Some(&Verdict::RollBack), "{seed}: after {} checks", verdicts.len());
        let (verdicts, last) = slow((0.02, 0.5), 100.0, seed, &policy);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Hold), "{seed}");
        let findings = last.unwrap().findings;
        assert_eq!(findings.iter().map(|finding| finding.rule.as_str()).collect::<Vec<_>>(), ["latency-unjudged"]);
        assert!(findings[0].note.contains(" of the 200 calls that its p99 takes, in `execute`"), "{findings:?}");
        // V1 has its 200 calls in the middle: those of V2 that are held against its p99 then are too slow to settle it.
        let (verdicts, _) = slow((0.06, 0.4), 100.0, seed, &policy);
        assert!(!verdicts.contains(&Verdict::Healthy), "{seed}");
        assert_eq!(verdicts.last(), Some(&Verdict::RollBack), "{seed}: after {} checks", verdicts.len());
        // One that is as fast is healthy, once V1 had enough.
        let (verdicts, _) = slow((0.3, 0.3), 1.0, seed, &policy);
        assert_eq!(verdicts.last(), Some(&Verdict::Healthy), "{seed}");
    }
}

#[test]
fn an_objective_settles_what_v1_is_too_rare_for() {
    let settings = serde_json::from_str(r#"{ "objective_p99": "200ms" }"#).unwrap();
    let policy = Sequential::configure(settings).unwrap();
    for seed in 0..runs(100).max(5) {
        let (verdicts, last) = slow((0.02, 0.5), 100.0, seed, &policy);
        assert!(!verdicts.contains(&Verdict::Healthy), "{seed}");
        assert_eq!(verdicts.last(), Some(&Verdict::RollBack), "{seed}");
        assert_eq!(last.unwrap().findings[0].rule, "v2-slow-alone", "{seed}");
        assert_eq!(slow((0.02, 0.5), 1.0, seed, &policy).0.last(), Some(&Verdict::Healthy), "{seed}");
    }
}
