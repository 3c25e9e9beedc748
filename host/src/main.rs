//! The `cutover` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    cutover::cli::run()
}
