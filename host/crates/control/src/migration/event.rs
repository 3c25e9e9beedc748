//! What may happen to a migration, what operators order, and what a step does about it: plain data.

use serde::{Deserialize, Serialize};

use super::{failsafe, withhold::Withheld};
use cutover_model::{
    facts::Finding,
    port::{Action, Verdict},
    request::Ppm,
};
use cutover_store::state::table::Table;

/// What may happen to a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pools that the phase needs are up.
    PoolsReady,
    /// The rollback policy answered.
    Judged {
        /// What it says of V2.
        verdict: Verdict,
        /// What that rests on.
        findings: Vec<Finding>,
    },
    /// The stages policy answered.
    Moved {
        /// The step that it wants.
        action: Action,
        /// What that rests on.
        findings: Vec<Finding>,
    },
    /// An operator gave a command.
    Ordered(Transition),
    /// An operator changed a flag.
    FlagsChanged,
    /// The host acts by itself: no policy judges V2, nothing is recorded, or V2 fails everything.
    Failsafe {
        /// What the host does.
        action: failsafe::Action,
        /// What that rests on.
        findings: Vec<Finding>,
    },
    /// The stages policy has another table.
    Tabled(Table),
    /// V2 was replaced and is ready.
    Returned,
}

/// What operators may command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transition {
    /// Stay where we are.
    Pause,
    /// Go on, or begin again after a rollback.
    Resume,
    /// Take the step that the stages policy names, now.
    Advance(Action),
    /// Go up to this share.
    AdvanceTo(Ppm),
    /// Go back to this share, or to that of the stage before.
    Retreat(Option<Ppm>),
    /// V1 has everybody while V2 is replaced.
    Redeploy,
    /// Everything to V2, because V1 is gone.
    AdvanceWithoutV1,
    /// Everything back to V1, gracefully.
    Rollback,
    /// Everything back to V1, and V2's workers killed.
    EmergencyRollback,
}

/// What a step does besides changing the state, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Persist the decision and the new state; nothing below happens before.
    Decide(Decided),
    /// Ask the routing policy for a plan for the new state, and put it in force.
    Route,
    /// Open V2, start its workers, and say when they are ready.
    OpenV2,
    /// Let no new call into V2, wait for those in flight, restart its workers, and say when they are ready.
    RestartV2,
    /// Let no new call into V2, turn away those that wait, wait for those in flight, stop the workers.
    DrainV2,
    /// Let no new call into V2 and kill its workers.
    KillV2,
    /// A stage begins: count sessions anew.
    BeginStage,
    /// Nothing was done because V1 is down: say so.
    Withhold(Withheld, Vec<Finding>),
    /// Tell people of the decision, in the log and by webhooks.
    Notify,
}

/// A decision, as far as the pure part knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Such as `rollback`, `advance`, `retreat`, `complete`, `pause`, `resume`, `begin`.
    pub kind: &'static str,
    /// The reason, as a sentence.
    pub reason: String,
    /// What it rests on.
    pub findings: Vec<Finding>,
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);
