//! Where a migration stands: plain data, and what may happen to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{failsafe, table::Table, withhold::Withheld};
use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Action, Phase, Step, Verdict},
    request::Ppm,
};

/// Where a migration stands. Persisted before it takes effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The phase.
    pub phase: Phase,
    /// While paused: the phase to resume.
    pub paused_in: Option<Phase>,
    /// The stage, from 0; 0 outside of `ramping`.
    pub stage: u32,
    /// The share of sessions that V2 serves.
    pub share: Ppm,
    /// How long the stage is meant to last; none for open-ended.
    pub soak: Option<Duration>,
    /// When the phase or stage began.
    pub since: UnixMs,
    /// Why it was rolled back or paused.
    pub because: Option<String>,
    /// The stages below this one, lowest first, to go back to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<Step>,
    /// The stage table in force, as far as the host knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<Table>,
    /// V2 is being replaced: its callers are on V1 until it is back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub redeploys: bool,
}

impl State {
    /// A migration that begins at `now`.
    pub const fn new(now: UnixMs) -> Self {
        Self {
            phase: Phase::Preparing,
            paused_in: None,
            stage: 0,
            share: Ppm::ZERO,
            soak: None,
            since: now,
            because: None,
            below: Vec::new(),
            table: None,
            redeploys: false,
        }
    }

    /// The migration begins again at `now`, with what outlives that.
    #[must_use]
    pub fn anew(&self, now: UnixMs) -> Self {
        Self { table: self.table.clone(), ..Self::new(now) }
    }

    /// How long a stage that began under another table has left, if this one has no stage of its share.
    pub fn kept_soak(&self, now: UnixMs) -> Option<(Duration, Duration)> {
        let soak = self.soak.filter(|_| self.phase == Phase::Ramping)?;
        let lacks = self.table.as_ref().is_some_and(|table| table.lacks(self.share));
        let lasted = now.since(self.since);
        (lacks && lasted < soak).then_some((lasted, soak))
    }

    /// The phase whose rules hold: while paused, the one that it was paused in.
    pub fn in_force(&self) -> Phase {
        self.paused_in.unwrap_or(self.phase)
    }

    /// Whether V2's workers run and may get calls.
    pub fn v2_runs(&self) -> bool {
        matches!(self.in_force(), Phase::Shadow | Phase::Ramping | Phase::Complete | Phase::Decommissioned)
    }

    /// Whether V2's workers are to run, or to be started.
    pub fn needs_v2(&self) -> bool {
        self.v2_runs() || self.phase == Phase::Preparing
    }

    /// Whether callers depend on V1: some sessions are on it, or it stands behind V2.
    pub fn needs_v1(&self) -> bool {
        self.share < Ppm::ALL && self.in_force() != Phase::Decommissioned
    }

    /// Whether V1 may be gone for good: everybody was moved to V2, and that was said to be all.
    pub fn is_done_with_v1(&self) -> bool {
        matches!(self.in_force(), Phase::Complete | Phase::Decommissioned)
    }

    /// Whether the rollback policy is asked.
    pub fn is_judged(&self) -> bool {
        !self.redeploys && matches!(self.in_force(), Phase::Shadow | Phase::Ramping | Phase::Complete)
    }

    /// Whether the stages policy is asked: not while paused.
    pub fn is_staged(&self) -> bool {
        !self.redeploys && matches!(self.phase, Phase::Shadow | Phase::Ramping)
    }
}

/// What may happen to a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The pools that the phase needs are up.
    PoolsReady,
    /// The rollback policy answered.
    Judged {
        /// What it said.
        verdict: Verdict,
        /// Why.
        findings: Vec<Finding>,
    },
    /// The stages policy answered.
    Moved {
        /// What it wants.
        action: Action,
        /// Why.
        findings: Vec<Finding>,
    },
    /// An operator commands.
    Ordered(Order),
    /// A flag changed.
    FlagsChanged,
    /// The host acts by itself: nobody judges V2, nothing is recorded, or V2 fails everything.
    Failsafe {
        /// What it does.
        action: failsafe::Action,
        /// Why.
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
pub enum Order {
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
    /// Tell people.
    Notify,
}

/// A decision, as far as the pure part knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Such as `rollback`, `advance`, `retreat`, `complete`, `pause`, `resume`, `begin`.
    pub kind: &'static str,
    /// Why, as a sentence.
    pub reason: String,
    /// What it rests on.
    pub findings: Vec<Finding>,
}

/// Why an order is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);
