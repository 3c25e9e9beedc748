//! Asks workers that are free how they are.

use std::sync::{Arc, atomic::Ordering};

use serde_json::Map;

use super::{HEALTH_CHECK, Inner};
use crate::pool::{
    checkout::{Broken, Health, Left, Lent},
    process::Worker,
    recovery::{Attempt, Next},
};
use cutover_model::{
    clock,
    request::{Answer, Class, FailureKind},
};

/// What asking a worker has shown.
enum Shown {
    /// It answered, well or not.
    Answered(Health, String),
    /// It may be in the middle of a frame.
    Broken(String),
}

impl Inner {
    /// Asks all workers that are free. Those that are busy prove themselves by their calls.
    pub(super) fn check_health(self: &Arc<Self>) {
        let free = self.checkout.lock().free_slots();
        for slot in free {
            self.tasks.spawn(Arc::clone(self).examine(slot));
        }
    }

    /// Asks a worker, and if it does not say that it is well, again as the table of errors says. All that is one check.
    async fn examine(self: Arc<Self>, slot: usize) {
        let mut number = 1;
        loop {
            let lent = self.checkout.lock().examine(slot);
            let Some(lent) = lent else { return };
            if self.examine_once(lent, number).await != Some(Health::Bad) {
                return;
            }
            let attempt = Attempt {
                kind: FailureKind::HealthCheck,
                number,
                class: Class::Read,
                sent: true,
                left: self.spec.health.interval / 2,
                elsewhere: false,
            };
            let Next::Retry { after } = self.spec.recovery.next(attempt) else { return };
            tokio::select! {
                () = tokio::time::sleep(after) => number += 1,
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// None if the worker had to go.
    async fn examine_once(&self, lent: Lent<Worker>, number: u32) -> Option<Health> {
        let Lent { slot, number: worker_number, mut worker } = lent;
        let shown = tokio::select! {
            shown = self.ask(&mut worker) => shown,
            () = self.shutdown.cancelled() => Shown::Broken("the pool was shut down".into()),
        };
        let (health, why) = match shown {
            Shown::Answered(health, why) => (health, why),
            Shown::Broken(why) => {
                self.give_up_worker(slot, worker_number, Some(worker), Broken::Failed(why));
                return None;
            }
        };
        if health == Health::Bad {
            tracing::debug!(pool = self.spec.label, slot, number, "a worker failed its health check: {why}");
        }
        let (limit, lent) = (self.spec.health.failures, Lent { slot, number: worker_number, worker });
        // Only the first answer of a check counts against a worker; a good one later makes up for it.
        let told = if health == Health::Bad && number > 1 { Health::Unchanged } else { health };
        let outcome = self.checkout.lock().examined(lent, told, why, limit, clock::mono());
        self.changed.notify_waiters();
        match outcome {
            Left::Nothing => return Some(health),
            Left::Surplus(worker) => self.end(worker),
            Left::Sick(worker) => {
                tracing::error!(pool = self.spec.label, slot, "replacing a worker after {limit} failed health checks");
                self.failures.fetch_add(1, Ordering::AcqRel);
                drop(worker);
            }
        }
        None
    }

    async fn ask(&self, worker: &mut Worker) -> Shown {
        let deadline = clock::mono() + self.spec.health.timeout;
        match worker.call(HEALTH_CHECK, &Map::new(), None, deadline).await {
            Ok(Answer::Success(_)) => Shown::Answered(Health::Good, String::new()),
            Ok(Answer::Refused(error)) => Shown::Answered(Health::Bad, format!("refuses its health check: {error}")),
            Err(failure) if failure.kind == FailureKind::Worker => Shown::Answered(Health::Bad, failure.message),
            Err(failure) => Shown::Broken(format!("health check: {}", failure.message)),
        }
    }
}
