//! `cutover policy backtest`.

use clap::Args;

use super::Failed;

#[derive(Debug, Args)]
pub(crate) struct Backtest {}

pub(super) fn run(_args: &Backtest) -> Result<(), Failed> {
    Err(Failed::new("skeleton"))
}
