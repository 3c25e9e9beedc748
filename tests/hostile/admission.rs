//! What is offered through the admin plane and must not be let in.

use std::{fs, path::Path};

use cutover_model::port::Kind;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::{LIGHT, Load, hostile_bundle, in_charge, put, wat as text, write_bundle};
use crate::harness::{Host, Setup, components, root};

/// Larger than every shipped component.
const LARGEST: usize = 1 << 20;

/// Something that is offered, and the words that the refusal must have.
struct Offer {
    what: &'static str,
    manifest: String,
    component: Option<Vec<u8>>,
    settings: Value,
    words: Vec<&'static str>,
}

impl Offer {
    fn component(what: &'static str, component: Vec<u8>, words: &[&'static str]) -> Self {
        let manifest = "name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\ncomponent = 'policy.wasm'\n".into();
        Self { what, manifest, component: Some(component), settings: json!({}), words: words.to_vec() }
    }

    fn guest(guest: &'static str, settings: Value, words: &[&'static str]) -> Self {
        let manifest = format!("name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\nguest = '{guest}'\n");
        Self { what: guest, manifest, component: None, settings, words: words.to_vec() }
    }

    fn manifest(what: &'static str, manifest: &str, words: &[&'static str]) -> Self {
        Self { what, manifest: manifest.into(), component: None, settings: json!({}), words: words.to_vec() }
    }

    async fn make(&self, host: &Host, folder: &Path) {
        let bundle = write_bundle(folder.to_owned(), &self.manifest, self.component.as_deref());
        refused(host, self.what, &bundle, &self.settings, &self.words).await;
        fs::remove_dir_all(folder).unwrap();
    }
}

/// Offers a bundle as a rollback policy: it is refused in one sentence that names the bundle.
async fn refused(host: &Host, what: &str, bundle: &Path, settings: &Value, words: &[&str]) {
    let reply = put(host, Kind::Rollback, bundle, settings).await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {reply:?}");
    let why = reply.body["error"].as_str().unwrap();
    let folder = bundle.display().to_string();
    for word in words.iter().copied().chain([folder.as_str()]) {
        assert!(why.contains(word), "{what}: no {word:?} in {why:?}");
    }
}

fn guest(name: &str) -> Vec<u8> {
    fs::read(components().join(name).with_extension("wasm")).unwrap()
}

/// A component made larger by a custom section (id 0) of zeros.
fn padded(mut component: Vec<u8>, padding: usize) -> Vec<u8> {
    let mut section = b"\x03pad".to_vec();
    section.resize(padding, 0);
    component.push(0);
    let mut length = section.len();
    while length >= 0x80 {
        component.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    component.push(u8::try_from(length).unwrap());
    component.extend(section);
    component
}

fn components_that_are_none() -> Vec<Offer> {
    let mut cut = guest("hostile");
    cut.truncate(cut.len() / 2);
    vec![
        Offer::component("text", b"not wasm at all".into(), &["is not WebAssembly", "cargo xtask guests"]),
        Offer::component("nothing", Vec::new(), &["is not WebAssembly"]),
        Offer::component(
            "core module",
            wat::parse_str("(module)").unwrap(),
            &["is a core WebAssembly module", "wasm-tools component new"],
        ),
        Offer::component("half", cut, &["does not compile"]),
        Offer::component("import", text::importing(), &["imports `wasi:clocks/monotonic-clock@0.2.0`", "without WASI"]),
        Offer::component(
            "empty",
            wat::parse_str("(component)").unwrap(),
            &["is not a rollback policy: it exports nothing"],
        ),
        Offer::component(
            "other kind",
            guest("exact-compare"),
            &[
                "is not a rollback policy",
                "`cutover:policy/comparison@0.1.0`",
                "`cutover:policy/rollback@0.1.0` is needed",
            ],
        ),
        Offer::component(
            "wrong type",
            text::wrong_type(),
            &["exports `cutover:policy/rollback@0.1.0` with another type than the contract", "type mismatch"],
        ),
        Offer::component("no name", text::nameless(), &["`cutover:policy/policy@0.1.0`"]),
        Offer::component("wrong name", text::misnamed(), &["its name `A b/c` is not"]),
        Offer::component("recursion", text::recursive(), &["overflowed its stack"]),
        Offer::component(
            "too large",
            padded(guest("hostile"), LARGEST),
            &["1048576", "host.policy_limits.component_bytes"],
        ),
    ]
}

fn settings_that_are_refused() -> Vec<Offer> {
    let hostile = |misdeed: &str, words| Offer::guest("hostile", json!({ "do": misdeed, "in": "configure" }), words);
    vec![
        Offer::guest("thresholds", json!({ "min_request": 3 }), &["refuses its settings", "min_request"]),
        Offer::guest("thresholds", json!({ "min_requests": "many" }), &["refuses its settings", "min_requests"]),
        Offer::guest("thresholds", json!({ "max_error_rate": "200%" }), &["refuses its settings", "max_error_rate"]),
        Offer::guest("hostile", json!({ "do": "dance" }), &["refuses its settings", "do", "dance"]),
        hostile("refuse", &["refuses its settings: `do` is `refuse`"]),
        hostile("trap", &["trapped"]),
        hostile("loop", &["did not answer within 250 ms"]),
        hostile("allocate", &["wanted more than 33554432 bytes of memory"]),
        // Rust keeps its frames in linear memory, where the end of the stack is an address out of bounds.
        hostile("recurse", &["trapped: wasm trap: out of bounds memory access"]),
        hostile("nonsense", &["refuses its settings"]),
        hostile("huge", &[]),
    ]
}

fn manifests_that_are_none() -> Vec<Offer> {
    let offer = Offer::manifest;
    vec![
        offer("not TOML", "name = ", &["policy.toml is not one", "line 1"]),
        offer("no kind", "name = 'p'\nversion = '1.0.0'\nguest = 'hostile'\n", &["policy.toml", "`kind`"]),
        offer(
            "wrong name",
            "name = 'A b/c'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'hostile'\n",
            &["policy.toml has a wrong `name`: `A b/c`", "use 1 to 64 characters of `a-z 0-9 -`"],
        ),
        offer(
            "wrong version",
            "name = 'p'\nversion = 'latest'\nkind = 'rollback'\nguest = 'hostile'\n",
            &["policy.toml has a wrong `version`: `latest`", "a semantic version, such as `1.4.0`"],
        ),
        offer(
            "other kind",
            "name = 'p'\nversion = '1.0.0'\nkind = 'stages'\nguest = 'hostile'\n",
            &["is a stages policy, not rollback"],
        ),
        offer(
            "no such kind",
            "name = 'p'\nversion = '1.0.0'\nkind = 'judge'\nguest = 'hostile'\n",
            &["`kind`", "`judge`", "rollback"],
        ),
        offer(
            "unknown field",
            "name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\nguset = 'hostile'\n",
            &["`guset`", "`guest`"],
        ),
        offer(
            "no component",
            "name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\n",
            &["one of `guest` and `component`"],
        ),
        offer(
            "two components",
            "name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'hostile'\ncomponent = 'policy.wasm'\n",
            &["one of `guest` and `component`"],
        ),
        offer(
            "no such guest",
            "name = 'p'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'gone'\n",
            &["gone.wasm", "cannot be read"],
        ),
    ]
}

async fn admits_none_of(offers: Vec<Offer>) {
    let setup = Setup { limits: "component_bytes = 1048576\nmemory_bytes = 33554432", ..Setup::default() };
    let host = setup.start().await;
    let mut load = Load::start(&host.http, 2, LIGHT).await;
    let before = in_charge(&host, Kind::Rollback).await;
    assert!(before.is_some());
    for offer in &offers {
        offer.make(&host, &host.folder.path().join("offered")).await;
        assert_eq!(in_charge(&host, Kind::Rollback).await, before, "{}", offer.what);
        load.answers(5).await;
    }
    load.end().await;
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn components_that_do_not_fit_the_contract_are_refused_by_name() {
    admits_none_of(components_that_are_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_policy_refuses_or_fails_on_are_refused_by_name() {
    admits_none_of(settings_that_are_refused()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_that_cannot_be_read_are_refused_by_name() {
    admits_none_of(manifests_that_are_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_that_do_not_exist_are_refused_and_a_good_one_still_gets_in() {
    let host = Setup::default().start().await;
    let gone = host.folder.path().join("gone");
    refused(&host, "no folder", &gone, &json!({}), &["policy.toml cannot be read"]).await;
    let before = in_charge(&host, Kind::Rollback).await;
    let reply = put(&host, Kind::Rollback, &hostile_bundle(host.folder.path(), Kind::Rollback), &json!({})).await;
    assert_eq!((reply.status, reply.body["detail"]["from"].as_str()), (StatusCode::OK, before.as_deref()));
    assert_eq!(in_charge(&host, Kind::Rollback).await.as_deref(), reply.body["detail"]["to"].as_str());
    let shipped = root().join("policies/thresholds");
    assert_eq!(put(&host, Kind::Rollback, &shipped, &json!({})).await.status, StatusCode::OK);
    assert_eq!(in_charge(&host, Kind::Rollback).await, before, "the same component has the same digest");
    host.app.shut_down().await;
}
