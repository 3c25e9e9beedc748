//! `cutover worker-guard`: becomes a worker that dies with the host.

use std::ffi::OsString;

use super::Failed;
use cutover_traffic::{descriptors, pool::guard};

pub(super) fn run(parent: u32, descriptors: Option<u64>, command: &[OsString]) -> Result<(), Failed> {
    let program = command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(limit) = descriptors {
        let lowered = descriptors::lower(limit);
        lowered.map_err(|e| Failed::new(format!("cannot set the limit of open files for `{program}`: {e}")))?;
    }
    let error = guard::become_worker(parent, command);
    Err(Failed::new(format!("cannot run the worker `{program}`: {error}")))
}
