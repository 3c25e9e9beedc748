//! The real binary, replaced by its successor while callers hold on to their connections.

mod activation;
mod stopped;
mod store;
mod streams;
mod tls;
mod under_load;
mod unlucky;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};

use crate::{
    harness::{Http, PATIENCE, Setup, binary, bundle, eventually},
    http::Upstream,
};

/// What a host is made of.
pub(crate) struct Plan {
    /// Whether it has a migration `programs` of worker pools.
    pub(crate) programs: bool,
    /// Lines of both pools of the migration `shop` of HTTP services.
    pub(crate) pool: &'static str,
    /// Lines of `[host.http]`.
    pub(crate) http: &'static str,
}

/// A line of hosts, each the successor of the one before.
pub(crate) struct Hosts {
    /// The first is a child of this process; the others are not.
    first: Child,
    /// Process ids, oldest first.
    pids: Vec<u32>,
    pub(crate) http: Http,
    folder: TempDir,
    _upstreams: [Upstream; 2],
}

/// A connection that is kept, and breaks the test if it is closed.
struct Kept {
    sender: SendRequest<Full<Bytes>>,
}

impl Plan {
    fn text(&self, upstreams: &[Upstream; 2], folder: &Path, ports: (u16, u16)) -> String {
        let mut setup =
            Setup::default().with("rollback", bundle("thresholds", "min_requests = 1000000, outage_requests = 0"));
        // Nothing moves unless it is told to.
        setup = setup.with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"));
        let whole = setup.text(folder, ports);
        let (host, programs) = whole.split_once("[migrations.programs]").unwrap();
        let programs = if self.programs { format!("[migrations.programs]{programs}") } else { String::new() };
        let policies = [
            ("routing", bundle("sticky-share", "")),
            ("comparison", bundle("json-compare", "")),
            ("rollback", bundle("thresholds", "min_requests = 1000000, outage_requests = 0")),
            ("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }")),
        ];
        let policies = policies.map(|(kind, bundle)| format!("{kind} = {bundle}\n")).concat();
        format!(
            "{host}[host.http]\nthreads = 2\n{}\n{programs}\n[migrations.shop]\ncheck_interval = '200ms'\ndeadline = '20s'\nmatch = [{{ host = '*' }}]\n\
             [migrations.shop.override]\nanyone = true\ntesters = true\nevidence = true\n\
             [migrations.shop.v1]\nupstreams = ['{}']\n{pool}\n[migrations.shop.v2]\nupstreams = ['{}']\n{pool}\n\
             [migrations.shop.policies]\n{policies}",
            self.http,
            upstreams[0].url(),
            upstreams[1].url(),
            pool = self.pool,
        )
    }

    /// Starts a host whose migrations ramp.
    pub(crate) async fn start(&self) -> Hosts {
        self.start_as(&binary()).await
    }

    /// Starts it under another name of the program.
    pub(crate) async fn start_as(&self, program: &Path) -> Hosts {
        let (folder, ports) = (TempDir::new().unwrap(), crate::kill::free_ports());
        let upstreams = [Upstream::named("one").await, Upstream::named("two").await];
        if self.http.contains("cert.pem") {
            crate::tls::certify(folder.path());
        }
        fs::write(folder.path().join("cutover.toml"), self.text(&upstreams, folder.path(), ports)).unwrap();
        let first = Command::new(program)
            .args(["serve", "--config"])
            .arg(folder.path().join("cutover.toml"))
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let http = Http::new(format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1));
        let hosts = Hosts { pids: vec![first.id()], first, http, folder, _upstreams: upstreams };
        hosts.until_ready().await;
        for migration in self.migrations() {
            hosts.until_phase(migration, "shadow").await;
            // 5, 10, 25, 50 percent.
            for _ in 0..4 {
                hosts.order(migration, "advance").await;
            }
            eventually("the share", async || {
                let status = hosts.status(migration).await;
                (status["effective_share"] == 500_000).then_some(())
            })
            .await;
        }
        hosts
    }

    fn migrations(&self) -> &'static [&'static str] {
        if self.programs { &["programs", "shop"] } else { &["shop"] }
    }
}

impl Hosts {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        *self.pids.last().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for words in the log beyond its first `after` bytes.
    pub(crate) async fn until_logged(&self, after: usize, words: &str) -> String {
        eventually(words, async || {
            let log = self.log().split_off(after);
            log.contains(words).then_some(log)
        })
        .await
    }

    /// Starts a successor and waits until it serves; the old host may go on to drain.
    async fn replace(&mut self) {
        let before = self.log().len();
        self.signal(Signal::USR2);
        let log = self.until_logged(before, "the successor serves").await;
        let pid = log.split("successor=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
        self.pids.push(pid.parse().unwrap());
    }

    /// Waits until the newest host has so many connections at its data plane.
    async fn until_handed_over(&self, connections: usize) {
        eventually("connections to be handed over", async || {
            (open_connections(self.pid(), &self.http.data_plane) >= connections).then_some(())
        })
        .await;
    }

    async fn until_ended(&mut self, at: usize) {
        let pid = self.pids[at];
        eventually("the end of a host", async || {
            drop(self.first.try_wait());
            has_ended(pid).then_some(())
        })
        .await;
    }

    async fn until_ready(&self) {
        eventually("the host", async || {
            let url = format!("http://{}/readyz", self.http.admin);
            let reply = self.http.send(Method::GET, &url, &[], String::new()).await.ok()?;
            (reply.status == StatusCode::OK).then_some(())
        })
        .await;
    }

    pub(crate) async fn until_phase(&self, migration: &str, phase: &str) {
        eventually(phase, async || (self.status(migration).await["phase"] == phase).then_some(())).await;
    }

    async fn status(&self, migration: &str) -> Value {
        let url = format!("http://{}/api/v1/migrations/{migration}", self.http.admin);
        // A connection of before may have been closed with its host.
        eventually("the status", async || self.http.send(Method::GET, &url, &[], String::new()).await.ok()).await.body
    }

    pub(crate) async fn order(&self, migration: &str, verb: &str) {
        let path = format!("/api/v1/migrations/{migration}/{verb}");
        let reply = self.http.admin(Method::POST, &path, &json!({ "reason": "test" })).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }

    async fn connect(&self) -> Kept {
        let stream = TcpStream::connect(&self.http.data_plane).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Kept { sender }
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        drop(self.first.kill());
        drop(self.first.wait());
        self.pids.iter().skip(1).filter(|pid| !has_ended(**pid)).for_each(|pid| kill(*pid, Signal::KILL));
    }
}

impl Kept {
    async fn open(&mut self, request: Request<Full<Bytes>>) -> Result<hyper::Response<Incoming>, String> {
        self.sender.ready().await.map_err(|e| format!("the connection was closed: {e:?}"))?;
        let reply = timeout(PATIENCE, self.sender.send_request(request)).await;
        reply.map_err(|_late| "no answer".to_owned())?.map_err(|e| format!("a request was lost: {e:?}"))
    }

    /// The status, the pool that answered, and the body.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<(u16, String, String), String> {
        let reply = self.open(request).await?;
        let pool = reply.headers().get("x-cutover-pool").map_or("", |pool| pool.to_str().unwrap()).to_owned();
        let status = reply.status().as_u16();
        let body = timeout(PATIENCE, reply.into_body().collect()).await.map_err(|_late| "no whole body".to_owned())?;
        let body = body.map_err(|e| format!("a body was cut off: {e:?}"))?.to_bytes();
        Ok((status, pool, String::from_utf8(body.to_vec()).unwrap()))
    }
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

fn kill(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Whether a process is gone, or only waits for somebody to take note of that.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Connections that a process has accepted at an address of 127.0.0.1.
fn open_connections(pid: u32, address: &str) -> usize {
    let port = address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let held: Vec<_> =
        descriptors.filter_map(|fd| fs::read_link(fd.path()).ok()?.to_str().map(str::to_owned)).collect();
    let tcp = fs::read_to_string("/proc/net/tcp").unwrap();
    let mine = tcp.lines().filter(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _remote, state) = (fields.next(), fields.next(), fields.next());
        let inode = fields.nth(5).unwrap_or_default();
        local.is_some_and(|local| local.ends_with(&format!(":{port:04X}")))
            && state == Some("01")
            && held.iter().any(|name| *name == format!("socket:[{inode}]"))
    });
    mine.count()
}
