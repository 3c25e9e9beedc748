//! HTTP services behind the host: what passes through, what is refused, what upstreams may do, and how streams end.

mod aliases;
mod attacks;
mod bodies;
mod certified;
mod choosing;
mod conformance;
mod connections;
mod cookies;
mod drain;
mod extended;
mod faults;
mod framing;
mod gone;
mod matching;
mod mirrors;
mod names;
mod passing;
mod pools;
mod proxied;
mod rules;
mod slow;
mod sockets;
mod story;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cutover::{app::App, config::Config};
use cutover_control::migration::CommandKind;
use cutover_model::port::Phase;
use cutover_traffic::pool::UpstreamPool;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    harness::{PATIENCE, binary, bundle, components, eventually},
    tls,
};

/// What an upstream answers with.
type Answer = Response<BoxBody<Bytes, std::convert::Infallible>>;

/// A service that answers over HTTP; it stops when it is dropped.
pub(crate) struct Upstream {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Upstream {
    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does with each connection what it is told, byte by byte.
    async fn raw<F: Future<Output = ()> + Send + 'static>(each: impl Fn(TcpStream) -> F + Send + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), each)
    }

    /// Another service where one was before.
    pub(crate) async fn instead_of(address: SocketAddr, name: &'static str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::on(listener, move |stream| async move {
            let service = service_fn(move |request| answer(name, request));
            // The host may have closed it.
            drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        })
    }

    fn on<F: Future<Output = ()> + Send + 'static>(
        listener: TcpListener,
        each: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(each(stream));
            }
        });
        Self { address, serving }
    }

    /// Answers each connection's first head with these bytes, and then holds on to it.
    async fn saying(bytes: &'static [u8]) -> Self {
        Self::raw(move |mut stream| async move {
            head(&mut stream).await;
            // Whoever asked may have gone.
            drop(stream.write_all(bytes).await);
            std::future::pending::<()>().await;
        })
        .await
    }

    /// A well-behaved service: see [`answer`].
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::http2_too(name, false).await
    }

    async fn http2_too(name: &'static str, http2: bool) -> Self {
        Self::serving(http2, move |request| answer(name, request)).await
    }

    /// Reads all of each request, says what its body was, and answers with 500.
    async fn reading(http2: bool, bodies: mpsc::Sender<String>) -> Self {
        Self::serving(http2, move |request| {
            let bodies = bodies.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                bodies.send(String::from_utf8(body.to_vec()).unwrap()).await.unwrap();
                Ok(whole(StatusCode::INTERNAL_SERVER_ERROR, ""))
            }
        })
        .await
    }

    async fn serving<A, F>(http2: bool, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
        F: Future<Output = Result<Answer, std::convert::Infallible>> + Send + 'static,
    {
        Self::raw(move |stream| {
            let service = service_fn(answer.clone());
            async move {
                let io = TokioIo::new(stream);
                let served = if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await
                };
                // The host may have closed it.
                drop(served);
            }
        })
        .await
    }
}

/// Reads a head, byte by byte, so that nothing after it is taken.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { break };
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

fn whole(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = status;
    answer
}

/// What a well-behaved service does, by path: `/status/N` answers so, `/slow/MS` answers then, `/count/N` sends so many
/// parts, `/grpc/N` ends with that status of gRPC and `/grpc-alone/N` is nothing else, `/events` sends an event a
/// millisecond, `/trailers` ends with a trailer, `/upgrade` echoes, and everything else says what it was sent.
async fn answer(name: &'static str, mut request: Request<Incoming>) -> Result<Answer, std::convert::Infallible> {
    let path = request.uri().path().to_owned();
    let mut segments = path.trim_start_matches('/').split('/');
    let (what, number) = (segments.next().unwrap_or_default(), segments.next().and_then(|n| n.parse::<u64>().ok()));
    Ok(match (what, number) {
        ("status", Some(status)) => whole(StatusCode::from_u16(u16::try_from(status).unwrap()).unwrap(), name),
        ("slow", Some(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            whole(StatusCode::OK, name)
        }
        ("count", Some(parts)) => {
            let parts = (0..parts).map(|n| Ok(Frame::data(Bytes::from(format!("{n},")))));
            Response::new(StreamBody::new(futures_util::stream::iter(parts)).boxed())
        }
        ("events", _) => {
            let events = futures_util::stream::unfold(0_u64, |n| async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((Ok(Frame::data(Bytes::from(format!("id: {n}\ndata: {}\n\n", "x".repeat(50))))), n + 1))
            });
            let mut answer = Response::new(StreamBody::new(Box::pin(events)).boxed());
            answer.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
            answer
        }
        ("trailers", _) => {
            let trailers = [("x-sum", "42")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
            let frames =
                vec![Ok(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers.into_iter().collect()))];
            let mut answer = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
            answer.headers_mut().insert("trailer", "x-sum".parse().unwrap());
            answer
        }
        ("grpc", Some(status)) => {
            let trailers = [("grpc-status".parse().unwrap(), status.to_string().parse().unwrap())];
            let frames =
                vec![Ok(Frame::data(Bytes::from("\0\0\0\0\0"))), Ok(Frame::trailers(trailers.into_iter().collect()))];
            let mut answer = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed());
            answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            answer
        }
        ("grpc-alone", Some(status)) => {
            let mut answer = whole(StatusCode::OK, "");
            answer.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
            answer.headers_mut().insert("grpc-status", status.to_string().parse().unwrap());
            answer
        }
        ("upgrade", _) => {
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrading.await.unwrap());
                let mut bytes = [0; 4096];
                while let Ok(read) = stream.read(&mut bytes).await {
                    if read == 0 || stream.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
            });
            let mut answer = whole(StatusCode::SWITCHING_PROTOCOLS, "");
            answer.headers_mut().insert("connection", "upgrade".parse().unwrap());
            answer.headers_mut().insert("upgrade", request.headers()["upgrade"].clone());
            answer
        }
        _ => {
            let headers = request.headers().iter().map(|(n, v)| (n.to_string(), json!(v.to_str().unwrap())));
            let mut said = json!({
                "name": name,
                "method": request.method().as_str(),
                "target": request.uri().to_string(),
                "headers": headers.collect::<serde_json::Map<_, _>>(),
            });
            let body = request.into_body().collect().await;
            said["body"] = body.map_or(json!(null), |body| {
                let trailers: Vec<_> = body.trailers().iter().flat_map(|t| t.keys()).map(ToString::to_string).collect();
                json!({ "bytes": body.to_bytes().len(), "trailers": trailers })
            });
            whole(StatusCode::OK, said.to_string())
        }
    })
}

/// Anybody may choose, at any time, and counts.
const CHOICE: &str = "[migrations.shop.override]\nanyone = true\ntesters = true\nevidence = true";

/// What a site is made of.
struct Setup<'a> {
    v1: Vec<String>,
    v2: Vec<String>,
    /// Lines of `[host.http]`.
    http: &'a str,
    /// Lines of the migration.
    migration: &'a str,
    /// Who may choose a pool.
    choice: &'a str,
    /// Lines of both pools.
    pool: &'a str,
    /// Lines of `[host]`.
    host: &'a str,
    /// The share of V1's reads that is mirrored.
    mirrored: &'a str,
}

impl Setup<'_> {
    fn of(v1: &[&Upstream], v2: &[&Upstream]) -> Self {
        let urls = |upstreams: &[&Upstream]| upstreams.iter().map(|u| u.url()).collect();
        let migration = "match = [{ host = '*' }]";
        Self { v1: urls(v1), v2: urls(v2), http: "", migration, choice: CHOICE, pool: "", host: "", mirrored: "0%" }
    }

    fn text(&self) -> String {
        let shadowed = format!("shadow_share = '{0}', ramping_shadow_share = '{0}'", self.mirrored);
        format!(
            "[host]\ndata_plane = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nstore = 'test.db'\ncomponents = '{}'\npolicy_cache = '{}/policy-cache'\n{}\n\
             [host.http]\nthreads = 2\n{}\n\
             [migrations.shop]\ncheck_interval = '200ms'\n{}\n{}\n\
             [migrations.shop.v1]\nupstreams = {:?}\n{pool}\n[migrations.shop.v2]\nupstreams = {:?}\n{pool}\n\
             [migrations.shop.policies]\nrouting = {}\ncomparison = {}\nrollback = {}\nstages = {}\n",
            components().display(),
            env!("CARGO_TARGET_TMPDIR"),
            self.host,
            self.http,
            self.migration,
            self.choice,
            self.v1,
            self.v2,
            bundle("sticky-share", &shadowed),
            bundle("json-compare", ""),
            bundle("thresholds", "min_requests = 1000000, outage_requests = 0"),
            bundle("standard-stages", "shadow = { min_compared = 1000000000 }"),
            pool = self.pool,
        )
    }

    /// Starts a host in the shadow phase: the header `x-cutover-pool` says who serves.
    async fn start(&self) -> Site {
        let folder = TempDir::new().unwrap();
        let config = Config::parse(&self.text(), folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
        let app = App::start(config, binary()).await.unwrap();
        let site = Site { address: app.data_plane, app, _folder: folder };
        site.until_phase(Phase::Shadow).await;
        site
    }
}

/// A host that serves a migration of HTTP services.
struct Site {
    address: SocketAddr,
    app: App,
    _folder: TempDir,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: hyper::HeaderMap,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }
}

impl Site {
    async fn until_phase(&self, phase: Phase) {
        let mut handle = self.app.host.migrations["shop"].handle.clone();
        timeout(PATIENCE, async {
            while handle.snapshot().state.phase != phase {
                handle.changed().await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{phase:?} was not reached: {:#?}", handle.snapshot()));
    }

    async fn ask(&self, verb: CommandKind) {
        self.app.host.migrations["shop"].handle.ask(verb, "test", "because").await.unwrap();
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes over a connection of its own and reads all that comes back until it is closed.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        let mut reply = Vec::new();
        // A connection that is reset has said all that it will.
        drop(timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("the connection is closed"));
        String::from_utf8_lossy(&reply).into_owned()
    }

    async fn send<B>(&self, request: Request<B>) -> Reply
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        let response = self.open(request).await;
        let (parts, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect()).await.expect("a whole body").unwrap().to_bytes();
        Reply { status: parts.status.as_u16(), headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// Sends a request over a connection of its own, and does not wait for the body.
    async fn open<B>(&self, request: Request<B>) -> Response<Incoming>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync,
    {
        try_open(self.address, request).await.unwrap()
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(get(path, &[])).await
    }

    async fn get_from(&self, pool: &str, path: &str) -> Reply {
        self.send(get(path, &[("x-cutover-pool", pool)])).await
    }

    /// Calls of an operation that V1 or V2 had: all, failed, timed out, answered by V1 instead.
    async fn counted(&self, operation: &str, pool: usize, all: u64) -> (u64, u64, u64, u64) {
        let history = &self.app.host.migrations["shop"].history;
        let calls = || history.totals().operations.get(operation).cloned().unwrap_or_default()[pool].clone();
        eventually("the calls to be counted", async || (calls().requests >= all).then_some(())).await;
        let calls = calls();
        (calls.requests, calls.errors, calls.timeouts, calls.failed_over)
    }

    fn pool(&self, pool: usize) -> UpstreamPool {
        let split = &self.app.host.migrations["shop"].split;
        [&split.v1, &split.v2][pool].upstreams().unwrap().clone()
    }

    fn in_flight(&self, pool: usize) -> usize {
        self.pool(pool).in_flight()
    }
}

async fn try_open<B>(address: SocketAddr, request: Request<B>) -> hyper::Result<Response<Incoming>>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    timeout(PATIENCE, sender.send_request(request)).await.expect("an answer")
}

fn get(path: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::get(path).header("host", "shop.example");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "shop.example").body(Full::new(body.into())).unwrap()
}

/// A body that is sent part by part, as it is told.
fn told()
-> (mpsc::Sender<Bytes>, StreamBody<impl futures_util::Stream<Item = Result<Frame<Bytes>, std::convert::Infallible>>>) {
    let (parts, receiver) = mpsc::channel::<Bytes>(16);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|part| (Ok(Frame::data(part)), receiver))
    });
    (parts, StreamBody::new(stream))
}

/// Something that tests wait for.
fn signal() -> (Arc<Notify>, Arc<Notify>) {
    let notify = Arc::new(Notify::new());
    (Arc::clone(&notify), notify)
}
