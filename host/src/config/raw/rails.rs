//! The shape of what no policy passes.

use serde::Deserialize;

/// `[migrations.NAME.rails]`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rails {
    /// The most that V2 gets at first.
    pub first_share: String,
    /// The most that one step adds.
    pub largest_step: String,
    /// How long a stage lasts at least.
    pub least_soak: String,
    /// Pairs that were compared before V2 gets anybody.
    pub min_compared: u64,
    /// Whether the rollback policy must have said `healthy`.
    pub healthy: bool,
    /// Whether nothing is raised at all.
    pub freeze: bool,
    /// When something may be raised, in UTC.
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
