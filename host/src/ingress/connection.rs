//! One connection: TLS, HTTP/1.1 or HTTP/2, its requests, and its end.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode, Version,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::TRANSFER_ENCODING,
    server::conn::{http1, http2},
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ends, Settings,
    carry::Carried,
    operations,
    plain::{Ended, Plain},
    strict,
    table::Table,
    watch::{Active, Order, Pulse, Watch, Watched},
};
use crate::{
    clock,
    http1::{MAX_FIELDS, MAX_HEAD},
    load::{Load, Room, Served},
    message::ReplyHead,
    pool::upstream::{Outgoing, upload::Upload},
    proxy::{
        Cut, Received, Reply, ReplyBody, Scene,
        headers::{self, Caller},
        path::Form,
        refuse, refuse_malformed,
    },
};

/// How long to wait when no connection can be accepted: for descriptors to come back, as a rule.
const BREATH: Duration = Duration::from_millis(50);

/// The largest list of fields of a request of HTTP/2; as large as heads of HTTP/1.1.
const MAX_LIST: u32 = 64 << 10;

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
    pub(super) ends: Ends,
    /// Where connections go that leave.
    pub(super) leaving: mpsc::Sender<Carried>,
    /// Calls of operations, of all threads.
    pub(super) calls: TaskTracker,
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
    /// Accepts until it is told to end or to give its connections away, then lets requests end. `carried` are
    /// connections of another host.
    pub(super) async fn serve(self, sockets: Vec<TcpListener>, carried: mpsc::Receiver<Carried>) {
        let this = Arc::new(self);
        this.tasks.spawn(Arc::clone(&this).adopt(carried));
        for socket in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => drop(this.tasks.spawn(Arc::clone(&this).accept(listener))),
                Err(error) => tracing::error!(%error, "a listening socket cannot be used"),
            }
        }
        let done = CancellationToken::new();
        let end = async {
            this.ends.begun().await;
            this.tasks.close();
            this.tasks.wait().await;
            done.cancel();
        };
        tokio::join!(end, this.watch.run(&this.settings, &this.ends, &done));
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.connections).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = self.ends.begun() => return,
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

    /// Takes in what another host carries over, until it is done; also while this one gives its own away: then what
    /// comes in goes out.
    async fn adopt(self: Arc<Self>, mut carried: mpsc::Receiver<Carried>) {
        loop {
            let next = async {
                let carried = carried.recv().await?;
                Some((Arc::clone(&self.connections).acquire_owned().await, carried))
            };
            let next = tokio::select! {
                () = self.ends.shutdown.cancelled() => return,
                next = next => next,
            };
            let Some((permit, carried)) = next else { return };
            let this = Arc::clone(&self);
            self.tasks.spawn(async move {
                match carried.open() {
                    Ok((stream, peer, _, true)) => this.connection(stream, peer).await,
                    Ok((stream, peer, read, false)) => {
                        this.http1(stream, read, Arc::new(Caller::new(peer.ip(), false))).await;
                    }
                    Err(error) => tracing::debug!(%error, "a connection was closed while it was carried over"),
                }
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
                () = self.ends.shutdown.cancelled() => return,
                () = self.ends.leave.cancelled() => return self.give_away(Carried::new(stream)).await,
            };
            // It sent nothing, or went away.
            let Ok(Ok(http2)) = begun else { return };
            if http2 {
                self.http2(stream, caller).await;
            } else {
                self.http1(stream, Bytes::new(), caller).await;
            }
            return;
        };
        match timeout(self.settings.header_timeout, TlsAcceptor::from(tls.config()).accept(stream)).await {
            Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => self.http2(stream, caller).await,
            Ok(Ok(stream)) => drop(self.serve_http1(stream, Bytes::new(), caller, false).await),
            Ok(Err(error)) => tracing::debug!(%error, "TLS failed"),
            Err(_elapsed) => tracing::debug!("TLS took too long"),
        }
    }

    /// HTTP/1.1 without TLS: such a connection can be given away between two requests.
    async fn http1(self: &Arc<Self>, stream: TcpStream, before: Bytes, caller: Arc<Caller>) {
        if let Some((stream, read)) = self.serve_http1(stream, before, caller, true).await {
            self.give_away(Carried::between_requests(stream, read)).await;
        }
    }

    async fn give_away(&self, carried: io::Result<Carried>) {
        match carried {
            // If nobody is there to take it, it is closed.
            Ok(carried) => drop(self.leaving.send(carried).await),
            Err(error) => tracing::debug!(%error, "a connection cannot be given away"),
        }
    }

    /// Serves a stream of which some bytes were read `before`. What is left of it, if it leaves.
    async fn serve_http1<S>(
        self: &Arc<Self>,
        stream: S,
        before: Bytes,
        caller: Arc<Caller>,
        can_leave: bool,
    ) -> Option<(S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pulse = Arc::new(Pulse::new(clock::mono(), can_leave));
        self.watch.add(&pulse);
        let mut plain = Plain::new(Watched::new(stream, before, Arc::clone(&pulse)), Arc::clone(&pulse));
        let guarded = {
            let serving = plain.run(|request, active| self.answer_plain(request, &caller, active));
            // It looks itself whether it is to end.
            guard(pin!(serving), &pulse, |_serving| {}).await
        };
        match guarded {
            Guarded::Left => return Some(plain.into_parts()),
            Guarded::Closed | Guarded::Ended(Ended::Over) => return None,
            Guarded::Ended(Ended::Other) => {}
        }
        let (stream, before) = plain.into_parts();
        // Apart: most connections never need the room that this takes.
        Box::pin(self.serve_any_http1(Watched::new(stream, before, Arc::clone(&pulse)), pulse, caller)).await
    }

    /// Serves whatever HTTP/1.1 has.
    async fn serve_any_http1<S>(
        self: &Arc<Self>,
        io: Watched<S>,
        pulse: Arc<Pulse>,
        caller: Arc<Caller>,
    ) -> Option<(S, Bytes)>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let service = service_fn(|request: Request<Incoming>| {
            let (this, caller, active) = (Arc::clone(self), Arc::clone(&caller), pulse.begin());
            async move { Ok::<_, Infallible>(this.answer(request, &caller, active).await) }
        });
        let mut http = http1::Builder::new();
        http.max_headers(MAX_FIELDS).max_header_size(MAX_HEAD);
        let mut connection = http.serve_connection(TokioIo::new(io), service).with_upgrades();
        let guarded = guard(Pin::new(&mut connection), &pulse, http1::UpgradeableConnection::graceful_shutdown).await;
        end(&pulse, &guarded);
        let parts = connection.into_parts().filter(|_| matches!(guarded, Guarded::Left))?;
        let (stream, rest) = parts.io.into_inner().into_parts();
        let read = if rest.is_empty() { parts.read_buf } else { [parts.read_buf, rest].concat().into() };
        Some((stream, read))
    }

    async fn http2<S>(self: &Arc<Self>, stream: S, caller: Arc<Caller>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pulse = Arc::new(Pulse::new(clock::mono(), false));
        let io = TokioIo::new(Watched::new(stream, Bytes::new(), Arc::clone(&pulse)));
        let service = service_fn(|request: Request<Incoming>| {
            let (this, caller, active) = (Arc::clone(self), Arc::clone(&caller), pulse.begin());
            async move { Ok::<_, Infallible>(this.answer(request, &caller, active).await) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_LIST);
        let connection = pin!(http.serve_connection(io, service));
        self.watch.add(&pulse);
        end(&pulse, &guard(connection, &pulse, http2::Connection::graceful_shutdown).await);
    }

    /// Answers a request that wants nothing but an answer.
    async fn answer_plain(&self, request: Outgoing, caller: &Caller, active: Active) -> (ReplyHead, Counted) {
        let (served, room) = self.load.enter();
        let Reply { head, body } = if room == Room::None {
            overloaded()
        } else {
            self.route(Received { request, progress: None, upgrade: None }, (caller, room)).await
        };
        (head, Counted { body, _active: active, _served: served })
    }

    async fn answer(&self, mut request: Request<Incoming>, caller: &Caller, active: Active) -> Response<Counted> {
        let (served, room) = self.load.enter();
        let is_http2_head = request.version() == Version::HTTP_2 && request.method() == Method::HEAD;
        let verified = strict::verify(request.version(), request.headers_mut());
        // Who sends a length besides chunks may mean to hide a request behind this one: its connection is not used again
        // (RFC 9112, 6.3). The parser has dropped the length by now, so that cannot be told apart.
        let was_chunked = request.version() == Version::HTTP_11 && request.headers().contains_key(TRANSFER_ENCODING);
        // Also of one that is refused it has to be known whether the rest of its body comes.
        let received = receive(request, &active);
        let Reply { mut head, mut body } = match verified {
            Err(refused) => refused.reply(),
            Ok(()) if room == Room::None => overloaded(),
            Ok(()) => self.route(received, (caller, room)).await,
        };
        if was_chunked {
            head.fields.set("connection", "close");
        }
        if is_http2_head {
            // Hyper would send it, and the caller take that for a breach of the protocol.
            if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
                head.fields.set("content-length", length.to_string());
            }
            body = ReplyBody::whole("");
        }
        Response::from_parts(head.into_parts(), Counted { body, _active: active, _served: served })
    }

    async fn route(&self, received: Received, (caller, room): (&Caller, Room)) -> Reply {
        let path = received.request.head.uri.path();
        if let Some((route, operation)) = operations::find(&self.table.operations, path) {
            let (route, operation) = (route.clone(), operation.to_owned());
            let scene = operations::Scene { room, tasks: &self.tasks, under_way: self.calls.token() };
            return Box::pin(operations::answer(received.request, &route, &operation, scene)).await;
        }
        self.pass(received, (caller, room)).await
    }

    /// Passes a request on to the migration that it belongs to.
    async fn pass(&self, mut received: Received, (caller, room): (&Caller, Room)) -> Reply {
        let head = &mut *received.request.head;
        if let Err(malformed) = headers::host(head) {
            return refuse_malformed(malformed);
        }
        let form = Form::of(head.uri.path());
        let name = head.fields.text("host").unwrap_or_default();
        let Some(proxy) = self.table.find(name, form.or_as_it_came(head.uri.path()), &head.fields) else {
            return operations::nothing_here(&self.table.operations, head.uri.path());
        };
        proxy.serve(received, Scene { caller, form: &form, room, tasks: &self.tasks }).await
    }
}

/// A request that hyper has read.
fn receive(mut request: Request<Incoming>, active: &Active) -> Received {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (parts, body) = request.into_parts();
    let is_http2 = parts.version == Version::HTTP_2;
    let (body, progress) = Upload::of(body, is_http2, |progress| Box::new(active.arriving(progress)));
    let request = Outgoing { head: Box::new(parts.into()), body, interims: None };
    Received { request, progress, upgrade }
}

/// How a connection was driven.
enum Guarded<T> {
    /// To its end.
    Ended(T),
    /// Until it could be given away.
    Left,
    /// Until it was told to close.
    Closed,
}

/// Drives a connection, and does with it what it is told. It is given away only when nothing is under way.
async fn guard<C: Future>(
    mut connection: Pin<&mut C>,
    pulse: &Pulse,
    end: impl FnOnce(Pin<&mut C>),
) -> Guarded<C::Output> {
    let mut end = Some(end);
    poll_fn(|cx| {
        let order = pulse.order(cx);
        match order {
            Order::GoOn | Order::Leave => {}
            Order::End => {
                if let Some(end) = end.take() {
                    // First it takes what was read before it began: that may be a part of a request.
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Guarded::Ended(ended));
                    }
                    end(connection.as_mut());
                }
            }
            Order::Close => return Poll::Ready(Guarded::Closed),
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Guarded::Ended(ended)),
            Poll::Pending if order == Order::Leave && pulse.can_go() => {
                // Of a body that nobody wants hyper learns when it is polled next: it reads the rest that is here, or closes. It
                // may come to another request then.
                while pulse.was_torn() {
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Guarded::Ended(ended));
                    }
                    if !pulse.can_go() {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Guarded::Left)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A connection of hyper's has ended.
fn end(pulse: &Pulse, guarded: &Guarded<hyper::Result<()>>) {
    if let Guarded::Ended(ended) = guarded {
        pulse.has_ended();
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}

fn overloaded() -> Reply {
    let message = "the host serves as many requests as it may; try again later";
    refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", message)
}

/// Whether a connection begins as one of HTTP/2 does.
async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        stream.readable().await?;
        let got = stream.peek(&mut start).await?;
        let begun = start.get(..got).unwrap_or_default();
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
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
