//! The plan in force, kept so that a host that begins again has it before it serves anything, whoever makes plans then.

use sqlx::Row as _;

use super::{Store, StoreError, sql_ms};
use cutover_model::{
    clock::UnixMs,
    port::{Phase, Plan},
};

/// The routing plan that a migration had in force last; it is in force again after a restart, before any policy is
/// asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastPlan {
    /// When it was put in force.
    pub at: UnixMs,
    /// The phase that it was made for.
    pub phase: Phase,
    /// SHA-256 of the component of the policy that made it.
    pub digest: String,
    /// The plan as the host executes it.
    pub plan: Plan,
}

impl Store {
    /// The plan of a migration that was in force last.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn last_plan(&self, migration: &str) -> Result<Option<LastPlan>, StoreError> {
        let row = sqlx::query("SELECT at, phase, digest, CAST(plan AS TEXT) FROM plans WHERE migration = $1")
            .bind(migration)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| {
            Ok(LastPlan {
                at: UnixMs(u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0)),
                phase: serde_json::from_value(row.try_get::<String, _>(1)?.into())?,
                digest: row.try_get(2)?,
                plan: serde_json::from_str(row.try_get(3)?)?,
            })
        })
        .transpose()
    }

    /// Keeps the plan that is in force now.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn keep_plan(&self, migration: &str, last: &LastPlan) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO plans (migration, at, phase, digest, plan) VALUES ($1, $2, $3, $4, CAST($5 AS jsontext)) ON CONFLICT (migration) DO UPDATE \
             SET at = excluded.at, phase = excluded.phase, digest = excluded.digest, plan = excluded.plan",
        )
        .bind(migration)
        .bind(sql_ms(last.at))
        .bind(last.phase.name())
        .bind(&last.digest)
        .bind(super::json(serde_json::to_string(&last.plan)?))
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}
