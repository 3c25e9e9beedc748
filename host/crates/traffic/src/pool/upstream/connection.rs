//! Connections of HTTP/1.1 or HTTP/2 to upstreams: how they are made, and how a request is handed to one.

use std::{
    fmt,
    future::poll_fn,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper::{
    HeaderMap, Request, StatusCode, Uri, Version,
    client::conn::{http1, http2},
    header::{CONTENT_LENGTH, EXPECT, HOST, HeaderValue, TRANSFER_ENCODING},
    http::uri::PathAndQuery,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use super::{
    Inner, Outgoing, UpstreamSpec,
    address::Address,
    interim::Interims,
    resolve::Origin,
    upload::Upload,
    wire::{self, AnswerBody, Stream, Torn, Wire},
};
use crate::message::{Fields, ReplyHead, RequestHead};

/// How connections to upstreams are made: over TLS or not, with HTTP/2 or HTTP/1.1.
#[derive(Clone)]
pub struct Connector {
    http2: bool,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) server_name: Option<ServerName<'static>>,
}

/// What TLS to upstreams is made of.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Certificates that are trusted, as PEM; those of the system unless it is set.
    pub ca: Option<PathBuf>,
    /// The name that certificates must be for; the upstream's host unless it is set.
    pub server_name: Option<String>,
    /// The certificate that the host shows and its key, as PEM; none unless it is set.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or a key cannot be read.
    #[error("cannot read `{path}` as PEM")]
    Pem {
        /// The file that cannot be read.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// The file has no certificate in it.
    #[error("`{0}` has no certificate")]
    Empty(PathBuf),
    /// The system's certificates cannot be read.
    #[error("the system has no trusted certificates; set `tls.ca`")]
    NoRoots,
    /// The certificates or the key cannot be used together.
    #[error("the certificates or the key cannot be used")]
    Unusable(#[from] rustls::Error),
    /// The certificates that vouch for callers cannot be used.
    #[error("the certificates of who vouches for callers cannot be used")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The name is not that of a server.
    #[error("`{0}` is not a server's name")]
    Name(String, #[source] InvalidDnsNameError),
}

/// A connection to which requests are handed.
pub(super) enum Sender {
    /// HTTP/1.1, read and written in the request's own task.
    Wire(Box<Wire>),
    /// HTTP/1.1 through hyper, in a task of its own.
    Http1(http1::SendRequest<Upload>, Origin),
    /// HTTP/2 through hyper, in a task of its own, for many requests at once.
    Http2(http2::SendRequest<Upload>, Origin),
}

/// What became of a request that was handed to a connection.
pub(super) type Sent = Result<Begun, NotSent>;

/// The head of an answer came.
pub(super) struct Begun {
    pub(super) head: ReplyHead,
    pub(super) body: AnswerBody,
    /// The connection, once it has changed its protocol.
    pub(super) upgraded: Option<OnUpgrade>,
    /// The connection, if the body does not hold it.
    pub(super) sender: Option<Sender>,
}

/// What is known of a request that got no answer.
pub(super) struct NotSent {
    pub(super) why: Torn,
    /// Whether the upstream may have seen any of the request.
    pub(super) seen: bool,
    /// Whether it closed the connection without a word.
    pub(super) is_silent: bool,
}

impl NotSent {
    /// The upstream has not seen any of it.
    fn unseen(why: impl Into<Torn>) -> Self {
        Self { why: why.into(), seen: false, is_silent: false }
    }
}

impl Connector {
    /// Over TCP. `tls` is needed if an upstream is spoken to over TLS.
    ///
    /// # Errors
    /// When certificates or names cannot be used.
    pub fn new(http2: bool, tls: Option<&TlsSettings>) -> Result<Self, TlsError> {
        let Some(settings) = tls else { return Ok(Self::plain(http2)) };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots(settings.ca.as_ref())?);
        let mut config = match &settings.identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let pem = |source| TlsError::Pem { path: key.clone(), source };
                config.with_client_auth_cert(
                    certificates(certificate)?,
                    PrivateKeyDer::from_pem_file(key).map_err(pem)?,
                )?
            }
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let server_name = settings.server_name.as_ref().map(|name| server_name(name)).transpose()?;
        Ok(Self { http2, tls: Some(Arc::new(config)), server_name })
    }

    /// Connections without TLS, over HTTP/2 or HTTP/1.1.
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
/// When the file cannot be read or has no certificate.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |source| TlsError::Pem { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path).map_err(pem)?.collect::<Result<Vec<_>, _>>().map_err(pem)?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

pub(super) fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|e| TlsError::Name(name.to_owned(), e))
}

impl Sender {
    /// Another handle of the same connection, if it takes several requests at once.
    pub(super) fn share(&self) -> Option<Self> {
        match self {
            Self::Wire(_) | Self::Http1(..) => None,
            Self::Http2(sender, origin) => Some(Self::Http2(sender.clone(), *origin)),
        }
    }

    pub(super) const fn origin(&self) -> Origin {
        match self {
            Self::Wire(wire) => wire.origin(),
            Self::Http1(_, origin) | Self::Http2(_, origin) => *origin,
        }
    }

    pub(super) fn is_closed(&mut self) -> bool {
        match self {
            Self::Wire(wire) => !wire.is_quiet(),
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Waits until the last response was read to its end; false if the connection is gone.
    pub(super) async fn ready(&mut self) -> bool {
        match self {
            Self::Wire(_) => true,
            Self::Http1(sender, _) => poll_fn(|cx| sender.poll_ready(cx)).await.is_ok(),
            Self::Http2(sender, _) => sender.ready().await.is_ok(),
        }
    }

    /// Sends the request to a member of the pool. It stays where it is if `again` says that it may be sent once more, or
    /// if nothing of it was sent; only one whose body is here can be sent again.
    pub(super) async fn send(
        self,
        (pool, address): (&Inner, &Address),
        request: &mut Option<Outgoing>,
        again: bool,
    ) -> Sent {
        let sender = match (self, &request) {
            (Self::Wire(wire), Some(request)) if wire::takes(request) => {
                return match wire.exchange(request, pool.spec.request_rules()).await {
                    Ok((head, body, wire)) => Ok(Begun { head, body, upgraded: None, sender: wire.map(Self::Wire) }),
                    Err(wire::Unsent { why, seen, is_silent }) => Err(NotSent { why: why.into(), seen, is_silent }),
                };
            }
            (Self::Wire(wire), _) => {
                let origin = wire.origin();
                match pool.handshake(wire.into_stream(), origin).await {
                    Ok(sender) => sender,
                    Err(error) => return Err(NotSent::unseen(error)),
                }
            }
            (ready, _) => ready,
        };
        // Apart from the request, which would carry the room for it otherwise: most are sent over a wire.
        Box::pin(sender.send_through_hyper((pool, address), request, again)).await
    }

    async fn send_through_hyper(
        mut self,
        (pool, address): (&Inner, &Address),
        slot: &mut Option<Outgoing>,
        again: bool,
    ) -> Sent {
        let nothing = || NotSent::unseen(wire::Broken::Closed);
        let Outgoing { head, body, interims, ends } = slot.take().ok_or_else(nothing)?;
        let copy = again.then(|| body.again()).flatten();
        let request = for_hyper(&head, body, interims.clone(), (address, &pool.spec));
        // It stays in its slot also if the wait for an answer is given up.
        let kept = if let Some(body) = copy {
            *slot = Some(Outgoing { head, body, interims, ends });
            None
        } else {
            Some((head, interims, ends))
        };
        let sent = match &mut self {
            Self::Wire(_) => return Err(nothing()),
            Self::Http1(sender, _) => sender.try_send_request(request).await,
            Self::Http2(sender, _) => sender.try_send_request(request).await,
        };
        // Other requests share a connection of HTTP/2 already: it waits with the others.
        let is_http2 = matches!(self, Self::Http2(..));
        let sender = if is_http2 { None } else { Some(self) };
        match sent {
            Ok(response) if !is_http2 && !is_coding_known(response.headers()) => {
                let why = wire::Broken::Framing("its transfer coding is not known");
                Err(NotSent { why: why.into(), seen: true, is_silent: false })
            }
            Ok(mut response) => {
                let upgraded =
                    (response.status() == StatusCode::SWITCHING_PROTOCOLS).then(|| hyper::upgrade::on(&mut response));
                let (head, body) = response.into_parts();
                Ok(Begun { head: head.into(), body: AnswerBody::Hyper { body, is_http2 }, upgraded, sender })
            }
            Err(mut error) => {
                let unsent = error.take_message();
                let seen = unsent.is_none();
                if let (Some(unsent), Some((head, interims, ends))) = (unsent, kept) {
                    *slot = Some(Outgoing { head, body: unsent.into_body(), interims, ends });
                }
                let error = error.into_error();
                // A connection of HTTP/2 says which requests it has not seen.
                let is_silent = seen && !is_http2 && error.is_incomplete_message();
                Err(NotSent { why: error.into(), seen, is_silent })
            }
        }
    }
}

/// Whether the body is encoded for this connection in no way that hyper would not undo, and the caller not hear of.
fn is_coding_known(fields: &HeaderMap) -> bool {
    let mut codings = fields.get_all(TRANSFER_ENCODING).into_iter();
    codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) && codings.next().is_none()
}

/// A request as hyper wants it, with its target as the upstream's protocol does.
fn for_hyper(
    head: &RequestHead,
    body: Upload,
    interims: Option<Arc<Interims>>,
    (address, spec): (&Address, &UpstreamSpec),
) -> Request<Upload> {
    let asked = body.asked();
    let has_length = hyper::body::Body::size_hint(&body).exact().is_some();
    let mut request = Request::new(body);
    head.method.clone_into(request.method_mut());
    *request.headers_mut() = head.fields.to_map();
    if let Some(rules) = spec.request_rules() {
        rules.apply_to_map(request.headers_mut());
    }
    if spec.connector.is_http2() {
        *request.version_mut() = Version::HTTP_2;
        request.headers_mut().remove(EXPECT);
        let host = request.headers_mut().remove(HOST).filter(|host| !host.is_empty());
        let host = host.and_then(|host| host.to_str().ok().map(str::to_owned));
        let authority = host.unwrap_or_else(|| address.authority());
        let scheme = if address.is_tls() { "https" } else { "http" };
        let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        if let Ok(uri) = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build() {
            *request.uri_mut() = uri;
        }
    } else {
        head.uri.clone_into(request.uri_mut());
        // Said aloud, because without that hyper takes a GET or HEAD to have no body, and would lose it.
        if !has_length {
            request.headers_mut().remove(CONTENT_LENGTH);
            request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
    if asked.is_some() || interims.is_some() {
        hyper::ext::on_informational(&mut request, move |response| match (&asked, &interims) {
            (Some(asked), _) if response.status() == StatusCode::CONTINUE => asked.open(),
            (_, Some(interims)) => {
                let (status, fields) = (response.status(), Fields::from(response.headers()));
                interims.leave(ReplyHead { status, reason: None, fields });
            }
            (_, None) => {}
        });
    }
    request
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wire(_) => "Wire",
            Self::Http1(..) => "Http1",
            Self::Http2(..) => "Http2",
        })
    }
}

impl Inner {
    /// A connection that was just made, ready for a request.
    pub(super) async fn begin(&self, stream: Stream, origin: Origin) -> hyper::Result<Sender> {
        if self.spec.connector.http2 {
            return self.handshake(stream, origin).await;
        }
        let wire = Wire::new(stream, origin);
        self.cuts.lock().push(wire.cut());
        // It may have been too late to be cut with the others.
        if self.signals.lock().give_up.is_cancelled() {
            self.cut_wires();
        }
        Ok(Sender::Wire(Box::new(wire)))
    }

    /// Gives a connection to hyper.
    async fn handshake(&self, stream: Stream, origin: Origin) -> hyper::Result<Sender> {
        let io = TokioIo::new(stream);
        if self.spec.connector.http2 {
            let mut http = http2::Builder::new(TokioExecutor::new());
            http.timer(TokioTimer::new()).keep_alive_interval(self.spec.idle_timeout);
            let (sender, connection) = http.handshake(io).await?;
            self.drive(connection);
            return Ok(Sender::Http2(sender, origin));
        }
        let (sender, connection) = http1::handshake(io).await?;
        self.drive(connection.with_upgrades());
        Ok(Sender::Http1(sender, origin))
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
