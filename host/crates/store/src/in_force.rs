//! What migrations ran by when a host last started with them, and where all of them stand.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::{Store, StoreError, sql_ms};
use crate::state::State;
use cutover_model::{clock::UnixMs, port::Kind, request::Class};

/// The parts of a migration's configuration whose change a restart must be warned of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The salt of its session hash; another one moves sessions.
    pub salt: String,
    /// Its operations with their classes, by name.
    pub operations: BTreeMap<String, Class>,
}

/// Who is in charge of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InCharge {
    /// Its name and version, as `NAME@VERSION`.
    pub label: String,
    /// SHA-256 of the component, lower-case hex.
    pub digest: String,
    /// Its settings, the JSON text that it was configured with.
    pub settings: String,
    /// Fingerprint of what the configuration said when it was put there.
    pub configured: String,
}

impl Store {
    /// What a migration ran by when a host last started with it; none if that was before this was kept.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn in_force(&self, migration: &str) -> Result<Option<InForce>, StoreError> {
        // A store that is only read may be of a host from before.
        if !self.dialect.has_table(&self.pool, "in_force").await? {
            return Ok(None);
        }
        let row = sqlx::query("SELECT salt, CAST(operations AS TEXT) AS operations FROM in_force WHERE migration = $1")
            .bind(migration);
        let row = row.fetch_optional(&self.pool).await?;
        row.map(|row| {
            Ok(InForce { salt: row.try_get("salt")?, operations: serde_json::from_str(row.try_get("operations")?)? })
        })
        .transpose()
    }

    /// Keeps what a migration runs by from now on.
    ///
    /// # Errors
    /// When it is not kept.
    pub async fn put_in_force(&self, migration: &str, this: &InForce, now: UnixMs) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO in_force (migration, salt, operations, updated_at) VALUES ($1, $2, CAST($3 AS jsontext), $4) ON CONFLICT (migration) DO UPDATE \
             SET salt = excluded.salt, operations = excluded.operations, updated_at = excluded.updated_at",
        )
        .bind(migration)
        .bind(&this.salt)
        .bind(serde_json::to_string(&this.operations)?)
        .bind(sql_ms(now))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Where every migration stands that the store knows, by name.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn states(&self) -> Result<BTreeMap<String, State>, StoreError> {
        let rows =
            sqlx::query("SELECT migration, CAST(metadata AS TEXT) FROM migration_status WHERE completed_at IS NULL");
        let rows = rows.fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, serde_json::from_str(row.try_get(1)?)?))).collect()
    }

    /// Who is in charge of a kind, without the component.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn in_charge(&self, migration: &str, kind: Kind) -> Result<Option<InCharge>, StoreError> {
        let row = sqlx::query(
            "SELECT name, version, digest, settings, configured FROM policy_slots WHERE migration = $1 AND kind = $2 AND role = 'active'",
        );
        let row = row.bind(migration).bind(kind.name()).fetch_optional(&self.pool).await?;
        row.map(|row| {
            let (name, version): (String, String) = (row.try_get("name")?, row.try_get("version")?);
            Ok(InCharge {
                label: format!("{name}@{version}"),
                digest: row.try_get("digest")?,
                settings: row.try_get("settings")?,
                configured: row.try_get("configured")?,
            })
        })
        .transpose()
    }
}
