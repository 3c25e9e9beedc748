//! The registry: the policies that a host knows, each under a name and a version that never change their meaning.
//!
//! Components are kept by content, releases by name and version. What is pushed is screened for signatures first (see
//! [`trust`](cutover_policy_host::trust)), then compiled and admitted with its settings, off every request's path and
//! one at a time, and only then kept. A release that is known stays known: going back to it is always possible, as long
//! as the keys that the host lists still vouch for it. The command line moves releases to and from OCI registries: the
//! host itself connects nowhere because a caller of its admin plane asks for it.

mod offer;

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub use self::offer::{Inspected, Offer, inspect};
use cutover_model::{clock, port::Kind};
use cutover_policy_host::{
    PolicyError,
    blocking::{Blocking, BlockingError},
    engine::Engine,
    release::{self, Manifest, Reference, Release, check_version},
    sign,
    trust::{Refused, Trust},
};
use cutover_store::{Store, StoreError, records::Audited};

/// Releases that an ambiguous reference names.
const MAX_CANDIDATES: u32 = 8;

/// What came of a push.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// The release as the registry has it now.
    pub release: Release,
    /// Whether the name and version were unknown before.
    pub new: bool,
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The offer is not well-formed.
    #[error("`{field}` {message}")]
    Invalid {
        /// The field of the offer.
        field: &'static str,
        /// What is wrong with it, as the end of a sentence.
        message: String,
    },
    /// The name and version stand for something else.
    #[error("`{label}` is taken: it stands for another `{field}`, and a version never changes; raise the version")]
    Taken {
        /// The name and version, as `NAME@VERSION`.
        label: String,
        /// The first field that differs.
        field: &'static str,
    },
    /// No key that the host trusts vouches for it.
    #[error("the policy `{label}` {refused}")]
    Refused {
        /// The name and version, as `NAME@VERSION`.
        label: String,
        /// Which signatures are missing or do not count.
        refused: Refused,
    },
    /// A host would not admit the policy.
    #[error("the policy `{label}` {error}")]
    Policy {
        /// The name and version, as `NAME@VERSION`.
        label: String,
        /// Why the component does not compile, or why it refuses its settings.
        error: PolicyError,
    },
    /// No thread had time to compile it; a later attempt may succeed.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// The store failed; nothing was pushed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PushError {
    /// The name of the cause, for programs.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Invalid { .. } => "invalid",
            Self::Taken { .. } => "taken",
            Self::Refused { refused, .. } => refused.cause(),
            Self::Policy { error, .. } => error.cause(),
            Self::Blocking(_) => "busy",
            Self::Store(_) => "store",
        }
    }
}

/// Why a reference leads to no policy.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The text is not a reference.
    #[error("`{reference}` {message}")]
    Invalid {
        /// The text that was asked for, cut and on one line.
        reference: String,
        /// What is wrong with it.
        message: String,
    },
    /// Nothing has that name, version or digest.
    #[error("the host knows no policy `{reference}`; push it with `cutover policy push`, or see `cutover policy list`")]
    Unknown {
        /// The reference that was asked for.
        reference: String,
    },
    /// Several releases fit the reference.
    #[error("`{reference}` may be {}; say which", .candidates.join(" or "))]
    Ambiguous {
        /// The reference that was asked for.
        reference: String,
        /// Up to eight of those that it may be, as `` `NAME@VERSION` ``.
        candidates: Vec<String>,
    },
    /// The component is not what it was.
    #[error("the component of `{label}` in the store is not what was pushed; restore the store from a backup")]
    Corrupt {
        /// The name and version, as `NAME@VERSION`.
        label: String,
    },
    /// The store failed, so nothing is known of the reference.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The policies that a host knows, and the only way in for new ones.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Which signatures a policy needs before the host accepts it.
    pub trust: Trust,
    engine: Arc<Engine>,
    store: Store,
    /// Where policies are compiled and tried out.
    admitting: Blocking,
    /// Held by one push at a time: compiling takes a processor and memory.
    pushing: Arc<tokio::sync::Mutex<()>>,
}

impl Registry {
    /// The registry of a host.
    pub fn new(engine: Arc<Engine>, store: Store, trust: Trust, admitting: Blocking) -> Self {
        Self { trust, engine, store, admitting, pushing: Arc::default() }
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
        let (inspected, offer) = self.admitting.run(move || (inspect(&engine, &offer), offer)).await?;
        let unwell = |error| PushError::Policy { label: label.clone(), error };
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

    /// Whether a component may still run for a kind with settings that were given to it before: some release of it is
    /// vouched for now and, where it is an interpreter, has that script.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn vouches(&self, digest: &str, kind: Kind, settings: &str) -> Result<bool, StoreError> {
        if !self.trust.is_required() {
            return Ok(true);
        }
        let settings: Value = serde_json::from_str(settings).unwrap_or_default();
        for (name, version) in self.store.releases_by_digest(digest, u32::MAX).await? {
            let Some(release) = self.store.release(&name, &version).await? else { continue };
            let script = release.manifest.script.as_deref();
            let same = script.is_none_or(|script| settings.get("script").and_then(Value::as_str) == Some(script));
            if release.manifest.kind == kind && same && self.trust.verify(&release).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Signed policies stay signed for ever, so an old one with a flaw that was mended must not come back as new. Without
    /// listed keys there is nothing to replay.
    async fn not_older(&self, name: &str, version: &str) -> Result<Result<(), Refused>, StoreError> {
        if !self.trust.is_required() || self.store.release(name, version).await?.is_some() {
            return Ok(Ok(()));
        }
        let known = self.store.release_versions(name).await?;
        let highest = known.iter().filter_map(|version| check_version(version).ok()).max();
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
        let asked = || cutover_policy_host::error::said(reference);
        let parsed =
            Reference::parse(reference).map_err(|message| FindError::Invalid { reference: asked(), message })?;
        let mut labels = match parsed {
            Reference::Exact(name, version) => vec![(name, version)],
            Reference::Digest(hex) => self.store.releases_by_digest(&hex, MAX_CANDIDATES).await?,
            Reference::Bare(name) => {
                let versions = self.store.release_versions(&name).await?;
                match release::latest(versions.iter().map(String::as_str)) {
                    Some(latest) => vec![(name, latest.to_string())],
                    None if release::is_digest_prefix(&name) => {
                        self.store.releases_by_digest(&name, MAX_CANDIDATES).await?
                    }
                    None => Vec::new(),
                }
            }
        };
        let unknown = || FindError::Unknown { reference: asked() };
        if labels.len() > 1 {
            let candidates = labels.iter().map(|(name, version)| format!("`{name}@{version}`")).collect();
            return Err(FindError::Ambiguous { reference: asked(), candidates });
        }
        let (name, version) = labels.pop().ok_or_else(unknown)?;
        let release = self.store.release(&name, &version).await?.ok_or_else(unknown)?;
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
