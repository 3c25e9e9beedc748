//! Answers: every shape that fits, and what is said of those that do not.

use cutover_policy::{
    Action, AdaptedCall, Adapter as _, Call, Comparison as _, Condition, Notice, Operation, OperationClass, Outcome,
    Pair, Plan, Reply, Routing as _, Rule, Side, Situation, Stages as _, Step, Target, Test,
};

use super::*;

fn next(body: &str) -> Result<Action, String> {
    let policy = policy(&format!("fn next(progress) {{ {body} }}"));
    policy.next(&progress(0, Verdict::Healthy, Vec::new()), false, &mut Memory::default()).map(|m| m.action)
}

fn plan(body: &str) -> Result<Plan, String> {
    let policy = policy(&format!("fn make_plan(situation) {{ {body} }}"));
    let operation = |name: &str, class| Operation { name: name.into(), class };
    let situation = Situation {
        now_ms: 0,
        migration: "programs".into(),
        phase: Phase::Ramping,
        stage: 0,
        share: 50_000,
        salt: "salt".into(),
        operations: vec![operation("write", OperationClass::Replicate), operation("list", OperationClass::Read)],
    };
    policy.make_plan(&situation, &mut Memory::default())
}

fn compare(body: &str) -> Outcome {
    let side = |body: &str| Side { success: true, status: 200, media_type: String::new(), body: body.into() };
    let pair = Pair { operation: "list".into(), v1: side("{\"a\":1}"), v2: side("no json") };
    policy(&format!("fn compare(pair) {{ {body} }}")).compare(&pair)
}

#[test]
fn verdicts_are_words_or_maps() {
    assert_eq!(judge("\"healthy\""), Ok("Healthy".into()));
    assert_eq!(judge("healthy()"), Ok("Healthy".into()));
    assert_eq!(judge("warn(finding(\"r\", \"because\"))"), Ok("Warn because".into()));
    assert_eq!(judge("roll_back([finding(\"r\", 3, 2, \"count\", \"why\")])"), Ok("RollBack why".into()));
    let judged = policy("fn judge(c) { let a = healthy(); a.evidence = -5; a }");
    assert_eq!(judged.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap().evidence, -5);
}

#[test]
fn wrong_verdicts_are_explained() {
    for (body, expected) in [
        ("\"fine\"", "`answer` is \"fine\", and has to be one of \"healthy\", \"hold\", \"warn\", \"roll-back\""),
        ("3", "`answer` is 3, and has to be `healthy()`, `hold(..)`, `warn(..)` or `roll_back(..)`"),
        ("()", "`answer` is nothing, `()`, and has to be"),
        ("#{}", "`answer.answer` is missing, and has to be a text"),
        (
            "#{ answer: \"hold\", findngs: [] }",
            "`answer` has an unknown field `findngs`; it may have `answer`, `findings`",
        ),
        ("roll_back([])", "`roll-back` has no finding; say why, as in `roll_back([finding(..)])`"),
        ("\"warn\"", "`warn` has no finding"),
        ("hold([1])", "`answer.findings[0]` is 1, and has to be a finding, as `finding(rule, "),
        ("hold([#{ rule: 3 }])", "`answer.findings[0].rule` is 3, and has to be a text"),
        (
            "hold([#{ rule: \"r\", observed: 1.5 }])",
            "`answer.findings[0].observed` is 1.5, and has to be a whole number",
        ),
    ] {
        let error = judge(body).unwrap_err();
        assert!(error.starts_with("`judge` answers wrongly: ") && error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn stages_answer_with_every_action() {
    let step = |stage, share, soak_ms| Step { stage, share, soak_ms };
    for (body, expected) in [
        ("\"hold\"", Action::Hold),
        ("hold([])", Action::Hold),
        ("advance(2, \"25%\", \"2h\")", Action::Advance(step(2, 250_000, Some(7_200_000)))),
        ("advance(2, 250000)", Action::Advance(step(2, 250_000, None))),
        ("advance(2, \"25%\", (), [finding(\"r\", \"n\")])", Action::Advance(step(2, 250_000, None))),
        ("retreat(0, \"5%\", 1000)", Action::Retreat(step(0, 50_000, Some(1_000)))),
        ("complete()", Action::Complete),
        ("pause(finding(\"r\", \"n\"))", Action::Pause),
    ] {
        assert_eq!(next(body), Ok(expected), "{body}");
    }
    for (body, expected) in [
        ("\"advance\"", "`advance` does not say where to; write `advance(stage, share, soak)`"),
        ("advance(-1, \"5%\")", "`answer.stage` is -1, and has to be a whole number from 0"),
        ("advance(1, \"5\")", "`answer.share` is wrong: invalid value: string \"5\", expected a share such as"),
        ("advance(1, \"5%\", \"x\")", "`answer.soak` is wrong: "),
        ("healthy()", "`answer` is \"healthy\", and has to be one of \"hold\", \"advance\""),
    ] {
        let error = next(body).unwrap_err();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn a_plan_follows_the_migration_unless_told() {
    let default = plan("plan(situation)").unwrap();
    assert_eq!(
        default,
        Plan {
            rules: Vec::new(),
            otherwise: Target::Share,
            sticky: "session".into(),
            salt: "salt".into(),
            share: 50_000,
            shadow_share: 0,
            shadow_operations: vec!["list".into()],
        }
    );
    assert_eq!(plan("#{}").unwrap(), Plan { shadow_operations: Vec::new(), ..default });
    let full = plan(
        "let plan = plan(situation);
         plan.rules = [rule(\"all\", [one_of(\"operation\", \"list\"), prefix(\"path\", \"/v\"), present(\"session\"),
             absent(\"header:x\")], \"v2\"), rule(\"none\", [], \"v1\")];
         plan.share = \"1%\"; plan.shadow_share = \"50%\"; plan.otherwise = \"v1\"; plan.sticky = \"header:x-user\"; plan",
    )
    .unwrap();
    let condition = |attribute: &str, test| Condition { attribute: attribute.into(), test };
    assert_eq!(
        full.rules,
        [
            Rule {
                name: "all".into(),
                conditions: vec![
                    condition("operation", Test::OneOf(vec!["list".into()])),
                    condition("path", Test::Prefix("/v".into())),
                    condition("session", Test::Present),
                    condition("header:x", Test::Absent),
                ],
                target: Target::V2,
            },
            Rule { name: "none".into(), conditions: Vec::new(), target: Target::V1 },
        ]
    );
    assert_eq!((full.share, full.shadow_share, full.otherwise), (10_000, 500_000, Target::V1));
}

#[test]
fn wrong_plans_are_explained() {
    for (body, expected) in [
        ("#{ rule: [] }", "`plan` has an unknown field `rule`; it may have `rules`, `otherwise`, "),
        (
            "#{ otherwise: \"v3\" }",
            "`plan.otherwise` is \"v3\", and has to be one of \"v1\", \"v2\", \"share\", \"decide\"",
        ),
        ("#{ rules: [rule(\"a\", 1, \"v1\")] }", "`plan.rules[0].conditions` is 1, and has to be a condition"),
        ("#{ share: \"lots\" }", "`plan.share` is wrong: "),
        ("#{ shadow_operations: [1] }", "`plan.shadow_operations[0]` is 1, and has to be a text"),
        (
            "#{ otherwise: \"decide\" }",
            "`make_plan` sends requests to \"decide\", and the script has no `fn decide(request)`",
        ),
    ] {
        let error = plan(body).unwrap_err();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn comparisons_answer_with_every_outcome() {
    assert_eq!(compare("same()"), Outcome::Same);
    assert_eq!(compare("incomparable(\"why\")"), Outcome::Incomparable("why".into()));
    let Outcome::Different(all) = compare("different([difference(\"/a\", \"value\", \"semantic\", 1, ())])") else {
        panic!()
    };
    assert_eq!((all[0].path.as_str(), all[0].v1.as_str(), all[0].v2.as_str()), ("/a", "1", ""));
    assert!(
        matches!(compare("ignored(difference(\"\", \"value\", \"timing\", \"\", \"\"))"), Outcome::Ignored(all) if all.len() == 1)
    );
    assert_eq!(compare("if pair.v1.json.a == 1 { same() } else { () }"), Outcome::Same);
}

#[test]
fn a_comparison_that_fails_has_compared_nothing() {
    let why = |body| match compare(body) {
        Outcome::Incomparable(why) => why,
        outcome => panic!("{outcome:?}"),
    };
    let said = why("pair.v2.json");
    assert!(
        said.starts_with("`compare` fails at line 1, column 28: the result of V2 cannot be read as JSON: "),
        "{said}"
    );
    assert!(why("1").contains("`compare` answers wrongly: `answer` is 1, and has to be `same()`, "));
    assert!(why("\"different\"").contains("does not say what"));
}

#[test]
fn adapters_translate_both_ways() {
    let policy = policy(
        "fn adapt_call(given) {
             if given.operation == \"old\" { throw \"V2 has no `old`\"; }
             given.body.items = given.body.items.map(|n| n * 2);
             adapted(\"run\", given.body, [deprecation(\"use `run`\"), hint(given.session)])
         }
         fn adapt_reply(given, reply) { reply(reply.success, #{ out: reply.body.items, of: given.operation }) }",
    );
    let call =
        |operation: &str| Call { operation: operation.into(), session: "s".into(), body: b"{\"items\":[1,2]}".into() };
    let notice = |kind: &str, message: &str| Notice { kind: kind.into(), message: message.into() };
    assert_eq!(
        policy.adapt_call(&call("execute")),
        Ok(AdaptedCall {
            operation: "run".into(),
            body: b"{\"items\":[2,4]}".into(),
            notices: vec![notice("deprecation", "use `run`"), notice("hint", "s")],
        })
    );
    let refused = policy.adapt_call(&call("old")).unwrap_err();
    assert_eq!(refused, "`adapt_call` fails at line 2, column 44: V2 has no `old`");
    let reply = Reply { success: true, body: b"{\"items\":[2.5,4]}".into() };
    let adapted = policy.adapt_reply(&call("execute"), reply).unwrap();
    assert_eq!(String::from_utf8(adapted.body).unwrap(), r#"{"of":"execute","out":[2.5,4]}"#);
    let broken = Reply { success: true, body: b"[".into() };
    assert!(
        policy.adapt_reply(&call("execute"), broken).unwrap_err().starts_with("the body of the reply is not JSON: ")
    );
}
