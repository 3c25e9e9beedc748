//! `cutover policy-compiler`: compiles one component for the host that started it, within limits.

use super::Failed;
use cutover_policy_host::engine;

pub(super) fn run(seconds: u64, bytes: u64) -> Result<(), Failed> {
    engine::compile_here(seconds, bytes).map_err(|(code, message)| Failed { code, kind: "compiler".into(), message })
}
