//! The listening sockets of a host: made by it, or found when it started.
//!
//! Sockets are found if the process that started the host gives them to it (`given`: then the configuration does not
//! say where they listen), or if they come from the host before this one. While no host accepts, connections wait in
//! their queues, so that none is refused while one host takes over from another.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use super::StartError;
use crate::config::Config;
use cutover_traffic::ingress::listen;

/// The sockets that a host finds when it starts.
#[derive(Debug, Default)]
pub struct Found {
    /// Sockets for the data plane, if there are any.
    pub data_plane: Vec<TcpListener>,
    /// The socket for the admin plane, if there is one.
    pub admin: Option<TcpListener>,
    /// Whether the process that started the host gave them to it, or to the first of the hosts before it.
    pub given: bool,
}

impl Found {
    /// Sockets that the host was given, with their names: `data` and `admin`. One with another name is for the plane that
    /// is configured to listen there; of the rest, the first is for the data plane and the second for the admin plane.
    pub fn given(sockets: Vec<(String, TcpListener)>, config: &Config) -> Self {
        let mut found = Self { given: !sockets.is_empty(), ..Self::default() };
        let mut rest = Vec::new();
        for (name, socket) in sockets {
            let is_at = |wanted: SocketAddr| socket.local_addr().is_ok_and(|address| address == wanted);
            match name.as_str() {
                "data" => found.data_plane.push(socket),
                "admin" => found.admin = Some(socket),
                _ if is_at(config.data_plane) => found.data_plane.push(socket),
                _ if is_at(config.admin) => found.admin = Some(socket),
                _ => rest.push(socket),
            }
        }
        for socket in rest {
            if found.data_plane.is_empty() {
                found.data_plane.push(socket);
            } else if found.admin.is_none() {
                found.admin = Some(socket);
            } else {
                tracing::warn!(?socket, "a socket that the host was given is for no plane; it is closed");
            }
        }
        found
    }
}

/// The listening sockets that a host uses.
#[derive(Debug)]
pub struct Sockets {
    /// At least one for the data plane; all for the same address.
    pub data_plane: Vec<TcpListener>,
    /// The socket for the admin plane.
    pub admin: TcpListener,
    /// Whether the host was given them, as in [`Found`].
    pub given: bool,
}

impl Sockets {
    /// Takes what is found, and makes what is not.
    pub(super) fn open(config: &Config, found: Found) -> Result<Self, StartError> {
        let Found { data_plane, admin, given } = found;
        let failed = |address| move |source| StartError::Listen { address, source };
        let usable = |socket: &TcpListener, wanted| is_usable("data plane", socket, wanted, given);
        let data_plane = match data_plane.first() {
            Some(first) if usable(first, config.data_plane) => data_plane,
            _ => listen::bind(config.data_plane, config.http.threads).map_err(failed(config.data_plane))?,
        };
        let admin = match admin {
            Some(admin) if is_usable("admin plane", &admin, config.admin, given) => admin,
            _ => TcpListener::bind(config.admin).map_err(failed(config.admin))?,
        };
        for socket in data_plane.iter().chain([&admin]) {
            socket.set_nonblocking(true).map_err(failed(config.data_plane))?;
        }
        Ok(Self { data_plane, admin, given })
    }

    /// Further handles of the same sockets.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        let data_plane = self.data_plane.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { data_plane, admin: self.admin.try_clone()?, given: self.given })
    }
}

impl From<Sockets> for Found {
    fn from(Sockets { data_plane, admin, given }: Sockets) -> Self {
        Self { data_plane, admin: Some(admin), given }
    }
}

/// Whether a socket listens where the configuration says, or where it does not matter what that says.
fn is_usable(plane: &str, socket: &TcpListener, wanted: SocketAddr, given: bool) -> bool {
    let Ok(address) = socket.local_addr() else { return false };
    let any_port = wanted.port() == 0 && address.ip() == wanted.ip();
    if address == wanted || any_port {
        return true;
    }
    if given {
        tracing::warn!(%address, configured = %wanted, "the {plane} listens where it was told to by whoever started the host");
    } else {
        tracing::warn!(%address, configured = %wanted, "the {plane} moves; connections that wait at the old address are lost");
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_used_where_it_is_configured_or_given() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = socket.local_addr().unwrap();
        let usable = |wanted: &str, given| is_usable("data plane", &socket, wanted.parse().unwrap(), given);
        assert!(usable(&here.to_string(), false) && usable("127.0.0.1:0", false), "as configured");
        assert!(!usable("127.0.0.1:1", false) && !usable("0.0.0.0:0", false), "the configuration has changed");
        assert!(usable("127.0.0.1:1", true), "it does not count for a socket that was given");
    }
}
