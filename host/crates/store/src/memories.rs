//! What policies remember, by content: kept once however many calls name it, and packed as what follows the memory before
//! it. No memory follows one that follows another, so that any is read in two steps at the most.

use sha2::{Digest as _, Sha256};
use sqlx::{Any, AnyConnection, Row as _, Transaction};

use super::{Store, StoreError, packed, sql_ms};
use cutover_model::clock::UnixMs;

/// A memory's time of use is brought up to date when it is so old, in milliseconds: to write a row is to write all of it.
const STALE_MS: u64 = 3_600_000;

/// What follows another must take at most this part of its size; otherwise it is kept alone if that takes little more,
/// and those after it follow that one.
const WORTH: usize = 4;

/// Rows that one statement removes.
const REMOVED_AT_ONCE: u32 = 1_000;

/// Keeps a memory and returns its number; none for an empty one. `near` is one that is much the same.
pub(super) async fn keep(
    tx: &mut Transaction<'_, Any>,
    memory: &[u8],
    near: Option<i64>,
    at: UnixMs,
) -> Result<Option<i64>, StoreError> {
    if memory.is_empty() {
        return Ok(None);
    }
    let digest = Sha256::digest(memory).to_vec();
    let known = sqlx::query("SELECT id, base, used_at FROM memories WHERE digest = $1").bind(&digest);
    if let Some(row) = known.fetch_optional(&mut **tx).await? {
        let (id, base) = (row.try_get::<i64, _>("id")?, row.try_get::<Option<i64>, _>("base")?);
        touch(tx, id, base, row.try_get("used_at")?, at).await?;
        return Ok(Some(id));
    }
    let (base, packed) = match near {
        None => (None, packed::alone(memory)),
        Some(near) => pack(tx, memory, near, at).await?,
    };
    // Where there are several connections, another may have kept it since.
    let kept = sqlx::query_scalar(
        "INSERT INTO memories (digest, base, bytes, used_at, packed) VALUES ($1, $2, $3, $4, $5) \
         ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at RETURNING id",
    )
    .bind(digest)
    .bind(base)
    .bind(i64::try_from(memory.len()).unwrap_or(i64::MAX))
    .bind(sql_ms(at))
    .bind(packed)
    .fetch_one(&mut **tx)
    .await?;
    Ok(Some(kept))
}

/// Packs what follows `near`, or the one that `near` follows, if that is worth it.
async fn pack(
    tx: &mut Transaction<'_, Any>,
    memory: &[u8],
    near: i64,
    at: UnixMs,
) -> Result<(Option<i64>, Vec<u8>), StoreError> {
    let row = sqlx::query("SELECT base FROM memories WHERE id = $1").bind(near).fetch_optional(&mut **tx).await?;
    let Some(row) = row else { return Ok((None, packed::alone(memory))) };
    let base = row.try_get::<Option<i64>, _>(0)?.unwrap_or(near);
    let after = packed::after(&read(tx, base).await?, memory);
    if after.len() > memory.len() / WORTH {
        let alone = packed::alone(memory);
        if alone.len() <= after.len() + after.len() / 2 {
            return Ok((None, alone));
        }
    }
    let used_at = sqlx::query_scalar("SELECT used_at FROM memories WHERE id = $1").bind(base);
    let used_at = used_at.fetch_one(&mut **tx).await?;
    touch(tx, base, None, used_at, at).await?;
    Ok((Some(base), after))
}

/// Notes that a memory is used, and the one that it follows with it.
async fn touch(
    tx: &mut Transaction<'_, Any>,
    id: i64,
    base: Option<i64>,
    used_at: i64,
    at: UnixMs,
) -> Result<(), StoreError> {
    if used_at >= sql_ms(UnixMs(at.0.saturating_sub(STALE_MS))) {
        return Ok(());
    }
    sqlx::query("UPDATE memories SET used_at = $1 WHERE id IN ($2, $3) AND used_at < $1")
        .bind(sql_ms(at))
        .bind(id)
        .bind(base)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A memory by its number.
pub(super) async fn read(connection: &mut AnyConnection, id: i64) -> Result<Vec<u8>, StoreError> {
    let one = "SELECT m.packed, m.bytes, b.packed AS base_packed, b.bytes AS base_bytes \
               FROM memories m LEFT JOIN memories b ON b.id = m.base WHERE m.id = $1";
    let row = sqlx::query(one).bind(id).fetch_one(connection).await?;
    let unreadable = |source| StoreError::Memory { id, source };
    let size = |column| Ok::<_, StoreError>(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0));
    let packed: &[u8] = row.try_get("packed")?;
    match row.try_get::<Option<&[u8]>, _>("base_packed")? {
        None => packed::read_alone(packed, size("bytes")?).map_err(unreadable),
        Some(base) => {
            let base = packed::read_alone(base, size("base_bytes")?).map_err(unreadable)?;
            packed::read_after(&base, packed, size("bytes")?).map_err(unreadable)
        }
    }
}

impl Store {
    /// A memory by its number; the empty one has none.
    pub(super) async fn memory(&self, id: Option<i64>) -> Result<Vec<u8>, StoreError> {
        match id {
            None => Ok(Vec::new()),
            Some(id) => read(&mut *self.pool.acquire().await?, id).await,
        }
    }

    /// Removes memories that no call from `before` on names.
    pub(super) async fn forget_memories(&self, before: UnixMs) -> Result<u64, StoreError> {
        let before = sql_ms(UnixMs(before.0.saturating_sub(2 * STALE_MS)));
        let mut removed = 0;
        loop {
            let some = "DELETE FROM memories WHERE id IN (SELECT id FROM memories WHERE used_at < $1 LIMIT $2)";
            let some = sqlx::query(some)
                .bind(before)
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
