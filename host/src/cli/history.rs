//! `cutover history`: what a host recorded.

use clap::Subcommand;

use super::Failed;

/// What a host recorded.
#[derive(Debug, Subcommand)]
pub(super) enum History {
    /// Writes recorded checks as JSON Lines.
    Export {},
}

pub(super) fn run(verb: History) -> Result<(), Failed> {
    match verb {
        History::Export {} => Err(Failed::new("skeleton")),
    }
}
