//! The two databases that a store can be in. SQL is written once, for both: parameters are `$1`, a value that is JSON is
//! written as `CAST($1 AS jsontext)` and read as `CAST(column AS TEXT)`, and what a row is called comes back by `RETURNING`.
//!
//! PostgreSQL has a domain of the name `jsontext` over `jsonb`; to SQLite any type with `TEXT` in its name is text, so the
//! cast changes nothing there. What has to come back byte for byte (settings of policies, arguments of calls, answers) is
//! text in both, since `jsonb` keeps values and not spellings. Neither keeps a NUL in text: what is for people to read has
//! `U+FFFD` in its place, see [`text`].

use std::{path::Path, str::FromStr as _, time::Duration};

use sqlx::{
    AnyPool, Connection as _, Row as _,
    any::{AnyConnectOptions, AnyPoolOptions, AnyRow, install_default_drivers},
    migrate::Migrator,
};

use super::StoreError;

static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Sqlite,
    Postgres,
}

/// How a SQLite file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// The file has to be there, and is not changed.
    Read,
    /// It is made if it is not there.
    Write,
}

impl Dialect {
    /// The numbered changes of the schema. Both databases have the same numbers.
    const fn migrations(self) -> &'static Migrator {
        match self {
            Self::Sqlite => &SQLITE,
            Self::Postgres => &POSTGRES,
        }
    }

    /// The newest version of the tables that this program knows.
    pub(super) fn newest(self) -> i64 {
        self.migrations().iter().map(|migration| migration.version).max().unwrap_or(0)
    }

    /// Whether there is a table of this name.
    pub(super) async fn has_table(self, pool: &AnyPool, table: &str) -> Result<bool, sqlx::Error> {
        let named = match self {
            Self::Sqlite => "SELECT 1 AS found FROM sqlite_master WHERE type = 'table' AND name = $1",
            Self::Postgres => {
                "SELECT 1 AS found FROM pg_catalog.pg_tables WHERE schemaname = current_schema() AND tablename = $1"
            }
        };
        Ok(sqlx::query(named).bind(table).fetch_optional(pool).await?.is_some())
    }

    /// The version of the tables; 0 if there are none.
    pub(super) async fn version(self, pool: &AnyPool) -> Result<i64, sqlx::Error> {
        if !self.has_table(pool, "_sqlx_migrations").await? {
            return Ok(0);
        }
        sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM _sqlx_migrations").fetch_one(pool).await
    }

    /// Brings the tables up to date.
    pub(super) async fn migrate(self, pool: &AnyPool) -> Result<(), StoreError> {
        self.migrations().run(pool).await.map_err(StoreError::Migrate)
    }
}

/// A SQLite database: one connection, since SQLite has one writer, and readers here are rare and short.
///
/// A disk that is full makes SQLite end a transaction by itself, which the connection does not learn: what came after
/// would be part of one that never ends. So a connection whose transaction failed is not used again. Age alone ends none:
/// what is in memory would go with it.
pub(super) async fn sqlite(file: Option<&Path>, mode: Mode) -> Result<AnyPool, sqlx::Error> {
    install_default_drivers();
    let url = match file {
        None => "sqlite::memory:".to_owned(),
        Some(file) => format!("sqlite://{}?mode={}", escaped(file), if mode == Mode::Read { "ro" } else { "rwc" }),
    };
    let options = AnyConnectOptions::from_str(&url)?;
    let with = AnyPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
    let with = with.after_connect(move |connection, _| {
        Box::pin(async move {
            sqlx::query("PRAGMA busy_timeout = 5000").execute(&mut *connection).await?;
            if mode == Mode::Write {
                sqlx::query("PRAGMA journal_mode = WAL").execute(&mut *connection).await?;
                sqlx::query("PRAGMA synchronous = NORMAL").execute(&mut *connection).await?;
            }
            Ok(())
        })
    });
    let with = with.after_release(|connection, _| {
        let is_fresh = !connection.is_in_transaction();
        Box::pin(async move { Ok(is_fresh) })
    });
    with.connect_with(options).await
}

/// A PostgreSQL database, by a URL of libpq's form. So many connections at most, each of which has so long to be made.
pub(super) async fn postgres(url: &str, connections: u32, patience: Duration) -> Result<AnyPool, sqlx::Error> {
    install_default_drivers();
    let options = AnyConnectOptions::from_str(url)?;
    AnyPoolOptions::new().max_connections(connections).acquire_timeout(patience).connect_with(options).await
}

/// A path as it stands in a URL: what the URL's reader would take for something else is escaped.
fn escaped(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes().iter().fold(String::new(), |mut text, &byte| {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            text.push('%');
            text.push_str(&hex::encode_upper([byte]));
        }
        text
    })
}

/// A column that is true or false: SQLite has 0 and 1.
pub(super) fn flag(row: &AnyRow, column: &str) -> Result<bool, sqlx::Error> {
    row.try_get::<bool, _>(column).or_else(|_| Ok(row.try_get::<i64, _>(column)? != 0))
}

/// Text as both databases keep it: PostgreSQL has no NUL in text.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// JSON as both databases keep it: `jsonb` has no NUL in strings. `json` is what `serde_json` has written.
pub(super) fn json(json: String) -> String {
    if !json.contains("\\u0000") {
        return json;
    }
    let mut kept = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        kept.push_str(before);
        // An escape is `\` and one character, or `\u` and four digits; a `\` that is escaped begins none.
        let length = if escape.starts_with("\\u") { 6 } else { 2 };
        let (escape, after) = escape.split_at_checked(length).unwrap_or((escape, ""));
        kept.push_str(if escape == "\\u0000" { "\\ufffd" } else { escape });
        rest = after;
    }
    kept.push_str(rest);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_replaced_in_text_and_in_json_and_nothing_else_is() {
        assert_eq!((text("a\0b").as_str(), text("plain").as_str()), ("a\u{fffd}b", "plain"));
        for value in ["a\0b", "\\u0000", "\\\0\\\\u0000\u{1}\"", "ü\0"] {
            let written = json(serde_json::to_string(value).unwrap());
            assert_eq!(serde_json::from_str::<String>(&written).unwrap(), value.replace('\0', "\u{fffd}"), "{written}");
        }
    }

    #[test]
    fn both_databases_have_the_same_version() {
        assert_eq!(Dialect::Sqlite.newest(), Dialect::Postgres.newest());
    }

    #[tokio::test]
    async fn any_path_is_the_file_that_it_names() {
        let folder = tempfile::TempDir::new().unwrap();
        for name in ["plain.db", "with space.db", "50%?mode=ro&x#y.db", "ü.db"] {
            let path = folder.path().join(name);
            sqlite(Some(&path), Mode::Write).await.unwrap().close().await;
            assert!(path.exists(), "{name}");
        }
        assert!(sqlite(Some(&folder.path().join("none.db")), Mode::Read).await.is_err());
    }
}
