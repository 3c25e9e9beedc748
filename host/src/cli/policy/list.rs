//! `cutover policy list`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct List {}

pub(super) fn run(_args: &List) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
