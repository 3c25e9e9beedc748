use cutover_policy::Side;

use super::*;

fn hostile(misdeed: &str, place: &str) -> Result<Hostile, Vec<Problem>> {
    let json = format!(r#"{{ "do": "{misdeed}", "in": "{place}" }}"#);
    Hostile::configure(serde_json::from_str(&json).unwrap())
}

fn situation() -> Situation {
    Situation {
        now_ms: 0,
        migration: "m".into(),
        phase: Phase::Ramping,
        stage: 0,
        share: 50_000,
        salt: "s".into(),
        operations: Vec::new(),
    }
}

fn check() -> Check {
    Check { now_ms: 0, phase: Phase::Ramping, stage: 0, share: 0, stage_started_ms: 0, batches: Vec::new() }
}

fn progress() -> Progress {
    Progress {
        now_ms: 0,
        phase: Phase::Ramping,
        stage: 0,
        share: 0,
        stage_started_ms: 0,
        verdict: Verdict::Healthy,
        batches: Vec::new(),
    }
}

fn pair() -> Pair {
    let side = Side { success: true, status: 0, media_type: String::new(), body: Vec::new() };
    Pair { operation: "o".into(), v1: side.clone(), v2: side }
}

fn call() -> Call {
    Call { operation: "o".into(), session: String::new(), body: b"{}".into() }
}

#[test]
fn it_is_sane_by_default() {
    let sane = Hostile::configure(serde_json::from_str("{}").unwrap()).unwrap();
    let plan = sane.make_plan(&situation(), &mut ()).unwrap();
    assert_eq!((plan.otherwise, plan.share), (Target::Share, 50_000));
    assert_eq!(sane.next(&progress(), true, &mut String::new()).unwrap().action, Action::Hold);
    assert_eq!(sane.judge(&check(), &mut String::new()).unwrap().verdict, Verdict::Healthy);
    assert_eq!(sane.compare_all(&[pair(), pair()]), [Outcome::Same, Outcome::Same]);
    assert_eq!(sane.adapt_call(&call()).unwrap().body, b"{}");
    let reply = Reply { success: false, body: b"1".into() };
    assert_eq!(sane.adapt_reply(&call(), reply.clone()).unwrap(), reply);
}

#[test]
fn it_misbehaves_only_in_its_place() {
    let policy = hostile("trap", "rollback").unwrap();
    assert!(policy.make_plan(&situation(), &mut ()).is_ok());
    assert!(std::panic::catch_unwind(|| policy.judge(&check(), &mut String::new())).is_err());
    assert!(std::panic::catch_unwind(|| hostile("trap", "configure")).is_err());
}

#[test]
fn it_refuses_with_a_sentence() {
    assert_eq!(hostile("refuse", "configure").unwrap_err()[0].path, "do");
    assert!(hostile("refuse", "plan").unwrap().make_plan(&situation(), &mut ()).is_err());
    assert!(hostile("refuse", "stages").unwrap().next(&progress(), false, &mut String::new()).is_err());
    assert!(hostile("refuse", "rollback").unwrap().judge(&check(), &mut String::new()).is_err());
    assert!(hostile("refuse", "adapter").unwrap().adapt_call(&call()).is_err());
}

#[test]
fn its_nonsense_breaks_the_contract() {
    assert_eq!(hostile("nonsense", "plan").unwrap().make_plan(&situation(), &mut ()).unwrap().share, FOUR_BILLION);
    assert_eq!(hostile("nonsense", "comparison").unwrap().compare_all(&[pair()]).len(), 2);
    let judgement = hostile("nonsense", "rollback").unwrap().judge(&check(), &mut String::new()).unwrap();
    assert_eq!((judgement.verdict, judgement.findings.len()), (Verdict::RollBack, 0));
    let action = hostile("nonsense", "stages").unwrap().next(&progress(), false, &mut String::new()).unwrap().action;
    assert_eq!(action, Action::Advance(Step { stage: FOUR_BILLION, share: FOUR_BILLION, soak_ms: Some(u64::MAX) }));
}

#[test]
fn its_huge_answers_are_huge() {
    assert_eq!(hostile("huge", "plan").unwrap().make_plan(&situation(), &mut ()).unwrap().rules.len(), MANY);
    let mut memory = String::new();
    hostile("huge", "stages").unwrap().next(&progress(), false, &mut memory).unwrap();
    assert_eq!(memory.len(), LONG);
}

#[test]
fn it_remembers_as_much_as_it_was_told() {
    let settings = serde_json::from_str(r#"{ "remember": 7, "in": "rollback", "spins": 3 }"#).unwrap();
    let mut memory = "before".to_owned();
    Hostile::configure(settings).unwrap().judge(&check(), &mut memory).unwrap();
    assert_eq!(memory, "mmmmmmm");
}

#[test]
fn it_says_the_verdict_that_it_was_told() {
    for (text, verdict) in [
        ("healthy", Verdict::Healthy),
        ("hold", Verdict::Hold),
        ("warn", Verdict::Warn),
        ("roll-back", Verdict::RollBack),
    ] {
        let settings = serde_json::from_str(&format!(r#"{{ "verdict": "{text}" }}"#)).unwrap();
        assert_eq!(Hostile::configure(settings).unwrap().judge(&check(), &mut String::new()).unwrap().verdict, verdict);
    }
}
