//! Where an upstream is: a host and a port, or a socket in the file system of this machine.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

/// The longest path that a socket can have: `sun_path` of unix(7) has 108 bytes, of which the last ends it.
const LONGEST: usize = 107;

/// How the address of a socket begins.
const UNIX: &str = "unix:";

/// Where an upstream is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A port of a host, over TCP.
    Tcp {
        /// Whether it is spoken to over TLS.
        tls: bool,
        /// Its name or IP address; an IPv6 address without brackets.
        host: String,
        /// Its port, 1 to 65535.
        port: u16,
    },
    /// On this machine, at a socket.
    Unix(PathBuf),
}

/// Why a text is not the address of an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It is neither a URL nor the path of a socket.
    #[error("it must be `http://HOST:PORT` or `https://HOST:PORT` without a path, or `unix:/PATH`")]
    Url,
    /// A socket whose place depends on where the host was started.
    #[error("the path of a socket must be absolute, such as `unix:/run/app.sock`")]
    Relative,
    /// A socket that no system call can name.
    #[error("the path of a socket has at most {LONGEST} bytes")]
    TooLong,
}

impl Address {
    /// From a URL of scheme, host and port (`http://10.0.0.1:8080`, `https://api.internal`), or from the path of a socket
    /// (`unix:/run/app.sock`).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return socket(path);
        }
        let uri: hyper::Uri = text.parse().map_err(|_invalid| BadAddress::Url)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(BadAddress::Url),
        };
        let authority = uri.authority().ok_or(BadAddress::Url)?;
        if !matches!(uri.path_and_query().map_or("/", |p| p.as_str()), "/" | "") || authority.as_str().contains('@') {
            return Err(BadAddress::Url);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        if host.is_empty() || port == 0 { Err(BadAddress::Url) } else { Ok(Self::Tcp { tls, host, port }) }
    }

    /// Whether it is spoken to over TLS.
    pub const fn is_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. })
    }

    /// Host and port as a URL or the header `Host` has them; a socket is of this machine.
    pub fn authority(&self) -> String {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
            Self::Unix(_) => "localhost".to_owned(),
        }
    }

    /// The name that has to be looked up, and the port; none if it is known where the address leads.
    pub(super) fn name(&self) -> Option<(&str, u16)> {
        match self {
            Self::Tcp { host, port, .. } if host.parse::<IpAddr>().is_err() => Some((host, *port)),
            Self::Tcp { .. } | Self::Unix(_) => None,
        }
    }
}

fn socket(path: &str) -> Result<Address, BadAddress> {
    // `unix:///run/app.sock` is what gRPC calls it.
    let path = path.strip_prefix("//").unwrap_or(path);
    if !Path::new(path).is_absolute() || path.ends_with('/') || path.contains('\0') {
        return Err(BadAddress::Relative);
    }
    if path.len() > LONGEST { Err(BadAddress::TooLong) } else { Ok(Address::Unix(path.into())) }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { tls, .. } => write!(f, "{}://{}", if *tls { "https" } else { "http" }, self.authority()),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_scheme_host_and_port() {
        for (url, shown) in [
            ("http://10.0.0.1:8080", "http://10.0.0.1:8080"),
            ("https://api.internal", "https://api.internal:443"),
            ("http://[::1]:9000/", "http://[::1]:9000"),
        ] {
            assert_eq!(Address::parse(url).unwrap().to_string(), shown);
        }
        for wrong in
            ["10.0.0.1:80", "ftp://a", "http://a/path", "http://", "http://user@a", "http://a:0", "http://a?x=1", ""]
        {
            assert_eq!(Address::parse(wrong), Err(BadAddress::Url), "{wrong}");
        }
    }

    #[test]
    fn sockets_are_absolute_paths_of_this_machine() {
        for text in ["unix:/run/app.sock", "unix:///run/app.sock"] {
            let address = Address::parse(text).unwrap();
            assert_eq!(
                (address.to_string().as_str(), address.authority().as_str()),
                ("unix:/run/app.sock", "localhost")
            );
            assert!(!address.is_tls() && address.name().is_none());
        }
        for wrong in ["unix:", "unix:app.sock", "unix:./app.sock", "unix:/run/", "unix:/a\0b"] {
            assert_eq!(Address::parse(wrong), Err(BadAddress::Relative), "{wrong}");
        }
        let named = |bytes: usize| Address::parse(&format!("unix:/{}", "s".repeat(bytes - 1)));
        assert!(named(LONGEST).is_ok());
        assert_eq!(named(LONGEST + 1), Err(BadAddress::TooLong));
    }

    #[test]
    fn only_names_are_looked_up() {
        let name = |text: &str| Address::parse(text).unwrap().name().map(|(name, port)| (name.to_owned(), port));
        assert_eq!(name("http://api.internal:81"), Some(("api.internal".to_owned(), 81)));
        assert_eq!(name("http://10.0.0.1"), None);
        assert_eq!(name("http://[::1]"), None);
    }
}
