//! `cutover policy build`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Build {}

pub(super) fn run(_args: &Build) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
