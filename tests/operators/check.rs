//! What `check` sees that a host would start with all the same, or that would keep it from recording anything.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use super::{Detached, cutover, still};
use crate::harness::{Setup, bundle};

/// A migration of HTTP services.
pub(super) fn site(name: &str, v1: &str, v2: &str, more: &str) -> String {
    let kinds = [("routing", "sticky-share"), ("rollback", "thresholds"), ("stages", "standard-stages")];
    let policies = kinds.map(|(kind, policy)| format!("{kind} = {}\n", bundle(policy, ""))).concat();
    format!(
        "[migrations.{name}]\nmatch = [{{ host = '*', path = '/api' }}]\n{more}\n[migrations.{name}.v1]\nupstreams = ['{v1}']\n\
         [migrations.{name}.v2]\nupstreams = ['{v2}']\n[migrations.{name}.policies]\n{policies}"
    )
}

fn write(folder: &Path, host: &str, sites: &[String]) -> String {
    let file = folder.join("cutover.toml");
    let components = crate::harness::components();
    let text = format!("[host]\ncomponents = '{}'\n{host}\n{}", components.display(), sites.concat());
    fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn warnings(file: &str) -> Vec<(String, String)> {
    let shown = cutover(&["check", "--config", file, "--json"], &[]).json();
    let text = |warning: &Value, field: &str| warning[field].as_str().unwrap().to_owned();
    shown["warnings"].as_array().unwrap().iter().map(|w| (text(w, "path"), text(w, "message"))).collect()
}

#[test]
fn check_warns_of_what_nobody_may_have_meant() {
    let folder = TempDir::new().unwrap();
    let sites = [
        site("shop", "http://127.0.0.1:9001", "http://127.0.0.1:9002", ""),
        site("books", "http://127.0.0.1:9003", "http://127.0.0.1:9003", "shadow_budget = 0"),
    ];
    let file = write(folder.path(), "admin = '0.0.0.0:8081'", &sites);
    let said = warnings(&file);
    let of =
        |path: &str| said.iter().find(|(at, _)| at == path).map(|(_, message)| message.as_str()).unwrap_or_default();
    assert!(of("host.admin").contains("it has no authentication"), "{said:?}");
    assert!(of("migrations.shop.match[0]").contains("`books` gets what fits both"), "{said:?}");
    assert!(of("migrations.books.v2").contains("is the same as `v1`"), "{said:?}");
    assert!(of("migrations.shop.policies.comparison").contains("never leaves `shadow`"), "{said:?}");
    let text = cutover(&["check", "--config", &file], &[]).succeeds();
    assert!(text.contains("warning: `host.admin` is `0.0.0.0:8081`"), "{text}");
}

#[test]
fn check_warns_of_a_limit_that_no_call_reaches() {
    let folder = TempDir::new().unwrap();
    let text = Setup::default().text(folder.path(), (0, 0));
    let slow = "execute = { class = 'read', deadline = '2s', failed = { slower_than = '3s' } }";
    let file = folder.path().join("cutover.toml");
    fs::write(&file, text.replace("execute = { class = 'read' }", slow)).unwrap();
    let said = warnings(&file.display().to_string());
    let path = "migrations.programs.operations.execute.failed.slower_than";
    assert!(said.iter().any(|(at, why)| at == path && why.contains("is `3s`") && why.contains("is `2s`")), "{said:?}");
}

#[test]
fn check_refuses_a_host_that_calls_itself_and_a_holdback_without_v1() {
    let folder = TempDir::new().unwrap();
    let own = site("shop", "http://localhost:8080", "http://127.0.0.1:8081", "");
    let done = cutover(&["check", "--config", &write(folder.path(), "data_plane = '0.0.0.0:8080'", &[own])], &[]);
    done.fails(2, &["`migrations.shop.v1.upstreams` has `http://localhost:8080`, which is `host.data_plane`"]);
    done.fails(2, &["`migrations.shop.v2.upstreams` has `http://127.0.0.1:8081`, which is `host.admin`"]);
    let alone = site("shop", "http://127.0.0.1:9001", "http://127.0.0.1:9002", "holdback = '5%'");
    let alone = alone.replace("[migrations.shop.v1]\nupstreams = ['http://127.0.0.1:9001']\n", "");
    let done = cutover(&["check", "--config", &write(folder.path(), "", &[alone])], &[]);
    done.fails(2, &["`migrations.shop.holdback` keeps sessions on V1, and `v1` is left out"]);
}

#[test]
fn check_looks_at_the_store_without_touching_it() {
    let host = Detached::start(&still(), |text| text, &[]);
    let file = host.file("cutover.toml").display().to_string();
    let said = warnings(&file);
    let in_use = format!("is in use by process {} ", host.pid);
    assert!(said.iter().any(|(at, why)| at == "host.store" && why.starts_with(&in_use)), "{said:?}");
    let folder = TempDir::new().unwrap();
    let text = Setup::default().text(folder.path(), (0, 0));
    let file = folder.path().join("cutover.toml");
    let check = |store: &str| {
        fs::write(&file, text.replace("store = 'test.db'", &format!("store = '{store}'"))).unwrap();
        cutover(&["check", "--config", &file.display().to_string()], &[])
    };
    check("gone/test.db").fails(2, &["`host.store`: the store cannot be made in", "make the folder"]);
    fs::write(folder.path().join("noise.db"), "this is no database".repeat(100)).unwrap();
    check("noise.db").fails(2, &["`host.store`: "]);
    check("new.db").succeeds();
    assert!(!folder.path().join("new.db").exists() && !folder.path().join("new.db.lock").exists());
}
