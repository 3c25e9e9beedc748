//! Whose policies a host accepts: those that enough of the listed keys have signed.
//!
//! What is signed is a [`Manifest`] in a DSSE envelope (<https://github.com/secure-systems-lab/dsse>, the envelope of
//! in-toto and Sigstore). A signature counts by the key that verifies it, never by the id that the envelope claims, and
//! each key counts once. A host without listed keys accepts everything.

use std::sync::Arc;

use serde::Serialize;

use super::{
    dsse::{Envelope, PublicKey, Unverified},
    keys::{self, KeyError},
    release::{Manifest, Release},
};

/// What is signed, for the envelope: version 1 of [`Manifest`] as JSON.
pub const PAYLOAD_TYPE: &str = "application/vnd.cutover.policy.release.v1+json";

/// Whose policies a host accepts; everybody's by default.
#[derive(Debug, Clone, Default)]
pub struct Trust(Option<Arc<Listed>>);

#[derive(Debug)]
struct Listed {
    keys: Vec<TrustedKey>,
    required: usize,
}

/// A key that the host lists, whose signatures count.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    /// Whose key it is, as the configuration names it; shown to people.
    pub name: String,
    key: PublicKey,
}

/// Why a policy is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "refused", rename_all = "kebab-case")]
pub enum Refused {
    /// It came without any signature, and this host requires some.
    #[error(
        "is not signed, and this host accepts only what {required} of its {listed} listed keys have signed; sign it with `cutover policy sign`"
    )]
    Unsigned {
        /// How many of the listed keys must sign.
        required: usize,
        /// How many keys are listed.
        listed: usize,
    },
    /// The envelope cannot be read, or what it holds is no manifest of this version.
    #[error("has signatures that cannot be read: {message}")]
    Malformed {
        /// What is wrong with the envelope or with the manifest in it.
        message: String,
    },
    /// The envelope holds something else than a manifest.
    #[error("has an envelope of type `{found}`, not `{PAYLOAD_TYPE}`")]
    PayloadType {
        /// The type that the envelope says it has.
        found: String,
    },
    /// Somebody signed it, and none of the listed keys did.
    #[error("is signed by none of the {listed} keys that this host lists")]
    UnknownKeys {
        /// How many keys are listed.
        listed: usize,
    },
    /// The signatures that claim to be of listed keys are not: they or what they sign were changed.
    #[error("has signatures that are not of {}, as they claim: the signatures, or what was signed, have been changed", .keys.join(", "))]
    WrongSignature {
        /// The names of the listed keys whose signatures these claim to be.
        keys: Vec<String>,
    },
    /// Some of the listed keys signed it, but fewer than are required.
    #[error("is signed by {} of {required} listed keys that are needed: {}", .by.len(), .by.join(", "))]
    TooFew {
        /// The names of the keys that signed.
        by: Vec<String>,
        /// How many of the listed keys must sign.
        required: usize,
    },
    /// What was signed is not what was offered.
    #[error("was signed with another `{field}`: {signed}, and not {offered}")]
    Differs {
        /// The first field of the manifest that differs.
        field: String,
        /// The value of the field in what was signed, as text.
        signed: String,
        /// The value of the field in what was offered, as text.
        offered: String,
    },
    /// A higher version of the same policy was accepted before, so this one may have a flaw that was mended.
    #[error("is older than {highest}, which was accepted before; a signed policy is not taken back in by its age")]
    Older {
        /// The highest version that was accepted.
        highest: String,
    },
}

impl Refused {
    /// A short name of the cause, for metrics and for programs.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "unsigned",
            Self::Malformed { .. } => "malformed-signatures",
            Self::PayloadType { .. } => "wrong-payload-type",
            Self::UnknownKeys { .. } => "unknown-keys",
            Self::WrongSignature { .. } => "wrong-signature",
            Self::TooFew { .. } => "too-few-signatures",
            Self::Differs { .. } => "signed-for-another",
            Self::Older { .. } => "older",
        }
    }
}

impl TrustedKey {
    /// SHA-256 of its SPKI, lower-case hex.
    pub fn id(&self) -> &str {
        &self.key.id
    }

    /// Reads a public key: PEM, or its base64 alone.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn new(name: &str, public_key: &str) -> Result<Self, KeyError> {
        Ok(Self { name: name.to_owned(), key: keys::public(public_key)? })
    }
}

impl Trust {
    /// Accepts what `required` of `keys` have signed. The keys must differ, and `required` must be between 1 and their
    /// number; the configuration sees to both.
    pub fn listed(keys: Vec<TrustedKey>, required: usize) -> Self {
        Self(Some(Arc::new(Listed { keys, required })))
    }

    /// Whether signatures are needed at all.
    pub const fn is_required(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a release is accepted now. The keys may have changed since it was pushed.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, release: &Release) -> Result<(), Refused> {
        self.check(&release.manifest, release.envelope.as_ref(), true)
    }

    /// Whether a policy may be compiled to see what it is: all but what only the compiled policy can say is checked,
    /// which is its contract and the schema of its settings. Both follow from the component, whose digest is checked.
    ///
    /// # Errors
    /// Why it may not.
    pub fn screen(&self, claimed: &Manifest, envelope: Option<&Envelope>) -> Result<(), Refused> {
        self.check(claimed, envelope, false)
    }

    fn check(&self, claimed: &Manifest, envelope: Option<&Envelope>, whole: bool) -> Result<(), Refused> {
        let Some(listed) = &self.0 else { return Ok(()) };
        let unsigned = Refused::Unsigned { required: listed.required, listed: listed.keys.len() };
        let signed = listed.open(envelope.ok_or(unsigned)?)?;
        let mut claimed = claimed.clone();
        if !whole {
            claimed.contract.clone_from(&signed.contract);
            claimed.settings_schema_sha256.clone_from(&signed.settings_schema_sha256);
        }
        match signed.difference(&claimed) {
            None => Ok(()),
            Some((field, signed, offered)) => {
                Err(Refused::Differs { field: field.into(), signed: short(&signed), offered: short(&offered) })
            }
        }
    }
}

impl Listed {
    /// What enough keys have signed.
    fn open(&self, envelope: &Envelope) -> Result<Manifest, Refused> {
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(Refused::PayloadType { found: short(&envelope.payload_type) });
        }
        let keys: Vec<_> = self.keys.iter().map(|key| &key.key).collect();
        match envelope.verify(&keys, self.required) {
            Ok(verified) => serde_json::from_slice(&verified.payload)
                .map_err(|e| Refused::Malformed { message: format!("what they sign is not a policy's manifest: {e}") }),
            Err(Unverified::NoSignatures) => {
                Err(Refused::Unsigned { required: self.required, listed: self.keys.len() })
            }
            Err(Unverified::Nobody { claimed }) if claimed.is_empty() => {
                Err(Refused::UnknownKeys { listed: self.keys.len() })
            }
            Err(Unverified::Nobody { claimed }) => Err(Refused::WrongSignature { keys: self.names(&claimed) }),
            Err(Unverified::TooFew { by, required }) => Err(Refused::TooFew { by: self.names(&by), required }),
            Err(error @ (Unverified::TooMany { .. } | Unverified::Encoding)) => {
                Err(Refused::Malformed { message: error.to_string() })
            }
        }
    }

    fn names(&self, ids: &[String]) -> Vec<String> {
        self.keys.iter().filter(|key| ids.contains(&key.key.id)).map(|key| key.name.clone()).collect()
    }
}

/// As much of a value as a sentence can hold.
pub(super) fn short(text: &str) -> String {
    const MOST: usize = 120;
    match text.len() {
        0..=MOST => format!("`{text}`"),
        length => format!("`{}..` ({length} bytes)", text.get(..text.floor_char_boundary(MOST)).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests;
