//! `cutover policy test` as people and CI run it.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::{hostile, shown, write_cases};
use crate::harness::{binary, components, root};

/// What came of a command line.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

fn test(bundles: &[&Path], more: &[&str]) -> Done {
    let mut command = Command::new(binary());
    command.args(["policy", "test"]).args(bundles).args(more).arg("--components").arg(components());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: status.code(), out: text(stdout), err: text(stderr) }
}

const SNAPSHOT: &str = "[[cases]]\nname = 'What it says'\nsteps = [{ repeat = 2 }]\n";

#[test]
fn shipped_bundles_pass_with_full_coverage() {
    let bundles = [root().join("policies/thresholds"), root().join("policies/sticky-share")];
    let bundles: Vec<_> = bundles.iter().map(std::path::PathBuf::as_path).collect();
    let done = test(&bundles, &["--require-coverage"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(done.out.matches("0 failed").count(), 2, "{done:?}");
    assert_eq!(done.out.matches("everything that it may say was said").count(), 2, "{done:?}");
}

#[test]
fn a_snapshot_is_written_on_demand_held_and_removed() {
    let bundle = hostile("rollback", SNAPSHOT);
    let snapshot = bundle.path().join("cases/snapshots/all-toml--what-it-says.json");
    let done = test(&[bundle.path()], &[]);
    assert_eq!((done.code, snapshot.exists()), (Some(1), false), "{done:?}");
    assert!(done.out.contains("has no snapshot") && done.out.contains("`--update` writes it"), "{done:?}");
    let done = test(&[bundle.path()], &["--update"]);
    assert_eq!((done.code, snapshot.exists()), (Some(0), true), "{done:?}");
    assert_eq!(test(&[bundle.path()], &[]).code, Some(0));

    let changed = SNAPSHOT.replace("steps", "settings = { verdict = 'warn' }\nsteps");
    write_cases(bundle.path(), "all.toml", &changed);
    let done = test(&[bundle.path()], &[]);
    assert_eq!((done.code, done.err.as_str()), (Some(1), "cutover: 1 case(s) failed\n"), "{done:?}");
    insta::assert_snapshot!(shown(&bundle, &done.out), @r#"
    FAILED BUNDLE/cases/all.toml: What it says
      answers differ from `BUNDLE/cases/snapshots/all-toml--what-it-says.json` (`--update` accepts them):
      @@ -11,7 +11,7 @@
                 "unit": "count"
               }
             ],
      -      "verdict": "healthy"
      +      "verdict": "warn"
           },
           "step": 1,
           "times": 2
    hostile (rollback): 0 passed, 1 failed; 2 questions; never said: `healthy`, `hold`, `roll-back`
    "#);
    assert_eq!(test(&[bundle.path()], &["--update"]).code, Some(0));
    assert!(fs::read_to_string(&snapshot).unwrap().contains("\"warn\""));

    write_cases(bundle.path(), "all.toml", &SNAPSHOT.replace("What it says", "Another name"));
    let done = test(&[bundle.path()], &["--update"]);
    assert!(done.out.contains("obsolete") && !snapshot.exists(), "{done:?}");
}

#[test]
fn coverage_is_required_only_on_demand() {
    let bundle = hostile("rollback", "[[cases]]\nname = 'a'\nsteps = [{ expect = {} }]\n");
    let done = test(&[bundle.path()], &[]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("never said: `hold`, `warn`, `roll-back`"), "{done:?}");
    let done = test(&[bundle.path()], &["--require-coverage"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains("1 bundle(s) may say what no case makes them say"), "{done:?}");
    assert_eq!(test(&[bundle.path()], &["--require-coverage", "--filter", "a"]).code, Some(2));
}

#[test]
fn junit_has_a_suite_for_each_bundle_and_a_test_for_each_case() {
    let good = "[[cases]]\nname = 'good'\nsteps = [{ expect = {} }]\n";
    let bad = "[[cases]]\nname = 'bad <&>'\nsteps = [{ expect = { verdict = 'hold' } }]\n";
    let bundle = hostile("rollback", &[good, bad].concat());
    let file = bundle.path().join("report.xml");
    let done = test(&[bundle.path()], &["--require-coverage", "--junit", &file.display().to_string()]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let xml = shown(&bundle, &fs::read_to_string(&file).unwrap());
    // What differs from machine to machine.
    let digest = |part: &str| part.len() == 65 && part.bytes().take(64).all(|b| b.is_ascii_hexdigit());
    let masked: Vec<_> = xml
        .split_inclusive('"')
        .scan("", |before, part| {
            let secret = before.ends_with("time=\"") || digest(part);
            *before = part;
            Some(if secret { "..\"" } else { part })
        })
        .collect();
    insta::assert_snapshot!(masked.concat(), @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="cutover policy test" tests="3" skipped="0" failures="2" errors="0">
        <testsuite name="hostile" tests="3" skipped="0" errors="0" failures="2" time="..">
            <properties>
                <property name="kind" value="rollback"/>
                <property name="version" value="1.0.0"/>
                <property name="digest" value=".."/>
            </properties>
            <testcase name="good" classname="hostile.all.toml" time=".." file="BUNDLE/cases/all.toml"/>
            <testcase name="bad &lt;&amp;&gt;" classname="hostile.all.toml" time=".." file="BUNDLE/cases/all.toml">
                <failure message="step 1: verdict - hold + healthy" type="expectation">step 1:
      verdict
        - hold
        + healthy
    </failure>
            </testcase>
            <testcase name="coverage" classname="hostile">
                <failure message="never said: `hold`, `warn`, `roll-back`" type="coverage"/>
            </testcase>
        </testsuite>
    </testsuites>
    "#);
}

#[test]
fn json_has_everything() {
    let bundle =
        hostile("rollback", "[[cases]]\nname = 'a'\nsteps = [{ repeat = 3, expect = { verdict = 'healthy' } }]\n");
    let done = test(&[bundle.path()], &["--json"]);
    let report: Value = serde_json::from_str(&done.out).unwrap();
    let case = &report["bundles"][0]["cases"][0];
    assert_eq!((done.code, &report["passed"], &case["asked"]), (Some(0), &true.into(), &3.into()), "{done:?}");
    assert!(case["fuel"].as_u64().unwrap() > 0 && case["took_ms"].as_f64().unwrap() > 0.0, "{case}");
    assert_eq!(case["answers"][0]["times"], 3);
    assert_eq!(case["answers"][0]["answer"]["findings"][0]["rule"], "told-to");
    assert_eq!(report["bundles"][0]["coverage"]["missed_answers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_filter_picks_cases_over_several_bundles() {
    let one = hostile("rollback", "[[cases]]\nname = 'left'\nsteps = [{ expect = {} }]\n");
    let other = hostile("rollback", "[[cases]]\nname = 'right'\nsteps = [{ expect = { verdict = 'hold' } }]\n");
    let bundles = [one.path(), other.path()];
    assert_eq!(test(&bundles, &["--filter", "left"]).code, Some(0));
    assert_eq!(test(&bundles, &["--filter", "right"]).code, Some(1));
    let done = test(&bundles, &["--filter", "middle"]);
    assert_eq!((done.code, done.out.as_str()), (Some(2), ""));
    assert!(done.err.contains("no bundle has a case with `middle` in its name"), "{done:?}");
}

#[test]
fn wrong_bundles_and_files_are_refused_with_code_2() {
    let empty = hostile("rollback", "cases = []\n");
    let done = test(&[empty.path()], &[]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("has no cases; write them in `cases/*.toml`"), "{done:?}");
    let done = test(&[Path::new("/no/such/bundle")], &[]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("names the bundle `/no/such/bundle`"), "{done:?}");
    let good = hostile("rollback", "[[cases]]\nname = 'a'\nsteps = [{ expect = {} }]\n");
    let done = test(&[good.path()], &["--junit", "/no/such/folder/report.xml"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("cannot write `/no/such/folder/report.xml`"), "{done:?}");
}
