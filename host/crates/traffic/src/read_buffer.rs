//! A buffer to read into, one for each thread: it stays in the processor's cache, and connections that wait hold none.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

/// Read at once, at most: a head and a short body.
const ROOM: usize = 8 << 10;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into_boxed_slice());
}

/// Adds what has come to what was read before, and says how much it is; nothing at the end. Only as much memory is taken
/// as has come.
///
/// # Errors
/// If reading fails.
pub fn poll_read<S>(stream: Pin<&mut S>, cx: &mut Context<'_>, read: &mut BytesMut) -> Poll<io::Result<usize>>
where
    S: AsyncRead + ?Sized,
{
    SCRATCH.with_borrow_mut(|room| {
        let mut came = ReadBuf::new(room);
        ready!(stream.poll_read(cx, &mut came))?;
        read.extend_from_slice(came.filled());
        Poll::Ready(Ok(came.filled().len()))
    })
}
