//! Serves requests of HTTP/1.1 that have no body or a short one, one after the other, in the connection's own task.
//!
//! Most requests are of that kind, as they are towards upstreams ([`wire`](crate::pool::upstream)), and a state machine
//! that reads and writes at once costs more for them than it gives. Everything else goes to hyper: a body that is long,
//! comes in chunks or is slow, a request to change the protocol, another version, a head that is large or malformed.
//! The connection goes there with all that was read and not answered, and stays there.

mod reply;
mod request;

use std::{
    cell::Cell,
    collections::VecDeque,
    future::poll_fn,
    io::{self, IoSlice, Write as _},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::BytesMut;
use hyper::{
    Method,
    body::{Body, Bytes, Frame},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use self::{reply::Framing, request::Taken};
use super::{strict::Refused, watched::Watched};
use crate::{
    http1::may_end,
    ingress::activity::{Active, ConnectionActivity},
    message::ReplyHead,
    pool::upstream::{Interims, Outgoing},
    proxy::{Reply, ReplyBody, headers},
};
use cutover_model::clock;

/// The largest head that is read here.
const HEAD: usize = 8 << 10;

/// How long the connection waits for the rest of a short body; after that, hyper serves the request while the body
/// comes.
const SOON: Duration = Duration::from_millis(100);

/// What is read of what comes after a request that is being served, to notice when the caller leaves.
const AHEAD: usize = 16 << 10;

/// What is read of an answer while the caller has not taken what came before, so that its upstream is free again.
const AHEAD_OF_CALLER: usize = 256 << 10;

/// A head and a body that are together no larger are written from one place.
const FLAT: usize = 4 << 10;

/// How a connection of HTTP/2 begins (RFC 9113, 3.4): with a method that no request of HTTP/1.1 may have.
const PREFACE: &[u8] = b"PRI";

thread_local! {
    /// Where heads are written: for all connections of a thread, so that it stays in the processor's cache.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection of HTTP/1.1, and what was read of it.
pub(super) struct Plain<S> {
    io: Watched<S>,
    /// What came and was not taken yet.
    read: BytesMut,
    pulse: Arc<ConnectionActivity>,
    /// Where interim answers to the request that is served are left.
    interims: Arc<Interims>,
}

/// A body, as far ahead of its caller as it may be.
struct Ahead<B> {
    body: B,
    /// What is still to come of it, if that is known.
    left: Option<u64>,
    /// What has come and was not written yet.
    parts: VecDeque<Bytes>,
    bytes: usize,
    has_ended: bool,
}

/// Why reading requests ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The connection is over.
    Over,
    /// It is a connection of HTTP/2.
    Http2,
    /// What came next is left to hyper.
    Other,
}

/// What became of the wait for an answer.
enum Waited<T> {
    Answer(T),
    /// An interim answer came.
    Interim,
    /// The caller has left.
    Left,
}

/// What the bytes that came next are.
enum Came {
    Request { request: Outgoing, is_last: bool },
    Http2,
    Other,
    Refused(Refused),
    Nothing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Plain<S> {
    pub(super) fn new(io: Watched<S>, pulse: Arc<ConnectionActivity>) -> Self {
        Self { io, read: BytesMut::new(), pulse, interims: Arc::default() }
    }

    pub(super) fn pulse(&self) -> Arc<ConnectionActivity> {
        Arc::clone(&self.pulse)
    }

    /// The stream, and what came and was not answered.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        let (stream, before) = self.io.into_parts();
        let read = if before.is_empty() { self.read.freeze() } else { [&self.read[..], &before[..]].concat().into() };
        (stream, read)
    }

    /// Answers requests until the connection is over or something else comes.
    pub(super) async fn run<F, B>(&mut self, serve: impl Fn(Outgoing, Active) -> F) -> Ended
    where
        F: Future<Output = (ReplyHead, B)>,
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let (request, is_last) = match self.next().await {
                Came::Request { request, is_last } => (request, is_last),
                Came::Http2 => return Ended::Http2,
                Came::Other => return Ended::Other,
                Came::Refused(refused) => {
                    let Reply { head, body } = refused.reply();
                    drop(Box::pin(self.send((head, body), false, true)).await);
                    break;
                }
                Came::Nothing => break,
            };
            // Apart: a connection that waits must not keep the room that this takes.
            match Box::pin(self.exchange(request, is_last, &serve)).await {
                Ok(Some(true)) => {}
                Ok(Some(false)) => break,
                Ok(None) => return Ended::Over,
                Err(error) => {
                    tracing::debug!(%error, "a connection ended early");
                    return Ended::Over;
                }
            }
        }
        // What was written is on its way, and no more will be.
        drop(self.io.shutdown().await);
        Ended::Over
    }

    /// Has a request answered, and sends the answer. Whether the connection can be used again; none if the caller left.
    async fn exchange<F, B>(
        &mut self,
        mut request: Outgoing,
        is_last: bool,
        serve: &impl Fn(Outgoing, Active) -> F,
    ) -> io::Result<Option<bool>>
    where
        F: Future<Output = (ReplyHead, B)>,
        B: Body<Data = Bytes> + Unpin,
    {
        let is_head = request.head.method == Method::HEAD;
        if self.interims.has_some() || Arc::strong_count(&self.interims) > 1 {
            // An interim answer to the request before may still come.
            self.interims = Arc::default();
        }
        request.interims = Some(Arc::clone(&self.interims));
        let reply = {
            let mut answer = pin!(serve(request, self.pulse.begin()));
            loop {
                let waited = poll_fn(|cx| match answer.as_mut().poll(cx) {
                    Poll::Ready(answered) => Poll::Ready(Waited::Answer(answered)),
                    Poll::Pending if self.interims.poll_some(cx) => Poll::Ready(Waited::Interim),
                    Poll::Pending if self.is_left(cx) => Poll::Ready(Waited::Left),
                    Poll::Pending => Poll::Pending,
                });
                match waited.await {
                    Waited::Answer(answered) => break answered,
                    // A caller that cannot be told will be seen to have left.
                    Waited::Interim => drop(self.pass_interims().await),
                    Waited::Left => return Ok(None),
                }
            }
        };
        if self.interims.has_some() {
            drop(self.pass_interims().await);
        }
        self.send(reply, is_head, is_last).await.map(Some)
    }

    /// Sends the interim answers that wait.
    async fn pass_interims(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        for mut head in self.interims.take() {
            headers::to_caller(&mut head.fields, None);
            reply::write_interim(&head, &mut out);
        }
        self.write(&out, b"", None::<&mut Ahead<ReplyBody>>).await?;
        self.flush().await
    }

    async fn next(&mut self) -> Came {
        let mut seen = 0;
        loop {
            // If a head comes in many small parts, it is parsed again only when it may be whole.
            if self.pulse.is_pending() && self.read.starts_with(PREFACE) {
                return Came::Http2;
            }
            if !self.read.is_empty() && (seen == 0 || may_end(&self.read, seen)) {
                match request::take(&mut self.read) {
                    Taken::Request { request, is_last } => return Came::Request { request, is_last },
                    Taken::Other => return Came::Other,
                    Taken::Refused(refused) => return Came::Refused(refused),
                    Taken::Part => self.pulse.head_began(),
                    Taken::PartOfBody(whole) => {
                        if !Box::pin(self.has_soon(whole)).await {
                            return Came::Other;
                        }
                        seen = 0;
                        continue;
                    }
                }
            }
            if self.read.len() >= HEAD {
                return Came::Other;
            }
            seen = self.read.len();
            let got = poll_fn(|cx| {
                if self.read.is_empty() && self.pulse.is_told_to_end() {
                    return Poll::Ready(Ok(0));
                }
                match self.io.poll_fill(cx, &mut self.read) {
                    Poll::Pending if self.read.is_empty() && self.pulse.makes_room() => Poll::Ready(Ok(0)),
                    polled @ (Poll::Ready(_) | Poll::Pending) => polled,
                }
            });
            if !got.await.is_ok_and(|got| got > 0) {
                return Came::Nothing;
            }
        }
    }

    /// Whether so much has been read soon.
    async fn has_soon(&mut self, whole: usize) -> bool {
        let come = async {
            while self.read.len() < whole {
                if !poll_fn(|cx| self.io.poll_fill(cx, &mut self.read)).await.is_ok_and(|got| got > 0) {
                    return false;
                }
            }
            true
        };
        timeout(SOON, come).await.unwrap_or(false)
    }

    /// Whether the caller left; the task is woken when it does.
    fn is_left(&mut self, cx: &mut Context<'_>) -> bool {
        while self.read.len() < AHEAD {
            match self.io.poll_fill(cx, &mut self.read) {
                // A caller that has sent more before may still read the answers.
                Poll::Ready(Ok(0)) => return self.read.is_empty(),
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Sends an answer; whether the connection can be used again.
    async fn send<B>(&mut self, (head, body): (ReplyHead, B), is_head: bool, is_last: bool) -> io::Result<bool>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let framing = Framing::of(&head, body.size_hint(), is_head);
        let is_last = is_last || self.pulse.is_ending() || reply::closes(&head);
        let mut out = OUT.take();
        out.clear();
        reply::write(&head, framing, is_last, clock::unix_ms, &mut out);
        drop(head);
        if framing == Framing::None || framing == Framing::Length(0) {
            drop(body);
            self.write(&out, b"", None::<&mut Ahead<B>>).await?;
        } else {
            self.send_body(Ahead::new(body, framing), &mut out).await?;
        }
        if out.capacity() <= 2 * FLAT {
            OUT.set(out);
        }
        self.flush().await?;
        Ok(!is_last)
    }

    /// Sends a body, and before it what has been written of the head.
    async fn send_body<B>(&mut self, mut body: Ahead<B>, out: &mut Vec<u8>) -> io::Result<()>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let next = match poll_fn(|cx| Poll::Ready(body.poll_next(cx))).await {
                Poll::Ready(next) => next?,
                Poll::Pending => {
                    // What is there is sent before more is waited for.
                    self.write(out, b"", Some(&mut body)).await?;
                    out.clear();
                    self.flush().await?;
                    self.wait_for(&mut body).await?
                }
            };
            let Some(data) = next else { break };
            let after: &[u8] = if body.left.is_none() {
                write!(out, "{:x}\r\n", data.len())?;
                b"\r\n"
            } else {
                b""
            };
            if out.len() + data.len() <= FLAT {
                out.extend_from_slice(&data);
            } else {
                self.write(out, &data, Some(&mut body)).await?;
                out.clear();
            }
            out.extend_from_slice(after);
        }
        if body.is_chunked() {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        // The upstream's part is over, however slowly the caller reads from here on.
        drop(body);
        self.write(out, b"", None::<&mut Ahead<B>>).await
    }

    /// Waits for the next part of a body.
    async fn wait_for<B>(&mut self, body: &mut Ahead<B>) -> io::Result<Option<Bytes>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        poll_fn(|cx| match body.poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending if self.is_left(cx) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.io).poll_flush(cx)).await
    }

    /// Writes the one and then the other. While that waits, the body comes on.
    async fn write<B>(&mut self, mut first: &[u8], mut second: &[u8], mut body: Option<&mut Ahead<B>>) -> io::Result<()>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        while !(first.is_empty() && second.is_empty()) {
            let wrote = poll_fn(|cx| {
                let io = Pin::new(&mut self.io);
                let wrote = if second.is_empty() {
                    io.poll_write(cx, first)
                } else {
                    io.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
                };
                if wrote.is_pending()
                    && let Some(body) = &mut body
                {
                    body.come_on(cx)?;
                }
                wrote
            });
            let wrote = wrote.await?;
            if wrote == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let of_first = wrote.min(first.len());
            first = first.get(of_first..).unwrap_or_default();
            second = second.get(wrote - of_first..).unwrap_or_default();
        }
        Ok(())
    }
}

impl<B: Body<Data = Bytes> + Unpin> Ahead<B> {
    fn new(body: B, framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { Some(length) } else { None };
        Self { body, left, parts: VecDeque::new(), bytes: 0, has_ended: false }
    }

    const fn is_chunked(&self) -> bool {
        self.left.is_none()
    }

    /// The next part; none at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if self.parts.is_empty() {
            self.take(cx)?;
        }
        match self.parts.pop_front() {
            Some(part) => {
                self.bytes -= part.len();
                Poll::Ready(Ok(Some(part)))
            }
            None if self.has_ended => Poll::Ready(Ok(None)),
            None => Poll::Pending,
        }
    }

    /// Takes what there is, up to a bound.
    fn come_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.bytes < AHEAD_OF_CALLER {
            if !self.take(cx)? {
                break;
            }
        }
        Ok(())
    }

    /// Takes the next part, if it is there.
    fn take(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        while !self.has_ended {
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => return Ok(false),
            };
            let data = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                // Trailers are left out: a caller that wants them is served by hyper.
                Some(Ok(Err(_trailers))) => continue,
                Some(Err(_cut)) => return Err(cut()),
                None => {
                    self.has_ended = true;
                    return if self.left.is_none_or(|left| left == 0) { Ok(false) } else { Err(cut()) };
                }
            };
            if data.is_empty() {
                continue;
            }
            if let Some(left) = &mut self.left {
                *left = left.checked_sub(data.len() as u64).ok_or_else(cut)?;
            }
            self.bytes += data.len();
            self.parts.push_back(data);
            if self.body.is_end_stream() {
                self.has_ended = true;
            } else if self.left == Some(0) {
                // It learns that it was read to its end, if that is known yet.
                self.has_ended = true;
                drop(Pin::new(&mut self.body).poll_frame(cx));
            }
            return Ok(true);
        }
        Ok(false)
    }
}

/// The answer cannot be whole any more: the caller has to see that.
fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off")
}
