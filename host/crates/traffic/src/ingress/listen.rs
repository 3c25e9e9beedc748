//! Makes the listening sockets, or takes those that were handed over by the process that started the host.
//!
//! Each serving thread has a socket of its own for the same address (`SO_REUSEPORT`), so that the kernel spreads
//! connections and no thread wakes for another's. With that option two hosts could share an address without knowing; so
//! the address is first taken without it, which fails if another process listens there.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that wait in the kernel, for each socket.
const BACKLOG: i32 = 4_096;

/// A socket for each thread, all for the same address.
///
/// # Errors
/// When the address cannot be had, also because another process listens there.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<TcpListener>> {
    // A port that the system chooses is free.
    if address.port() != 0 {
        let alone = socket(address)?;
        alone.bind(&address.into())?;
        alone.listen(1)?;
    }
    let mut sockets = Vec::new();
    let mut address = address;
    for _ in 0..threads.max(1) {
        let socket = socket(address)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// Gives each thread at least one of the sockets, in turn; who shares one with another has a handle of its own.
///
/// # Errors
/// When the system has no descriptor left.
pub fn share_out(sockets: Vec<TcpListener>, threads: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut shares: Vec<Vec<TcpListener>> = (0..threads.max(1)).map(|_| Vec::new()).collect();
    let threads = shares.len();
    for (at, share) in shares.iter_mut().enumerate().skip(sockets.len()) {
        if let Some(socket) = sockets.get(at % sockets.len().max(1)) {
            share.push(socket.try_clone()?);
        }
    }
    for (at, socket) in sockets.into_iter().enumerate() {
        if let Some(share) = shares.get_mut(at % threads) {
            share.push(socket);
        }
    }
    Ok(shares)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections still linger can be had again.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_a_socket_of_the_same_address_and_nobody_else_can_listen_there() {
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|s| s.local_addr().unwrap() == address));
        assert_eq!(bind(address, 3).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(sockets);
        assert_eq!(bind(address, 1).unwrap().len(), 1);
    }

    #[test]
    fn sockets_are_shared_out_to_more_and_to_fewer_threads() {
        let count = |sockets, threads| {
            let sockets = bind("127.0.0.1:0".parse().unwrap(), sockets).unwrap();
            share_out(sockets, threads).unwrap().iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(count(1, 3), [1, 1, 1]);
        assert_eq!(count(3, 2), [2, 1]);
        assert_eq!(count(2, 2), [1, 1]);
    }
}
