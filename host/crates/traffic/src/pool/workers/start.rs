//! Starts a worker for a slot, warms it up, and stays with it until its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::Inner;
use crate::pool::{
    checkout::{Ended, Vacancy},
    process::{Exit, Worker},
    restarts::Death,
};
use cutover_model::{
    clock,
    request::{Answer, Failure, FailureKind},
};

/// A vacancy that is open again unless a worker was started for it.
struct Claim<'a> {
    pool: &'a Inner,
    slot: usize,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.pool.checkout.lock().leave(self.slot);
    }
}

impl Inner {
    /// Starts a worker for a vacancy when its time has come, and watches over it.
    pub(super) async fn fill(self: Arc<Self>, vacancy: Vacancy) {
        let closed = self.closed.notified();
        let filled = tokio::select! {
            filled = self.try_fill(vacancy) => filled,
            () = closed => None,
            () = self.shutdown.cancelled() => None,
        };
        self.vacant.notify_one();
        self.changed.notify_waiters();
        if let Some((number, exit)) = filled {
            self.watch(vacancy.slot, number, exit).await;
        }
    }

    /// None if there is no worker after all; the supervisor then sees whether there is still a vacancy.
    async fn try_fill(&self, vacancy: Vacancy) -> Option<(u64, Exit)> {
        let Vacancy { slot, death } = vacancy;
        let claim = Claim { pool: self, slot };
        if let Some(death) = death {
            self.back_off(slot, death).await;
        }
        let _starting = self.starting.acquire().await.ok()?;
        let number = self.checkout.lock().begin(slot, clock::mono())?;
        drop(claim);
        let attempt = Attempt { pool: self, slot, number, done: false };
        match self.start(slot).await {
            Ok(worker) => Some(attempt.succeed(worker)),
            Err(failure) => {
                attempt.fail(failure);
                None
            }
        }
    }

    /// Waits for the time of the next worker; anew when the pool is left alone, because then the time is sooner.
    async fn back_off(&self, slot: usize, death: Death) {
        loop {
            let left_alone = self.left_alone.notified();
            let planned = self.restarts.lock().plan(death, self.backing(), self.chance(), clock::mono());
            if planned.spent {
                self.say_spent(slot, planned.wait);
            }
            tokio::select! {
                () = tokio::time::sleep(planned.wait) => return,
                () = left_alone => self.restarts.lock().take_back(planned),
            }
        }
    }

    fn say_spent(&self, slot: usize, wait: Duration) {
        let (pool, budget, each) = (&self.spec.label, self.spec.restarts, self.longest_backoff());
        tracing::error!(
            pool,
            slot,
            ?wait,
            "{} restarts within {:?} are spent; from now on one attempt each {each:?}",
            budget.count,
            budget.within,
        );
    }

    /// Starts a process and has it answer its first health check and its warm-up calls.
    async fn start(&self, slot: usize) -> Result<Worker, Failure> {
        let label = format!("{}#{slot}", self.spec.label);
        let mut worker = Worker::start(&self.spawner, &self.spec.command, &label, &self.tasks).await?;
        let limit = self.spec.warm_up.timeout;
        let deadline = clock::mono() + limit;
        for (operation, arguments) in &self.spec.warm_up.calls {
            let failed = |what: String| {
                let message = format!("worker {label}: its warm-up call `{operation}` {what}");
                Failure::unsent(FailureKind::Initialization, message)
            };
            match worker.call(operation, arguments, None, deadline).await {
                Ok(Answer::Success(_)) => {}
                Ok(Answer::Refused(error)) => return Err(failed(format!("was refused: {error}"))),
                Err(failure) if failure.kind == FailureKind::Timeout => {
                    return Err(failed(format!("was not answered within {limit:?}")));
                }
                Err(failure) => return Err(failed(format!("failed: {}", failure.message))),
            }
        }
        Ok(worker)
    }

    /// Waits for the end of a worker's process, so that a worker without a call is replaced at once, too.
    async fn watch(&self, slot: usize, number: u64, mut exit: Exit) {
        let how = exit.wait().await;
        if let Some(pid) = self.pids.lock().get_mut(slot) {
            *pid = None;
        }
        let (ended, open) = {
            let mut checkout = self.checkout.lock();
            (checkout.gone(slot, number, &how, clock::mono()), checkout.is_open())
        };
        if ended == Ended::ByItself && open {
            self.failures.fetch_add(1, Ordering::AcqRel);
            tracing::error!(pool = self.spec.label, slot, "a worker ended by itself: {how}");
        }
        self.vacant.notify_one();
        self.changed.notify_waiters();
    }
}

/// A start that counts as failed unless it is said that it did not, also when the task that started it is gone.
struct Attempt<'a> {
    pool: &'a Inner,
    slot: usize,
    number: u64,
    done: bool,
}

impl Attempt<'_> {
    fn succeed(mut self, worker: Worker) -> (u64, Exit) {
        self.done = true;
        let (pid, exit) = (worker.pid(), worker.exit());
        if let Some(known) = self.pool.pids.lock().get_mut(self.slot) {
            *known = Some(pid);
        }
        let surplus = self.pool.checkout.lock().started(self.slot, self.number, worker, clock::mono());
        if let Some(worker) = surplus {
            self.pool.end(worker);
        }
        (self.number, exit)
    }

    fn fail(mut self, failure: Failure) {
        self.done = true;
        tracing::error!(pool = self.pool.spec.label, "{}", failure.message);
        self.pool.failures.fetch_add(1, Ordering::AcqRel);
        self.pool.checkout.lock().not_started(self.slot, self.number, &failure.message, clock::mono());
        *self.pool.last_failure.lock() = Some(failure.message);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut checkout = self.pool.checkout.lock();
            checkout.not_started(self.slot, self.number, "its start was called off", clock::mono());
        }
    }
}
