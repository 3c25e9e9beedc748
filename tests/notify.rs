//! Notices reach a webhook, also one that fails at first.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::mpsc,
    thread,
};

use cutover::{app::App, config::Config};
use cutover_control::migration::CommandKind;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Setup, binary};

/// A webhook that answers 500 once and then 200, and passes on the bodies of what it took.
pub(crate) fn webhook() -> (u16, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (took, bodies) = mpsc::channel();
    thread::spawn(move || {
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let body = read_body(&mut stream);
            let status = if n == 0 { "500 Internal Server Error" } else { "200 OK" };
            stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes())
                .unwrap();
            if n > 0 && took.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (port, bodies)
}

fn read_body(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
        let length: usize = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        if bytes.len() >= head.len() + 4 + length {
            return bytes.split_off(head.len() + 4);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_is_told_to_the_webhook_with_its_reason() {
    let (port, bodies) = webhook();
    let folder = TempDir::new().unwrap();
    let text = Setup::default().text(folder.path(), (0, 0));
    let text = text.replacen("[host]\n", &format!("[host]\nwebhooks = ['http://127.0.0.1:{port}/hook']\n"), 1);
    let config = Config::parse(&text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let app = App::start(config, binary()).await.unwrap();
    let handle = app.host.migrations["programs"].handle.clone();
    handle.ask(CommandKind::Rollback, "ada", "a drill").await.unwrap();
    // That the store is a new one is told before it.
    let told = tokio::task::spawn_blocking(move || {
        let mut told = std::iter::from_fn(|| bodies.recv_timeout(PATIENCE).ok());
        told.find(|notice| notice["event"] != "store-new")
    });
    let told = told.await.unwrap().unwrap();
    assert_eq!((told["event"].as_str(), told["severity"].as_str()), (Some("rollback"), Some("critical")));
    assert_eq!(told["migration"].as_str(), Some("programs"));
    assert!(told["message"].as_str().is_some_and(|m| m.contains("a drill")), "{told}");
    app.shut_down().await;
}
