//! What outlives the host: a database behind one small port. What it keeps first of all is the [`state`] of each migration.
//!
//! The port is the methods of [`Store`]; behind it are SQLite, in a file, and PostgreSQL, with the same tables and one text
//! of each query. A host opens SQLite; its commits go to the write-ahead log without waiting for the disk
//! (`synchronous = NORMAL`): a killed process loses nothing, a power cut may lose the last moments but never the file's
//! consistency. Every write that an effect depends on is awaited before the effect.

pub mod calls;
mod consistency;
mod database;
mod file;
mod ground;
pub mod history;
mod identity;
pub mod in_force;
mod journal;
mod lock;
pub mod markers;
mod memories;
mod packed;
pub mod plans;
#[cfg(test)]
mod port;
#[cfg(any(test, feature = "test-server"))]
pub mod postgres_server;
pub mod records;
mod releases;
pub mod room;
mod sessions;
pub mod slots;
pub mod state;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use serde_json::Value;
use sqlx::{AnyPool, Row as _};

pub use self::{
    consistency::{Consistency, Inconsistency},
    ground::{Examined, Trouble},
};
use self::{
    database::{Dialect, Mode, json, text},
    ground::Ground,
    identity::Identity,
    records::{Audited, Decision, PoolConfiguration},
};
use crate::state::State;
use cutover_model::{
    clock::{self, UnixMs},
    facts::Batch,
    port::Kind,
};

/// How long a connection to a server may take.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);

/// The store of one host: the database, and what it stands on.
#[derive(Debug, Clone)]
pub struct Store {
    pool: AnyPool,
    dialect: Dialect,
    ground: Arc<Ground>,
    identity: Arc<Identity>,
}

/// The store cannot do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened.
    #[error("cannot open the store `{path}`; check that its folder exists and is writable")]
    Open {
        /// The path of the file.
        path: String,
        /// What the database says.
        #[source]
        source: sqlx::Error,
    },
    /// Another host has the store's file.
    #[error("the store `{path}` is in use by {owner}; stop that host, or give this one a store of its own")]
    Taken {
        /// The path of the store's file.
        path: String,
        /// The host that has it, in that host's own words.
        owner: String,
    },
    /// Another host has the file of a migration's rollbacks.
    #[error("`{path}` is for rollbacks of {owner}; give this host a folder of its own in `host.rollback_markers`")]
    MarkersTaken {
        /// The path of the marker file.
        path: String,
        /// The host that has it, in that host's own words.
        owner: String,
    },
    /// It could not be opened or written when the host began.
    #[error("the store `{path}` takes no records: {why}")]
    Refuses {
        /// The path of the store's file.
        path: String,
        /// What failed when the store was opened or written, as a sentence.
        why: String,
    },
    /// The file is not the one that was opened.
    #[error(
        "the store `{path}` was {what} under the host; put it back, or restart the host with the one that it shall have"
    )]
    Gone {
        /// The path of the store's file.
        path: String,
        /// What was done to the file: `deleted` or `replaced`.
        what: &'static str,
    },
    /// The store does not answer in time.
    #[error("the store did not answer within {limit:?}")]
    Late {
        /// The time that the store had.
        limit: Duration,
    },
    /// A newer host has brought the tables up to its version.
    #[error(
        "the store `{path}` has version {version} of the tables, and this program knows them up to {known}; use the program \
         that wrote it, or a copy of the store from before"
    )]
    Newer {
        /// The path of the store's file.
        path: String,
        /// The version that the store has.
        version: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The tables cannot be brought up to date.
    #[error("cannot bring the tables of the store up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed in the database.
    #[error("the store failed")]
    Statement(#[from] sqlx::Error),
    /// What is stored cannot be read.
    #[error("the store has something that cannot be read")]
    Content(#[from] serde_json::Error),
    /// A candidate is in its slot, but not on record.
    #[error("the store has no candidate for {0}; make it one again")]
    NoCandidate(Kind),
    /// A check's batches are not what they were when they were packed.
    #[error("check {id} cannot be unpacked")]
    Packed {
        /// The check's number in the store.
        id: i64,
        /// What the unpacker says.
        #[source]
        source: std::io::Error,
    },
    /// An answer is not what it was when it was packed.
    #[error("the answer of call {id} cannot be unpacked")]
    Answer {
        /// The call's number in the store.
        id: i64,
        /// What the unpacker says.
        #[source]
        source: std::io::Error,
    },
    /// A memory is not what it was when it was packed.
    #[error("memory {id} cannot be unpacked")]
    Memory {
        /// The memory's number in the store.
        id: i64,
        /// What the unpacker says.
        #[source]
        source: std::io::Error,
    },
    /// A file of another host, or no store at all.
    #[error("`{path}` has no recorded checks; it is not a store, or of a host that did not record them yet")]
    NoChecks {
        /// The path of the file.
        path: String,
    },
}

impl Store {
    /// Opens the file, makes it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let opened = |source| StoreError::Open { path: path.display().to_string(), source };
        file::keep_private(path);
        let pool = database::sqlite(Some(path), Mode::Write).await.map_err(opened)?;
        Self::with(pool, Dialect::Sqlite, Ground::of(path)).await
    }

    /// Opens a PostgreSQL database by its URL in libpq's form, and brings its tables up to date. `shown` is what people are
    /// told of it, without a password. At most `connections` are open at once.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn open_postgres(url: &str, shown: &str, connections: u32) -> Result<Self, StoreError> {
        let opened = |source| StoreError::Open { path: shown.to_owned(), source };
        let pool = database::postgres(url, connections, CONNECTED_WITHIN).await.map_err(opened)?;
        Self::with(pool, Dialect::Postgres, Ground::without_file(shown)).await
    }

    /// An empty store in memory, in the place of the one at `path`.
    async fn in_memory(path: &Path) -> Result<Self, StoreError> {
        let opened = |source| StoreError::Open { path: path.display().to_string(), source };
        let pool = database::sqlite(None, Mode::Write).await.map_err(opened)?;
        Self::with(pool, Dialect::Sqlite, Ground::of(path)).await
    }

    /// Brings the tables up to date.
    async fn with(pool: AnyPool, dialect: Dialect, ground: Ground) -> Result<Self, StoreError> {
        let is_new = dialect.version(&pool).await? == 0;
        refuse_newer(&pool, dialect, ground.path()).await?;
        dialect.migrate(&pool).await?;
        let identity = Arc::new(Identity::of(&pool, ground.path(), is_new).await?);
        Ok(Self { pool, dialect, ground: Arc::new(ground), identity })
    }

    /// Ends all work, closes the file and lets go of it: another host may have it then.
    pub async fn close(&self) {
        self.pool.close().await;
        self.ground.let_go();
    }

    /// Whether the store answers, and is the one that was opened.
    ///
    /// # Errors
    /// Why it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.here()?;
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// Where a migration stood when it was last persisted.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn state(&self, migration: &str) -> Result<Option<State>, StoreError> {
        let row = sqlx::query(
            "SELECT CAST(metadata AS TEXT) FROM migration_status WHERE migration = $1 AND completed_at IS NULL",
        )
        .bind(migration)
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| Ok(serde_json::from_str(row.try_get::<&str, _>(0)?)?)).transpose()
    }

    /// Persists a decision, the state that it leads to, and the audit record, in one transaction. Returns the
    /// decision's number. `begins` is the number of the stage that begins with it, if one does: nobody was seen in it yet.
    ///
    /// # Errors
    /// When nothing of it was persisted.
    pub async fn decide(&self, decision: &Decision, state: &State, begins: Option<i64>) -> Result<i64, StoreError> {
        self.noted(self.record_decision(decision, state, begins).await)
    }

    async fn record_decision(
        &self,
        decision: &Decision,
        state: &State,
        begins: Option<i64>,
    ) -> Result<i64, StoreError> {
        self.here()?;
        let now = sql_ms(decision.at);
        let mut tx = self.pool.begin().await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO decisions (migration, at, kind, actor, reason, from_phase, to_phase, from_share, to_share, \
             policy, digest, findings, inputs) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, CAST($12 AS jsontext), CAST($13 AS jsontext)) RETURNING id",
        )
        .bind(&decision.migration)
        .bind(now)
        .bind(&decision.kind)
        .bind(text(&decision.actor))
        .bind(text(&decision.reason))
        .bind(decision.from_phase.name())
        .bind(decision.to_phase.name())
        .bind(i64::from(decision.from_share.get()))
        .bind(i64::from(decision.to_share.get()))
        .bind(&decision.policy)
        .bind(&decision.digest)
        .bind(json(serde_json::to_string(&decision.findings)?))
        .bind(decision.inputs.as_ref().map(serde_json::to_string).transpose()?.map(json))
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query("UPDATE migration_status SET completed_at = $1, updated_at = $2, status = 'completed' WHERE migration = $3 AND completed_at IS NULL")
            .bind(now)
            .bind(now)
            .bind(&decision.migration)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO migration_status (migration, phase, status, started_at, metadata, inserted_at, updated_at) VALUES ($1, $2, 'in-progress', $3, CAST($4 AS jsontext), $5, $6)")
            .bind(&decision.migration)
            .bind(state.phase.name())
            .bind(sql_ms(state.since))
            .bind(json(serde_json::to_string(state)?))
            .bind(now)
            .bind(now)
            .execute(&mut *tx)
            .await?;
        if let Some(stage) = begins {
            sessions::begin_stage(&mut tx, &decision.migration, stage).await?;
        }
        tx.commit().await?;
        Ok(id)
    }

    /// Whether a decision is on record already.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn has_decided(&self, decision: &Decision) -> Result<bool, StoreError> {
        let same = "SELECT 1 FROM decisions WHERE migration = $1 AND at = $2 AND kind = $3 AND to_phase = $4";
        let same = sqlx::query(same).bind(&decision.migration).bind(sql_ms(decision.at)).bind(&decision.kind);
        Ok(same.bind(decision.to_phase.name()).fetch_optional(&self.pool).await?.is_some())
    }

    /// Decisions of a migration, newest first.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn decisions(&self, migration: &str, most: u32) -> Result<Vec<Decision>, StoreError> {
        let rows = sqlx::query("SELECT id, migration, at, kind, actor, reason, from_phase, to_phase, from_share, to_share, policy, digest, \
             CAST(findings AS TEXT) AS findings, CAST(inputs AS TEXT) AS inputs FROM decisions WHERE migration = $1 ORDER BY id DESC LIMIT $2")
            .bind(migration)
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(Decision::from_row).collect()
    }

    /// Records who did what.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn audit(&self, audited: &Audited) -> Result<(), StoreError> {
        audited.record(&mut *self.pool.acquire().await?).await
    }

    /// Who did what in a migration, newest first.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn audited(&self, migration: &str, most: u32) -> Result<Vec<Audited>, StoreError> {
        let rows = sqlx::query("SELECT at, actor, migration, action, CAST(detail AS TEXT) AS detail FROM audit WHERE migration = $1 ORDER BY id DESC LIMIT $2")
            .bind(migration)
            .bind(i64::from(most))
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(Audited::from_row).collect()
    }

    /// The flags of a migration that were set.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn flags(&self, migration: &str) -> Result<BTreeMap<String, Value>, StoreError> {
        let rows = sqlx::query("SELECT flag, CAST(value AS TEXT) FROM flags WHERE migration = $1")
            .bind(migration)
            .fetch_all(&self.pool)
            .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, serde_json::from_str(row.try_get(1)?)?))).collect()
    }

    /// Sets a flag and records who did.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn set_flag(&self, flag: &str, value: &Value, audited: &Audited) -> Result<(), StoreError> {
        self.here()?;
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO flags (migration, flag, value, updated_at, updated_by) VALUES ($1, $2, CAST($3 AS jsontext), $4, $5) \
             ON CONFLICT (migration, flag) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
        )
        .bind(&audited.migration)
        .bind(flag)
        .bind(json(value.to_string()))
        .bind(sql_ms(audited.at))
        .bind(text(&audited.actor))
        .execute(&mut *tx)
        .await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records what a pool is made of; a pool that changed gets its row updated.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn configure_pool(&self, pool: &PoolConfiguration) -> Result<(), StoreError> {
        let now = sql_ms(clock::unix_ms());
        sqlx::query(
            "INSERT INTO pool_configurations (name, version, config, active, inserted_at, updated_at) \
             VALUES ($1, $2, CAST($3 AS jsontext), $4, $5, $6) ON CONFLICT (name, version) DO UPDATE \
             SET config = excluded.config, active = excluded.active, updated_at = excluded.updated_at",
        )
        .bind(&pool.name)
        .bind(i64::from(pool.version))
        .bind(json(pool.config.to_string()))
        .bind(true)
        .bind(now)
        .bind(now)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// What a pool of this name was made of when a host last started with it.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn pool_configuration(&self, pool: &PoolConfiguration) -> Result<Option<Value>, StoreError> {
        let row = sqlx::query("SELECT CAST(config AS TEXT) FROM pool_configurations WHERE name = $1 AND version = $2");
        let row = row.bind(&pool.name).bind(i64::from(pool.version)).fetch_optional(&self.pool).await?;
        row.map(|row| Ok(serde_json::from_str(row.try_get(0)?)?)).transpose()
    }

    /// Records what a migration's pools did in some batches: one row for each pool.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn record_metrics(&self, migration: &str, batches: &[Batch]) -> Result<(), StoreError> {
        let now = sql_ms(clock::unix_ms());
        let mut tx = self.pool.begin().await?;
        for (pool, metrics) in records::pool_metrics(batches)? {
            sqlx::query("INSERT INTO pool_metrics (pool_name, timestamp, metrics, inserted_at, updated_at) VALUES ($1, $2, CAST($3 AS jsontext), $4, $5)")
                .bind(format!("{migration}/{pool}"))
                .bind(now)
                .bind(json(metrics.to_string()))
                .bind(now)
                .bind(now)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Removes metrics from before `before`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_metrics(&self, before: UnixMs) -> Result<u64, StoreError> {
        let deleted =
            sqlx::query("DELETE FROM pool_metrics WHERE timestamp < $1").bind(sql_ms(before)).execute(&self.pool);
        Ok(deleted.await?.rows_affected())
    }

    /// The number of a migration's last decision, and when that was; none if it has none.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn last_decision(&self, migration: &str) -> Result<Option<(i64, UnixMs)>, StoreError> {
        let last = sqlx::query("SELECT id, at FROM decisions WHERE migration = $1 ORDER BY id DESC LIMIT 1");
        let row = last.bind(migration).fetch_optional(&self.pool).await?;
        row.map(|row| Ok((row.try_get(0)?, UnixMs(u64::try_from(row.try_get::<i64, _>(1)?).unwrap_or(0))))).transpose()
    }

    /// One decision by its number.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn decision(&self, id: i64) -> Result<Option<Decision>, StoreError> {
        let row = sqlx::query("SELECT id, migration, at, kind, actor, reason, from_phase, to_phase, from_share, to_share, policy, digest, \
             CAST(findings AS TEXT) AS findings, CAST(inputs AS TEXT) AS inputs FROM decisions WHERE id = $1").bind(id).fetch_optional(&self.pool).await?;
        row.as_ref().map(Decision::from_row).transpose()
    }
}

/// Refuses tables of a version that this program does not know: what it would write there could be wrong.
async fn refuse_newer(pool: &AnyPool, dialect: Dialect, path: &Path) -> Result<(), StoreError> {
    let (version, known) = (dialect.version(pool).await?, dialect.newest());
    if version > known {
        return Err(StoreError::Newer { path: path.display().to_string(), version, known });
    }
    Ok(())
}

/// Integers of databases are signed.
fn sql_ms(at: UnixMs) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}
