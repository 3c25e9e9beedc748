//! The registry's part of the store: releases by name and version, components by content.

use serde_json::Value;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, StoreError,
    database::{flag, json, text},
    records::Audited,
    sql_ms,
};
use cutover_model::clock::UnixMs;
use cutover_policy_host::{
    dsse::Envelope,
    release::{Manifest, Release},
};

/// Labels that are read at once: more than a host is given in years. Releases, which may be large, are read one by one.
const MOST: u32 = 100_000;

/// A name and a version.
pub(crate) type Label = (String, String);

impl Store {
    /// Keeps a release, its component, and who pushed it, in one transaction.
    ///
    /// # Errors
    /// When nothing of it was kept; also when the name and version are taken.
    pub async fn add_release(&self, release: &Release, component: &[u8], audited: &Audited) -> Result<(), StoreError> {
        let manifest = &release.manifest;
        let mut tx = self.pool.begin().await?;
        sqlx::query("INSERT INTO components (digest, bytes, inserted_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(&manifest.component_sha256)
            .bind(component)
            .bind(sql_ms(release.at))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO releases (name, version, kind, digest, contract, settings_schema_sha256, settings, script, \
             wasi_stub, summary, author, reason, actor, provenance, envelope, inserted_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, CAST($14 AS jsontext), CAST($15 AS jsontext), $16)",
        )
        .bind(&manifest.name)
        .bind(&manifest.version)
        .bind(manifest.kind.name())
        .bind(&manifest.component_sha256)
        .bind(&manifest.contract)
        .bind(&manifest.settings_schema_sha256)
        .bind(serde_json::to_string(&manifest.settings)?)
        .bind(&manifest.script)
        .bind(manifest.wasi_stub)
        .bind(text(&release.summary))
        .bind(text(&release.author))
        .bind(text(&release.reason))
        .bind(text(&release.actor))
        .bind(json(serde_json::to_string(&release.provenance)?))
        .bind(release.envelope.as_ref().map(serde_json::to_string).transpose()?)
        .bind(sql_ms(release.at))
        .execute(&mut *tx)
        .await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps the signatures of a release, and who brought them.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn sign_release(&self, release: &Release, audited: &Audited) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        sqlx::query("UPDATE releases SET envelope = CAST($1 AS jsontext) WHERE name = $2 AND version = $3")
            .bind(release.envelope.as_ref().map(serde_json::to_string).transpose()?)
            .bind(&release.manifest.name)
            .bind(&release.manifest.version)
            .execute(&mut *tx)
            .await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The release of a name and version.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn release(&self, name: &str, version: &str) -> Result<Option<Release>, StoreError> {
        let row = sqlx::query("SELECT name, version, kind, digest, contract, settings_schema_sha256, settings, script, wasi_stub, summary, author, \
             reason, actor, CAST(provenance AS TEXT) AS provenance, CAST(envelope AS TEXT) AS envelope, inserted_at FROM releases WHERE name = $1 AND version = $2")
            .bind(name)
            .bind(version)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| from_row(&row)).transpose()
    }

    /// Names and versions of all releases, by name.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn release_labels(&self) -> Result<Vec<Label>, StoreError> {
        let rows = sqlx::query("SELECT name, version FROM releases ORDER BY name LIMIT $1").bind(i64::from(MOST));
        rows.fetch_all(&self.pool).await?.iter().map(label).collect()
    }

    /// The versions of a name, in no order.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn release_versions(&self, name: &str) -> Result<Vec<String>, StoreError> {
        let rows =
            sqlx::query("SELECT name, version FROM releases WHERE name = $1 LIMIT $2").bind(name).bind(i64::from(MOST));
        rows.fetch_all(&self.pool).await?.iter().map(|row| Ok(label(row)?.1)).collect()
    }

    /// Names and versions of the first `most` releases of components whose digest begins with `prefix`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn releases_by_digest(&self, prefix: &str, most: u32) -> Result<Vec<Label>, StoreError> {
        // `g` is what follows the last hex digit, so this is a range of the index.
        let query =
            "SELECT name, version FROM releases WHERE digest >= $1 AND digest < $2 ORDER BY name, version LIMIT $3";
        let rows = sqlx::query(query).bind(prefix).bind(format!("{prefix}g")).bind(i64::from(most));
        rows.fetch_all(&self.pool).await?.iter().map(label).collect()
    }

    /// A component by its digest.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let row = sqlx::query("SELECT bytes FROM components WHERE digest = $1").bind(digest).fetch_optional(&self.pool);
        row.await?.map(|row| Ok(row.try_get("bytes")?)).transpose()
    }
}

fn label(row: &AnyRow) -> Result<Label, StoreError> {
    Ok((row.try_get("name")?, row.try_get("version")?))
}

fn from_row(row: &AnyRow) -> Result<Release, StoreError> {
    let envelope = row.try_get::<Option<&str>, _>("envelope")?;
    let manifest = Manifest {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        kind: serde_json::from_value(Value::from(row.try_get::<&str, _>("kind")?))?,
        component_sha256: row.try_get("digest")?,
        contract: row.try_get("contract")?,
        settings_schema_sha256: row.try_get("settings_schema_sha256")?,
        settings: serde_json::from_str(row.try_get("settings")?)?,
        script: row.try_get("script")?,
        wasi_stub: flag(row, "wasi_stub")?,
    };
    Ok(Release {
        manifest,
        summary: row.try_get("summary")?,
        author: row.try_get("author")?,
        reason: row.try_get("reason")?,
        actor: row.try_get("actor")?,
        at: UnixMs(u64::try_from(row.try_get::<i64, _>("inserted_at")?).unwrap_or(0)),
        provenance: serde_json::from_str(row.try_get("provenance")?)?,
        envelope: envelope.map(serde_json::from_str::<Envelope>).transpose()?,
    })
}
