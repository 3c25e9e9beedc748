//! The pipes of a worker, at the host's end.
//!
//! The task that calls a worker waits for its pipes itself: a pipe belongs to the runtime that its caller runs in, and
//! moves when the next call comes from another. If all pipes belonged to one runtime, each answer would wake one thread
//! that wakes another, which costs more than the whole call where cores sleep.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll},
};

use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWriteExt as _, ReadBuf},
    net::unix::pipe::{Receiver, Sender},
    process::{ChildStdin, ChildStdout},
    runtime::{Handle, Id},
};

/// A worker's standard input; none once a call was given up in the middle of its frame.
#[derive(Debug)]
pub(super) struct Input(Option<OwnedFd>);

/// A worker's standard output.
#[derive(Debug)]
pub(super) struct Output {
    /// None when it could not be moved to another runtime.
    pipe: Option<Receiver>,
    /// The runtime that it belongs to.
    home: Id,
}

impl Input {
    /// # Errors
    /// What the system says.
    pub(super) fn of(stdin: ChildStdin) -> io::Result<Self> {
        let pipe = stdin.into_owned_fd()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        Ok(Self(Some(pipe)))
    }

    /// Writes all of that. Most calls fit into the pipe, and no runtime hears of it.
    ///
    /// # Errors
    /// What the system says; then it is not known how much was written.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let pipe = self.0.take().ok_or_else(closed)?;
        let written = match rustix::io::retry_on_intr(|| rustix::io::write(&pipe, bytes)) {
            Ok(written) => written,
            Err(Errno::AGAIN) => 0,
            Err(error) => return Err(error.into()),
        };
        let left = bytes.get(written..).unwrap_or_default();
        self.0 = Some(if left.is_empty() { pipe } else { write_rest(pipe, left).await? });
        Ok(())
    }
}

/// Writes as the worker reads.
async fn write_rest(pipe: OwnedFd, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut pipe = Sender::from_owned_fd_unchecked(pipe)?;
    pipe.write_all(bytes).await?;
    pipe.into_nonblocking_fd()
}

impl Output {
    /// # Errors
    /// What the system says.
    pub(super) fn of(stdout: ChildStdout) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(stdout.into_owned_fd()?)?;
        Ok(Self { pipe: Some(pipe), home: Handle::current().id() })
    }

    /// The pipe, as one of this runtime.
    fn here(&mut self) -> io::Result<&mut Receiver> {
        let here = Handle::current().id();
        if self.home != here {
            let pipe = self.pipe.take().map(Receiver::into_nonblocking_fd).transpose()?;
            self.pipe = pipe.map(Receiver::from_owned_fd_unchecked).transpose()?;
            self.home = here;
        }
        self.pipe.as_mut().ok_or_else(closed)
    }
}

impl AsyncRead for Output {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.get_mut().here()?).poll_read(cx, buf)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the pipe was closed")
}
