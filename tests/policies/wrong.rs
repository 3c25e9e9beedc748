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
    insta::assert_snapshot!(text, @r#"
    `BUNDLE/cases/all.toml`: case `one`: `step`: unknown field `step`, expected one of `name`, `about`, `settings`, `start`, `steps`, `expect`, `snapshot`, `obey`
    `BUNDLE/cases/all.toml`: case `two`, `start`: `shar`: unknown field `shar`, expected one of `now`, `phase`, `stage`, `share`, `stage_age`, `memory`, `verdict`, `migration`, `salt`, `operations`
    `BUNDLE/cases/all.toml`: case `two`, step 1: `expect.verdct`: unknown field `verdct`, expected one of `error`, `verdict`, `evidence`, `findings`, `findings_include`, `action`, `to`, `otherwise`, `share`, `shadow_share`, `shadow_operations`, `sticky`, `salt`, `rules`, `outcome`, `differences`, `why`, `outcomes`, `operation`, `notices`, `success`, `json`
    `BUNDLE/cases/all.toml`: case `two`, step 2: `expect.findings`: `observd`: unknown field `observd`, expected one of `rule`, `observed`, `limit`, `unit`, `note`
    `BUNDLE/cases/all.toml`: case `two`, step 3: `batch.v2.request`: unknown field `request`, expected one of `requests`, `errors`, `timeouts`, `failed_over`, `units`, `unit_errors`, `latency`, `p50`, `p90`, `p95`, `p99`, `max`
    `BUNDLE/cases/all.toml`: case `two`, step 4: `batches[1].operations.a.v3`: unknown field `v3`, expected one of `class`, `v1`, `v2`, `shadow`
    "#);
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
    insta::assert_snapshot!(text, @r#"
    `BUNDLE/cases/all.toml`: `never`: a comparison policy has no answer `advance`; its answers are same, ignored, different, incomparable
    `BUNDLE/cases/all.toml`: case `misplaced`, `start`: `verdict` is for stages policies, and this is a comparison policy
    `BUNDLE/cases/all.toml`: case `misplaced`, step 1: `batch` is for rollback and stages policies, and this is a comparison policy
    `BUNDLE/cases/all.toml`: case `misplaced`, step 1: `forced` is for stages policies, and this is a comparison policy
    `BUNDLE/cases/all.toml`: case `misplaced`, step 1, `expect`: `action` is for stages policies, and this is a comparison policy
    `BUNDLE/cases/all.toml`: case `misplaced`, step 1: needs a `pair` or `pairs`
    `BUNDLE/cases/all.toml`: case `misplaced`, step 2: has both `pair` and `pairs`
    `BUNDLE/cases/all.toml`: case `misplaced`: `obey` is for stages policies, and this is a comparison policy
    "#);
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
    insta::assert_snapshot!(text, @r#"
    `BUNDLE/cases/all.toml`: case `same`, step 1: `share`: invalid value: string "101%", expected a share such as "5%", or parts per million up to 1000000
    `BUNDLE/cases/all.toml`: case `same`, step 2: `wait`: invalid value: integer `5`, expected a span of time with its unit, such as "250ms" or "1h 30m"
    `BUNDLE/cases/all.toml`: case `same`, step 3: `until` needs `repeat`, the most times to ask
    `BUNDLE/cases/all.toml`: case `same`, step 4: `repeat` is 0, and not between 1 and 100000
    `BUNDLE/cases/all.toml`: case `same`, step 5, `batch`: `v1` has more `errors` (2) than `requests` (1)
    `BUNDLE/cases/all.toml`: case `same`, step 6, `batch`: `v1` has a `p99` of 1s below its `p50` of 2s
    `BUNDLE/cases/all.toml`: case `same`, step 7: has 4000 batches of a second, more than a check has; use `repeat`
    `BUNDLE/cases/all.toml`: case `same`, step 8: `expect.findings`: `observed`: says neither `min` nor `max`
    `BUNDLE/cases/all.toml`: case `same`, step 9: `expect.verdict`: unknown variant `bad`, expected one of `healthy`, `hold`, `warn`, `roll-back`
    `BUNDLE/cases/all.toml`: case `Same!`: another case of this file has this name, or one that makes the same file name
    `BUNDLE/cases/all.toml`: case `Same!`: has no `steps`
    `BUNDLE/cases/all.toml`: case `refused`, `expect`: needs `problems` or `error`
    "#);
}

#[test]
fn texts_that_cannot_be_read_are_shown_with_their_line() {
    let bundle = hostile("rollback", "[[cases]\nname = 'a'\n");
    write_cases(bundle.path(), "b.yaml", "cases:\n  - name: a\n   steps: []\n");
    write_cases(bundle.path(), "c.yml", "cases:\n  - name: a\n    name: b\n");
    write_cases(bundle.path(), "notes.txt", "not a case");
    let error = Bundle::open(bundle.path()).components(components()).run().unwrap_err();
    insta::assert_snapshot!(shown(&bundle, &error.to_string()), @r#"
    `BUNDLE/cases/all.toml`: cannot be read: TOML parse error at line 1, column 9
      |
    1 | [[cases]
      |         ^
    unclosed array table, expected `]`
    `BUNDLE/cases/b.yaml`: cannot be read: error: line 3 column 4: while parsing a block collection, did not find expected '-' indicator
     --> <input>:3:4
      |
    1 | cases:
    2 |   - name: a
    3 |    steps: []
      |    ^ while parsing a block collection, did not find expected '-' indicator
    `BUNDLE/cases/c.yml`: cannot be read: error: line 3 column 5: duplicate mapping key: name, set DuplicateKeyPolicy in Options if acceptable
     --> <input>:3:5
      |
    1 | cases:
    2 |   - name: a
    3 |     name: b
      |     ^ duplicate mapping key: name, set DuplicateKeyPolicy in Options if acceptable
    "#);
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
