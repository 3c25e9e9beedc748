//! The developer's commands: `cargo xtask --help`.
//!
//! Everything that a change must pass is here rather than in a build service, so that it runs the same on any machine
//! with a Rust toolchain and Python. What the commands do themselves they tell on stderr; stdout belongs to what they run.
#![expect(clippy::print_stderr, reason = "a developer command talks to a terminal")]

mod cli;
mod component;
mod dist;
mod flow;
mod guests;
mod languages;
mod lines;
mod process;
mod steps;
mod toolchain;
mod train;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
