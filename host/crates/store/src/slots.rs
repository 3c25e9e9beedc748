//! Who is in charge of what: the policies in every slot, as they are found again after a restart.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sqlx::{Any, Row as _, Transaction, any::AnyRow};

use super::{
    Store, StoreError,
    database::{flag, text},
    records::Audited,
    sql_ms,
};
use cutover_model::{clock::UnixMs, port::Kind};
use cutover_policy_host::{
    ask::PolicyPort,
    candidate::{Evidence, Rule},
    installed::Title,
};

/// What a policy is in its slot; each role has at most one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotRole {
    /// The policy in charge: it is asked, and its answers count.
    Active,
    /// The policy that was in charge before, to go back to.
    Previous,
    /// The policy that is asked beside the one in charge; its answers are compared only.
    Candidate,
}

/// A policy in a slot, with all that is needed to ask it again after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotRecord {
    /// The name and version that people know it by.
    pub title: Title,
    /// SHA-256 of the component, lower-case hex.
    pub digest: String,
    /// Whether the component may import the stand-in for WASI.
    pub wasi_stub: bool,
    /// Its settings, the JSON text that it was configured with.
    pub settings: String,
    /// Fingerprint of what the configuration said when it was put there.
    pub configured: String,
    /// What it remembers of the questions so far; empty if nothing.
    pub memory: Vec<u8>,
    /// Why the slot is held, if it is: nobody is in charge then.
    pub held: Option<String>,
    /// When it is promoted or demoted; none for a policy that is no candidate.
    pub rule: Option<Rule>,
    /// What is known of it as a candidate; none for a policy that is none.
    pub evidence: Option<Evidence>,
    /// When it was put into the slot.
    pub since: UnixMs,
    /// The operator who put it into the slot, or the host's word for itself.
    pub updated_by: String,
    /// The bytes of the component, which it is compiled from after a restart.
    pub component: Vec<u8>,
}

impl SlotRole {
    const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Previous => "previous",
            Self::Candidate => "candidate",
        }
    }
}

impl Store {
    /// Which policy has a role in a slot.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn policy_in_slot(
        &self,
        migration: &str,
        kind: Kind,
        place: SlotRole,
    ) -> Result<Option<SlotRecord>, StoreError> {
        let row = sqlx::query(
            "SELECT s.name, s.version, s.digest, s.wasi_stub, s.settings, s.configured, s.memory, s.held, \
             CAST(s.rule AS TEXT) AS rule, CAST(s.evidence AS TEXT) AS evidence, s.since, s.updated_by, c.bytes FROM policy_slots s JOIN components c ON c.digest = s.digest \
             WHERE s.migration = $1 AND s.kind = $2 AND s.role = $3",
        )
        .bind(migration)
        .bind(kind.name())
        .bind(place.name())
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| SlotRecord::from_row(&row)).transpose()
    }

    /// Puts a policy in charge; the one that it replaces becomes the previous one, with the memory it has now.
    /// `ends_candidate` says that it was the candidate until now.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn activate(
        &self,
        kind: Kind,
        new: &SlotRecord,
        ends_candidate: bool,
        audited: &Audited,
    ) -> Result<(), StoreError> {
        self.here()?;
        let mut tx = self.pool.begin().await?;
        // A slot that is held has nobody to go back to but the one before.
        let replaces: Option<i64> = sqlx::query_scalar(
            "SELECT 1 FROM policy_slots WHERE migration = $1 AND kind = $2 AND role = 'active' AND held IS NULL",
        )
        .bind(&audited.migration)
        .bind(kind.name())
        .fetch_optional(&mut *tx)
        .await?;
        if replaces.is_some() {
            leave(&mut tx, audited, kind, SlotRole::Previous).await?;
            sqlx::query(
                "UPDATE policy_slots SET role = 'previous' WHERE migration = $1 AND kind = $2 AND role = 'active'",
            )
            .bind(&audited.migration)
            .bind(kind.name())
            .execute(&mut *tx)
            .await?;
        } else {
            leave(&mut tx, audited, kind, SlotRole::Active).await?;
        }
        if ends_candidate {
            leave(&mut tx, audited, kind, SlotRole::Candidate).await?;
        }
        sit(&mut tx, audited, kind, SlotRole::Active, new).await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Puts the previous policy back in charge, with a memory; the one in charge is gone.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn revert(&self, kind: Kind, memory: &[u8], audited: &Audited) -> Result<(), StoreError> {
        self.here()?;
        let mut tx = self.pool.begin().await?;
        leave(&mut tx, audited, kind, SlotRole::Active).await?;
        sqlx::query(
            "UPDATE policy_slots SET role = 'active', memory = $1, since = $2, updated_by = $3 WHERE migration = $4 AND kind = $5 AND role = 'previous'",
        )
        .bind(memory)
        .bind(sql_ms(audited.at))
        .bind(text(&audited.actor))
        .bind(&audited.migration)
        .bind(kind.name())
        .execute(&mut *tx)
        .await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that nobody is in charge any more, and why.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn hold_slot(&self, kind: Kind, why: &str, audited: &Audited) -> Result<(), StoreError> {
        self.here()?;
        let mut tx = self.pool.begin().await?;
        sqlx::query(
            "UPDATE policy_slots SET held = $1, memory = $2 WHERE migration = $3 AND kind = $4 AND role = 'active'",
        )
        .bind(text(why))
        .bind(Vec::new())
        .bind(&audited.migration)
        .bind(kind.name())
        .execute(&mut *tx)
        .await?;
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Sets a candidate, or removes it.
    ///
    /// # Errors
    /// When nothing was changed.
    pub async fn set_candidate(
        &self,
        kind: Kind,
        candidate: Option<&SlotRecord>,
        audited: &Audited,
    ) -> Result<(), StoreError> {
        self.here()?;
        let mut tx = self.pool.begin().await?;
        leave(&mut tx, audited, kind, SlotRole::Candidate).await?;
        if let Some(candidate) = candidate {
            sit(&mut tx, audited, kind, SlotRole::Candidate, candidate).await?;
        }
        audited.record(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Keeps what policies remember, and what is known of candidates: only where they still sit.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn remember(&self, migration: &str, remembered: Vec<Remembered>) -> Result<(), StoreError> {
        let mut tx = self.pool.begin().await?;
        for Remembered { kind, place, digest, settings, memory, evidence } in remembered {
            let evidence = evidence.map(|e| serde_json::to_string(&e)).transpose()?;
            sqlx::query(
                "UPDATE policy_slots SET memory = $1, evidence = CAST($2 AS jsontext) WHERE migration = $3 AND kind = $4 AND role = $5 AND digest = $6 AND settings = $7 AND held IS NULL",
            )
            .bind(memory)
            .bind(evidence)
            .bind(migration)
            .bind(kind.name())
            .bind(place.name())
            .bind(&*digest)
            .bind(&*settings)
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// What a policy in a slot remembers.
#[derive(Debug)]
pub struct Remembered {
    /// The kind of policy, which says the slot.
    pub kind: Kind,
    /// The role that the policy has in its slot.
    pub place: SlotRole,
    /// SHA-256 of its component. What another policy has put in its place by then is left alone.
    pub digest: Arc<str>,
    /// Its settings, which must still be the same, too.
    pub settings: Arc<str>,
    /// What it remembers after its last answer.
    pub memory: Vec<u8>,
    /// The evidence on it as a candidate; none for a policy that is none.
    pub evidence: Option<Evidence>,
}

impl Remembered {
    /// What a policy in a slot remembers now.
    pub fn of(place: SlotRole, policy: &dyn PolicyPort, memory: Vec<u8>, evidence: Option<Evidence>) -> Self {
        let (digest, settings) = (Arc::clone(policy.digest()), Arc::clone(policy.settings()));
        Self { kind: policy.kind(), place, digest, settings, memory, evidence }
    }
}

async fn leave(
    tx: &mut Transaction<'_, Any>,
    audited: &Audited,
    kind: Kind,
    place: SlotRole,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM policy_slots WHERE migration = $1 AND kind = $2 AND role = $3")
        .bind(&audited.migration)
        .bind(kind.name())
        .bind(place.name())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn sit(
    tx: &mut Transaction<'_, Any>,
    audited: &Audited,
    kind: Kind,
    place: SlotRole,
    new: &SlotRecord,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO components (digest, bytes, inserted_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(&new.digest)
        .bind(new.component.as_slice())
        .bind(sql_ms(audited.at))
        .execute(&mut **tx)
        .await?;
    sqlx::query(
        "INSERT INTO policy_slots (migration, kind, role, name, version, digest, wasi_stub, settings, configured, memory, rule, evidence, since, updated_by) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CAST($11 AS jsontext), CAST($12 AS jsontext), $13, $14)",
    )
    .bind(&audited.migration)
    .bind(kind.name())
    .bind(place.name())
    .bind(&new.title.name)
    .bind(&new.title.version)
    .bind(&new.digest)
    .bind(new.wasi_stub)
    .bind(&new.settings)
    .bind(text(&new.configured))
    .bind(new.memory.as_slice())
    .bind(new.rule.map(|rule| serde_json::to_string(&rule)).transpose()?)
    .bind(new.evidence.as_ref().map(serde_json::to_string).transpose()?)
    .bind(sql_ms(new.since))
    .bind(text(&audited.actor))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl SlotRecord {
    fn from_row(row: &AnyRow) -> Result<Self, StoreError> {
        fn read<T: serde::de::DeserializeOwned>(text: Option<&str>) -> Result<Option<T>, StoreError> {
            Ok(text.map(serde_json::from_str).transpose()?)
        }
        Ok(Self {
            title: Title { name: row.try_get("name")?, version: row.try_get("version")? },
            digest: row.try_get("digest")?,
            wasi_stub: flag(row, "wasi_stub")?,
            settings: row.try_get("settings")?,
            configured: row.try_get("configured")?,
            memory: row.try_get("memory")?,
            held: row.try_get("held")?,
            rule: read(row.try_get("rule")?)?,
            evidence: read(row.try_get("evidence")?)?,
            since: UnixMs(u64::try_from(row.try_get::<i64, _>("since")?).unwrap_or(0)),
            updated_by: row.try_get("updated_by")?,
            component: row.try_get("bytes")?,
        })
    }
}
