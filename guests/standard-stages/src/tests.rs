use cutover_policy::{
    Batch,
    settings::Share,
    testing::{batch, calls, operation},
};
use proptest::prelude::*;

use super::*;

const STARTED: u64 = 1_000_000;
const HOUR: u64 = 3_600_000;

fn policy(json: &str) -> StandardStages {
    StandardStages::configure(serde_json::from_str(json).unwrap()).unwrap()
}

fn served(start_ms: u64, requests: u64) -> Batch {
    let mut batch = batch(start_ms);
    batch.operations.push(operation("execute"));
    batch.operations[0].v2 = calls(requests, 0, 1_000);
    batch
}

fn compared(start_ms: u64, same: u64, different: u64) -> Batch {
    let mut batch = batch(start_ms);
    batch.comparisons.same = same;
    batch.comparisons.different = different;
    batch
}

fn progress(phase: Phase, stage: u32, elapsed_ms: u64, verdict: Verdict, batches: Vec<Batch>) -> Progress {
    let shares = Settings::default().stages;
    let at = if phase == Phase::Ramping { shares.get(stage as usize) } else { None };
    let share = at.map_or(0, |stage| stage.share.0);
    Progress { now_ms: STARTED + elapsed_ms, phase, stage, share, stage_started_ms: STARTED, verdict, batches }
}

fn ask(policy: &StandardStages, progress: &Progress) -> Move {
    policy.next(progress, false, &mut Seen::default()).unwrap()
}

fn rules(answer: &Move) -> Vec<&str> {
    answer.findings.iter().map(|f| f.rule.as_str()).collect()
}

fn advance(stage: u32, percent: u32, soak_ms: Option<u64>) -> Action {
    Action::Advance(Step { stage, share: percent * 10_000, soak_ms })
}

#[test]
fn shadow_holds_until_pairs_were_compared() {
    let answer = ask(&policy("{}"), &progress(Phase::Shadow, 0, 0, Verdict::Hold, vec![compared(STARTED, 99, 0)]));
    assert_eq!(answer.action, Action::Hold);
    let wanted = finding("compared", 99, 100, "count", "99 of the 100 mirrored pairs needed were compared");
    assert_eq!(answer.findings, [wanted]);
}

#[test]
fn shadow_says_all_that_is_missing() {
    let strict = policy(r#"{ "shadow": { "soak": "5m", "max_different": "1%" } }"#);
    let answer = ask(&strict, &progress(Phase::Shadow, 0, 1_000, Verdict::Warn, vec![compared(STARTED, 80, 2)]));
    assert_eq!((answer.action, rules(&answer)), (Action::Hold, vec!["soak", "compared", "different", "verdict"]));
    let notes: Vec<_> = answer.findings.iter().map(|f| f.note.as_str()).collect();
    assert_eq!(notes[0], "lasted 1s of 5m");
    assert_eq!(notes[2], "2.44 % of the compared pairs differ, 1 % may; it takes 118 more without a difference");
    assert_eq!(notes[3], "the rollback policy says `warn`");
}

#[test]
fn shadow_advances_on_hold_but_not_on_warn_or_roll_back() {
    let at =
        |verdict| ask(&policy("{}"), &progress(Phase::Shadow, 0, 0, verdict, vec![compared(STARTED, 100, 0)])).action;
    assert_eq!(at(Verdict::Healthy), advance(0, 5, Some(HOUR)));
    assert_eq!(at(Verdict::Hold), advance(0, 5, Some(HOUR)));
    assert_eq!(at(Verdict::Warn), Action::Hold);
    assert_eq!(at(Verdict::RollBack), Action::Hold);
}

#[test]
fn one_different_pair_of_many_is_over_nothing_allowed() {
    let pairs = vec![compared(STARTED, 10_000_000, 1)];
    let answer = ask(&policy("{}"), &progress(Phase::Shadow, 0, 0, Verdict::Healthy, pairs));
    assert_eq!((answer.action, rules(&answer)), (Action::Hold, vec!["different"]));
}

#[test]
fn ramping_needs_soak_calls_and_health() {
    let ask = |elapsed, requests, verdict| {
        ask(&policy("{}"), &progress(Phase::Ramping, 1, elapsed, verdict, vec![served(STARTED, requests)]))
    };
    for (elapsed, requests, verdict, missing) in [
        (HOUR - 1, 100, Verdict::Healthy, "soak"),
        (HOUR, 99, Verdict::Healthy, "v2-requests"),
        (HOUR, 100, Verdict::Hold, "verdict"),
        (HOUR, 100, Verdict::Warn, "verdict"),
    ] {
        let answer = ask(elapsed, requests, verdict);
        assert_eq!((answer.action, rules(&answer)), (Action::Hold, vec![missing]));
    }
    let answer = ask(HOUR, 100, Verdict::Healthy);
    assert_eq!(answer.action, advance(2, 25, Some(2 * HOUR)));
    assert_eq!(rules(&answer), ["soak", "v2-requests", "verdict"]);
}

#[test]
fn last_stage_is_open_ended_unless_told() {
    let last = || progress(Phase::Ramping, 5, 1_000 * HOUR, Verdict::Healthy, vec![served(STARTED, 1_000)]);
    let answer = ask(&policy("{}"), &last());
    assert_eq!((answer.action, rules(&answer)), (Action::Hold, vec!["open-ended"]));
    assert_eq!(ask(&policy(r#"{ "complete_after": "1000h" }"#), &last()).action, Action::Complete);
    assert_eq!(ask(&policy(r#"{ "complete_after": "1001h" }"#), &last()).action, Action::Hold);
    let quiet = Progress { batches: Vec::new(), ..last() };
    assert_eq!(ask(&policy(r#"{ "complete_after": "1000h" }"#), &quiet).action, Action::Hold);
}

#[test]
fn operator_goes_on_without_waiting() {
    let policy = policy("{}");
    let force = |phase, stage| {
        let progress = progress(phase, stage, 0, Verdict::Warn, Vec::new());
        policy.next(&progress, true, &mut Seen::default()).unwrap()
    };
    assert_eq!(force(Phase::Shadow, 0).action, advance(0, 5, Some(HOUR)));
    assert_eq!(force(Phase::Ramping, 4).action, advance(5, 100, None));
    assert_eq!(force(Phase::Ramping, 5).action, Action::Complete);
    assert_eq!(rules(&force(Phase::Ramping, 0)), ["soak", "v2-requests", "verdict"]);
}

#[test]
fn an_edited_list_goes_on_at_the_next_higher_share_whatever_the_stages_number() {
    let next = |shares: &[u32], share: u32| {
        let last = shares.len() - 1;
        let stage = |(i, s): (usize, &u32)| {
            if i == last {
                format!("{{\"share\":\"{s}%\"}}")
            } else {
                format!("{{\"share\":\"{s}%\",\"soak\":\"{i}h\"}}")
            }
        };
        let stages: Vec<_> = shares.iter().enumerate().map(stage).collect();
        let policy = policy(&format!("{{ \"stages\": [{}] }}", stages.join(",")));
        let at = progress(Phase::Ramping, 1, 0, Verdict::Healthy, Vec::new());
        policy.next(&Progress { share: share * 10_000, ..at }, true, &mut Seen::default()).unwrap()
    };
    assert_eq!(next(&[1, 5, 20, 100], 50).action, advance(2, 100, None), "finer, but below where it stands");
    assert_eq!(next(&[1, 5, 20, 60, 100], 50).action, advance(2, 60, Some(3 * HOUR)));
    assert_eq!(next(&[60, 100], 50).action, advance(2, 60, Some(0)), "all of it above where it stands");
    assert_eq!(next(&[50, 100], 50).action, advance(2, 100, None), "shorter");
    assert_eq!(next(&[100], 100).action, Action::Complete);
    // A share that is not in the list waits for the soak of the one below it.
    let soak = |shares, share| next(shares, share).findings[0].limit;
    assert_eq!(soak(&[1, 5, 20, 100], 50), 2 * i64::try_from(HOUR).unwrap());
    assert_eq!(soak(&[1, 5, 20, 100], 5), i64::try_from(HOUR).unwrap());
}

#[test]
fn counts_add_up_over_calls_and_start_again_with_a_stage() {
    let policy = policy("{}");
    let mut seen = Seen::default();
    for i in 0..3 {
        let batches = vec![served(STARTED + i, 30)];
        policy.next(&progress(Phase::Ramping, 0, 0, Verdict::Healthy, batches), false, &mut seen).unwrap();
    }
    assert_eq!(seen.requests, 90);
    let next = Progress {
        stage: 1,
        stage_started_ms: STARTED + 10,
        ..progress(Phase::Ramping, 1, 10, Verdict::Healthy, vec![served(STARTED + 9, 7), served(STARTED + 10, 5)])
    };
    policy.next(&next, false, &mut seen).unwrap();
    assert_eq!(seen.requests, 5, "calls from before the stage are not its calls");
}

proptest! {
    #[test]
    fn an_advance_is_to_the_next_share_of_any_list(
        percents in prop::collection::btree_set(1_u32..100, 0..6),
        share in 1_u32..=1_000_000,
        stage: u32,
    ) {
        let mut stages: Vec<_> =
            percents.iter().map(|p| Stage { share: Share(p * 10_000), soak: Some(Span(1)) }).collect();
        stages.push(Stage { share: Share(1_000_000), soak: None });
        let policy = StandardStages::configure(Settings { stages: stages.clone(), ..Settings::default() }).unwrap();
        let at = Progress { share, ..progress(Phase::Ramping, stage, 0, Verdict::Healthy, Vec::new()) };
        let next = stages.iter().map(|stage| stage.share.0).find(|next| *next > share);
        match policy.next(&at, true, &mut Seen::default()).unwrap().action {
            Action::Advance(step) => prop_assert_eq!(Some(step.share), next),
            Action::Complete => prop_assert_eq!(next, None),
            action @ (Action::Hold | Action::Retreat(_) | Action::Pause) => prop_assert!(false, "{action:?}"),
        }
    }

    #[test]
    fn the_share_only_rises_one_stage_and_never_without_evidence(
        stage in 0_u32..6,
        elapsed in 0_u64..10 * HOUR,
        requests in 0_u64..200,
        healthy: bool,
        forced: bool,
    ) {
        let policy = policy(r#"{ "complete_after": "1h" }"#);
        let verdict = if healthy { Verdict::Healthy } else { Verdict::Hold };
        let progress = progress(Phase::Ramping, stage, elapsed, verdict, vec![served(STARTED, requests)]);
        match policy.next(&progress, forced, &mut Seen::default()).unwrap().action {
            Action::Advance(step) => {
                prop_assert_eq!(step.stage, stage + 1);
                prop_assert!(forced || (healthy && requests >= 100 && elapsed >= HOUR));
            }
            Action::Complete => {
                prop_assert!(stage >= 5);
                prop_assert!(forced || (healthy && requests >= 100 && elapsed >= HOUR));
            }
            Action::Hold => {}
            action @ (Action::Retreat(_) | Action::Pause) => prop_assert!(false, "{action:?}"),
        }
    }
}
