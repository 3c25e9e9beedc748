//! What sessions did in a stage, so that a host that was killed counts nobody twice and forgets nobody who failed.
//!
//! Rows belong to a stage by its number, which goes up in the same transaction as the decision that begins one: what is
//! written late, or was not removed yet, is not read any more.

use sqlx::{AnyConnection, Row as _};
use uuid::Uuid;

use super::{Store, StoreError};
use cutover_traffic::observe::{marks::Marks, recorder::Known};

/// Rows of a stage that are left as they are at a start; more are made one.
const MOST_ROWS: usize = 256;

impl Store {
    /// What is known of the sessions of a migration's stage. What cannot be read is left out, with a warning.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sessions(&self, migration: &str) -> Result<Known, StoreError> {
        let mut tx = self.pool.begin().await?;
        let new = "INSERT INTO session_stages (migration, key, stage) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING";
        let key = Uuid::new_v4().into_bytes();
        sqlx::query(new).bind(migration).bind(key.as_slice()).execute(&mut *tx).await?;
        let stage = sqlx::query("SELECT key, stage FROM session_stages WHERE migration = $1").bind(migration);
        let stage = stage.fetch_one(&mut *tx).await?;
        let key = stage.try_get::<&[u8], _>(0)?.try_into().unwrap_or(key);
        let stage = stage.try_get(1)?;
        let rows = sqlx::query("SELECT marks FROM session_marks WHERE migration = $1 AND stage = $2 ORDER BY id")
            .bind(migration)
            .bind(stage)
            .fetch_all(&mut *tx)
            .await?;
        let mut marks = Marks::default();
        for row in &rows {
            match Marks::from_bytes(row.try_get(0)?) {
                Ok(more) => marks.merge(more),
                Err(error) => tracing::warn!(migration, "{error}; the sessions of a check are counted anew"),
            }
        }
        if rows.len() > MOST_ROWS {
            remove(&mut tx, migration, stage + 1).await?;
            write(&mut tx, migration, stage, &marks).await?;
        }
        tx.commit().await?;
        Ok(Known { key, stage, marks })
    }

    /// Removes what is known of stages before this.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_sessions(&self, migration: &str, before: i64) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        Ok(remove(&mut connection, migration, before).await?)
    }
}

/// A stage of this number begins.
pub(super) async fn begin_stage(
    connection: &mut AnyConnection,
    migration: &str,
    stage: i64,
) -> Result<(), sqlx::Error> {
    let begin = sqlx::query("UPDATE session_stages SET stage = $1 WHERE migration = $2").bind(stage).bind(migration);
    begin.execute(connection).await.map(drop)
}

/// Adds what sessions did for the first time, if any did.
pub(super) async fn write(
    connection: &mut AnyConnection,
    migration: &str,
    stage: i64,
    marks: &Marks,
) -> Result<(), sqlx::Error> {
    if marks.is_empty() {
        return Ok(());
    }
    let row = sqlx::query("INSERT INTO session_marks (migration, stage, marks) VALUES ($1, $2, $3)")
        .bind(migration)
        .bind(stage)
        .bind(marks.to_bytes());
    row.execute(connection).await.map(drop)
}

async fn remove(connection: &mut AnyConnection, migration: &str, before: i64) -> Result<(), sqlx::Error> {
    let rows =
        sqlx::query("DELETE FROM session_marks WHERE migration = $1 AND stage < $2").bind(migration).bind(before);
    rows.execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::{records::Decision, state::State};
    use cutover_model::{
        clock::UnixMs,
        facts::Batch,
        port::Phase,
        request::{Class, FailureKind, PoolId, Ppm},
    };
    use cutover_policy_host::history::synthetic::Synthetic;
    use cutover_traffic::observe::{Observation, Outcome, Recorder, recorder::Measured};

    async fn opened(folder: &TempDir) -> Store {
        Store::open(&folder.path().join("test.db")).await.unwrap()
    }

    async fn recorder(store: &Store) -> Recorder {
        let recorder = Recorder::new(UnixMs(0));
        recorder.go_on(&store.sessions("mine").await.unwrap());
        recorder
    }

    fn call(recorder: &Recorder, session: &str, outcome: Outcome) {
        let (operation, session) = (Arc::from("execute"), Some(recorder.session(session)));
        recorder.record(Observation {
            operation: &operation,
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: false,
            session,
            outcome,
            status: 200,
            unread: false,
            failed_over: false,
            took: Duration::from_millis(1),
        });
    }

    fn cut(recorder: &Recorder) -> Batch {
        recorder.cut(UnixMs(0), Measured::default())
    }

    /// Sessions that were seen first, units, and those that failed first.
    fn counts(batch: &Batch) -> (i64, u64, u64) {
        let calls = batch.operations.first().map(|operation| operation.v2.clone()).unwrap_or_default();
        let sessions = batch.gauges.iter().find(|gauge| gauge.name == "v2.sessions").map(|gauge| gauge.value);
        (sessions.unwrap(), calls.units, calls.unit_errors)
    }

    async fn record(store: &Store, recorder: &Recorder, batches: usize) {
        let check = Synthetic { checks: 1, ..Synthetic::default() }.into_iter().next().unwrap().check;
        let sessions = recorder.take_marks(batches);
        store.record_check("mine", &check, None, &sessions).await.unwrap();
    }

    fn decision() -> Decision {
        Decision {
            id: 0,
            migration: "mine".into(),
            at: UnixMs(1),
            kind: "advance".into(),
            actor: "policy".into(),
            reason: String::new(),
            from_phase: Phase::Shadow,
            to_phase: Phase::Ramping,
            from_share: Ppm::ZERO,
            to_share: Ppm::ALL,
            policy: None,
            digest: None,
            findings: Vec::new(),
            inputs: None,
        }
    }

    const FAILED: Outcome = Outcome::Failed(FailureKind::Worker);

    #[tokio::test]
    async fn a_host_that_was_killed_counts_nobody_twice_but_whom_no_check_had_seen() {
        let folder = TempDir::new().unwrap();
        let store = opened(&folder).await;
        let killed = recorder(&store).await;
        call(&killed, "ada", FAILED);
        call(&killed, "bob", Outcome::Answered);
        assert_eq!(counts(&cut(&killed)), (2, 2, 1));
        record(&store, &killed, 1).await;
        call(&killed, "bob", FAILED);
        call(&killed, "eve", FAILED);
        assert_eq!(counts(&cut(&killed)), (1, 2, 2), "nobody was asked about this batch");
        drop(killed);
        store.close().await;

        let store = opened(&folder).await;
        let next = recorder(&store).await;
        for session in ["ada", "bob", "eve"] {
            call(&next, session, FAILED);
        }
        assert_eq!(counts(&cut(&next)), (1, 2, 2), "ada failed before");
    }

    #[tokio::test]
    async fn a_stage_begins_with_its_decision_whatever_is_written_later() {
        let folder = TempDir::new().unwrap();
        let store = opened(&folder).await;
        let killed = recorder(&store).await;
        call(&killed, "ada", FAILED);
        cut(&killed);
        let late = killed.take_marks(1);
        call(&killed, "bob", FAILED);
        let state = State::new(UnixMs(1));
        store.decide(&decision(), &state, Some(killed.stage() + 1)).await.unwrap();
        let check = Synthetic { checks: 1, ..Synthetic::default() }.into_iter().next().unwrap().check;
        store.record_check("mine", &check, None, &late).await.unwrap();
        let next = recorder(&store).await;
        call(&next, "ada", FAILED);
        call(&next, "bob", FAILED);
        assert_eq!(counts(&cut(&next)), (2, 2, 2), "killed between the decision and all else");

        killed.begin_stage(UnixMs(2), Measured::default());
        call(&killed, "ada", FAILED);
        cut(&killed);
        record(&store, &killed, 2).await;
        store.forget_sessions("mine", killed.stage()).await.unwrap();
        let rows = sqlx::query("SELECT COUNT(*) FROM session_marks").fetch_one(&store.pool).await.unwrap();
        assert_eq!(rows.get::<i64, _>(0), 1, "what is over is gone");
        let next = recorder(&store).await;
        call(&next, "ada", FAILED);
        call(&next, "bob", FAILED);
        assert_eq!(counts(&cut(&next)), (1, 1, 1));
        store.decide(&decision(), &state, None).await.unwrap();
        assert_eq!(store.sessions("mine").await.unwrap().stage, 1, "no other decision begins one");
    }

    #[tokio::test]
    async fn many_rows_become_one_and_those_that_cannot_be_read_are_left_out() {
        let folder = TempDir::new().unwrap();
        let store = opened(&folder).await;
        let first = recorder(&store).await;
        for n in 0..300 {
            call(&first, &n.to_string(), Outcome::Answered);
            cut(&first);
            record(&store, &first, 1).await;
        }
        let bad = "INSERT INTO session_marks (migration, stage, marks) VALUES ('mine', 0, x'00ff')";
        sqlx::query(bad).execute(&store.pool).await.unwrap();
        let known = store.sessions("mine").await.unwrap();
        assert_eq!(known.marks.sessions.values().map(Vec::len).sum::<usize>(), 300);
        let rows = sqlx::query("SELECT COUNT(*) FROM session_marks").fetch_one(&store.pool).await.unwrap();
        assert_eq!(rows.get::<i64, _>(0), 1);
        let again = store.sessions("mine").await.unwrap();
        assert_eq!((again.key, again.marks), (known.key, known.marks));
    }

    #[tokio::test]
    async fn migrations_have_keys_of_their_own() {
        let folder = TempDir::new().unwrap();
        let store = opened(&folder).await;
        let (mine, others) = (store.sessions("mine").await.unwrap(), store.sessions("others").await.unwrap());
        assert_ne!(mine.key, others.key);
        assert_eq!(store.sessions("mine").await.unwrap().key, mine.key);
    }
}
