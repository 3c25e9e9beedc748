//! Scripts that misbehave, in the sandbox: each ends with an error that names the limit, or with a typed cause; none
//! with a host that is worse off.

use super::*;

/// What the policy in charge answers while the misbehaving script is asked: nothing of it is shared.
fn still_sane() {
    let sane = admit(Kind::Rollback, "fn judge(check) { healthy() }").unwrap();
    assert_eq!(sane.judge(&check(5, Vec::new()), &[]).answer.unwrap().verdict, Verdict::Healthy);
}

fn judged(body: &str) -> PolicyError {
    let policy =
        admit(Kind::Rollback, &format!("fn judge(check, memory) {{ {body} }}\nfn down(n) {{ down(n + 1) }}")).unwrap();
    let error = policy.judge(&check(5, vec![served(0, 10, 0)]), &[]).answer.unwrap_err();
    still_sane();
    error
}

#[test]
fn limits_of_the_interpreter_speak_before_those_of_the_sandbox() {
    for (body, expected) in [
        ("loop {}", "takes more than 500000 steps; does a loop not end?"),
        ("let n = 0; loop { n += check.v2.requests; }", "takes more than 500000 steps"),
        ("down(0)", "calls functions within functions more than 24 deep"),
        ("let s = \"x\"; loop { s += s; }", "makes too large a value"),
        ("let a = [0]; loop { a += a; }", "makes too large a value"),
        ("let m = #{}; let i = 0; loop { m[`k${i}`] = `${i}`; i += 1; }", "takes more than 500000 steps"),
        ("let a = []; loop { a = [a]; }", "takes more than 500000 steps"),
        ("throw check", "Check"),
    ] {
        let error = judged(body);
        match &error {
            PolicyError::Said { message } => assert!(message.contains(expected), "{body}: {message}"),
            // A million levels of arrays overflow the stack when they are dropped; that is the sandbox's to say.
            PolicyError::Trap { .. } | PolicyError::StackOverflow if body.contains("[a]") => {}
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn memory_that_a_script_hoards_is_limited_by_the_sandbox() {
    // Each text is as long as a text may be; there are more of them than memory.
    let texts: String = (0..60).map(|i| format!("let s{i} = \"{i}\"; s{i}.pad(1000000, 'x'); ")).collect();
    let error = judged(&texts);
    assert!(matches!(&error, PolicyError::OutOfMemory { .. }), "{error:?}");
}

#[test]
fn a_question_ends_within_the_time_that_hosts_give_it() {
    let engine =
        Engine::new(Limits::alike(KindLimits { time: Duration::from_millis(50), ..KindLimits::default() })).unwrap();
    let component = std::fs::read(components().join("rhai.wasm")).unwrap();
    let compiled = engine.compile(&component).unwrap();
    // Native helpers count as one step however long they take, so time is what ends this one.
    let script = "fn judge(check) { let a = []; a.pad(40000, 7); loop { a.sort(); a.reverse(); } }";
    let settings = json!({ "script": script }).to_string();
    let policy = match Policy::admit(&engine, compiled, Kind::Rollback, &settings) {
        Ok(policy) => policy,
        // A machine so busy that not even the settings are read in time has shown the same.
        Err(PolicyError::Deadline { .. }) => return,
        Err(other) => panic!("{other:?}"),
    };
    let error = policy.judge(&check(5, Vec::new()), &[]).answer.unwrap_err();
    assert_eq!(error, PolicyError::Deadline { limit_ms: 50, setting: "time" });
}

#[test]
fn configuring_is_limited_like_asking() {
    for (script, expected) in [
        (
            "loop {}\nfn judge(check) { hold() }",
            "fails at its top level at line 1, column 6: takes more than 500000 steps",
        ),
        (
            "fn configure(s) { loop {} } fn judge(check) { hold() }",
            "has a `configure` that fails takes more than 500000 steps",
        ),
        ("fn configure(s) { configure(s) } fn judge(check) { hold() }", "functions more than 24 deep"),
    ] {
        let error = admit(Kind::Rollback, script).unwrap_err();
        assert!(matches!(&error, PolicyError::Settings { .. }) && error.to_string().contains(expected), "{error}");
    }
    let deep = format!("fn judge(check) {{ {}1{} }}", "(".repeat(100_000), ")".repeat(100_000));
    let error = admit(Kind::Rollback, &deep).unwrap_err();
    assert!(matches!(&error, PolicyError::Settings { .. }), "{error:?}");
    still_sane();
}

#[test]
fn settings_and_memory_that_are_bombs_are_survived() {
    let (engine, compiled) = super::engine();
    let nested = format!(
        "{{\"script\":\"fn judge(c) {{ hold() }}\",\"settings\":{}{}}}",
        "{\"a\":".repeat(5_000),
        "1".to_owned() + &"}".repeat(5_000)
    );
    let error = Policy::admit(engine, compiled.clone(), Kind::Rollback, &nested).unwrap_err();
    assert!(matches!(&error, PolicyError::Settings { .. }), "{error:?}");
    let policy = admit(Kind::Rollback, "fn judge(check, memory) { hold() }").unwrap();
    let bomb = format!("{{\"memory\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let answer = policy.judge(&check(5, Vec::new()), bomb.as_bytes()).answer.unwrap();
    assert!(answer.findings.iter().any(|finding| finding.rule == "memory-lost"), "{answer:?}");
}

#[test]
fn an_answer_that_is_too_large_is_stopped_on_its_way() {
    let body =
        "let all = []; let s = \"\"; s.pad(60000, 'x'); for i in 0..40 { all.push(finding(\"r\", s)); } hold(all)";
    let error = judged(body);
    assert!(said(error).contains("makes too large a value"));
}

#[test]
fn functions_may_call_each_other_as_deep_as_promised() {
    let script = "fn down(n) {
            if n == 22 { return n; }
            if true { if true { switch n { 99 => 0, _ => { let all = [1 + (2 * (3 + down(n + 1)))]; all[0] } } } }
        }
        fn closures(n) { if n == 6 { n } else { [n].map(|x| closures(x + 1))[0] } }
        fn judge(check) { hold([finding(\"deep\", closures(0), 0, \"count\", `${down(0)}`)]) }";
    let judged = admit(Kind::Rollback, script).unwrap().judge(&check(5, Vec::new()), &[]);
    assert_eq!(judged.answer.unwrap().findings[0].observed, 6);
}

#[test]
fn decide_of_a_broken_script_is_a_trap() {
    let script = "fn make_plan(situation) { #{ otherwise: \"decide\" } } fn decide(request) { request.nothing }";
    let policy = admit(Kind::Routing, script).unwrap();
    let mut frame = Vec::new();
    frame.extend([0_u8; 12]);
    let error = policy.decide(&frame).unwrap_err();
    assert!(matches!(&error, PolicyError::Trap { .. }), "{error:?}");
}
