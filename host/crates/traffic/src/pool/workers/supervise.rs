//! Keeps a pool whole: starts the workers that are missing, and asks those that are free how they are.

use std::{sync::Arc, time::Duration};

use super::Inner;

/// The time between two rounds of looking after the pool.
const TEND: Duration = Duration::from_secs(1);

impl Inner {
    /// Keeps every slot filled while the pool is open, until it is shut down.
    pub(super) async fn supervise(self: Arc<Self>) {
        let mut health = interval(self.spec.health.interval);
        let mut tend = interval(TEND);
        loop {
            let vacancies = self.checkout.lock().vacancies();
            for vacancy in vacancies {
                self.tasks.spawn(Arc::clone(&self).fill(vacancy));
            }
            tokio::select! {
                () = self.vacant.notified() => {}
                _ = health.tick() => self.check_health(),
                _ = tend.tick() => self.tend(),
                () = self.shutdown.cancelled() => return,
            }
        }
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
