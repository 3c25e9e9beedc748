//! Who may ask the admin plane.

use hyper::Method;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Detached, still};

/// Sends a request with these lines of its head, and gives the head of what comes back.
async fn ask(host: &Detached, lines: &str) -> String {
    let mut stream = TcpStream::connect(&host.http.admin).await.unwrap();
    stream
        .write_all(format!("GET /api/v1/status HTTP/1.1\r\nconnection: close\r\n{lines}\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_name_or_page_is_refused_and_changes_nothing() {
    let names = |text: String| text.replacen("[host]\n", "[host]\nadmin_hosts = ['ops.example']\n", 1);
    let host = Detached::start(&still(), names, &[]);
    for ours in
        ["host: localhost\r\n", "host: 127.0.0.1:1\r\n", "host: OPS.example:80\r\norigin: http://ops.example\r\n"]
    {
        assert!(ask(&host, ours).await.starts_with("HTTP/1.1 200"), "{ours}");
    }
    for foreign in [
        "host: evil.example\r\n",
        "host: localhost\r\norigin: http://evil.example\r\n",
        "host: a\r\nhost: localhost\r\n",
    ] {
        let answer = ask(&host, foreign).await;
        assert!(answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400"), "{foreign}: {answer}");
    }
    let answer = ask(&host, "host: evil.example\r\n").await;
    assert!(answer.contains("foreign-host") && answer.contains("host.admin_hosts"), "{answer}");
    let url = format!("http://{}/api/v1/migrations/programs/rollback", host.http.admin);
    let body = json!({ "reason": "a page wants it" }).to_string();
    let reply = host.http.send(Method::POST, &url, &[("origin", "http://evil.example")], body).await.unwrap();
    assert_eq!(reply.status.as_u16(), 403, "{reply:?}");
    assert_ne!(host.json(&["status"])["migrations"][0]["phase"], "rolled-back");
}
