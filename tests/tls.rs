//! Both ends of TLS, for tests that speak it.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

/// The name that certificates are for.
pub(crate) const NAME: &str = "shop.example";

/// Makes a certificate for [`NAME`] and its key: `cert.pem` and `key.pem` in a folder. The lines of a configuration that
/// is read in another place.
pub(crate) fn certify(folder: &Path) -> String {
    let certified = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let [certificate, key] = ["cert.pem", "key.pem"].map(|file| folder.join(file));
    fs::write(&certificate, certified.cert.pem()).unwrap();
    fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    format!("tls = {{ certificate = '{}', key = '{}' }}", certificate.display(), key.display())
}

/// A caller who trusts the certificate in that folder, and speaks a protocol.
pub(crate) fn caller(folder: &Path, protocol: &str) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    TlsConnector::from(Arc::new(config))
}
