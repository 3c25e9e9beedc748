//! The Rhai interpreter as a policy: a script is a policy of any kind, and needs no toolchain but the host.
//!
//! Its settings are the script and the script's own settings. The script is compiled once, when it is configured; each
//! question calls one of its functions (`judge`, `next`, ..) with what the contract gives, as values that a script reads
//! like maps. What scripts would be slow or wrong at (histograms, windows of time, big products, calendars) is native.
//!
//! It refuses what a policy must not have: clocks, randomness, files, `eval`, modules of other scripts; and it limits
//! what a script may use, so that one that runs away ends with a sentence and not with a trap.

#![expect(clippy::wildcard_enum_match_arm, reason = "the errors of Rhai are many and open")]
#![expect(
    clippy::arc_with_non_send_sync,
    reason = "what scripts hold is shared within one thread: a guest has no other"
)]

mod engine;
mod failure;
mod functions;
mod helpers;
mod json;
mod kinds;
mod script;
mod shape;
mod values;

use cutover_policy::{Policy, Problem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use crate::functions::Kind;
use crate::script::Script;

/// See the module.
#[derive(Debug)]
pub struct Rhai(Script);

/// A script and its settings.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The script's text.
    pub script: String,
    /// The script's own settings, which it sees as the constant map `settings`.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The kind that it is used as; with it, a script without that kind's functions is refused at once.
    #[serde(default)]
    pub kind: Option<Kind>,
}

impl Policy for Rhai {
    type Settings = Settings;
    const NAME: &'static str = "rhai";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "a script in the language Rhai decides";
    const ATTRIBUTES: &'static [&'static str] = &values::request::ATTRIBUTES;

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        Script::configure(&settings).map(Self)
    }
}

cutover_policy::export!(Rhai: routing, decide, stages, rollback, comparison, adapter);

#[cfg(test)]
mod tests;
