//! TLS on the listener: HTTP/2 or HTTP/1.1, as the caller prefers.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

use crate::pool::upstream::{TlsError, connection::certificates};

/// Reads a certificate chain and its key, both PEM.
///
/// # Errors
/// When they cannot be read, or do not belong together.
pub fn server(certificate: &PathBuf, key: &PathBuf) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let pem = |source| TlsError::Pem { path: key.clone(), source };
    let key = PrivateKeyDer::from_pem_file(key).map_err(pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
