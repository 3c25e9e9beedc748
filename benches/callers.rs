//! What thousands of slow callers cost one who is not: its latency alone and beside them, and the memory of the host.
//!
//! A tenth of the slow ones are at the admin plane; the others send nothing, one byte, half a head, or a body by the drop,
//! and a few take long answers by the drop. The caller that is measured has an address of its own and one connection.
//! `cargo bench --bench callers -- [--callers=N] [--requests=N] [--program=FILE]`; the program is what is shipped
//! (`cargo xtask dist`) unless another is named.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench talks to a terminal")]
#![allow(clippy::panic, clippy::indexing_slicing, reason = "a bench that cannot start has nothing to say")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use cutover_model::clock;
use cutover_traffic::descriptors;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Slow callers.
const CALLERS: usize = 10_000;

/// Requests that are measured, alone and beside them.
const REQUESTS: usize = 5_000;

/// Those that take an answer: the kernel keeps megabytes of each.
const READERS: usize = 100;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where the host listens.
const DATA: &str = "127.0.0.1:9340";
const ADMIN: &str = "127.0.0.1:9341";

/// The host; it ends with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[tokio::main]
async fn main() {
    // `cargo test --benches` only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let given = |name: &str| std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
    let number = |name: &str, usual: usize| given(name).map_or(usual, |n| n.parse().unwrap());
    let (callers, requests) = (number("--callers=", CALLERS), number("--requests=", REQUESTS));
    let program = given("--program=").map_or_else(|| root().join("target/dist/cutover"), PathBuf::from);
    assert!(program.exists(), "build the host as it is shipped first: cargo xtask dist");
    descriptors::raise();
    let folder = TempDir::new().unwrap();
    let mut upstreams = JoinSet::new();
    let (v1, v2) = (upstream(&mut upstreams).await, upstream(&mut upstreams).await);
    let host = host(&program, folder.path(), [v1, v2]).await;
    let before = resident(host.0.id());
    println!("{:>10} {:>8} {:>8} {:>8} {:>8}  failed", "", "p50 us", "p99 us", "max us", "RSS MiB");
    // The first are for whoever has never served before.
    measure(requests / 10).await;
    report("alone", &measure(requests).await, resident(host.0.id()));
    let mut slow = JoinSet::new();
    for at in 0..callers {
        slow.spawn(drip(at));
        if at % 500 == 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    for name in ["they come", "beside", "beside"] {
        report(name, &measure(requests).await, resident(host.0.id()));
    }
    let after = resident(host.0.id());
    println!("{callers} slow callers; {} bytes each", after.saturating_sub(before) / callers.max(1));
    let call = timeout(PATIENCE, one(ADMIN, "/healthz")).await;
    println!("the admin plane {}", if call.is_ok_and(|ok| ok) { "answers" } else { "does not answer" });
}

/// A slow caller of some kind: when it is closed, it comes again.
async fn drip(at: usize) {
    let starts: [&[u8]; 5] = [
        b"",
        b"P",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\nx",
        b"POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    ];
    let (address, start) = match at {
        _ if at < READERS => (DATA, &b"GET /long HTTP/1.1\r\nhost: localhost\r\n\r\n"[..]),
        // Chunks begin at once, so these have places, until they are cut off.
        _ if at.is_multiple_of(200) => (DATA, starts[4]),
        _ if at.is_multiple_of(10) => (ADMIN, starts[2]),
        _ => (DATA, starts[at % 4]),
    };
    loop {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        drop(stream.write_all(start).await);
        let mut some = [0; 64];
        loop {
            sleep(Duration::from_secs(2)).await;
            match stream.try_read(&mut some) {
                Ok(0) => break,
                Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                _ if at < READERS || start.is_empty() => {}
                _ if stream.write_all(b"x").await.is_err() => break,
                _ => {}
            }
        }
    }
}

/// What requests took, in microseconds; `u64::MAX` of those that failed.
async fn measure(requests: usize) -> Vec<u64> {
    let mut took = Vec::with_capacity(requests);
    let mut stream = None;
    for _ in 0..requests {
        let start = clock::mono();
        let answered = timeout(PATIENCE, async {
            if stream.is_none() {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
                stream = Some(socket.connect(DATA.parse().unwrap()).await.ok()?);
            }
            ask(stream.as_mut()?, "/").await
        });
        let ok = answered.await.is_ok_and(|status| status == Some(200));
        if !ok {
            stream = None;
        }
        let us = u64::try_from(clock::mono().since(start).as_micros()).unwrap();
        took.push(if ok { us } else { u64::MAX });
    }
    took.sort_unstable();
    took
}

fn report(name: &str, took: &[u64], resident: usize) {
    let failed = took.iter().filter(|us| **us == u64::MAX).count();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    let (p50, p99, max) = (at(50), at(99), at(100));
    println!("{name:>10} {p50:>8} {p99:>8} {max:>8} {:>8}  {failed}", resident >> 20);
}

/// Sends a request and reads its answer, whose length is known; the status.
async fn ask(stream: &mut TcpStream, path: &str) -> Option<u16> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut read = Vec::new();
    loop {
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&read);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if length.is_some_and(|length: usize| body.len() >= length) {
                return head.get(9..12)?.parse().ok();
            }
        }
    }
}

async fn one(address: &str, path: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    ask(&mut stream, path).await == Some(200)
}

/// Answers with two bytes, or with many at `/long`.
async fn upstream(upstreams: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let long: Arc<[u8]> = vec![b'x'; 64 << 20].into();
    upstreams.spawn(async move {
        let mut served = JoinSet::new();
        loop {
            while served.try_join_next().is_some() {}
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            let long = Arc::clone(&long);
            served.spawn(async move {
                let mut read = Vec::new();
                while stream.read_buf(&mut read).await.is_ok_and(|got| got > 0) {
                    if read.ends_with(b"\r\n\r\n") {
                        let body = if read.starts_with(b"GET /long") { &long[..] } else { b"ok" };
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        read.clear();
                        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

async fn host(program: &Path, folder: &Path, [v1, v2]: [SocketAddr; 2]) -> Running {
    let file = folder.join("cutover.toml");
    let at = |path: &str| root().join(path).display().to_string();
    let text = format!(
        "[host]\ndata_plane = '{DATA}'\nadmin = '{ADMIN}'\nstore = '{}/cutover.db'\ncomponents = '{}'\n\
         [migrations.bench]\nmatch = [{{ host = '*' }}]\n\
         [migrations.bench.v1]\nupstreams = ['http://{v1}']\n[migrations.bench.v2]\nupstreams = ['http://{v2}']\n\
         [migrations.bench.policies]\nrouting = '{}'\nrollback = '{}'\n\
         stages = {{ bundle = '{}', settings = {{ shadow = {{ min_compared = 1000000000 }} }} }}\n",
        folder.display(),
        at("target/components"),
        at("policies/sticky-share"),
        at("policies/sequential"),
        at("policies/standard-stages"),
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running(command.spawn().unwrap());
    let ready = async {
        while !one(ADMIN, "/readyz").await {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, ready).await.unwrap_or_else(|_elapsed| panic!("the host is not ready"));
    running
}

/// Memory that a process has resident, in bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}
