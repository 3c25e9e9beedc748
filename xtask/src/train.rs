//! Load for a host that counts: callers and upstreams over loopback, as many requests as it takes, whatever the time.

use std::{
    fs,
    io::{self, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{process, workspace::Workspace};

/// Callers of each kind, and requests that each sends over its connection.
const CALLERS: [(Kind, usize, usize); 4] =
    [(Kind::Small, 48, 3_000), (Kind::Large, 12, 1_000), (Kind::Posted, 12, 3_000), (Kind::Uploaded, 4, 1_500)];

/// Bytes of a small body and of a large one.
const SMALL: usize = 1 << 10;
const LARGE: usize = 64 << 10;

/// Bytes that a caller uploads: too many to be kept.
const UPLOAD: usize = 20 << 10;

/// How often the host is looked for, and how long it is left alone in between.
const LOOKS: usize = 600;
const BREATH: Duration = Duration::from_millis(100);

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A small body.
    Small,
    /// A large one.
    Large,
    /// A small one, for a small one.
    Posted,
    /// A small one, for one that goes through as it comes.
    Uploaded,
}

/// A program that is killed if it is not waited for.
struct Running(Child);

/// Runs `host`, calls it until everybody was answered, and lets it end.
pub(crate) fn run(workspace: &Workspace, mut host: Command) -> Result<()> {
    let folder = workspace.target.join("pgo/training");
    fs::create_dir_all(&folder)?;
    let store = folder.join("cutover.db");
    if store.exists() {
        fs::remove_file(&store)?;
    }
    let (v1, v2) = (upstream()?, upstream()?);
    let [data, admin] = [free()?, free()?];
    let config = folder.join("cutover.toml");
    fs::write(&config, text(&workspace.root, &store, [data, admin, v1, v2]))?;
    let mut running = Running(host.arg("serve").arg("--config").arg(&config).spawn().context("it does not start")?);
    wait_for(&mut running.0, data)?;
    let callers: Vec<JoinHandle<io::Result<usize>>> = CALLERS
        .into_iter()
        .flat_map(|(kind, callers, requests)| (0..callers).map(move |caller| (kind, caller, requests)))
        .map(|(kind, caller, requests)| thread::spawn(move || call(data, kind, caller, requests)))
        .collect();
    let mut answered = 0;
    for caller in callers {
        answered += caller.join().map_err(|_panic| anyhow::anyhow!("a caller failed"))??;
    }
    eprintln!("    {answered} requests were answered");
    // Its counters are written when it ends by itself.
    process::run(Command::new("kill").arg(running.0.id().to_string()))?;
    let ended = running.0.wait()?;
    ensure!(ended.success(), "the host ended with {ended}");
    Ok(())
}

fn text(root: &Path, store: &Path, [data, admin, v1, v2]: [SocketAddr; 4]) -> String {
    let at = |path: &str| root.join(path).display().to_string();
    format!(
        "[host]\ndata_plane = '{data}'\nadmin = '{admin}'\nstore = '{}'\ncomponents = '{}'\n\
         [migrations.training]\nmatch = [{{ host = '*' }}]\n\
         [migrations.training.v1]\nupstreams = ['http://{v1}']\n[migrations.training.v2]\nupstreams = ['http://{v2}']\n\
         [migrations.training.policies]\nrouting = '{}'\nrollback = '{}'\n\
         stages = {{ bundle = '{}', settings = {{ stages = [{{ share = '25%', soak = '1d' }}, {{ share = '100%' }}], \
         shadow = {{ min_compared = 0 }} }} }}\n",
        store.display(),
        at("target/components"),
        at("policies/sticky-share"),
        at("policies/sequential"),
        at("policies/standard-stages"),
    )
}

/// An address that nobody listens at.
fn free() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn wait_for(host: &mut Child, at: SocketAddr) -> Result<()> {
    for _ in 0..LOOKS {
        if TcpStream::connect(at).is_ok() {
            return Ok(());
        }
        if let Some(ended) = host.try_wait()? {
            bail!("the host ended with {ended} before it listened");
        }
        thread::sleep(BREATH);
    }
    bail!("the host does not listen at {at}")
}

/// Answers whoever comes, for as long as this program runs.
fn upstream() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || drop(answer(&stream)));
        }
    });
    Ok(address)
}

fn answer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut read = BufReader::new(stream);
    loop {
        let head = head(&mut read)?;
        if head.is_empty() {
            return Ok(());
        }
        io::copy(&mut read.by_ref().take(length(&head)), &mut io::sink())?;
        let body = vec![b'x'; if head.contains("/large") { LARGE } else { SMALL }];
        let length = body.len();
        let reply = format!(
            "HTTP/1.1 200 OK\r\nServer: training\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n\
             ETag: \"1\"\r\nContent-Length: {length}\r\nConnection: keep-alive\r\n\r\n"
        );
        let mut stream = stream;
        stream.write_all(&[reply.as_bytes(), &body].concat())?;
    }
}

/// Sends requests one after the other; how many were answered.
fn call(at: SocketAddr, kind: Kind, caller: usize, requests: usize) -> io::Result<usize> {
    let mut stream = TcpStream::connect(at)?;
    stream.set_nodelay(true)?;
    let mut read = BufReader::new(stream.try_clone()?);
    for number in 0..requests {
        let session = (caller * 31 + number) % 1_000;
        let fields = format!("Host: 127.0.0.1\r\nAccept: */*\r\nX-Session-Id: s{session}\r\n");
        let post = |length: usize| {
            let body = "y".repeat(length);
            format!("POST /small HTTP/1.1\r\n{fields}Content-Length: {length}\r\n\r\n{body}")
        };
        let request = match kind {
            Kind::Small => format!("GET /small?n={number} HTTP/1.1\r\n{fields}\r\n"),
            Kind::Large => format!("GET /large HTTP/1.1\r\n{fields}\r\n"),
            Kind::Posted => post(SMALL),
            Kind::Uploaded => post(UPLOAD),
        };
        stream.write_all(request.as_bytes())?;
        let head = head(&mut read)?;
        if !head.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("request {number} was answered with {head:?}")));
        }
        io::copy(&mut read.by_ref().take(length(&head)), &mut io::sink())?;
    }
    Ok(requests)
}

/// A head; empty at the end.
fn head(read: &mut impl io::BufRead) -> io::Result<String> {
    let mut head = String::new();
    while read.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

/// The length of the body that a head announces.
fn length(head: &str) -> u64 {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut length = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    length.find_map(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_of_all_kinds_are_answered() {
        let at = upstream().unwrap();
        for (kind, ..) in CALLERS {
            assert_eq!(call(at, kind, 1, 5).unwrap(), 5, "{kind:?}");
        }
    }

    #[test]
    fn who_is_refused_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").unwrap();
        });
        let error = call(at, Kind::Small, 0, 1).unwrap_err();
        assert!(error.to_string().contains("503 No"), "{error}");
    }

    #[test]
    fn lengths_are_read_whatever_the_case() {
        assert_eq!(length("HTTP/1.1 200 OK\r\na: 1\r\nCONTENT-length: 12\r\n\r\n"), 12);
        assert_eq!(length("GET / HTTP/1.1\r\n\r\n"), 0);
    }
}
