//! The interpreter as a policy, natively: what is refused when, what errors say, what scripts may use and remember.

mod answers;
mod bundles;
mod limits;
mod questions;

use cutover_policy::{
    Batch, Check, Phase, Progress, Rollback as _, Verdict,
    testing::{batch, calls, operation},
};
use serde_json::{Value, json};

use super::*;
use crate::script::Memory;

fn configure(script: &str, settings: &Value) -> Result<Rhai, Vec<String>> {
    let settings = json!({ "script": script, "settings": settings });
    let said = |problems: Vec<Problem>| problems.into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect();
    Rhai::configure(serde_json::from_value(settings).unwrap()).map_err(said)
}

fn policy(script: &str) -> Rhai {
    configure(script, &json!({})).unwrap()
}

fn refused(script: &str) -> String {
    configure(script, &json!({})).unwrap_err().join("; ")
}

/// A check at `now_ms` in the second stage, which began at 0.
fn check(now_ms: u64, batches: Vec<Batch>) -> Check {
    Check { now_ms, phase: Phase::Ramping, stage: 1, share: 100_000, stage_started_ms: 0, batches }
}

fn progress(now_ms: u64, verdict: Verdict, batches: Vec<Batch>) -> Progress {
    Progress { now_ms, phase: Phase::Ramping, stage: 1, share: 100_000, stage_started_ms: 0, verdict, batches }
}

/// A second in which V1 answers as many calls in 50 ms each as V2 does, of which some fail.
fn served(start_ms: u64, requests: u64, errors: u64) -> Batch {
    let mut batch = batch(start_ms);
    batch.operations.push(operation("execute"));
    batch.operations[0].v1 = calls(requests, 0, 50_000);
    batch.operations[0].v2 = calls(requests, errors, 50_000);
    batch
}

/// What a `judge` with this body says.
fn judge(body: &str) -> Result<String, String> {
    let policy = policy(&format!("fn judge(check, memory) {{ {body} }}"));
    let judgement = policy.judge(&check(5_000, vec![served(1_000, 10, 2)]), &mut Memory::default())?;
    let verdict = format!("{:?}", judgement.verdict).replace("Verdict::", "");
    let findings: Vec<_> = judgement.findings.iter().map(|f| f.note.as_str()).collect();
    Ok(format!("{verdict} {}", findings.join("; ")).trim().to_owned())
}

/// The value of an expression, as the note of a finding.
fn value(expression: &str) -> String {
    let said = judge(&format!("hold([finding(\"value\", json_text({expression}))])"));
    said.map_or_else(|error| error, |said| said.trim_start_matches("Hold ").to_owned())
}

#[test]
fn a_script_that_does_not_compile_names_line_and_column() {
    assert_eq!(
        refused("fn judge(check, memory) {\n    let x = ;\n}"),
        "script: does not compile at line 2, column 13: Unexpected ';'"
    );
    assert_eq!(
        refused("fn judge(check) {\n  chekc.share\n}"),
        "script: does not compile at line 2, column 3: Undefined variable: chekc"
    );
    assert_eq!(
        refused("const MOST = 4;\nfn judge(check) { MOST }"),
        "script: does not compile at line 2, column 19: Undefined variable: MOST; write `global::MOST` for a constant of \
         the script"
    );
}

#[test]
fn what_no_policy_may_have_is_no_part_of_the_language() {
    for (forbidden, column) in [("eval(\"1\")", 19), ("print(1)", 19), ("debug(1)", 19), ("import \"a\" as b", 19)] {
        let error = refused(&format!("fn judge(check) {{ {forbidden} }}"));
        assert!(error.starts_with(&format!("script: does not compile at line 1, column {column}: ")), "{error}");
    }
    assert_eq!(
        judge("timestamp()"),
        Err("`judge` fails at line 1, column 27: there is no function `timestamp ()`".into())
    );
    assert!(judge("sleep(1)").unwrap_err().ends_with("a policy cannot sleep"));
    for clock in ["rand()", "now()"] {
        assert!(judge(clock).unwrap_err().contains("there is no function"), "{clock}");
    }
}

#[test]
fn a_script_of_no_kind_is_refused() {
    let error = refused("fn jugde(check, memory) { hold() }");
    assert!(error.starts_with("script: has none of the functions that make a policy: `fn make_plan("), "{error}");
    assert!(error.contains("`fn judge(check, memory)` for rollback"), "{error}");
    assert_eq!(
        refused("fn adapt_call(request) { request }"),
        "script: is no adapter policy: it has no `fn adapt_reply(request, reply)`"
    );
    assert_eq!(
        refused("fn judge(a, b, c) { hold() }"),
        "script: has a `judge` with 3 parameters; it is called as `judge(check, memory)`"
    );
}

#[test]
fn a_script_without_the_function_of_its_kind_is_refused_when_the_kind_is_known() {
    let settings = json!({ "script": "fn judge(check) { hold() }", "kind": "stages" });
    let problems = Rhai::configure(serde_json::from_value(settings).unwrap()).unwrap_err();
    assert_eq!(problems[0].message, "is no stages policy: it has no `fn next(progress, forced, memory)`");
    // Otherwise when it is asked.
    let asked = cutover_policy::Stages::next(
        &policy("fn judge(check) { hold() }"),
        &progress(0, Verdict::Hold, Vec::new()),
        false,
        &mut Memory::default(),
    );
    assert_eq!(
        asked,
        Err(
            "`next` fails the script has no `fn next(progress, forced, memory)`; add it, or use the script as another \
             kind"
                .into()
        )
    );
}

#[test]
fn a_failure_names_its_place_and_its_callers() {
    let script = "fn rate(calls) {\n    calls.erors\n}\nfn judge(check) {\n    rate(check.v2)\n}";
    let failed = policy(script).judge(&check(0, Vec::new()), &mut Memory::default()).unwrap_err();
    assert_eq!(
        failed,
        "`judge` fails at line 2, column 11 (in `rate`, called at line 5, column 5): Unknown property 'erors' - a getter \
         is not registered for type 'Calls'"
    );
    assert_eq!(judge("throw \"too early\""), Err("`judge` fails at line 1, column 27: too early".into()));
    assert_eq!(
        judge("memory.count + 1"),
        Err("`judge` fails at line 1, column 34: there is no `count` in this map; read what may be missing with \
             `.get(\"count\")`"
            .into())
    );
}

#[test]
fn values_of_different_types_are_not_compared() {
    assert_eq!(
        judge("if check.v2.error_rate > \"5%\" { hold() } else { healthy() }"),
        Err("`judge` fails at line 1, column 50: `>` cannot compare 200000 with the text \"5%\"; read \"5%\" with \
             share(..), \"10m\" with span(..)"
            .into())
    );
    assert!(judge("check.gauge(\"none\") < 3").unwrap_err().contains("cannot compare nothing, `()` with 3"));
    for (expression, expected) in [
        ("1 < 2", "true"),
        ("2 <= 2", "true"),
        ("3 > 4", "false"),
        ("1.5 >= 1", "true"),
        ("\"a\" < \"b\"", "true"),
        ("'a' > \"b\"", "false"),
        ("() == 3", "false"),
        ("\"3\" != 3", "true"),
    ] {
        assert_eq!(value(expression), expected, "{expression}");
    }
}

#[test]
fn settings_are_seen_by_every_function_and_changed_by_none() {
    let script = "fn limit() { settings.limit }
        fn judge(check) { settings.limit = 9; hold([finding(\"limit\", limit(), 0, \"count\", \"\")]) }";
    let policy = configure(script, &json!({ "limit": 7 })).unwrap();
    let said = policy.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap();
    assert_eq!(said.findings[0].observed, 7);
    let misspelt = configure("fn judge(check) { settings.limt }", &json!({ "limit": 7 })).unwrap();
    let said = misspelt.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap_err();
    assert!(said.contains("there is no `limt` in this map"), "{said}");
    let anonymous = configure("fn judge(check) { [1].map(|n| n + settings.limit) }", &json!({ "limit": 7 })).unwrap();
    let said = anonymous.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap_err();
    assert!(said.contains("an anonymous function cannot see `settings`; take what it needs"), "{said}");
}

#[test]
fn configure_says_what_is_wrong_with_settings() {
    let script = "fn configure(settings) {
            let s = typed(settings, #{ window: \"span\", rate: \"share\", pool: \"v1|v2\", more: \"count?\" });
            if s.window < 1000 { [problem(\"window\", \"is below 1s\")] } else { s }
        }
        fn judge(check) { hold([finding(\"window\", settings.window, settings.rate, \"ms\", settings.pool)]) }";
    let problems = configure(script, &json!({ "window": "soon", "rat": "5%", "pool": "v3", "more": -1 })).unwrap_err();
    assert_eq!(
        problems,
        [
            "settings.more: is -1, and has to be a whole number of 0 or more",
            "settings.pool: is the text \"v3\", and has to be one of \"v1\", \"v2\"",
            "settings.rate: is missing, and has to be a share such as \"5%\"",
            "settings.window: is the text \"soon\", and has to be a span of time such as \"30s\" or \"1h\"",
            "settings.rat: is unknown; the settings are `more`, `pool`, `rate`, `window`",
        ]
    );
    let short = configure(script, &json!({ "window": "1ms", "rate": "5%", "pool": "v1" }));
    assert_eq!(short.unwrap_err(), ["settings.window: is below 1s"]);
    let policy = configure(script, &json!({ "window": "1m", "rate": "5%", "pool": "v1" })).unwrap();
    let said = policy.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap();
    assert_eq!((said.findings[0].observed, said.findings[0].limit), (60_000, 50_000));
}

#[test]
fn a_configure_that_fails_is_the_scripts_fault() {
    let failing = "fn configure(settings) {\n  settings.a.b\n}\nfn judge(check) { hold() }";
    assert!(refused(failing).starts_with("script: has a `configure` that fails at line 2, column 12: "));
    let wrong = refused("fn configure(settings) { 3 } fn judge(check) { hold() }");
    assert!(wrong.starts_with("script: has a `configure` that answers wrongly: `problems` is 3, "), "{wrong}");
    let top = refused("let x = 1 / 0;\nfn judge(check) { hold() }");
    assert_eq!(top, "script: fails at its top level at line 1, column 11: Division by zero: 1 / 0");
}

#[test]
fn every_setting_has_a_description_and_unknown_ones_are_refused() {
    let schema = schemars::schema_for!(Settings);
    let properties = schema.as_value()["properties"].as_object().unwrap();
    assert_eq!(properties.keys().collect::<Vec<_>>(), ["kind", "script", "settings"]);
    assert!(properties.values().all(|p| p["description"].is_string() || p["anyOf"].is_array()));
    assert!(serde_json::from_value::<Settings>(json!({ "script": "", "setings": {} })).is_err());
}
