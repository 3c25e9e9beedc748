//! What a controller knows beside the migration's state, by what it is for.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use tokio::task::JoinHandle;

use super::Parts;
use crate::migration::{
    catch_up::PendingCatchUp,
    checks::Owed,
    failsafe::Failsafe,
    guard::{Liveness, Recording, Steps},
    presence::Presence,
    record::{Marks, Unrecorded},
    snapshot::{Failures, Judged, RollbackReport},
    told::Told,
};
use cutover_model::{
    clock::{
        Mono, UnixMs,
        timeline::{Anchor, Clock},
    },
    facts::{Batch, Finding},
    port::{Check, Kind, Plan, Verdict},
};
use cutover_policy_host::installed::InstalledPolicy;

/// How the migration moved.
#[derive(Debug)]
pub(in crate::migration) struct Course {
    /// Counts states, so that an answer about a state that is gone is recognised.
    pub epoch: u64,
    /// When the migration moved last.
    pub moved_at: Mono,
    /// From where time goes on once the decision under way is on record; none unless a stage begins with it.
    pub beginning: Option<Anchor>,
    /// When the last decision was made, by the wall clock.
    pub decided_at: UnixMs,
    /// Decisions since the host started.
    pub decisions: u64,
    /// The number of the last decision on record; 0 if there is none.
    pub last_decision: i64,
}

/// The plan that requests follow.
#[derive(Debug, Default)]
pub(in crate::migration) struct PlanInForce {
    /// The last one that a routing policy made, with the policy that its `decide` is asked of.
    pub last: Option<(Plan, Option<Arc<InstalledPolicy>>)>,
    /// Why the plan in force is not one for the state in force; none if it is.
    pub stale: Option<String>,
}

/// What the judge and the stages policy are asked about.
#[derive(Debug)]
pub(in crate::migration) struct Questions {
    /// Batches that wait for a check, oldest first.
    pub pending: Vec<Batch>,
    /// Those of them that the rollback policy failed to answer.
    pub owed: Owed,
    /// Batches that no check saw, since the last one.
    pub dropped: usize,
    /// Whether batches were there for the last check and did not fit it.
    pub behind: bool,
    /// The moment of the last check.
    pub last_check: UnixMs,
    /// Whether policies are being asked right now.
    pub asking: bool,
    /// The last checks and the verdict on each, for policies that take over.
    pub recent: VecDeque<(Check, Option<Verdict>)>,
}

/// Policies on their way into a slot.
#[derive(Debug, Default)]
pub(in crate::migration) struct Installs {
    /// Slots that get a policy just now.
    pub under_way: BTreeSet<Kind>,
    /// Those that wait for the check under way to end.
    pub waiting: Vec<PendingCatchUp>,
    /// How many are shown the last checks; until they have seen them, no new check is made.
    pub last_looks: usize,
}

/// What people are shown and told.
#[derive(Debug, Default)]
pub(in crate::migration) struct Shows {
    /// The judge's last answer in this stage.
    pub verdict: Option<Judged>,
    /// What the next stage waits for.
    pub waiting_for: Vec<Finding>,
    /// What people were told of that moved nothing.
    pub told: Told,
    /// The last rollback whose V2 has drained, since the host started.
    pub last_rollback: Option<RollbackReport>,
}

/// What is written, and what the store does not know of yet.
#[derive(Debug)]
pub(in crate::migration) struct Records {
    /// What was put on record last, which may still be under way.
    pub writing: Option<JoinHandle<()>>,
    /// The marker of a rollback, beside the store.
    pub markers: Marks,
    /// Decisions that were acted on before the store had them.
    pub unrecorded: Unrecorded,
    /// Whether the store takes what it is handed.
    pub recording: Recording,
}

/// How far policies are trusted.
#[derive(Debug, Default)]
pub(in crate::migration) struct Trust {
    /// Why nothing goes up until a person resumes, where that is yet to be decided.
    pub distrusted: Option<String>,
    /// Failures by kind and cause since the host started, to be shown.
    pub failures: Failures,
    /// When the policies in charge failed lately.
    pub failing: BTreeMap<Kind, VecDeque<Mono>>,
    /// When policies in charge began afresh, because they kept failing with what they remembered.
    pub afresh: BTreeMap<Kind, Mono>,
}

/// What the host itself watches over.
#[derive(Debug)]
pub(in crate::migration) struct Guard {
    /// What the host does without a policy.
    pub failsafe: Failsafe,
    /// Whether the rollback policy answers.
    pub judge: Liveness,
    /// Whether the stages policy answers.
    pub stages: Liveness,
    /// Steps of the wall clock, and times in which the host did not run.
    pub steps: Steps,
}

/// What is known of the pools.
#[derive(Debug, Default)]
pub(in crate::migration) struct Pools {
    /// Whether V1 is there.
    pub presence: Presence,
    /// Whether people know that nothing goes back to a V1 that is down.
    pub withheld: bool,
    /// Whether V2, which is to be replaced, has calls.
    pub v2_calls: V2Calls,
}

/// Calls of a V2 that is to be replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::migration) enum V2Calls {
    /// Some may be under way.
    #[default]
    UnderWay,
    /// All of them have ended.
    Ended,
}

impl Course {
    /// One that goes on from the last decision on record.
    pub(super) fn new(last_decision: i64) -> Self {
        let (moved_at, decided_at) = (Mono::default(), UnixMs(0));
        Self { epoch: 0, moved_at, beginning: None, decided_at, decisions: 0, last_decision }
    }
}

impl Questions {
    /// Nothing is asked yet; the next check comes after `last_check`.
    pub(super) fn new(last_check: UnixMs) -> Self {
        Self {
            pending: Vec::new(),
            owed: Owed::default(),
            dropped: 0,
            behind: false,
            last_check,
            asking: false,
            recent: VecDeque::new(),
        }
    }
}

impl Records {
    /// With the decisions that the store does not know of.
    pub(super) fn new(clock: &Clock, unrecorded: Unrecorded) -> Self {
        Self { writing: None, markers: Marks::default(), unrecorded, recording: Recording::new(clock.clone()) }
    }
}

impl Guard {
    /// Every policy counts as heard now.
    pub(super) fn new(parts: &Parts) -> Self {
        let now = parts.clock.up();
        Self {
            failsafe: Failsafe::new(&parts.failsafe, parts.check_interval),
            judge: Liveness::new(now),
            stages: Liveness::new(now),
            steps: Steps::default(),
        }
    }
}
