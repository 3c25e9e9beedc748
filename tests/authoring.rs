//! From nothing to an active policy by the command line alone: `new`, `build`, `check`, `test`, `bench`, `push`,
//! `candidate`, `activate`, `log`, `replay`, `revert`.

mod languages;
mod wrong;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use cutover_control::migration::CommandKind;
use cutover_model::port::Phase;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Done, Setup, binary, bundle, components, eventually};

const KINDS: [&str; 5] = ["routing", "adapter", "comparison", "rollback", "stages"];

/// The host binary, its components, a cache, and nothing else: nothing on the `PATH`, so no toolchain.
fn bare() -> Command {
    let mut command = Command::new(binary());
    // An absent `PATH` would mean the system's own folders.
    command.env_clear().env("PATH", "/no/tools");
    command.env("CUTOVER_COMPONENTS", components()).env("XDG_CACHE_HOME", scratch().join("cache"));
    command
}

/// What is kept from one run of the tests to the next: what cargo builds and what the host compiles.
fn scratch() -> PathBuf {
    binary().parent().unwrap().parent().unwrap().join("authoring")
}

/// The host binary with the tools of this machine.
fn equipped() -> Command {
    let mut command = Command::new(binary());
    command.env_remove("CUTOVER_ADMIN").env("CUTOVER_COMPONENTS", components());
    command
}

fn run(mut command: Command, arguments: &[&str]) -> Done {
    Done::of(command.arg("policy").args(arguments).output().unwrap())
}

/// What it prints; it must succeed.
fn succeeds(command: Command, arguments: &[&str]) -> String {
    let done = run(command, arguments);
    assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
    done.out
}

fn json(command: Command, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let out = succeeds(command, &arguments);
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {out}"))
}

/// Begins a policy and returns its folder.
fn new(folder: &Path, name: &str, kind: &str, language: &str) -> String {
    let dir = folder.display().to_string();
    let said = json(equipped(), &["new", name, "--kind", kind, "--language", language, "--dir", &dir]);
    assert_eq!((&said["kind"], &said["language"]), (&kind.into(), &language.into()));
    said["bundle"].as_str().unwrap().to_owned()
}

/// Tests bundles, all of whose findings and answers must be covered.
fn tested(command: Command, bundles: &[String]) {
    let arguments: Vec<_> =
        ["test", "--require-coverage"].into_iter().chain(bundles.iter().map(String::as_str)).collect();
    let said = succeeds(command, &arguments);
    assert_eq!(said.matches("everything that it may say was said").count(), bundles.len(), "{said}");
}

/// `check` and `bench` of a bundle that was built.
fn inspected(tools: fn() -> Command, bundle: &str, functions: &[&str]) {
    let report = json(tools(), &["check", bundle, "--strict"]);
    assert_eq!((&report["ok"], &report["report"]["problems"]), (&true.into(), &Value::Array(Vec::new())), "{report}");
    assert_eq!(report["report"]["compiled"]["contracts"], serde_json::json!(["0.1.0"]));
    assert!(report["report"]["admitted"][0]["settings_schema"]["properties"].is_object(), "{report}");
    let text = succeeds(tools(), &["check", bundle]);
    assert!(text.contains("result     a host admits it") && text.contains("contract   cutover:policy@0.1.0"), "{text}");

    let once = json(tools(), &["bench", bundle, "--iterations", "30"]);
    let again = json(tools(), &["bench", bundle, "--iterations", "30"]);
    let names: Vec<_> = once["functions"].as_array().unwrap().iter().map(|f| f["function"].as_str().unwrap()).collect();
    assert_eq!(names, functions);
    for (function, other) in names.iter().zip(0..).map(|(_, n)| (&once["functions"][n], &again["functions"][n])) {
        assert_eq!(function["fuel"], other["fuel"], "fuel is the same in every run");
        assert!(
            function["fuel"]["p50"].as_u64() > Some(0) && function["nanos"]["p99"].as_u64() > Some(0),
            "{function}"
        );
        assert!(function["memory_bytes"].as_u64() >= Some(65_536), "{function}");
    }
}

/// A rollback policy on a host that runs: published, beside the one in charge, in charge, and out again.
async fn goes_live(tools: fn() -> Command, bundle_folder: &str, name: &str) {
    let setup = Setup::default().with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.ask(CommandKind::Advance).await.unwrap();
    let admin = format!("http://{}", host.app.admin);
    let ask = |arguments: &[&str]| {
        let arguments = [arguments, &["--admin", &admin]].concat();
        tokio::task::block_in_place(|| json(tools(), &arguments))
    };
    let pushed = ask(&["push", bundle_folder, "--reason", "a first version"]);
    assert_eq!(pushed["policy"]["name"], name, "{pushed}");
    ask(&["candidate", "programs", name, "--reason", "a first look"]);
    let asked = |slots: &Value| {
        let slots = slots.as_array()?.iter();
        let mut counts = slots.filter_map(|slot| slot.pointer("/candidate/evidence/asked")?.as_u64());
        counts.next().filter(|count| *count >= 2)
    };
    eventually("a candidate that was asked", async || asked(&ask(&["candidate", "programs", "--status"]))).await;
    ask(&["activate", "programs", name, "--reason", "it agrees with the one before"]);
    let call = eventually("a call to the new policy in charge", async || {
        let calls = ask(&["log", "programs", "--kind", "rollback"]);
        let mut active = calls.as_array()?.iter().filter(|call| call["role"] == "active");
        active.find(|call| call["policy"].as_str().is_some_and(|policy| policy.contains(name)))?["id"].as_i64()
    })
    .await;
    let replayed = ask(&["replay", "--call", &call.to_string()]);
    assert_eq!(replayed[0]["same"], true, "{replayed}");
    ask(&["revert", "programs", "rollback", "--reason", "only a test"]);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_goes_from_nothing_to_being_in_charge_with_the_host_binary_alone() {
    let folder = TempDir::new().unwrap();
    let bundles: Vec<_> = KINDS.map(|kind| new(folder.path(), &format!("my-{kind}"), kind, "rhai")).into();
    for bundle in &bundles {
        let built = json(bare(), &["build", bundle]);
        assert_eq!((&built["made_from"], &built["written"]), (&"guest".into(), &Value::Null), "{built}");
    }
    tested(bare(), &bundles);
    inspected(bare, &bundles[0], &["make-plan"]);
    inspected(bare, &bundles[3], &["judge"]);
    goes_live(bare, &bundles[3], "my-rollback").await;
}
