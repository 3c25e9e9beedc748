//! Connections that come over a load balancer which says who is behind it ([PROXY protocol](crate::proxy_protocol)).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
};

use hyper::body::Bytes;
use ipnet::IpNet;
use tokio::{io::AsyncReadExt as _, net::TcpStream, sync::OwnedSemaphorePermit};

use super::{
    connection::Serving,
    guard::{Guarded, guard},
};
use crate::proxy_protocol::{self, Invalid, LONGEST, Said};
use cutover_model::causes::chain;

/// The networks of load balancers whose headers are believed. Connections from elsewhere are not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted(Vec<IpNet>);

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum NoHeader {
    /// The bytes that came are no header.
    #[error("the connection is malformed")]
    Invalid(#[from] Invalid),
    /// The connection ended before the whole header came.
    #[error("the connection ended before its header did")]
    Io(#[from] io::Error),
}

impl Trusted {
    /// The load balancers in these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether headers that come from this address are believed.
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether these are all addresses, of IPv4 or IPv6 at least.
    pub fn is_everybody(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }
}

/// The other end of a connection.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// The address that it connected to; `None` for the one that the host listens at.
    pub(super) to: Option<SocketAddr>,
    /// Whether the address comes from the system, not from a header.
    pub(super) is_direct: bool,
}

impl Peer {
    pub(super) const fn direct(address: SocketAddr) -> Self {
        Self { address, to: None, is_direct: true }
    }
}

impl Serving {
    /// Serves a connection that has to begin with a header of the PROXY protocol. What that says cannot be handed to another
    /// host with the connection.
    pub(super) async fn proxied(
        self: Arc<Self>,
        mut stream: TcpStream,
        peer: SocketAddr,
        trusted: Arc<Trusted>,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        if !trusted.has(peer.ip()) {
            return tracing::debug!(%peer, "is not in `proxy_protocol_from`");
        }
        let pulse = self.watch.add(false, true);
        pulse.head_began();
        let said = match guard(pin!(take(&mut stream)), &pulse, |_taking| {}).await {
            Guarded::Ended(Ok(said)) => said,
            Guarded::Ended(Err(error)) => {
                return tracing::debug!(%peer, error = chain(&error), "no header of the PROXY protocol");
            }
            Guarded::Closed | Guarded::Left => return tracing::debug!(%peer, "the PROXY protocol took too long"),
        };
        drop(pulse);
        let peer = match said {
            Said::Local => Peer { is_direct: false, ..Peer::direct(peer) },
            Said::Proxied(ends) => Peer { address: ends.source, to: Some(ends.destination), is_direct: false },
        };
        self.connection(stream, peer, (Bytes::new(), true), permit);
    }
}

/// Takes the header that a connection begins with, and nothing of what comes after it.
async fn take(stream: &mut TcpStream) -> Result<Said, NoHeader> {
    let (mut read, mut ahead) = (Vec::new(), vec![0; LONGEST]);
    loop {
        let peeked = stream.peek(&mut ahead).await?;
        let known = read.len();
        read.extend_from_slice(ahead.get(..peeked).unwrap_or_default());
        let said = proxy_protocol::read(&read)?;
        let end = said.map_or(read.len(), |(_, end)| end);
        // At the end of what comes this fails.
        let more = end.saturating_sub(known).max(1).min(ahead.len());
        stream.read_exact(ahead.get_mut(..more).unwrap_or_default()).await?;
        if let Some((said, _)) = said {
            return Ok(said);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    async fn taken(parts: &[&[u8]]) -> (Result<Said, NoHeader>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        caller.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let sends = async {
            for part in parts {
                caller.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            caller.shutdown().await.unwrap();
        };
        let (said, ()) = tokio::join!(take(&mut stream), sends);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (said, rest)
    }

    #[tokio::test]
    async fn a_header_is_taken_however_it_is_cut_and_nothing_after_it() {
        let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 443\r\n";
        let all = [&line[..], b"GET / HTTP/1.1\r\n"].concat();
        for cut in [1, 7, line.len() - 1, line.len(), line.len() + 3] {
            let (said, rest) = taken(&[&all[..cut], &all[cut..]]).await;
            assert!(matches!(said, Ok(Said::Proxied(_))), "{cut}: {said:?}");
            assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{cut}");
        }
        let bytes: Vec<_> = all.chunks(1).collect();
        assert_eq!(taken(&bytes).await.1, b"GET / HTTP/1.1\r\n");
        assert!(matches!(taken(&[b"GET / HTTP/1.1\r\n"]).await.0, Err(NoHeader::Invalid(Invalid::Missing))));
        assert!(matches!(taken(&[b"PROXY TCP4 "]).await.0, Err(NoHeader::Io(_))));
        assert!(matches!(taken(&[]).await.0, Err(NoHeader::Io(_))));
    }

    #[test]
    fn those_in_a_network_are_trusted_and_nobody_else() {
        let trusted = Trusted::new(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        for (address, is) in [("10.1.2.3", true), ("::ffff:10.1.2.3", true), ("11.0.0.1", false), ("2001:db8::1", true)]
        {
            assert_eq!(trusted.has(address.parse().unwrap()), is, "{address}");
        }
        assert!(!trusted.is_everybody() && Trusted::new(vec!["::/0".parse().unwrap()]).is_everybody());
    }
}
