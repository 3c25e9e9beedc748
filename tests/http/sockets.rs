//! Upstreams at sockets of this machine.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::net::{UnixListener, UnixStream};

use super::*;

/// A well-behaved service at a socket, which counts its connections; it stops when it is aborted.
fn serve(path: &Path, name: &'static str) -> (JoinHandle<()>, Arc<AtomicUsize>) {
    let listener = UnixListener::bind(path).unwrap();
    let count = Arc::<AtomicUsize>::default();
    let connections = Arc::clone(&count);
    let serving = tokio::spawn(async move {
        let mut serving = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Ordering::SeqCst);
            let service = service_fn(move |request| answer(name, request));
            serving.spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                drop(http.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
            });
        }
    });
    (serving, count)
}

fn at(path: &Path) -> String {
    format!("unix:{}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_at_a_socket_is_served_like_any_other() {
    let folder = TempDir::new().unwrap();
    let [one, two] = ["one.sock", "two.sock"].map(|name| folder.path().join(name));
    let ((_one, connections), (_two, _)) = (serve(&one, "one"), serve(&two, "two"));
    let setup = Setup { v1: vec![at(&one)], v2: vec![at(&two)], ..Setup::of(&[], &[]) };
    let site = setup.start().await;
    for _ in 0..20 {
        let said = site.get("/a?b").await.json();
        assert_eq!((&said["name"], &said["target"]), (&json!("one"), &json!("/a?b")));
        assert_eq!(said["headers"]["host"], "shop.example", "as the caller has it");
    }
    let few = connections.load(Ordering::SeqCst);
    assert!(few <= 4, "connections are used again: {few} for 20 requests");
    assert_eq!(site.get_from("v2", "/").await.json()["name"], "two");
    let sent = site.send(post("/", vec![b'x'; 1 << 20])).await;
    assert_eq!(sent.json()["body"]["bytes"], 1 << 20);
    let head = "GET /upgrade HTTP/1.1\r\nhost: shop\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let mut stream = site.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(super::head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut echoed)).await.expect("an echo").unwrap();
    assert_eq!(&echoed, b"hello");
    assert_eq!(site.pool(0).view().upstreams[0].address, at(&one));
    drop(stream);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_at_a_socket_is_checked_put_out_and_taken_back() {
    let folder = TempDir::new().unwrap();
    let [one, two] = ["one.sock", "two.sock"].map(|name| folder.path().join(name));
    let ((first, _), (_two, _)) = (serve(&one, "one"), serve(&two, "two"));
    let pool = "health = { path = '/healthz', interval = '20ms', failures = 2, successes = 2 }";
    let setup = Setup { v1: vec![at(&one), at(&two)], v2: vec![at(&two)], pool, ..Setup::of(&[], &[]) };
    let site = setup.start().await;
    let ready = || site.pool(0).members_now().ready;
    eventually("both to be up", async || (ready() == 2).then_some(())).await;
    first.abort();
    assert!(first.await.is_err_and(|error| error.is_cancelled()));
    std::fs::remove_file(&one).unwrap();
    eventually("one to be down", async || (ready() == 1).then_some(())).await;
    let why = site.pool(0).why_not_whole().unwrap();
    assert!(why.contains(&format!("{} is not reached", at(&one))) && why.contains("No such file"), "{why}");
    assert_eq!(site.get("/").await.json()["name"], "two");
    let (_again, _) = serve(&one, "one");
    eventually("it to be back", async || (ready() == 2).then_some(())).await;
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_whose_queue_is_full_is_waited_for() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("busy.sock");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let listener = UnixListener::from_std(socket).unwrap();
    let setup = Setup { v1: vec![at(&path)], v2: vec![at(&path)], ..Setup::of(&[], &[]) };
    let site = setup.start().await;
    // Nobody accepts, so that some time there is no room.
    let mut waiting = Vec::new();
    while let Ok(stream) = UnixStream::connect(&path).await {
        waiting.push(stream);
        assert!(waiting.len() < 100_000, "a queue has an end");
    }
    let (reply, ()) = tokio::join!(site.get("/"), async {
        eventually("the request to wait", async || (site.in_flight(0) == 1).then_some(())).await;
        waiting.clear();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if head(&mut stream).await.starts_with("GET / ") {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                return;
            }
        }
    });
    assert_eq!(reply.status, 200, "{reply:?}");
    site.app.shut_down().await;
}

#[test]
fn a_socket_without_an_absolute_path_is_refused_with_what_would_be_right() {
    let setup = Setup { v1: vec!["unix:app.sock".into()], v2: vec!["app.sock".into()], ..Setup::of(&[], &[]) };
    let refused = Config::parse(&setup.text(), Path::new("/"), &[]).unwrap_err().to_string();
    for words in [
        "`migrations.shop.v1.upstreams` has `unix:app.sock`; the path of a socket must be absolute, such as `unix:/run/",
        "`migrations.shop.v2.upstreams` has `app.sock`; it must be `http://HOST:PORT` or `https://HOST:PORT` without a",
    ] {
        assert!(refused.contains(words), "{refused}");
    }
}
