//! The example bundles, each with the story that it is for.

use cutover_model::{
    facts::Comparisons,
    port::{Action, Situation, Step, Target, Test},
};

use super::*;

/// Monday, 1 June 2026, 00:00 UTC, in seconds.
const MONDAY: u64 = 1_780_272_000;

const HOUR: u64 = 3_600;

fn compared(second: u64) -> Batch {
    Batch { comparisons: Comparisons { same: 200, ..Comparisons::default() }, ..served(second, 0, 0) }
}

fn advance(stage: u32, percent: u32, hours: Option<u64>) -> Action {
    let soak = hours.map(|hours| Duration::from_secs(hours * HOUR));
    Action::Advance(Step { stage, share: Ppm::new(percent * 10_000), soak })
}

/// A progress whose stage began at a time of its own.
fn since(started_s: u64, mut progress: Progress) -> Progress {
    progress.check.stage_started_ms = UnixMs(started_s * 1_000);
    progress
}

fn situation(phase: Phase, stage: u32, share: u32) -> Situation {
    Situation {
        now_ms: UnixMs(0),
        migration: "programs".into(),
        phase,
        stage,
        share: Ppm::new(share),
        salt: "salt".into(),
        operations: vec![("execute".into(), Class::Read), ("write".into(), Class::Replicate)],
    }
}

#[test]
fn office_hours_begins_stages_while_people_are_there() {
    let policy = bundle("office-hours", "utc_offset = '+02:00'");
    let ask = |now: u64| {
        let mut soaked = since(now - 5 * HOUR, progress(now, 1, Verdict::Healthy, vec![served(now - 1, 500, 0)]));
        soaked.check.share = Ppm::new(250_000);
        policy.next(&soaked, &[]).answer.unwrap()
    };
    // 09:00 to 15:00 there is 07:00 to 13:00 UTC.
    for (now, open) in [
        (MONDAY + 7 * HOUR - 1, false),
        (MONDAY + 7 * HOUR, true),
        (MONDAY + 13 * HOUR - 1, true),
        (MONDAY + 13 * HOUR, false),
        (MONDAY + 3 * 24 * HOUR + 8 * HOUR, true),
        (MONDAY + 4 * 24 * HOUR + 8 * HOUR, false),
        (MONDAY + 6 * 24 * HOUR + 8 * HOUR, false),
    ] {
        let next = ask(now);
        if open {
            assert_eq!(next.action, advance(2, 50, Some(20)), "{now}");
        } else {
            assert_eq!((next.action, rules(&next.findings)), (Action::Hold, vec!["office-hours"]), "{now}");
        }
    }
    let note = ask(MONDAY + 13 * HOUR).findings[0].note.clone();
    assert_eq!(note, "it is mon 15:00 (UTC offset +02:00); stages begin 09:00 to 15:00 on mon, tue, wed, thu");
    let mut first = progress(MONDAY + 8 * HOUR, 0, Verdict::Hold, vec![compared(MONDAY + 8 * HOUR - 1)]);
    first.check.phase = Phase::Shadow;
    assert_eq!(policy.next(&first, &[]).answer.unwrap().action, advance(0, 5, Some(1)));
    first.check.now_ms = UnixMs((MONDAY + 20 * HOUR) * 1_000);
    first.forced = true;
    assert_eq!(policy.next(&first, &[]).answer.unwrap().action, advance(0, 5, Some(1)), "operators need no office");
}

#[test]
fn office_hours_that_never_open_are_refused() {
    for (settings, expected) in [
        ("days = ['monday']", "`settings.days[0]` is \"monday\", and has to be one of mon, tue"),
        ("opens = '15:00'\ncloses = '09:00'", "`settings.closes` is not after `opens`"),
        ("opens = 'nine'", "`settings.opens` is wrong: \"nine\" is no time of day"),
        ("utc_offset = 'CET'", "`settings.utc_offset` is wrong: \"CET\" is no offset from UTC"),
    ] {
        let overrides = toml::from_str(settings).unwrap();
        let bundle = Bundle::read(&root().join("policies/office-hours"), &components(), &overrides).unwrap();
        let (engine, compiled) = engine();
        let error = Policy::admit(engine, compiled.clone(), Kind::Stages, &bundle.settings).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn beta_ring_goes_first() {
    let policy = bundle("beta-ring", "header = 'X-Ring'");
    let plan = |phase, share| policy.make_plan(&situation(phase, 0, share), &[]).answer.unwrap();
    let early = plan(Phase::Ramping, 50_000);
    assert_eq!((early.rules[0].target, early.otherwise), (Target::V2, Target::V1));
    assert_eq!(early.rules[0].conditions[0].attribute, "header:x-ring");
    assert_eq!(early.rules[0].conditions[0].test, Test::OneOf(vec!["1".into(), "true".into(), "yes".into()]));
    assert_eq!(plan(Phase::Ramping, 50_001).otherwise, Target::Share);
    assert_eq!((plan(Phase::Shadow, 0).otherwise, plan(Phase::Shadow, 0).rules.len()), (Target::V1, 0));
    assert_eq!(plan(Phase::RolledBack, 0).otherwise, Target::V1);
    assert_eq!(plan(Phase::Complete, 1_000_000).otherwise, Target::V2);
    let any = bundle("beta-ring", "values = []").make_plan(&situation(Phase::Ramping, 0, 1), &[]).answer.unwrap();
    assert_eq!(any.rules[0].conditions[0].test, Test::Present);
}

#[test]
fn regions_move_one_after_the_other() {
    let policy = bundle("region-by-region", "");
    let moved = |stage| {
        let plan = policy.make_plan(&situation(Phase::Ramping, stage, 100_000), &[]).answer.unwrap();
        assert_eq!(plan.otherwise, Target::V1);
        let of = |name: &str| {
            let rule = plan.rules.iter().find(|rule| rule.name == name)?;
            assert_eq!(rule.conditions[0].attribute, "header:x-region");
            match &rule.conditions[0].test {
                Test::OneOf(regions) => Some(regions.join(" ")),
                other => panic!("{other:?}"),
            }
        };
        (of("region-on-v2"), of("region-on-v1"))
    };
    let all = |v2: &str, v1: &str| (Some(v2.to_owned()), Some(v1.to_owned()));
    assert_eq!(moved(0), all("ap-south", "eu-west us-east us-west"));
    assert_eq!(moved(1), all("ap-south eu-west", "us-east us-west"));
    assert_eq!(moved(2), (Some("ap-south eu-west us-east us-west".into()), None));
    let complete = policy.make_plan(&situation(Phase::Complete, 2, 1_000_000), &[]).answer.unwrap();
    assert_eq!((complete.rules.len(), complete.otherwise), (0, Target::V2));
}

/// Shows a policy one batch for each minute, with the errors of 1000 calls that `errors` says; its last answer.
fn minutes(policy: &Policy, range: std::ops::Range<u64>, memory: &mut Vec<u8>, errors: u64) -> (Verdict, Vec<String>) {
    let mut last = None;
    for minute in range {
        let asked = policy.judge(&check(minute * 60 + 60, vec![served(minute * 60, 1_000, errors)]), memory);
        let judgement = asked.answer.unwrap();
        last = Some((judgement.verdict, judgement.findings.into_iter().map(|f| f.note).collect()));
        *memory = asked.memory;
    }
    last.unwrap()
}

#[test]
fn error_budget_burns_at_several_rates() {
    let policy = bundle("error-budget", "");
    let mut memory = Vec::new();
    // 0.1 % may fail: 1 of 1000 calls is a burn rate of 1.
    assert_eq!(minutes(&policy, 0..60, &mut memory, 1), (Verdict::Healthy, vec![]));
    let slow_burn = minutes(&policy, 60..90, &mut memory.clone(), 3);
    assert_eq!(slow_burn.0, Verdict::Warn);
    assert!(slow_burn.1[0].starts_with("V2 burns its error budget "), "{slow_burn:?}");
    // 10 % of a minute's calls: 100 times as fast as it may, but over an hour that has to add up first.
    assert_eq!(minutes(&policy, 60..62, &mut memory.clone(), 100).0, Verdict::Warn);
    let (verdict, notes) = minutes(&policy, 60..70, &mut memory, 100);
    assert_eq!(verdict, Verdict::RollBack);
    assert!(notes[0].contains("as fast as it may over 1h and 5m, more than 14.4x"), "{notes:?}");
    // An hour later the long windows still know it, but nothing burns any more.
    assert_ne!(minutes(&policy, 70..110, &mut memory, 0).0, Verdict::RollBack);
}

#[test]
fn error_budget_of_three_days_fits_into_what_policies_may_remember() {
    let policy = bundle("error-budget", "");
    let mut memory = Vec::new();
    // A batch for each of 60 slices of every window.
    for minute in (0..3 * 24 * 60).step_by(12) {
        minutes(&policy, minute..minute + 1, &mut memory, 1);
    }
    for minute in 3 * 24 * 60..3 * 24 * 60 + 70 {
        minutes(&policy, minute..minute + 1, &mut memory, 1);
    }
    assert!(memory.len() < 32 << 10, "{} bytes", memory.len());
}

#[test]
fn error_budget_without_callers_holds() {
    let policy = bundle("error-budget", "");
    let shadow = Check { phase: Phase::Shadow, ..check(5, vec![served(0, 1_000, 1_000)]) };
    let judged = policy.judge(&shadow, &[]).answer.unwrap();
    assert_eq!((judged.verdict, rules(&judged.findings)), (Verdict::Hold, vec!["no-callers"]));
    let few = policy.judge(&check(5, vec![served(0, 99, 98)]), &[]).answer.unwrap();
    assert_eq!((few.verdict, rules(&few.findings)), (Verdict::Hold, vec!["too-little-data"]));
}

#[test]
fn a_judge_that_warns_and_stages_that_pause_work_together() {
    let (judge, stages) = (bundle("pause-not-rollback-judge", ""), bundle("pause-not-rollback", "patience = 2"));
    let (mut seen, mut memory) = (Vec::new(), Vec::new());
    let mut at = |second: u64, errors: u64| {
        let check = check(second + 1, vec![served(second, 1_000, errors)]);
        let judged = judge.judge(&check, &seen);
        seen = judged.memory;
        let verdict = judged.answer.unwrap().verdict;
        let next = stages.next(&Progress { check, verdict, forced: false }, &memory);
        memory = next.memory;
        let next = next.answer.unwrap();
        (verdict, next.action, rules(&next.findings).join(" "))
    };
    assert_eq!(at(1, 0), (Verdict::Healthy, Action::Hold, "soak".into()));
    assert_eq!(at(2, 300), (Verdict::Warn, Action::Hold, "soak verdict".into()));
    assert_eq!(at(3, 300), (Verdict::Warn, Action::Pause, "verdict".into()));
    assert_eq!(at(4, 300).1, Action::Hold, "patience begins anew when someone resumes");
    assert_eq!(at(70, 510).0, Verdict::RollBack, "an outage is not left to people");
}

#[test]
fn composite_rolls_back_on_the_combination_alone() {
    let policy = bundle("composite", "max_error_rate = '5%'");
    let judge = |requests, errors, slow: bool, failures: u32| {
        let mut batch = served(0, requests, errors);
        batch.v2.wanted = 4;
        batch.v2.failures = failures;
        if slow {
            batch.operations[0].v2.latency = Calls::default().latency;
            batch.operations[0].v2.latency.add(cutover_contract_index(200_000), requests);
        }
        let judged = policy.judge(&check(1, vec![batch]), &[]).answer.unwrap();
        (judged.verdict, rules(&judged.findings).join(" "))
    };
    assert_eq!(judge(1_000, 0, false, 0), (Verdict::Healthy, String::new()));
    assert_eq!(judge(1_000, 60, false, 0), (Verdict::Warn, "v2-error-rate".into()));
    assert_eq!(judge(1_000, 0, true, 0), (Verdict::Warn, "v2-p99-ratio".into()));
    assert_eq!(judge(1_000, 0, true, 1), (Verdict::Warn, "v2-p99-ratio".into()));
    assert_eq!(judge(1_000, 0, true, 3), (Verdict::Warn, "v2-p99-ratio v2-worker-failures".into()));
    assert_eq!(judge(1_000, 60, true, 0), (Verdict::RollBack, "v2-error-rate v2-p99-ratio".into()));
    assert_eq!(judge(1_000, 60, false, 3), (Verdict::RollBack, "v2-error-rate v2-worker-failures".into()));
    assert_eq!(judge(50, 49, false, 0), (Verdict::Hold, "too-little-data".into()));
    assert_eq!(judge(50, 50, false, 0), (Verdict::RollBack, "v2-outage".into()));
}
