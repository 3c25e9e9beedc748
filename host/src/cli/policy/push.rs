//! `cutover policy push`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Push {}

pub(super) fn run(_args: &Push) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
