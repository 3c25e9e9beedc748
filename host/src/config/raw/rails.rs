//! The shape of what no policy passes.

use serde::Deserialize;

/// `[migrations.NAME.rails]`: limits that no policy passes when it raises V2's share. A person who advances is not
/// held.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rails {
    /// The most that V2 gets in its first stage, in percent.
    pub first_share: String,
    /// The most that one step adds to V2's share, in percent; the last one to 100 % is a step, too.
    pub largest_step: String,
    /// How long a stage, and `shadow`, lasts at least; 0 s to 365 days.
    pub least_soak: String,
    /// Pairs that must have been compared since the host began before V2 gets anybody; 0 for none.
    pub min_compared: u64,
    /// Whether the rollback policy must have said `healthy`; before V2 has callers, `hold` is enough.
    pub healthy: bool,
    /// Whether no policy raises V2's share at all.
    pub freeze: bool,
    /// When something may be raised, such as `Mon-Fri 09:00-17:00`, in UTC; at any time unless it is set.
    pub hours: Option<String>,
    /// Above this share only a person raises.
    pub approval_over: String,
}

impl Default for Rails {
    fn default() -> Self {
        Self {
            first_share: "50%".into(),
            largest_step: "50%".into(),
            least_soak: "0s".into(),
            min_compared: 1,
            healthy: true,
            freeze: false,
            hours: None,
            approval_over: "100%".into(),
        }
    }
}
