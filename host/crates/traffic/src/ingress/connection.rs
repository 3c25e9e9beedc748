//! One connection: TLS, HTTP/1.1 or HTTP/2, its requests, and its end.

use std::{
    convert::Infallible,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
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
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Ends, Settings, extended,
    guard::{Guarded, end, guard},
    operations,
    proxied::Peer,
    strict,
    table::Table,
    tls::Tls,
    watched::Watched,
};
use crate::{
    http1::{MAX_FIELDS, MAX_HEAD},
    ingress::{
        activity::{Active, ConnectionActivity, Shortage},
        fast_path::{Ended, Plain},
        reaper::{IdleReaper, make_room},
        transfer::Carried,
    },
    load::{FULL, Load, Room, Served},
    message::{ReplyHead, RequestHead},
    pace::Pace,
    pool::upstream::{Outgoing, upload::Upload},
    proxy::{
        Cut, Received, Reply, ReplyBody, Scene, Upgrading,
        headers::{self, Caller},
        is_stream,
        path::Form,
        refuse, refuse_malformed,
    },
    proxy_protocol,
};
use cutover_model::clock;

/// How long to wait when no connection can be accepted: for descriptors to come back, as a rule.
const BREATH: Duration = Duration::from_millis(50);

/// What a caller has for its first request to arrive before its connection may have to make room for another.
const YOUNG: Duration = Duration::from_millis(100);

/// The largest list of fields of a request of HTTP/2; as large as heads of HTTP/1.1.
const MAX_LIST: u32 = 64 << 10;

/// Streams of one connection of HTTP/2 that are open at once.
const MAX_STREAMS: u32 = 128;

/// Where a connection leads of which the system does not say it.
const UNKNOWN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What one thread serves.
pub(super) struct Serving {
    pub(super) table: Arc<Table>,
    pub(super) settings: Settings,
    pub(super) load: Arc<Load>,
    pub(super) connections: Arc<Semaphore>,
    pub(super) ends: Ends,
    /// Takes the connections that are given away.
    pub(super) leaving: mpsc::Sender<Carried>,
    /// Calls of operations, of all threads.
    pub(super) calls: TaskTracker,
    /// Connections of this thread, and requests that outlive them.
    pub(super) tasks: TaskTracker,
    /// The connections of this thread.
    pub(super) watch: Arc<IdleReaper>,
    /// The connections of all threads.
    pub(super) watches: Arc<[Arc<IdleReaper>]>,
    pub(super) shortage: Arc<Shortage>,
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
        tokio::join!(end, this.watch.run(&this.ends, &done));
    }

    async fn accept(self: Arc<Self>, listener: tokio::net::TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.ends.begun() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let permit = tokio::select! {
                permit = self.room() => permit,
                () = self.ends.shutdown.cancelled() => return,
                () = self.ends.leave.cancelled() => return self.give_away(Carried::over(stream, Bytes::new(), true)).await,
            };
            match &self.settings.proxied {
                None => self.connection(stream, Peer::direct(peer), (Bytes::new(), true), permit),
                Some(trusted) => {
                    drop(self.tasks.spawn(Arc::clone(&self).proxied(stream, peer, Arc::clone(trusted), permit)));
                }
            }
        }
    }

    /// Takes in what another host carries over, until it is done; also while this one gives its own away: then what
    /// comes in goes out.
    async fn adopt(self: Arc<Self>, mut carried: mpsc::Receiver<Carried>) {
        loop {
            let next = async {
                let carried = carried.recv().await?;
                Some((self.room().await, carried))
            };
            let next = tokio::select! {
                () = self.ends.shutdown.cancelled() => return,
                next = next => next,
            };
            let Some((permit, carried)) = next else { return };
            match carried.open() {
                Ok((stream, peer, read, is_new)) => match &self.settings.proxied {
                    Some(trusted) if is_new && read.is_empty() => {
                        let (this, trusted) = (Arc::clone(&self), Arc::clone(trusted));
                        self.tasks.spawn(this.proxied(stream, peer, trusted, permit));
                    }
                    _ => self.connection(stream, Peer::direct(peer), (read, is_new), permit),
                },
                Err(error) => tracing::debug!(%error, "a connection was closed while it was carried over"),
            }
        }
    }

    /// A place for a connection. If all are taken, those make room that only wait for their callers, now and until there
    /// is one.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = self.shortage.begins();
        loop {
            make_room(&self.watches, &self.shortage, YOUNG, clock::mono());
            tokio::select! {
                permit = Arc::clone(&self.connections).acquire_owned() => return permit.ok(),
                () = tokio::time::sleep(YOUNG) => {}
            }
        }
    }

    /// Serves a connection of which some bytes were read before, in a task of its own; no request has come over one that is
    /// new.
    pub(super) fn connection(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: Peer,
        (read, is_new): (Bytes, bool),
        permit: Option<OwnedSemaphorePermit>,
    ) {
        // What is written must not wait for what was written before to be acknowledged.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        // What has begun without TLS goes on so.
        let tls = self.settings.tls.as_ref().filter(|_| is_new && read.is_empty());
        let to = peer.to.or_else(|| stream.local_addr().ok()).unwrap_or(UNKNOWN);
        let caller = Caller::new(proxy_protocol::Ends { source: peer.address, destination: to }, tls.is_some());
        // A caller that has shown no certificate must not say what one would.
        let fields = self.settings.tls.as_ref().map(Tls::fields).filter(|fields| !fields.is_empty());
        let caller = Arc::new(match fields {
            None => caller,
            Some(fields) => caller.vouched(fields.of(None)),
        });
        if let Some(tls) = tls {
            let (this, accepting) = (Arc::clone(self), TlsAcceptor::from(tls.config()).accept(stream));
            self.tasks.spawn(async move {
                let _permit = permit;
                this.tls(accepting, caller).await;
            });
            return;
        }
        let pulse = self.watch.add(peer.is_direct, is_new);
        let plain = Plain::new(Watched::new(stream, read, Arc::clone(&pulse)), pulse);
        self.tasks.spawn(Arc::clone(self).plain(plain, caller, permit));
    }

    /// Serves HTTP/1.1 without TLS, which can be given away between two requests, or what it becomes. Most connections are
    /// of this kind and wait most of the time, so this keeps little.
    async fn plain(
        self: Arc<Self>,
        mut plain: Plain<TcpStream>,
        caller: Arc<Caller>,
        _permit: Option<OwnedSemaphorePermit>,
    ) {
        match self.drive(&mut plain, &caller).await {
            Guarded::Closed | Guarded::Ended(Ended::Over) => {}
            left @ (Guarded::Left | Guarded::Ended(Ended::Http2 | Ended::Other)) => {
                // Apart: most connections never need the room that this takes.
                Box::pin(self.go_on(plain, left, caller)).await;
            }
        }
    }

    async fn tls(self: &Arc<Self>, accepting: tokio_rustls::Accept<TcpStream>, caller: Arc<Caller>) {
        let pulse = self.watch.add(false, true);
        pulse.head_began();
        let accepted = match guard(pin!(accepting), &pulse, |_accepting| {}).await {
            Guarded::Ended(Ok(accepted)) => accepted,
            Guarded::Ended(Err(error)) => return tracing::debug!(%error, "TLS failed"),
            Guarded::Closed | Guarded::Left => return tracing::debug!("TLS took too long"),
        };
        pulse.is_known(clock::mono());
        let (_, tls) = accepted.get_ref();
        let shown = tls.peer_certificates().and_then(|shown| shown.first());
        let fields = self.settings.tls.as_ref().map(Tls::fields).filter(|fields| !fields.is_empty());
        let caller = match (fields, shown) {
            (Some(fields), Some(shown)) => Arc::new(Caller::clone(&caller).vouched(fields.of(Some(shown)))),
            _ => caller,
        };
        if accepted.get_ref().1.alpn_protocol() == Some(b"h2") {
            return Box::pin(self.http2(accepted, Bytes::new(), (&pulse, caller))).await;
        }
        let mut plain = Plain::new(Watched::new(accepted, Bytes::new(), Arc::clone(&pulse)), Arc::clone(&pulse));
        if let Guarded::Ended(Ended::Other | Ended::Http2) = self.drive(&mut plain, &caller).await {
            let (stream, before) = plain.into_parts();
            let io = Watched::new(stream, before, Arc::clone(&pulse));
            drop(Box::pin(self.serve_any_http1(io, pulse, caller)).await);
        }
    }

    /// Serves what a connection goes on as that is not plain any more, or gives it away.
    async fn go_on(self: &Arc<Self>, plain: Plain<TcpStream>, left: Guarded<Ended>, caller: Arc<Caller>) {
        let pulse = plain.pulse();
        let (stream, before) = plain.into_parts();
        let left = match left {
            Guarded::Left => Some((stream, before)),
            Guarded::Ended(Ended::Other) => {
                self.serve_any_http1(Watched::new(stream, before, Arc::clone(&pulse)), Arc::clone(&pulse), caller).await
            }
            Guarded::Ended(Ended::Http2) => {
                pulse.stays();
                self.http2(stream, before, (&pulse, caller)).await;
                None
            }
            Guarded::Ended(Ended::Over) | Guarded::Closed => None,
        };
        if let Some((stream, read)) = left {
            self.give_away(Carried::over(stream, read, pulse.is_pending())).await;
        }
    }

    async fn drive<S>(&self, plain: &mut Plain<S>, caller: &Caller) -> Guarded<Ended>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let pulse = plain.pulse();
        let serving = plain.run(|request, active| self.answer_plain(request, caller, active));
        // It looks itself whether it is to end.
        guard(pin!(serving), &pulse, |_serving| {}).await
    }

    async fn give_away(&self, carried: io::Result<Carried>) {
        match carried {
            // If no host takes it, it is closed.
            Ok(carried) => drop(self.leaving.send(carried).await),
            Err(error) => tracing::debug!(%error, "a connection cannot be given away"),
        }
    }

    /// Serves whatever HTTP/1.1 has.
    async fn serve_any_http1<S>(
        self: &Arc<Self>,
        io: Watched<S>,
        pulse: Arc<ConnectionActivity>,
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

    async fn http2<S>(
        self: &Arc<Self>,
        stream: S,
        before: Bytes,
        (pulse, caller): (&Arc<ConnectionActivity>, Arc<Caller>),
    ) where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(Watched::new(stream, before, Arc::clone(pulse)));
        let service = service_fn(|request: Request<Incoming>| {
            let (this, caller, active) = (Arc::clone(self), Arc::clone(&caller), pulse.begin());
            async move { Ok::<_, Infallible>(this.answer(request, &caller, active).await) }
        });
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS).max_header_list_size(MAX_LIST);
        http.enable_connect_protocol();
        let connection = pin!(http.serve_connection(io, service));
        end(pulse, &guard(connection, pulse, http2::Connection::graceful_shutdown).await);
    }

    /// Answers a request that wants nothing but an answer.
    async fn answer_plain(&self, request: Outgoing, caller: &Caller, active: Active) -> (ReplyHead, Counted) {
        let (served, room) = self.load.enter();
        let Reply { head, body } = if room == Room::None {
            overloaded()
        } else {
            self.route(Received { request, progress: None, upgrade: None }, (caller, &served, room)).await
        };
        (head, Counted { body, _active: active, _served: served })
    }

    async fn answer(&self, mut request: Request<Incoming>, caller: &Caller, active: Active) -> Response<Counted> {
        let (served, room) = self.load.enter();
        let is_http2_head = request.version() == Version::HTTP_2 && request.method() == Method::HEAD;
        let verified = strict::verify(request.version(), request.headers_mut());
        let is_extended = extended::to_upgrade(&mut request, || fastrand::u128(..));
        // A caller that sends a length besides chunks may hide a request behind this one: its connection is not used
        // again
        // (RFC 9112, 6.3). The parser has dropped the length by now, so that cannot be told apart.
        let was_chunked = request.version() == Version::HTTP_11 && request.headers().contains_key(TRANSFER_ENCODING);
        // Also of one that is refused it has to be known whether the rest of its body comes.
        let received = receive(request, self.settings.limits.pace, &active);
        let reply = match verified {
            Err(refused) => refused.reply(),
            Ok(()) if room == Room::None => overloaded(),
            Ok(()) => self.route(received, (caller, &served, room)).await,
        };
        let Reply { mut head, mut body } = if is_extended { extended::to_answer(reply) } else { reply };
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

    async fn route(&self, received: Received, (caller, served, room): (&Caller, &Served, Room)) -> Reply {
        let path = received.request.head.uri.path();
        if let Some((route, operation)) = operations::find(&self.table.operations, path) {
            let (route, operation) = (route.clone(), operation.to_owned());
            let scene = operations::Scene { served, room, tasks: &self.tasks, under_way: self.calls.token() };
            return Box::pin(operations::answer(received.request, &route, &operation, scene)).await;
        }
        self.pass(received, (caller, served, room)).await
    }

    /// Passes a request on to the migration that it belongs to.
    async fn pass(&self, mut received: Received, (caller, served, room): (&Caller, &Served, Room)) -> Reply {
        let head = &mut *received.request.head;
        if let Err(malformed) = headers::host(head) {
            return refuse_malformed(malformed);
        }
        let form = Form::of(head.uri.path());
        let name = head.fields.text("host").unwrap_or_default();
        let Some(proxy) = self.table.find(name, form.or_as_it_came(head.uri.path()), &head.fields) else {
            return operations::nothing_here(&self.table.operations, head.uri.path());
        };
        proxy.serve(received, Scene { caller, form: &form, served, room, tasks: &self.tasks }).await
    }
}

/// A request that hyper has read.
fn receive(mut request: Request<Incoming>, pace: Pace, active: &Active) -> Received {
    let connection = request.extensions_mut().remove::<OnUpgrade>();
    let (parts, body) = request.into_parts();
    let is_http2 = parts.version == Version::HTTP_2;
    // The connection goes on with other requests, and is not idle while this one goes on as something else.
    let upgrade = connection.map(|connection| Upgrading {
        connection,
        hold: is_http2.then(|| Box::new(active.another()) as Box<dyn fmt::Debug + Send>),
    });
    let head: Box<RequestHead> = Box::new(parts.into());
    // Streams of gRPC may be silent for as long as there is nothing to say.
    let pace = if is_stream(&head) { Pace::NONE } else { pace };
    let (body, progress) = Upload::of(body, is_http2, pace, |progress| Box::new(active.arriving(progress)));
    Received { request: Outgoing { head, body, interims: None, ends: None }, progress, upgrade }
}

fn overloaded() -> Reply {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", FULL)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ingress::reaper::Limits, pace::Pace};

    /// What a connection may take of memory while it waits, in bytes, besides what the runtime keeps of it.
    const MOST: usize = 704;

    fn serving() -> Arc<Serving> {
        let limits = Limits {
            header_timeout: Duration::from_secs(1),
            keep_alive: Duration::from_secs(1),
            send_timeout: Duration::from_secs(1),
            pace: Pace::NONE,
        };
        let settings = Settings {
            threads: 1,
            max_connections: 1,
            max_pending: 1,
            max_in_flight: 1,
            limits,
            proxied: None,
            tls: None,
        };
        let shortage = Arc::<Shortage>::default();
        let watch = Arc::new(IdleReaper::new(limits, 1, Arc::clone(&shortage)));
        Arc::new(Serving {
            table: Arc::default(),
            settings,
            load: Arc::new(Load::new(1)),
            connections: Arc::new(Semaphore::new(1)),
            ends: Ends::default(),
            leaving: mpsc::channel(1).0,
            calls: TaskTracker::new(),
            tasks: TaskTracker::new(),
            watches: Arc::from([Arc::clone(&watch)]),
            watch,
            shortage,
        })
    }

    #[tokio::test]
    async fn a_connection_that_waits_takes_little_memory() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = stream.peer_addr().unwrap();
        let serving = serving();
        let pulse = serving.watch.add(true, true);
        let plain = Plain::new(Watched::new(stream, Bytes::new(), Arc::clone(&pulse)), pulse);
        let caller = Caller::new(proxy_protocol::Ends { source: peer, destination: peer }, false);
        let size = size_of_val(&Arc::clone(&serving).plain(plain, Arc::new(caller), None));
        assert!(size <= MOST, "{size} bytes");
    }
}
