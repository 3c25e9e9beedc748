//! History: exported from a host or its store, judged again as it was, and judged by others in virtual time.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use cutover_control::migration::CommandKind;
use cutover_model::{clock::UnixMs, port::Phase};
use cutover_policy_host::history::{FAULT, Mark, synthetic::Synthetic};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Done, Setup, binary, bundle, components, eventually, root};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.env_remove("CUTOVER_ADMIN").args(arguments);
    command
}

fn run(arguments: &[&str]) -> Done {
    Done::of(command(arguments).output().unwrap())
}

fn backtest(history: &str, arguments: &[&str]) -> Done {
    let guests = components().display().to_string();
    run(&[&["policy", "backtest", "--history", history, "--components", &guests], arguments].concat())
}

fn shipped(name: &str) -> String {
    root().join("policies").join(name).display().to_string()
}

/// Writes made-up history with a mark where its fault begins.
fn write(file: &Path, history: Synthetic) -> String {
    let mut out = BufWriter::new(File::create(file).unwrap());
    let mut fault = history.fault.map(|(at, _)| Mark { at, kind: FAULT.into(), note: "a bad release".into() });
    for recorded in history {
        if fault.as_ref().is_some_and(|mark| mark.at < recorded.check.now_ms) {
            fault.take().unwrap().write(&mut out).unwrap();
        }
        recorded.write(&mut out).unwrap();
    }
    out.flush().unwrap();
    file.display().to_string()
}

/// Four hours of a migration whose V2 fails 3 % of its calls after three.
fn faulty() -> Synthetic {
    let history = Synthetic { checks: 2_880, calls: 200, ..Synthetic::default() };
    Synthetic { fault: Some((UnixMs(history.start.0 + 3 * 3_600_000), 30_000)), ..history }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_recorded_is_exported_and_judged_again_as_it_was() {
    let stages = bundle("standard-stages", "shadow = { min_compared = 1000000000 }");
    let judge = bundle("thresholds", "min_requests = 1, min_sessions = 1, p99_floor = '500ms', warn_p99 = '2s'");
    let host = Setup::default().with("stages", stages).with("rollback", judge).start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.ask(CommandKind::Advance).await.unwrap();
    for n in 0..60 {
        let session = format!("s{n}");
        host.http.create(&session).await;
        host.http.greet(&session, &[]).await;
    }
    let store = host.folder.path().join("test.db").display().to_string();
    let admin = format!("http://{}", host.app.admin);
    let file = |name: &str| host.folder.path().join(name).display().to_string();
    let (from_host, from_store) = (file("host.jsonl"), file("store.jsonl"));
    let lines = |file: &str| fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
    let export = |arguments: &[&str]| {
        let arguments = [&["history", "export", "programs", "--json"], arguments].concat();
        tokio::task::block_in_place(|| run(&arguments).json())
    };
    let exported = eventually("a history with verdicts", async || {
        let said = export(&["--admin", &admin, "--output", &from_host]);
        let verdicts = lines(&from_host).iter().filter(|line| line.contains("\"verdict\":\"healthy\"")).count();
        (verdicts >= 5).then_some(said)
    })
    .await;
    assert_eq!(exported["lines"], lines(&from_host).len());
    // While the host runs, and from the file alone.
    export(&["--store", &store, "--output", &from_store]);
    assert_eq!(lines(&from_store)[..lines(&from_host).len()], lines(&from_host));
    assert!(!Path::new(&file("host.jsonl.part")).exists());
    host.app.shut_down().await;

    let settings = r#"{"min_requests":1,"min_sessions":1,"p99_floor":"500ms","warn_p99":"2s"}"#;
    let judged = ["--policy", &shipped("thresholds"), "--settings", settings, "--json"];
    let report = tokio::task::block_in_place(|| backtest(&from_host, &judged)).json();
    let recorded = &report["differences"][0];
    assert_eq!((&recorded["left"], &recorded["right"]), (&"policy".into(), &"recorded".into()), "{report}");
    assert!(recorded["compared"].as_u64() >= Some(5), "{recorded}");
    assert_eq!(recorded["differing"], 0, "the same policy with the same settings says what it said: {recorded}");
    assert_eq!(report["history"]["checks"], lines(&from_host).len());
    let whole = tokio::task::block_in_place(|| backtest(&store, &judged)).json();
    assert!(whole["history"]["checks"].as_u64() >= report["history"]["checks"].as_u64());

    // What is printed can be piped.
    let mut exporting =
        command(&["history", "export", "programs", "--store", &store]).stdout(Stdio::piped()).spawn().unwrap();
    let guests = components().display().to_string();
    let piped = command(&["policy", "backtest", "--history", "-", "--components", &guests])
        .args(judged)
        .stdin(exporting.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(exporting.wait().unwrap().success());
    assert_eq!(Done::of(piped).json()["verdicts"], whole["verdicts"]);
}

#[test]
fn policies_are_held_against_each_other_in_virtual_time() {
    let folder = TempDir::new().unwrap();
    let history = faulty();
    let fault = history.fault.unwrap().0;
    let file = write(&folder.path().join("faulty.jsonl"), history);
    let both = ["--policy", &shipped("sequential"), "--against", &shipped("thresholds"), "--json"];
    let report = backtest(&file, &both).json();
    assert_eq!((&report["history"]["checks"], &report["history"]["gaps"]), (&2_880.into(), &Value::Array(Vec::new())));
    assert_eq!(report["faults"][0]["at"], fault.0);
    // Neither sees one in the noise of few calls.
    let noticed = report["faults"][0]["noticed"].as_array().unwrap();
    for noticed in noticed {
        assert_eq!(noticed["false_roll_backs"], 0, "{noticed:?}");
        let after = noticed["roll_back_after_ms"].as_u64().unwrap();
        assert!(after > 0 && after < 600_000, "within ten minutes of virtual time: {noticed}");
    }
    let differences = &report["differences"][0];
    assert_eq!(differences["compared"], 2_880);
    let spans = differences["spans"].as_array().unwrap().iter();
    let in_spans = spans.map(|span| span["checks"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(Some(in_spans), differences["differing"].as_u64());

    // A script goes by its bundle's name, not by its interpreter's.
    let script = backtest(&file, &["--policy", &shipped("error-budget"), "--json"]).json();
    assert_eq!(script["sides"][0]["policies"][0]["name"], "error-budget");

    // Without the fault there is no roll-back, and a fault that is only claimed is not noticed.
    let quiet = write(&folder.path().join("quiet.jsonl"), Synthetic { fault: None, ..faulty() });
    let claimed = fault.rfc3339();
    let report = backtest(&quiet, &[&both[..], &["--fault", &claimed]].concat()).json();
    assert_eq!(report["sides"][0]["first_roll_back"], Value::Null, "{report}");
    assert_eq!(report["faults"][0]["noticed"][0]["roll_back_after_ms"], Value::Null);
}

#[test]
fn a_back_test_says_the_same_each_time_and_a_part_of_it_is_a_span() {
    let folder = TempDir::new().unwrap();
    let history = faulty();
    let start = history.start.0;
    let file = write(&folder.path().join("faulty.jsonl"), history);
    let thresholds = ["--policy", &shipped("thresholds"), "--policy", &shipped("standard-stages"), "--json"];
    let said = |mut report: Value| {
        for side in report["sides"].as_array_mut().unwrap() {
            for cost in ["rollback", "stages"] {
                for time in ["took_us", "p50_ns", "p99_ns"] {
                    side[cost][time] = Value::Null;
                }
            }
        }
        report
    };
    let once = said(backtest(&file, &thresholds).json());
    assert_eq!(once, said(backtest(&file, &thresholds).json()));
    assert!(once["sides"][0]["rollback"]["fuel"].as_u64() > Some(0));
    assert!(once["sides"][0]["actions"].as_object().is_some_and(|actions| !actions.is_empty()), "{once}");

    let hour = |n: u64| UnixMs(start + n * 3_600_000).rfc3339();
    let part = backtest(&file, &[&thresholds[..], &["--from", &hour(1), "--to", &hour(2)]].concat()).json();
    assert_eq!(part["history"]["checks"], 720);
    assert_eq!(part["faults"][0]["noticed"][0]["roll_back_after_ms"], Value::Null, "no check is after the fault");
}

#[test]
fn gaps_and_lines_of_newer_hosts_are_told() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("gap.jsonl");
    write(&file, faulty());
    let text = fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let newer = r#"{"type":"weather","v":1,"rain":true}"#;
    let cut = [&lines[..100], &[newer], &lines[200..400]].concat().join("\n");
    fs::write(&file, cut).unwrap();
    let done = backtest(&file.display().to_string(), &["--policy", &shipped("thresholds"), "--json"]).json();
    assert_eq!((&done["history"]["checks"], &done["history"]["unknown_lines"]), (&300.into(), &1.into()));
    let gap = &done["history"]["gaps"][0];
    assert_eq!(gap["to"].as_u64().unwrap() - gap["from"].as_u64().unwrap(), 100 * 5_000, "{gap}");
    let text = backtest(&file.display().to_string(), &["--policy", &shipped("thresholds")]).succeeds();
    assert!(text.contains("300 checks") && text.contains("no history from") && text.contains("(8m 20s)"), "{text}");
}

#[test]
fn the_lines_of_the_documentation_are_history() {
    let text = fs::read_to_string(root().join("docs/history.md")).unwrap();
    let lines = text.split("```jsonl\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("lines.jsonl");
    fs::write(&file, lines).unwrap();
    let report = backtest(&file.display().to_string(), &["--policy", &shipped("thresholds"), "--json"]).json();
    assert_eq!((&report["history"]["checks"], &report["recorded"]["healthy"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(report["history"]["marks"][0]["kind"], FAULT);
    // Whatever a host writes today is in it.
    let written = {
        let mut line = Vec::new();
        Synthetic { checks: 1, ..Synthetic::default() }.into_iter().next().unwrap().write(&mut line).unwrap();
        serde_json::from_slice::<Value>(&line).unwrap()
    };
    let documented: Value = serde_json::from_str(lines.lines().nth(1).unwrap()).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let batch = |value: &Value| value["batches"][0].clone();
    assert_eq!(keys(&batch(&written)), keys(&batch(&documented)));
    for part in ["v1", "comparisons"] {
        assert_eq!(keys(&batch(&written)[part]), keys(&batch(&documented)[part]));
    }
    let calls = |value: &Value| value["batches"][0]["operations"][0]["v1"].clone();
    assert_eq!(keys(&calls(&written)), keys(&calls(&documented)));
}

#[test]
fn wrong_history_and_wrong_options_are_told_where_and_how_to_mend_them() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    let named = |name: &str, text: &str| {
        fs::write(at(name), text).unwrap();
        at(name).display().to_string()
    };
    let good = write(&at("good.jsonl"), Synthetic { checks: 10, ..Synthetic::default() });
    let text = fs::read_to_string(&good).unwrap();
    let thresholds = shipped("thresholds");
    let refuses = |history: &str, words: &[&str]| backtest(history, &["--policy", &thresholds]).fails(2, words);
    refuses(&named("half.jsonl", &text[..text.len() - 40]), &["half.jsonl", "line 10"]);
    refuses(&named("words.jsonl", &format!("{text}not json\n")), &["words.jsonl", "line 11"]);
    refuses(&named("empty.jsonl", ""), &["empty.jsonl", "no checks in this span"]);
    refuses(&named("newer.jsonl", &text.replace("\"v\":1", "\"v\":2")), &["newer.jsonl", "line 1", "version"]);
    refuses(&at("gone.jsonl").display().to_string(), &["gone.jsonl"]);
    refuses("host:", &["names no migration"]);

    let with = |arguments: &[&str], words: &[&str]| backtest(&good, arguments).fails(2, words);
    with(&["--policy", &shipped("standard-stages")], &["no recorded verdicts", "`--policy` twice"]);
    with(&["--policy", &shipped("sticky-share")], &["routing"]);
    with(&["--policy", &thresholds, "--policy", &shipped("sequential")], &["one rollback policy", "sequential"]);
    with(&["--policy", &thresholds, "--against", &shipped("standard-stages")], &["no kind in common"]);
    with(&["--policy", &thresholds, "--settings", "7"], &["not a JSON object"]);
    with(&["--policy", &thresholds, "--settings", r#"{"min_request":7}"#], &["min_request"]);
    with(&["--policy", &thresholds, "--from", "yesterday"], &["yesterday"]);
    with(&["--policy", &at("nothing").display().to_string()], &["nothing"]);
    let export = run(&["history", "export", "programs", "--store", &at("gone.db").display().to_string()]);
    assert!(export.code != Some(0) && export.err.contains("gone.db"), "{export:?}");
    assert!(!at("gone.db").exists(), "reading makes no store");
}
