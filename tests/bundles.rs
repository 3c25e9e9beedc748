//! Bundles from strangers: read without waiting for anybody, below the folders that may be named, and admitted beside all
//! that must not wait.

mod generated;

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    time::Duration,
};

use cutover_control::migration::CommandKind;
use cutover_model::{
    clock,
    port::{Kind, Phase},
};
use hyper::{Method, StatusCode};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    harness::{Done, Host, Http, Reply, Setup, binary, bundle, eventually, root},
    hostile::contract::{Export, Guest},
};

const MANIFEST: &str = "name = 'strange'\nversion = '1.0.0'\nkind = 'rollback'\n";

/// A bundle one file of which is made by `make`; the others are as they should be.
fn odd(folder: &Path, odd: &str, make: impl Fn(&Path)) -> PathBuf {
    let bundle = folder.join(format!("odd-{odd}"));
    fs::create_dir_all(&bundle).unwrap();
    let (component, script) = match odd {
        "policy.wasm" => ("component = 'policy.wasm'", ""),
        _ => ("guest = 'rhai'", "script = 'policy.rhai'"),
    };
    for (name, text) in [
        ("policy.toml", format!("{MANIFEST}{component}\n{script}\n")),
        ("policy.rhai", "fn judge(check) { healthy() }".to_owned()),
    ] {
        if name != odd {
            fs::write(bundle.join(name), text).unwrap();
        }
    }
    make(&bundle.join(odd));
    bundle
}

/// Makes something at a path.
type Make<'a> = &'a dyn Fn(&Path);

const FILES: [&str; 4] = ["policy.toml", "policy.wasm", "policy.rhai", "policy.sig.json"];

async fn put(http: &Http, bundle: &Path) -> Reply {
    let body = json!({ "bundle": bundle, "reason": "test" });
    http.admin(Method::PUT, "/api/v1/migrations/programs/policies/rollback", &body).await
}

fn said(reply: &Reply) -> &str {
    reply.body["error"].as_str().unwrap_or_else(|| panic!("{reply:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn pipes_links_and_devices_in_a_bundle_are_refused_and_what_they_lead_to_is_not_shown() {
    let host = Setup::default().start().await;
    let folder = host.folder.path();
    let secret = folder.join("secret");
    fs::write(&secret, "hunter2 = 'a secret'\n").unwrap();
    for file in FILES {
        let made: [(&str, Make<'_>); 3] = [
            ("a named pipe", &|at| mkfifoat(CWD, at, Mode::RUSR).unwrap()),
            ("link", &|at| symlink(&secret, at).unwrap()),
            ("link", &|at| symlink("/dev/zero", at).unwrap()),
        ];
        for (n, (words, make)) in made.into_iter().enumerate() {
            let reply = put(&host.http, &odd(&folder.join(n.to_string()), file, make)).await;
            assert_eq!(
                (reply.status, &reply.body["code"]),
                (StatusCode::UNPROCESSABLE_ENTITY, &json!("bundle")),
                "{reply:?}"
            );
            assert!(said(&reply).contains(words) && said(&reply).contains(file), "{reply:?}");
            assert!(!said(&reply).contains("hunter2"), "{reply:?}");
        }
    }
    // A path that leads out, whoever names it.
    for component in ["../secret", "/etc/passwd", "a/../../secret"] {
        let bundle = folder.join("leads-out");
        fs::create_dir_all(&bundle).unwrap();
        fs::write(bundle.join("policy.toml"), format!("{MANIFEST}component = '{component}'\n")).unwrap();
        let reply = put(&host.http, &bundle).await;
        assert!(said(&reply).contains("leads out of the folder"), "{component}: {reply:?}");
    }
    let guest = folder.join("guest-is-a-path");
    fs::create_dir_all(&guest).unwrap();
    fs::write(guest.join("policy.toml"), format!("{MANIFEST}guest = '../../../secret'\n")).unwrap();
    assert!(said(&put(&host.http, &guest).await).contains("has a wrong `guest`"));
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_name_bundles_below_the_listed_folders_alone() {
    let folder = Arc::new(TempDir::new().unwrap());
    let setup = Setup { folders: vec![folder.path().join("mine")], ..Setup::default() };
    let (mine, other) = (folder.path().join("mine/judge"), folder.path().join("other/judge"));
    for at in [&mine, &other] {
        fs::create_dir_all(at).unwrap();
        fs::write(at.join("policy.toml"), format!("{MANIFEST}guest = 'thresholds'\n")).unwrap();
    }
    symlink(folder.path().join("other"), folder.path().join("mine/linked")).unwrap();
    let host = setup.start_in(Arc::clone(&folder)).await;
    let refused = put(&host.http, &other).await;
    assert_eq!((refused.status, &refused.body["code"]), (StatusCode::FORBIDDEN, &json!("folder")), "{refused:?}");
    assert!(said(&refused).contains("host.policy_folders") && said(&refused).contains("/mine`"), "{refused:?}");
    assert_eq!(put(&host.http, Path::new("mine/judge")).await.status, StatusCode::FORBIDDEN);
    for around in ["mine/../other/judge", "mine/linked/judge", "mine/linked"] {
        let refused = put(&host.http, &folder.path().join(around)).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{around}: {refused:?}");
    }
    assert_eq!(put(&host.http, &mine).await.status, StatusCode::OK);
    // What the configuration names may be named, and what is beside it may not.
    let own = root().join("policies/thresholds");
    assert_eq!(put(&host.http, &own).await.status, StatusCode::OK);
    assert_eq!(put(&host.http, &root().join("policies/sequential")).await.status, StatusCode::FORBIDDEN);
    host.app.shut_down().await;
}

/// Brings a host to its ramp and V2 to fail.
async fn failing(host: &Host, stages: usize) {
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    for _ in 0..stages {
        host.ask(CommandKind::Advance).await.unwrap();
    }
    for n in 0..40 {
        host.http.create(&format!("s{n}")).await;
    }
    host.break_v2(&json!({ "error_share": 1.0 }));
}

async fn call_until_rolled_back(host: &Host) {
    eventually("a rollback", async || {
        for n in 0..40 {
            host.http.greet(&format!("s{n}"), &[]).await;
        }
        (host.migration().handle.snapshot().state.phase == Phase::RolledBack).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_hang_for_ever_hold_up_neither_judge_nor_rollback_and_whoever_comes_after_is_told() {
    let host = Setup::default().start().await;
    let desk = host.app.host.desk.clone();
    // As reads from a disk that hangs, and as a compiler that never ends: every thread that a request can reach.
    let (release, hang) = mpsc::channel::<()>();
    let hang = Arc::new(std::sync::Mutex::new(hang));
    let mut hanging = JoinSet::new();
    for threads in [&desk.reading, &desk.admitting] {
        for _ in 0..64 {
            let (threads, hang) = (threads.clone(), Arc::clone(&hang));
            hanging.spawn(async move { threads.run(move || hang.lock().unwrap().recv().is_ok()).await });
        }
    }
    failing(&host, 3).await;
    let http = host.http.clone();
    let busy = tokio::task::spawn(async move { put(&http, &root().join("policies/thresholds")).await });
    call_until_rolled_back(&host).await;
    let by = host.app.host.store.decisions("programs", 1).await.unwrap().remove(0);
    assert_eq!((&*by.kind, &*by.actor), ("rollback", "policy"), "the judge saw it");
    let busy = busy.await.unwrap();
    assert_eq!((busy.status, &busy.body["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("busy")), "{busy:?}");
    assert!(said(&busy).contains("reading a bundle"), "{busy:?}");
    host.ask(CommandKind::Resume).await.unwrap();
    let before = clock::mono();
    host.ask(CommandKind::EmergencyRollback).await.ok();
    assert!(clock::mono().since(before) < Duration::from_secs(5));
    host.app.shut_down().await;
    drop(release);
    while hanging.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_asked_for_hundreds_of_pipes_rolls_back_and_ends_when_told() {
    let folder = TempDir::new().unwrap();
    let ports = crate::kill::free_ports();
    let calm = Setup::default().with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
    fs::write(folder.path().join("cutover.toml"), calm.text(folder.path(), ports)).unwrap();
    let mut child = Command::new(binary())
        .args(["serve", "--config"])
        .arg(folder.path().join("cutover.toml"))
        .stderr(File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let http = Http::new(format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1));
    let status = async || {
        let url = format!("http://{}/api/v1/migrations/programs", http.admin);
        http.send(Method::GET, &url, &[], String::new()).await.map(|reply| reply.body).unwrap_or_default()
    };
    eventually("shadow", async || (status().await["phase"] == "shadow").then_some(())).await;
    let bundles = FILES.map(|file| odd(folder.path(), file, |at| mkfifoat(CWD, at, Mode::RUSR | Mode::WUSR).unwrap()));
    // Fewer at once than the admin plane has connections, so that none is closed for another.
    let mut asked = JoinSet::new();
    for n in 0..40 {
        let (http, bundles) = (http.clone(), bundles.clone());
        asked.spawn(async move {
            for bundle in bundles.iter().cycle().skip(n).take(5) {
                let status = put(&http, bundle).await.status;
                assert!(
                    matches!(status, StatusCode::UNPROCESSABLE_ENTITY | StatusCode::SERVICE_UNAVAILABLE),
                    "{status}"
                );
            }
        });
    }
    let order = async |verb: &str| {
        let path = format!("/api/v1/migrations/programs/{verb}");
        http.admin(Method::POST, &path, &json!({ "reason": "test" })).await
    };
    assert_eq!(order("advance").await.status, StatusCode::OK);
    assert_eq!(order("emergency-rollback").await.status, StatusCode::OK);
    assert_eq!(status().await["phase"], "rolled-back");
    while let Some(asked) = asked.join_next().await {
        asked.unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let ended = eventually("the end", async || child.try_wait().unwrap()).await;
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_rollback_is_done_while_more_activations_hang_than_there_are_connections() {
    let host = Setup::default().start().await;
    failing(&host, 1).await;
    let admitting = host.app.host.desk.admitting.clone();
    let (release, hang) = mpsc::channel::<()>();
    let hang = Arc::new(std::sync::Mutex::new(hang));
    let mut hanging = JoinSet::new();
    for _ in 0..4 {
        let (threads, hang) = (admitting.clone(), Arc::clone(&hang));
        hanging.spawn(async move { threads.run(move || hang.lock().unwrap().recv().is_ok()).await });
    }
    let mut activations = JoinSet::new();
    for _ in 0..200 {
        let http = host.http.clone();
        // One that is closed for want of connections comes again.
        activations.spawn(async move {
            let body = json!({ "bundle": root().join("policies/thresholds"), "reason": "test" }).to_string();
            let url = format!("http://{}/api/v1/migrations/programs/policies", http.admin);
            loop {
                if let Ok(reply) = http.send(Method::PUT, &url, &[], body.clone()).await {
                    return reply.status;
                }
            }
        });
    }
    eventually("all places to be taken", async || (admitting.waiting() == 32).then_some(())).await;
    let first = activations.join_next().await.unwrap().unwrap();
    assert_eq!(first, StatusCode::SERVICE_UNAVAILABLE, "who comes then is refused");
    let url = format!("http://{}/api/v1/migrations/programs/emergency-rollback", host.http.admin);
    let order = json!({ "reason": "test" }).to_string();
    let done =
        eventually("the order", async || host.http.send(Method::POST, &url, &[], order.clone()).await.ok()).await;
    assert_eq!(done.status, StatusCode::OK, "{done:?}");
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::RolledBack);
    assert_eq!(admitting.waiting(), 32, "and those that have a place still wait");
    drop(release);
    while activations.join_next().await.is_some() {}
    while hanging.join_next().await.is_some() {}
    host.app.shut_down().await;
}

/// An adapter as a script.
fn adapter(folder: &Path, name: &str, call: &str) -> PathBuf {
    let at = folder.join(name);
    fs::create_dir_all(&at).unwrap();
    let manifest =
        format!("name = '{name}'\nversion = '1.0.0'\nkind = 'adapter'\nguest = 'rhai'\nscript = 'policy.rhai'\n");
    fs::write(at.join("policy.toml"), manifest).unwrap();
    let script = format!("fn adapt_call(request) {{ {call} }}\nfn adapt_reply(request, reply) {{ reply }}\n");
    fs::write(at.join("policy.rhai"), script).unwrap();
    at
}

async fn in_charge(host: &Host, bundle: &Path) {
    let body = json!({ "bundle": bundle, "reason": "test" });
    let reply = host.http.admin(Method::PUT, "/api/v1/migrations/programs/policies/adapter", &body).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
}

fn adapter_failures(host: &Host) -> u64 {
    let failures = host.migration().handle.snapshot().policy_failures.clone();
    failures.iter().filter(|failure| failure.kind == Kind::Adapter).map(|failure| failure.count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_cannot_change_what_a_call_is_and_v1_answers_for_it() {
    let host = Setup::default().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    assert_eq!(host.http.create("s").await.status, StatusCode::OK);
    let on_v2 = [("x-cutover-pool", "v2")];
    let scripts = [
        ("deletes", "adapted(\"delete_program\", #{ program_id: \"greet\" })"),
        ("invents", "adapted(\"nope\", request.body)"),
        // Of the same class, and another operation all the same.
        ("lists", "adapted(\"list_programs\", #{})"),
        // The same operation, about something that is not there.
        ("mistakes", "adapted(request.operation, #{ program_id: \"gone\", inputs: #{} })"),
    ];
    for (name, script) in scripts {
        in_charge(&host, &adapter(host.folder.path(), name, script)).await;
        let before = adapter_failures(&host);
        let reply = host.http.greet("s", &on_v2).await;
        assert_eq!(crate::harness::greeting(&reply), Some("hello s"), "{name}: {reply:?}");
        assert_eq!((&*reply.pool, &*reply.reason), ("v1", "failover"), "{name}: {reply:?}");
        eventually("the adapter's failure", async || (adapter_failures(&host) > before).then_some(())).await;
    }
    // What the caller got wrong is the caller's, and no failure of anybody.
    in_charge(&host, &adapter(host.folder.path(), "honest", "adapted(request.operation, request.body)")).await;
    let before = adapter_failures(&host);
    let wrong = json!({ "program_id": "gone", "inputs": {} });
    let reply = host.http.call("execute", "s", &on_v2, &wrong).await;
    assert_eq!((reply.status, &*reply.pool), (StatusCode::NOT_FOUND, "v2"), "{reply:?}");
    assert_eq!(crate::harness::greeting(&host.http.greet("s", &on_v2).await), Some("hello s"), "nothing was deleted");
    assert_eq!(adapter_failures(&host), before);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_may_call_an_operation_by_the_name_that_v2_has_for_it() {
    let named = "execute = { class = 'read', v2_name = 'list_programs' }";
    let setup = Setup { operations: ("execute = { class = 'read' }", named), ..Setup::default() };
    let host = setup.start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.http.create("s").await;
    let on_v2 = [("x-cutover-pool", "v2")];
    in_charge(&host, &adapter(host.folder.path(), "renames", "adapted(\"list_programs\", #{})")).await;
    let reply = host.http.greet("s", &on_v2).await;
    assert_eq!((&*reply.pool, crate::harness::greeting(&reply)), ("v2", None), "{reply:?}");
    assert!(reply.body.to_string().contains("greet"), "{reply:?}");
    in_charge(&host, &adapter(host.folder.path(), "keeps", "adapted(request.operation, request.body)")).await;
    assert_eq!(host.http.greet("s", &on_v2).await.pool, "v1", "V2 has it under the other name");
    host.app.shut_down().await;
    let _: Value = reply.body;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_check_admits_a_host_admits_and_a_host_is_asked_by_check() {
    // A few bytes that ask for an image of two megabytes, since their data are far apart.
    let sparse =
        Guest { pages: 100, ..Guest::with(Export::Judge) }.fields("(data (i32.const 2000000) \"far\")").component();
    assert!(sparse.len() < 8 << 10, "{}", sparse.len());
    let tight = Setup { limits: "memory_bytes = 1048576", ..Setup::default() };
    let (host, other) = (Setup::default().start().await, tight.start().await);
    let folder = host.folder.path().join("sparse");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.toml"), format!("{MANIFEST}component = 'policy.wasm'\nfindings = ['x']\n")).unwrap();
    fs::write(folder.join("policy.wasm"), &sparse).unwrap();
    let check = async |more: Vec<String>| {
        let mut command = Command::new(binary());
        command.args(["policy", "check"]).arg(&folder).args(more).env("HOME", host.folder.path());
        Done::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    let url = |host: &Host| format!("http://{}", host.http.admin);
    assert!(check(Vec::new()).await.succeeds().contains("a host admits it"));
    assert!(check(vec!["--admin".into(), url(&host)]).await.succeeds().contains("a host admits it"));
    assert_eq!(put(&host.http, &folder).await.status, StatusCode::OK);
    let refused = check(vec!["--admin".into(), url(&other)]).await;
    assert!(refused.code == Some(1) && refused.out.contains("memory_bytes"), "{refused:?}");
    let nothing = host.http.admin(Method::GET, "/api/v1/policies", &Value::Null).await;
    assert_eq!(nothing.body["policies"], json!([]), "a check keeps nothing");
    host.app.shut_down().await;
    other.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_fails_all_that_it_is_shown_is_not_put_in_charge_and_the_answer_says_how_many_and_why() {
    let host = Setup::default().start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.until("a verdict", |s| s.verdict.is_some()).await;
    let folder = host.folder.path().join("throws");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.toml"), format!("{MANIFEST}guest = 'rhai'\nscript = 'policy.rhai'\n")).unwrap();
    fs::write(folder.join("policy.rhai"), "fn judge(check) { #{ verdict: \"maybe\" } }").unwrap();
    let before = host.migration().slots.get(Kind::Rollback).active().unwrap().digest().to_string();
    let refused = eventually("a check that it is shown", async || {
        let reply = put(&host.http, &folder).await;
        (reply.status == StatusCode::UNPROCESSABLE_ENTITY).then_some(reply)
    })
    .await;
    assert!(said(&refused).contains("it was shown ") && said(&refused).contains("failed all of them"), "{refused:?}");
    assert_eq!(refused.body["code"], json!("said"), "{refused:?}");
    let now = host.migration().slots.get(Kind::Rollback).active().unwrap().digest().to_string();
    assert_eq!(now, before);
    host.app.shut_down().await;
}
