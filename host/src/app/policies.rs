//! Who is in charge when a host starts: what the store remembers, or what the configuration says.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::{Shared, StartError};
use crate::{
    clock,
    config::bundle::Bundle,
    policy::{
        PolicyError,
        engine::{Engine, Policy},
        port::Kind,
        slot::Slots,
    },
    store::records::{Audited, SlotRecord},
};

/// Compiles a component and admits it for a kind with settings.
///
/// # Errors
/// Why it is not admitted.
pub fn admit(engine: &Arc<Engine>, kind: Kind, component: &[u8], settings: &str) -> Result<Policy, PolicyError> {
    Policy::admit(engine, engine.compile(component)?, kind, settings)
}

/// Puts a policy in charge at start: the one that was in charge last, unless the configuration has changed since. If
/// that one is not admitted, the other. Returns the configuration's fingerprint, and what people must know.
pub(super) async fn fill_slot(
    migration: &str,
    kind: Kind,
    bundle: Bundle,
    slots: &Slots,
    shared: &Shared,
) -> Result<(String, Option<(PolicyError, String)>), StartError> {
    let configured = fingerprint(&bundle);
    let screened = shared.registry.trust.screen(&bundle.claimed(), bundle.envelope.as_ref());
    let stored = match shared.store.slot(migration, kind).await? {
        Some(slot) if !still_vouched_for(&slot, kind, &bundle, screened.is_ok(), shared).await? => {
            tracing::error!(migration, %kind, digest = slot.digest, "nobody vouches for the policy that was in charge");
            None
        }
        stored => stored,
    };
    let unchanged = stored.as_ref().is_some_and(|slot| slot.configured == configured);
    if unchanged && restore(migration, kind, stored.clone(), slots, shared).await {
        return Ok((configured, None));
    }
    let mut problem = None;
    let folder = bundle.folder.display().to_string();
    let settings = bundle.settings.clone();
    let admitted = match screened {
        Ok(()) => admit_off_path(shared, kind, bundle.component, bundle.settings).await,
        Err(refused) => (Err(PolicyError::Untrusted { refused }), Vec::new()),
    };
    match admitted {
        (Ok(policy), component) => {
            let record = SlotRecord {
                digest: policy.digest().to_string(),
                settings,
                configured: configured.clone(),
                memory: Vec::new(),
                updated_by: "configuration".into(),
                component,
            };
            let detail = serde_json::json!({ "kind": kind, "to": record.digest, "bundle": folder });
            let audited = Audited {
                at: clock::unix_ms(),
                actor: "configuration".into(),
                migration: migration.into(),
                action: "activate-policy".into(),
                detail,
            };
            shared.store.activate(kind, &record, &audited).await?;
            slots.get(kind).activate(Arc::new(policy), Vec::new());
        }
        (Err(error), _) => {
            let refused = format!("the {kind} policy of `{folder}` {error}");
            let instead = if restore(migration, kind, stored.filter(|_| !unchanged), slots, shared).await {
                "the one before it stays in charge"
            } else {
                "nobody is in charge, so V1 serves and nothing moves"
            };
            problem = Some((error, format!("{refused}; {instead}")));
        }
    }
    Ok((configured, problem))
}

/// Whether a policy that was in charge may be again: the keys that the host lists may have changed.
async fn still_vouched_for(
    slot: &SlotRecord,
    kind: Kind,
    bundle: &Bundle,
    bundle_is: bool,
    shared: &Shared,
) -> Result<bool, StartError> {
    let same = slot.component == bundle.component && slot.settings == bundle.settings;
    Ok(same && bundle_is || shared.registry.vouches(&slot.digest, kind, &slot.settings).await?)
}

/// Puts the policy that was in charge last in charge again; false if there was none or it is not admitted any more.
async fn restore(migration: &str, kind: Kind, slot: Option<SlotRecord>, slots: &Slots, shared: &Shared) -> bool {
    let Some(slot) = slot else { return false };
    match admit_off_path(shared, kind, slot.component, slot.settings).await {
        (Ok(policy), _) => {
            slots.get(kind).activate(Arc::new(policy), slot.memory);
            true
        }
        (Err(error), _) => {
            tracing::error!(migration, %kind, "the policy that was in charge {error}");
            false
        }
    }
}

async fn admit_off_path(
    shared: &Shared,
    kind: Kind,
    component: Vec<u8>,
    settings: String,
) -> (Result<Policy, PolicyError>, Vec<u8>) {
    let engine = Arc::clone(&shared.engine);
    let admitted = tokio::task::spawn_blocking(move || (admit(&engine, kind, &component, &settings), component)).await;
    admitted.unwrap_or_else(|e| (Err(PolicyError::Compile { message: e.to_string() }), Vec::new()))
}

/// Tells whether the configuration says the same of a policy as it did: its component and its settings.
fn fingerprint(bundle: &Bundle) -> String {
    let mut hash = Sha256::new();
    hash.update(Sha256::digest(&bundle.component));
    hash.update(bundle.settings.as_bytes());
    hex::encode(hash.finalize())
}
