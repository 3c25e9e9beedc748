//! Keeps a pool whole: starts the workers that are missing, and asks those that are free how they are.

use std::{sync::Arc, time::Duration};

use super::Inner;
use crate::clock;

/// How often the pool looks whether it has workers that nobody needs.
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

    fn tend(&self) {
        let now = clock::mono();
        let idle = u64::try_from(self.spec.size.overflow_idle.as_nanos()).unwrap_or(u64::MAX);
        let before = clock::Mono::from_nanos(now.nanos().saturating_sub(idle));
        let surplus = self.checkout.lock().end_overflow(before, now);
        surplus.into_iter().for_each(|worker| self.end(worker));
    }
}

fn interval(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}
