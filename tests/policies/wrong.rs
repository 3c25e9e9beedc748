//! Case files with mistakes: each is named with its file, case, step and field, all of them at once.

use cutover_policy_test::Bundle;

use super::{hostile, shown, write_cases};
use crate::harness::components;

fn problems(kind: &str, cases: &str) -> String {
    let bundle = hostile(kind, cases);
    let error = Bundle::open(bundle.path()).components(components()).run().unwrap_err();
    shown(&bundle, &error.to_string())
}

#[test]
fn unknown_fields_are_named_where_they_are() {
    let text = problems(
        "rollback",
        r#"
        [[cases]]
        name = "one"
        step = []
        [[cases]]
        name = "two"
        start = { shar = "5%" }
        steps = [
            { expect = { verdct = "hold" } },
            { expect = { findings = ["a", { rule = "b", observd = 1 }] } },
            { batch = { v2 = { request = 5 } } },
            { batches = [{}, { operations = { a = { v3 = {} } } }] },
        ]
        "#,
    );
    insta::assert_snapshot!(text, @"");
}

#[test]
fn what_means_nothing_to_a_kind_is_refused() {
    let text = problems(
        "comparison",
        r#"
        never = ["advance"]
        [[cases]]
        name = "misplaced"
        obey = true
        start = { verdict = "hold" }
        steps = [
            { batch = { v2 = { requests = 1 } }, forced = true, expect = { action = "hold" } },
            { pair = { v1 = {}, v2 = {} }, pairs = [] },
        ]
        "#,
    );
    insta::assert_snapshot!(text, @"");
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    let text = problems(
        "rollback",
        r#"
        [[cases]]
        name = "same"
        steps = [
            { share = "101%" },
            { wait = 5 },
            { until = {} },
            { repeat = 0 },
            { batch = { v1 = { requests = 1, errors = 2 } } },
            { batch = { v1 = { p50 = "2s", p99 = "1s" } } },
            { batches = [{ seconds = 3000 }, { seconds = 1000 }] },
            { expect = { findings = [{ rule = "a", observed = {} }] } },
            { expect = { verdict = "bad" } },
        ]
        [[cases]]
        name = "Same!"
        steps = []
        [[cases]]
        name = "refused"
        expect = {}
        "#,
    );
    insta::assert_snapshot!(text, @"");
}

#[test]
fn texts_that_cannot_be_read_are_shown_with_their_line() {
    let bundle = hostile("rollback", "[[cases]\nname = 'a'\n");
    write_cases(bundle.path(), "b.yaml", "cases:\n  - name: a\n   steps: []\n");
    write_cases(bundle.path(), "c.yml", "cases:\n  - name: a\n    name: b\n");
    write_cases(bundle.path(), "notes.txt", "not a case");
    let error = Bundle::open(bundle.path()).components(components()).run().unwrap_err();
    insta::assert_snapshot!(shown(&bundle, &error.to_string()), @"");
}

#[test]
fn time_does_not_go_back() {
    let bundle = hostile(
        "rollback",
        "[[cases]]\nname = 'a'\nsteps = [{ at = 2026-01-05T12:00:00Z, expect = {} }, { at = 2026-01-05T11:00:00Z }]\n",
    );
    let report = super::run(&bundle);
    let text = report.cases[0].failures[0].to_string();
    assert!(
        text.contains("step 2")
            && text.contains("`at` is 2026-01-05T11:00:00.000Z, and it is 2026-01-05T12:00:00.000Z already"),
        "{text}"
    );
}
