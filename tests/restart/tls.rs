//! Callers over TLS: their connections cannot move, but nothing that they ask for is lost.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::tls;

/// A caller that trusts the host's certificate.
#[derive(Clone)]
struct Callers {
    connector: TlsConnector,
    address: String,
}

impl Callers {
    fn of(hosts: &Hosts) -> Self {
        Self { connector: tls::caller(hosts.folder.path(), "http/1.1"), address: hosts.http.data_plane.clone() }
    }

    async fn connect(&self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        self.connector.connect(tls::NAME.try_into().unwrap(), stream).await
    }
}

/// Asks for a path whose answer ends with `one` or `two`, and reads that.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n\r\n").as_bytes()).await?;
    let mut reply = Vec::new();
    while !(reply.ends_with(b"\r\n\r\none") || reply.ends_with(b"\r\n\r\ntwo")) {
        if timeout(PATIENCE, stream.read_buf(&mut reply)).await?? == 0 {
            let got = String::from_utf8_lossy(&reply).into_owned();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended after {got:?}")));
        }
    }
    Ok(String::from_utf8(reply).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_tls_end_where_they_are_and_new_connections_find_a_host() {
    let http = "tls = { certificate = 'cert.pem', key = 'key.pem' }";
    let mut hosts = Plan { programs: false, pool: "", http }.start().await;
    let callers = Callers::of(&hosts);
    let (mut idle, mut busy) = (callers.connect().await.unwrap(), callers.connect().await.unwrap());
    assert!(ask(&mut idle, "/status/418").await.unwrap().starts_with("HTTP/1.1 418 "));
    let stop = Arc::new(AtomicBool::new(false));
    let (new, stopped) = (callers.clone(), Arc::clone(&stop));
    let coming = tokio::spawn(async move {
        let mut asked = 0;
        while !stopped.load(Ordering::Relaxed) {
            let mut stream = new.connect().await.unwrap();
            // Between the handshake and the request the host may give way: then nothing was asked, and another is.
            match ask(&mut stream, "/slow/1").await {
                Ok(_) => asked += 1,
                Err(error) => assert!(error.to_string().ends_with("after \"\"") || is_closed(&error), "{error}"),
            }
        }
        asked
    });
    let slow = tokio::spawn(async move { (ask(&mut busy, "/slow/1500").await, busy) });
    hosts.replace().await;
    let (answer, mut busy) = slow.await.unwrap();
    let answer = answer.expect("the answer to what was under way");
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"), "{answer}");
    for stream in [&mut idle, &mut busy] {
        // With a proper end, not a torn connection.
        let end = timeout(PATIENCE, stream.read(&mut [0; 64])).await.expect("an end");
        assert_eq!(end.expect("a clean end"), 0);
    }
    hosts.until_ended(0).await;
    assert!(ask(&mut callers.connect().await.unwrap(), "/slow/1").await.unwrap().contains(" 200 OK"));
    stop.store(true, Ordering::Relaxed);
    assert!(coming.await.unwrap() > 20, "callers came all the time");
}

/// Whether nothing was read, because the connection was closed before.
fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
