//! Where a migration's requests part: the plan in force, the two pools, and the count of what became of each call.
//!
//! The controller moves it; [`dispatch`](crate::dispatch) and [`proxy`](crate::proxy) send requests through it.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    observe::Recorder,
    policy::{
        port::Kind,
        trial::{Job, Trials},
    },
    pool::Pool,
    request::{Attributes, Class, PoolId, Request},
    route::{Route, Router},
};

/// See the module.
#[derive(Debug)]
pub struct Split {
    /// The migration's operations, and what repeating them means.
    pub operations: BTreeMap<Arc<str>, Class>,
    /// The plan in force.
    pub router: Router,
    /// The pool that is being replaced.
    pub v1: Pool,
    /// Its successor.
    pub v2: Pool,
    /// Where calls are counted.
    pub recorder: Arc<Recorder>,
    /// Failures of `decide`, by cause.
    pub decide_failures: Mutex<BTreeMap<&'static str, u64>>,
    /// Whoever opens or drains V2 takes turns.
    pub v2_turn: tokio::sync::Mutex<()>,
    trials: Trials,
}

impl Split {
    /// V1 for everything until a plan is published.
    pub fn new(
        operations: BTreeMap<Arc<str>, Class>,
        (v1, v2): (Pool, Pool),
        recorder: Arc<Recorder>,
        trials: Trials,
    ) -> Self {
        let router = Router::closed();
        let (decide_failures, v2_turn) = Default::default();
        Self { operations, router, v1, v2, recorder, decide_failures, v2_turn, trials }
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
            self.trials.failed(Kind::Routing, policy.as_ref(), error);
        }
        if let Some(sampled) = route.sampled.take() {
            self.trials.log(Kind::Routing, Job::Sampled(sampled.seat, sampled.frame, sampled.target));
        }
        self.trials.submit(Kind::Routing, || Job::Routed(Box::new(whole()), route.pool, route.mirror));
        route
    }
}
