//! `cutover policy bench`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Bench {}

pub(super) fn run(_args: &Bench) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
