//! Questions of all kinds, and what comes of them.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::answer::Answer;
use cutover_model::{
    port::{AdapterCall, AdapterReply, Check, Pair, Plan, Progress, Situation},
    request::{PoolId, Ppm, Request},
};
use cutover_policy_host::{
    PolicyError,
    ask::Asked,
    engine::{Policy, WarmPolicy},
    installed::InstalledPolicy,
    route::{Control, Published, Route, Router},
};

/// Where a request must go, and whether it must be mirrored; what is none is not looked at.
#[derive(Debug, Clone)]
pub(super) struct Mirrored {
    pub(super) pool: Option<PoolId>,
    pub(super) reason: Option<String>,
    pub(super) mirror: Option<bool>,
}

/// A question to a policy, whatever its kind.
#[derive(Debug, Clone)]
pub(super) enum Question {
    Judge(Check),
    Next(Progress),
    Plan(Box<Planned>),
    Compare(Vec<Pair>),
    AdaptCall(AdapterCall),
    AdaptReply(AdapterCall, AdapterReply),
}

/// What came of a question.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) answer: Result<Answer, PolicyError>,
    pub(super) memory: Vec<u8>,
    pub(super) fuel: u64,
    pub(super) took: Duration,
}

/// A plan to make, and what is routed by it.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) situation: Situation,
    /// Whether V2 may serve at all.
    pub(super) v2_serves: bool,
    pub(super) requests: Vec<(Request, Mirrored)>,
}

/// The instance or instances of the policy that are asked.
#[derive(Debug)]
pub(super) enum Asker<'a> {
    /// A fresh instance each time, as the host does.
    Fresh(&'a Policy),
    /// One instance that is kept, as back-tests do.
    Kept(Box<WarmPolicy>),
}

/// The same question to either.
macro_rules! put {
    ($whom:expr, $policy:ident => $asked:expr) => {
        match $whom {
            Asker::Fresh($policy) => $asked,
            Asker::Kept($policy) => $asked,
        }
    };
}

impl Question {
    /// Asks. `policy` is who is asked per request where a plan says `decide`.
    pub(super) fn ask(&self, whom: &mut Asker<'_>, policy: &Arc<Policy>, memory: &[u8]) -> Given {
        match self {
            Self::Judge(check) => given(put!(whom, p => p.judge(check, memory)), Answer::Judgement),
            Self::Next(progress) => given(put!(whom, p => p.next(progress, memory)), Answer::Move),
            Self::Plan(plan) => {
                let Planned { situation, v2_serves, requests } = &**plan;
                let most = if situation.share > Ppm::ZERO { Ppm::ALL } else { Ppm::ZERO };
                given(put!(whom, p => p.make_plan(situation, memory)), |plan| {
                    let routed = route(policy, plan.clone(), (*v2_serves, most), requests);
                    Answer::Plan(plan, routed)
                })
            }
            Self::Compare(pairs) => given(put!(whom, p => p.compare(pairs)), Answer::Outcomes),
            Self::AdaptCall(call) => given(put!(whom, p => p.adapt_call(call)), Answer::Call),
            Self::AdaptReply(call, reply) => given(put!(whom, p => p.adapt_reply(call, reply.clone())), Answer::Reply),
        }
    }
}

fn given<T>(asked: Asked<T>, answer: impl FnOnce(T) -> Answer) -> Given {
    Given { answer: asked.answer.map(answer), memory: asked.memory, fuel: asked.fuel, took: asked.took }
}

/// By the router that serves real requests, which asks `decide` where the plan says so.
fn route(
    policy: &Arc<Policy>,
    plan: Plan,
    (v2_serves, most): (bool, Ppm),
    requests: &[(Request, Mirrored)],
) -> Vec<(Mirrored, Route)> {
    let router = Router::closed();
    let decider = policy.decides().then(|| Arc::new(InstalledPolicy::of(Arc::<Policy>::clone(policy))));
    let control = Control::default();
    router.publish(Published { plan, v2_serves, most, decider, control });
    requests.iter().map(|(request, expected)| (expected.clone(), router.route(request))).collect()
}

impl Given {
    /// The whole answer as people and snapshots see it; what it cost and what is remembered is left out.
    pub(super) fn shown(&self) -> Value {
        match &self.answer {
            Ok(answer) => answer.shown(),
            Err(error) => json!({ "error": { "cause": error.cause(), "message": error.to_string() } }),
        }
    }
}
