//! Making connections to members: TCP or a socket of this machine, and TLS over it.

use std::{io, net::SocketAddr, path::Path, time::Duration};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    Inner,
    address::Address,
    connection::{Sender, server_name},
    member::Member,
    resolve::Origin,
    wire::{Over, Stream},
};
use crate::{
    descriptors,
    proxy_protocol::{self, Ends},
};
use cutover_model::{
    causes::chain,
    clock,
    request::{Failure, FailureKind},
};

/// How long to wait for room in the queue of a socket: short against what callers wait, long against a system call.
const QUEUE_FULL: Duration = Duration::from_millis(5);

impl Inner {
    /// A new connection to a member, for the caller at these ends; `None` if the host itself asks. The PROXY protocol
    /// says which, if the pool uses it.
    pub(super) async fn connect(&self, member: &Member, ends: Option<&Ends>) -> Result<Sender, Failure> {
        let limit = self.spec.connect_timeout;
        match timeout(limit, self.try_connect(member, ends)).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(unreached(&member.address, &format!("no connection within {limit:?}"))),
        }
    }

    async fn try_connect(&self, member: &Member, ends: Option<&Ends>) -> Result<Sender, Failure> {
        let address = &member.address;
        let failed = |what: &dyn std::error::Error| unreached(address, &chain(what));
        let Some(descriptor) = descriptors::for_upstream() else {
            let message =
                "the host has as many connections to upstreams as it may have open files; raise `LimitNOFILE=`";
            return Err(Failure::unsent(FailureKind::Resource, message));
        };
        let (over, place) = match address {
            Address::Unix(path) => {
                let mut stream = at_socket(path).await.map_err(|e| failed(&e))?;
                self.introduce(&mut stream, ends).await.map_err(|e| failed(&e))?;
                (Over::Unix(stream), (None, 0))
            }
            Address::Tcp { tls, host, .. } => {
                let (mut stream, place) = self.over_tcp(member).await.map_err(|e| failed(&e))?;
                self.introduce(&mut stream, ends).await.map_err(|e| failed(&e))?;
                let over = if *tls { self.over_tls(stream, member, host).await? } else { Over::Tcp(stream) };
                (over, place)
            }
        };
        let origin = Origin::new(place, clock::mono(), self.spec.max_connection_age);
        let origin = origin.of_caller(ends.filter(|_| self.spec.proxy_protocol.is_some()).map(|ends| ends.source));
        self.begin(Stream { over, _descriptor: descriptor }, origin).await.map_err(|e| failed(&e))
    }

    /// Says who is at the ends of a connection, before all else.
    async fn introduce(&self, stream: &mut (impl AsyncWrite + Unpin), ends: Option<&Ends>) -> io::Result<()> {
        match self.spec.proxy_protocol {
            None => Ok(()),
            Some(version) => stream.write_all(&proxy_protocol::write(version, ends)).await,
        }
    }

    /// A connection to where a member's name leads, where that is, and the era of it.
    async fn over_tcp(&self, member: &Member) -> io::Result<(TcpStream, (Option<SocketAddr>, u64))> {
        let (places, era) = self.places(member).await?;
        let reached = match reach_one(&places).await {
            // It may have moved since the name was looked up.
            Err(_) if self.look_again(member).await => {
                let (places, _) = self.places(member).await?;
                reach_one(&places).await
            }
            reached => reached,
        };
        let (stream, place) = reached?;
        stream.set_nodelay(true)?;
        Ok((stream, (Some(place), era)))
    }

    async fn over_tls(&self, stream: TcpStream, member: &Member, host: &str) -> Result<Over, Failure> {
        let address = &member.address;
        let failed = |what: &dyn std::error::Error| unreached(address, &chain(what));
        let connector = &self.spec.connector;
        let Some(tls) = connector.tls.clone() else {
            return Err(unreached(address, "TLS is not set up"));
        };
        let name = match &connector.server_name {
            Some(name) => name.clone(),
            None => server_name(host).map_err(|e| failed(&e))?,
        };
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| failed(&e))?;
        Ok(Over::Tls(Box::new(stream)))
    }
}

/// A connection to the first of some places that can be reached.
async fn reach_one(places: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr)> {
    let mut failed = io::Error::other("there is no address");
    for place in places {
        match TcpStream::connect(place).await {
            Ok(stream) => return Ok((stream, *place)),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// A connection to a socket of this machine. Where TCP would wait because the service's queue is full, the system says so at
/// once (connect(2), `EAGAIN`), and it is for us to wait.
async fn at_socket(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_FULL).await,
            connected => return connected,
        }
    }
}

fn unreached(address: &Address, why: &str) -> Failure {
    Failure::unsent(FailureKind::Connection, format!("{address} is not reached: {why}"))
}
