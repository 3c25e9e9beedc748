//! Keeps journals: many entries in one commit, so that callers share the wait.

use std::sync::Arc;

use sqlx::Row as _;

use super::{Store, StoreError, sql_ms};
use cutover_model::clock;
use cutover_traffic::pool::journal::{Entry, Keep, Keeper};

/// Entries in one commit.
const BATCH: usize = 256;

impl Store {
    /// What a migration's journal has; entries that only take things away are not needed by fresh workers and go.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn journal(&self, migration: &str) -> Result<Vec<(Arc<str>, Entry)>, StoreError> {
        if self.refuses().is_none() {
            let removing = sqlx::query("DELETE FROM session_journal WHERE migration = $1 AND removes").bind(migration);
            removing.execute(&self.pool).await?;
        }
        let rows = sqlx::query(
            "SELECT session, version, operation, arguments, key FROM session_journal \
             WHERE migration = $1 AND NOT removes ORDER BY session, version",
        )
        .bind(migration)
        .fetch_all(&self.pool)
        .await?;
        let entry = |row: &sqlx::any::AnyRow| {
            let entry = Entry {
                version: u64::try_from(row.try_get::<i64, _>("version")?).unwrap_or(0),
                operation: row.try_get::<&str, _>("operation")?.into(),
                arguments: Arc::new(serde_json::from_str(row.try_get("arguments")?)?),
                key: row.try_get("key")?,
                removes: false,
            };
            Ok((row.try_get::<&str, _>("session")?.into(), entry))
        };
        rows.iter().map(entry).collect()
    }

    /// Keeps what a journal hands over, until the journal is gone.
    pub async fn keep_journal(self, migration: String, mut keeper: Keeper) {
        let mut batch = Vec::with_capacity(BATCH);
        while keeper.recv_many(&mut batch, BATCH).await > 0 {
            let kept = self.keep(&migration, &batch).await.map_err(|error| {
                let why = cutover_model::causes::chain(&error);
                tracing::error!(migration, "the journal cannot be kept: {why}");
                why
            });
            for Keep { kept: tell, .. } in batch.drain(..) {
                // A caller that went away does not need to know.
                drop(tell.send(kept.clone()));
            }
        }
    }

    async fn keep(&self, migration: &str, batch: &[Keep]) -> Result<(), StoreError> {
        // Nobody is promised what would be gone after a restart.
        self.here()?;
        let mut tx = self.pool.begin().await?;
        for Keep { session, entry, .. } in batch {
            if let Some(key) = &entry.key {
                sqlx::query("DELETE FROM session_journal WHERE migration = $1 AND session = $2 AND key = $3")
                    .bind(migration)
                    .bind(&**session)
                    .bind(key)
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(
                "INSERT INTO session_journal (migration, session, version, operation, arguments, key, removes, inserted_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(migration)
            .bind(&**session)
            .bind(i64::try_from(entry.version).unwrap_or(i64::MAX))
            .bind(&*entry.operation)
            .bind(serde_json::to_string(&*entry.arguments)?)
            .bind(&entry.key)
            .bind(entry.removes)
            .bind(sql_ms(clock::unix_ms()))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}
