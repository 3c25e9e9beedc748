//! Sockets from outside, as systemd hands them over.

use std::{io::Write as _, os::unix::net::UnixDatagram, process::Stdio};

use super::*;

/// Listens, says where, waits to be told, and becomes the host as systemd starts it.
const SUPERVISOR: &str = r#"
import os, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets), flush=True)
sys.stdin.readline()
# The admin plane's comes first: it is the name that counts.
copies = [os.dup(s.fileno()) for s in reversed(sockets)]
for at, copy in enumerate(copies):
    os.dup2(copy, 3 + at, inheritable=True)
os.environ.update(LISTEN_FDS="2", LISTEN_FDNAMES="admin:data", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_were_sent_before_the_host_was_there_are_answered() {
    let folder = TempDir::new().unwrap();
    let upstreams = [Upstream::named("one").await, Upstream::named("two").await];
    // These ports are nobody's: the sockets count.
    let ports = crate::kill::free_ports();
    let plan = Plan { programs: false, pool: "", http: "" };
    fs::write(folder.path().join("cutover.toml"), plan.text(&upstreams, folder.path(), ports)).unwrap();
    let told = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    told.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut first = Command::new("python3")
        .env("NOTIFY_SOCKET", folder.path().join("notify"))
        .args(["-c", SUPERVISOR])
        .arg(binary())
        .args(["serve", "--config"])
        .arg(folder.path().join("cutover.toml"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(first.stdout.take().unwrap()).read_line(&mut said).unwrap();
    let [data, admin] = [0, 1].map(|at| format!("127.0.0.1:{}", said.split_whitespace().nth(at).unwrap()));
    let http = Http::new(data, admin);
    let mut hosts = Hosts { pids: vec![first.id()], first, http, folder, _upstreams: upstreams };
    let mut early: Vec<_> = Vec::new();
    for _ in 0..8 {
        let mut kept = hosts.connect().await;
        early.push(tokio::spawn(async move { kept.send(get("/", &[])).await }));
    }
    hosts.first.stdin.take().unwrap().write_all(b"go\n").unwrap();
    for early in early {
        assert_eq!(early.await.unwrap().unwrap().0, 200);
    }
    hosts.until_ready().await;
    assert_eq!(next(&told), "READY=1");
    let log = hosts.log();
    assert!(log.contains("listens where it was told to"), "{log}");
    // A successor has them, too, though the configuration says otherwise.
    let mut kept = hosts.connect().await;
    hosts.replace().await;
    hosts.until_ended(0).await;
    let said: Vec<_> = (0..3).map(|_| next(&told)).collect();
    let main = format!("MAINPID={}\nREADY=1", hosts.pid());
    assert!(said[0].starts_with("MONOTONIC_USEC=") && said[0].ends_with("RELOADING=1"), "{said:?}");
    assert!(said[1..].contains(&main) && said[1..].contains(&"READY=1".to_owned()), "{said:?}");
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    assert_eq!(hosts.connect().await.send(get("/", &[])).await.unwrap().0, 200);
    hosts.until_ready().await;
    hosts.signal(Signal::TERM);
    assert_eq!(next(&told), "STOPPING=1");
    hosts.until_ended(1).await;
}

/// What systemd would be told next.
fn next(told: &UnixDatagram) -> String {
    let mut said = [0; 200];
    let length = told.recv(&mut said).unwrap();
    String::from_utf8(said[..length].to_vec()).unwrap().trim_end().to_owned()
}
