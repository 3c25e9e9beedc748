//! The registry: the policies that a host knows, each under a name and a version that never change their meaning.
//!
//! Components are kept by content, releases by name and version. What is pushed is screened for signatures first (see
//! [`trust`]), then compiled and admitted with its settings, off every request's path and one at a time, and only then
//! kept. A release that is known stays known: going back to it is always possible, as long as the keys that the host
//! lists still vouch for it. [`oci`] moves releases to and from OCI registries; that is the command line's work, and a
//! host connects to nobody on behalf of who calls its admin plane.

pub mod keys;
pub mod oci;
pub mod release;
pub mod sign;
pub mod trust;

use std::sync::Arc;

use dsse::Envelope;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::{
    release::{Manifest, Provenance, Reference, Release, Settings, check_name, check_version},
    trust::{Refused, Trust},
};
use super::{
    PolicyError,
    engine::{Description, Engine, Policy},
    port::Kind,
};
use crate::{
    clock,
    store::{Store, StoreError, records::Audited},
};

/// The longest author, reason and reference.
const MAX_TEXT: usize = 1024;

/// The most bytes of settings and script together.
pub const MAX_SETTINGS: usize = 256 << 10;

/// The most bytes of an envelope.
pub const MAX_ENVELOPE: usize = 1 << 20;

/// The interface that every policy exports; its version is the contract's.
const CONTRACT: &str = "cutover:policy/policy@";

/// A policy that somebody wants the host to know.
#[derive(Debug, Clone)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The kind that it is for.
    pub kind: Kind,
    /// The component.
    pub component: Vec<u8>,
    /// Its default settings.
    pub settings: Settings,
    /// Whether the component may import the closed stand-in for WASI.
    pub wasi_stub: bool,
    /// Who wrote it.
    pub author: String,
    /// Why it is pushed.
    pub reason: String,
    /// Where it came from.
    pub provenance: Provenance,
    /// Who vouches for it.
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

/// What came of a push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The release.
    pub release: Release,
    /// Whether it was unknown before.
    pub new: bool,
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The offer is not well-formed.
    #[error("`{field}` {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The name and version stand for something else.
    #[error("`{label}` is taken: it stands for another `{field}`, and a version never changes; raise the version")]
    Taken {
        /// `NAME@VERSION`.
        label: String,
        /// The first field that differs.
        field: &'static str,
    },
    /// Those that the host trusts do not vouch for it.
    #[error("the policy `{label}` {refused}")]
    Refused {
        /// `NAME@VERSION`.
        label: String,
        /// Why.
        refused: Refused,
    },
    /// The policy is not admitted.
    #[error("the policy `{label}` {error}")]
    Policy {
        /// `NAME@VERSION`.
        label: String,
        /// Why.
        error: PolicyError,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why nothing was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// It is not a reference.
    #[error("`{reference}` {message}")]
    Invalid {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        message: String,
    },
    /// Nothing has that name, version or digest.
    #[error("the host knows no policy `{reference}`; push it with `cutover policy push`, or see `cutover policy list`")]
    Unknown {
        /// What was asked for.
        reference: String,
    },
    /// Several have it.
    #[error("`{reference}` may be {}; say which", .candidates.join(" or "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// Some of those that it may be.
        candidates: Vec<String>,
    },
    /// The component is not what it was.
    #[error("the component of `{label}` in the store is not what was pushed; restore the store from a backup")]
    Corrupt {
        /// `NAME@VERSION`.
        label: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The policies that a host knows.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Whose policies it accepts.
    pub trust: Trust,
    engine: Arc<Engine>,
    store: Store,
    /// One push at a time: compiling takes a processor and memory.
    pushing: Arc<tokio::sync::Mutex<()>>,
}

impl Offer {
    /// What it claims to be; what only the compiled policy can say is empty.
    fn claimed(&self) -> Manifest {
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

    fn check(&self) -> Result<(), PushError> {
        let invalid = |field| move |message: String| PushError::Invalid { field, message };
        let quoted = |text: &str, why: String| format!("is `{}`, which {why}", super::check::text(text.to_owned()));
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
        let settings = self.settings.json().len();
        if settings > MAX_SETTINGS {
            return Err(invalid("settings")(format!("have {settings} bytes, more than {MAX_SETTINGS}")));
        }
        let signatures = self.envelope.as_ref().map_or(0, |e| e.signatures.len());
        if signatures > sign::MAX_SIGNATURES {
            let message = format!("has {signatures} signatures, more than {}", sign::MAX_SIGNATURES);
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
    let compiled = engine.compile(&offer.component)?;
    let exports = compiled.exports.clone();
    let contract = exports.iter().find_map(|e| e.strip_prefix(CONTRACT)).unwrap_or_default().to_owned();
    let policy = Policy::admit(engine, compiled, offer.kind, &offer.settings.json())?;
    let settings_schema_sha256 = hex::encode(Sha256::digest(policy.description.settings_schema.as_bytes()));
    let description = Description::clone(&policy.description);
    let manifest = Manifest { contract, settings_schema_sha256, ..offer.claimed() };
    Ok(Inspected { manifest, description, exports })
}

impl Registry {
    /// The registry of a host.
    pub fn new(engine: Arc<Engine>, store: Store, trust: Trust) -> Self {
        Self { trust, engine, store, pushing: Arc::default() }
    }

    /// Makes a policy known, unless it is refused. Pushing what is known changes nothing but adds signatures. Both are
    /// audited, refusals too.
    ///
    /// # Errors
    /// Why not.
    pub async fn push(&self, offer: Offer, actor: &str) -> Result<Pushed, PushError> {
        let _one = self.pushing.lock().await;
        let claimed = offer.claimed();
        let refused = match self.take(offer, &claimed, actor).await {
            Err(error @ (PushError::Taken { .. } | PushError::Refused { .. } | PushError::Policy { .. })) => error,
            done => return done,
        };
        let detail =
            json!({ "policy": claimed.label(), "digest": claimed.component_sha256, "why": refused.to_string() });
        self.store.audit(&audited("refuse-policy", actor, detail)).await?;
        tracing::warn!(policy = claimed.label(), actor, "a policy was refused: {refused}");
        Err(refused)
    }

    async fn take(&self, offer: Offer, claimed: &Manifest, actor: &str) -> Result<Pushed, PushError> {
        offer.check()?;
        let label = claimed.label();
        if let Some(known) = self.store.release(&offer.name, &offer.version).await? {
            return self.take_again(known, offer, claimed, actor).await;
        }
        let untrusted = |refused| PushError::Refused { label: label.clone(), refused };
        self.trust.screen(claimed, offer.envelope.as_ref()).map_err(untrusted)?;
        self.not_older(&offer.name, &offer.version).await?.map_err(untrusted)?;
        let engine = Arc::clone(&self.engine);
        let inspected = tokio::task::spawn_blocking(move || (inspect(&engine, &offer), offer)).await;
        let unwell = |error| PushError::Policy { label: label.clone(), error };
        let (inspected, offer) = inspected.map_err(|e| unwell(PolicyError::Compile { message: e.to_string() }))?;
        let Inspected { manifest, description, .. } = inspected.map_err(unwell)?;
        let author = if offer.author.is_empty() { actor.to_owned() } else { offer.author };
        let release = Release {
            manifest,
            summary: description.summary,
            author,
            reason: offer.reason,
            actor: actor.to_owned(),
            at: clock::unix_ms(),
            provenance: offer.provenance,
            envelope: offer.envelope,
        };
        self.trust.verify(&release).map_err(untrusted)?;
        let detail = json!({ "policy": label, "digest": release.manifest.component_sha256, "reason": release.reason,
            "provenance": release.provenance });
        self.store.add_release(&release, &offer.component, &audited("push-policy", actor, detail)).await?;
        Ok(Pushed { release, new: true })
    }

    /// A name and version that are known: the same again, perhaps with more signatures.
    async fn take_again(
        &self,
        mut known: Release,
        offer: Offer,
        claimed: &Manifest,
        actor: &str,
    ) -> Result<Pushed, PushError> {
        let label = claimed.label();
        let claimed = Manifest {
            contract: known.manifest.contract.clone(),
            settings_schema_sha256: known.manifest.settings_schema_sha256.clone(),
            ..claimed.clone()
        };
        if let Some((field, _, _)) = known.manifest.difference(&claimed) {
            return Err(PushError::Taken { label, field });
        }
        let before = known.envelope.clone();
        known.envelope = match (before.clone(), offer.envelope) {
            (Some(ours), Some(theirs)) => match sign::merged(&ours, &theirs) {
                Some(both) => Some(both),
                // They sign the same in other words: the signatures that count now are kept.
                None if self.trust.verify(&known).is_err() => Some(theirs),
                None => Some(ours),
            },
            (ours, theirs) => ours.or(theirs),
        };
        self.trust.verify(&known).map_err(|refused| PushError::Refused { label: label.clone(), refused })?;
        if known.envelope != before {
            let signatures = known.envelope.as_ref().map_or(0, |e| e.signatures.len());
            let detail = json!({ "policy": label, "signatures": signatures, "reason": offer.reason });
            self.store.sign_release(&known, &audited("sign-policy", actor, detail)).await?;
        }
        Ok(Pushed { release: known, new: false })
    }

    /// Whether those that the host trusts vouch for a policy that was not pushed, such as that of a bundle, and it is no
    /// older than what was accepted under its name. `NAME@VERSION` that is known passes whatever its age.
    ///
    /// # Errors
    /// When the store fails; within, why it is refused.
    pub async fn screen(
        &self,
        claimed: &Manifest,
        envelope: Option<&Envelope>,
    ) -> Result<Result<(), Refused>, StoreError> {
        if let Err(refused) = self.trust.screen(claimed, envelope) {
            return Ok(Err(refused));
        }
        self.not_older(&claimed.name, &claimed.version).await
    }

    /// Signed policies stay signed for ever, so an old one with a flaw that was mended must not come back as new. Without
    /// listed keys there is nothing to replay.
    async fn not_older(&self, name: &str, version: &str) -> Result<Result<(), Refused>, StoreError> {
        if !self.trust.is_required() || self.store.release(name, version).await?.is_some() {
            return Ok(Ok(()));
        }
        let known = self.store.releases_of(name).await?;
        let highest = known.iter().filter_map(|r| check_version(&r.manifest.version).ok()).max();
        match (highest, check_version(version)) {
            (Some(highest), Ok(version)) if version < highest => {
                Ok(Err(Refused::Older { highest: highest.to_string() }))
            }
            (Some(_), Err(why)) => Ok(Err(Refused::Malformed { message: format!("the version `{version}` {why}") })),
            _ => Ok(Ok(())),
        }
    }

    /// Finds a release and its component: `NAME@VERSION`, `NAME` (the highest version that is not a pre-release, if there
    /// is one), or `sha256:HEX` and HEX alone, whole or the beginning. Whether the host still trusts it is for
    /// [`Trust::verify`] to say.
    ///
    /// # Errors
    /// Why nothing was found.
    pub async fn find(&self, reference: &str) -> Result<(Release, Vec<u8>), FindError> {
        let asked = || super::check::text(reference.to_owned());
        let parsed =
            Reference::parse(reference).map_err(|message| FindError::Invalid { reference: asked(), message })?;
        let found = match parsed {
            Reference::Exact(name, version) => self.store.release(&name, &version).await?.into_iter().collect(),
            Reference::Digest(hex) => self.store.releases_by_digest(&hex).await?,
            Reference::Bare(name) => {
                let mut named = self.store.releases_of(&name).await?;
                let latest = release::latest(named.iter().map(|r| r.manifest.version.as_str()));
                named.retain(|r| latest.as_ref().is_some_and(|v| v.to_string() == r.manifest.version));
                if named.is_empty() && release::is_digest_prefix(&name) {
                    named = self.store.releases_by_digest(&name).await?;
                }
                named
            }
        };
        let release = match <[Release; 1]>::try_from(found) {
            Ok([release]) => release,
            Err(none) if none.is_empty() => return Err(FindError::Unknown { reference: asked() }),
            Err(several) => {
                let candidates = several.iter().take(8).map(|r| format!("`{}`", r.manifest.label())).collect();
                return Err(FindError::Ambiguous { reference: asked(), candidates });
            }
        };
        let component = self.store.component(&release.manifest.component_sha256).await?.unwrap_or_default();
        if hex::encode(Sha256::digest(&component)) != release.manifest.component_sha256 {
            return Err(FindError::Corrupt { label: release.manifest.label() });
        }
        Ok((release, component))
    }
}

/// A record of the audit that is about no migration.
fn audited(action: &str, actor: &str, detail: Value) -> Audited {
    let (actor, action) = (actor.to_owned(), action.to_owned());
    Audited { at: clock::unix_ms(), actor, migration: String::new(), action, detail }
}
