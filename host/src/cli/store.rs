//! `cutover store`: looks after what outlives the host.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failed, Format, output};
use crate::config::Config;
use cutover_model::causes::chain;
use cutover_store::{Store as Opened, StoreError};

#[derive(Debug, Subcommand)]
pub(super) enum Store {
    /// Looks through a store for what is missing, changed or damaged; its host may be running. Exit code 1 if there is any.
    Check {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        format: Format,
    },
    /// Gives the space of removed records back to the system. No host may have the store meanwhile.
    Vacuum {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        format: Format,
    },
}

/// Which store it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Which {
    /// The configuration whose `host.store` it is.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The store's own file.
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

impl Which {
    fn path(&self) -> Result<PathBuf, Failed> {
        if let Some(file) = &self.config {
            return Ok(Config::load(file).map_err(|error| Failed::usage(chain(&error)))?.store);
        }
        self.store.clone().ok_or_else(|| Failed::usage("say which store: `--config FILE` or `--store FILE`"))
    }
}

pub(super) fn run(verb: &Store) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    match verb {
        Store::Check { which, format } => runtime.block_on(check(&which.path()?, format.json)),
        Store::Vacuum { which, format } => runtime.block_on(vacuum(&which.path()?, format.json)),
    }
}

async fn check(path: &Path, as_json: bool) -> Result<(), Failed> {
    let wrong = |error: StoreError| Failed::new(chain(&error));
    let store = Opened::open_to_read(path).await.map_err(wrong)?;
    let checked = store
        .check(|what| {
            if !as_json {
                output::note(&format!("looking at {what}"));
            }
        })
        .await;
    store.close().await;
    let checked = checked.map_err(wrong)?;
    if as_json {
        output::json(&json!({ "ok": checked.found.is_empty(), "rows": checked.rows, "found": checked.found }));
    } else {
        for one in &checked.found {
            output::line(&format!("{}: {}", one.table, one.what));
        }
    }
    match checked.found.len() {
        0 if as_json => Ok(()),
        0 => {
            output::line(&format!("ok: {} records fit together", checked.rows));
            Ok(())
        }
        found => Err(Failed::new(format!(
            "{found} thing(s) in the store `{}` do not fit; put back a copy from before, or ask who changed it",
            path.display()
        ))),
    }
}

async fn vacuum(path: &Path, as_json: bool) -> Result<(), Failed> {
    let wrong = |error: StoreError| Failed::new(chain(&error));
    // To open it for a host would make it where there is none.
    Opened::open_to_read(path).await.map_err(wrong)?.close().await;
    let store = Opened::own(path, &[], "`cutover store vacuum`").await.map_err(wrong)?;
    if let Some(why) = store.refuses() {
        return Err(Failed::new(why.to_owned()));
    }
    let done = store.vacuum().await;
    store.close().await;
    let (before, after) = done.map_err(wrong)?;
    if as_json {
        output::json(&json!({ "before_bytes": before, "after_bytes": after }));
    } else {
        output::line(&format!("ok: {before} bytes before, {after} bytes now"));
    }
    Ok(())
}
