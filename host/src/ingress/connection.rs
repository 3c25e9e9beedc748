//! One connection: TLS, HTTP/1.1 or HTTP/2, its requests, and its end.

use std::{
    convert::Infallible,
    future::poll_fn,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response, StatusCode, Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{CONNECTION, HeaderValue, TRANSFER_ENCODING},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Settings, operations,
    table::Table,
    watch::{Active, Order, Pulse, Watch, Watched},
};
use crate::{
    clock,
    load::{Load, Room, Served},
    proxy::{
        Cut, Reply, ReplyBody, Scene,
        headers::{self, Caller},
        refuse, refuse_malformed,
    },
};

/// How long to wait when no connection can be accepted: for descriptors to come back, as a rule.
const BREATH: Duration = Duration::from_millis(50);

/// The largest head. nginx takes 32 KiB, `HAProxy` 16.
const MAX_HEAD: u32 = 64 << 10;

/// Fields of a head.
const MAX_FIELDS: usize = 128;

/// Streams of one connection of HTTP/2 that are open at once.
const MAX_STREAMS: u32 = 128;

/// How a connection of HTTP/2 begins (RFC 9113, 3.4): with a method that no request of HTTP/1.1 may have.
const PREFACE: &[u8] = b"PRI";

/// What one thread serves.
pub(super) struct Serving {
    pub(super) table: Arc<Table>,
    pub(super) settings: Settings,
    pub(super) load: Arc<Load>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) shutdown: CancellationToken,
    /// Connections of this thread, and requests that outlive them.
    pub(super) tasks: TaskTracker,
    pub(super) watch: Watch,
}

/// A body that counts as served until it has been sent.
struct Counted {
    body: ReplyBody,
    _active: Active,
    _served: Served,
}

impl Serving {
    /// Accepts until the shutdown, then lets requests end.
    pub(super) async fn serve(self, sockets: Vec<TcpListener>) {
        let this = Arc::new(self);
        for socket in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => drop(this.tasks.spawn(Arc::clone(&this).accept(listener))),
                Err(error) => tracing::error!(%error, "a listening socket cannot be used"),
            }
        }
        let done = CancellationToken::new();
        let end = async {
            this.shutdown.cancelled().await;
            this.tasks.close();
            this.tasks.wait().await;
            done.cancel();
        };
        tokio::join!(end, this.watch.run(&this.settings, &this.shutdown, &done));
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = accepted => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let this = Arc::clone(&self);
            self.tasks.spawn(async move {
                this.connection(stream, peer).await;
                drop(permit);
            });
        }
    }

    async fn connection(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // What is written must not wait for what was written before to be acknowledged.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let caller = Arc::new(Caller::new(peer.ip(), self.settings.tls.is_some()));
        let Some(tls) = &self.settings.tls else {
            let begun = tokio::select! {
                begun = timeout(self.settings.header_timeout, is_http2(&stream)) => begun,
                () = self.shutdown.cancelled() => return,
            };
            // It sent nothing, or went away.
            let Ok(Ok(http2)) = begun else { return };
            return self.http(stream, caller, http2).await;
        };
        match timeout(self.settings.header_timeout, TlsAcceptor::from(Arc::clone(tls)).accept(stream)).await {
            Ok(Ok(stream)) => {
                let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                self.http(stream, caller, http2).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "TLS failed"),
            Err(_elapsed) => tracing::debug!("TLS took too long"),
        }
    }

    async fn http<S>(self: &Arc<Self>, stream: S, caller: Arc<Caller>, is_http2: bool)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pulse = Arc::new(Pulse::new(clock::mono()));
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&pulse)));
        let service = service_fn(|request: Request<Incoming>| {
            let (this, caller, active) = (Arc::clone(self), Arc::clone(&caller), pulse.begin());
            async move { Ok::<_, Infallible>(this.answer(request, &caller, active).await) }
        });
        if is_http2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_HEAD);
            let connection = pin!(http.serve_connection(io, service));
            self.guard(connection, &pulse, http2::Connection::graceful_shutdown).await;
        } else {
            let mut http = http1::Builder::new();
            http.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD as usize);
            let connection = pin!(http.serve_connection(io, service).with_upgrades());
            self.guard(connection, &pulse, http1::UpgradeableConnection::graceful_shutdown).await;
        }
    }

    /// Drives a connection, and does with it what it is told.
    async fn guard<C>(&self, mut connection: Pin<&mut C>, pulse: &Arc<Pulse>, end: impl FnOnce(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        self.watch.add(pulse);
        let mut end = Some(end);
        poll_fn(|cx| {
            match pulse.order(cx) {
                Order::GoOn => {}
                Order::End => {
                    if let Some(end) = end.take() {
                        end(connection.as_mut());
                    }
                }
                Order::Close => return Poll::Ready(()),
            }
            connection.as_mut().poll(cx).map(|ended| {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
            })
        })
        .await;
    }

    async fn answer(&self, request: Request<Incoming>, caller: &Caller, active: Active) -> Response<Counted> {
        let (served, room) = self.load.enter();
        // Who sends a length besides chunks may mean to hide a request behind this one: its connection is not used again
        // (RFC 9112, 6.3). The parser has dropped the length by now, so that cannot be told apart.
        let was_chunked = request.version() == Version::HTTP_11 && request.headers().contains_key(TRANSFER_ENCODING);
        let mut reply = if room == Room::None {
            refuse(
                StatusCode::SERVICE_UNAVAILABLE,
                "overload",
                "the host serves as many requests as it may; try again later",
            )
        } else {
            self.route(request, caller, room).await
        };
        if was_chunked {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply.map(|body| Counted { body, _active: active, _served: served })
    }

    async fn route(&self, request: Request<Incoming>, caller: &Caller, room: Room) -> Reply {
        if let Some((route, operation)) = operations::find(&self.table.operations, request.uri().path()) {
            let (route, operation) = (route.clone(), operation.to_owned());
            return Box::pin(operations::answer(request, &route, &operation, &self.tasks)).await;
        }
        let (mut parts, body) = request.into_parts();
        let host = match headers::host(&mut parts) {
            Ok(host) => host,
            Err(malformed) => return refuse_malformed(malformed),
        };
        let name = host.to_str().unwrap_or_default();
        let Some(proxy) = self.table.find(name, parts.uri.path(), &parts.headers) else {
            return operations::nothing_here(&self.table.operations, parts.uri.path());
        };
        let scene = Scene { host: &host, caller, room, tasks: &self.tasks };
        proxy.serve((parts, body), scene).await
    }
}

/// Whether a connection begins as one of HTTP/2 does.
async fn is_http2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        stream.readable().await?;
        let got = stream.peek(&mut start).await?;
        let begun = start.get(..got).unwrap_or_default();
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if begun == PREFACE {
            return Ok(true);
        }
        if !PREFACE.starts_with(begun) {
            return Ok(false);
        }
        // `P` may become a `POST`: what comes next is not announced, because there is something to read already.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
