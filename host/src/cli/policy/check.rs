//! `cutover policy check`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Check {}

pub(super) fn run(_args: &Check) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
