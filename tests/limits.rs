//! The real binary at the limits of its machine: callers by the thousand, no descriptor left, no room on the disk.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use crate::{
    harness::{Http, PATIENCE, Reply, Setup, binary, eventually, greeting},
    http::Upstream,
    restart::Plan,
};

/// Slow callers at once.
const MANY: usize = 10_000;

/// Those of them who take an answer: the kernel keeps megabytes of each.
const READERS: usize = 50;

/// What the host may take for a slow caller, in bytes: the buffers of a connection that has begun a body, and what an
/// allocator keeps. It is some 30 KiB; on a machine where the host's threads wait for their turn more of them are served at
/// once, and up to 75 KiB were seen of a build that is not optimized.
const FOR_EACH: usize = 96 << 10;

/// A script that starts the host after `before`.
fn wrapped(folder: &Path, before: &str) -> PathBuf {
    let script = folder.join("host.sh");
    fs::write(&script, format!("#!/bin/sh\nset -e\n{before}\nexec {} \"$@\"\n", binary().display())).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

/// Memory that a process has resident, in bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A caller who sends a byte of a head, or of a body, now and then, or takes a byte of an answer, until the connection is
/// closed; at the data plane, or each tenth at the admin plane.
async fn slow(data_plane: String, admin: String, number: usize) {
    let starts: [&[u8]; 7] = [
        b"",
        b"P",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 16000\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 16000\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    ];
    let reads = number < READERS;
    // Chunks have a place at V1 from the first on.
    let kinds = if number.is_multiple_of(97) { starts.len() } else { starts.len() - 1 };
    let start: &[u8] = if reads { b"GET /count/5000000 HTTP/1.1\r\nhost: a\r\n\r\n" } else { starts[number % kinds] };
    let address = if number.is_multiple_of(10) && !reads { admin } else { data_plane };
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    drop(stream.write_all(start).await);
    let mut reply = vec![0; if reads { 1 } else { 512 }];
    loop {
        if reads {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        tokio::select! {
            read = stream.read(&mut reply) => if matches!(read, Ok(0) | Err(_)) { return },
            () = tokio::time::sleep(Duration::from_millis(500)), if !reads => drop(stream.write_all(b"x").await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_slow_callers_of_either_plane_keep_nobody_out_and_take_little_memory() {
    let hosts = Plan { programs: false, pool: "", http: "" }.start().await;
    let before = resident(hosts.pid());
    let mut callers = JoinSet::new();
    for number in 0..MANY {
        callers.spawn(slow(hosts.http.data_plane.clone(), hosts.http.admin.clone(), number));
    }
    // The slow ones are one caller to the host; this is another.
    let other = hosts.http.from([127, 0, 0, 2]);
    let urls = [format!("http://{}/", other.data_plane), format!("http://{}/healthz", other.admin)];
    let mut most = 0;
    for _ in 0..20 {
        for url in &urls {
            // On a busy machine this caller may be so slow itself that it is cut off; then it comes again.
            let call = async || other.send(Method::GET, url, &[("x-cutover-pool", "v1")], String::new()).await.ok();
            let reply = eventually("an answer", call).await;
            assert_eq!(reply.status, StatusCode::OK, "{url}: {reply:?}");
        }
        let posted = eventually("an answer", async || {
            other.send(Method::POST, &urls[0], &[("x-cutover-pool", "v1")], "x".repeat(20_000)).await.ok()
        });
        assert_eq!(posted.await.status, StatusCode::OK);
        most = most.max(resident(hosts.pid()));
    }
    assert!(most < before + MANY * FOR_EACH, "{before} bytes became {most}");
    callers.abort_all();
    while callers.join_next().await.is_some() {}
    eventually("all to be well again", async || {
        let reply = hosts.http.send(Method::GET, &urls[0], &[], String::new()).await.ok()?;
        (reply.status == StatusCode::OK).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_operators_take_no_descriptor_that_others_need_and_keep_no_operator_out() {
    let folder = TempDir::new().unwrap();
    let program = wrapped(folder.path(), "ulimit -n 400");
    let hosts = Plan { programs: true, pool: "", http: "" }.start_as(&program).await;
    let mut heads = Vec::new();
    for number in 0..1_500 {
        let mut stream = TcpStream::connect(&hosts.http.admin).await.unwrap();
        let start: &[u8] = if number % 2 == 0 {
            b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-slow: "
        } else {
            b"POST /api/v1/migrations/programs/pause HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"
        };
        // It may be closed already, to make room.
        drop(stream.write_all(start).await);
        heads.push(stream);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", hosts.pid())).unwrap().count();
    assert!(open < 300, "{open} of 400 are open");
    let url = format!("http://{}/", hosts.http.data_plane);
    for _ in 0..20 {
        let reply = timeout(PATIENCE, hosts.http.send(Method::GET, &url, &[], String::new())).await;
        assert_eq!(reply.expect("an answer in time").unwrap().status, StatusCode::OK);
        assert_eq!(hosts.http.create("s").await.status, StatusCode::OK);
    }
    hosts.order("programs", "rollback").await;
    hosts.until_phase("programs", "rolled-back").await;
    let log = hosts.log();
    assert!(!log.contains("cannot accept a connection"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_with_few_descriptors_keeps_some_for_itself_and_serves_who_fits() {
    let folder = TempDir::new().unwrap();
    // 300 less what is kept for the rest is room for some 40 callers and their upstreams.
    let program = wrapped(folder.path(), "ulimit -n 300");
    let http = "header_timeout = '500ms'\nkeep_alive = '1s'";
    let hosts = Plan { programs: true, pool: "", http }.start_as(&program).await;
    hosts.until_logged(0, "callers get fewer connections").await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(&hosts.http.data_plane).await.unwrap());
    }
    // Those who ask wait in the kernel's queue until those who do not have been sent away.
    let url = format!("http://{}/", hosts.http.data_plane);
    for _ in 0..50 {
        let reply = timeout(PATIENCE, hosts.http.send(Method::GET, &url, &[], String::new())).await;
        assert_eq!(reply.expect("an answer in time").unwrap().status, StatusCode::OK);
    }
    // The rest of the host has what it needs: it can start workers and write.
    hosts.order("programs", "rollback").await;
    hosts.until_phase("programs", "rolled-back").await;
    assert!(!hosts.log().contains("cannot accept a connection"), "{}", hosts.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_any_descriptor_left_goes_on_with_what_it_has_and_recovers() {
    let upstreams = Upstream::named("one").await;
    let folder = TempDir::new().unwrap();
    let hosts = Plan { programs: false, pool: "", http: "max_connections = 16" }.start().await;
    let mut kept = TcpStream::connect(&hosts.http.data_plane).await.unwrap();
    let ask = async |stream: &mut TcpStream| {
        // One upstream, so that one connection to it will do.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-cutover-pool: v1\r\n\r\n").await.unwrap();
        let mut reply = vec![0; 4096];
        let read = timeout(PATIENCE, stream.read(&mut reply)).await.expect("an answer in time").unwrap();
        String::from_utf8_lossy(&reply[..read]).lines().next().unwrap_or_default().to_owned()
    };
    assert_eq!(ask(&mut kept).await, "HTTP/1.1 200 OK");
    // As many as are open now: not one more.
    let open = fs::read_dir(format!("/proc/{}/fd", hosts.pid())).unwrap().count();
    limit_descriptors(hosts.pid(), open);
    let mut shut_out = TcpStream::connect(&hosts.http.data_plane).await.unwrap();
    hosts.until_logged(0, "cannot accept a connection").await;
    assert_eq!(ask(&mut kept).await, "HTTP/1.1 200 OK", "who is in is served");
    limit_descriptors(hosts.pid(), 1_000);
    assert_eq!(ask(&mut shut_out).await, "HTTP/1.1 200 OK", "who waited is let in");
    drop((upstreams, folder));
}

#[tokio::test(flavor = "multi_thread")]
async fn under_overload_v2s_calls_go_before_v1s_whatever_kind_of_pool() {
    let hosts = Plan { programs: true, pool: "", http: "max_requests = 10" }.start().await;
    let http = &hosts.http;
    assert_eq!(http.create("s").await.status, StatusCode::OK);
    let slow = format!("http://{}/slow/20000", http.data_plane);
    let mut busy = JoinSet::new();
    for _ in 0..9 {
        let (http, slow) = (http.clone(), slow.clone());
        busy.spawn(async move { http.send(Method::GET, &slow, &[("x-cutover-pool", "v1")], String::new()).await });
    }
    let url = format!("http://{}/", http.data_plane);
    eventually("V2's requests to be refused", async || {
        let reply = http.send(Method::GET, &url, &[("x-cutover-pool", "v2")], String::new()).await.unwrap();
        (reply.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    let refused = http.greet("s", &[("x-cutover-pool", "v2")]).await;
    assert_eq!((refused.status, &*refused.reason), (StatusCode::SERVICE_UNAVAILABLE, "overload"), "{refused:?}");
    let served = http.greet("s", &[("x-cutover-pool", "v1")]).await;
    assert_eq!((greeting(&served), &*served.pool), (Some("hello s"), "v1"), "{served:?}");
    busy.abort_all();
}

/// Sets the limit of open files of another process.
fn limit_descriptors(pid: u32, limit: usize) {
    let done = Command::new("prlimit").arg(format!("--pid={pid}")).arg(format!("--nofile={limit}:")).status().unwrap();
    assert!(done.success());
}

/// A host whose store is on a small disk of its own, which a first and a second process of it see.
struct OnSmallDisk {
    shell: Child,
    folder: TempDir,
    http: Http,
}

impl OnSmallDisk {
    async fn start() -> Self {
        let (folder, ports) = (TempDir::new().unwrap(), crate::kill::free_ports());
        let config = Setup::default().text(folder.path(), ports).replace("'test.db'", "'disk/test.db'");
        fs::write(folder.path().join("cutover.toml"), config).unwrap();
        fs::create_dir(folder.path().join("disk")).unwrap();
        let serve = format!("{} serve --config cutover.toml", binary().display());
        let script = format!("mount -t tmpfs -o size=6m none disk && {{ {serve}; {serve}; }}");
        let shell = Command::new("unshare")
            .args(["--mount", "--map-root-user", "sh", "-c", &script])
            .current_dir(folder.path())
            .stderr(File::create(folder.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let http = Http::new(format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1));
        let this = Self { shell, folder, http };
        this.until_phase("shadow").await;
        this
    }

    async fn status(&self) -> Option<Value> {
        let url = format!("http://{}/api/v1/migrations/programs", self.http.admin);
        Some(self.http.send(Method::GET, &url, &[], String::new()).await.ok()?.body)
    }

    async fn until_phase(&self, phase: &str) {
        eventually(phase, async || (self.status().await?["phase"] == phase).then_some(())).await;
    }

    async fn advance(&self) -> Reply {
        let order = json!({ "reason": "test" });
        self.http.admin(Method::POST, "/api/v1/migrations/programs/advance", &order).await
    }

    async fn roll_back(&self) -> Reply {
        let order = json!({ "reason": "V2 is bad" });
        self.http.admin(Method::POST, "/api/v1/migrations/programs/rollback", &order).await
    }

    /// Leaves no room, not a byte.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).unwrap();
        while std::io::Write::write_all(&mut filler, &[0; 4096]).is_ok() {}
        while std::io::Write::write_all(&mut filler, &[0; 1]).is_ok() {}
    }

    /// The process that serves.
    fn host(&self) -> Option<u32> {
        let shell = self.shell.id();
        fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).ok()?.split_whitespace().next()?.parse().ok()
    }

    /// A file on the disk, which nobody but the host and its shell see.
    fn filler(&self) -> PathBuf {
        let disk = self.folder.path().join("disk/filler");
        Path::new(&format!("/proc/{}/root", self.shell.id())).join(disk.strip_prefix("/").unwrap())
    }
}

impl Drop for OnSmallDisk {
    fn drop(&mut self) {
        // The shell first, so that it does not start another; a shell that is dead has no children to be found by.
        let host = self.host();
        drop(self.shell.kill());
        drop(self.shell.wait());
        if let Some(host) = host {
            drop(Command::new("kill").args(["-9", &host.to_string()]).status());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_decisions_and_promises_but_not_calls_and_undoes_no_rollback() {
    let host = OnSmallDisk::start().await;
    for session in ["a", "b", "c"] {
        assert_eq!(host.http.create(session).await.status, StatusCode::OK);
    }
    assert_eq!(host.advance().await.status, StatusCode::OK);
    let before = host.status().await.unwrap();
    host.fill();
    // What cannot be written down is not done, and nobody is told that it was.
    let mut kept = vec!["a".to_owned(), "b".into(), "c".into()];
    let refused = eventually("a promise that is not made", async || {
        // What the store has room for in its file still is kept.
        let session = format!("more-{}", kept.len());
        let reply = host.http.create(&session).await;
        if reply.status == StatusCode::OK {
            kept.push(session);
        }
        (reply.status != StatusCode::OK).then_some(reply)
    })
    .await;
    assert!(refused.status.is_server_error(), "{refused:?}");
    let order = host.advance().await;
    assert!(order.status.is_server_error() || order.status == StatusCode::CONFLICT, "{order:?}");
    for session in &kept {
        let reply = host.http.greet(session, &[]).await;
        assert_eq!(greeting(&reply), Some(format!("hello {session}").as_str()), "{reply:?}");
    }
    let full = host.status().await.unwrap();
    fs::remove_file(host.filler()).unwrap();
    assert_eq!(host.http.create("d").await.status, StatusCode::OK, "with room again it goes on by itself");
    assert_eq!(host.advance().await.status, StatusCode::OK);
    let after = host.status().await.unwrap();
    assert!(after["stage"].as_u64() > before["stage"].as_u64(), "{before} {full} {after}");

    // A rollback goes on without the store and outlives the host, also one that starts while there is no room.
    host.fill();
    assert_eq!(host.roll_back().await.status, StatusCode::OK);
    let first = host.host().unwrap();
    Command::new("kill").args(["-9", &first.to_string()]).status().unwrap();
    let answer = eventually("V1 of the second host", async || {
        let url = format!("http://{}/v1/programs/health_check", host.http.data_plane);
        let reply = host.http.send(Method::POST, &url, &[], "{}".into()).await.ok()?;
        (host.host() != Some(first) && reply.status == StatusCode::OK).then_some(reply)
    })
    .await;
    assert_eq!(answer.pool, "v1");
    assert_eq!(host.status().await.unwrap()["phase"], "rolled-back");
    fs::remove_file(host.filler()).unwrap();
    eventually("the record", async || {
        let status = host.status().await?;
        let is_well = status["store_trouble"].is_null() && status["unrecorded"] == 0;
        (is_well && status["phase"] == "rolled-back" && status["share"] == 0).then_some(())
    })
    .await;
    kept.push("d".into());
    for session in &kept {
        let expected = format!("hello {session}");
        eventually("the session's program", async || {
            let reply = host.http.greet(session, &[]).await;
            (greeting(&reply) == Some(expected.as_str())).then_some(())
        })
        .await;
    }
}
