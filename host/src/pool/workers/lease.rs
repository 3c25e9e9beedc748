//! A worker on loan: waiting for it, bringing it up to date, calling it, and giving it back whatever happens.

use std::sync::Arc;

use tokio::{sync::oneshot, time::timeout_at};

use super::{Affinity, Call, HEALTH_CHECK, Inner, MAX_AFFINITIES};
use crate::{
    clock::Mono,
    policy::{port::Kind, slot::Charge},
    pool::{
        adapt::Translation,
        checkout::{Lent, Refusal},
        process::Worker,
    },
    request::{Answer, Failure, FailureKind, PoolId},
};

/// A worker on loan; dropping it in the middle of a call gives up the worker, otherwise hands it back.
pub(super) struct Lease {
    pool: Arc<Inner>,
    slot: usize,
    generation: u64,
    worker: Option<Worker>,
    /// Whether the worker may be in the middle of a frame, or must go for another reason.
    pub(super) broken: bool,
}

impl Inner {
    pub(super) async fn lease(self: &Arc<Self>, session: Option<&Arc<str>>, deadline: Mono) -> Result<Lease, Failure> {
        let slot = session.map(|s| self.home(s));
        self.lease_slot(slot, deadline).await
    }

    pub(super) async fn lease_slot(self: &Arc<Self>, slot: Option<usize>, deadline: Mono) -> Result<Lease, Failure> {
        let label = &self.spec.label;
        let waiting = self.checkout.lock().acquire(slot).map_err(|refusal| match refusal {
            Refusal::Closed => Failure::unsent(FailureKind::System, format!("{label} is closed")),
            Refusal::Full => Failure::unsent(FailureKind::Resource, format!("{label} is full; try again later")),
        })?;
        // If the caller gives up at the moment that a worker is handed over, the receiver still holds it.
        let mut waiting = Waiting { pool: Arc::clone(self), receiver: Some(waiting) };
        let Some(receiver) = &mut waiting.receiver else { return Err(closed(label)) };
        match timeout_at(deadline.timer(), receiver).await {
            Ok(Ok(lent)) => {
                waiting.receiver = None;
                Ok(self.lend(lent))
            }
            Ok(Err(_turned_away)) => Err(closed(label)),
            Err(_elapsed) => {
                Err(Failure::unsent(FailureKind::Timeout, format!("no worker of {label} became free in time")))
            }
        }
    }

    fn lend(self: &Arc<Self>, lent: Lent<Worker>) -> Lease {
        let Lent { slot, generation, worker } = lent;
        Lease { pool: Arc::clone(self), slot, generation, worker: Some(worker), broken: false }
    }

    /// The slot of a session; a new session gets one.
    fn home(&self, session: &Arc<str>) -> usize {
        if let Some(known) = self.affinities.get(session) {
            return known.slot;
        }
        let slot = self.checkout.lock().assign();
        if self.affinities.len() < MAX_AFFINITIES {
            self.affinities.insert(Arc::clone(session), Affinity { slot, generation: 0, applied: 0 });
        }
        slot
    }
}

impl Lease {
    /// Replays what the session's worker does not know yet.
    pub(super) async fn catch_up(&mut self, call: Call<'_>) -> Result<(), Failure> {
        let session = call.session.map_or("", |s| s);
        let (pending, version) = self.pool.journal.pending(session, self.known(call.session));
        for entry in pending {
            let replayed = Call { operation: &entry.operation, arguments: &entry.arguments, ..call };
            match self.call(replayed).await {
                // A refusal (what is to be deleted was never here) is as good as success; an error of the program is
                // for the call itself to meet.
                Ok(Answer::Success(_) | Answer::Refused(_)) => {}
                // What the adapter did not translate never reached the worker: it has not learned it.
                Err(failure) if failure.kind == FailureKind::Worker && failure.sent => {
                    tracing::warn!(pool = self.pool.spec.label, operation = &*entry.operation, "replay: {failure}");
                }
                Err(failure) => return Err(Failure { sent: false, ..failure }),
            }
        }
        self.learned(call.session, version);
        Ok(())
    }

    /// The version of the session's state that this worker has.
    fn known(&self, session: Option<&Arc<str>>) -> u64 {
        let Some(session) = session else {
            let shared = self.pool.shared.lock().get(self.slot).copied();
            return shared.filter(|(generation, _)| *generation == self.generation).map_or(0, |(_, applied)| applied);
        };
        let known = self.pool.affinities.get(session).map(|a| *a);
        known.filter(|a| (a.slot, a.generation) == (self.slot, self.generation)).map_or(0, |a| a.applied)
    }

    fn learned(&self, session: Option<&Arc<str>>, version: u64) {
        let Some(session) = session else {
            if let Some(shared) = self.pool.shared.lock().get_mut(self.slot) {
                *shared = (self.generation, version);
            }
            return;
        };
        if let Some(mut affinity) = self.pool.affinities.get_mut(session) {
            *affinity = Affinity { slot: self.slot, generation: self.generation, applied: version };
        }
    }

    /// Calls the worker, in its version's shape.
    pub(super) async fn call(&mut self, call: Call<'_>) -> Result<Answer, Failure> {
        let needs_adapter = self.pool.spec.id == PoolId::V2 && call.operation != HEALTH_CHECK;
        let charge = needs_adapter.then(|| self.pool.trials.slots().get(Kind::Adapter).charge());
        let adapter = match charge {
            None | Some(Charge::Vacant) => return self.exchange(call).await,
            Some(Charge::Active(policy)) => policy,
            Some(Charge::Held) => {
                let message = "nobody is in charge of translating calls to V2: the adapter failed too often";
                return Err(Failure::unsent(FailureKind::Worker, message));
            }
        };
        let trials = self.pool.trials.clone();
        let there = Translation::of(adapter, trials, call.operation, call.arguments, call.session).await?;
        let translated = Call { operation: &there.operation, arguments: &there.arguments, ..call };
        let answer = self.exchange(translated).await;
        there.back(answer).await
    }

    async fn exchange(&mut self, call: Call<'_>) -> Result<Answer, Failure> {
        let Some(worker) = &mut self.worker else { return Err(closed(&self.pool.spec.label)) };
        // If this future is dropped half-way, the worker is in the middle of a frame.
        self.broken = true;
        let session = call.session.map(|s| &**s);
        let answer = worker.call(call.operation, call.arguments, session, call.deadline).await;
        self.broken = match &answer {
            Ok(_) => false,
            Err(failure) => failure.sent && failure.kind != FailureKind::Worker,
        };
        answer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let worker = self.worker.take().filter(|_| !self.broken);
        self.pool.hand_in(self.slot, worker);
    }
}

/// A call that waits; if it is dropped after a worker was handed to it, the worker goes back.
struct Waiting {
    pool: Arc<Inner>,
    receiver: Option<oneshot::Receiver<Lent<Worker>>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.close();
        if let Ok(lent) = receiver.try_recv() {
            drop(self.pool.lend(lent));
        }
    }
}

fn closed(label: &str) -> Failure {
    Failure::unsent(FailureKind::System, format!("{label} is closed"))
}
