//! TLS on the listener: HTTP/2 or HTTP/1.1, as the caller prefers. The certificate is read again when its files change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{
        PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
};
use tokio::task::spawn_blocking;

use super::certified::CertificateFields;
use crate::pool::upstream::{TlsError, connection::certificates};
use cutover_model::causes::chain;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// What callers are shown, and what is agreed on with them.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
    fields: CertificateFields,
}

#[derive(Debug)]
struct Identity {
    certificate: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<CertifiedKey>>,
    /// The files that were read last.
    seen: Mutex<[Option<Stamp>; 2]>,
}

/// How callers show certificates.
#[derive(Debug, Clone)]
pub struct ClientAuth {
    /// The file of the authorities whose certificates are believed, as PEM.
    pub ca: PathBuf,
    /// Whether callers without a certificate are served as well.
    pub is_optional: bool,
}

/// What changes when a file is written or replaced, or given to somebody else: where it is, how long, and when it changed.
type Stamp = (u64, u64, u64, i64, i64);

/// Reads a certificate chain and its key, both PEM; and, if callers are to show certificates, who vouches for those.
/// `fields` are those in which upstreams are told of them.
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn server(
    (certificate, key): (&Path, &Path),
    clients: Option<&ClientAuth>,
    fields: CertificateFields,
) -> Result<Tls, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let seen = [certificate, key].map(stamp);
    let identity = Arc::new(Identity {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
        current: RwLock::new(read(certificate, key, &provider)?),
        provider: Arc::clone(&provider),
        seen: Mutex::new(seen),
    });
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => config.with_client_cert_verifier(verifier(clients, provider)?),
    };
    let mut config = config.with_cert_resolver(Arc::clone(&identity) as Arc<_>);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls { config: Arc::new(config), identity, fields })
}

fn verifier(clients: &ClientAuth, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&clients.ca)? {
        roots.add(certificate)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(if clients.is_optional { builder.allow_unauthenticated() } else { builder }.build()?)
}

fn read(certificate: &Path, key: &Path, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(certificate)?;
    let pem = |source| TlsError::Pem { path: key.to_owned(), source };
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, provider)?))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file: io::Result<fs::Metadata> = fs::metadata(path);
    file.ok().map(|file| (file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}

impl Tls {
    /// What connections are accepted with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The fields in which upstreams are told of callers' certificates.
    pub fn fields(&self) -> &CertificateFields {
        &self.fields
    }

    /// Looks at the files now, whether they have changed or not; true if another certificate is in use since.
    ///
    /// # Errors
    /// Why what is there cannot be used; the last one stays in use.
    pub async fn look_again(&self) -> Result<bool, TlsError> {
        let identity = Arc::clone(&self.identity);
        spawn_blocking(move || identity.look()).await.unwrap_or(Ok(false))
    }

    /// Looks at the files now and then, for as long as it is polled.
    pub(super) async fn keep_fresh(&self) {
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let identity = Arc::clone(&self.identity);
            let Ok(looked) = spawn_blocking(move || identity.look()).await else { continue };
            let certificate = self.identity.certificate.display();
            match looked {
                Ok(true) => tracing::info!(%certificate, "the certificate was read again"),
                Ok(false) => {}
                Err(error) => tracing::error!(
                    %certificate,
                    error = chain(&error),
                    "the certificate has changed and cannot be used; the last one stays in use"
                ),
            }
        }
    }
}

impl Identity {
    /// Reads the files if they changed since; whether they did. What cannot be used is not looked at again until it changes;
    /// what cannot be read is.
    fn look(&self) -> Result<bool, TlsError> {
        let now = [&self.certificate, &self.key].map(|path| stamp(path));
        if *self.seen.lock() == now {
            return Ok(false);
        }
        let came = read(&self.certificate, &self.key, &self.provider);
        if !matches!(came, Err(TlsError::Pem { source: pem::Error::Io(_), .. })) {
            *self.seen.lock() = now;
        }
        *self.current.write() = came?;
        Ok(true)
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_does_not_take_the_place_of_what_can() {
        let folder = tempfile::tempdir().unwrap();
        let [certificate, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
        let renew = || rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        let first = renew();
        fs::write(&certificate, first.cert.pem()).unwrap();
        fs::write(&key, first.signing_key.serialize_pem()).unwrap();
        let identity = server((&certificate, &key), None, CertificateFields::default()).unwrap().identity;
        let shown = || identity.current.read().cert.first().unwrap().to_vec();
        assert!(!identity.look().unwrap(), "nothing has changed");
        let second = renew();
        fs::write(&certificate, second.cert.pem()).unwrap();
        assert!(matches!(identity.look(), Err(TlsError::Unusable(_))), "the key is not the certificate's");
        assert_eq!(shown(), first.cert.der().to_vec());
        assert!(!identity.look().unwrap(), "that is said once");
        fs::write(&key, second.signing_key.serialize_pem()).unwrap();
        assert!(identity.look().unwrap());
        assert_eq!(shown(), second.cert.der().to_vec());
        fs::remove_file(&key).unwrap();
        assert!(matches!(identity.look(), Err(TlsError::Pem { .. })));
        assert!(matches!(identity.look(), Err(TlsError::Pem { .. })), "it may be there the next time");
        assert_eq!(shown(), second.cert.der().to_vec());
    }
}
