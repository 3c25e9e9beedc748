//! `cutover policy test`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Test {}

pub(super) fn run(_args: &Test) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
