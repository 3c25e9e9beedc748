//! Ed25519 keys as OpenSSL writes them, so that authors need no tool of ours: `openssl genpkey -algorithm ed25519` makes a
//! private key (PKCS#8, RFC 8410), `openssl pkey -pubout` its public key (SPKI).
//!
//! The id of a key is the SHA-256 of its SPKI in DER, lower-case hex.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ed25519_dalek::{
    SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _},
};
use sha2::{Digest as _, Sha256};

use crate::dsse::{PrivateKey, PublicKey};

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key.
    #[error(
        "is not an ed25519 public key; give what `openssl pkey -in KEY.pem -pubout` prints, or the one line between its first and its last"
    )]
    Public,
    /// A public key for which signatures can be made without the private one.
    #[error(
        "is a weak key, for which anybody can make signatures; make another with `openssl genpkey -algorithm ed25519`"
    )]
    Weak,
    /// Not a private key.
    #[error(
        "is not an ed25519 private key in PEM without a passphrase; make one with `openssl genpkey -algorithm ed25519`"
    )]
    Private,
    /// The key cannot be written as SPKI.
    #[error("cannot be encoded")]
    Encoding,
}

/// Reads a public key: PEM, or its base64 alone.
///
/// # Errors
/// Why it cannot be used.
pub(super) fn public(text: &str) -> Result<PublicKey, KeyError> {
    let text = text.trim();
    let key = if text.starts_with("-----") {
        VerifyingKey::from_public_key_pem(text).ok()
    } else {
        BASE64_STANDARD.decode(text).ok().and_then(|der| VerifyingKey::from_public_key_der(&der).ok())
    };
    let key = key.ok_or(KeyError::Public)?;
    if key.is_weak() {
        return Err(KeyError::Weak);
    }
    let id = id(&key)?;
    Ok(PublicKey::new(key, id))
}

/// Reads a private key in PEM.
///
/// # Errors
/// Why it cannot be used.
pub fn private(pem: &str) -> Result<PrivateKey, KeyError> {
    let key = SigningKey::from_pkcs8_pem(pem.trim()).map_err(|_wrong| KeyError::Private)?;
    let id = id(&key.verifying_key())?;
    Ok(PrivateKey::new(key, id))
}

fn id(key: &VerifyingKey) -> Result<String, KeyError> {
    let spki = key.to_public_key_der().map_err(|_wrong| KeyError::Encoding)?;
    Ok(hex::encode(Sha256::digest(spki.as_bytes())))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What `openssl genpkey` writes for a secret of 32 equal bytes: PKCS#8 without the public key (RFC 8410, section 7).
    pub(crate) fn private_pem(secret: u8) -> String {
        let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
        der.extend([secret; 32]);
        let label = "PRIVATE KEY";
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
    }

    /// What `openssl pkey -pubout` writes for it, without the first and the last line.
    pub(crate) fn public_line(secret: u8) -> String {
        let key = SigningKey::from_bytes(&[secret; 32]).verifying_key();
        BASE64_STANDARD.encode(key.to_public_key_der().unwrap())
    }

    #[test]
    fn a_key_has_one_id_however_it_is_written() {
        // Made with OpenSSL 3: `openssl pkey -pubout`, and `-outform DER | sha256sum`.
        let line = "MCowBQYDK2VwAyEA7Ily8zxRN0ZINQD/GrkUMrwmYR+WTGP02AOQEcmqmis=";
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{line}\n-----END PUBLIC KEY-----\n");
        let id = "d6bbc0cc2056126f03ac45eaf034bf552b9e3b5c909a8a0e0a775ecd40d047f5";
        assert_eq!(public(line).unwrap().id, id);
        assert_eq!(public(&pem).unwrap().id, id);
    }

    #[test]
    fn a_private_key_has_the_id_of_its_public_key() {
        let signer = private(&private_pem(7)).unwrap();
        assert_eq!(signer.id, public(&public_line(7)).unwrap().id);
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_command_that_makes_one() {
        let raw = BASE64_STANDARD.encode([7; 32]);
        for text in ["", "hello", raw.as_str(), private_pem(7).as_str()] {
            assert_eq!(public(text).unwrap_err(), KeyError::Public, "{text}");
        }
        let mut weak = hex::decode("302a300506032b6570032100").unwrap();
        weak.extend([1].into_iter().chain([0; 31]));
        assert_eq!(public(&BASE64_STANDARD.encode(weak)).unwrap_err(), KeyError::Weak);
        for text in ["", public_line(7).as_str()] {
            assert_eq!(private(text).unwrap_err(), KeyError::Private, "{text}");
        }
        assert!(KeyError::Private.to_string().contains("openssl genpkey"));
    }
}
