//! Fills the slots of policies when a host starts: with what the store remembers, or with what the configuration says.

use std::{collections::BTreeMap, sync::Arc};

use sha2::{Digest as _, Sha256};

use super::{Shared, StartError};
use cutover_control::{migration::catch_up, notify::Notice};
use cutover_model::{clock, port::Kind};
use cutover_policy_host::{
    PolicyError,
    admission::admit_with,
    ask::PolicyPort,
    bundle::Bundle,
    candidate::Candidate,
    catch_up::CatchUp,
    engine::Policy,
    installed::{InstalledPolicy, Title},
    slot::{Slot, Slots},
};
use cutover_store::{
    records::Audited,
    slots::{SlotRecord, SlotRole},
    state::State,
};

/// What became of the slots of a migration that starts.
pub(super) struct Filled {
    /// Fingerprints of what the configuration says of each policy.
    pub(super) configured: BTreeMap<Kind, String>,
    /// Policies of the configuration that are not admitted.
    pub(super) refused: Vec<(Kind, PolicyError)>,
    /// Whether pairs are compared by other rules than when the host ended.
    pub(super) compares_otherwise: bool,
}

/// Fills the slots of a migration; people are told of policies that are not admitted.
pub(super) async fn fill_slots(
    migration: &str,
    (policies, unreadable): (BTreeMap<Kind, Bundle>, BTreeMap<Kind, String>),
    slots: &Slots,
    shared: &Shared,
) -> Result<Filled, StartError> {
    let mut filled = Filled { configured: BTreeMap::new(), refused: Vec::new(), compares_otherwise: false };
    let before = shared.store.policy_in_slot(migration, Kind::Comparison, SlotRole::Active).await?;
    let readable = policies.into_iter().map(|(kind, bundle)| (kind, Ok(bundle)));
    for (kind, bundle) in readable.chain(unreadable.into_iter().map(|(kind, message)| (kind, Err(message)))) {
        let (fingerprint, problem) = match bundle {
            Ok(bundle) => fill_slot(migration, kind, bundle, slots, shared).await?,
            Err(message) => fill_unread(migration, kind, message, slots, shared).await?,
        };
        filled.configured.insert(kind, fingerprint);
        if let Some((error, message)) = problem {
            filled.refused.push((kind, error));
            tell(migration, ("policy-refused", "critical"), message, shared);
        }
    }
    if let (Some(before), Some(now)) = (before, slots.get(Kind::Comparison).active()) {
        filled.compares_otherwise = before.digest != **now.digest() || *before.settings != **now.settings();
    }
    Ok(filled)
}

fn tell(migration: &str, (event, severity): (&str, &'static str), message: String, shared: &Shared) {
    let (at, migration, event) = (clock::unix_ms(), migration.into(), event.into());
    shared.notifier.notify(Notice { at, migration, event, severity, message, findings: Vec::new() });
}

/// What people are told of who decides instead of a policy that is not admitted.
const fn instead(has_another: bool) -> &'static str {
    if has_another {
        "the one before it stays in charge"
    } else {
        "nobody is in charge, so V1 serves and nothing moves"
    }
}

/// Fills a slot whose bundle cannot be read with the policy that was in charge: the configuration may still want it.
async fn fill_unread(
    migration: &str,
    kind: Kind,
    message: String,
    slots: &Slots,
    shared: &Shared,
) -> Result<(String, Option<(PolicyError, String)>), StartError> {
    let slot = slots.get(kind);
    let stored = shared.store.policy_in_slot(migration, kind, SlotRole::Active).await?;
    let configured = stored.as_ref().map(|installed| installed.configured.clone()).unwrap_or_default();
    let stored = vouched(migration, kind, stored, None, shared).await;
    let is_restored = restore(migration, kind, stored, slot, shared).await;
    if is_restored {
        restore_others(migration, kind, None, slot, shared).await?;
    }
    let error = PolicyError::Unreadable { message };
    let message = format!("the {kind} policy {error}; {}", instead(is_restored));
    Ok((configured, Some((error, message))))
}

/// A warning if the policy that takes charge has the name of the one before it and is another; `None` if it is not.
fn same_name(kind: Kind, before: &SlotRecord, now: &SlotRecord) -> Option<String> {
    let digest = |text: String| hex::encode(Sha256::digest(text));
    let script = |settings: &str| {
        let settings: serde_json::Value = serde_json::from_str(settings).unwrap_or_default();
        settings.get("script").and_then(serde_json::Value::as_str).map(|script| digest(script.to_owned()))
    };
    if before.title != now.title {
        return None;
    }
    let scripts = (script(&before.settings), script(&now.settings));
    let (what, was, is) = match scripts {
        _ if before.digest != now.digest => ("component", before.digest.clone(), now.digest.clone()),
        (Some(was), Some(is)) if was != is => ("script", was, is),
        _ => return None,
    };
    Some(format!(
        "the {kind} policy {}@{} takes charge with another {what} than the one of the same name and version had: SHA-256 {is}, \
         and was {was}; give what is changed a version of its own",
        now.title.name, now.title.version
    ))
}

/// Fills a slot at start: with the policy that was in charge last, unless the configuration has changed since. If that
/// one is not admitted, with the other. Returns the configuration's fingerprint, and what people must know.
async fn fill_slot(
    migration: &str,
    kind: Kind,
    bundle: Bundle,
    slots: &Slots,
    shared: &Shared,
) -> Result<(String, Option<(PolicyError, String)>), StartError> {
    let configured = fingerprint(&bundle);
    let slot = slots.get(kind);
    let stored = shared.store.policy_in_slot(migration, kind, SlotRole::Active).await?;
    let unchanged = stored.as_ref().is_some_and(|installed| installed.configured == configured);
    let before = stored.clone();
    let stored = vouched(migration, kind, stored, Some(&bundle), shared).await;
    if unchanged && restore(migration, kind, stored.clone(), slot, shared).await {
        restore_others(migration, kind, Some(&bundle), slot, shared).await?;
        return Ok((configured, None));
    }
    let mut problem = None;
    let folder = bundle.folder.display().to_string();
    let title = Title { name: bundle.name.clone(), version: bundle.version.clone() };
    let settings = bundle.settings.clone();
    let admitted = match shared.registry.trust.screen(&bundle.claimed(), bundle.envelope.as_ref()) {
        Ok(()) => {
            admit_off_path(shared, kind, bundle.component.clone(), bundle.settings.clone(), bundle.wasi_stub).await
        }
        Err(refused) => (Err(PolicyError::Untrusted { refused }), Vec::new()),
    };
    match admitted {
        (Ok(policy), component) => {
            let policy = Arc::new(policy);
            let replayed = replayed(migration, Arc::<Policy>::clone(&policy), shared).await?;
            let record = SlotRecord {
                title: title.clone(),
                digest: policy.digest().to_string(),
                wasi_stub: bundle.wasi_stub,
                settings,
                configured: configured.clone(),
                memory: replayed.memory.clone(),
                held: None,
                rule: None,
                evidence: None,
                since: clock::unix_ms(),
                updated_by: "configuration".into(),
                component,
            };
            let shown = serde_json::json!({ "checks": replayed.checks, "failed": replayed.failed, "first_failure": replayed.first_failure });
            let detail = serde_json::json!({ "kind": kind, "to": record.digest, "bundle": folder, "replayed": shown });
            let audited = Audited {
                at: clock::unix_ms(),
                actor: "configuration".into(),
                migration: migration.into(),
                action: "activate-policy".into(),
                detail,
            };
            match shared.store.activate(kind, &record, false, &audited).await {
                Ok(()) => {}
                // It decides about nothing: V1 serves everybody as long as this host runs.
                Err(error) if shared.store.refuses().is_some() => {
                    tracing::warn!(%error, "that a policy is in charge is not on record");
                }
                Err(error) => return Err(error.into()),
            }
            if let Some(message) = before.and_then(|before| same_name(kind, &before, &record)) {
                tell(migration, ("policy-changed", "warning"), message, shared);
            }
            let installed = InstalledPolicy { policy, title, wasi_stub: bundle.wasi_stub };
            slot.activate(installed, replayed.memory);
            restore_others(migration, kind, Some(&bundle), slot, shared).await?;
        }
        (Err(error), _) => {
            let refused = format!("the {kind} policy of `{folder}` {error}");
            let instead = instead(restore(migration, kind, stored.filter(|_| !unchanged), slot, shared).await);
            problem = Some((error, format!("{refused}; {instead}")));
        }
    }
    Ok((configured, problem))
}

/// What a policy that takes charge at start remembers of the phase or stage that goes on.
async fn replayed(migration: &str, policy: Arc<dyn PolicyPort>, shared: &Shared) -> Result<CatchUp, StartError> {
    let state = shared.store.state(migration).await?.filter(State::is_judged);
    let Some(state) = state else { return Ok(CatchUp::default()) };
    Ok(catch_up::caught_up(&shared.store, migration, &policy, state.since).await)
}

/// A policy in a slot of before, if those that the host trusts now still vouch for it: as a release, or as the bundle that
/// the configuration names.
async fn vouched(
    migration: &str,
    kind: Kind,
    installed: Option<SlotRecord>,
    bundle: Option<&Bundle>,
    shared: &Shared,
) -> Option<SlotRecord> {
    let installed = installed?;
    if installed.held.is_some() {
        return Some(installed);
    }
    let is_vouched = |bundle: &Bundle| {
        let claimed = bundle.claimed();
        let is_bundle = claimed.component_sha256 == installed.digest && bundle.settings == installed.settings;
        is_bundle && shared.registry.trust.screen(&claimed, bundle.envelope.as_ref()).is_ok()
    };
    if bundle.is_some_and(is_vouched) {
        return Some(installed);
    }
    match shared.registry.vouches(&installed.digest, kind, &installed.settings).await {
        Ok(true) => return Some(installed),
        Ok(false) => {
            tracing::error!(migration, %kind, policy = installed.title.name, "nobody vouches for a policy that was in a slot");
        }
        Err(error) => {
            tracing::error!(migration, %kind, "cannot tell who vouches for a policy: {}", cutover_model::causes::chain(&error));
        }
    }
    None
}

/// Puts the policy that was in charge last in charge again, or holds the slot if it was held; false if there was none or
/// it is not admitted any more.
async fn restore(migration: &str, kind: Kind, installed: Option<SlotRecord>, slot: &Slot, shared: &Shared) -> bool {
    let Some(record) = installed else { return false };
    if let Some(why) = record.held {
        slot.hold(why);
        return true;
    }
    let memory = record.memory.clone();
    match restored(migration, kind, record, shared).await {
        Some(installed) => {
            slot.activate(installed, memory);
            true
        }
        None => false,
    }
}

/// Restores the previous policy and the candidate of a slot.
async fn restore_others(
    migration: &str,
    kind: Kind,
    bundle: Option<&Bundle>,
    slot: &Slot,
    shared: &Shared,
) -> Result<(), StartError> {
    let previous = shared.store.policy_in_slot(migration, kind, SlotRole::Previous).await?;
    if let Some(record) = vouched(migration, kind, previous, bundle, shared).await
        && let Some(installed) = restored(migration, kind, record, shared).await
    {
        slot.restore_previous(installed);
    }
    let candidate = shared.store.policy_in_slot(migration, kind, SlotRole::Candidate).await?;
    if let Some(mut record) = vouched(migration, kind, candidate, bundle, shared).await {
        let (rule, evidence) = (record.rule.take().unwrap_or_default(), record.evidence.take().unwrap_or_default());
        // No check was made while there was no host.
        let (since, memory) = (record.since, (record.memory.clone(), clock::unix_ms()));
        if let Some(installed) = restored(migration, kind, record, shared).await {
            slot.stand_by(Some(&Arc::new(Candidate::new(installed, rule, since, memory, evidence))));
        }
    }
    Ok(())
}

async fn restored(migration: &str, kind: Kind, record: SlotRecord, shared: &Shared) -> Option<InstalledPolicy> {
    let (title, wasi_stub) = (record.title, record.wasi_stub);
    match admit_off_path(shared, kind, record.component, record.settings, record.wasi_stub).await {
        (Ok(policy), _) => {
            // A host from before policies had titles knew them by what they say themselves.
            let said = || Title { name: policy.description.name.clone(), version: policy.description.version.clone() };
            let title = if title.name.is_empty() { said() } else { title };
            Some(InstalledPolicy { policy: Arc::new(policy), title, wasi_stub })
        }
        (Err(error), _) => {
            tracing::error!(migration, %kind, policy = title.name, "a policy that was in a slot {error}");
            None
        }
    }
}

async fn admit_off_path(
    shared: &Shared,
    kind: Kind,
    component: Vec<u8>,
    settings: String,
    wasi_stub: bool,
) -> (Result<Policy, PolicyError>, Vec<u8>) {
    let engine = Arc::clone(&shared.engine);
    let admit = move || (admit_with(&engine, kind, &component, &settings, wasi_stub), component);
    let admitted = shared.desk.admitting.run(admit).await;
    admitted.unwrap_or_else(|e| (Err(PolicyError::Compile { message: e.to_string() }), Vec::new()))
}

/// Tells whether the configuration says the same of a policy as it did: its component and its settings.
pub(super) fn fingerprint(bundle: &Bundle) -> String {
    let mut hash = Sha256::new();
    hash.update(Sha256::digest(&bundle.component));
    hash.update(bundle.settings.as_bytes());
    hex::encode(hash.finalize())
}
