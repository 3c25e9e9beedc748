//! `cutover policy new`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct New {}

pub(super) fn run(_args: &New) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
