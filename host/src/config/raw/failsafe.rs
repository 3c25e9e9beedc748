//! `[migrations.NAME.failsafe]`.

use serde::Deserialize;

/// What the host does when nobody judges, nothing is recorded, or V2 fails everything.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failsafe {
    /// How long V2 may have callers without a verdict.
    pub no_verdict: Option<String>,
    /// How long V2 may have callers without a record.
    pub no_record: Option<String>,
    /// What is done then: `rollback`, `retreat`, `pause` or `none`.
    pub action: Option<String>,
    /// How long there may be no stages policy that answers.
    pub no_stages: Option<String>,
    /// What is done then.
    pub no_stages_action: Option<String>,
    /// When V2 counts as out.
    pub outage: Outage,
}

/// `[migrations.NAME.failsafe.outage]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outage {
    /// `rollback` or `none`.
    pub action: String,
    /// Calls that failed in a row.
    pub calls: u64,
    /// Sessions that they were of.
    pub sessions: u64,
    /// How long it must last.
    pub lasts: String,
    /// V1's error rate, in percent, from which the fault is not V2's alone.
    pub v1_errors: u32,
}

impl Default for Outage {
    fn default() -> Self {
        Self { action: "rollback".into(), calls: 10, sessions: 3, lasts: "2s".into(), v1_errors: 25 }
    }
}
