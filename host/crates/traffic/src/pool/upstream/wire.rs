//! A connection of HTTP/1.1 to an upstream, for one request at a time, in the request's own task.
//!
//! Most requests have no body, or one that is already here. For them a task for each connection, and the channels
//! between the two, would cost more than everything else that the host does for a request. Requests whose bodies are
//! still coming, and those that ask to change the protocol, go to hyper, which can read and write at once: a connection
//! that waits has no state, so it can be handed over ([`Wire::into_stream`]). The syntax is that of RFC 9112;
//! `httparse` reads heads and the sizes of chunks.

mod body;
mod framing;
mod head;

use std::{
    cell::Cell,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use futures_util::task::AtomicWaker;
use hyper::Method;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;
use tokio_util::io::poll_read_buf;

pub use self::body::{AnswerBody, Torn};
use self::{body::Rest, framing::Step, head::Answer};
use super::{Outgoing, interim::Interims, resolve::Origin};
use crate::{
    descriptors::OfUpstream,
    http1::{MAX_HEAD, may_end},
    message::{ReplyHead, rules::Rules},
    read_buffer,
};

thread_local! {
    /// Where heads are written: for all connections of a thread, so that it stays in the processor's cache.
    static WRITE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Read at once, at least.
const READ: usize = 8 << 10;

/// Read at once of a long body.
const READ_MORE: usize = 64 << 10;

/// The stream of a connection, with the descriptor that it counts as.
pub(super) struct Stream {
    pub(super) over: Over,
    pub(super) _descriptor: OfUpstream,
}

pub(super) enum Over {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection of HTTP/1.1 that is read and written here.
pub(super) struct Wire {
    stream: Stream,
    read: BytesMut,
    cut: Arc<Cut>,
    origin: Origin,
}

/// Ends a connection from outside.
#[derive(Debug, Default)]
pub(super) struct Cut {
    is_cut: AtomicBool,
    waker: AtomicWaker,
}

/// Why an exchange over a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The upstream closed the connection before the end of its answer.
    #[error("the connection was closed before the answer was whole")]
    Closed,
    /// The connection was cut from here.
    #[error("the connection was cut")]
    Cut,
    /// The system failed to read or write.
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// The bytes that came are no answer.
    #[error("the answer is malformed")]
    Syntax(#[source] httparse::Error),
    /// Its head is too large.
    #[error("the answer's head is larger than {MAX_HEAD} bytes")]
    TooLarge,
    /// The end of its body cannot be known.
    #[error("the answer's body has no known end: {0}")]
    Framing(&'static str),
}

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct Unsent {
    pub(super) why: Broken,
    /// Whether the upstream may have seen any of it.
    pub(super) seen: bool,
    /// Whether it closed the connection without a word.
    pub(super) is_silent: bool,
}

impl Broken {
    /// Whether the upstream said something that is wrong.
    pub const fn is_syntax(&self) -> bool {
        matches!(self, Self::Syntax(_) | Self::TooLarge | Self::Framing(_))
    }
}

impl Cut {
    /// Ends the connection, or what is sent over it.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Whether a request can be sent over a [`Wire`].
pub(super) fn takes(request: &Outgoing) -> bool {
    request.body.as_whole().is_some() && !request.head.fields.has("upgrade")
}

impl Wire {
    pub(super) fn new(stream: Stream, origin: Origin) -> Self {
        Self { stream, read: BytesMut::new(), cut: Arc::default(), origin }
    }

    pub(super) const fn origin(&self) -> Origin {
        self.origin
    }

    /// What cuts it, as long as it lives.
    pub(super) fn cut(&self) -> Weak<Cut> {
        Arc::downgrade(&self.cut)
    }

    /// Whether it waits for a request: the upstream has neither closed it nor said anything unasked.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let read = Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte));
        self.read.is_empty() && read.is_pending() && !self.cut.is_cut.load(Ordering::Acquire)
    }

    /// Gives the buffer back until the next request: one that was just used is still in the processor's cache.
    pub(super) fn rest(&mut self) {
        if self.read.is_empty() {
            self.read = BytesMut::new();
        }
    }

    /// The stream alone, of a connection that waits for a request.
    pub(super) fn into_stream(self) -> Stream {
        self.stream
    }

    /// Sends a request, with what the pool has set and removed in it, and reads the head of its answer. The connection comes back with the body, or at once if all of
    /// the body is there.
    pub(super) async fn exchange(
        mut self: Box<Self>,
        request: &Outgoing,
        rules: Option<&Rules>,
    ) -> Result<(ReplyHead, AnswerBody, Option<Box<Self>>), Unsent> {
        let (body, interims) = (request.body.as_whole().unwrap_or_default(), request.interims.as_deref());
        let request = &*request.head;
        let mut write = WRITE.take();
        write.clear();
        head::write(request, body.len(), rules, &mut write);
        write.extend_from_slice(body);
        let sent = self.write(&write).await;
        if write.capacity() <= MAX_HEAD {
            WRITE.set(write);
        }
        let Answer { head, mut framing, reusable } = match sent {
            Ok(()) => self.head(&request.method, interims).await.map_err(|(why, is_silent)| Unsent {
                why,
                seen: true,
                is_silent,
            })?,
            Err(unsent) if !unsent.seen => return Err(unsent),
            // An upstream that does not take all of the request may have said why.
            Err(unsent) => match self.head(&request.method, interims).await {
                Ok(answer) => Answer { reusable: false, ..answer },
                Err((_why, is_silent)) => return Err(Unsent { is_silent, ..unsent }),
            },
        };
        // All of a short body is there already, as a rule.
        let (body, wire) = match framing.whole(&mut self.read) {
            Some(whole) => (AnswerBody::Whole(Some(whole)), (reusable && self.read.is_empty()).then_some(self)),
            None => (AnswerBody::Rest(Rest::new(self, framing, reusable)), None),
        };
        Ok((head, body, wire))
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Unsent> {
        // TLS does not say how much of what it took it has sent.
        let is_tls = matches!(self.stream.over, Over::Tls(_));
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match std::future::poll_fn(|cx| self.poll_write(cx, rest)).await {
                Ok(0) => return Err(Unsent { why: Broken::Closed, seen: written > 0 || is_tls, is_silent: false }),
                Ok(more) => written += more,
                Err(why) => return Err(Unsent { why, seen: written > 0 || is_tls, is_silent: false }),
            }
        }
        let flushed = std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        flushed.map_err(|why| Unsent { why, seen: true, is_silent: false })
    }

    /// The head of an answer; or why there is none, and whether the connection was closed without a word.
    async fn head(&mut self, method: &Method, interims: Option<&Interims>) -> Result<Answer, (Broken, bool)> {
        let (mut seen, mut is_silent) = (0, true);
        loop {
            // If a head comes in many small parts, it is parsed again only when it may be whole.
            if seen == 0 || may_end(&self.read, seen) {
                match head::parse(&mut self.read, method).map_err(|why| (why, false))? {
                    Some(answer) if !answer.is_interim() => return Ok(answer),
                    Some(interim) => {
                        if let Some(interims) = interims {
                            interims.leave(interim.head);
                        }
                        (seen, is_silent) = (0, false);
                        continue;
                    }
                    None => {}
                }
            }
            if self.read.len() >= MAX_HEAD {
                return Err((Broken::TooLarge, false));
            }
            seen = self.read.len();
            is_silent &= self.read.is_empty();
            match std::future::poll_fn(|cx| self.poll_begin(cx)).await {
                Ok(0) => return Err((Broken::Closed, is_silent)),
                Ok(_) => {}
                Err(why @ Broken::Cut) => return Err((why, false)),
                Err(why) => return Err((why, is_silent)),
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, Broken>> {
        match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(wrote) => Poll::Ready(wrote.map_err(Broken::Io)),
            Poll::Pending => self.cut.poll(cx).map(Err),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match Pin::new(&mut self.stream).poll_flush(cx) {
            Poll::Ready(flushed) => Poll::Ready(flushed.map_err(Broken::Io)),
            Poll::Pending => self.cut.poll(cx).map(Err),
        }
    }

    /// Reads what may be all of an answer, and says how much; nothing at the end.
    fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        match read_buffer::poll_read(Pin::new(&mut self.stream), cx, &mut self.read) {
            Poll::Ready(got) => Poll::Ready(got.map_err(Broken::Io)),
            Poll::Pending => self.cut.poll(cx).map(Err),
        }
    }

    /// Reads what has come into the buffer, and says how much; nothing at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<Result<usize, Broken>> {
        self.read.reserve(room);
        match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.read) {
            Poll::Ready(got) => Poll::Ready(got.map_err(Broken::Io)),
            Poll::Pending => self.cut.poll(cx).map(Err),
        }
    }

    /// The next part of a body.
    fn poll_step(&mut self, cx: &mut Context<'_>, framing: &mut framing::Framing) -> Poll<Result<Step, Broken>> {
        loop {
            match framing.step(&mut self.read)? {
                Step::More => {}
                step @ (Step::Data(_) | Step::Trailers(_) | Step::End) => return Poll::Ready(Ok(step)),
            }
            let room = if framing.is_long() { READ_MORE } else { READ };
            if ready!(self.poll_fill(cx, room))? == 0 {
                return Poll::Ready(framing.at_close().map(|()| Step::End));
            }
        }
    }
}

impl Cut {
    /// Ready once the connection is cut; the task is woken then.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.waker.register(cx.waker());
        if self.is_cut.load(Ordering::Acquire) { Poll::Ready(Broken::Cut) } else { Poll::Pending }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().over {
            Over::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Over::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Over::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().over {
            Over::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Over::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Over::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().over {
            Over::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Over::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Over::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().over {
            Over::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Over::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Over::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().over {
            Over::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Over::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Over::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.over {
            Over::Tcp(stream) => stream.is_write_vectored(),
            Over::Unix(stream) => stream.is_write_vectored(),
            Over::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("read", &self.read.len()).finish_non_exhaustive()
    }
}
