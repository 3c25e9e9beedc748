//! The real binary's command line: exit codes, sentences on standard error, JSON on standard output.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use cutover_model::port::Phase;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Setup, binary, root};

/// What came of a command line.
#[derive(Debug)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

fn cutover(arguments: &[&str], environment: &[(&str, &str)]) -> Done {
    let mut command = Command::new(binary());
    command.args(arguments).env_remove("CUTOVER_ADMIN").envs(environment.iter().copied());
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done { code: status.code(), out: text(stdout), err: text(stderr) }
}

/// Fails with this code, says these words on standard error and nothing on standard output.
fn fails(arguments: &[&str], code: i32, words: &[&str]) {
    let done = cutover(arguments, &[]);
    assert_eq!((done.code, done.out.as_str()), (Some(code), ""), "{arguments:?}: {done:?}");
    for word in words {
        assert!(done.err.contains(word), "{arguments:?}: no {word:?} in {}", done.err);
    }
}

fn json(arguments: &[&str]) -> Value {
    let done = cutover(arguments, &[]);
    assert_eq!(done.code, Some(0), "{arguments:?}: {done:?}");
    serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {}", done.out))
}

fn written(folder: &Path, text: &str) -> String {
    let file = folder.join("cutover.toml");
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn check_accepts_a_good_file_and_names_the_policies() {
    let folder = TempDir::new().unwrap();
    let file = written(folder.path(), &Setup::default().text(folder.path(), (0, 0)));
    let done = cutover(&["check", "--config", &file], &[]);
    assert_eq!((done.code, done.out.as_str()), (Some(0), "ok: 1 migration(s), 4 policies admitted\n"), "{done:?}");
    let shown = json(&["check", "--config", &file, "--json"]);
    assert_eq!((&shown["ok"], shown["policies"].as_array().map(Vec::len)), (&Value::from(true), Some(4)), "{shown}");
    assert!(shown["policies"].as_array().unwrap().iter().all(|p| p["digest"].as_str().is_some_and(|d| d.len() == 64)));
}

#[test]
fn check_refuses_wrong_files_policies_and_flags() {
    let folder = TempDir::new().unwrap();
    let good = Setup::default().text(folder.path(), (0, 0));
    let gone = folder.path().join("gone.toml").display().to_string();
    fails(&["check", "--config", &gone], 2, &["cutover: cannot read the configuration", &gone, "No such file"]);
    let file = written(folder.path(), "[host");
    fails(&["check", "--config", &file], 2, &[&file, "line 1"]);
    written(folder.path(), &good.replace("workers = 2", "workers = 0"));
    fails(&["check", "--config", &file], 2, &[&file, "1 problem", "`migrations.programs.v2.workers` is 0"]);
    fails(&["serve", "--config", &file], 2, &["`migrations.programs.v2.workers` is 0"]);
    fails(&["check", "--config", &file, "--json"], 2, &["`migrations.programs.v2.workers` is 0"]);

    let typo = Setup::default().with("rollback", crate::harness::bundle("thresholds", "min_request = 3"));
    written(folder.path(), &typo.text(folder.path(), (0, 0)));
    fails(&["check", "--config", &file], 2, &["`migrations.programs.policies.rollback`", "min_request"]);

    written(folder.path(), &good);
    let done = cutover(&["check", "--config", &file], &[("CUTOVER_FLAG_PROGRAMS_SHADOWS", "true")]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("there is no flag `shadows`"), "{done:?}");
}

#[test]
fn wrong_usage_has_its_own_exit_code_and_help_names_them_all() {
    let program = root().display().to_string();
    let table: [&[&str]; 7] = [
        &[],
        &["explode"],
        &["check"],
        &["check", "--config"],
        &["pause", "programs"],
        &["flags", "set", "programs", "shadow"],
        &["status", "--verbose", &program],
    ];
    for arguments in table {
        let done = cutover(arguments, &[]);
        assert_eq!((done.code, done.out.as_str()), (Some(2), ""), "{arguments:?}: {done:?}");
        assert!(done.err.contains("Usage: cutover") || done.err.contains("try '--help'"), "{arguments:?}: {done:?}");
    }
    let help = cutover(&["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for code in ["0 done", "1 failed", "2 wrong usage", "3 the host cannot be reached", "4 the host refused"] {
        assert!(help.out.contains(code), "{}", help.out);
    }
}

#[test]
fn without_a_host_every_verb_says_so() {
    let admin = nobody();
    let words = ["cannot reach the host at", admin.as_str(), "--admin"];
    fails(&["status", "--admin", &admin], 3, &words);
    fails(&["status", "--admin", &admin, "--json"], 3, &words);
    fails(&["pause", "programs", "--reason", "r", "--admin", &admin], 3, &words);
    fails(&["flags", "list", "programs", "--admin", &admin], 3, &words);
    let done = cutover(&["status"], &[("CUTOVER_ADMIN", &admin)]);
    assert_eq!(done.code, Some(3), "{done:?}");
    let wrong = cutover(&["status", "--admin", "not a url"], &[]);
    assert!(matches!(wrong.code, Some(2 | 3)) && wrong.err.starts_with("cutover: "), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_refuses_has_its_own_exit_code_and_everything_speaks_json() {
    let host = Setup::default().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let admin = format!("http://{}", host.http.admin);
    // The host runs on the runtime's own threads; this one may block.
    let talk = move || {
        let order = |verb| json(&[verb, "programs", "--reason", "test", "--admin", &admin, "--json"]);
        fails(&["resume", "programs", "--reason", "r", "--admin", &admin], 4, &["cutover: ", "goes on already"]);
        fails(&["pause", "prompts", "--reason", "r", "--admin", &admin], 4, &["there is no migration `prompts`"]);
        fails(&["pause", "programs", "--reason", " ", "--admin", &admin], 4, &["say why"]);
        fails(&["flags", "get", "programs", "shadows", "--admin", &admin], 4, &["there is no flag `shadows`"]);
        fails(&["flags", "set", "programs", "shadow", "maybe", "--admin", &admin], 4, &["`true` or `false`"]);
        fails(&["status", "prompts", "--admin", &admin], 4, &["there is no migration `prompts`"]);

        let status = json(&["status", "--json", "--admin", &admin]);
        assert_eq!(status["migrations"][0]["phase"], "shadow");
        assert_eq!(
            json(&["status", "programs", "--json", "--admin", &admin])["migrations"][0]["migration"],
            "programs"
        );
        assert_eq!(json(&["flags", "list", "programs", "--json", "--admin", &admin]).as_array().map(Vec::len), Some(7));
        let flag = json(&["flags", "get", "programs", "shadow", "--json", "--admin", &admin]);
        assert_eq!((&flag["flag"], &flag["value"]), (&Value::from("shadow"), &Value::from(true)));
        assert!(order("advance")["message"].as_str().unwrap().contains("ramping"));
        assert!(order("pause")["message"].as_str().unwrap().contains("paused"));
        let text = cutover(&["status", "--admin", &admin], &[]);
        assert!(text.out.starts_with("programs: paused, stage 1 of 6, 5% on V2"), "{text:?}");
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
    host.app.shut_down().await;
}
