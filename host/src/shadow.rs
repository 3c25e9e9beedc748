//! Mirrors reads to V2 after V1 has answered, inside a budget, and hands both answers in for comparison.
//!
//! **Invariant**: nothing here can delay or change what the caller gets. When the budget is spent a mirrored call is
//! left out and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    clock,
    compare::Comparer,
    observe::{Observation, Outcome, Recorder},
    policy::port::{Pair, Side},
    pool::{Call, WorkerPool},
    request::{Answer, Class, Failure, PoolId, Request},
};

/// Mirrors the reads of one migration.
#[derive(Debug)]
pub struct Mirror {
    v2: WorkerPool,
    recorder: Arc<Recorder>,
    comparer: Comparer,
    budget: Arc<Semaphore>,
    timeout: Duration,
    left_out: AtomicU64,
    tasks: TaskTracker,
}

impl Mirror {
    /// At most `budget` mirrored calls are under way at once, each for at most `timeout`. They run in `tasks`.
    pub fn new(
        v2: WorkerPool,
        recorder: Arc<Recorder>,
        comparer: Comparer,
        budget: usize,
        timeout: Duration,
        tasks: TaskTracker,
    ) -> Self {
        let budget = Arc::new(Semaphore::new(budget));
        Self { v2, recorder, comparer, budget, timeout, left_out: AtomicU64::new(0), tasks }
    }

    /// Mirrors a read that V1 answered. Returns at once.
    pub fn mirror(self: &Arc<Self>, request: Request, v1: &Result<Answer, Failure>) {
        let (Ok(permit), Some(v1)) = (Arc::clone(&self.budget).try_acquire_owned(), side(v1)) else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            this.call(&request, v1).await;
            drop(permit);
        });
    }

    /// Mirrored calls that were left out because the budget was spent or V1 itself had failed.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    async fn call(&self, request: &Request, v1: Side) {
        let started = clock::mono();
        let answer = self
            .v2
            .call(Call {
                operation: &request.operation,
                arguments: &request.arguments,
                session: request.session.as_ref(),
                deadline: started + self.timeout,
            })
            .await;
        let outcome = match &answer {
            Ok(_) => Outcome::Answered,
            // A pool that was closed under a mirrored call says nothing about V2.
            Err(failure) if !failure.sent && !self.v2.is_open() => return,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        self.recorder.record(Observation {
            operation: &request.operation,
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: true,
            session: None,
            outcome,
            failed_over: false,
            took: clock::mono().since(started),
        });
        if let Some(v2) = side(&answer) {
            self.comparer.submit(Pair { operation: request.operation.to_string(), v1, v2 });
        }
    }
}

/// An answer as the comparison policy gets it. A call that got no answer has nothing to compare.
fn side(answer: &Result<Answer, Failure>) -> Option<Side> {
    let (success, body) = match answer {
        Ok(Answer::Success(result)) => (true, result.get()),
        Ok(Answer::Refused(error)) => (false, error.get()),
        Err(failure) if failure.kind == crate::request::FailureKind::Worker => (false, failure.message.as_str()),
        Err(_) => return None,
    };
    Some(Side { success, status: 0, media_type: "application/json".into(), body: body.as_bytes().to_vec() })
}
