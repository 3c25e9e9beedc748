//! The registry: what is pushed stays, what must not come in does not, and what it is called never changes its meaning.

mod oci;
mod trust;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cutover_control::registry::FindError;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Done, Host, Setup, binary, components};

/// Runs `cutover policy ..`. The host runs on the runtime's own threads, so this one may block.
async fn policy(arguments: &[&str]) -> Done {
    let mut command = Command::new(binary());
    command
        .arg("policy")
        .args(arguments)
        .env_remove("CUTOVER_ADMIN")
        .env("USER", "olga")
        .env("DOCKER_CONFIG", "/nowhere");
    Done::of(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
}

/// A bundle with the settings of a version of `thresholds`, in a folder of its own.
fn bundle(folder: &Path, version: &str, settings: &str) -> PathBuf {
    let bundle = folder.join(format!("thresholds-{version}"));
    fs::create_dir_all(&bundle).unwrap();
    let manifest = format!(
        "name = 'thresholds'\nversion = '{version}'\nkind = 'rollback'\nguest = 'thresholds'\n[settings]\n{settings}\n"
    );
    fs::write(bundle.join("policy.toml"), manifest).unwrap();
    bundle
}

/// Pushes from the command line to a host.
async fn push(host: &Host, source: &Path, more: &[&str]) -> Done {
    let (source, admin) = (source.display().to_string(), format!("http://{}", host.http.admin));
    let components = components().display().to_string();
    let fixed = ["push", &source, "--reason", "a test", "--components", &components, "--admin", &admin];
    policy(&[fixed.as_slice(), more].concat()).await
}

async fn list(host: &Host, more: &[&str]) -> Done {
    let admin = format!("http://{}", host.http.admin);
    policy(&[["list", "--admin", &admin].as_slice(), more].concat()).await
}

/// What a program would push.
fn body(guest: &str) -> Value {
    let component = fs::read(components().join(guest).with_extension("wasm")).unwrap();
    json!({
        "name": guest, "version": "1.0.0", "kind": "rollback", "component": BASE64_STANDARD.encode(component),
        "reason": "a test", "provenance": { "from": "file", "path": "test" },
    })
}

fn with(mut body: Value, field: &str, value: Value) -> Value {
    body[field] = value;
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_survives_a_restart() {
    let (folder, bundles) = (Arc::new(TempDir::new().unwrap()), TempDir::new().unwrap());
    let host = Setup::default().start_in(Arc::clone(&folder)).await;
    assert_eq!(list(&host, &[]).await.out, "the host knows no policies yet; push one with `cutover policy push`\n");
    let (first, second) = (bundle(bundles.path(), "0.9.0", ""), bundle(bundles.path(), "0.10.0", "min_requests = 7"));
    let done = push(&host, &first, &["--author", "alice"]).await;
    assert!(done.out.starts_with("`thresholds@0.9.0` is known now: rollback policy, sha256:"), "{done:?}");
    assert!(push(&host, &second, &["--json"]).await.json()["new"].as_bool().unwrap());
    host.app.shut_down().await;

    let host = Setup::default().start_in(folder).await;
    let known = list(&host, &["--json"]).await.json();
    assert_eq!((&known["policies"][0]["version"], &known["policies"][0]["versions"]), (&json!("0.10.0"), &json!(2)));
    assert_eq!(known["policies"][0]["settings"], Value::Null, "a list is short");
    let versions = list(&host, &["thresholds", "--json"]).await.json()["policies"].clone();
    let seen: Vec<_> =
        versions.as_array().unwrap().iter().map(|p| (&p["version"], &p["author"], &p["actor"])).collect();
    let (olga, alice) = (json!("olga"), json!("alice"));
    assert_eq!(seen, [(&json!("0.10.0"), &olga, &olga), (&json!("0.9.0"), &alice, &olga)]);
    assert_eq!(versions[0]["settings"]["min_requests"], 7);
    assert_eq!(versions[0]["provenance"], json!({ "from": "bundle", "path": second.display().to_string() }));
    assert_eq!(versions[0]["contract"], "0.1.0");

    let again = push(&host, &first, &["--json"]).await.json();
    assert_eq!((&again["new"], &again["policy"]["author"]), (&json!(false), &alice), "what is known stays as it was");
    let text = list(&host, &["thresholds"]).await.out;
    assert!(text.starts_with("NAME ") && text.contains("thresholds  0.9.0 ") && text.contains("a test"), "{text}");
    list(&host, &["nobody"]).await.fails(4, &["knows no policy `nobody`"]);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_never_changes_and_is_found_by_name_and_by_content() {
    let (host, bundles) = (Setup::default().start().await, TempDir::new().unwrap());
    push(&host, &bundle(bundles.path(), "1.0.0", "min_requests = 1"), &["--json"]).await.json();
    let changed = bundle(bundles.path(), "1.0.0", "min_requests = 2");
    push(&host, &changed, &[])
        .await
        .fails(4, &["`thresholds@1.0.0` is taken", "another `settings`", "raise the version"]);
    push(&host, &bundle(bundles.path(), "1.1.0-rc.1", ""), &["--json"]).await.json();
    push(&host, &bundle(bundles.path(), "0.1.0", ""), &["--json"]).await.json();
    let file = components().join("sequential.wasm");
    let bare = ["--name", "careful", "--version", "2.0.0", "--kind", "rollback", "--json"];
    let careful = push(&host, &file, &bare).await.json();

    let registry = &host.app.host.registry;
    let label = async |reference: &str| registry.find(reference).await.map(|(r, _)| r.manifest.label());
    assert_eq!(label("thresholds").await.unwrap(), "thresholds@1.0.0", "not the pre-release");
    assert_eq!(label("thresholds@0.1.0").await.unwrap(), "thresholds@0.1.0");
    let digest = careful["policy"]["component_sha256"].as_str().unwrap();
    assert_eq!(label(&format!("sha256:{digest}")).await.unwrap(), "careful@2.0.0");
    assert_eq!(label(&digest[..8]).await.unwrap(), "careful@2.0.0");
    assert_eq!(registry.find("careful").await.unwrap().1, fs::read(file).unwrap());
    assert!(matches!(label("thresholds@3.0.0").await, Err(FindError::Unknown { .. })));
    assert!(matches!(label("sha256:ffffffff").await, Err(FindError::Unknown { .. })));
    assert!(matches!(label("Thresholds").await, Err(FindError::Invalid { .. })));
    let thresholds = registry.find("thresholds").await.unwrap().0.manifest.component_sha256;
    let ambiguous = label(&thresholds).await.unwrap_err().to_string();
    assert!(ambiguous.contains("`thresholds@0.1.0` or `thresholds@1.0.0` or `thresholds@1.1.0-rc.1`"), "{ambiguous}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_come_in_is_refused_by_cause_and_not_kept() {
    let host = Setup { limits: "component_bytes = 1048576", ..Setup::default() }.start().await;
    let good = || body("thresholds");
    let script = "x".repeat(300 << 10);
    let table = [
        (with(good(), "name", json!("Über")), 400, "invalid", "`name` is `Über`"),
        (with(good(), "version", json!("1.0")), 400, "invalid", "semantic version"),
        (with(good(), "version", json!("1.0.0+7")), 400, "invalid", "what follows `+`"),
        (with(good(), "kind", json!("judge")), 400, "invalid", "unknown variant `judge`"),
        (with(good(), "component", json!("&&&")), 400, "invalid", "`component` is not base64"),
        (with(good(), "reason", json!(" ")), 400, "invalid", "`reason` is empty"),
        (with(good(), "author", json!("x".repeat(1025))), 400, "invalid", "`author` has 1025 bytes"),
        (with(good(), "script", json!(script)), 400, "invalid", "`settings` have"),
        (with(good(), "surprise", json!(1)), 400, "invalid", "unknown field `surprise`"),
        (with(good(), "provenance", json!({ "from": "nowhere" })), 400, "invalid", "unknown variant `nowhere`"),
        (with(good(), "kind", json!("stages")), 422, "missing-kind", "is not a stages policy"),
        (with(good(), "settings", json!({ "windw": "1s" })), 422, "settings", "windw"),
        (with(good(), "component", json!(BASE64_STANDARD.encode("(module)"))), 422, "not-wasm", "is not WebAssembly"),
        (with(good(), "component", json!("A".repeat(8 << 20))), 413, "too-large", "more than"),
    ];
    for (body, status, cause, words) in table {
        let reply = host.http.admin(Method::POST, "/api/v1/policies", &body).await;
        assert_eq!((reply.status.as_u16(), &reply.body["cause"]), (status, &json!(cause)), "{reply:?}");
        assert!(reply.body["error"].as_str().unwrap().contains(words), "{words}: {reply:?}");
    }
    let known = host.http.admin(Method::GET, "/api/v1/policies", &Value::Null).await;
    assert_eq!((known.status, &known.body["policies"]), (StatusCode::OK, &json!([])));
    let gone = host.http.admin(Method::GET, "/api/v1/policies/thresholds", &Value::Null).await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND, "{gone:?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_is_missing_or_too_much() {
    let (host, bundles) = (Setup::default().start().await, TempDir::new().unwrap());
    let file = components().join("thresholds.wasm");
    push(&host, &file, &[]).await.fails(2, &["component without a bundle", "--name"]);
    push(&host, &file, &["--name", "a", "--version", "1.0.0"]).await.fails(2, &["--kind"]);
    let bundle = bundle(bundles.path(), "1.0.0", "");
    push(&host, &bundle, &["--version", "2.0.0"]).await.fails(2, &["leave out --name, --version and --kind"]);
    push(&host, Path::new("/nowhere"), &[]).await.fails(2, &["cannot read `/nowhere`", "oci://"]);
    push(&host, Path::new("oci://policies/thresholds"), &[]).await.fails(2, &["it has no host", "docker.io"]);
    push(&host, &bundle, &["--sign-with", "/nowhere.pem"]).await.fails(2, &["the key `/nowhere.pem` cannot be read"]);
    let manifest = bundle.join("policy.toml").display().to_string();
    push(&host, &bundle, &["--sign-with", &manifest])
        .await
        .fails(2, &["is not an ed25519 private key", "openssl genpkey"]);
    policy(&["push", &bundle.display().to_string()]).await.fails(2, &["--reason"]);
    host.app.shut_down().await;
}
