//! Placeholder until the history branch is merged.

use super::{Store, StoreError, sql_ms};
use crate::{
    clock::UnixMs,
    policy::port::{Check, Verdict},
};
use sqlx::Row as _;

/// A check with its number.
#[derive(Debug, Clone)]
pub struct StoredCheck {
    /// Its number.
    pub id: i64,
    /// The check.
    pub check: Check,
    /// The verdict.
    pub verdict: Option<Verdict>,
}

impl Store {
    /// Records a check.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record_check(
        &self,
        migration: &str,
        check: &Check,
        verdict: Option<Verdict>,
    ) -> Result<i64, StoreError> {
        Ok(sqlx::query("INSERT INTO checks (migration, at, question, verdict) VALUES (?, ?, ?, ?)")
            .bind(migration)
            .bind(sql_ms(check.now_ms))
            .bind(serde_json::to_string(check)?)
            .bind(verdict.map(Verdict::name))
            .execute(&self.0)
            .await?
            .last_insert_rowid())
    }

    /// Checks.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn checks(
        &self,
        migration: &str,
        from: UnixMs,
        to: UnixMs,
        after: i64,
        most: u32,
    ) -> Result<Vec<StoredCheck>, StoreError> {
        let rows = sqlx::query("SELECT id, question, verdict FROM checks WHERE migration = ? AND at >= ? AND at <= ? AND id > ? ORDER BY id LIMIT ?")
            .bind(migration).bind(sql_ms(from)).bind(sql_ms(to)).bind(after).bind(most).fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredCheck {
                    id: row.try_get("id")?,
                    check: serde_json::from_str(row.try_get("question")?)?,
                    verdict: row
                        .try_get::<Option<String>, _>("verdict")?
                        .map(|v| serde_json::from_value(v.into()))
                        .transpose()?,
                })
            })
            .collect()
    }
}
