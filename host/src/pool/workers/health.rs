//! Asks workers that are free how they are.

use std::sync::{Arc, atomic::Ordering};

use serde_json::Map;

use super::{HEALTH_CHECK, Inner};
use crate::{
    clock,
    pool::{
        checkout::{Health, Left, Lent},
        process::Worker,
    },
    request::{Answer, FailureKind},
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

    async fn examine(self: Arc<Self>, slot: usize) {
        let lent = self.checkout.lock().examine(slot);
        let Some(Lent { slot, number, mut worker }) = lent else { return };
        let shown = tokio::select! {
            shown = self.ask(&mut worker) => shown,
            () = self.shutdown.cancelled() => Shown::Broken("the pool was shut down".into()),
        };
        let (health, why) = match shown {
            Shown::Answered(health, why) => (health, why),
            Shown::Broken(why) => {
                self.give_up_worker(slot, number, Some(worker), why);
                return;
            }
        };
        if health == Health::Bad {
            tracing::warn!(pool = self.spec.label, slot, "a worker failed its health check: {why}");
        }
        let limit = self.spec.health.failures;
        let left = {
            let mut checkout = self.checkout.lock();
            checkout.examined(Lent { slot, number, worker }, health, why, limit, clock::mono())
        };
        match left {
            Left::Nothing => {}
            Left::Surplus(worker) => self.end(worker),
            Left::Sick(worker) => {
                tracing::error!(pool = self.spec.label, slot, "replacing a worker after {limit} failed health checks");
                self.failures.fetch_add(1, Ordering::AcqRel);
                drop(worker);
            }
        }
        self.changed.notify_waiters();
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
