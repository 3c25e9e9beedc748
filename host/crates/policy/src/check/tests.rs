//! Answers that nobody would give: whatever a policy says, what is left of it can be acted on, or it is nonsense.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use cutover_model::{clock::UnixMs, port::Check, request::Class};

/// Texts of all lengths around the limits, with what breaks names, terminals and byte positions.
fn any_text() -> impl Strategy<Value = String> {
    let long = |text: &str, times| text.repeat(times);
    prop_oneof![
        4 => ".{0,20}",
        4 => "[a-z0-9-]{0,70}",
        1 => Just(long("a", MAX_TEXT)),
        1 => Just(long("a", MAX_TEXT - 1) + "\u{20ac}"),
        1 => Just(long("\u{1f980}", MAX_TEXT)),
        1 => select(vec!["\u{1b}[2J", "\0", "\r\n", "\u{202e}", "a b", "'; --", "../x"]).prop_map(str::to_owned),
    ]
}

fn any_attribute() -> impl Strategy<Value = String> {
    let known = ["operation", "session", "method", "path", "host", "header:x-ring", "header:", "header:X", ""];
    prop_oneof![3 => select(known.to_vec()).prop_map(str::to_owned), 1 => any_text()]
}

fn any_target() -> impl Strategy<Value = Target> {
    select(vec![Target::V1, Target::V2, Target::Share, Target::Decide])
}

fn any_test() -> impl Strategy<Value = Test> {
    prop_oneof![
        vec(any_text(), 0..4).prop_map(Test::OneOf),
        (0..2 * MAX_ITEMS).prop_map(|n| Test::OneOf(vec!["x".into(); n])),
        any_text().prop_map(Test::Prefix),
        Just(Test::Present),
        Just(Test::Absent),
    ]
}

prop_compose! {
    fn any_rule()(
        name in prop_oneof![3 => "[a-z0-9-]{1,64}", 1 => any_text()],
        conditions in vec((any_attribute(), any_test()), 0..3),
        target in any_target(),
    ) -> Rule {
        let conditions = conditions.into_iter().map(|(attribute, test)| Condition { attribute, test }).collect();
        Rule { name, conditions, target }
    }
}

/// Rules up to more than a plan may have, rules with more conditions than it may have, or neither.
fn any_rules() -> impl Strategy<Value = Vec<Rule>> {
    prop_oneof![
        3 => vec(any_rule(), 0..4),
        1 => ("[a-z]{1,4}", any_target(), 0..2 * MAX_ITEMS).prop_map(|(name, target, n)| {
            vec![Rule { name, conditions: Vec::new(), target }; n]
        }),
        1 => (any_rule(), 0..2 * MAX_ITEMS).prop_map(|(rule, n)| {
            let condition = Condition { attribute: "path".into(), test: Test::Prefix("/".into()) };
            vec![Rule { conditions: vec![condition; n], ..rule }]
        }),
    ]
}

prop_compose! {
    fn any_plan()(
        rules in any_rules(),
        otherwise in any_target(),
        sticky in any_attribute(),
        salt in any_text(),
        share: u32,
        shadow_share: u32,
        operation in any_text(),
        operations in 0..2 * MAX_ITEMS,
    ) -> Plan {
        Plan {
            rules,
            otherwise,
            sticky,
            salt,
            share: Ppm::new(share),
            shadow_share: Ppm::new(shadow_share),
            shadow_operations: vec![operation; operations],
        }
    }
}

prop_compose! {
    fn any_findings()(finding in (any_text(), any::<i64>(), any::<i64>(), any_text(), any_text()), n in 0..2 * MAX_ITEMS)
        -> Vec<Finding>
    {
        let (rule, observed, limit, unit, note) = finding;
        vec![Finding { rule, observed, limit, unit, note }; n]
    }
}

fn any_phase() -> impl Strategy<Value = Phase> {
    select(vec![Phase::Shadow, Phase::Ramping])
}

fn any_number() -> impl Strategy<Value = u32> {
    prop_oneof![0..8_u32, select(vec![u32::MAX, u32::MAX - 1, 1_000_000]), any::<u32>()]
}

fn any_step() -> impl Strategy<Value = Step> {
    let soak = prop_oneof![Just(None), any::<u64>().prop_map(Some), Just(Some(u64::MAX))];
    (any_number(), any_number(), soak).prop_map(|(stage, share, soak)| Step {
        stage,
        share: Ppm::new(share),
        soak: soak.map(Duration::from_millis),
    })
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        Just(Action::Hold),
        any_step().prop_map(Action::Advance),
        any_step().prop_map(Action::Retreat),
        Just(Action::Complete),
        Just(Action::Pause),
    ]
}

/// A stage is its share, not its number: a table that was edited under way may have a lower share and no lower number.
#[test]
fn the_first_stage_can_be_gone_back_from_to_a_lower_share() {
    let step = |share| Step { stage: 0, share: Ppm::new(share), soak: None };
    let retreat = |share| {
        next(Move { action: Action::Retreat(step(share)), findings: Vec::new() }, &progress(Phase::Ramping, 0, 750_000))
    };
    assert_eq!(retreat(500_000).unwrap().action, Action::Retreat(step(500_000)));
    assert!(retreat(750_000).unwrap_err().to_string().contains("a retreat goes to a lower share"));
}

fn progress(phase: Phase, stage: u32, share: u32) -> Progress {
    let check = Check {
        now_ms: UnixMs(5),
        phase,
        stage,
        share: Ppm::new(share),
        stage_started_ms: UnixMs(0),
        batches: Vec::new(),
    };
    Progress { check, verdict: Verdict::Healthy, forced: false }
}

fn any_outcome() -> impl Strategy<Value = Comparison> {
    let differences = || {
        (any_text(), any_text(), 0..2 * MAX_ITEMS).prop_map(|(path, value, n)| {
            let (kind, category) = (path.clone(), value.clone());
            vec![Difference { path, kind, category, v1: value.clone(), v2: value }; n]
        })
    };
    prop_oneof![
        Just(Comparison::Same),
        differences().prop_map(Comparison::Ignored),
        differences().prop_map(Comparison::Different),
        any_text().prop_map(Comparison::Incomparable),
    ]
}

fn short(findings: &[Finding]) -> bool {
    findings.len() <= MAX_ITEMS
        && findings.iter().all(|f| [&f.rule, &f.unit, &f.note].iter().all(|part| part.len() <= MAX_TEXT))
}

proptest! {
    #[test]
    fn a_text_is_cut_at_a_character_and_otherwise_as_it_was(original in any_text()) {
        let cut = text(original.clone());
        prop_assert!(cut.len() <= MAX_TEXT && original.starts_with(&cut));
        prop_assert!(cut.len() == original.len() || cut.len() + 4 > MAX_TEXT);
    }

    #[test]
    fn a_description_is_named_and_wants_what_requests_have(
        name in any_text(), version in any_text(), attributes in vec(any_attribute(), 0..4), repeated in select(vec![1, 600])
    ) {
        let attributes = vec![attributes; repeated].concat();
        let said = Description { name, version, summary: "s".repeat(9_000), attributes, settings_schema: "{}".into() };
        match description(said.clone()) {
            Ok(kept) => {
                prop_assert!(is_name(&kept.name) && kept.attributes.len() <= MAX_ITEMS);
                prop_assert!(kept.attributes.iter().all(|a| Attribute::parse(a).is_some()));
                prop_assert!(kept.version.len() <= MAX_TEXT && kept.summary.len() <= MAX_TEXT);
            }
            Err(error) => prop_assert!(is_short_nonsense(&error), "{error:?}"),
        }
    }

    #[test]
    fn a_plan_can_be_executed_cheaply_and_gives_no_more_than_the_migration(
        said in any_plan(), share: u32, decides: bool
    ) {
        let situation = Situation {
            now_ms: UnixMs(0),
            migration: "m".into(),
            phase: Phase::Ramping,
            stage: 0,
            share: Ppm::new(share),
            salt: "s".into(),
            operations: vec![("read".into(), Class::Read)],
        };
        match plan(said.clone(), &situation, decides) {
            Ok(kept) => {
                prop_assert!(kept.share <= situation.share && kept.share <= said.share);
                prop_assert!(kept.rules.len() <= MAX_ITEMS && kept.rules.iter().all(|rule| is_name(&rule.name)));
                let conditions: Vec<_> = kept.rules.iter().flat_map(|rule| &rule.conditions).collect();
                prop_assert!(conditions.len() <= MAX_ITEMS, "each request may be tested on all {}", conditions.len());
                prop_assert!(conditions.iter().all(|c| is_attribute(&c.attribute)));
                let values = |c: &&Condition| if let Test::OneOf(values) = &c.test { values.len() } else { 0 };
                prop_assert!(conditions.iter().map(values).sum::<usize>() <= MAX_VALUES);
                let mut targets = kept.rules.iter().map(|rule| rule.target).chain([kept.otherwise]);
                prop_assert!(decides || targets.all(|target| target != Target::Decide));
                prop_assert!(is_attribute(&kept.sticky) && kept.salt.len() <= MAX_TEXT);
                prop_assert!(kept.shadow_operations.len() <= MAX_ITEMS);
            }
            Err(error) => prop_assert!(is_short_nonsense(&error), "{error:?}"),
        }
    }

    #[test]
    fn a_judgement_that_is_not_good_says_why(
        verdict in select(vec![Verdict::Healthy, Verdict::Hold, Verdict::Warn, Verdict::RollBack]),
        findings in any_findings(),
        evidence: i64,
    ) {
        let bad = matches!(verdict, Verdict::Warn | Verdict::RollBack);
        match judgement(Judgement { verdict, findings: findings.clone(), evidence }) {
            Ok(kept) => {
                prop_assert!(short(&kept.findings) && !(bad && kept.findings.is_empty()));
                prop_assert_eq!((kept.verdict, kept.evidence), (verdict, evidence));
            }
            Err(error) => prop_assert!(bad && findings.is_empty() && is_short_nonsense(&error)),
        }
    }

    #[test]
    fn a_move_goes_one_stage_up_to_more_or_down_to_less(
        action in any_action(), findings in any_findings(), phase in any_phase(), stage in any_number(), share in any_number()
    ) {
        let progress = progress(phase, stage, share);
        let now = &progress.check;
        let (first, started) = (phase == Phase::Shadow, now.share);
        match next(Move { action, findings }, &progress) {
            Ok(Move { action, findings }) => {
                prop_assert!(short(&findings));
                match action {
                    Action::Advance(step) if first => prop_assert!(step.stage == 0 && step.share > Ppm::ZERO),
                    Action::Advance(step) => {
                        prop_assert!(step.stage > now.stage && step.stage - now.stage == 1 && step.share > started);
                    }
                    Action::Retreat(step) => {
                        prop_assert!(!first && step.stage <= now.stage && step.share < started);
                    }
                    Action::Complete => prop_assert!(!first),
                    Action::Hold | Action::Pause => {}
                }
            }
            Err(error) => prop_assert!(is_short_nonsense(&error), "{error:?}"),
        }
    }

    #[test]
    fn there_is_one_outcome_for_each_pair(said in vec(any_outcome(), 0..4), pairs in 0..4_usize) {
        match outcomes(said.clone(), pairs) {
            Ok(kept) => {
                prop_assert_eq!(kept.len(), pairs);
                for (kept, said) in kept.iter().zip(&said) {
                    prop_assert_eq!(std::mem::discriminant(kept), std::mem::discriminant(said));
                    let short = match kept {
                        Comparison::Same => true,
                        Comparison::Incomparable(why) => why.len() <= MAX_TEXT,
                        Comparison::Ignored(all) | Comparison::Different(all) => {
                            let parts = |d: &Difference| [&d.path, &d.kind, &d.category, &d.v1, &d.v2].map(String::len);
                            all.len() <= MAX_ITEMS && all.iter().all(|d| parts(d).iter().all(|len| *len <= MAX_TEXT))
                        }
                    };
                    prop_assert!(short);
                }
            }
            Err(error) => prop_assert!(said.len() != pairs && is_short_nonsense(&error)),
        }
    }

    #[test]
    fn an_adapted_call_has_an_operation_and_an_object(
        operation in any_text(), body in prop_oneof![Just(b"{}".to_vec()), vec(any::<u8>(), 0..8)], notice in any_text(), n in 0..2_000_usize
    ) {
        let said = AdaptedCall { operation, body, notices: vec![(notice.clone(), notice); n] };
        match adapted(said) {
            Ok(kept) => {
                prop_assert!(serde_json::from_slice::<serde_json::Map<_, serde_json::Value>>(&kept.body).is_ok());
                prop_assert!(!kept.operation.is_empty() && kept.operation.len() <= MAX_TEXT);
                prop_assert_eq!(kept.notices.len(), n);
                prop_assert!(kept.notices.iter().all(|(kind, message)| kind.len() <= MAX_TEXT && message.len() <= MAX_TEXT));
            }
            Err(error) => prop_assert!(is_short_nonsense(&error), "{error:?}"),
        }
    }
}

/// Errors are kept and shown, so they are short whatever a policy said.
fn is_short_nonsense(error: &PolicyError) -> bool {
    matches!(error, PolicyError::Nonsense { message } if message.len() <= 2 * MAX_TEXT)
}
