//! `cutover policy`: one file for each verb.

mod activate;
mod backtest;
mod bench;
mod build;
mod candidate;
mod check;
mod list;
mod log;
mod new;
mod push;
mod replay;
mod revert;
mod sandbox;
mod sign;
mod source;
mod test;

use clap::Subcommand;

use super::Failed;

/// What policy authors and operators do with policies.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    /// Starts a bundle that passes its own tests.
    New(new::New),
    /// Builds the component of a bundle.
    Build(build::Build),
    /// Says what a bundle or component is, and whether a host would admit it.
    Check(check::Check),
    /// Runs the test cases of bundles.
    Test(test::Test),
    /// Measures what a policy costs.
    Bench(bench::Bench),
    /// Makes a policy known to a host, or publishes it to an OCI registry.
    Push(push::Push),
    /// Runs recorded history through one or two policies.
    Backtest(backtest::Backtest),
    /// Puts a policy in charge of its kind.
    Activate(activate::Activate),
    /// Lets a policy run beside the one in charge, and shows, promotes or drops it.
    Candidate(candidate::Candidate),
    /// Puts the previous policy back in charge.
    Revert(revert::Revert),
    /// Shows what policies were asked and what they said.
    Log(log::Log),
    /// Asks recorded questions again and compares answers, memory and fuel byte for byte.
    Replay(replay::Replay),
    /// Signs a bundle, beside those who have signed it already.
    Sign(sign::Sign),
    /// Lists the policies that a host knows.
    List(list::List),
}

pub(super) fn run(verb: Policy) -> Result<(), Failed> {
    match verb {
        Policy::New(args) => new::run(&args),
        Policy::Build(args) => build::run(&args),
        Policy::Check(args) => check::run(&args),
        Policy::Test(args) => test::run(&args),
        Policy::Bench(args) => bench::run(&args),
        Policy::Push(args) => push::run(&args),
        Policy::Backtest(args) => backtest::run(&args),
        Policy::Activate(args) => activate::run(&args),
        Policy::Candidate(args) => candidate::run(&args),
        Policy::Revert(args) => revert::run(&args),
        Policy::Log(args) => log::run(&args),
        Policy::Replay(args) => replay::run(&args),
        Policy::Sign(args) => sign::run(&args),
        Policy::List(args) => list::run(&args),
    }
}
