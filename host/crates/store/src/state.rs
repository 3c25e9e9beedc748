//! Where a migration stands: plain data, which the store keeps.

pub mod table;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use self::table::Table;
use cutover_model::{
    clock::UnixMs,
    port::{Phase, Step},
    request::Ppm,
};

/// Where a migration stands. Persisted before it takes effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The phase of the migration, `paused` included; [`State::in_force`] has the one whose rules hold.
    pub phase: Phase,
    /// The phase that is resumed after a pause; none unless `phase` is `paused`.
    pub paused_in: Option<Phase>,
    /// The stage, from 0; 0 outside of `ramping`.
    pub stage: u32,
    /// The share of sessions that V2 serves.
    pub share: Ppm,
    /// How long the stage is meant to last; none for open-ended.
    pub soak: Option<Duration>,
    /// When the phase or stage began, or began anew after V2 was redeployed. A pause does not change it.
    pub since: UnixMs,
    /// Why it was rolled back or paused, for people; none if it was neither.
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
