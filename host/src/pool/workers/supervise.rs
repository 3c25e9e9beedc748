//! Keeps a pool whole: starts workers, backs off when they fail, replaces those that fail their health checks.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::Map;

use super::{Call, HEALTH_CHECK, Inner, MAX_BACKOFF, PROVEN};
use crate::{
    clock::{self, Mono},
    pool::process::Worker,
    request::Answer,
};

impl Inner {
    /// Keeps every slot filled while the pool is open, and asks idle workers how they are.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut health = tokio::time::interval(self.spec.health_interval);
        health.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let changed = self.changed.notified();
            if self.shutdown.is_cancelled() {
                return;
            }
            let down = {
                let mut checkout = self.checkout.lock();
                if checkout.is_open() { checkout.take_down() } else { Vec::new() }
            };
            for slot in down {
                self.tasks.spawn(Arc::clone(&self).fill(slot));
            }
            tokio::select! {
                () = changed => {}
                _ = health.tick() => self.check_idle(),
                () = self.shutdown.cancelled() => return,
            }
        }
    }

    /// Starts a worker for a slot, backing off after failures; gives up when the pool is closed.
    async fn fill(self: Arc<Self>, slot: usize) {
        loop {
            let wait = self.backoff(slot);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.shutdown.cancelled() => return,
            }
            let label = format!("{}#{slot}", self.spec.label);
            let started = Worker::start(&self.spawner, &self.spec.command, &label, &self.tasks).await;
            let mut checkout = self.checkout.lock();
            if !checkout.is_open() {
                checkout.hand_in(slot, None);
                return;
            }
            match started {
                Ok(worker) => {
                    if let Some(starts) = self.starts.lock().get_mut(slot) {
                        starts.pid = worker.pid();
                        starts.started = clock::mono();
                        starts.unhealthy = 0;
                    }
                    checkout.fill(slot, worker);
                    drop(checkout);
                    self.changed.notify_waiters();
                    return;
                }
                Err(failure) => {
                    drop(checkout);
                    tracing::error!(pool = self.spec.label, "{}", failure.message);
                    self.failures.fetch_add(1, Ordering::AcqRel);
                    *self.last_failure.lock() = Some(failure.message);
                }
            }
        }
    }

    /// Nothing for the first start and after a proven worker; then 100 ms doubling up to [`MAX_BACKOFF`].
    fn backoff(&self, slot: usize) -> Duration {
        let mut all = self.starts.lock();
        let Some(starts) = all.get_mut(slot) else { return Duration::ZERO };
        if starts.started > Mono::default() && clock::mono().since(starts.started) >= PROVEN {
            starts.attempts = 0;
        }
        starts.started = Mono::default();
        starts.attempts += 1;
        match starts.attempts.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_millis(100 << doublings.min(16)).min(MAX_BACKOFF),
        }
    }

    fn check_idle(self: &Arc<Self>) {
        for slot in self.checkout.lock().idle_slots() {
            self.tasks.spawn(Arc::clone(self).check_health(slot));
        }
    }

    async fn check_health(self: Arc<Self>, slot: usize) {
        let deadline = clock::mono() + self.spec.command.start_timeout;
        // A worker that became busy meanwhile proves itself by its call.
        let Ok(mut lease) = self.lease_slot(Some(slot), deadline).await else { return };
        let nothing = Map::new();
        let call = Call { operation: HEALTH_CHECK, arguments: &nothing, session: None, deadline };
        let healthy = matches!(lease.call(call).await, Ok(Answer::Success(_)));
        let unhealthy = {
            let mut all = self.starts.lock();
            let Some(starts) = all.get_mut(slot) else { return };
            starts.unhealthy = if healthy { 0 } else { starts.unhealthy + 1 };
            starts.unhealthy
        };
        if unhealthy >= self.spec.health_failures {
            tracing::error!(pool = self.spec.label, slot, "replacing a worker after {unhealthy} failed health checks");
            lease.broken = true;
        }
    }
}
