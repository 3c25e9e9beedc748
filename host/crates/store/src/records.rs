//! What is stored, as rows.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::{AnyConnection, Row as _, any::AnyRow};

use super::{
    StoreError,
    database::{json, text},
    sql_ms,
};
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
    /// Its number in the store, ascending; 0 until it is stored.
    pub id: i64,
    /// The name of the migration that it is about.
    pub migration: String,
    /// When the decision was taken.
    pub at: UnixMs,
    /// The kind of decision, such as `rollback` or `advance`.
    pub kind: String,
    /// Who decided: an operator's name, `policy`, or `host`.
    pub actor: String,
    /// Why, as one sentence for people.
    pub reason: String,
    /// The phase that the decision ended.
    pub from_phase: Phase,
    /// The phase that the decision led to; the same if only the share or stage changed.
    pub to_phase: Phase,
    /// V2's share before the decision.
    pub from_share: Ppm,
    /// V2's share from then on.
    pub to_share: Ppm,
    /// Name and version of the policy that decided; none if no policy did.
    pub policy: Option<String>,
    /// SHA-256 of that policy's component, lower-case hex; none if no policy decided.
    pub digest: Option<String>,
    /// The facts that the decision rests on, each with its limit; empty if it rests on none.
    pub findings: Vec<Finding>,
    /// The call that led to it: what the policy was asked, with its memory and settings, what it said and what it cost.
    pub inputs: Option<Call>,
}

/// One record of the audit: an operator or the host did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Audited {
    /// When it was done.
    pub at: UnixMs,
    /// The operator's name, or the host's word for itself.
    pub actor: String,
    /// The migration's name; empty for what is about no migration, such as a push to the registry.
    pub migration: String,
    /// The kind of action, such as `set-flag` or `activate-policy`.
    pub action: String,
    /// The particulars, as a JSON object; its fields depend on the action.
    pub detail: Value,
}

/// What a pool is made of, as the configuration says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfiguration {
    /// The pool's name: `MIGRATION/v1` or `MIGRATION/v2`.
    pub name: String,
    /// 1 for V1's pool, 2 for V2's.
    pub version: u32,
    /// Its configuration as JSON, without secrets.
    pub config: Value,
}

impl Decision {
    pub(super) fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        let phase = |column| Ok::<_, StoreError>(serde_json::from_value(Value::from(row.try_get::<&str, _>(column)?))?);
        let inputs = row.try_get::<Option<&str>, _>("inputs")?;
        let share = |column| ppm(row, column);
        Ok(Self {
            id: row.try_get("id")?,
            migration: row.try_get("migration")?,
            at: UnixMs(u64::try_from(row.try_get::<i64, _>("at")?).unwrap_or(0)),
            kind: row.try_get("kind")?,
            actor: row.try_get("actor")?,
            reason: row.try_get("reason")?,
            from_phase: phase("from_phase")?,
            to_phase: phase("to_phase")?,
            from_share: share("from_share")?,
            to_share: share("to_share")?,
            policy: row.try_get("policy")?,
            digest: row.try_get("digest")?,
            findings: serde_json::from_str(row.try_get("findings")?)?,
            // Calls of hosts from before calls were recorded whole cannot be asked again.
            inputs: inputs.and_then(|call| serde_json::from_str(call).ok()),
        })
    }
}

impl Audited {
    /// Records it, in the transaction that does it if there is one.
    pub(super) async fn record(&self, connection: &mut AnyConnection) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO audit (at, actor, migration, action, detail) VALUES ($1, $2, $3, $4, CAST($5 AS jsontext))",
        )
        .bind(sql_ms(self.at))
        .bind(text(&self.actor))
        .bind(&self.migration)
        .bind(&self.action)
        .bind(json(self.detail.to_string()))
        .execute(connection)
        .await?;
        Ok(())
    }

    pub(super) fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        Ok(Self {
            at: UnixMs(u64::try_from(row.try_get::<i64, _>("at")?).unwrap_or(0)),
            actor: row.try_get("actor")?,
            migration: row.try_get("migration")?,
            action: row.try_get("action")?,
            detail: serde_json::from_str(row.try_get("detail")?)?,
        })
    }
}

/// A share as it is kept.
pub(super) fn ppm(row: &AnyRow, column: &str) -> Result<Ppm, sqlx::Error> {
    Ok(Ppm::new(u32::try_from(row.try_get::<i64, _>(column)?).unwrap_or(u32::MAX)))
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
    let v1 = serde_json::json!({ "calls": serde_json::to_value(v1)?, "members": members(|b| b.v1) });
    let v2 = serde_json::json!({
        "calls": serde_json::to_value(v2)?,
        "mirrored": serde_json::to_value(shadow)?,
        "comparisons": comparisons,
        "members": members(|b| b.v2),
        "share_ppm": share,
    });
    Ok(vec![("v1", v1), ("v2", v2)])
}
