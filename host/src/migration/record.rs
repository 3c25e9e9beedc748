//! Puts decisions on record, before they are acted on.
//!
//! One that takes something from V2 is acted on all the same where its record fails: leaving users on a V2 that was found
//! worse is the greater harm. It waits here then, and is recorded as soon as it can be, in order, before anything else; so
//! nothing that gives V2 more is decided before the store knows of it. Until then it has a marker besides
//! ([`Markers`](crate::store::markers::Markers)), and a rollback has for as long as the migration is rolled back.

use std::{collections::VecDeque, time::Duration};

use tokio::{task::JoinHandle, time::timeout};

use super::{
    controller::Controller,
    effects::Cause,
    state::{Decided, State},
};
use crate::{
    causes::chain,
    policy::port::Phase,
    store::{StoreError, markers::Marker, records::Decision},
};

/// How long a decision that takes something from V2 waits for its record, and then for its marker.
const PATIENCE: Duration = Duration::from_secs(1);

/// Decisions that may wait for their record: more than stages that a ramp can retreat through.
const MOST: usize = 256;

/// Decisions that were acted on and are not on record yet, oldest first, each with the state that it led to and the number of
/// the stage that began with it, if one did.
pub(super) type Unrecorded = VecDeque<(Decision, State, Option<i64>)>;

impl Controller {
    /// Persists a decision. `begins` is the number of the stage that begins with it, if one does.
    pub(super) async fn decide(
        &mut self,
        next: &State,
        decided: Decided,
        cause: &Cause,
        begins: Option<i64>,
    ) -> Result<Decision, String> {
        // For people, and so that they can read them in order: never before the one before.
        self.decided_at = self.decided_at.max(self.parts.clock.wall());
        let mut decision = self.decision(next, decided, cause);
        let lowers = next.phase == Phase::RolledBack || next.share < self.state.share;
        let recorded = if lowers {
            let recorded = timeout(PATIENCE, self.put_on_record(&decision, next, begins)).await;
            recorded.unwrap_or(Err(StoreError::Late { limit: PATIENCE }))
        } else {
            self.put_on_record(&decision, next, begins).await
        };
        self.recording.heard(recorded.as_ref().map(|_id| ()));
        match recorded {
            Ok(id) => decision.id = id,
            Err(error) if lowers => self.put_off((decision.clone(), next.clone(), begins), &chain(&error)),
            Err(error) => {
                let why = format!("nothing was changed, because it could not be recorded: {}", chain(&error));
                tracing::error!(migration = self.parts.name, "{why}");
                return Err(why);
            }
        }
        self.decisions += 1;
        self.mark(&decision, next).await;
        Ok(decision)
    }

    /// Records what is not on record yet, in its order.
    ///
    /// # Errors
    /// When something is left.
    pub(super) async fn catch_up(&mut self) -> Result<(), StoreError> {
        let behind = self.unrecorded.len();
        while let Some((decision, state, begins)) = self.unrecorded.front() {
            // The store may have recorded it after it was given up.
            if !self.parts.store.has_decided(decision).await? {
                self.last_decision = self.parts.store.decide(decision, state, *begins).await?;
            }
            self.unrecorded.pop_front();
        }
        if behind > 0 && self.state.phase != Phase::RolledBack {
            drop(self.remove_marker());
        }
        if behind > 0 {
            self.recording.heard::<StoreError>(Ok(()));
            let message = format!("{behind} decision(s) that the store did not take are on record now");
            self.notice("recorded", "info", message, Vec::new());
        }
        Ok(())
    }

    /// [`Self::catch_up`], without waiting for long: it is tried again.
    pub(super) async fn try_to_catch_up(&mut self) {
        if self.unrecorded.is_empty() {
            return;
        }
        if let Ok(Err(error)) = timeout(PATIENCE, self.catch_up()).await {
            tracing::debug!(migration = self.parts.name, "still not on record: {}", chain(&error));
        }
    }

    async fn put_on_record(
        &mut self,
        decision: &Decision,
        next: &State,
        begins: Option<i64>,
    ) -> Result<i64, StoreError> {
        self.catch_up().await?;
        let id = self.parts.store.decide(decision, next, begins).await?;
        self.last_decision = id;
        Ok(id)
    }

    fn put_off(&mut self, this: (Decision, State, Option<i64>), why: &str) {
        let kind = &this.0.kind;
        let message = format!("the {kind} is not on record yet, and nothing gives V2 more before it is: {why}");
        if self.unrecorded.len() >= MOST {
            self.unrecorded.pop_front();
        }
        self.unrecorded.push_back(this);
        self.notice("not-recorded", "critical", message, Vec::new());
    }

    /// Writes the marker of a rollback, and of whatever the store does not know of, which waits for that; removes it when a
    /// person begins again.
    async fn mark(&self, decision: &Decision, next: &State) {
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

    fn write_marker(&self, decision: &Decision, next: &State) -> JoinHandle<()> {
        // Without the check that it rests on, which may be large: the disk may have little room left.
        let decision = Decision { inputs: None, ..decision.clone() };
        let marker = Marker { after: self.last_decision, decision, state: next.clone() };
        let (markers, recorded) = (self.parts.markers.clone(), marker.decision.id != 0);
        self.parts.records.spawn_blocking(move || {
            let Err(error) = markers.write(&marker) else { return };
            let migration = &marker.decision.migration;
            if recorded {
                tracing::error!(migration, %error, "the rollback has no marker; only the store knows of it");
            } else {
                tracing::error!(migration, %error, "the rollback is neither on record nor has it a marker: a restart would undo it");
            }
        })
    }

    /// Keeps room for a marker while the migration is not rolled back.
    pub(super) fn reserve_marker(&self) {
        let (markers, migration) = (self.parts.markers.clone(), self.parts.name.clone());
        if self.state.phase == Phase::RolledBack {
            return;
        }
        self.parts.records.spawn_blocking(move || {
            if let Err(error) = markers.reserve(&migration) {
                tracing::warn!(migration, %error, "a rollback would have no marker, and only the store would know of it; see `host.rollback_markers`");
            }
        });
    }

    fn remove_marker(&self) -> JoinHandle<()> {
        let (markers, migration) = (self.parts.markers.clone(), self.parts.name.clone());
        self.parts.records.spawn_blocking(move || {
            let removed = markers.remove(&migration);
            drop(markers.reserve(&migration));
            if let Err(error) = removed {
                tracing::error!(migration, %error, "the marker of the rollback is still there; the store says that it is over, and counts");
            }
        })
    }

    /// What goes on record.
    fn decision(&self, to: &State, decided: Decided, cause: &Cause) -> Decision {
        Decision {
            id: 0,
            migration: self.parts.name.clone(),
            at: self.decided_at,
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
