//! A worker on loan: waiting for it, bringing it up to date, calling it, and giving it back whatever happens.

use std::sync::Arc;

use tokio::{sync::oneshot, time::timeout_at};

use super::{Call, HEALTH_CHECK, Inner};
use crate::pool::{
    adapt::Translation,
    breaker::Backing,
    checkout::{Broken, Lent, Pending, Refusal, Turn},
    process::Worker,
};
use cutover_model::{
    clock::{self, Mono},
    port::Kind,
    request::{Answer, Failure, FailureKind, PoolId},
};
use cutover_policy_host::slot::Charge;

/// A worker on loan; dropping it in the middle of a call gives up the worker, otherwise hands it back.
pub(super) struct Lease {
    pool: Arc<Inner>,
    slot: usize,
    number: u64,
    worker: Option<Worker>,
    /// Why the worker may be in the middle of a frame, if it may.
    broken: Option<Broken>,
}

/// The part of a call's time that is kept for the worker: a call that has waited for longer is not begun. It would hardly be
/// answered in time, and its worker would have to be replaced for nothing.
const KEPT: u32 = 10;

impl Inner {
    pub(super) async fn lease(self: &Arc<Self>, session: Option<&Arc<str>>, deadline: Mono) -> Result<Lease, Failure> {
        let label = &self.spec.label;
        let now = clock::mono();
        let turn = self.checkout.lock().acquire(session, now);
        let Pending { ticket, worker } = match turn {
            Ok(Turn::Now(lent)) => return Ok(self.lend(lent)),
            Ok(Turn::Later(pending)) => pending,
            Err(Refusal::Closed) => return Err(closed(label)),
            Err(Refusal::Full) => {
                return Err(Failure::unsent(FailureKind::Resource, format!("{label} is full; try again later")));
            }
        };
        // If the caller gives up at the moment that a worker is handed over, the receiver still holds it.
        let mut waiting = Waiting { pool: Arc::clone(self), ticket, receiver: Some(worker) };
        let (needs_start, hope) = {
            let checkout = self.checkout.lock();
            (checkout.needs_start(), checkout.ready() > 0 || checkout.is_starting())
        };
        if needs_start {
            self.vacant.notify_one();
        }
        // Nothing but an attempt each half minute is to be expected, and another pool answers at once.
        if !hope && self.backing() == Backing::Other && self.restarts.lock().is_spent(now) {
            let why = self.last_failure.lock().clone().unwrap_or_else(|| "they died too often".into());
            let message = format!("{label} has no worker that runs, and has spent its restarts: {why}");
            return Err(Failure::unsent(FailureKind::Initialization, message));
        }
        let begun_by = now + deadline.since(now) * (KEPT - 1) / KEPT;
        let patience = self.spec.queue.timeout.map_or(begun_by, |most| begun_by.min(now + most));
        let Some(receiver) = &mut waiting.receiver else { return Err(closed(label)) };
        match timeout_at(patience.timer(), receiver).await {
            Ok(Ok(lent)) => {
                waiting.receiver = None;
                Ok(self.lend(lent))
            }
            Ok(Err(_turned_away)) => Err(closed(label)),
            Err(_elapsed) if patience < begun_by => {
                let message = format!("no worker of {label} became free within {:?}", self.spec.queue.timeout);
                Err(Failure::unsent(FailureKind::Resource, message))
            }
            Err(_elapsed) => {
                Err(Failure::unsent(FailureKind::Timeout, format!("no worker of {label} became free in time")))
            }
        }
    }

    fn lend(self: &Arc<Self>, lent: Lent<Worker>) -> Lease {
        let Lent { slot, number, worker } = lent;
        Lease { pool: Arc::clone(self), slot, number, worker: Some(worker), broken: None }
    }
}

impl Lease {
    /// Replays what the session's worker does not know yet.
    pub(super) async fn catch_up(&mut self, call: Call<'_>) -> Result<(), Failure> {
        let session = call.session.map_or("", |s| s);
        let known = self.pool.checkout.lock().known(call.session, self.slot, self.number);
        let (pending, version) = self.pool.journal.pending(session, known);
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
                Err(failure) => {
                    let kind = match failure.kind {
                        FailureKind::Connection | FailureKind::Communication => FailureKind::Session,
                        FailureKind::Initialization
                        | FailureKind::Timeout
                        | FailureKind::Resource
                        | FailureKind::HealthCheck
                        | FailureKind::Session
                        | FailureKind::Worker
                        | FailureKind::System => failure.kind,
                    };
                    return Err(Failure { sent: false, kind, ..failure });
                }
            }
        }
        self.pool.checkout.lock().learned(call.session, self.slot, self.number, version);
        Ok(())
    }

    /// Calls the worker, in its version's shape.
    pub(super) async fn call(&mut self, call: Call<'_>) -> Result<Answer, Failure> {
        let needs_adapter = self.pool.spec.id == PoolId::V2 && call.operation != HEALTH_CHECK;
        let charge = needs_adapter.then(|| self.pool.evaluations.slots().get(Kind::Adapter).charge());
        let adapter = match charge {
            None | Some(Charge::Vacant) => return self.exchange(call).await,
            Some(Charge::Active(policy)) => policy,
            Some(Charge::Held) => {
                let message = "nobody is in charge of translating calls to V2: the adapter failed too often";
                return Err(Failure::unsent(FailureKind::Worker, message));
            }
        };
        let evaluations = self.pool.evaluations.clone();
        let name = self.pool.spec.names.get(call.operation).map_or(call.operation, |name| name);
        let called = (call.operation, name);
        let there = Translation::of(adapter, evaluations, called, call.arguments, call.session).await?;
        let translated = Call { operation: &there.operation, arguments: &there.arguments, ..call };
        let answer = self.exchange(translated).await;
        there.back(answer).await
    }

    async fn exchange(&mut self, call: Call<'_>) -> Result<Answer, Failure> {
        let Some(worker) = &mut self.worker else { return Err(closed(&self.pool.spec.label)) };
        // If this future is dropped half-way, the worker is in the middle of a frame.
        self.broken = Some(Broken::Failed("its caller went away in the middle of a call".into()));
        let session = call.session.map(|s| &**s);
        let answer = worker.call(call.operation, call.arguments, session, call.deadline).await;
        self.broken = match &answer {
            Err(failure) if failure.kind == FailureKind::Timeout => {
                let why = format!("`{}`: {}", call.operation, failure.message);
                Some(Broken::Overdue(why))
            }
            Err(failure) if failure.sent && failure.kind != FailureKind::Worker => {
                Some(Broken::Failed(failure.message.clone()))
            }
            Ok(_) | Err(_) => None,
        };
        answer
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match (self.worker.take(), self.broken.take()) {
            (Some(worker), None) => self.pool.hand_in(self.slot, self.number, worker),
            (worker, why) => {
                let why = why.unwrap_or_else(|| Broken::Failed(String::new()));
                self.pool.give_up_worker(self.slot, self.number, worker, why);
            }
        }
    }
}

/// A call that waits; if it is dropped after a worker was handed to it, the worker goes back.
struct Waiting {
    pool: Arc<Inner>,
    ticket: u64,
    receiver: Option<oneshot::Receiver<Lent<Worker>>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(mut receiver) = self.receiver.take() else { return };
        receiver.close();
        self.pool.checkout.lock().give_up(self.ticket);
        if let Ok(lent) = receiver.try_recv() {
            drop(self.pool.lend(lent));
        }
    }
}

fn closed(label: &str) -> Failure {
    Failure::unsent(FailureKind::System, format!("{label} is closed"))
}
