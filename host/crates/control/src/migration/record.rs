//! Puts decisions on record, before they are acted on.
//!
//! A decision that takes something from V2 is acted on all the same if its record fails: to leave users on a V2 that
//! was found worse does more harm. The decision then waits here, and is recorded as soon as that can be, in order,
//! before anything else; so nothing that gives V2 more is decided before the store knows of it. Until then it also has
//! a marker ([`Markers`](cutover_store::markers::Markers)), and a rollback has one for as long as the migration is
//! rolled back.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{controller::Controller, effects::Cause};
use crate::{migration::event::Decided, notify::Notice};
use cutover_model::{causes::chain, clock, port::Phase};
use cutover_store::{
    StoreError,
    markers::{Marker, Mended},
    records::Decision,
    state::State,
};

/// How long a decision that takes something from V2 waits for its record, and then for its marker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Decisions that may wait for their record: more than stages that a ramp can retreat through.
const MOST: usize = 256;

/// How long the person who orders a rollback waits for its marker.
const MARKED: Duration = Duration::from_secs(5);

/// Decisions that are looked through for the last rollback: it is among them unless people do nothing else.
const LATELY: u32 = 100;

/// A marker that is being written; why it is not, when that is over.
pub(super) type Marking = Shared<BoxFuture<'static, Option<String>>>;

/// What became of keeping the marker, or room for one, the last time.
#[derive(Debug, Default)]
struct Kept {
    /// There was a last time.
    is_tried: bool,
    /// Why it could not be kept, if it could not.
    why_not: Option<String>,
}

/// The marker of the migration's rollback.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// What it has to say, while the migration is rolled back.
    rolled_back: Option<Marker>,
    /// The last one that was written.
    writing: Option<Marking>,
    kept: Arc<Mutex<Kept>>,
    /// Seconds in which it could have been looked whether it is there.
    pub(super) looks: u32,
}

/// Decisions that were acted on and are not on record yet, oldest first, each with the state that it led to and the number of
/// the stage that began with it, if one did.
pub(super) type Unrecorded = VecDeque<(Decision, State, Option<i64>)>;

impl Controller {
    /// Persists a decision. `begins` is the number of the stage that begins with it, if one does.
    ///
    /// # Errors
    /// When nothing may be changed, because the store did not take it.
    pub(super) async fn decide(
        &mut self,
        next: &State,
        decided: Decided,
        cause: &Cause,
        begins: Option<i64>,
    ) -> Result<Decision, StoreError> {
        // For people, and so that they can read them in order: never before the one before.
        self.course.decided_at = self.course.decided_at.max(self.parts.clock.wall());
        let mut decision = self.decision(next, decided, cause);
        let lowers = next.phase == Phase::RolledBack || next.share < self.state.share;
        let recorded = if lowers {
            let recorded = timeout(PATIENCE, self.put_on_record(&decision, next, begins)).await;
            recorded.unwrap_or(Err(StoreError::Late { limit: PATIENCE }))
        } else {
            self.put_on_record(&decision, next, begins).await
        };
        self.records.recording.heard(recorded.as_ref().map(|_id| ()));
        match recorded {
            Ok(id) => decision.id = id,
            Err(error) if lowers => self.put_off((decision.clone(), next.clone(), begins), &chain(&error)),
            Err(error) => return Err(error),
        }
        self.course.decisions += 1;
        self.mark(&decision, next).await;
        Ok(decision)
    }

    /// Records what is not on record yet, in its order.
    ///
    /// # Errors
    /// When a decision is still not on record.
    pub(super) async fn write_unrecorded(&mut self) -> Result<(), StoreError> {
        let behind = self.records.unrecorded.len();
        while let Some((decision, state, begins)) = self.records.unrecorded.front() {
            // The store may have recorded it after it was given up.
            if !self.parts.store.has_decided(decision).await? {
                self.course.last_decision = self.parts.store.decide(decision, state, *begins).await?;
            }
            self.records.unrecorded.pop_front();
        }
        if behind > 0 && self.state.phase != Phase::RolledBack {
            drop(self.remove_marker());
        }
        if behind > 0 {
            self.records.recording.heard::<StoreError>(Ok(()));
            let message = format!("{behind} decision(s) that the store did not take are on record now");
            self.notice("recorded", "info", message, Vec::new());
        }
        Ok(())
    }

    /// [`Self::catch_up`], without waiting for long: it is tried again.
    pub(super) async fn try_to_catch_up(&mut self) {
        if self.records.unrecorded.is_empty() {
            return;
        }
        if let Ok(Err(error)) = timeout(PATIENCE, self.write_unrecorded()).await {
            tracing::debug!(migration = self.parts.name, "still not on record: {}", chain(&error));
        }
    }

    async fn put_on_record(
        &mut self,
        decision: &Decision,
        next: &State,
        begins: Option<i64>,
    ) -> Result<i64, StoreError> {
        self.write_unrecorded().await?;
        let id = self.parts.store.decide(decision, next, begins).await?;
        self.course.last_decision = id;
        Ok(id)
    }

    fn put_off(&mut self, this: (Decision, State, Option<i64>), why: &str) {
        let kind = &this.0.kind;
        let message = format!("the {kind} is not on record yet, and nothing gives V2 more before it is: {why}");
        if self.records.unrecorded.len() >= MOST {
            self.records.unrecorded.pop_front();
        }
        self.records.unrecorded.push_back(this);
        self.notice("not-recorded", "critical", message, Vec::new());
    }

    /// Writes the marker of a rollback, and of whatever the store does not know of, which waits for that; removes it when a
    /// person begins again.
    async fn mark(&mut self, decision: &Decision, next: &State) {
        let (was, is) = (self.state.phase == Phase::RolledBack, next.phase == Phase::RolledBack);
        let done = match (was, is || decision.id == 0) {
            (_, true) => self.write_marker(decision, next),
            (true, false) => self.remove_marker(),
            (false, false) => return,
        };
        if decision.id == 0 || !is {
            drop(timeout(PATIENCE, done).await);
        }
    }

    fn write_marker(&mut self, decision: &Decision, next: &State) -> Marking {
        // Without the check that it rests on, which may be large: the disk may have little room left.
        let marker = self.marker_of(Decision { inputs: None, ..decision.clone() }, next);
        let (markers, recorded) = (self.parts.markers.clone(), marker.decision.id != 0);
        self.records.markers.rolled_back = (next.phase == Phase::RolledBack).then(|| marker.clone());
        let writing = self.parts.records.spawn_blocking(move || {
            let error = markers.write(&marker).err()?;
            let migration = &marker.decision.migration;
            if recorded {
                tracing::error!(migration, %error, "the rollback has no marker; only the store knows of it");
            } else {
                tracing::error!(migration, %error, "the rollback is neither on record nor has it a marker: a restart would undo it");
            }
            Some(error.to_string())
        });
        let marking = writing.map(|done| done.unwrap_or_else(|error| Some(error.to_string()))).boxed().shared();
        self.records.markers.writing = Some(marking.clone());
        marking
    }

    fn marker_of(&self, decision: Decision, state: &State) -> Marker {
        let store = Some(self.parts.store.id().to_owned());
        Marker { store, after: self.course.last_decision, decision, state: state.clone() }
    }

    /// Waits until a rollback that was ordered is marked. Returns what the person who ordered it has to know, if it is
    /// not.
    pub(super) async fn marked(&mut self) -> Option<String> {
        let writing = self.records.markers.writing.clone()?;
        let why = match timeout(MARKED, writing).await {
            Ok(why) => why?,
            Err(_late) => format!("it is not written within {MARKED:?}"),
        };
        Some(format!("it has no marker besides, only the store knows of it: {why}"))
    }

    /// The rollback that the migration is in, as a host that starts finds it on record.
    pub(super) async fn find_rollback(&mut self) {
        if self.state.phase != Phase::RolledBack {
            return;
        }
        let begins =
            |decision: &Decision| decision.to_phase == Phase::RolledBack && decision.from_phase != Phase::RolledBack;
        let found = self.parts.store.decisions(&self.parts.name, LATELY).await.unwrap_or_default();
        let unrecorded = self.records.unrecorded.back().map(|(decision, ..)| decision.clone());
        let decision = unrecorded.into_iter().chain(found).find(begins).unwrap_or_else(|| {
            let decided = Decided {
                kind: "rollback",
                reason: self.state.because.clone().unwrap_or_default(),
                findings: Vec::new(),
            };
            let was = State { phase: Phase::Ramping, ..self.state.clone() };
            Decision {
                at: self.state.since,
                from_phase: was.phase,
                ..self.decision(&self.state, decided, &Cause::host())
            }
        });
        let decision = Decision { inputs: None, ..decision };
        self.records.markers.rolled_back = Some(self.marker_of(decision, &self.state));
    }

    /// Keeps the marker of a rollback, or room for one: what is missing is made good, and told.
    pub(super) fn keep_marker(&mut self) {
        let (markers, migration) = (self.parts.markers.clone(), self.parts.name.clone());
        let rolled_back = self.records.markers.rolled_back.clone();
        let (last, notifier) = (Arc::clone(&self.records.markers.kept), self.parts.notifier.clone());
        self.parts.records.spawn_blocking(move || {
            let (folder, kept) = (markers.folder().to_string(), markers.keep(&migration, rolled_back.as_ref()));
            let now = Kept { is_tried: true, why_not: kept.as_ref().err().map(ToString::to_string) };
            let why_not = now.why_not.clone();
            let last = std::mem::replace(&mut *last.lock(), now);
            let (is_first, is_news) = (!last.is_tried, last.why_not != why_not);
            let told = match kept {
                Err(error) if is_news && rolled_back.is_some() => {
                    Some(format!("the rollback has no marker in `{folder}`, and only the store knows of it: {error}"))
                }
                Err(error) if is_news => Some(format!(
                    "a rollback would have no marker in `{folder}`, and only the store would know of it: {error}; see \
                     `host.rollback_markers`"
                )),
                Ok(Mended { folder: true, marker }) if !is_first => Some(format!(
                    "the folder `{folder}` of the markers was gone, and is made again{}",
                    if marker { ", with the marker of the rollback" } else { "" }
                )),
                Ok(Mended { marker: true, .. }) => {
                    Some(format!("the rollback had no marker in `{folder}`, and has one again"))
                }
                Ok(_) | Err(_) => None,
            };
            let Some(message) = told else { return };
            let (at, event) = (clock::unix_ms(), "rollback-marker".into());
            notifier.notify(Notice { at, migration, event, severity: "warning", message, findings: Vec::new() });
        });
    }

    fn remove_marker(&mut self) -> Marking {
        let (markers, migration) = (self.parts.markers.clone(), self.parts.name.clone());
        self.records.markers.rolled_back = None;
        let removing = self.parts.records.spawn_blocking(move || {
            let removed = markers.remove(&migration);
            drop(markers.reserve(&migration));
            let error = removed.err()?;
            tracing::error!(migration, %error, "the marker of the rollback is still there; the store says that it is over, and counts");
            Some(error.to_string())
        });
        removing.map(|done| done.unwrap_or_else(|error| Some(error.to_string()))).boxed().shared()
    }

    /// What goes on record.
    fn decision(&self, to: &State, decided: Decided, cause: &Cause) -> Decision {
        Decision {
            id: 0,
            migration: self.parts.name.clone(),
            at: self.course.decided_at,
            kind: decided.kind.into(),
            actor: cause.actor.clone(),
            reason: decided.reason,
            from_phase: self.state.phase,
            to_phase: to.phase,
            from_share: self.state.share,
            to_share: to.share,
            policy: cause.policy.clone(),
            digest: cause.digest.clone(),
            findings: decided.findings,
            inputs: cause.inputs.clone(),
        }
    }
}
