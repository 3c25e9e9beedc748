//! `[migrations.NAME.failsafe]`.

use serde::Deserialize;

/// What the host does by itself while V2 has callers, when nobody judges, nothing is recorded, or V2 fails everything.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Failsafe {
    /// How long V2 may have callers without a verdict of the rollback policy; `2m` unless it is set.
    pub no_verdict: Option<String>,
    /// How long V2 may have callers without a record that the store took; `2m` unless it is set.
    pub no_record: Option<String>,
    /// What is done then: `rollback` (unless it is set), `retreat`, `pause` or `none`.
    pub action: Option<String>,
    /// How long there may be no stages policy that answers; `2m` unless it is set.
    pub no_stages: Option<String>,
    /// What is done then, as `action`; `none` unless it is set, because nobody raises the share meanwhile.
    pub no_stages_action: Option<String>,
    /// When V2 counts as out, and what is done then.
    pub outage: Outage,
}

/// `[migrations.NAME.failsafe.outage]`: when V2 counts as out. All of it must hold.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outage {
    /// What is done then: `rollback` or `none`.
    pub action: String,
    /// Calls of V2 in a row that must have failed; five times as many if they are of too few sessions.
    pub calls: u64,
    /// The number of sessions that these calls must be of.
    pub sessions: u64,
    /// How long V2 must have failed, 1 s to 1 h, in whole seconds.
    pub lasts: String,
    /// V1's error rate, in percent, from which the fault is not V2's alone.
    pub v1_errors: u32,
}

impl Default for Outage {
    fn default() -> Self {
        Self { action: "rollback".into(), calls: 10, sessions: 3, lasts: "2s".into(), v1_errors: 25 }
    }
}
