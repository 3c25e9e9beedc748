//! What policies were asked about, check by check: for policies that take over, and for the log.

use sqlx::Row as _;

use super::{Store, StoreError, sql_ms};
use crate::{
    clock::UnixMs,
    policy::port::{Check, Verdict},
};

/// A check that was recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheck {
    /// Its number, ascending.
    pub id: i64,
    /// What policies were asked about.
    pub check: Check,
    /// What the rollback policy said; none if it failed or nobody was in charge.
    pub verdict: Option<Verdict>,
}

impl Store {
    /// Records a check and what was said of it. Returns its number.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub async fn record_check(
        &self,
        migration: &str,
        check: &Check,
        verdict: Option<Verdict>,
    ) -> Result<i64, StoreError> {
        let inserted = sqlx::query("INSERT INTO checks (migration, at, question, verdict) VALUES (?, ?, ?, ?)")
            .bind(migration)
            .bind(sql_ms(check.now_ms))
            .bind(serde_json::to_string(check)?)
            .bind(verdict.map(Verdict::name))
            .execute(&self.0);
        Ok(inserted.await?.last_insert_rowid())
    }

    /// The checks of a migration from `from` to `to`, both included, that come after the one numbered `after`; oldest
    /// first, `most` of them.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn checks(
        &self,
        migration: &str,
        from: UnixMs,
        to: UnixMs,
        after: i64,
        most: u32,
    ) -> Result<Vec<StoredCheck>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, question, verdict FROM checks WHERE migration = ? AND at >= ? AND at <= ? AND id > ? ORDER BY id LIMIT ?",
        )
        .bind(migration)
        .bind(sql_ms(from))
        .bind(sql_ms(to))
        .bind(after)
        .bind(most)
        .fetch_all(&self.0)
        .await?;
        let read = |row: &sqlx::sqlite::SqliteRow| {
            let verdict = row.try_get::<Option<String>, _>("verdict")?;
            Ok(StoredCheck {
                id: row.try_get("id")?,
                check: serde_json::from_str(row.try_get("question")?)?,
                verdict: verdict.map(|verdict| serde_json::from_value(verdict.into())).transpose()?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Removes checks from before `before`, but not those that calls in the log are about.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_checks(&self, before: UnixMs) -> Result<u64, StoreError> {
        let deleted = sqlx::query(
            "DELETE FROM checks WHERE at < ?1 AND NOT EXISTS \
             (SELECT 1 FROM policy_calls p WHERE p.migration = checks.migration AND p.check_at = checks.at)",
        )
        .bind(sql_ms(before))
        .execute(&self.0);
        Ok(deleted.await?.rows_affected())
    }
}
