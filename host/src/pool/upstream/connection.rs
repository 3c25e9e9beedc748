//! Making connections to upstreams: TCP, TLS, HTTP/1.1 or HTTP/2.

use std::{fmt, future::poll_fn, path::PathBuf, sync::Arc};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{Inner, member::Address, upload::Upload};
use crate::{
    causes::chain,
    request::{Failure, FailureKind},
};

/// How upstreams are spoken to.
#[derive(Clone)]
pub struct Connector {
    http2: bool,
    tls: Option<Arc<ClientConfig>>,
    server_name: Option<ServerName<'static>>,
}

/// What TLS to upstreams is made of.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Certificates that are trusted, as PEM; those of the system unless it is set.
    pub ca: Option<PathBuf>,
    /// The name that certificates must be for; the upstream's host unless it is set.
    pub server_name: Option<String>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or a key cannot be read.
    #[error("cannot read `{path}` as PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is nothing in it.
    #[error("`{0}` has no certificate")]
    Empty(PathBuf),
    /// The system's certificates cannot be read.
    #[error("the system has no trusted certificates; set `tls.ca`")]
    NoRoots,
    /// What is in it cannot be used.
    #[error("the certificates or the key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// A name that is none.
    #[error("`{0}` is not a server's name")]
    Name(String, #[source] InvalidDnsNameError),
}

/// Where requests are handed to a connection.
pub(super) enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// What became of a request that was handed to a connection.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

impl Connector {
    /// Over TCP. `tls` is needed if an upstream is spoken to over TLS.
    ///
    /// # Errors
    /// When certificates or names cannot be used.
    pub fn new(http2: bool, tls: Option<&TlsSettings>) -> Result<Self, TlsError> {
        let Some(settings) = tls else { return Ok(Self::plain(http2)) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots(settings.ca.as_ref())?).with_no_client_auth();
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let server_name = settings.server_name.as_ref().map(|name| server_name(name)).transpose()?;
        Ok(Self { http2, tls: Some(Arc::new(config)), server_name })
    }

    /// Without TLS.
    pub const fn plain(http2: bool) -> Self {
        Self { http2, tls: None, server_name: None }
    }

    /// Whether HTTP/2 is spoken.
    pub const fn is_http2(&self) -> bool {
        self.http2
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tls, server_name) = (self.tls.is_some(), &self.server_name);
        f.debug_struct("Connector").field("http2", &self.http2).field("tls", &tls).field("name", server_name).finish()
    }
}

fn roots(ca: Option<&PathBuf>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca else {
        let (added, _unusable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if added > 0 { Ok(roots) } else { Err(TlsError::NoRoots) };
    };
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The certificates in a PEM file.
///
/// # Errors
/// When it cannot be read or has none.
pub fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.clone(), source };
    let certificates = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.clone())) } else { Ok(certificates) }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|e| TlsError::Name(name.to_owned(), e))
}

impl Sender {
    /// Another handle of the same connection, if it takes several requests at once.
    pub(super) fn share(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Waits until the last response was read to its end; false if the connection is gone.
    pub(super) async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => poll_fn(|cx| sender.poll_ready(cx)).await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub(super) async fn send(&mut self, request: Request<Upload>) -> Sent {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1(_) => "Http1",
            Self::Http2(_) => "Http2",
        })
    }
}

impl Inner {
    /// A new connection to a member.
    pub(super) async fn connect(&self, address: &Address) -> Result<Sender, Failure> {
        let limit = self.spec.connect_timeout;
        match timeout(limit, self.try_connect(address)).await {
            Ok(connected) => connected,
            Err(_elapsed) => Err(unreached(address, &format!("no connection within {limit:?}"))),
        }
    }

    async fn try_connect(&self, address: &Address) -> Result<Sender, Failure> {
        let failed = |what: &dyn std::error::Error| unreached(address, &chain(what));
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| failed(&e))?;
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        if !address.tls {
            return self.handshake(stream).await.map_err(|e| failed(&e));
        }
        let connector = &self.spec.connector;
        let Some(tls) = connector.tls.clone() else {
            return Err(unreached(address, "TLS is not set up"));
        };
        let name = match &connector.server_name {
            Some(name) => name.clone(),
            None => server_name(&address.host).map_err(|e| failed(&e))?,
        };
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(|e| failed(&e))?;
        self.handshake(stream).await.map_err(|e| failed(&e))
    }

    async fn handshake<S>(&self, stream: S) -> hyper::Result<Sender>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(stream);
        if self.spec.connector.http2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).keep_alive_interval(self.spec.idle_timeout);
            let (sender, connection) = http.handshake(io).await?;
            self.drive(connection);
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) = http1::handshake(io).await?;
        self.drive(connection.with_upgrades());
        Ok(Sender::Http1(sender))
    }
}

impl Inner {
    /// Drives a connection to its end. Giving up cuts it, and with it whatever it carries.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let signals = Arc::clone(&self.signals.lock());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "a connection to an upstream ended early");
                },
                () = signals.give_up.cancelled() => {}
            }
        });
    }
}

fn unreached(address: &Address, why: &str) -> Failure {
    Failure::unsent(FailureKind::Connection, format!("{address} is not reached: {why}"))
}
