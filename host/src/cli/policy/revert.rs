//! `cutover policy revert`.

use clap::Args;

use super::super::{HostAddress, client::Client, control::done};
use super::Failed;
use crate::admin::Order;
use cutover_model::{environment, port::Kind};

#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The migration.
    migration: String,
    /// The kind: routing, stages, rollback, comparison or adapter.
    kind: Kind,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    host: HostAddress,
}

pub(super) fn run(args: &Revert) -> Result<(), Failed> {
    let body = Order { reason: args.reason.clone(), actor: environment::user() };
    let path = format!("/api/v1/migrations/{}/policies/{}/revert", args.migration, args.kind);
    done(&Client::slow(&args.host.admin).post(&path, &body)?, args.host.format.json);
    Ok(())
}
