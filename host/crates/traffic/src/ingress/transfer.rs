//! Moves connections from one host to another, between two requests.
//!
//! Only connections of HTTP/1.1 without TLS can move: a socket, and the bytes that were read of it and not used, are
//! all that there is to them. The keys of TLS and the tables of HTTP/2 cannot be taken along.

use std::{
    io,
    net::{SocketAddr, TcpStream},
};

use hyper::body::Bytes;
use tokio::sync::mpsc;

/// Connections that wait to be taken over, for each thread and on the way out; those beyond stay where they are.
pub(super) const QUEUE: usize = 64;

/// A connection that moves to another thread or another host.
#[derive(Debug)]
pub struct Carried {
    /// The socket of the connection.
    pub stream: TcpStream,
    /// The bytes that were read of it and not used yet.
    pub read: Bytes,
    /// Whether no request has come over it yet.
    pub is_new: bool,
}

/// Hands connections to the threads that serve, to each in turn.
#[derive(Debug)]
pub struct Adopter {
    threads: Vec<mpsc::Sender<Carried>>,
    next: usize,
}

impl Carried {
    /// A connection that waits for its first request (`is_new`) or the next one, of which some bytes may be here.
    pub(super) fn over(stream: tokio::net::TcpStream, read: Bytes, is_new: bool) -> io::Result<Self> {
        Ok(Self { stream: stream.into_std()?, read, is_new })
    }

    /// The socket for the runtime of this thread, and who is at its other end.
    pub(super) fn open(self) -> io::Result<(tokio::net::TcpStream, SocketAddr, Bytes, bool)> {
        let peer = self.stream.peer_addr()?;
        self.stream.set_nonblocking(true)?;
        Ok((tokio::net::TcpStream::from_std(self.stream)?, peer, self.read, self.is_new))
    }
}

impl Adopter {
    pub(super) const fn new(threads: Vec<mpsc::Sender<Carried>>) -> Self {
        Self { threads, next: 0 }
    }

    /// Hands a connection over; waits while the thread whose turn it is has too many.
    pub async fn adopt(&mut self, carried: Carried) {
        let at = self.next % self.threads.len().max(1);
        self.next = at + 1;
        if let Some(thread) = self.threads.get(at) {
            // A thread that has ended closes it.
            drop(thread.send(carried).await);
        }
    }
}
