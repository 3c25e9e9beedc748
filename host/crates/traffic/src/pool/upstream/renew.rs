//! Members that are replaced by others: what was known of the old ones does not count for the new ones.

use std::{sync::atomic::Ordering, time::Duration};

use super::UpstreamPool;
use cutover_model::{
    clock::{self, Mono},
    request::{Failure, FailureKind},
};

/// How long after a failed attempt a member that was replaced is tried again.
const REACH_AGAIN: Duration = Duration::from_millis(200);

impl UpstreamPool {
    /// Its members were replaced by others: nothing that is known of them counts any more.
    pub fn forget(&self) {
        self.0.replaced.fetch_add(1, Ordering::AcqRel);
        let is_checked = self.0.spec.health.is_some();
        self.0.members.iter().for_each(|member| member.forget(is_checked));
        self.0.renewed.notify_waiters();
    }

    /// Waits until a member is there: by its checks, or, where there are none, by a connection that is made now.
    ///
    /// # Errors
    /// What keeps the members from being reached.
    pub async fn reached_by(&self, deadline: Mono) -> Result<(), Failure> {
        if self.0.spec.health.is_some() {
            return self.ready_by(deadline).await;
        }
        loop {
            let mut why = format!("{}: it is closed", self.0.spec.label);
            for member in self.0.members.iter().filter(|_| self.is_open()) {
                match self.0.connect(member, None).await {
                    Ok(_) => {
                        member.reach.meet(clock::mono());
                        return Ok(());
                    }
                    Err(failure) => why = failure.message,
                }
            }
            let next = clock::mono() + REACH_AGAIN;
            if !self.is_open() || deadline <= next {
                return Err(Failure::unsent(FailureKind::Initialization, why));
            }
            tokio::time::sleep_until(next.timer()).await;
        }
    }
}
