//! The same bytes, given to nginx and `HAProxy`.

use std::process::Stdio;

use tokio::process::{Child, Command};

use super::*;

/// The versions whose differences are in the table.
const KNOWN: [(&str, &str); 2] = [("nginx", "nginx/1.22."), ("haproxy", "version 2.6.")];

/// A proxy of somebody else's, in front of an upstream; it ends with its value.
struct Peer {
    address: SocketAddr,
    _child: Child,
    _folder: TempDir,
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

impl Peer {
    async fn start(name: &str, upstream: SocketAddr) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let (path, port) = (folder.path().join("conf"), free_port().await);
        let dir = folder.path().display();
        let text = match name {
            "nginx" => format!(
                "daemon off; master_process off; pid {dir}/pid; error_log stderr crit;\n\
                 events {{ worker_connections 256; }}\n\
                 http {{ access_log off; client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;\n\
                 uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;\n\
                 server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1;\n\
                 proxy_request_buffering off; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; }} }} }}\n"
            ),
            _ => format!(
                "defaults\n mode http\n timeout connect 2s\n timeout client 10s\n timeout server 10s\n\
                 frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n server s {upstream}\n"
            ),
        };
        fs::write(&path, text).unwrap();
        let mut command = Command::new(name);
        match name {
            "nginx" => command.args(["-e", "stderr", "-p", &dir.to_string(), "-c"]).arg(&path),
            _ => command.args(["-db", "-f"]).arg(&path),
        };
        let child = command.kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.ok()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually("a peer to listen", async || TcpStream::connect(address).await.ok()).await;
        Some(Self { address, _child: child, _folder: folder })
    }
}

/// What it says of its version; none if it is not installed.
async fn version(name: &str) -> Option<String> {
    let output = Command::new(name).arg("-v").output().await.ok()?;
    Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines().next()?.to_owned())
}

/// What a peer does otherwise and the table has no reason for.
async fn unexplained(name: &str, known: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(version) = version(name).await else {
        eprintln!("{name} is not installed: skipped");
        return wrong;
    };
    let recorder = Recorder::start().await;
    let Some(peer) = Peer::start(name, recorder.upstream.address).await else { return wrong };
    for case in cases() {
        let came = recorder.run(peer.address, &case, None).await;
        let own = case.got.trim_end_matches('.');
        if came.saw == case.saw && came.got.trim_end_matches('.') == own {
            continue;
        }
        let why = case.differs.iter().find(|(peer, _)| peer == name).map_or("", |(_, why)| why);
        eprintln!("{version}: {}: saw `{}`, got `{}`; {why}", case.name, came.saw, came.got);
        if why.is_empty() {
            wrong.push(format!("{name}: {}: saw `{}`, got `{}`", case.name, came.saw, came.got));
        }
    }
    // Others may have other reasons.
    if version.contains(known) { wrong } else { Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nginx_and_haproxy_do_otherwise_the_table_says_why() {
    let [nginx, haproxy] = KNOWN.map(|(name, known)| unexplained(name, known));
    let (nginx, haproxy) = tokio::join!(nginx, haproxy);
    assert_none(&[nginx, haproxy].concat());
}
