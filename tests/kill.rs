//! The real binary, killed at the worst of times.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command},
    sync::Arc,
};

use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Http, Setup, binary, eventually, greeting};

/// A host that is a process of its own.
struct Process {
    child: Child,
    http: Http,
}

impl Process {
    async fn start(folder: &Path, ports: (u16, u16)) -> Self {
        let config = folder.join("cutover.toml");
        std::fs::write(&config, Setup::default().text(folder, ports)).unwrap();
        let child = Command::new(binary())
            .args(["serve", "--config"])
            .arg(&config)
            .stderr(File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        let process =
            Self { child, http: Http::new(format!("127.0.0.1:{}", ports.0), format!("127.0.0.1:{}", ports.1)) };
        eventually("the host", async || {
            let url = format!("http://127.0.0.1:{}/readyz", ports.1);
            let reply = process.http.send(Method::GET, &url, &[], String::new()).await.ok()?;
            (reply.status == StatusCode::OK).then_some(())
        })
        .await;
        process
    }

    async fn status(&self) -> Value {
        self.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body
    }

    /// Process ids of all workers.
    async fn workers(&self) -> Vec<u64> {
        let status = self.status().await;
        let pids = |pool: &str| {
            status["workers"][pool].as_array().unwrap().iter().map(|p| p.as_u64().unwrap()).collect::<Vec<_>>()
        };
        [pids("v1"), pids("v2")].concat()
    }

    async fn pools(&self, sessions: &[String]) -> Vec<String> {
        let mut pools = Vec::new();
        for session in sessions {
            let reply = self.http.greet(session, &[]).await;
            assert_eq!(greeting(&reply), Some(format!("hello {session}").as_str()), "{reply:?}");
            pools.push(reply.pool);
        }
        pools
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Two ports that nobody listens on.
pub(crate) fn free_ports() -> (u16, u16) {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, b) = (listen(), listen());
    (a.local_addr().unwrap().port(), b.local_addr().unwrap().port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_host_comes_back_where_it_was_and_leaves_no_worker_behind() {
    let (folder, ports) = (Arc::new(TempDir::new().unwrap()), free_ports());
    let sessions: Vec<_> = (0..40).map(|n| format!("s{n}")).collect();
    let mut host = Process::start(folder.path(), ports).await;
    eventually("both pools", async || (host.status().await["phase"] == "shadow").then_some(())).await;
    for session in &sessions {
        assert_eq!(host.http.create(session).await.status, StatusCode::OK);
    }
    for _ in 0..4 {
        let order = json!({ "reason": "test" });
        let reply = host.http.admin(Method::POST, "/api/v1/migrations/programs/advance", &order).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }
    let (before, pools, workers) = (host.status().await, host.pools(&sessions).await, host.workers().await);
    assert!(pools.contains(&"v1".to_owned()) && pools.contains(&"v2".to_owned()));
    assert_eq!(workers.len(), 3);

    host.child.kill().unwrap();
    host.child.wait().unwrap();
    eventually("the workers' end", async || {
        workers.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;

    let host = Process::start(folder.path(), ports).await;
    eventually("V2", async || (host.status().await["effective_share"] == before["share"]).then_some(())).await;
    let after = host.status().await;
    for field in ["phase", "stage", "share", "since", "soak"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(host.pools(&sessions).await, pools, "the same sessions, and they still have their programs");
}
