//! A stream that notes reads and writes for the time limits of its connection, whether hyper or the fast path uses it.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{ingress::activity::ConnectionActivity, read_buffer};

/// What is written at once is gathered in one place up to this size.
const FLAT: usize = 2 << 10;

thread_local! {
    /// Where it is gathered: for all connections of a thread, so that it stays in the processor's cache.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream that reports to a [`ConnectionActivity`] what is read and written.
#[derive(Debug)]
pub struct Watched<S> {
    inner: S,
    /// What was read before, by another owner of the connection, and not used.
    before: Bytes,
    pulse: Arc<ConnectionActivity>,
}

impl<S> Watched<S> {
    /// A stream, and what was already read of it.
    pub const fn new(inner: S, before: Bytes, pulse: Arc<ConnectionActivity>) -> Self {
        Self { inner, before, pulse }
    }

    /// The stream, and what was read before and not asked for.
    pub(crate) fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.before)
    }

    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        self.pulse.sends(match polled {
            Poll::Ready(Ok(bytes)) => Some(*bytes),
            Poll::Ready(Err(_)) => Some(0),
            Poll::Pending => None,
        });
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Adds what has come to what was read, and says how much; nothing at the end. The caller says whether a head has
    /// begun ([`ConnectionActivity::head_began`]): most heads come whole.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>, read: &mut BytesMut) -> Poll<io::Result<usize>> {
        if !self.before.is_empty() {
            read.extend_from_slice(&self.before);
            return Poll::Ready(Ok(std::mem::take(&mut self.before).len()));
        }
        if self.pulse.reads_no_more() {
            return Poll::Pending;
        }
        read_buffer::poll_read(Pin::new(&mut self.inner), cx, read)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = if !self.before.is_empty() {
            let some = self.before.len().min(buffer.remaining());
            buffer.put_slice(&self.before.copy_to_bytes(some));
            Poll::Ready(Ok(()))
        } else if self.pulse.reads_no_more() {
            // The task that drives the connection gives it away as soon as it waits.
            Poll::Pending
        } else {
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        };
        if buffer.filled().len() > before {
            self.pulse.head_began();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes what is written, and waits here.
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.pulse.sends(polled.is_ready().then_some(0));
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head and a short body are written faster from one place than from two.
        let this = &mut *self;
        let polled = if slices.iter().map(|slice| slice.len()).sum::<usize>() <= FLAT {
            SCRATCH.with_borrow_mut(|flat| {
                flat.clear();
                for slice in slices {
                    flat.extend_from_slice(slice);
                }
                Pin::new(&mut this.inner).poll_write(cx, flat)
            })
        } else {
            Pin::new(&mut this.inner).poll_write_vectored(cx, slices)
        };
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
