//! Hostile policies through the real host: refused at the door with a reason, survived at work, never seen by a caller.

mod admission;
pub(crate) mod alone;
pub(crate) mod ask;
mod bombs;
mod compile;
pub(crate) mod contract;
mod exports;
mod runtime;
mod slots;
mod start;
mod swap;
mod wat;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cutover_model::port::Kind;
use cutover_policy_host::installed::{InstalledPolicy, Title};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Host, Http, Reply, eventually, greeting};

/// Between two calls of a client of a light load: a few dozen calls per second leave a small machine to the host.
const LIGHT: Duration = Duration::from_millis(20);

/// Clients that call `execute` and insist on the right answer.
struct Load {
    clients: JoinSet<()>,
    answered: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Each client calls for a session of its own, and waits for `pace` between calls.
    async fn start(http: &Http, clients: usize, pace: Duration) -> Self {
        let mut load = Self { clients: JoinSet::new(), answered: Arc::default(), stop: Arc::default() };
        for n in 0..clients {
            let session = format!("load{n}");
            assert_eq!(http.create(&session).await.status, StatusCode::OK);
            let (http, answered, stop) = (http.clone(), Arc::clone(&load.answered), Arc::clone(&load.stop));
            load.clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply = http.greet(&session, &[]).await;
                    assert_right(&reply, &session);
                    answered.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(pace).await;
                }
            });
        }
        load
    }

    /// Waits until callers got `n` more answers.
    async fn answers(&mut self, n: usize) {
        let enough = self.answered.load(Ordering::Relaxed) + n;
        eventually("answers", async || {
            assert!(self.clients.try_join_next().is_none(), "no client ends before it is told to");
            (self.answered.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Stops the clients; fails if any of them got a wrong answer. Returns how many were right.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.join_all().await;
        self.answered.load(Ordering::Relaxed)
    }
}

fn assert_right(reply: &Reply, session: &str) {
    let right = format!("hello {session}");
    assert_eq!((reply.status, greeting(reply)), (StatusCode::OK, Some(right.as_str())), "{reply:?}");
}

/// Writes a bundle. Without a component it must name a guest.
fn write_bundle(folder: PathBuf, manifest: &str, component: Option<&[u8]>) -> PathBuf {
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("policy.toml"), manifest).unwrap();
    if let Some(component) = component {
        fs::write(folder.join("policy.wasm"), component).unwrap();
    }
    folder
}

/// A bundle of the guest `hostile`.
fn hostile_bundle(parent: &Path, kind: Kind) -> PathBuf {
    let manifest = format!("name = 'hostile'\nversion = '1.0.0'\nkind = '{kind}'\nguest = 'hostile'\n");
    write_bundle(parent.join(format!("hostile-{kind}")), &manifest, None)
}

/// The same for a configuration.
fn configured_hostile(parent: &Path, kind: Kind, settings: &str) -> String {
    format!("{{ bundle = '{}', settings = {{ {settings} }} }}", hostile_bundle(parent, kind).display())
}

/// Asks a host to put a bundle in charge.
async fn put(host: &Host, kind: Kind, bundle: &Path, settings: &Value) -> Reply {
    let body = json!({ "bundle": bundle, "settings": settings, "reason": "test", "actor": "tester" });
    host.http.admin(Method::PUT, &format!("/api/v1/migrations/programs/policies/{kind}"), &body).await
}

/// Puts the guest `hostile` in charge.
async fn put_hostile(host: &Host, kind: Kind, place: &str, misdeed: &str) {
    let bundle = hostile_bundle(host.folder.path(), kind);
    let settings = json!({ "in": place, "do": misdeed });
    let reply = put(host, kind, &bundle, &settings).await;
    if reply.body["error"].as_str().is_some_and(|why| why.contains("and failed all of them")) {
        // One that fails whatever it is shown is not let in; one that begins to fail later is as this one.
        let component = fs::read(crate::harness::components().join("hostile.wasm")).unwrap();
        let engine = Arc::clone(&host.app.host.engine);
        let admit =
            move || cutover_policy_host::admission::admit(&engine, kind, &component, &settings.to_string()).unwrap();
        let policy = Arc::new(tokio::task::spawn_blocking(admit).await.unwrap());
        let title = Title { name: "hostile".into(), version: "1.0.0".into() };
        return host
            .migration()
            .slots
            .get(kind)
            .activate(InstalledPolicy { policy, title, wasi_stub: false }, Vec::new());
    }
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
}

async fn status(host: &Host) -> Value {
    host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body
}

/// The digest of the policy in charge, as the status shows it.
async fn in_charge(host: &Host, kind: Kind) -> Option<String> {
    let status = status(host).await;
    let policies = status["policies"].as_array().unwrap().iter();
    let mut of_kind = policies.filter(|p| p["kind"] == kind.name());
    Some(of_kind.next()?["digest"].as_str().unwrap().to_owned())
}
