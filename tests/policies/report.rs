//! What a run says of a policy that does not do what its cases expect.

use cutover_policy_test::{Bundle, Limits, What};

use super::{bundle, hostile, run, shown};
use crate::harness::components;

#[test]
fn a_failed_expectation_shows_each_field() {
    let bundle = hostile(
        "rollback",
        r#"
        [[cases]]
        name = "it rolls back"
        settings = { verdict = "warn" }
        steps = [
            { repeat = 2, expect = { verdict = "warn" } },
            { expect = { verdict = "roll-back", evidence = { min = 2000000 }, findings = ["v2-errors", { rule = "told-to", observed = 1, limit = 7 }] } },
        ]
        "#,
    );
    insta::assert_snapshot!(shown(&bundle, &run(&bundle).to_string()), @r#"
    FAILED BUNDLE/cases/all.toml: it rolls back
      step 2:
        verdict
          - roll-back
          + warn
        evidence
          - at least 2000000
          + 0
        findings
          - v2-errors
          - told-to, observed 1, limit 7
          + told-to, observed 1, limit 0, unit count, note the settings say so
    hostile (rollback): 0 passed, 1 failed; 3 questions; never said: `healthy`, `hold`, `roll-back`
    "#);
}

#[test]
fn each_kind_says_what_it_answered() {
    let stages = hostile(
        "stages",
        r#"
        [[cases]]
        name = "up"
        steps = [{ expect = { action = "advance", to = { stage = 1 } } }]
        "#,
    );
    let routing = hostile(
        "routing",
        r#"
        [[cases]]
        name = "plan"
        settings = { in = "decide", do = "nonsense" }
        steps = [
            { share = "7%", requests = [{ session = "a", pool = "v1", reason = "share", mirror = true }], expect = { otherwise = "v1", share = "5%", rules = ["beta"] } },
        ]
        "#,
    );
    let comparison = hostile(
        "comparison",
        r#"
        [[cases]]
        name = "pairs"
        steps = [{ pairs = [{ v1 = {}, v2 = {} }, { v1 = {}, v2 = {} }], expect = { outcomes = ["same", { outcome = "different", differences = ["/a"] }] } }]
        "#,
    );
    let adapter = hostile(
        "adapter",
        r#"
        [[cases]]
        name = "call"
        steps = [{ call = { json = { a = 1 } }, expect = { operation = "run", json = { a = 2 }, notices = ["hint"] } }]
        [[cases]]
        name = "reply"
        steps = [{ call = {}, reply = { json = 5 }, expect = { success = false, json = 6 } }]
        "#,
    );
    let all = [stages, routing, comparison, adapter];
    let text: Vec<_> = all.iter().map(|bundle| shown(bundle, &run(bundle).to_string())).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    FAILED BUNDLE/cases/all.toml: up
      step 1:
        action
          - advance
          + hold
        to
          - a stage to go to
          + none: it says `hold`
    hostile (stages): 0 passed, 1 failed; 1 questions; never said: `advance`, `retreat`, `complete`, `pause`; the findings `told-to`
    FAILED BUNDLE/cases/all.toml: plan
      step 1:
        otherwise
          - v1
          + decide
        share
          - 5%
          + 7%
        rules
          - beta
          + none
        requests[0].pool
          - v1
          + v2
        requests[0].reason
          - share
          + otherwise
        requests[0].mirror
          - true
          + false
    hostile (routing): 0 passed, 1 failed; 1 questions; never said: `v1`, `v2`, `share`; the findings `told-to`
    FAILED BUNDLE/cases/all.toml: pairs
      step 1:
        outcomes[1].outcome
          - different
          + same
        outcomes[1].differences
          - "/a"
          + none
    hostile (comparison): 0 passed, 1 failed; 1 questions; never said: `ignored`, `different`, `incomparable`; the findings `told-to`
    FAILED BUNDLE/cases/all.toml: call
      step 1:
        operation
          - run
          + execute
        json
          - {"a":2}
          + {"a":1}
        notices
          - hint: ..
          + none
    FAILED BUNDLE/cases/all.toml: reply
      step 1:
        success
          - false
          + true
        json
          - 6
          + 5
    hostile (adapter): 0 passed, 2 failed; 2 questions; never said: the findings `told-to`
    "#);
}

#[test]
fn what_never_becomes_so_says_what_it_was_in_the_end() {
    let bundle = hostile(
        "rollback",
        r#"
        [[cases]]
        name = "patience"
        steps = [{ repeat = 5, until = { verdict = "hold" } }]
        "#,
    );
    let report = run(&bundle);
    assert_eq!(report.cases[0].asked, 5);
    insta::assert_snapshot!(shown(&bundle, &report.to_string()), @r#"
    FAILED BUNDLE/cases/all.toml: patience
      step 1, repetition 5:
        it never became what `until` says; the last answer:
        verdict
          - hold
          + healthy
    hostile (rollback): 0 passed, 1 failed; 5 questions; never said: `hold`, `warn`, `roll-back`
    "#);
}

#[test]
fn memory_goes_from_step_to_step_and_not_from_case_to_case() {
    let cases = r#"
        settings = { consecutive = 3, min_requests = 10 }
        [[cases]]
        name = "three in a row"
        steps = [
            { repeat = 2, batch = { v2 = { requests = 50, errors = 40 } }, expect = { verdict = "warn" } },
            { batch = { v2 = { requests = 50, errors = 40 } }, expect = { verdict = "roll-back" } },
        ]
        [[cases]]
        name = "again from nothing"
        steps = [{ batch = { v2 = { requests = 50, errors = 40 } }, expect = { verdict = "warn" } }]
        [[cases]]
        name = "with what is not its memory"
        start = { memory = "gibberish" }
        steps = [{ expect = { verdict = "hold", findings_include = [{ rule = "memory-lost", note = "this memory is not mine" }] } }]
    "#;
    let bundle = bundle(
        "thresholds",
        "rollback",
        "findings = ['consecutive', 'memory-lost', 'v2-error-rate', 'too-little-data']",
        cases,
    );
    let report = run(&bundle);
    assert!(report.passed(), "{report}");
    assert_eq!(report.cases.iter().map(|c| c.asked).collect::<Vec<_>>(), [3, 1, 1]);
}

#[test]
fn limits_are_enforced_and_their_causes_typed() {
    let mut cases = String::new();
    for (misdeed, cause) in [
        ("loop", "deadline"),
        ("trap", "trap"),
        ("allocate", "out-of-memory"),
        // Rust keeps its frames in linear memory, where the end of the stack is an address out of bounds.
        ("recurse", "trap"),
        ("huge", "malformed"),
        ("nonsense", "nonsense"),
        ("refuse", "said"),
    ] {
        cases += &format!(
            "[[cases]]\nname = '{misdeed}'\nsettings = {{ in = 'rollback', do = '{misdeed}' }}\n\
             steps = [{{ expect = {{ error = '{cause}' }} }}, {{ expect = {{ error = '{cause}' }} }}]\n"
        );
    }
    cases += "[[cases]]\nname = 'never configured'\nsettings = { in = 'configure', do = 'loop' }\nexpect = { error = 'deadline' }\n";
    cases += "[[cases]]\nname = 'not expected'\nsettings = { in = 'rollback', do = 'loop' }\nsteps = [{}]\n";
    let bundle = hostile("rollback", &cases);
    let report = run(&bundle);
    let (last, others) = report.cases.split_last().unwrap();
    assert!(others.iter().all(cutover_policy_test::CaseReport::passed), "{report}");
    let [failure] = last.failures.as_slice() else { panic!("{last:?}") };
    assert!(failure.to_string().contains("did not answer within 250 ms"), "{failure}");
    assert_eq!(last.answers[0]["answer"]["error"]["cause"], "deadline");
}

#[test]
fn findings_that_are_not_declared_and_answers_that_are_never_given_fail() {
    let cases = "never = ['warn']\n[[cases]]\nname = 'a'\nsteps = [{}]\n\
                 [[cases]]\nname = 'b'\nsettings = { verdict = 'warn' }\nsteps = [{ expect = {} }]\n";
    let silent = bundle("hostile", "rollback", "", cases);
    let report = run(&silent);
    let what: Vec<_> = report.cases[1].failures.iter().map(|f| &f.what).collect();
    assert!(matches!(what.as_slice(), [What::Undeclared { rules }] if rules == &["told-to"]), "{what:?}");
    let declared = hostile("rollback", cases);
    let report = run(&declared);
    let what: Vec<_> = report.cases[1].failures.iter().map(|f| &f.what).collect();
    assert!(matches!(what.as_slice(), [What::Never { answer }] if answer == "warn"), "{what:?}");
}

#[test]
fn gaps_in_coverage_are_named() {
    let cases = "never = ['warn']\n[[cases]]\nname = 'a'\nsteps = [{ expect = { verdict = 'healthy' } }]\n";
    let bundle = bundle("hostile", "rollback", "findings = ['told-to', 'unheard-of']", cases);
    let report = run(&bundle);
    assert!(report.passed() && !report.covered());
    insta::assert_snapshot!(report, @"hostile (rollback): 1 passed, 0 failed; 1 questions; never said: `hold`, `roll-back`; the findings `unheard-of`");
    let filtered = Bundle::open(bundle.path()).components(components()).filter("a").run().unwrap();
    assert!(filtered.covered() && filtered.coverage.is_none(), "a part of the cases has no gaps");
}

#[test]
fn answers_move_the_migration_only_if_they_are_obeyed() {
    let case = |obey: bool, second: &str| {
        format!(
            "[[cases]]\nname = 'obey {obey}'\nobey = {obey}\nsteps = [\n\
             {{ wait = '1h', batch = {{ v2 = {{ requests = 100 }} }}, expect = {{ action = 'advance', to = {{ stage = 1 }} }} }},\n\
             {{ expect = {second} }},\n]\n"
        )
    };
    let cases = case(true, "{ action = 'hold', findings = ['soak', 'v2-requests'] }")
        + &case(false, "{ action = 'advance', to = { stage = 1, share = '10%', soak = '1h' } }");
    let findings = "findings = ['compared', 'different', 'open-ended', 'soak', 'v2-requests', 'verdict']";
    let report = run(&bundle("standard-stages", "stages", findings, &cases));
    assert!(report.passed(), "{report}");
}

#[test]
fn the_limits_of_a_host_are_those_of_its_tests() {
    let bundle = hostile("rollback", "[[cases]]\nname = 'a'\nsteps = [{ expect = {} }]\n");
    let tiny = Limits { component_bytes: 1_000, ..Limits::default() };
    let error = Bundle::open(bundle.path()).components(components()).limits(tiny).run().unwrap_err();
    assert!(error.to_string().contains("more than the 1000 that the host compiles"), "{error}");
}
