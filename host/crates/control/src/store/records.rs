//! What is stored, as rows.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::{Row as _, sqlite::SqliteRow};

use super::StoreError;
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, Comparisons, Finding, Members},
    port::Phase,
    request::Ppm,
};
use cutover_policy_host::record::Call;

/// A decision that was persisted and acted on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Its number; 0 until it is stored.
    pub id: i64,
    /// The migration.
    pub migration: String,
    /// When.
    pub at: UnixMs,
    /// Such as `rollback` or `advance`.
    pub kind: String,
    /// Who: an operator's name, or `policy`.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The phase before.
    pub from_phase: Phase,
    /// The phase after.
    pub to_phase: Phase,
    /// V2's share before.
    pub from_share: Ppm,
    /// V2's share after.
    pub to_share: Ppm,
    /// The policy that decided: name and version.
    pub policy: Option<String>,
    /// Its digest.
    pub digest: Option<String>,
    /// What it rests on.
    pub findings: Vec<Finding>,
    /// The call that led to it: what the policy was asked, with its memory and settings, what it said and what it cost.
    pub inputs: Option<Call>,
}

/// Who did what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// When.
    pub at: UnixMs,
    /// Who.
    pub actor: String,
    /// In which migration.
    pub migration: String,
    /// Such as `set-flag` or `activate-policy`.
    pub action: String,
    /// With what.
    pub detail: Value,
}

/// What a pool is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfiguration {
    /// `MIGRATION/v1` or `MIGRATION/v2`.
    pub name: String,
    /// 1 or 2.
    pub version: u32,
    /// Its configuration, without secrets.
    pub config: Value,
}

impl Decision {
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let phase = |column| Ok::<_, StoreError>(serde_json::from_value(Value::from(row.try_get::<&str, _>(column)?))?);
        let inputs = row.try_get::<Option<&str>, _>("inputs")?;
        Ok(Self {
            id: row.try_get("id")?,
            migration: row.try_get("migration")?,
            at: UnixMs(u64::try_from(row.try_get::<i64, _>("at")?).unwrap_or(0)),
            kind: row.try_get("kind")?,
            actor: row.try_get("actor")?,
            reason: row.try_get("reason")?,
            from_phase: phase("from_phase")?,
            to_phase: phase("to_phase")?,
            from_share: Ppm::new(row.try_get("from_share")?),
            to_share: Ppm::new(row.try_get("to_share")?),
            policy: row.try_get("policy")?,
            digest: row.try_get("digest")?,
            findings: serde_json::from_str(row.try_get("findings")?)?,
            // Calls of hosts from before calls were recorded whole cannot be asked again.
            inputs: inputs.and_then(|call| serde_json::from_str(call).ok()),
        })
    }
}

impl Audited {
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            at: UnixMs(u64::try_from(row.try_get::<i64, _>("at")?).unwrap_or(0)),
            actor: row.try_get("actor")?,
            migration: row.try_get("migration")?,
            action: row.try_get("action")?,
            detail: serde_json::from_str(row.try_get("detail")?)?,
        })
    }
}

/// What the pools of a migration did in some batches, as `pool_metrics` keeps it.
pub(super) fn pool_metrics(batches: &[Batch]) -> Result<Vec<(&'static str, Value)>, StoreError> {
    let mut totals = [Calls::default(), Calls::default(), Calls::default()];
    let mut comparisons = Comparisons::default();
    for batch in batches {
        comparisons.merge(batch.comparisons);
        for operation in &batch.operations {
            let [v1, v2, shadow] = &mut totals;
            v1.merge(&operation.v1);
            v2.merge(&operation.v2);
            shadow.merge(&operation.shadow);
        }
    }
    let last = batches.last();
    let members = |pick: fn(&Batch) -> Members| last.map(pick).unwrap_or_default();
    let [v1, v2, shadow] = &totals;
    let share = last.map(|b| b.share).unwrap_or_default();
    let v1 = json!({ "calls": serde_json::to_value(v1)?, "members": members(|b| b.v1) });
    let v2 = json!({
        "calls": serde_json::to_value(v2)?,
        "mirrored": serde_json::to_value(shadow)?,
        "comparisons": comparisons,
        "members": members(|b| b.v2),
        "share_ppm": share,
    });
    Ok(vec![("v1", v1), ("v2", v2)])
}
