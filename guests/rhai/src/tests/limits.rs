//! Scripts that want too much end with a sentence that names the limit.

use super::*;

fn ends_with(body: &str, expected: &str) {
    let error = judge(body).unwrap_err();
    assert!(error.contains(expected), "{body}: {error}");
}

#[test]
fn a_loop_that_does_not_end_is_stopped() {
    for body in ["loop {}", "while true { let x = 1; }", "let i = 0; loop { i += 1; }"] {
        ends_with(body, "takes more than 500000 steps; does a loop not end?");
    }
}

#[test]
fn functions_call_each_other_only_so_deep() {
    let policy = policy("fn down(n) { down(n + 1) }\nfn judge(check) { down(0) }");
    let error = policy.judge(&check(0, Vec::new()), &mut Memory::default()).unwrap_err();
    assert!(error.contains("calls functions within functions more than 24 deep; use a loop"), "{error}");
}

#[test]
fn values_grow_only_so_large() {
    let too_large = "a text has at most 1048576 bytes, an array 50000 elements and a map 10000 fields";
    ends_with("let s = \"x\"; loop { s += s; }", too_large);
    ends_with("let a = [1]; loop { a += a; }", too_large);
    ends_with("let a = []; loop { a.push(1); }", too_large);
    ends_with("let a = []; a.pad(100000000, 0);", "too large");
    ends_with("let s = \"\"; s.pad(100000000, 'x');", "too large");
}

#[test]
fn what_is_remembered_must_be_json() {
    ends_with(
        "memory.check = check; hold()",
        "leaves a memory that cannot be kept: `memory.check` is of the type Check",
    );
    ends_with("memory.x = 0.0 / 0.0; hold()", "`memory.x` is NaN, which JSON cannot say");
    ends_with("memory = 3; hold()", "`judge` leaves a memory that is 3, and has to be a map");
    ends_with("memory.f = || 1; hold()", "which JSON cannot say");
    ends_with("let a = []; for i in 0..100 { a = [a]; } memory.a = a; hold()", "nests deeper than 64");
}

#[test]
fn expressions_nest_only_so_deep() {
    let nested = format!("fn judge(check) {{ {}1{} }}", "(".repeat(100), ")".repeat(100));
    assert!(refused(&nested).contains("does not compile at line 1"), "{}", refused(&nested));
}

#[test]
fn windows_are_bounded_in_number_and_length() {
    ends_with(
        "for i in 0..20 { window(`w${i}`, check, \"1m\"); } hold()",
        "one more than the 16 that a script may have",
    );
    ends_with("window(\"w\", check, \"1ms\"); hold()", "the window `w` is shorter than 1s, the length of a batch");
    ends_with("window(\"w\", check, \"soon\"); hold()", "expected a span of time such as");
}
