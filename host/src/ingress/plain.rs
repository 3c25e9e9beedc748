//! HTTP/1.1 for requests without a body, read and answered one after the other in the connection's own task.
//!
//! As for upstreams ([`wire`](crate::pool::upstream)), most requests are of that kind, and for them a state machine that
//! reads and writes at once costs more than it gives. Everything else is not for this: a request with a body or one that
//! wants more than an answer, another version, a head that is large or malformed. Then the connection goes to hyper, with
//! all that was read and not answered, and stays there.

mod reply;
mod request;

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice, Write as _},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use hyper::{
    Method, Response,
    body::{Body, Bytes, Frame},
    http::request::Parts,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use self::{reply::Framing, request::Taken};
use super::watch::{Active, Pulse, Watched};
use crate::{clock, http1::may_end};

/// The largest head that is read here.
const HEAD: usize = 8 << 10;

/// What is read of what comes after a request that is being served, to notice when the caller leaves.
const AHEAD: usize = 16 << 10;

/// A head and a body that are together no larger are written from one place.
const FLAT: usize = 4 << 10;

thread_local! {
    /// Where heads are written: for all connections of a thread, so that it stays in the processor's cache.
    static OUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection.
pub(super) struct Plain<S> {
    io: Watched<S>,
    /// What came and was not taken yet.
    read: BytesMut,
    pulse: Arc<Pulse>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The connection is over.
    Over,
    /// What came next is not for this.
    Other,
}

/// What came next.
enum Came {
    Request { head: Box<Parts>, is_last: bool },
    Other,
    Nothing,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Plain<S> {
    pub(super) fn new(io: Watched<S>, pulse: Arc<Pulse>) -> Self {
        Self { io, read: BytesMut::new(), pulse }
    }

    /// The stream, and what came and was not answered.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        let (stream, before) = self.io.into_parts();
        let read = if before.is_empty() { self.read.freeze() } else { [&self.read[..], &before[..]].concat().into() };
        (stream, read)
    }

    /// Answers requests for paths that are `wanted` until the connection is over or something else comes.
    pub(super) async fn run<F, B>(
        &mut self,
        wanted: impl Fn(&str) -> bool,
        serve: impl Fn(Box<Parts>, Active) -> F,
    ) -> Ended
    where
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let (head, is_last) = match self.next(&wanted).await {
                Came::Request { head, is_last } => (head, is_last),
                Came::Other => return Ended::Other,
                Came::Nothing => break,
            };
            let is_head = head.method == Method::HEAD;
            let mut answer = pin!(serve(head, self.pulse.begin()));
            let answered = poll_fn(|cx| match answer.as_mut().poll(cx) {
                Poll::Ready(answered) => Poll::Ready(Some(answered)),
                Poll::Pending if self.is_left(cx) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            // Nobody waits for the answer if there is none.
            let Some(reply) = answered.await else { return Ended::Over };
            match self.send(reply, is_head, is_last).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(%error, "a connection ended early");
                    return Ended::Over;
                }
            }
        }
        // What was written is on its way; nobody waits for more.
        drop(self.io.shutdown().await);
        Ended::Over
    }

    async fn next(&mut self, wanted: impl Fn(&str) -> bool) -> Came {
        let mut seen = 0;
        loop {
            // Of what comes in many small parts only what may be whole is looked at again.
            if !self.read.is_empty() && (seen == 0 || may_end(&self.read, seen)) {
                match request::take(&mut self.read, &wanted) {
                    Taken::Request { head, is_last } => return Came::Request { head, is_last },
                    Taken::Other => return Came::Other,
                    Taken::Part => self.pulse.head_began(),
                }
            }
            if self.read.len() >= HEAD {
                return Came::Other;
            }
            seen = self.read.len();
            let got = poll_fn(|cx| {
                if self.read.is_empty() && self.pulse.is_ending() {
                    return Poll::Ready(Ok(0));
                }
                self.io.poll_fill(cx, &mut self.read)
            });
            if !got.await.is_ok_and(|got| got > 0) {
                return Came::Nothing;
            }
        }
    }

    /// Whether the caller left; whoever asks is woken when it does.
    fn is_left(&mut self, cx: &mut Context<'_>) -> bool {
        while self.read.len() < AHEAD {
            match self.io.poll_fill(cx, &mut self.read) {
                Poll::Ready(Ok(0) | Err(_)) => return true,
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return false,
            }
        }
        false
    }

    /// Sends an answer; whether the connection can be used again.
    async fn send<B>(&mut self, reply: Response<B>, is_head: bool, is_last: bool) -> io::Result<bool>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = reply.into_parts();
        let framing = Framing::of(&head, body.size_hint(), is_head);
        let is_last = is_last || self.pulse.is_ending() || reply::closes(&head);
        let mut out = OUT.take();
        out.clear();
        reply::write(&head, framing, is_last, clock::unix_ms, &mut out);
        drop(head);
        if framing == Framing::None || framing == Framing::Length(0) {
            self.write(&out, b"").await?;
        } else {
            self.send_body(&mut body, framing, &mut out).await?;
        }
        if out.capacity() <= 2 * FLAT {
            OUT.set(out);
        }
        poll_fn(|cx| Pin::new(&mut self.io).poll_flush(cx)).await?;
        Ok(!is_last)
    }

    /// Sends a body, and before it what has been written of the head.
    async fn send_body<B>(&mut self, body: &mut B, framing: Framing, out: &mut Vec<u8>) -> io::Result<()>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let mut left = if let Framing::Length(length) = framing { Some(length) } else { None };
        loop {
            let mut next = poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await;
            if next.is_pending() {
                // What is there is sent before more is waited for.
                self.write(out, b"").await?;
                out.clear();
                poll_fn(|cx| Pin::new(&mut self.io).poll_flush(cx)).await?;
                next = Poll::Ready(self.frame(body).await?);
            }
            let Poll::Ready(frame) = next else { continue };
            let data = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                // Whoever wants trailers is not here.
                Some(Ok(Err(_trailers))) => continue,
                Some(Err(_cut)) => return Err(cut()),
                None => break,
            };
            if data.is_empty() {
                continue;
            }
            let Some(left) = &mut left else {
                write!(out, "{:x}\r\n", data.len())?;
                self.write_part(out, &data, b"\r\n").await?;
                continue;
            };
            *left = left.checked_sub(data.len() as u64).ok_or_else(cut)?;
            self.write_part(out, &data, b"").await?;
            if *left == 0 {
                break;
            }
        }
        match left {
            Some(0) => {}
            Some(_) => return Err(cut()),
            None => out.extend_from_slice(b"0\r\n\r\n"),
        }
        self.write(out, b"").await?;
        if !body.is_end_stream() {
            // It learns that it was read to its end, if that is known.
            drop(poll_fn(|cx| Poll::Ready(Pin::new(&mut *body).poll_frame(cx))).await);
        }
        Ok(())
    }

    /// The next frame of a body.
    async fn frame<B>(&mut self, body: &mut B) -> io::Result<Option<Result<Frame<Bytes>, B::Error>>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending if self.is_left(cx) => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// Writes what is in `out`, a part of a body and what comes after it, which may stay in `out` for now.
    async fn write_part(&mut self, out: &mut Vec<u8>, data: &Bytes, after: &[u8]) -> io::Result<()> {
        let is_flat = out.len() + data.len() <= FLAT;
        if is_flat {
            out.extend_from_slice(data);
            out.extend_from_slice(after);
            self.write(out, b"").await?;
        } else {
            self.write(out, data).await?;
        }
        out.clear();
        if !is_flat {
            out.extend_from_slice(after);
        }
        Ok(())
    }

    /// Writes the one and then the other.
    async fn write(&mut self, mut first: &[u8], mut second: &[u8]) -> io::Result<()> {
        while !(first.is_empty() && second.is_empty()) {
            let wrote = poll_fn(|cx| {
                let io = Pin::new(&mut self.io);
                if second.is_empty() {
                    return io.poll_write(cx, first);
                }
                io.poll_write_vectored(cx, &[IoSlice::new(first), IoSlice::new(second)])
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

/// The answer cannot be whole any more: the caller has to see that.
fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the answer broke off")
}
