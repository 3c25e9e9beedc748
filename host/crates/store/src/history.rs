//! Recorded checks: what policies were asked and what the rollback policy said, for back-tests.
//!
//! Batches are stored as deflated JSON. As plain JSON a quiet migration takes 80 MB a day, five batches of about 1 kB for
//! each check; deflated it takes a sixth. A month is half a million rows: it is read in pages, never all at once.

use std::{io::Read as _, path::Path, sync::Arc};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use serde_json::value::RawValue;
use sqlx::{Row as _, any::AnyRow};

use super::{
    Store, StoreError,
    database::{self, Dialect, Mode},
    records::ppm,
    sessions, sql_ms,
};
use cutover_model::{
    clock::UnixMs,
    port::{Check, Verdict},
};
use cutover_policy_host::history::Stored;
use cutover_traffic::observe::marks::Marks;

/// Rows that one statement removes, so that decisions get a turn in between.
const REMOVED_AT_ONCE: u32 = 1_000;

/// The most that a check's batches unpack to: far above an hour of batches, and far below what a machine has.
const MAX_UNPACKED: u64 = 256 << 20;

impl Store {
    /// Opens the file of a host, running or not, to read its checks. Nothing is written or brought up to date.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let opened = |source| StoreError::Open { path: shown.clone(), source };
        let pool = database::sqlite(Some(path), Mode::Read).await.map_err(opened)?;
        let dialect = Dialect::Sqlite;
        if !dialect.has_table(&pool, "checks").await.map_err(opened)? {
            return Err(StoreError::NoChecks { path: shown });
        }
        super::refuse_newer(&pool, dialect, path).await?;
        Ok(Self { pool, dialect, ground: Arc::default(), identity: Arc::default() })
    }

    /// Records what policies were asked, the verdict that came of it, and what sessions did for the first time in its
    /// batches, in a stage by its number. Returns the check's number; later checks have higher ones.
    ///
    /// # Errors
    /// When nothing was recorded.
    pub async fn record_check(
        &self,
        migration: &str,
        check: &Check,
        verdict: Option<Verdict>,
        (session_stage, marks): &(i64, Marks),
    ) -> Result<i64, StoreError> {
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        serde_json::to_writer(&mut packer, &check.batches)?;
        let batches = packer.finish().map_err(serde_json::Error::io)?;
        let mut tx = self.pool.begin().await?;
        let id = sqlx::query_scalar(
            "INSERT INTO checks (migration, at, phase, stage, share, stage_started, verdict, batches) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        )
        .bind(migration)
        .bind(sql_ms(check.now_ms))
        .bind(check.phase.name())
        .bind(i64::from(check.stage))
        .bind(i64::from(check.share.get()))
        .bind(sql_ms(check.stage_started_ms))
        .bind(verdict.map(Verdict::name))
        .bind(batches)
        .fetch_one(&mut *tx)
        .await?;
        sessions::write(&mut tx, migration, *session_stage, marks).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Checks of a migration from `from` until before `to`, in the order in which they were recorded: the first `limit`
    /// of those with a number above `after`. None are left when it returns none.
    ///
    /// # Errors
    /// When the store fails or what it has cannot be read.
    pub async fn checks(
        &self,
        migration: &str,
        from: UnixMs,
        to: UnixMs,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Stored>, StoreError> {
        let mut after = after;
        if after <= 0 && from > UnixMs(0) {
            // Without this, all that is older would be looked through.
            let first =
                sqlx::query("SELECT MIN(id) FROM checks WHERE at >= $1").bind(sql_ms(from)).fetch_one(&self.pool);
            match first.await?.try_get::<Option<i64>, _>(0)? {
                Some(first) => after = first - 1,
                None => return Ok(Vec::new()),
            }
        }
        let rows = sqlx::query(
            // With `+`, no index of times is used: all that is older would be sorted.
            "SELECT id, at, phase, stage, share, stage_started, verdict, batches FROM checks \
             WHERE migration = $1 AND id > $2 AND +at >= $3 AND +at < $4 ORDER BY id LIMIT $5",
        )
        .bind(migration)
        .bind(after)
        .bind(sql_ms(from))
        .bind(sql_ms(to))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.iter().map(stored).collect()
    }

    /// The moment of a migration's last check, and when its stage had begun.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn last_check(&self, migration: &str) -> Result<Option<(UnixMs, UnixMs)>, StoreError> {
        let last = "SELECT at, stage_started FROM checks WHERE migration = $1 ORDER BY id DESC LIMIT 1";
        let row = sqlx::query(last).bind(migration).fetch_optional(&self.pool).await?;
        let ms = |row: &AnyRow, column| row.try_get::<i64, _>(column).map(|ms| UnixMs(u64::try_from(ms).unwrap_or(0)));
        row.map(|row| Ok((ms(&row, "at")?, ms(&row, "stage_started")?))).transpose()
    }

    /// The migrations that have recorded checks.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn migrations_with_checks(&self) -> Result<Vec<String>, StoreError> {
        let rows =
            sqlx::query("SELECT DISTINCT migration FROM checks ORDER BY migration").fetch_all(&self.pool).await?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// Removes checks from before `before`.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn forget_checks(&self, before: UnixMs) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let some = sqlx::query("DELETE FROM checks WHERE id IN (SELECT id FROM checks WHERE at < $1 LIMIT $2)")
                .bind(sql_ms(before))
                .bind(i64::from(REMOVED_AT_ONCE))
                .execute(&self.pool)
                .await?
                .rows_affected();
            removed += some;
            if some < REMOVED_AT_ONCE.into() {
                return Ok(removed);
            }
        }
    }
}

fn stored(row: &AnyRow) -> Result<Stored, StoreError> {
    let id: i64 = row.try_get("id")?;
    let mut batches = String::new();
    let packed: &[u8] = row.try_get("batches")?;
    ZlibDecoder::new(packed)
        .take(MAX_UNPACKED)
        .read_to_string(&mut batches)
        .map_err(|source| StoreError::Packed { id, source })?;
    let time = |column| Ok::<_, StoreError>(UnixMs(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0)));
    let word = |text: &str| serde_json::Value::from(text);
    let verdict = row.try_get::<Option<&str>, _>("verdict")?;
    Ok(Stored {
        id,
        now_ms: time("at")?,
        phase: serde_json::from_value(word(row.try_get("phase")?))?,
        stage: u32::try_from(row.try_get::<i64, _>("stage")?).unwrap_or(u32::MAX),
        share: ppm(row, "share")?,
        stage_started_ms: time("stage_started")?,
        verdict: verdict.map(|verdict| serde_json::from_value(word(verdict))).transpose()?,
        batches: RawValue::from_string(batches)?,
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use cutover_policy_host::history::{Recorded, synthetic::Synthetic};

    const ALL: (UnixMs, UnixMs) = (UnixMs(0), UnixMs(u64::MAX));

    async fn store() -> (TempDir, Store) {
        let folder = TempDir::new().unwrap();
        let store = Store::open(&folder.path().join("test.db")).await.unwrap();
        (folder, store)
    }

    async fn record(store: &Store, migration: &str, all: &[Recorded]) {
        for Recorded { check, verdict, .. } in all {
            store.record_check(migration, check, *verdict, &<(i64, Marks)>::default()).await.unwrap();
        }
    }

    fn some(checks: u64) -> Vec<Recorded> {
        let made = Synthetic { checks, batches: 5, ..Synthetic::default() }.into_iter().zip(0..);
        let verdicts = [None, Some(Verdict::Hold), Some(Verdict::RollBack)];
        made.map(|(recorded, n)| Recorded { verdict: verdicts[n % 3], ..recorded }).collect()
    }

    async fn read(store: &Store, migration: &str, (from, to): (UnixMs, UnixMs), page: u32) -> Vec<Recorded> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let found = store.checks(migration, from, to, after, page).await.unwrap();
            assert!(found.len() <= page as usize);
            let Some(last) = found.last() else { return all };
            after = last.id;
            all.extend(found.into_iter().map(|stored| stored.read().unwrap()));
        }
    }

    fn without_ids(all: &[Recorded]) -> Vec<Recorded> {
        all.iter().map(|recorded| Recorded { id: 0, ..recorded.clone() }).collect()
    }

    #[tokio::test]
    async fn checks_come_back_as_they_were_in_pages_of_any_size() {
        let (_folder, store) = store().await;
        let (mine, others) = (some(40), some(7));
        record(&store, "others", &others[..3]).await;
        record(&store, "mine", &mine).await;
        record(&store, "others", &others[3..]).await;
        for page in [1, 7, 40, 100] {
            assert_eq!(without_ids(&read(&store, "mine", ALL, page).await), without_ids(&mine), "{page}");
        }
        assert_eq!(without_ids(&read(&store, "others", ALL, 10).await), without_ids(&others));
        assert_eq!(read(&store, "nobody", ALL, 10).await, []);
        assert_eq!(store.migrations_with_checks().await.unwrap(), ["mine", "others"]);
    }

    #[tokio::test]
    async fn a_span_has_its_first_moment_and_not_its_last() {
        let (_folder, store) = store().await;
        let all = some(40);
        record(&store, "mine", &all).await;
        let at = |n: usize| all[n].check.now_ms;
        let found = read(&store, "mine", (at(10), at(20)), 3).await;
        assert_eq!(without_ids(&found), without_ids(&all[10..20]));
        assert_eq!(read(&store, "mine", (UnixMs(at(39).0 + 1), UnixMs(u64::MAX)), 3).await, []);
    }

    #[tokio::test]
    async fn old_checks_are_forgotten_and_numbers_are_not_used_again() {
        let (_folder, store) = store().await;
        let all = some(1_100);
        record(&store, "mine", &all).await;
        assert_eq!(store.forget_checks(all[1_050].check.now_ms).await.unwrap(), 1_050);
        assert_eq!(without_ids(&read(&store, "mine", ALL, 1_000).await), without_ids(&all[1_050..]));
        assert_eq!(store.forget_checks(UnixMs(u64::MAX)).await.unwrap(), 50);
        assert_eq!(store.record_check("mine", &all[0].check, None, &<(i64, Marks)>::default()).await.unwrap(), 1_101);
    }

    #[tokio::test]
    async fn a_store_is_read_while_its_host_writes_and_after_it_is_gone() {
        let (folder, store) = store().await;
        let (file, all) = (folder.path().join("test.db"), some(3));
        record(&store, "mine", &all[..2]).await;
        let reader = Store::open_to_read(&file).await.unwrap();
        assert_eq!(read(&reader, "mine", ALL, 10).await.len(), 2);
        record(&store, "mine", &all[2..]).await;
        assert_eq!(read(&reader, "mine", ALL, 10).await.len(), 3);
        assert!(
            reader.record_check("mine", &all[0].check, None, &<(i64, Marks)>::default()).await.is_err(),
            "it only reads"
        );
        reader.close().await;
        store.close().await;
        let reader = Store::open_to_read(&file).await.unwrap();
        assert_eq!(read(&reader, "mine", ALL, 10).await.len(), 3);
    }

    #[tokio::test]
    async fn what_is_no_store_is_refused() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("other.db");
        let said = |error: StoreError| cutover_model::causes::chain(&error);
        assert!(said(Store::open_to_read(&file).await.unwrap_err()).starts_with("cannot open the store"));
        assert!(!file.exists());
        std::fs::write(&file, "").unwrap();
        assert!(said(Store::open_to_read(&file).await.unwrap_err()).contains("has no recorded checks"));
        std::fs::write(&file, "now,phase\n1,shadow\n".repeat(100)).unwrap();
        assert!(said(Store::open_to_read(&file).await.unwrap_err()).contains("not a database"));
    }
}
