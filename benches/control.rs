//! Whether judges and orders are on time while something else goes wrong: how late checks are, and what an order takes.
//!
//! A host with a small disk of its own serves two migrations: `site`, whose checks are looked at, and `orders`, which is
//! paused and resumed all the time. Beside them requests name bundles of named pipes, candidates are put in place one
//! after the other, the disk is full, or as many migrations have judges that compute for a tenth of a second.
//! `cargo bench --bench control -- [--seconds=N] [--migrations=N] [--program=FILE]`; the program is what is shipped
//! (`cargo xtask dist`) unless another is named.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]
#![allow(clippy::panic, clippy::indexing_slicing, reason = "a bench that cannot start has nothing to say")]

mod fixtures;

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use cutover_model::clock::{self, Mono};
use fixtures::root;
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, sleep_until, timeout},
};

/// Where the host listens.
const DATA: &str = "127.0.0.1:9350";
const ADMIN: &str = "127.0.0.1:9351";

/// From one check of `site` to the next.
const INTERVAL_MS: u64 = 1_000;

/// From one order to the next.
const ORDERS: Duration = Duration::from_millis(100);

/// Those who ask for something at once: fewer than the admin plane has connections.
const ASKING: usize = 40;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// A host, in a shell of its own that has the disk; both end with the bench.
struct Running {
    shell: Child,
    folder: TempDir,
}

impl Running {
    /// Starts a host with so many slow migrations beside the two.
    async fn start(program: &Path, upstream: &str, slow: usize) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("cutover.toml"), configuration(upstream, slow)).unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let bundle = folder.path().join("slow");
        fs::create_dir(&bundle).unwrap();
        let manifest = "name = 'slow'\nversion = '1.0.0'\nkind = 'rollback'\nguest = 'hostile'\n";
        fs::write(bundle.join("policy.toml"), manifest).unwrap();
        let pipes = folder.path().join("pipes");
        fs::create_dir(&pipes).unwrap();
        mkfifoat(CWD, pipes.join("policy.toml"), Mode::RUSR | Mode::WUSR).unwrap();
        // The shell stays, as the one whose namespace has the disk.
        let script =
            format!("mount -t tmpfs -o size=64m none disk && {} serve --config cutover.toml; true", program.display());
        let shell = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", &script])
            .current_dir(folder.path())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let this = Self { shell, folder };
        let until = clock::mono() + PATIENCE;
        for name in ["site", "orders"] {
            while status(&mut None, name).await.is_none_or(|status| status["phase"] != "shadow") {
                assert!(clock::mono() < until, "the host does not start: {}", this.log());
                sleep(Duration::from_millis(50)).await;
            }
        }
        // Whatever happens once after a start is over by then.
        sleep(Duration::from_secs(5)).await;
        this
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Leaves no room on the host's disk.
    fn fill(&self) {
        let disk = self.folder.path().join("disk/filler");
        let seen = Path::new(&format!("/proc/{}/root", self.shell.id())).join(disk.strip_prefix("/").unwrap());
        let mut filler = File::create(seen).unwrap();
        while std::io::Write::write_all(&mut filler, &[0; 1]).is_ok() {
            while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let shell = self.shell.id();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap_or_default();
        for child in children.split_whitespace() {
            drop(Command::new("kill").args(["-9", child]).status());
        }
        drop(self.shell.wait());
    }
}

fn configuration(upstream: &str, slow: usize) -> String {
    let policies = root().join("policies").display().to_string();
    let mut text = format!(
        "[host]\ndata_plane = '{DATA}'\nadmin = '{ADMIN}'\nstore = 'disk/cutover.db'\ncomponents = '{}'\n\
         policy_folders = ['{policies}', '.']\n[host.policy_failures]\ncount = 10000\n",
        root().join("target/components").display(),
    );
    let slow = (0..slow).map(|n| {
        let judge = "{ bundle = 'slow', settings = { in = 'rollback', spins = 100000000 } }".to_owned();
        (format!("slow-{n}"), "5s", judge)
    });
    let two = ["site", "orders"].map(|name| (name.to_owned(), "1s", format!("'{policies}/thresholds'")));
    for (name, interval, judge) in two.into_iter().chain(slow) {
        write!(
            text,
            "[migrations.{name}]\ncheck_interval = '{interval}'\nmatch = [{{ host = '{name}.test' }}]\n\
             [migrations.{name}.v1]\nupstreams = ['http://{upstream}']\n\
             [migrations.{name}.v2]\nupstreams = ['http://{upstream}']\n\
             [migrations.{name}.policies]\nrouting = '{policies}/sticky-share'\n\
             comparison = '{policies}/json-compare'\nrollback = {judge}\n\
             stages = {{ bundle = '{policies}/standard-stages', settings = {{ shadow = {{ min_compared = 1000000000 }} }} }}\n"
        )
        .unwrap();
    }
    text
}

/// Sends a request over a connection that is kept, and reads its answer.
async fn ask(kept: &mut Option<TcpStream>, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(ADMIN).await.ok()?,
    };
    let head = format!("{method} /api/v1/migrations/{path} HTTP/1.1\r\nhost: {ADMIN}\r\n");
    let length = body.len();
    let rest = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all((head + &rest).as_bytes()).await.ok()?;
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let field = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok();
        let length = head.lines().find_map(field);
        if length.is_some_and(|length: usize| body.len() >= length) {
            let answer = (head.get(9..12)?.parse().ok()?, serde_json::from_str(body).unwrap_or_default());
            *kept = Some(stream);
            return Some(answer);
        }
    }
}

async fn status(kept: &mut Option<TcpStream>, name: &str) -> Option<Value> {
    ask(kept, "GET", name, "").await.map(|(_, status)| status)
}

/// How much later than its time each check is, in milliseconds: from one to the next.
async fn checks(until: Mono) -> Vec<u64> {
    let (mut kept, mut last, mut late) = (None, None::<u64>, Vec::new());
    while clock::mono() < until {
        sleep(Duration::from_millis(20)).await;
        let Some(status) = status(&mut kept, "site").await else { continue };
        let Some(at) = status["verdict"]["at"].as_u64() else { continue };
        if let Some(before) = last.filter(|before| *before != at) {
            late.push((at - before).saturating_sub(INTERVAL_MS));
        }
        last = Some(at);
    }
    late
}

/// What each order takes until it is answered, in milliseconds, and how many are not done.
async fn orders(until: Mono) -> (Vec<u64>, usize) {
    let (mut kept, mut took, mut refused, mut next) = (None, Vec::new(), 0, clock::mono());
    for verb in ["pause", "resume"].into_iter().cycle() {
        next = next + ORDERS;
        if next >= until {
            break;
        }
        sleep_until(next.timer()).await;
        let before = clock::mono();
        let path = format!("orders/{verb}");
        let answer = timeout(PATIENCE, ask(&mut kept, "POST", &path, r#"{"reason":"a bench"}"#));
        refused += usize::from(!answer.await.is_ok_and(|answer| answer.is_some_and(|(status, _)| status == 200)));
        took.push(u64::try_from(clock::mono().since(before).as_millis()).unwrap());
    }
    (took, refused)
}

/// Asks for something over and over, from so many connections.
fn asking(path: &'static str, body: impl Fn(usize) -> Value + Clone + Send + 'static) -> JoinSet<()> {
    let mut asking = JoinSet::new();
    for connection in 0..ASKING {
        let body = body.clone();
        asking.spawn(async move {
            let mut kept = None;
            for n in 0.. {
                if ask(&mut kept, "PUT", path, &body(n * ASKING + connection).to_string()).await.is_none() {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        });
    }
    asking
}

async fn measured(name: &str, seconds: u64) {
    let until = clock::mono() + Duration::from_secs(seconds);
    let (mut late, (mut took, refused)) = tokio::join!(checks(until), orders(until));
    let counts = format!("{} checks, {} orders, {refused} refused", late.len(), took.len());
    let quantiles = |all: &mut Vec<u64>| {
        all.sort_unstable();
        let at = |percent: usize| all.get(all.len().saturating_sub(1) * percent / 100).copied().unwrap_or(u64::MAX);
        format!("{:>6} {:>6} {:>6}", at(50), at(99), at(100))
    };
    println!("{name:>24}  {}  {}  {counts}", quantiles(&mut late), quantiles(&mut took));
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let given = |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
    let seconds = given("--seconds=").map_or(30, |n| n.parse().unwrap());
    let migrations = given("--migrations=").map_or(49, |n| n.parse().unwrap());
    let program = given("--program=").map_or_else(|| root().join("target/dist/cutover"), PathBuf::from);
    assert!(program.exists(), "build the host as it is shipped first: cargo xtask dist");
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap().to_string();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut held = Vec::new();
        // Nobody is sent a request but for looking whether it is there.
        while let Ok((stream, _)) = upstream.accept().await {
            held.push(stream);
        }
    });
    println!("{:>24}  {:>20}  {:>20}", "", "checks late, ms", "orders take, ms");
    println!("{:>24}  {:>6} {:>6} {:>6}  {:>6} {:>6} {:>6}", "", "p50", "p99", "max", "p50", "p99", "max");
    let host = Running::start(&program, &address, 0).await;
    measured("alone", seconds).await;
    let pipes = host.folder.path().join("pipes");
    let asked = asking("site/policies/rollback", move |_| json!({ "bundle": pipes, "reason": "a bench" }));
    measured("bundles of pipes", seconds).await;
    drop(asked);
    let thresholds = root().join("policies/thresholds");
    let candidate =
        move |n| json!({ "bundle": thresholds, "settings": { "min_requests": n + 1 }, "reason": "a bench" });
    let asked = asking("site/candidate", candidate);
    measured("candidates", seconds).await;
    drop(asked);
    host.fill();
    measured("the disk is full", seconds).await;
    drop(host);
    let host = Running::start(&program, &address, migrations).await;
    measured(&format!("{migrations} slow judges"), seconds).await;
    drop(host);
}
