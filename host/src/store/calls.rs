//! The log of what policies were asked and what they said.
//!
//! What rollback and stages policies look at is large and the same for both and for their candidates, so it is stored
//! once, with the check of the same time.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, Sqlite, Transaction, sqlite::SqliteRow};

use super::{Store, StoreError, sql_ms};
use crate::{
    clock::UnixMs,
    policy::{
        port::{Check, Kind, Progress, Verdict},
        record::{Call, Memory, Question, Role},
    },
};

/// A call with its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its number.
    pub id: i64,
    /// The migration.
    pub migration: String,
    /// The call.
    #[serde(flatten)]
    pub call: Call,
}

/// Which calls are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only this migration's.
    pub migration: Option<String>,
    /// Only this kind's.
    pub kind: Option<Kind>,
    /// Only this one.
    pub id: Option<i64>,
    /// Only those before this number; the newest without it.
    pub before: Option<i64>,
    /// At most so many.
    pub most: u32,
}

/// What is left of a question without its check.
#[derive(Debug, Serialize, Deserialize)]
struct Rest {
    verdict: Verdict,
    forced: bool,
}

impl Store {
    /// Records calls. The checks that they are about are recorded by [`Store::record_check`].
    ///
    /// # Errors
    /// When none of them was recorded.
    pub async fn log_calls(&self, migration: &str, calls: &[Call]) -> Result<(), StoreError> {
        let mut tx = self.0.begin().await?;
        for call in calls {
            log_call(&mut tx, migration, call).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Calls, newest first. A call whose check is not kept any more is left out.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn calls(&self, wanted: &Wanted) -> Result<Vec<Logged>, StoreError> {
        let rows = sqlx::query(
            "SELECT p.*, s.settings FROM policy_calls p JOIN policy_settings s ON s.digest = p.settings_digest \
             WHERE (?1 IS NULL OR p.migration = ?1) AND (?2 IS NULL OR p.kind = ?2) AND (?3 IS NULL OR p.id = ?3) \
             AND (?4 IS NULL OR p.id < ?4) ORDER BY p.id DESC LIMIT ?5",
        )
        .bind(&wanted.migration)
        .bind(wanted.kind.map(Kind::name))
        .bind(wanted.id)
        .bind(wanted.before)
        .bind(wanted.most)
        .fetch_all(&self.0)
        .await?;
        let mut calls = Vec::with_capacity(rows.len());
        for row in &rows {
            let check = match row.try_get::<Option<i64>, _>("check_at")? {
                None => None,
                Some(at) => match self.check_at(row.try_get("migration")?, at).await? {
                    Some(check) => Some(check),
                    None => continue,
                },
            };
            calls.push(Logged::from_row(row, check)?);
        }
        Ok(calls)
    }

    /// The check of a moment, if it is still kept.
    async fn check_at(&self, migration: &str, at: i64) -> Result<Option<Check>, StoreError> {
        let at = UnixMs(u64::try_from(at).unwrap_or(0));
        let found = self.checks(migration, at, UnixMs(at.0.saturating_add(1)), 0, 1).await?;
        Ok(found
            .into_iter()
            .next()
            .map(crate::policy::history::Stored::read)
            .transpose()?
            .map(|recorded| recorded.check))
    }

    /// Removes calls from before `before`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_calls(&self, before: UnixMs) -> Result<u64, StoreError> {
        let deleted = sqlx::query("DELETE FROM policy_calls WHERE at < ?").bind(sql_ms(before)).execute(&self.0);
        Ok(deleted.await?.rows_affected())
    }
}

async fn log_call(tx: &mut Transaction<'_, Sqlite>, migration: &str, call: &Call) -> Result<(), StoreError> {
    let settings_digest = hex::encode(Sha256::digest(call.settings.as_bytes()));
    sqlx::query("INSERT INTO policy_settings (digest, settings) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(&settings_digest)
        .bind(&call.settings)
        .execute(&mut **tx)
        .await?;
    let (kind, check_at, question) = match &call.question {
        Question::Rollback(check) => ("rollback", Some(check.now_ms), Value::Null),
        Question::Stages(progress) if progress.forced => ("stages", None, serde_json::to_value(progress)?),
        Question::Stages(progress) => {
            let rest = Rest { verdict: progress.verdict, forced: progress.forced };
            ("stages", Some(progress.check.now_ms), serde_json::to_value(rest)?)
        }
        Question::Routing(situation) => ("routing", None, serde_json::to_value(situation)?),
        Question::Decide(frame) => ("decide", None, serde_json::to_value(frame)?),
    };
    sqlx::query(
        "INSERT INTO policy_calls (migration, at, kind, role, policy, digest, wasi_stub, settings_digest, check_at, question, \
         memory, answer, memory_after, fuel, took_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(migration)
    .bind(sql_ms(call.at))
    .bind(kind)
    .bind(call.role.name())
    .bind(&call.policy)
    .bind(&call.digest)
    .bind(call.wasi_stub)
    .bind(settings_digest)
    .bind(check_at.map(sql_ms))
    .bind(question.to_string())
    .bind(&call.memory.0)
    .bind(call.answer.to_string())
    .bind(&call.memory_after.0)
    .bind(i64::try_from(call.fuel).unwrap_or(i64::MAX))
    .bind(i64::try_from(call.took_us).unwrap_or(i64::MAX))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

impl Logged {
    fn from_row(row: &SqliteRow, check: Option<Check>) -> Result<Self, StoreError> {
        let unsigned = |column| Ok::<_, StoreError>(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0));
        let text = row.try_get::<&str, _>("question")?;
        let question = match (row.try_get::<&str, _>("kind")?, check) {
            ("rollback", Some(check)) => Question::Rollback(check),
            ("stages", Some(check)) => {
                let Rest { verdict, forced } = serde_json::from_str(text)?;
                Question::Stages(Progress { check, verdict, forced })
            }
            ("stages", None) => Question::Stages(serde_json::from_str(text)?),
            ("decide", _) => Question::Decide(serde_json::from_str(text)?),
            (_, _) => Question::Routing(serde_json::from_str(text)?),
        };
        let role = if row.try_get::<&str, _>("role")? == Role::Active.name() { Role::Active } else { Role::Candidate };
        let call = Call {
            at: UnixMs(unsigned("at")?),
            role,
            policy: row.try_get("policy")?,
            digest: row.try_get("digest")?,
            wasi_stub: row.try_get("wasi_stub")?,
            settings: row.try_get("settings")?,
            question,
            memory: Memory(row.try_get("memory")?),
            answer: serde_json::from_str(row.try_get("answer")?)?,
            memory_after: Memory(row.try_get("memory_after")?),
            fuel: unsigned("fuel")?,
            took_us: unsigned("took_us")?,
        };
        Ok(Self { id: row.try_get("id")?, migration: row.try_get("migration")?, call })
    }
}
