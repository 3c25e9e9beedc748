//! `cutover demo`: tells the story and sums it up.

use tokio::runtime;

use super::{Demo, Failed, output};
use crate::demo;
use cutover_model::causes::chain;

pub(super) fn run(arguments: Demo) -> Result<(), Failed> {
    let guard = std::env::current_exe().map_err(|e| Failed::new(format!("cannot find this program: {e}")))?;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    let options = demo::Options { fast: arguments.fast, root: arguments.root, guard };
    // With --json the story goes to standard error, so that standard output is one object.
    let as_json = arguments.format.json;
    let tell = move |line: &str| if as_json { output::note(line) } else { output::line(line) };
    let summary = runtime.block_on(demo::run(options, &tell)).map_err(|e| Failed::new(chain(&e)))?;
    if as_json {
        output::json(&summary);
    }
    let broken = summary.broken_promises();
    if broken.is_empty() {
        Ok(())
    } else {
        Err(Failed::new(format!("the demo broke a promise: {}", broken.join("; "))))
    }
}
