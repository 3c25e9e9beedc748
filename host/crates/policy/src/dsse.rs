//! DSSE, the envelope of in-toto and Sigstore: a payload, its type, and signatures over both.
//!
//! As <https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md> says, with Ed25519 (RFC 8032). The protocol is a
//! page; the one crate that has it by itself is kept by one vendor, the others bring all of Sigstore along. So it is
//! written here over `ed25519-dalek`, and held against signatures of OpenSSL by a test.
//!
//! What is verified is returned from here and not decoded again elsewhere. Ids of keys are hints, as the protocol wants
//! it: each signature is tried with each key, and each key counts once.

use std::fmt;

use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Signatures that an envelope may carry. Every one is tried with every listed key, so their number bounds that work.
pub const MAX_SIGNATURES: usize = 64;

/// A signed payload, as it is written in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    /// The payload in base64.
    pub payload: String,
    /// What the payload is; part of what is signed.
    pub payload_type: String,
    /// Signatures in any order; one that is trusted is enough.
    pub signatures: Vec<Signature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Whose it claims to be; not signed, so nobody relies on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyid: Option<String>,
    /// The signature in base64.
    pub sig: String,
}

/// A key that signs.
#[derive(Clone)]
pub struct PrivateKey {
    /// The id of its public key.
    pub id: String,
    key: SigningKey,
}

/// A key that is believed.
#[derive(Debug, Clone)]
pub struct PublicKey {
    /// Which one it is; no two keys have the same.
    pub id: String,
    key: VerifyingKey,
}

/// A payload that enough keys have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The bytes that were signed.
    pub payload: Vec<u8>,
    /// The ids of the keys that signed them.
    pub by: Vec<String>,
}

/// Why a payload is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// The envelope has no signature at all.
    #[error("there are no signatures")]
    NoSignatures,
    /// More would be work without bounds.
    #[error("there are {found} signatures; at most {MAX_SIGNATURES} are read")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// The payload is not base64.
    #[error("the payload is not base64")]
    Encoding,
    /// No signature is one of a listed key.
    #[error("no signature is by a key that is listed")]
    Nobody {
        /// The ids of the listed keys that signatures claim to be by, wrongly.
        claimed: Vec<String>,
    },
    /// Too few keys have signed.
    #[error("only {} of {required} keys have signed", by.len())]
    TooFew {
        /// The ids of those that have.
        by: Vec<String>,
        /// How many have to.
        required: usize,
    },
}

impl PrivateKey {
    /// A key whose public key has the id `id`.
    pub const fn new(key: SigningKey, id: String) -> Self {
        Self { id, key }
    }
}

impl PublicKey {
    /// A key that goes by `id`.
    pub const fn new(key: VerifyingKey, id: String) -> Self {
        Self { id, key }
    }

    /// Whether this key has made a signature. Strict: a signature that can be written in another way is none (RFC 8032,
    /// 5.1.7).
    fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        ed25519_dalek::Signature::from_slice(signature).is_ok_and(|made| self.key.verify_strict(message, &made).is_ok())
    }
}

/// Signs a payload with each key.
pub fn sign(payload_type: &str, payload: &[u8], keys: &[PrivateKey]) -> Envelope {
    let message = encoded(payload_type, payload);
    let signatures = keys.iter().map(|key| Signature {
        keyid: Some(key.id.clone()),
        sig: BASE64_STANDARD.encode(key.key.sign(&message).to_bytes()),
    });
    Envelope {
        payload: BASE64_STANDARD.encode(payload),
        payload_type: payload_type.into(),
        signatures: signatures.collect(),
    }
}

impl Envelope {
    /// The payload, if `required` of `keys` have signed it. The keys are different ones.
    ///
    /// # Errors
    /// Why it is not believed.
    pub fn verify(&self, keys: &[&PublicKey], required: usize) -> Result<Verified, Unverified> {
        match self.signatures.len() {
            0 => return Err(Unverified::NoSignatures),
            1..=MAX_SIGNATURES => {}
            found => return Err(Unverified::TooMany { found }),
        }
        let payload = decoded(&self.payload).ok_or(Unverified::Encoding)?;
        let message = encoded(&self.payload_type, &payload);
        // One that cannot be read is by nobody: anybody can add it, and must not keep the others from being believed.
        let made: Vec<_> = self.signatures.iter().filter_map(|signature| decoded(&signature.sig)).collect();
        let signed = |key: &PublicKey| made.iter().any(|signature| key.has_signed(&message, signature));
        let ids = |keys: Vec<&&PublicKey>| keys.into_iter().map(|key| key.id.clone()).collect::<Vec<_>>();
        let (by, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| signed(key));
        let by = ids(by);
        if by.is_empty() {
            let claims = |key: &PublicKey| self.signatures.iter().any(|made| made.keyid.as_ref() == Some(&key.id));
            let claimed = ids(others.into_iter().filter(|key| claims(key)).collect());
            return Err(Unverified::Nobody { claimed });
        }
        if by.len() < required {
            return Err(Unverified::TooFew { by, required });
        }
        Ok(Verified { payload, by })
    }
}

impl fmt::Debug for PrivateKey {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is signed: the protocol's pre-authentication encoding, which no two pairs of type and payload have in common.
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Reads either base64 that the protocol allows.
fn decoded(text: &str) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(text).or_else(|_other| BASE64_URL_SAFE.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "http://example.com/HelloWorld";

    fn pair(secret: u8) -> (PrivateKey, PublicKey) {
        let (key, id) = (SigningKey::from_bytes(&[secret; 32]), format!("key {secret}"));
        (PrivateKey::new(key.clone(), id.clone()), PublicKey::new(key.verifying_key(), id))
    }

    /// The protocol's example, signed by `openssl pkeyutl -sign -rawin` with a key of 32 sevens.
    fn by_openssl() -> Envelope {
        let sig = "x8C42/OkU4z37LDC5pamTcQZTQfPyTXZ3TA7/ZdCmyoiJJmF0LSYTZNSyG/fVxKWqjpw4Jevlqk8rCoETixLDA==";
        Envelope {
            payload: "aGVsbG8gd29ybGQ=".into(),
            payload_type: TYPE.into(),
            signatures: vec![Signature { keyid: None, sig: sig.into() }],
        }
    }

    #[test]
    fn what_openssl_has_signed_is_believed_and_signed_in_the_same_way() {
        assert_eq!(encoded(TYPE, b"hello world"), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
        let (private, public) = pair(7);
        let verified = by_openssl().verify(&[&public], 1).unwrap();
        assert_eq!(verified, Verified { payload: b"hello world".into(), by: vec!["key 7".into()] });
        let ours = sign(TYPE, b"hello world", &[private]);
        assert_eq!(ours.signatures[0].sig, by_openssl().signatures[0].sig);
    }

    #[test]
    fn it_is_written_as_the_protocol_says() {
        let written = serde_json::to_value(by_openssl()).unwrap();
        assert_eq!(written["payloadType"], TYPE);
        assert_eq!(serde_json::from_value::<Envelope>(written).unwrap(), by_openssl());
    }

    #[test]
    fn base64_for_urls_is_read_and_what_cannot_be_read_is_by_nobody() {
        let (_, public) = pair(7);
        let mut envelope = by_openssl();
        let sig = envelope.signatures[0].sig.replace('+', "-").replace('/', "_");
        envelope.signatures = vec![Signature { keyid: None, sig: "?".into() }, Signature { keyid: None, sig }];
        assert!(envelope.verify(&[&public], 1).is_ok());
        envelope.signatures.truncate(1);
        assert_eq!(envelope.verify(&[&public], 1), Err(Unverified::Nobody { claimed: Vec::new() }));
        let envelope = Envelope { payload: "?".into(), ..by_openssl() };
        assert_eq!(envelope.verify(&[&public], 1), Err(Unverified::Encoding));
    }

    #[test]
    fn their_number_is_bounded() {
        let (_, public) = pair(7);
        let mut envelope = by_openssl();
        let one = envelope.signatures[0].clone();
        envelope.signatures = vec![one; MAX_SIGNATURES + 1];
        assert_eq!(envelope.verify(&[&public], 1), Err(Unverified::TooMany { found: MAX_SIGNATURES + 1 }));
        envelope.signatures.clear();
        assert_eq!(envelope.verify(&[&public], 1), Err(Unverified::NoSignatures));
    }

    proptest! {
        #[test]
        fn no_byte_of_what_was_signed_can_change(
            kind in "[a-z/ 0-9]{1,20}", payload in prop::collection::vec(any::<u8>(), 0..40), at in any::<prop::sample::Index>(), bit in 0..8_u8
        ) {
            let (private, public) = pair(1);
            let envelope = sign(&kind, &payload, &[private]);
            prop_assert_eq!(&envelope.verify(&[&public], 1).unwrap().payload, &payload);
            // A byte that moves from the type to the payload, or that changes.
            let (rest, last) = kind.split_at(kind.len() - 1);
            let moved = BASE64_STANDARD.encode([last.as_bytes(), &payload].concat());
            let moved = Envelope { payload: moved, payload_type: rest.into(), ..envelope.clone() };
            prop_assert_eq!(moved.verify(&[&public], 1), Err(Unverified::Nobody { claimed: vec!["key 1".into()] }));
            if !payload.is_empty() {
                let mut other = payload.clone();
                other[at.index(payload.len())] ^= 1 << bit;
                let other = Envelope { payload: BASE64_STANDARD.encode(other), ..envelope };
                prop_assert!(other.verify(&[&public], 1).is_err());
            }
        }

        #[test]
        fn each_listed_key_counts_once(signers in prop::collection::vec(1..6_u8, 1..8), required in 1..5_usize) {
            let keys: Vec<_> = signers.iter().map(|secret| pair(*secret).0).collect();
            let listed: Vec<_> = (1..4).map(|secret| pair(secret).1).collect();
            let listed: Vec<_> = listed.iter().collect();
            let by: Vec<_> = (1..4).filter(|secret| signers.contains(secret)).map(|secret| pair(secret).1.id).collect();
            let verified = sign(TYPE, b"x", &keys).verify(&listed, required);
            prop_assert_eq!(verified, match by.len() {
                0 => Err(Unverified::Nobody { claimed: Vec::new() }),
                some if some < required => Err(Unverified::TooFew { by, required }),
                _ => Ok(Verified { payload: b"x".to_vec(), by }),
            });
        }
    }
}
