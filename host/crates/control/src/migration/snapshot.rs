//! What a migration shows of itself: one consistent picture, made by the controller after each change.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    failsafe,
    flags::{Off, Shown},
    rails::Rails,
};
use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Kind, Verdict},
};
use cutover_policy_host::{
    PolicyError,
    installed::InstalledPolicy,
    slot::{Slot, Slots},
};
use cutover_store::state::State;

/// One migration, as the controller last left it.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// The name of the migration.
    pub migration: String,
    /// The state that it is in.
    #[serde(flatten)]
    pub state: State,
    /// What the rollback policy said last.
    pub verdict: Option<Judged>,
    /// What the stages policy waits for.
    pub waiting_for: Vec<Finding>,
    /// The policies in charge, one for each kind that has one.
    pub policies: Vec<InCharge>,
    /// Slots in which no policy is in charge, because the last one failed too often.
    pub held: Vec<Held>,
    /// All flags, and where their values come from.
    pub flags: Vec<Shown>,
    /// Flags that hold something back, or make callers less safe.
    pub flags_off: Vec<Off>,
    /// The last rollback, once V2 has settled.
    pub last_rollback: Option<RollbackReport>,
    /// Decisions since the host began.
    pub decisions: u64,
    /// The host's own limits, which no policy passes.
    pub rails: Rails,
    /// Policies that failed since the host began.
    pub policy_failures: Vec<Failing>,
    /// Why the plan in force is not the one that the state asks for.
    pub stale_plan: Option<String>,
    /// Decisions that were acted on and are not on record yet.
    pub unrecorded: usize,
    /// What is lost while V2 has callers, and what will happen when.
    pub failsafe: Vec<failsafe::Shown>,
    /// The time that decisions rest on.
    pub clock: ClockShown,
}

/// The time that decisions rest on, beside the wall clock.
#[derive(Debug, Clone, Serialize)]
pub struct ClockShown {
    /// The time that policies are told.
    pub now: UnixMs,
    /// How far that is ahead of the wall clock.
    pub ahead_ms: i64,
    /// How often the wall clock stepped since the host began.
    pub steps: u64,
    /// The last of these steps; `None` if there was none.
    pub last_step: Option<ClockStep>,
    /// How often the host did not run for a while since it began.
    pub gaps: u64,
    /// The last of these gaps: when it was over, and how long it was; `None` if there was none.
    pub last_gap: Option<ClockStep>,
}

/// A step of the wall clock.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ClockStep {
    /// When, by the wall clock after it.
    pub at: UnixMs,
    /// By how many milliseconds.
    pub by_ms: i64,
}

/// What the rollback policy said last.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
pub struct Judged {
    /// When the answer came.
    pub at: UnixMs,
    pub verdict: Verdict,
    /// What the verdict rests on.
    pub findings: Vec<Finding>,
    /// Base-10 logarithm of the evidence against V2, in millionths.
    pub evidence: i64,
}

/// A policy in charge.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
pub struct InCharge {
    pub kind: Kind,
    pub name: String,
    pub version: String,
    /// SHA-256 of the component.
    pub digest: String,
    pub settings: serde_json::Value,
    /// The policy that was in charge before and can be gone back to: `NAME@VERSION`.
    pub previous: Option<String>,
    /// The candidate beside it: `NAME@VERSION`.
    pub candidate: Option<String>,
}

/// A slot in which no policy is in charge.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
pub struct Held {
    pub kind: Kind,
    /// Why no policy is in charge, as a sentence.
    pub why: String,
}

/// How a rollback went.
#[derive(Debug, Clone, Serialize)]
pub struct RollbackReport {
    /// The number of the decision on record; 0 if there is none.
    pub decision: i64,
    /// When the verdict or order came.
    pub at: UnixMs,
    /// The reason that the decision has on record.
    pub reason: String,
    /// The policy that decided, as `NAME@VERSION`; `None` if an operator or the host did.
    pub policy: Option<String>,
    /// SHA-256 of that policy's component.
    pub digest: Option<String>,
    /// What it rests on.
    pub findings: Vec<Finding>,
    /// Microseconds from the verdict to the last call that was sent to V2; 0 if none was sent after it.
    pub last_v2_request_us: u64,
    /// Calls that were still in flight when the drain timed out.
    pub undrained: usize,
}

/// A policy that failed.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
pub struct Failing {
    pub kind: Kind,
    /// What went wrong, as errors name it.
    pub cause: &'static str,
    /// How often that happened.
    pub count: u64,
    /// When it happened last.
    pub last: UnixMs,
    /// What was said of it then.
    pub message: String,
}

/// Failures by kind and cause.
#[derive(Debug, Default)]
pub struct Failures(BTreeMap<(Kind, &'static str), Failing>);

impl Failures {
    /// Counts a failure; true if this kind had not failed with this cause within the last minute.
    pub fn count(&mut self, kind: Kind, error: &PolicyError, now: UnixMs) -> bool {
        let cause = error.cause();
        let never = Failing { kind, cause, count: 0, last: UnixMs(0), message: String::new() };
        let known = self.0.entry((kind, cause)).or_insert(never);
        let quiet = now.since(known.last).as_secs() >= 60;
        known.count += 1;
        known.last = now;
        known.message = error.to_string();
        quiet
    }

    /// One entry for each kind and cause.
    pub fn all(&self) -> Vec<Failing> {
        self.0.values().cloned().collect()
    }
}

/// The policies in charge, as they are shown.
pub fn in_charge(slots: &Slots) -> Vec<InCharge> {
    let shown = |(kind, installed): (Kind, std::sync::Arc<InstalledPolicy>)| InCharge {
        kind,
        name: installed.title.name.clone(),
        version: installed.title.version.clone(),
        digest: installed.policy.digest().to_string(),
        settings: serde_json::from_str(installed.policy.settings()).unwrap_or_default(),
        previous: slots.get(kind).previous().map(|installed| installed.label()),
        candidate: slots.get(kind).candidate().map(|candidate| candidate.installed.label()),
    };
    slots.active().map(shown).collect()
}

/// The slots that are held, as they are shown.
pub fn held(slots: &Slots) -> Vec<Held> {
    let held = |(kind, slot): (Kind, &Slot)| Some(Held { kind, why: slot.held()?.to_string() });
    slots.iter().filter_map(held).collect()
}
