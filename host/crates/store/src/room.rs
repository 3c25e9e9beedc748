//! How large a store is, and what it does when it is larger than it may be: the oldest calls go, then the oldest checks
//! and metrics. Decisions, the audit, states and slots stay, and so does the last hour of everything.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Store, StoreError, database::Dialect, sql_ms};
use cutover_model::clock::UnixMs;
use serde::Serialize;

/// Rows that go at once, so that decisions get a turn in between.
const AT_ONCE: u32 = 500;

/// The youngest that go, in milliseconds before now: what has just happened is looked at most.
const KEPT_MS: u64 = 3_600_000;

/// What is said of a store's size.
#[derive(Debug, Default)]
pub(super) struct Counts {
    bytes: AtomicU64,
    too_large: AtomicU64,
    removed: [AtomicU64; Removed::ALL.len()],
}

/// What is removed from a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Removed {
    /// Calls to policies; these go first.
    Calls,
    /// Checks that policies were asked about.
    Checks,
    /// Metrics of pools; these go last.
    Metrics,
}

/// What was removed to make room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Calls, checks and metrics, in that order.
    pub rows: [u64; Removed::ALL.len()],
    /// What is in use afterwards, in bytes.
    pub bytes: u64,
}

impl Removed {
    /// All of them, in the order in which they go.
    pub const ALL: [Self; 3] = [Self::Calls, Self::Checks, Self::Metrics];

    /// As it is counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Checks => "checks",
            Self::Metrics => "metrics",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Calls => 0,
            Self::Checks => 1,
            Self::Metrics => 2,
        }
    }

    /// Removes the oldest rows from before a moment.
    const fn statement(self) -> &'static str {
        match self {
            Self::Calls => {
                "DELETE FROM policy_calls WHERE id IN (SELECT id FROM policy_calls WHERE at < $1 ORDER BY at LIMIT $2)"
            }
            Self::Checks => "DELETE FROM checks WHERE id IN (SELECT id FROM checks WHERE at < $1 ORDER BY at LIMIT $2)",
            Self::Metrics => {
                "DELETE FROM pool_metrics WHERE id IN \
                 (SELECT id FROM pool_metrics WHERE timestamp < $1 ORDER BY id LIMIT $2)"
            }
        }
    }
}

impl Store {
    /// Bytes of the store that are in use; SQLite's file may be larger, since what is free in it is used again. Of PostgreSQL
    /// it is the size of the database, which has what is free in it.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn bytes(&self) -> Result<u64, StoreError> {
        let bytes = match self.dialect {
            Dialect::Sqlite => {
                "SELECT ((SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count)) \
                 * (SELECT page_size FROM pragma_page_size)"
            }
            Dialect::Postgres => "SELECT pg_database_size(current_database())",
        };
        let bytes: i64 = sqlx::query_scalar(bytes).fetch_one(&self.pool).await?;
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.ground.counts.bytes.store(bytes, Ordering::Relaxed);
        Ok(bytes)
    }

    /// Removes the oldest until at most so many bytes are in use, or nothing is left that may go. PostgreSQL says only how
    /// large the database is, which is no smaller after rows went: there, what is kept is bounded by its age alone.
    ///
    /// # Errors
    /// When the store fails; what was removed by then is gone.
    pub async fn fit(&self, most: u64, now: UnixMs) -> Result<Left, StoreError> {
        let before = UnixMs(now.0.saturating_sub(KEPT_MS));
        let mut left = Left { bytes: self.bytes().await?, ..Left::default() };
        let may_go = if self.dialect == Dialect::Sqlite { Removed::ALL.as_slice() } else { &[] };
        for &what in may_go {
            while left.bytes > most {
                let some = sqlx::query(what.statement())
                    .bind(sql_ms(before))
                    .bind(i64::from(AT_ONCE))
                    .execute(&self.pool)
                    .await?;
                let some = some.rows_affected();
                if what == Removed::Calls {
                    self.forget_memories(self.oldest_call().await?.unwrap_or(before)).await?;
                }
                if let Some(rows) = left.rows.get_mut(what.index()) {
                    *rows += some;
                }
                self.count_removed(what, some);
                left.bytes = self.bytes().await?;
                if some == 0 {
                    break;
                }
            }
        }
        self.ground.counts.too_large.store(u64::from(left.bytes > most), Ordering::Relaxed);
        Ok(left)
    }

    /// When the oldest call on record was made.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn oldest_call(&self) -> Result<Option<UnixMs>, StoreError> {
        let oldest: Option<i64> = sqlx::query_scalar("SELECT MIN(at) FROM policy_calls").fetch_one(&self.pool).await?;
        Ok(oldest.map(|at| UnixMs(u64::try_from(at).unwrap_or(0))))
    }

    /// Counts rows that were removed to keep the store within its bounds.
    pub fn count_removed(&self, what: Removed, rows: u64) {
        if let Some(count) = self.ground.counts.removed.get(what.index()) {
            count.fetch_add(rows, Ordering::Relaxed);
        }
    }

    /// Bytes in use when that was last looked at, and whether they are more than they may be.
    pub fn last_bytes(&self) -> (u64, bool) {
        let counts = &self.ground.counts;
        (counts.bytes.load(Ordering::Relaxed), counts.too_large.load(Ordering::Relaxed) > 0)
    }

    /// Rows that were removed since the host began, because they were old or to make room.
    pub fn removed(&self, what: Removed) -> u64 {
        self.ground.counts.removed.get(what.index()).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}
