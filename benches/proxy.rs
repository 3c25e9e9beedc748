//! The host as a reverse proxy beside nginx (`split_clients`) and `HAProxy`, before the same upstream, in the same run.
//!
//! All three give a quarter of the sessions to V2, by a hash of the same header, and tell the upstream who called; the host
//! also observes, judges and says who answered. They take turns, so that what disturbs the machine disturbs all; rows are
//! medians. Needs `nginx`, `haproxy` and `wrk`: `apt-get install nginx-light haproxy wrk`.
//! `cargo bench --bench proxy -- [--rounds=N] [--seconds=N] [--same-fields] [--program=FILE]`; the program is what is
//! shipped (`cargo xtask dist`) unless another is named.
//!
//! As a rule each adds to messages what it adds by itself, the others a fifth of what the host does: a request id, who was
//! asked for and how, `Via`, and in the answer the id, the pool and the reason. With `--same-fields` they add as much.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]
#![allow(clippy::panic, reason = "a bench that cannot start has nothing to say")]
#![allow(clippy::similar_names, reason = "percentiles are")]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use cutover_model::clock;
use serde_json::Value;
use tempfile::TempDir;

/// Turns that each has.
const ROUNDS: usize = 5;

/// How long a turn takes.
const SECONDS: u64 = 5;

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_mins(1);

/// What is asked for: the path, what it answers with in bytes, connections.
const LOADS: [(&str, usize, usize); 4] =
    [("1k", 1 << 10, 64), ("64k", 64 << 10, 64), ("1k", 1 << 10, 1_000), (POSTED, 1 << 10, 64)];

/// Where as much is sent as is answered.
const POSTED: &str = "posted";

/// Sends a request of one of a thousand sessions each time, and says how it went in one line.
const SCRIPT: &str = r#"
local n = 0
local body = string.rep("y", 1024)
request = function()
  n = n + 1
  wrk.headers["x-session-id"] = "s" .. (n % 1000)
  if wrk.path == "/posted" then return wrk.format("POST", nil, nil, body) end
  return wrk.format("GET", nil)
end
done = function(summary, latency)
  local bad = summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format("RESULT %f %d %d %d %d\n", summary.requests / summary.duration * 1e6,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9), bad))
end
"#;

/// A program that ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // SIGTERM, so that masters take their workers along.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

/// One turn.
#[derive(Debug, Clone, Copy)]
struct Turn {
    rate: f64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
}

fn main() {
    let number = |name: &str, usual: u64| {
        let given = std::env::args().find_map(|arg| arg.strip_prefix(name).and_then(|n| n.parse().ok()));
        given.unwrap_or(usual)
    };
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let missing: Vec<_> = ["nginx", "haproxy", "wrk"].into_iter().filter(|name| !is_there(name)).collect();
    if !missing.is_empty() {
        println!(
            "proxy: skipped, because {} is not installed: apt-get install nginx-light haproxy wrk",
            missing.join(", ")
        );
        return;
    }
    let (rounds, seconds) =
        (usize::try_from(number("--rounds=", ROUNDS as u64)).unwrap(), number("--seconds=", SECONDS));
    let folder = TempDir::new().unwrap();
    let _upstream = upstream(folder.path(), [9301, 9302]);
    let same_fields = std::env::args().any(|arg| arg == "--same-fields");
    let others =
        [("nginx", nginx(folder.path(), same_fields), 9310), ("HAProxy", haproxy(folder.path(), same_fields), 9320)];
    let _host = host(folder.path(), 9330, 9331);
    let ports: Vec<_> = others.iter().map(|(name, _, port)| (*name, *port)).chain([("Cutover", 9330)]).collect();
    let script = folder.path().join("load.lua");
    fs::write(&script, SCRIPT).unwrap();
    println!(
        "{:>6} {:>6} {:>5}  {:8} {:>9} {:>8} {:>8} {:>8}  to the better of the others",
        "path", "body", "conns", "", "req/s", "p50 us", "p99 us", "p99.9 us"
    );
    for (file, size, connections) in LOADS {
        let mut turns = vec![Vec::new(); ports.len()];
        for _ in 0..rounds {
            for ((_, port), turns) in ports.iter().zip(&mut turns) {
                turns.push(load(&script, *port, file, connections, seconds));
            }
        }
        let medians: Vec<_> = turns.iter().map(|turns| median(turns)).collect();
        let Some((own, rest)) = medians.split_last() else { return };
        let better = rest.iter().map(|turn| turn.rate).fold(0.0, f64::max);
        let quickest = rest.iter().map(|turn| turn.p99_us).min().unwrap_or(1);
        for ((name, _), turn) in ports.iter().zip(&medians) {
            let Turn { rate, p50_us, p99_us, p999_us } = turn;
            println!("{file:>6} {size:>6} {connections:>5}  {name:8} {rate:>9.0} {p50_us:>8} {p99_us:>8} {p999_us:>8}");
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds")]
        let slower = own.p99_us as f64 / quickest as f64;
        println!("{:>60}  {:.2} x the requests, {slower:.2} x the p99", "", own.rate / better);
    }
}

fn is_there(program: &str) -> bool {
    Command::new("which").arg(program).stdout(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn start(mut command: Command, port: u16) -> Running {
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|e| panic!("port {port} is needed: {e}"));
    let running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let deadline = clock::mono() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(clock::mono() < deadline, "nothing listens at {port}");
        thread::sleep(Duration::from_millis(20));
    }
    running
}

fn nginx_from(folder: &Path, name: &str, workers: usize, http: &str, port: u16) -> Running {
    let file = folder.join(format!("{name}.conf"));
    let at = folder.display();
    let text = format!(
        "worker_processes {workers}; daemon off; pid {at}/{name}.pid; error_log {at}/{name}.log;\n\
         events {{ worker_connections 8192; }}\n\
         http {{ access_log off; tcp_nodelay on; keepalive_requests 100000000; client_body_temp_path {at}/{name}-body;\n\
         proxy_temp_path {at}/{name}-proxy; fastcgi_temp_path {at}/{name}-f; uwsgi_temp_path {at}/{name}-u; scgi_temp_path {at}/{name}-s;\n{http}\n}}\n"
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(file);
    start(command, port)
}

/// Two addresses that serve the same files: V1 and V2.
fn upstream(folder: &Path, ports: [u16; 2]) -> Running {
    let www = folder.join("www");
    fs::create_dir_all(&www).unwrap();
    for (file, size, _) in LOADS.into_iter().filter(|(path, ..)| *path != POSTED) {
        fs::write(www.join(file), vec![b'x'; size]).unwrap();
    }
    // Its workers may run as somebody else.
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status().unwrap();
    assert!(open.success());
    let listen: String = ports.map(|port| format!("listen 127.0.0.1:{port} backlog=4096;")).concat();
    let posted = format!("location = /{POSTED} {{ return 200 \"{}\"; }}", "x".repeat(1 << 10));
    let http = format!("open_file_cache max=10; server {{ {listen} root {}; {posted} }}", www.display());
    nginx_from(folder, "upstream", 1, &http, ports[0])
}

fn nginx(folder: &Path, same_fields: bool) -> Running {
    let more = if same_fields {
        "proxy_set_header X-Request-Id $request_id; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header Via \"1.1 nginx\";\n\
         add_header X-Request-Id $request_id; add_header X-Pool $pool; add_header X-Reason share;"
    } else {
        ""
    };
    let upstream = |name: &str, port: u16| {
        format!("upstream {name} {{ server 127.0.0.1:{port}; keepalive 1024; keepalive_requests 100000000; }}")
    };
    let http = format!(
        "split_clients \"$http_x_session_id\" $pool {{ 25% v2; * v1; }} {} {}\n\
         server {{ listen 127.0.0.1:9310 reuseport backlog=4096; location / {{ proxy_pass http://$pool; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n{more} }} }}",
        upstream("v1", 9301),
        upstream("v2", 9302),
    );
    nginx_from(folder, "proxy", threads(), &http, 9310)
}

fn haproxy(folder: &Path, same_fields: bool) -> Running {
    let more = if same_fields {
        "http-request set-var(txn.id) uuid()\n http-request set-header x-request-id %[var(txn.id)]\n\
         \x20http-request set-header x-forwarded-proto http\n http-request set-header x-forwarded-host %[req.hdr(host)]\n\
         \x20http-request add-header via \"1.1 haproxy\"\n http-response set-header x-request-id %[var(txn.id)]\n\
         \x20http-response set-header x-pool %b\n http-response set-header x-reason share"
    } else {
        ""
    };
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n nbthread {}\n maxconn 8000\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
         \x20option http-keep-alive\n http-reuse always\nfrontend all\n bind 127.0.0.1:9320 backlog 4096\n option forwardfor\n {more}\n\
         \x20acl v2 req.hdr(x-session-id),xxh32,mod(100) lt 25\n use_backend v2 if v2\n default_backend v1\n\
         backend v1\n server one 127.0.0.1:9301\nbackend v2\n server two 127.0.0.1:9302\n",
        threads()
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-f").arg(file).arg("-db");
    start(command, 9320)
}

fn host(folder: &Path, port: u16, admin: u16) -> Running {
    let file = folder.join("cutover.toml");
    let at = |path: &str| root().join(path).display().to_string();
    let text = format!(
        "[host]\ndata_plane = '127.0.0.1:{port}'\nadmin = '127.0.0.1:{admin}'\nstore = '{}/cutover.db'\ncomponents = '{}'\n\
         [migrations.bench]\nmatch = [{{ host = '*' }}]\n\
         [migrations.bench.v1]\nupstreams = ['http://127.0.0.1:9301']\n[migrations.bench.v2]\nupstreams = ['http://127.0.0.1:9302']\n\
         [migrations.bench.policies]\n\
         routing = {{ bundle = '{}', settings = {{ shadow_share = '0%', ramping_shadow_share = '0%' }} }}\n\
         rollback = '{}'\n\
         stages = {{ bundle = '{}', settings = {{ stages = [{{ share = '25%', soak = '1d' }}, {{ share = '100%' }}], shadow = {{ min_compared = 0 }} }} }}\n",
        folder.display(),
        at("target/components"),
        at("policies/sticky-share"),
        at("policies/sequential"),
        at("policies/standard-stages"),
    );
    fs::write(&file, text).unwrap();
    let given = std::env::args().find_map(|arg| arg.strip_prefix("--program=").map(PathBuf::from));
    let program = given.unwrap_or_else(|| root().join("target/dist/cutover"));
    assert!(program.exists(), "build the host as it is shipped first: cargo xtask dist");
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(file);
    let running = start(command, port);
    let deadline = clock::mono() + PATIENCE;
    while share(admin) != Some(250_000) {
        assert!(clock::mono() < deadline, "V2 has no share");
        thread::sleep(Duration::from_millis(100));
    }
    running
}

/// V2's share of the host's only migration.
fn share(admin: u16) -> Option<u64> {
    use std::io::{Read as _, Write as _};
    let mut stream = TcpStream::connect(("127.0.0.1", admin)).ok()?;
    stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let status: Value = serde_json::from_str(reply.get(reply.find('{')?..=reply.rfind('}')?)?).ok()?;
    status.pointer("/migrations/0/effective_share")?.as_u64()
}

/// As many as each of the three gets.
fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn load(script: &Path, port: u16, file: &str, connections: usize, seconds: u64) -> Turn {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}/{file}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line =
        text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("wrk failed: {text}"));
    let fields: Vec<f64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
    let &[rate, p50, p99, p999, bad] = fields.as_slice() else { panic!("wrk said {line}") };
    assert!(bad == 0.0, "{bad} requests failed at {port}");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "wrk prints whole microseconds")]
    let [p50_us, p99_us, p999_us] = [p50, p99, p999].map(|us| us as u64);
    Turn { rate, p50_us, p99_us, p999_us }
}

fn median(turns: &[Turn]) -> Turn {
    let by = |key: fn(&Turn) -> f64| {
        let mut all: Vec<_> = turns.iter().map(key).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    let us = |key: fn(&Turn) -> u64| {
        let mut all: Vec<_> = turns.iter().map(key).collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied().unwrap_or_default()
    };
    Turn { rate: by(|t| t.rate), p50_us: us(|t| t.p50_us), p99_us: us(|t| t.p99_us), p999_us: us(|t| t.p999_us) }
}
