//! A host that accepts only what listed people have signed, with keys that OpenSSL made.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use cutover_model::port::{Kind, Phase};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Done, body, bundle, list, policy, push, with};
use crate::harness::{Setup, components, root};

/// Key pairs in a folder: `NAME.pem`, and the public key as one line.
struct Keys(TempDir);

impl Keys {
    fn new(names: &[&str]) -> Self {
        let keys = Self(TempDir::new().unwrap());
        for name in names {
            let pem = keys.private(name);
            openssl(&["genpkey", "-algorithm", "ed25519", "-out", &pem]);
            fs::write(keys.0.path().join(name), openssl(&["pkey", "-in", &pem, "-pubout"])).unwrap();
        }
        keys
    }

    fn private(&self, name: &str) -> String {
        self.0.path().join(format!("{name}.pem")).display().to_string()
    }

    /// A host that wants `required` signatures of these people.
    fn trusted(&self, names: &[&str], required: usize) -> Setup {
        let key = |name: &&str| {
            let pem = fs::read_to_string(self.0.path().join(name)).unwrap();
            let line = pem.lines().nth(1).unwrap();
            format!("{{ name = '{name}', public_key = '{line}' }}")
        };
        let keys: Vec<_> = names.iter().map(key).collect();
        let trust = format!("[host.policy_trust]\nrequired = {required}\nkeys = [{}]", keys.join(", "));
        Setup { limits: trust.leak(), ..Setup::default() }
    }
}

fn openssl(arguments: &[&str]) -> String {
    let done = Command::new("openssl").args(arguments).output().expect("install it first: apt-get install openssl");
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout).unwrap()
}

async fn sign(bundle: &Path, keys: &[String]) -> Done {
    let (bundle, components) = (bundle.display().to_string(), components().display().to_string());
    let keys = keys.iter().flat_map(|k| ["--key", k]);
    let fixed = ["sign", &bundle, "--components", &components];
    policy(&fixed.into_iter().chain(keys).collect::<Vec<_>>()).await
}

/// A copy of a shipped bundle that can be signed.
fn copied(folder: &Path, name: &str) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir_all(&copy).unwrap();
    fs::copy(root().join("policies").join(name).join("policy.toml"), copy.join("policy.toml")).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_people_sign_one_after_the_other() {
    let (keys, bundles) = (Keys::new(&["alice", "bob", "carol", "mallory"]), TempDir::new().unwrap());
    let (folder, setup) = (Arc::new(TempDir::new().unwrap()), keys.trusted(&["alice", "bob", "carol"], 2));
    let host = setup.start_in(Arc::clone(&folder)).await;
    let bundle = bundle(bundles.path(), "1.0.0", "min_requests = 7");
    push(&host, &bundle, &[])
        .await
        .fails(4, &["`thresholds@1.0.0` is not signed", "2 of its 3 listed keys", "policy sign"]);
    let done = sign(&bundle, &[keys.private("alice"), keys.private("mallory")]).await;
    assert!(done.out.starts_with("signed `thresholds@1.0.0`: ") && done.out.contains("2 signature(s)"), "{done:?}");
    push(&host, &bundle, &[]).await.fails(4, &["is signed by 1 of 2 listed keys that are needed: alice"]);
    assert_eq!(sign(&bundle, &[keys.private("carol")]).await.code, Some(0));
    let pushed = push(&host, &bundle, &["--json"]).await.json();
    assert_eq!((&pushed["policy"]["signatures"], &pushed["policy"]["accepted"]), (&json!(3), &json!(true)));
    // Signing in passing leaves the bundle alone, and its signature is added to what the host has.
    let again = push(&host, &bundle, &["--sign-with", &keys.private("bob"), "--json"]).await.json();
    assert_eq!((&again["new"], &again["policy"]["signatures"]), (&json!(false), &json!(4)));

    // What was signed is the settings too.
    let manifest = fs::read_to_string(bundle.join("policy.toml")).unwrap();
    fs::write(bundle.join("policy.toml"), manifest.replace("1.0.0", "1.0.1").replace('7', "8")).unwrap();
    push(&host, &bundle, &[]).await.fails(4, &["was signed with another `version`: `1.0.0`, and not `1.0.1`"]);
    sign(&bundle, &[keys.private("alice")]).await.fails(1, &["sign another `version`", "remove them"]);
    host.app.shut_down().await;

    // The keys may change: what was accepted is not, from then on.
    let host = keys.trusted(&["mallory", "bob"], 2).start_in(Arc::clone(&folder)).await;
    let known = list(&host, &["thresholds", "--json"]).await.json();
    assert_eq!(known["policies"][0]["accepted"], true, "mallory and bob have signed it, as it happens");
    host.app.shut_down().await;
    let dave = Keys::new(&["dave"]);
    let host = dave.trusted(&["dave"], 1).start_in(folder).await;
    let (release, _) = host.app.host.registry.find("thresholds").await.unwrap();
    assert_eq!(host.app.host.registry.trust.verify(&release).unwrap_err().cause(), "unknown-keys");
    let text = list(&host, &[]).await.out;
    assert!(text.contains("4, not accepted"), "{text}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_not_vouched_for_is_refused_by_name() {
    let (keys, bundles) = (Keys::new(&["alice", "mallory"]), TempDir::new().unwrap());
    let host = keys.trusted(&["alice"], 1).start().await;
    let envelope = async |key: &str, version: &str| {
        let bundle = bundle(bundles.path(), version, "");
        drop(fs::remove_file(bundle.join("policy.sig.json")));
        assert_eq!(sign(&bundle, &[keys.private(key)]).await.code, Some(0));
        serde_json::from_str::<Value>(&fs::read_to_string(bundle.join("policy.sig.json")).unwrap()).unwrap()
    };
    let (good, stranger) = (envelope("alice", "1.0.0").await, envelope("mallory", "1.0.0").await);
    let old = envelope("alice", "0.9.0").await;
    let signed = |envelope: &Value| with(body("thresholds"), "envelope", envelope.clone());
    let forged = {
        let mut forged = stranger.clone();
        forged["signatures"][0]["keyid"] = good["signatures"][0]["keyid"].clone();
        forged
    };
    let other = body("sequential")["component"].clone();
    let table = [
        (body("thresholds"), "unsigned"),
        (signed(&stranger), "unknown-keys"),
        (signed(&forged), "wrong-signature"),
        (signed(&with(good.clone(), "payload", old["payload"].clone())), "wrong-signature"),
        (signed(&with(good.clone(), "payloadType", json!("application/json"))), "wrong-payload-type"),
        (signed(&with(good.clone(), "payload", json!("&"))), "malformed-signatures"),
        (with(signed(&good), "component", other), "signed-for-another"),
        (with(signed(&good), "name", json!("harmless")), "signed-for-another"),
        (with(signed(&good), "version", json!("1.0.1")), "signed-for-another"),
        (with(signed(&good), "kind", json!("stages")), "signed-for-another"),
        (with(signed(&good), "settings", json!({ "min_requests": 1 })), "signed-for-another"),
        (with(signed(&good), "wasi_stub", json!(true)), "signed-for-another"),
    ];
    let offer = async |body: &Value| host.http.admin(Method::POST, "/api/v1/policies", body).await;
    for (body, cause) in table {
        let reply = offer(&body).await;
        assert_eq!((reply.status, &reply.body["cause"]), (StatusCode::FORBIDDEN, &json!(cause)), "{reply:?}");
    }
    assert_eq!(offer(&signed(&good)).await.status, StatusCode::CREATED);
    let older = offer(&with(signed(&old), "version", json!("0.9.0"))).await;
    assert_eq!((older.status, &older.body["cause"]), (StatusCode::FORBIDDEN, &json!("older")), "{older:?}");
    let again = offer(&signed(&good)).await;
    assert_eq!((again.status, &again.body["new"]), (StatusCode::OK, &json!(false)), "what is known can come again");
    let bare = offer(&body("thresholds")).await;
    assert_eq!(bare.status, StatusCode::OK, "its signatures are known: {bare:?}");
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_in_the_configuration_or_on_the_hosts_disk_is_no_way_around() {
    let (keys, bundles) = (Keys::new(&["alice"]), TempDir::new().unwrap());
    let mut setup = keys.trusted(&["alice"], 1);
    let names = [
        ("routing", "sticky-share"),
        ("comparison", "json-compare"),
        ("rollback", "thresholds"),
        ("stages", "standard-stages"),
    ];
    let mut folders = Vec::new();
    for (kind, name) in names {
        let copy = copied(bundles.path(), name);
        if kind != "rollback" {
            assert_eq!(sign(&copy, &[keys.private("alice")]).await.code, Some(0));
        }
        setup = setup.with(kind, format!("{{ bundle = '{}', settings = {{}} }}", copy.display()));
        folders.push(copy);
    }
    let folder = Arc::new(TempDir::new().unwrap());
    let host = setup.start_in(Arc::clone(&folder)).await;
    let slots = &host.migration().slots;
    assert!(slots.get(Kind::Stages).active().is_some() && slots.get(Kind::Rollback).active().is_none());
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let put = async |bundle: &Path| {
        let order = json!({ "bundle": bundle, "reason": "a test" });
        host.http.admin(Method::PUT, "/api/v1/migrations/programs/policies/rollback", &order).await
    };
    let refused = put(&folders[2]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{refused:?}");
    assert!(refused.body["error"].as_str().unwrap().contains("is not signed"), "{refused:?}");
    assert_eq!(sign(&folders[2], &[keys.private("alice")]).await.code, Some(0));
    assert_eq!(put(&folders[2]).await.status, StatusCode::OK);
    let digest = slots.get(Kind::Rollback).active().unwrap().digest().to_string();
    host.app.shut_down().await;

    // It stays in charge after a restart, as long as the keys vouch for it.
    let host = setup.start_in(Arc::clone(&folder)).await;
    assert_eq!(host.migration().slots.get(Kind::Rollback).active().map(|p| p.digest().to_string()), Some(digest));
    host.app.shut_down().await;
    let others = Keys::new(&["bob"]);
    let host = Setup { limits: others.trusted(&["bob"], 1).limits, ..setup.clone() }.start_in(folder).await;
    assert_eq!(host.migration().slots.active().count(), 0, "V1 serves, and nothing moves");
    host.app.shut_down().await;

    let config = bundles.path().join("cutover.toml");
    fs::write(&config, setup.text(bundles.path(), (0, 0))).unwrap();
    let check = || Command::new(crate::harness::binary()).args(["check", "--config"]).arg(&config).output().unwrap();
    assert!(check().status.success(), "{:?}", check());
    fs::remove_file(folders[0].join("policy.sig.json")).unwrap();
    let refused = String::from_utf8(check().stderr).unwrap();
    assert!(
        refused.contains("`migrations.programs.policies.routing`") && refused.contains("is not signed"),
        "{refused}"
    );
}
