//! The `cutover` binary.

use std::process::ExitCode;

use mimalloc::MiMalloc;

// A request takes some thirty allocations, most of them freed by the thread that made them.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    cutover::cli::run()
}
