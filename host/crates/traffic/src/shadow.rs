//! Mirrors reads to the pool that did not answer them, within a budget, and hands both answers in for comparison. Reads
//! that V1 answered go to V2; once V2 answers nearly everything, some of V2's go back to V1.
//!
//! **Invariant**: nothing here can delay or change what the caller gets. A mirrored call that the budget has no room
//! for is left out and counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    compare::Comparer,
    failover::{Failed as FailedCall, may_mirror},
    observe::{Asked, Failed, Observation, Recorder, Uncompared, failed::Counted},
    pool::{Call, WorkerPool},
};
use cutover_model::{
    clock,
    port::{Pair, Side},
    request::{Answer, Class, Failure, FailureKind, PoolId, Request},
};

/// Why a mirrored call is left out.
pub const BUDGET_SPENT: &str = "`shadow_budget` had no room for another mirrored call";

/// Why nothing is mirrored for a while.
pub const HOST_BUSY: &str = "the host served too much to mirror, too";

/// Why a pair has one answer only.
const NO_ANSWER: &str = "V2 gave no answer";

/// Mirrors the reads of one migration.
#[derive(Debug)]
pub struct Mirror {
    parts: Parts,
    budget: Arc<Semaphore>,
    left_out: AtomicU64,
}

/// What a mirror is made of.
#[derive(Debug)]
pub struct Parts {
    /// The pool that is being replaced.
    pub v1: WorkerPool,
    /// The pool that replaces `v1`.
    pub v2: WorkerPool,
    /// Where mirrored calls are counted.
    pub recorder: Arc<Recorder>,
    /// Where answers are compared.
    pub comparer: Comparer,
    /// What counts as failed, by operation.
    pub failed: BTreeMap<Arc<str>, Arc<Failed>>,
    /// Mirrored calls that may be under way at once.
    pub budget: usize,
    /// How long one may take, unless its operation is in `limits`.
    pub timeout: Duration,
    /// The deadlines of operations that have one of their own.
    pub limits: BTreeMap<Arc<str>, Duration>,
    /// The tasks in which they run.
    pub tasks: TaskTracker,
}

impl Mirror {
    /// Puts the parts together; the whole budget is free.
    pub fn new(parts: Parts) -> Self {
        let budget = Arc::new(Semaphore::new(parts.budget));
        Self { parts, budget, left_out: AtomicU64::new(0) }
    }

    /// Mirrors a read that a pool answered to the other one. Returns at once.
    pub fn mirror(self: &Arc<Self>, request: Request, by: PoolId, answer: &Result<Answer, Failure>) {
        let Some(answered) = side(answer) else { return };
        let asked = match by {
            _ if !may_mirror(by, self.parts.v1.is_open()) => return,
            PoolId::V1 => Some(self.parts.recorder.pairs().ask(&request.operation)),
            PoolId::V2 => None,
        };
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_owned() else { return self.leave(asked, BUDGET_SPENT) };
        let this = Arc::clone(self);
        self.parts.tasks.spawn(async move {
            match asked {
                Some(asked) => this.to_v2(&request, answered, asked).await,
                None => this.back_to_v1(&request, answered).await,
            }
            drop(permit);
        });
    }

    /// A read that a pool answered and that was to be mirrored is not, because the host is busy.
    pub fn leave_out(&self, request: &Request, by: PoolId, answer: &Result<Answer, Failure>) {
        if has_side(answer) {
            self.leave((by == PoolId::V1).then(|| self.parts.recorder.pairs().ask(&request.operation)), HOST_BUSY);
        }
    }

    /// Mirrored calls that were left out because there was no room.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn leave(&self, asked: Option<Asked>, why: &str) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
        if let Some(asked) = asked {
            self.parts.comparer.leave(asked, Uncompared::LeftOut, why);
        }
    }

    async fn to_v2(&self, request: &Request, v1: Side, asked: Asked) {
        let answer = self.call(PoolId::V2, request).await;
        match side(&answer) {
            Some(v2) => self.parts.comparer.submit(Pair { operation: request.operation.to_string(), v1, v2 }, asked),
            // A pool that was closed under a mirrored call says nothing about V2.
            None if answer.is_err_and(|failure| !counts(&self.parts.v2, PoolId::V2, &failure)) => drop(asked),
            None => self.parts.comparer.leave(asked, Uncompared::Unanswered, NO_ANSWER),
        }
    }

    /// A call that V1 did not answer makes no pair: V2 must not be judged by a pool that may be on its way out.
    async fn back_to_v1(&self, request: &Request, v2: Side) {
        let answer = self.call(PoolId::V1, request).await;
        if let Some(v1) = side(&answer) {
            let asked = self.parts.recorder.pairs().ask(&request.operation);
            self.parts.comparer.submit(Pair { operation: request.operation.to_string(), v1, v2 }, asked);
        }
    }

    /// Calls a pool and counts the call.
    async fn call(&self, pool: PoolId, request: &Request) -> Result<Answer, Failure> {
        let Parts { v1, v2, recorder, timeout, limits, .. } = &self.parts;
        let workers = match pool {
            PoolId::V1 => v1,
            PoolId::V2 => v2,
        };
        let (started, by_default) = (clock::mono(), Failed::default());
        let call = Call {
            operation: &request.operation,
            arguments: &request.arguments,
            session: request.session.as_ref(),
            deadline: started + *limits.get(&request.operation).unwrap_or(timeout),
        };
        let answer = workers.call(call).await;
        let kind = match &answer {
            Ok(_) => None,
            Err(failure) if !counts(workers, pool, failure) => return answer,
            Err(failure) => Some(failure.kind),
        };
        let took = clock::mono().since(started);
        let failed = self.parts.failed.get(&request.operation).map_or(&by_default, |failed| &**failed);
        let Counted { outcome, status, unread } = failed.count(&answer, kind, took);
        recorder.record(Observation {
            operation: &request.operation,
            class: Class::Read,
            pool,
            mirrored: true,
            session: request.session.as_deref().filter(|_| pool == PoolId::V1).map(|key| recorder.session(key)),
            outcome,
            status,
            unread,
            failed_over: false,
            took,
        });
        answer
    }
}

fn counts(workers: &WorkerPool, pool: PoolId, failure: &Failure) -> bool {
    FailedCall::from(failure).mirrored_counts(pool, workers.is_open())
}

/// Whether there is something to compare.
fn has_side(answer: &Result<Answer, Failure>) -> bool {
    answer.as_ref().err().is_none_or(|failure| failure.kind == FailureKind::Worker)
}

/// An answer as the comparison policy gets it. A call that got no answer has nothing to compare.
fn side(answer: &Result<Answer, Failure>) -> Option<Side> {
    let (success, body) = match answer {
        Ok(Answer::Success(result)) => (true, result.get()),
        Ok(Answer::Refused(error)) => (false, error.get()),
        Err(failure) if failure.kind == FailureKind::Worker => (false, failure.message.as_str()),
        Err(_) => return None,
    };
    Some(Side { success, status: 0, media_type: "application/json".into(), body: body.as_bytes().to_vec() })
}
