//! Starts hosts in folders of their own and talks to them over HTTP.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::Arc,
    time::Duration,
};

use cutover::{
    app::App,
    config::{Bundles, Config},
    host::Migration,
};
use cutover_control::migration::{CommandKind, snapshot::Snapshot};
use cutover_model::clock;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, body::Bytes};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may change of a configuration.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) check_interval: &'static str,
    pub(crate) deadline: &'static str,
    pub(crate) limits: &'static str,
    /// How often a policy may fail; more often than tests of failing policies let it, unless they are about this.
    pub(crate) failures: &'static str,
    /// What the host does by itself.
    pub(crate) failsafe: &'static str,
    pub(crate) v1: String,
    pub(crate) v2: String,
    /// `KIND = ..` lines.
    pub(crate) policies: Vec<(&'static str, String)>,
    /// Where requests may name bundles.
    pub(crate) folders: Vec<PathBuf>,
    /// An operation's line, and what is in its place.
    pub(crate) operations: (&'static str, &'static str),
}

/// A host in process, with its folder.
pub(crate) struct Host {
    pub(crate) app: App,
    pub(crate) folder: Arc<TempDir>,
    pub(crate) http: Http,
    /// Its wall clock.
    pub(crate) wall: clock::Wall,
}

/// Calls a host.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) data_plane: String,
    pub(crate) admin: String,
}

/// What came back.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) pool: String,
    pub(crate) reason: String,
    pub(crate) body: Value,
}

/// What came of a command line.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    pub(crate) fn of(Output { status, stdout, stderr }: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    /// What it printed; it must have succeeded.
    pub(crate) fn succeeds(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_str(&self.succeeds()).unwrap()
    }

    /// It must have failed with this code, printing nothing and saying these words.
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!((self.code, &*self.out), (Some(code), ""), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            check_interval: "200ms",
            deadline: "4s",
            // A policy that takes all memory takes it within its time, also on a busy machine.
            limits: "memory_bytes = 33554432",
            failures: "count = 10000",
            failsafe: "",
            v1: pool("serialized", 1, &[]),
            v2: pool("concurrent", 2, &[]),
            policies: vec![
                ("routing", bundle("sticky-share", "")),
                ("comparison", bundle("json-compare", "")),
                ("rollback", bundle("thresholds", "min_requests = 20, p99_floor = '500ms', warn_p99 = '2s'")),
                ("stages", bundle("standard-stages", "min_requests = 1")),
            ],
            folders: vec![root().join("policies"), std::env::temp_dir()],
            operations: ("", ""),
        }
    }
}

impl Setup {
    /// With another policy of a kind.
    pub(crate) fn with(mut self, kind: &'static str, bundle: String) -> Self {
        self.policies.retain(|(k, _)| *k != kind);
        self.policies.push((kind, bundle));
        self
    }

    /// The configuration's text. `folder` is where a file `v2-faults.json` breaks V2.
    pub(crate) fn text(&self, folder: &Path, ports: (u16, u16)) -> String {
        let policies: Vec<_> = self.policies.iter().map(|(kind, bundle)| format!("{kind} = {bundle}")).collect();
        let faults = folder.join("v2-faults.json").display().to_string();
        format!(
            "[host]\ndata_plane = '127.0.0.1:{}'\nadmin = '127.0.0.1:{}'\nstore = 'test.db'\ncomponents = '{}'\npolicy_folders = {:?}\npolicy_cache = '{}/policy-cache'\n\
             [host.policy_limits]\n{}\n[host.policy_failures]\n{}\n\
             [migrations.programs]\ncheck_interval = '{}'\ndeadline = '{}'\n\
             [migrations.programs.failsafe]\n{}\n\
             [migrations.programs.override]\nanyone = true\ntesters = true\nevidence = true\n\
             [migrations.programs.operations]\n\
             create_program = {{ class = 'replicate', key = 'program_id' }}\n\
             delete_program = {{ class = 'replicate', key = 'program_id', removes = true }}\n\
             execute = {{ class = 'read' }}\nlist_programs = {{ class = 'read' }}\nhealth_check = {{ class = 'exclusive' }}\n\
             [migrations.programs.v1]\n{}\n[migrations.programs.v2]\n{}\n[migrations.programs.policies]\n{}\n",
            ports.0,
            ports.1,
            components().display(),
            self.folders,
            // One for all tests: the shipped policies are compiled once.
            env!("CARGO_TARGET_TMPDIR"),
            self.limits,
            self.failures,
            self.check_interval,
            self.deadline,
            self.failsafe,
            self.v1,
            self.v2,
            policies.join("\n"),
        )
        .replace("FAULTS", &faults)
        .replace(self.operations.0, if self.operations.0.is_empty() { "" } else { self.operations.1 })
    }

    /// Starts a host in a folder of its own.
    pub(crate) async fn start(&self) -> Host {
        self.start_in(Arc::new(TempDir::new().unwrap())).await
    }

    /// Starts a host in a folder that may have a store already.
    pub(crate) async fn start_in(&self, folder: Arc<TempDir>) -> Host {
        self.start_at(folder, 0).await
    }

    /// Starts a host whose wall clock is so many milliseconds ahead.
    pub(crate) async fn start_at(&self, folder: Arc<TempDir>, ahead_ms: i64) -> Host {
        let text = self.text(folder.path(), (0, 0));
        let config = Config::parse_with(&text, folder.path(), &[], Bundles::Readable);
        let config = config.unwrap_or_else(|e| panic!("{e}"));
        let wall = config.wall.clone();
        wall.step(ahead_ms);
        let app = App::start(config, binary()).await.unwrap();
        let http = Http::new(app.data_plane.to_string(), app.admin.to_string());
        Host { app, folder, http, wall }
    }
}

impl Host {
    pub(crate) fn migration(&self) -> &Migration {
        &self.app.host.migrations["programs"]
    }

    pub(crate) async fn ask(&self, verb: CommandKind) -> Result<String, String> {
        self.migration()
            .handle
            .ask(verb, "test", "because")
            .await
            .map(|done| done.message)
            .map_err(|why| why.to_string())
    }

    /// Waits until the migration is as it should be.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut handle = self.migration().handle.clone();
        let deadline = clock::mono() + PATIENCE;
        loop {
            let now = handle.snapshot();
            if is(&now) {
                return now;
            }
            let changed = tokio::time::timeout_at(deadline.timer(), handle.changed()).await;
            assert!(changed.is_ok(), "waited in vain for {what}: {now:#?}");
        }
    }

    /// Breaks V2's workers.
    pub(crate) fn break_v2(&self, faults: &Value) {
        let new = self.folder.path().join("new");
        fs::write(&new, faults.to_string()).unwrap();
        fs::rename(new, self.folder.path().join("v2-faults.json")).unwrap();
    }
}

impl Http {
    pub(crate) fn new(data_plane: String, admin: String) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), data_plane, admin }
    }

    /// The same from another address of this machine.
    pub(crate) fn from(&self, address: [u8; 4]) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_local_address(Some(address.into()));
        Self { client: Client::builder(TokioExecutor::new()).build(connector), ..self.clone() }
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Reply, String> {
        let mut request = Request::builder().method(method).uri(url);
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response =
            self.client.request(request.body(Full::from(body)).unwrap()).await.map_err(|e| format!("{e:?}"))?;
        let header = |name| response.headers().get(name).map_or_else(String::new, |v| v.to_str().unwrap().to_owned());
        let (status, pool, reason) = (response.status(), header("x-cutover-pool"), header("x-cutover-reason"));
        let bytes = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Reply { status, pool, reason, body: serde_json::from_str(&text).unwrap_or(Value::String(text)) })
    }

    /// Calls an operation.
    pub(crate) async fn call(&self, operation: &str, session: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let url = format!("http://{}/v1/programs/{operation}", self.data_plane);
        let headers: Vec<_> = headers.iter().copied().chain([("x-session-id", session)]).collect();
        self.send(Method::POST, &url, &headers, body.to_string()).await.unwrap()
    }

    /// Creates the session's program `greet`.
    pub(crate) async fn create(&self, session: &str) -> Reply {
        let program = json!({
            "program_id": "greet",
            "signature": { "inputs": [{ "name": "name" }], "outputs": [{ "name": "greeting" }] },
            "rule": { "greeting": { "op": "concat", "of": [{ "op": "const", "value": "hello " }, { "op": "input", "name": "name" }] } },
        });
        self.call("create_program", session, &[], &program).await
    }

    /// Runs the session's program.
    pub(crate) async fn greet(&self, session: &str, headers: &[(&str, &str)]) -> Reply {
        self.call("execute", session, headers, &json!({ "program_id": "greet", "inputs": { "name": session } })).await
    }

    /// Asks the admin plane.
    pub(crate) async fn admin(&self, method: Method, path: &str, body: &Value) -> Reply {
        self.send(method, &format!("http://{}{path}", self.admin), &[], body.to_string()).await.unwrap()
    }
}

/// The text that a session's program gives.
pub(crate) fn greeting(reply: &Reply) -> Option<&str> {
    reply.body.pointer("/outputs/greeting").and_then(Value::as_str)
}

/// A pool of the example's workers; V2's can be broken while they run.
pub(crate) fn pool(mode: &str, workers: usize, arguments: &[&str]) -> String {
    let arguments: Vec<_> = arguments.iter().map(|a| format!(", '{a}'")).collect();
    format!(
        "mode = '{mode}'\nworkers = {workers}\ndrain_timeout = '5s'\ncommand = ['python3', '{}'{}]",
        root().join("examples/programs/worker.py").display(),
        if mode == "concurrent" && arguments.is_empty() { ", '--faults', 'FAULTS'".into() } else { arguments.concat() },
    )
}

/// A shipped bundle, with settings laid over its own.
pub(crate) fn bundle(name: &str, settings: &str) -> String {
    let folder = root().join("policies").join(name);
    format!("{{ bundle = '{}', settings = {{ {settings} }} }}", folder.display())
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Where the guests' components are.
pub(crate) fn components() -> PathBuf {
    let components = root().join("target/components");
    assert!(components.join("hostile.wasm").exists(), "build the guests first: cargo xtask guests");
    components
}

/// The `cutover` binary that was built with these tests.
pub(crate) fn binary() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let binary = here.parent().unwrap().parent().unwrap().join("cutover");
    assert!(binary.exists(), "build the host first: cargo build -p cutover");
    binary
}

/// Polls until something is so.
pub(crate) async fn eventually<T>(what: &str, mut is: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = clock::mono() + PATIENCE;
    loop {
        if let Some(found) = is().await {
            return found;
        }
        assert!(clock::mono() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
