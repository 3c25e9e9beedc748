//! Wrong input to the author's verbs: the exit code, and a sentence that says what, where and how to mend it.

use std::fs;

use tempfile::TempDir;

use super::{bare, new, run};
use crate::harness::root;

/// Fails with this code and says these words on standard error.
fn fails(arguments: &[&str], code: i32, words: &[&str]) -> String {
    let done = run(bare(), arguments);
    assert_eq!(done.code, Some(code), "{arguments:?}: {done:?}");
    for word in words {
        assert!(done.err.contains(word) || done.out.contains(word), "{arguments:?}: no {word:?} in {done:?}");
    }
    done.out
}

#[test]
fn new_refuses_names_kinds_and_languages_that_are_none_and_folders_that_exist() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().display().to_string();
    let new = |name: &'static str, kind: &'static str, language: &'static str| {
        ["new", name, "--kind", kind, "--language", language, "--dir"].map(str::to_owned)
    };
    let fails = |words: [String; 7], said: &[&str]| {
        let arguments: Vec<_> = words.iter().map(String::as_str).chain([dir.as_str()]).collect();
        fails(&arguments, 2, said);
    };
    fails(new("My Policy", "rollback", "rhai"), &["`My Policy` is not a name", "a-z 0-9 -"]);
    fails(new("mine", "judge", "rhai"), &["`judge` is not a kind", "rollback, stages"]);
    fails(new("mine", "rollback", "cobol"), &["`cobol` is not a language", "rust, rhai, javascript"]);
    fails(new("mine", "routing", "javascript"), &["no routing policy in javascript", "rust or rhai"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    super::new(folder.path(), "mine", "rollback", "rhai");
    fs::write(folder.path().join("mine/policy.rhai"), "fn mine() {}").unwrap();
    fails(new("mine", "stages", "rhai"), &["mine` exists; nothing was written"]);
    assert_eq!(fs::read_to_string(folder.path().join("mine/policy.rhai")).unwrap(), "fn mine() {}");
    let arguments = ["new", "other", "--kind", "rollback", "--language", "rust", "--dir", &dir, "--sdk", &dir];
    super::wrong::fails(&arguments, 2, &["is not the crate `cutover-policy`", "guests/sdk"]);
}

#[test]
fn what_is_no_bundle_is_refused_by_every_verb() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    for verb in ["build", "check", "bench"] {
        fails(&[verb, &at("gone")], 2, &["gone` does not exist", "cutover policy new"]);
        fails(&[verb, &at("")], 2, &["policy.toml cannot be read"]);
    }
    fs::write(folder.path().join("policy.toml"), "name = 'x'\nversion = '1.0.0'\nkind = 'rollback'\nsettigns = {}\n")
        .unwrap();
    fails(&["check", &at("")], 2, &["policy.toml is not one", "line 4", "settigns"]);
    fs::write(folder.path().join("policy.toml"), "name = 'x'\nversion = '1.0.0'\nkind = 'judge'\nguest = 'rhai'\n")
        .unwrap();
    fails(&["check", &at("")], 2, &["has a wrong `kind`", "`judge` is not a kind of policy"]);
    for (name, version, field, mend) in [
        ("My Policy", "1.0.0", "`name`: `My Policy`", "1 to 64 characters of `a-z 0-9 -`"),
        ("../up", "1.0.0", "`name`: `../up`", "1 to 64 characters of `a-z 0-9 -`"),
        ("", "1.0.0", "`name`: ``", "1 to 64 characters of `a-z 0-9 -`"),
        ("x", "1", "`version`: `1`", "a semantic version, such as `1.4.0`"),
        ("x", "1.0.0+7", "`version`: `1.0.0+7`", "leave out what follows `+`"),
    ] {
        let manifest = format!("name = '{name}'\nversion = '{version}'\nkind = 'rollback'\nguest = 'rhai'\n");
        fs::write(folder.path().join("policy.toml"), manifest).unwrap();
        for verb in ["build", "check", "test", "bench"] {
            fails(&[verb, &at("")], 2, &[&format!("policy.toml has a wrong {field}"), mend]);
        }
    }
    fs::write(folder.path().join("policy.toml"), "name = 'x'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'none'\n")
        .unwrap();
    fails(&["check", &at("")], 2, &["none.wasm", "CUTOVER_COMPONENTS"]);
    fs::write(
        folder.path().join("policy.toml"),
        "name = 'x'\nversion = '1.0.0'\nkind = 'rollback'\ncomponent = 'x.wasm'\n",
    )
    .unwrap();
    fails(&["check", &at("")], 2, &["x.wasm", "cutover policy build"]);
    fails(&["build", &at("")], 2, &["nothing to build `x.wasm` from", "no Cargo.toml and no package.json"]);
    fs::write(folder.path().join("Cargo.toml"), "").unwrap();
    fails(
        &["build", &at("")],
        1,
        &["cannot start `rustc --print sysroot`", "rustup.rs", "Rhai, which needs no toolchain"],
    );
}

#[test]
fn a_script_that_is_wrong_is_told_where() {
    let folder = TempDir::new().unwrap();
    let bundle = new(folder.path(), "mine", "rollback", "rhai");
    let script = folder.path().join("mine/policy.rhai");
    fs::write(&script, "fn judge(check, memory) {\n    healthy(\n}\n").unwrap();
    for verb in ["build", "bench"] {
        fails(&[verb, &bundle], 1, &["`script` does not compile at line 3, column 1"]);
    }
    let out = fails(&["check", &bundle], 1, &["has 1 problem(s)"]);
    assert!(out.contains("problem    it refuses its settings: `script` does not compile at line 3, column 1"), "{out}");
    fs::write(&script, "fn next(progress) { hold() }").unwrap();
    fails(&["check", &bundle], 1, &["is no rollback policy", "fn judge(check, memory)"]);
    fs::write(&script, "fn judge(check) { check.requests }").unwrap();
    fails(&["bench", &bundle], 1, &["question 1 of `judge`", "line 1"]);
}

#[test]
fn components_that_a_host_would_not_admit_are_told_why() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, wat::parse_str(text).unwrap()).unwrap();
        path.display().to_string()
    };
    fails(&["check", &file("core.wasm", "(module)")], 1, &["core WebAssembly module", "turn it into one"]);
    let clock = r#"(import "wasi:clocks/monotonic-clock@0.2.0" (instance (export "now" (func (result u64)))))"#;
    fails(
        &["check", &file("wasi.wasm", &format!("(component {clock})"))],
        1,
        &["imports `wasi:clocks/monotonic-clock@0.2.0`"],
    );
    fails(
        &["check", &file("empty.wasm", "(component)")],
        1,
        &["answers no kind of question", "cutover:policy/{routing,"],
    );
    let interpreter = crate::harness::components().join("rhai.wasm").display().to_string();
    let done = run(bare(), &["check", &interpreter]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.contains("advice     as a rollback policy it refuses its settings"), "{done:?}");
    fails(&["check", &interpreter, "--strict"], 1, &["piece(s) of advice"]);
}

#[test]
fn a_policy_over_its_budget_fails_with_what_and_by_how_much() {
    let folder = TempDir::new().unwrap();
    let bundle = folder.path().display().to_string();
    let manifest = folder.path().join("policy.toml");
    let text = fs::read_to_string(root().join("policies/thresholds/policy.toml")).unwrap();
    fs::write(&manifest, &text).unwrap();
    let bench = |options: &[&str], code, words: &[&str]| {
        fails(&[&["bench", &bundle, "--iterations", "5"], options].concat(), code, words)
    };
    bench(&["--max-fuel", "1"], 1, &["over its budget", "judge: ", "over max_fuel = 1"]);
    bench(&["--max-p99", "1ns"], 1, &["over max_p99 = 1 ns"]);
    bench(&["--max-memory", "64KiB"], 1, &["over max_memory = 65536"]);
    bench(&["--max-p99", "fast"], 2, &["such as `5us`"]);
    bench(&["--max-memory", "2 MB"], 2, &["such as `2MiB`"]);
    bench(&["--max-fuel", "1000000000", "--max-memory", "64MiB"], 0, &["questions: generated"]);
    fs::write(&manifest, format!("{text}\n[budget]\nmax_fuel = 1\n")).unwrap();
    bench(&[], 1, &["over max_fuel = 1"]);
    bench(&["--max-fuel", "1000000000"], 0, &["judge: 5 calls"]);
    fs::write(&manifest, format!("{text}\n[budget]\nmax_p99 = 'fast'\n")).unwrap();
    bench(&[], 2, &["`[budget]` of", "`max_p99` is `fast`"]);
}
