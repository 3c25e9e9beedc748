//! Whether what a store has fits together: what `cutover store check` looks at.
//!
//! The database keeps its own pages and keys in order, and is asked whether it does. What it cannot know is looked at here:
//! that each decision goes on where the one before ended, that the state of a migration is what its last decision led to,
//! that a component is what its digest says, and that everything that is packed can be unpacked. Rows are read in pages, so
//! that a month of checks is never in memory.

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::{Store, StoreError, database::Dialect, memories, records::ppm};
use cutover_model::{causes::chain, clock::UnixMs};

/// Rows that are read at once.
const PAGE: u32 = 500;

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Inconsistency {
    /// The table that has it; `database` for the file as a whole.
    pub table: &'static str,
    /// What is wrong, as a sentence that names the row.
    pub what: String,
}

/// What was looked at, and what does not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Consistency {
    /// Rows that were read, all tables together.
    pub rows: u64,
    /// What does not fit, in the order of the tables; empty if all is well.
    pub found: Vec<Inconsistency>,
}

/// Where a decision of a migration led to.
type End = (String, u32);

impl Consistency {
    fn wrong(&mut self, table: &'static str, what: String) {
        self.found.push(Inconsistency { table, what });
    }
}

impl Store {
    /// Looks through the whole store, and tells `progress` what it looks at next.
    ///
    /// # Errors
    /// When the store fails; what cannot be read in it is no error but what is found.
    pub async fn check(&self, progress: impl FnMut(&'static str)) -> Result<Consistency, StoreError> {
        if self.dialect == Dialect::Postgres {
            return self.check_all(progress).await;
        }
        // One moment of a store whose host is running. The pool has one connection, so what follows is in the transaction.
        sqlx::query("BEGIN").execute(&self.pool).await?;
        let checked = self.check_all(progress).await;
        sqlx::query("ROLLBACK").execute(&self.pool).await?;
        checked
    }

    async fn check_all(&self, mut progress: impl FnMut(&'static str)) -> Result<Consistency, StoreError> {
        let mut all = Consistency::default();
        progress("database");
        if self.dialect == Dialect::Sqlite {
            for row in sqlx::query("PRAGMA integrity_check(20)").fetch_all(&self.pool).await? {
                let said: String = row.try_get(0)?;
                if said != "ok" {
                    all.wrong("database", said);
                }
            }
        }
        progress("decisions");
        for migration in self.migrations().await? {
            let end = self.check_decisions(&migration, &mut all).await?;
            self.check_state(&migration, end, &mut all).await?;
        }
        progress("components");
        self.check_components(&mut all).await?;
        progress("session_journal");
        self.check_journal(&mut all).await?;
        progress("memories");
        self.check_memories(&mut all).await?;
        progress("policy_calls");
        self.check_calls(&mut all).await?;
        progress("checks");
        for migration in self.migrations_with_checks().await? {
            self.check_checks(&migration, &mut all).await?;
        }
        Ok(all)
    }

    /// All migrations that the store knows a state or a decision of.
    async fn migrations(&self) -> Result<Vec<String>, StoreError> {
        let all = "SELECT migration FROM migration_status UNION SELECT migration FROM decisions ORDER BY 1";
        sqlx::query(all).fetch_all(&self.pool).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Each decision begins where the one before it ended. Returns where the last one ended.
    async fn check_decisions(&self, migration: &str, all: &mut Consistency) -> Result<Option<End>, StoreError> {
        let (mut after, mut end): (i64, Option<End>) = (0, None);
        loop {
            let page = "SELECT id, from_phase, from_share, to_phase, to_share FROM decisions \
                        WHERE migration = $1 AND id > $2 ORDER BY id LIMIT $3";
            let rows =
                sqlx::query(page).bind(migration).bind(after).bind(i64::from(PAGE)).fetch_all(&self.pool).await?;
            for row in &rows {
                let begin: End = (row.try_get("from_phase")?, ppm(row, "from_share")?.get());
                let id: i64 = row.try_get("id")?;
                if let Some((phase, share)) = end.filter(|end| *end != begin) {
                    all.wrong(
                        "decisions",
                        format!(
                            "decision {id} of `{migration}` begins in `{}` at {} ppm, and the one before it ended in \
                             `{phase}` at {share} ppm: one between them is missing, or was changed",
                            begin.0, begin.1
                        ),
                    );
                }
                end = Some((row.try_get("to_phase")?, ppm(row, "to_share")?.get()));
                (after, all.rows) = (id, all.rows + 1);
            }
            if rows.is_empty() {
                return Ok(end);
            }
        }
    }

    /// The state of a migration is what its last decision led to, and there is one.
    async fn check_state(&self, migration: &str, end: Option<End>, all: &mut Consistency) -> Result<(), StoreError> {
        let current = "SELECT COUNT(*) FROM migration_status WHERE migration = $1 AND completed_at IS NULL";
        let current: i64 = sqlx::query_scalar(current).bind(migration).fetch_one(&self.pool).await?;
        all.rows += u64::try_from(current).unwrap_or(0);
        if current != 1 {
            all.wrong("migration_status", format!("`{migration}` has {current} current states; it has to have one"));
            return Ok(());
        }
        match (self.state(migration).await, end) {
            (Err(error), _) => {
                all.wrong("migration_status", format!("the state of `{migration}` cannot be read: {}", chain(&error)));
            }
            (Ok(Some(state)), Some((phase, share))) if (state.phase.name(), state.share.get()) != (&*phase, share) => {
                all.wrong(
                    "migration_status",
                    format!(
                        "`{migration}` is in `{}` at {} ppm, and its last decision led to `{phase}` at {share} ppm",
                        state.phase.name(),
                        state.share.get()
                    ),
                );
            }
            (Ok(_), _) => {}
        }
        Ok(())
    }

    /// Components are what their digests say, and those of policies in charge and of releases are there.
    async fn check_components(&self, all: &mut Consistency) -> Result<(), StoreError> {
        let digests = sqlx::query("SELECT digest FROM components ORDER BY digest").fetch_all(&self.pool).await?;
        for row in &digests {
            let digest: String = row.try_get(0)?;
            // One at a time: they have megabytes.
            let bytes = self.component(&digest).await?.unwrap_or_default();
            all.rows += 1;
            if hex::encode(Sha256::digest(&bytes)) != digest {
                all.wrong("components", format!("component `{digest}` has other bytes than its digest says"));
            }
        }
        let missing = "SELECT 'policy_slots' AS tab, migration || ', ' || kind || ', ' || role AS who, digest FROM policy_slots \
                       WHERE digest NOT IN (SELECT digest FROM components) UNION ALL \
                       SELECT 'releases', name || '@' || version, digest FROM releases \
                       WHERE digest NOT IN (SELECT digest FROM components)";
        for row in sqlx::query(missing).fetch_all(&self.pool).await? {
            let (table, who, digest): (String, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let table = if table == "releases" { "releases" } else { "policy_slots" };
            all.wrong(table, format!("the component `{digest}` of {who} is missing"));
        }
        Ok(())
    }

    /// Entries of the journal can be read, and the versions of a session begin after 0.
    async fn check_journal(&self, all: &mut Consistency) -> Result<(), StoreError> {
        let mut after = (String::new(), String::new(), -1_i64);
        loop {
            let page = "SELECT migration, session, version, arguments FROM session_journal \
                        WHERE (migration, session, version) > ($1, $2, $3) ORDER BY migration, session, version LIMIT $4";
            let rows = sqlx::query(page).bind(&after.0).bind(&after.1).bind(after.2).bind(i64::from(PAGE));
            let rows = rows.fetch_all(&self.pool).await?;
            for row in &rows {
                after = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
                all.rows += 1;
                let (migration, session, version) = &after;
                let entry = format!("entry {version} of session `{session}` of `{migration}`");
                if *version < 1 {
                    all.wrong("session_journal", format!("{entry} has no version that a worker could be at"));
                }
                let arguments = serde_json::from_str::<serde_json::Map<_, _>>(row.try_get(3)?);
                if let Err(error) = arguments {
                    all.wrong("session_journal", format!("the arguments of {entry} cannot be read: {error}"));
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// What policies remember can be unpacked, and is what its digest says.
    async fn check_memories(&self, all: &mut Consistency) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let page = "SELECT id, digest FROM memories WHERE id > $1 ORDER BY id LIMIT $2";
            let rows = sqlx::query(page).bind(after).bind(i64::from(PAGE)).fetch_all(&self.pool).await?;
            for row in &rows {
                after = row.try_get::<i64, _>(0)?;
                all.rows += 1;
                let digest: Vec<u8> = row.try_get(1)?;
                let mut connection = self.pool.acquire().await?;
                match memories::read(&mut connection, after).await {
                    Ok(memory) if Sha256::digest(&memory).as_slice() == digest => {}
                    Ok(_) => all.wrong("memories", format!("memory {after} has other bytes than its digest says")),
                    Err(error) => all.wrong("memories", chain(&error)),
                }
            }
            if rows.is_empty() {
                return Ok(());
            }
        }
    }

    /// What calls of policies refer to is there.
    async fn check_calls(&self, all: &mut Consistency) -> Result<(), StoreError> {
        let calls: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM policy_calls").fetch_one(&self.pool).await?;
        all.rows += u64::try_from(calls).unwrap_or(0);
        for (what, missing) in [
            (
                "settings",
                "SELECT COUNT(*), MIN(id) FROM policy_calls WHERE settings_digest NOT IN (SELECT digest FROM policy_settings)",
            ),
            (
                "memory before it",
                "SELECT COUNT(*), MIN(id) FROM policy_calls WHERE memory_id IS NOT NULL \
                 AND memory_id NOT IN (SELECT id FROM memories)",
            ),
            (
                "memory after it",
                "SELECT COUNT(*), MIN(id) FROM policy_calls WHERE memory_after_id IS NOT NULL \
                 AND memory_after_id NOT IN (SELECT id FROM memories)",
            ),
        ] {
            let row = sqlx::query(missing).fetch_one(&self.pool).await?;
            let (count, first): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(first) = first {
                all.wrong("policy_calls", format!("the {what} of {count} call(s) is missing, first of call {first}"));
            }
        }
        Ok(())
    }

    /// Checks can be unpacked and read.
    async fn check_checks(&self, migration: &str, all: &mut Consistency) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            // One at a time: a page with a check that cannot be unpacked is an error as a whole.
            let next = "SELECT MIN(id) FROM checks WHERE migration = $1 AND id > $2";
            let next = sqlx::query_scalar(next).bind(migration).bind(after).fetch_one(&self.pool);
            let Some(id) = next.await? else { return Ok(()) };
            let end = UnixMs(u64::try_from(i64::MAX).unwrap_or(u64::MAX));
            let read = self.checks(migration, UnixMs(0), end, after, 1).await;
            after = id;
            all.rows += 1;
            let wrong = match read {
                Err(error) => Some(chain(&error)),
                Ok(found) => found.into_iter().find_map(|stored| stored.read().err()).map(|error| chain(&error)),
            };
            if let Some(wrong) = wrong {
                all.wrong("checks", format!("check {id} of `{migration}`: {wrong}"));
            }
        }
    }

    /// Gives the space of removed rows back to the system. Returns the bytes of the file before and after.
    ///
    /// # Errors
    /// When the store fails, as on a disk without room for a second copy of what is left.
    pub async fn vacuum(&self) -> Result<(u64, u64), StoreError> {
        let before = self.file_bytes().await?;
        sqlx::query("VACUUM").execute(&self.pool).await?;
        if self.dialect == Dialect::Sqlite {
            // The write-ahead log has the whole copy until then.
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await?;
        }
        Ok((before, self.file_bytes().await?))
    }

    /// Bytes of the file, with what is free in it.
    async fn file_bytes(&self) -> Result<u64, StoreError> {
        let bytes = match self.dialect {
            Dialect::Sqlite => {
                "SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size)"
            }
            Dialect::Postgres => "SELECT pg_database_size(current_database())",
        };
        Ok(u64::try_from(sqlx::query_scalar::<_, i64>(bytes).fetch_one(&self.pool).await?).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use cutover_model::{port::Phase, request::Ppm};
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        records::{Audited, Decision},
        state::State,
    };

    /// A store in which a migration went up to 5 and 10 %, with a component and an entry of a journal.
    async fn store() -> (TempDir, Store) {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("test.db")).await.unwrap();
        let mut state = State::new(UnixMs(1));
        for (at, phase, share) in [(2, Phase::Shadow, 0), (3, Phase::Ramping, 50_000), (4, Phase::Ramping, 100_000)] {
            let next = State { phase, share: Ppm::new(share), ..state.clone() };
            let decision = Decision {
                id: 0,
                migration: "shop".into(),
                at: UnixMs(at),
                kind: "advance".into(),
                actor: "anna".into(),
                reason: String::new(),
                from_phase: state.phase,
                to_phase: phase,
                from_share: state.share,
                to_share: next.share,
                policy: None,
                digest: None,
                findings: Vec::new(),
                inputs: None,
            };
            store.decide(&decision, &next, None).await.unwrap();
            state = next;
        }
        for sql in [
            "INSERT INTO components VALUES ('ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad', CAST('abc' AS BLOB), 1)",
            "INSERT INTO session_journal VALUES ('shop', 's', 1, 'create', '{}', NULL, 0, 1)",
        ] {
            sqlx::query(sql).execute(&store.pool).await.unwrap();
        }
        (folder, store)
    }

    async fn found_after(sql: &'static str) -> Vec<Inconsistency> {
        let (_folder, store) = store().await;
        sqlx::query(sql).execute(&store.pool).await.unwrap();
        store.check(|_| {}).await.unwrap().found
    }

    #[tokio::test]
    async fn a_store_as_a_host_leaves_it_is_consistent() {
        let (folder, store) = store().await;
        let mut told = Vec::new();
        let all = store.check(|what| told.push(what)).await.unwrap();
        assert_eq!((all.found, all.rows), (Vec::new(), 6));
        assert_eq!((told.len(), told.first(), told.last()), (7, Some(&"database"), Some(&"checks")));
        // And it can be written again, and read while a host has it.
        let audited = Audited {
            at: UnixMs(5),
            actor: "anna".into(),
            migration: "shop".into(),
            action: "look".into(),
            detail: json!({}),
        };
        store.audit(&audited).await.unwrap();
        let reader = Store::open_to_read(&folder.path().join("test.db")).await.unwrap();
        assert_eq!(reader.check(|_| {}).await.unwrap().found, []);
    }

    #[tokio::test]
    async fn whatever_is_missing_or_changed_is_found_and_named() {
        for (sql, table, words) in [
            (
                "DELETE FROM decisions WHERE id = 2",
                "decisions",
                "decision 3 of `shop` begins in `ramping` at 50000 ppm",
            ),
            ("DELETE FROM decisions WHERE id = 3", "migration_status", "is in `ramping` at 100000 ppm, and its last"),
            ("UPDATE migration_status SET completed_at = 9", "migration_status", "has 0 current states"),
            (
                "UPDATE migration_status SET metadata = '{' WHERE completed_at IS NULL",
                "migration_status",
                "cannot be read",
            ),
            ("UPDATE components SET bytes = CAST('abd' AS BLOB)", "components", "has other bytes than its digest says"),
            (
                "UPDATE session_journal SET arguments = '[]'",
                "session_journal",
                "entry 1 of session `s` of `shop` cannot",
            ),
            ("UPDATE session_journal SET version = 0", "session_journal", "entry 0 of session `s`"),
            ("INSERT INTO memories VALUES (7, x'00', NULL, 3, 1, x'0102')", "memories", "memory 7 cannot be unpacked"),
            (
                "INSERT INTO checks VALUES (9, 'shop', 1, 'ramping', 0, 0, 1, NULL, x'00')",
                "checks",
                "check 9 cannot be unpacked",
            ),
            (
                "INSERT INTO policy_calls (migration, at, kind, role, policy, digest, wasi_stub, settings_digest, question, \
                 memory, answer, memory_after, fuel, took_us, memory_id) \
                 VALUES ('shop', 1, 'rollback', 'active', 'p', 'd', 0, 'none', '', x'', '', x'', 1, 1, 5)",
                "policy_calls",
                "the settings of 1 call(s) is missing, first of call 1",
            ),
        ] {
            let found = found_after(sql).await;
            let is_named = found.iter().any(|one| one.table == table && one.what.contains(words));
            assert!(is_named, "{sql}: {found:?}");
        }
    }

    #[tokio::test]
    async fn what_was_removed_gives_its_space_back() {
        let (_folder, store) = store().await;
        let large = "INSERT INTO audit (at, actor, migration, action, detail) VALUES (1, 'a', 'shop', 'x', hex(zeroblob(400000)))";
        sqlx::query(large).execute(&store.pool).await.unwrap();
        sqlx::query("DELETE FROM audit").execute(&store.pool).await.unwrap();
        let (before, after) = store.vacuum().await.unwrap();
        assert!(before > 800_000 && after < 400_000, "{before} {after}");
        assert_eq!(store.check(|_| {}).await.unwrap().found, []);
    }

    #[tokio::test]
    async fn a_store_of_a_newer_host_is_refused_by_both_ways_in() {
        let (folder, store) = store().await;
        let path = folder.path().join("test.db");
        let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'x', 1, x'', 0)";
        sqlx::query(newer).execute(&store.pool).await.unwrap();
        store.close().await;
        let refused = |error: StoreError| {
            let said = error.to_string();
            assert!(said.contains("version 9999 of the tables") && said.contains("test.db"), "{said}");
        };
        refused(Store::open(Path::new(&path)).await.unwrap_err());
        refused(Store::open_to_read(&path).await.unwrap_err());
    }
}
