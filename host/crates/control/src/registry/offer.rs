//! A policy that is offered to the registry, and what it is found to be.

use std::sync::Arc;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::PushError;
use cutover_model::port::{Description, Kind};
use cutover_policy_host::{
    PolicyError,
    bundle::Bundle,
    dsse::{Envelope, MAX_SIGNATURES},
    engine::{Engine, Imports, Policy},
    release::{MAX_SETTINGS, Manifest, Provenance, Settings, check_name, check_version},
};

/// The longest author, reason and reference.
const MAX_TEXT: usize = 1024;

/// The interface that every policy exports; its version is the contract's.
const CONTRACT: &str = "cutover:policy/policy@";

/// A policy that somebody wants the host to know.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The name that it is to have, 1 to 64 characters of `a-z 0-9 -`.
    pub name: String,
    /// The version that it is to have, a semantic version without build metadata.
    pub version: String,
    /// The kind that it is for.
    pub kind: Kind,
    /// The bytes of the component.
    pub component: Vec<u8>,
    /// Its default settings, and the script where the component is an interpreter.
    pub settings: Settings,
    /// Whether the component may import the closed stand-in for WASI.
    pub wasi_stub: bool,
    /// The author; empty for the person who pushes it.
    pub author: String,
    /// Why it is pushed, for people.
    pub reason: String,
    /// Where it came from, as the person who pushes it says.
    pub provenance: Provenance,
    /// The signed manifest with its signatures; `None` if it is not signed.
    pub envelope: Option<Envelope>,
}

/// What a policy was found to be.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// What it is, in full.
    pub manifest: Manifest,
    /// What it says of itself.
    pub description: Description,
    /// The interfaces that it exports.
    pub exports: Vec<String>,
}

impl Offer {
    /// The policy of a bundle, as its author wrote it.
    pub fn bundled(bundle: Bundle, author: &str, reason: &str) -> Self {
        let path = std::path::absolute(&bundle.folder).unwrap_or(bundle.folder).display().to_string();
        Self {
            name: bundle.name,
            version: bundle.version,
            kind: bundle.kind,
            component: bundle.component,
            settings: bundle.own,
            wasi_stub: bundle.wasi_stub,
            author: author.to_owned(),
            reason: reason.to_owned(),
            provenance: Provenance::Bundle { path },
            envelope: bundle.envelope,
        }
    }

    /// What it claims to be; what only the compiled policy can say is empty.
    pub fn claimed(&self) -> Manifest {
        Manifest {
            name: self.name.clone(),
            version: self.version.clone(),
            kind: self.kind,
            component_sha256: hex::encode(Sha256::digest(&self.component)),
            contract: String::new(),
            settings_schema_sha256: String::new(),
            settings: self.settings.values.clone(),
            script: self.settings.script.clone(),
            wasi_stub: self.wasi_stub,
        }
    }

    pub(super) fn check(&self) -> Result<(), PushError> {
        let invalid = |field| move |message: String| PushError::Invalid { field, message };
        let quoted = |text: &str, why: String| format!("is `{}`, which {why}", cutover_policy_host::error::said(text));
        check_name(&self.name).map_err(|e| quoted(&self.name, e)).map_err(invalid("name"))?;
        check_version(&self.version).map_err(|e| quoted(&self.version, e)).map_err(invalid("version"))?;
        if self.reason.trim().is_empty() {
            return Err(invalid("reason")("is empty; say why".into()));
        }
        for (field, text) in [("reason", &self.reason), ("author", &self.author)] {
            if text.len() > MAX_TEXT {
                return Err(invalid(field)(format!("has {} bytes, more than {MAX_TEXT}", text.len())));
            }
        }
        let provenance = json!(self.provenance).to_string().len();
        if provenance > 4 * MAX_TEXT {
            return Err(invalid("provenance")(format!("has {provenance} bytes, more than {}", 4 * MAX_TEXT)));
        }
        let settings = self.settings.json(self.kind).len();
        if settings > MAX_SETTINGS {
            return Err(invalid("settings")(format!("have {settings} bytes, more than {MAX_SETTINGS}")));
        }
        let signatures = self.envelope.as_ref().map_or(0, |e| e.signatures.len());
        if signatures > MAX_SIGNATURES {
            let message = format!("has {signatures} signatures, more than {MAX_SIGNATURES}");
            return Err(invalid("envelope")(message));
        }
        Ok(())
    }
}

/// Compiles a policy and admits it with its settings, to see what it is. Takes as long as compiling does.
///
/// # Errors
/// Why it is not admitted.
pub fn inspect(engine: &Arc<Engine>, offer: &Offer) -> Result<Inspected, PolicyError> {
    let compiled = engine.compile_with(&offer.component, Imports::of(offer.wasi_stub))?;
    let exports = compiled.exports.clone();
    let contract = exports.iter().find_map(|e| e.strip_prefix(CONTRACT)).unwrap_or_default().to_owned();
    let policy = Policy::admit(engine, compiled, offer.kind, &offer.settings.json(offer.kind))?;
    let settings_schema_sha256 = hex::encode(Sha256::digest(policy.description.settings_schema.as_bytes()));
    let description = Description::clone(&policy.description);
    let manifest = Manifest { contract, settings_schema_sha256, ..offer.claimed() };
    Ok(Inspected { manifest, description, exports })
}
