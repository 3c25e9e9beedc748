//! Which store this is, and whether it is a new one: with a new one every migration begins anew, which people must know who
//! thought that the old one was there.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use sqlx::{AnyPool, Row as _};

use super::{Store, StoreError, sql_ms};
use cutover_model::clock::{self, UnixMs};

/// How long people are told that a store is new, unless somebody gives an order before: as long as it takes to look.
const NEW_FOR: Duration = Duration::from_hours(1);

/// Which store this is, and whether people know that it began empty.
#[derive(Debug, Default)]
pub(super) struct Identity {
    /// Random, and the same for copies; empty for a store that is only read.
    id: String,
    path: PathBuf,
    /// When it was made; none if that was before this was kept.
    made_at: Option<UnixMs>,
    is_known: AtomicBool,
}

impl Identity {
    /// That of a store whose tables are up to date. `is_new` says that it had none before.
    pub(super) async fn of(pool: &AnyPool, path: &Path, is_new: bool) -> Result<Self, sqlx::Error> {
        if is_new {
            let made = sqlx::query("UPDATE identity SET made_at = $1").bind(sql_ms(clock::unix_ms()));
            made.execute(pool).await?;
        }
        let row = sqlx::query("SELECT id, made_at, is_known FROM identity").fetch_one(pool).await?;
        let made_at = row.try_get::<Option<i64>, _>("made_at")?.and_then(|ms| u64::try_from(ms).ok());
        Ok(Self {
            id: row.try_get("id")?,
            path: path.to_owned(),
            made_at: made_at.map(UnixMs),
            is_known: super::database::flag(&row, "is_known")?.into(),
        })
    }
}

impl Store {
    /// Which store this is: another word for each, but for copies of a file.
    pub fn id(&self) -> &str {
        &self.identity.id
    }

    /// The path of the store's file.
    pub fn path(&self) -> &Path {
        &self.identity.path
    }

    /// What people are told for an hour, or until one of them gives an order, if the store is a new one.
    pub fn is_new(&self) -> Option<String> {
        let made_at = self.identity.made_at.filter(|_| !self.identity.is_known.load(Ordering::Relaxed))?;
        let lately = self.refuses().is_none() && clock::unix_ms().since(made_at) < NEW_FOR;
        lately.then(|| {
            format!(
                "the store `{}` is a new one, made at {}: every migration begins anew, without what people have decided or \
                 switched before; if there was another, stop the host and put that back",
                self.path().display(),
                made_at.rfc3339()
            )
        })
    }

    /// Takes note that people know that the store is new.
    ///
    /// # Errors
    /// When the store does not; this host takes note all the same.
    pub async fn is_known(&self) -> Result<(), StoreError> {
        if self.identity.made_at.is_some() && !self.identity.is_known.swap(true, Ordering::Relaxed) {
            sqlx::query("UPDATE identity SET is_known = $1").bind(true).execute(&self.pool).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[tokio::test]
    async fn a_store_is_new_until_somebody_has_given_an_order_and_keeps_its_name_in_copies() {
        let folder = TempDir::new().unwrap();
        let (path, copy) = (folder.path().join("test.db"), folder.path().join("copy.db"));
        // No byte is no store.
        std::fs::write(&path, "").unwrap();
        let store = Store::open(&path).await.unwrap();
        let said = store.is_new().unwrap();
        assert!(said.contains("test.db` is a new one"), "{said}");
        let id = store.id().to_owned();
        store.close().await;
        std::fs::copy(&path, &copy).unwrap();
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.id(), id);
        assert!(store.is_new().is_some(), "a restart tells nobody");
        store.is_known().await.unwrap();
        assert_eq!(store.is_new(), None);
        store.close().await;
        assert_eq!(Store::open(&path).await.unwrap().is_new(), None);
        assert_eq!(Store::open(&copy).await.unwrap().id(), id);
        assert_ne!(Store::open(&folder.path().join("other.db")).await.unwrap().id(), id);
    }
}
