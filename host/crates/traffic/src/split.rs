//! Where a migration's requests part: the plan in force, the two pools, and the count of what became of each call.
//!
//! The controller publishes its plan; [`dispatch`](crate::dispatch) and [`proxy`](crate::proxy) send requests through
//! it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;

use crate::{
    observe::Recorder,
    pool::{Backing, Pool},
};
use cutover_model::{
    port::Kind,
    request::{Attributes, Class, PoolId, Ppm, Request},
};
use cutover_policy_host::{
    evaluation::{EvaluationQueue, Job},
    route::{By, Callers, Route, Router},
};

/// What one migration's requests are routed and counted by.
#[derive(Debug)]
pub struct Split {
    /// The migration's operations, and what repeating them means.
    pub operations: BTreeMap<Arc<str>, Class>,
    /// The plan in force.
    pub router: Router,
    /// The pool that is being replaced.
    pub v1: Pool,
    /// The pool that replaces `v1`.
    pub v2: Pool,
    /// Counts the calls of both pools.
    pub recorder: Arc<Recorder>,
    /// Failures of `decide`, by cause.
    pub decide_failures: Mutex<BTreeMap<&'static str, u64>>,
    /// Held while V2 is opened or drained, so that the two do not overlap.
    pub v2_turn: tokio::sync::Mutex<()>,
    /// Whether `v1` has not been able to serve for a while.
    v1_gone: AtomicBool,
    evaluations: EvaluationQueue,
}

impl Split {
    /// V1 for everything until a plan is published.
    pub fn new(
        operations: BTreeMap<Arc<str>, Class>,
        (v1, v2): (Pool, Pool),
        recorder: Arc<Recorder>,
        evaluations: EvaluationQueue,
        callers: Arc<Callers>,
    ) -> Self {
        let router = Router::of(callers);
        let (decide_failures, v2_turn) = Default::default();
        let v1_gone = AtomicBool::new(false);
        Self { operations, router, v1, v2, recorder, decide_failures, v2_turn, v1_gone, evaluations }
    }

    /// Whether V1 cannot serve, and has not been able to for a while: then nothing goes back to it.
    pub fn is_v1_gone(&self) -> bool {
        // The flag is set once a second; V1 may be back since.
        self.v1_gone.load(Ordering::Relaxed) && !self.v1.can_serve()
    }

    /// Sets that flag, for calls and for V2, which has no pool behind it then.
    pub fn set_v1_gone(&self, gone: bool) {
        self.v1_gone.store(gone, Ordering::Relaxed);
        self.v2.stand(if gone { Backing::Alone } else { Backing::Other });
    }

    /// The pool that callers depend on under the plan in force: V2 where it has everybody, V1 otherwise, which also stands
    /// behind V2.
    pub fn who_must_serve(&self) -> &Pool {
        if self.router.share() == Ppm::ALL { &self.v2 } else { &self.v1 }
    }

    /// The pool that does what both pools have to know: V1 as long as it is there, V2 once everybody is on it and V1 is gone.
    pub fn keeper(&self) -> PoolId {
        if self.is_v1_gone() && self.router.share() == Ppm::ALL { PoolId::V2 } else { PoolId::V1 }
    }

    /// One of the pools.
    pub const fn pool(&self, id: PoolId) -> &Pool {
        match id {
            PoolId::V1 => &self.v1,
            PoolId::V2 => &self.v2,
        }
    }

    /// Where a request goes. `whole` makes a copy of it for candidates, if there are any.
    pub fn route(&self, request: &impl Attributes, whole: impl FnOnce() -> Request) -> Route {
        let mut route = self.router.route(request);
        if let Some((error, policy)) = &route.error {
            tracing::warn!(%error, "the routing policy failed to decide; V1 serves");
            *self.decide_failures.lock().entry(error.cause()).or_default() += 1;
            self.evaluations.failed(Kind::Routing, policy.as_ref(), error);
        }
        if let Some(sampled) = route.sampled.take() {
            self.evaluations.log(Kind::Routing, Job::Sampled(sampled.installed, sampled.frame, sampled.target));
        }
        // What a caller chose says nothing of plans.
        if route.by != By::Caller {
            self.evaluations.submit(Kind::Routing, || Job::Routed(Box::new(whole()), route.pool, route.mirror));
        }
        route
    }
}
