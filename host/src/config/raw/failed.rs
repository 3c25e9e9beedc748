//! The shape of what counts as failed.

use std::collections::BTreeMap;

use serde::Deserialize;

/// `[migrations.NAME.failed]`, and `failed` of an operation. What can be written in several ways is read by `validate`, which
/// says what is wrong with it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failed {
    /// Statuses of answers: `["5xx", 429, "400-403"]`.
    pub status: Option<toml::Value>,
    /// Fields of their heads and what is in them; `*` at the end stands for anything.
    pub header: BTreeMap<String, String>,
    /// Places in their bodies: `{ pointer, is }` or `{ pointer, equals }`, or a list of such.
    pub body: Option<toml::Value>,
    /// Places in results of workers, written as in `body`.
    pub result: Option<toml::Value>,
    /// Places in refusals of workers, written as in `body`.
    pub refusal: Option<toml::Value>,
    /// Answers that took longer than this span of time.
    pub slower_than: Option<String>,
}
