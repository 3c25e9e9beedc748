//! Signs manifests, and adds signatures to what others have signed.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    dsse::{self, Envelope, MAX_SIGNATURES, PrivateKey},
    release::Manifest,
    trust::{PAYLOAD_TYPE, short},
};

/// Why something is not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The envelope that is there holds something else.
    #[error("the signatures that are there sign something that is not a policy's manifest; remove them to begin again")]
    NotOurs,
    /// They sign another policy.
    #[error(
        "the signatures that are there sign another `{field}` ({signed}, and not {present}); remove them to begin again"
    )]
    Other {
        /// The first field that differs.
        field: &'static str,
        /// The statement that the envelope carries.
        signed: String,
        /// What is to be signed.
        present: String,
    },
    /// There are too many.
    #[error("there are {MAX_SIGNATURES} signatures already")]
    TooMany,
    /// The key or the manifest cannot be used.
    #[error("cannot sign: {0}")]
    Failed(String),
}

/// Signs a manifest with each of `signers`. Where others have signed it before, their signatures stay, and the same bytes
/// are signed; a signer that has signed already signs again.
///
/// # Errors
/// Why it is not signed.
pub fn sign(manifest: &Manifest, signers: &[PrivateKey], there: Option<Envelope>) -> Result<Envelope, SignError> {
    let (payload, mut kept) = match there {
        None => (serde_json::to_vec(manifest).map_err(|e| SignError::Failed(e.to_string()))?, Vec::new()),
        Some(envelope) => (payload_of(&envelope, manifest)?, envelope.signatures),
    };
    let mut signed = dsse::sign(PAYLOAD_TYPE, &payload, signers);
    kept.retain(|signature| !signers.iter().any(|signer| signature.keyid.as_ref() == Some(&signer.id)));
    kept.append(&mut signed.signatures);
    if kept.len() > MAX_SIGNATURES {
        return Err(SignError::TooMany);
    }
    signed.signatures = kept;
    Ok(signed)
}

/// The signatures of both, where both sign the same bytes; otherwise nothing.
pub fn merged(ours: &Envelope, theirs: &Envelope) -> Option<Envelope> {
    if (&ours.payload, &ours.payload_type) != (&theirs.payload, &theirs.payload_type) {
        return None;
    }
    let mut merged = ours.clone();
    let new = theirs.signatures.iter().filter(|s| !ours.signatures.contains(s)).cloned();
    merged.signatures.extend(new);
    (merged.signatures.len() <= MAX_SIGNATURES).then_some(merged)
}

/// The bytes that others have signed, if they say the same as the manifest. They are not believed, only signed again.
fn payload_of(envelope: &Envelope, manifest: &Manifest) -> Result<Vec<u8>, SignError> {
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(SignError::NotOurs);
    }
    let payload = BASE64_STANDARD.decode(&envelope.payload).map_err(|_wrong| SignError::NotOurs)?;
    let signed: Manifest = serde_json::from_slice(&payload).map_err(|_wrong| SignError::NotOurs)?;
    match signed.difference(manifest) {
        None => Ok(payload),
        Some((field, signed, present)) => {
            Err(SignError::Other { field, signed: short(&signed), present: short(&present) })
        }
    }
}
