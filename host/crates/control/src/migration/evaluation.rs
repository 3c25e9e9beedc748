//! Tries candidates out: asks them what the policies in charge were asked, counts where they differ and what they cost,
//! and promotes or demotes them by their rule. It also keeps the log of requests that are sampled from `decide`.
//!
//! Each migration has one such task. Its queue is bounded, and nothing waits for it.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{CommandKind, Handle};
use crate::migration::install::Install;
use cutover_model::{
    causes::chain,
    clock::{self, UnixMs, timeline::Clock},
    port::{AdaptedCall, AdapterReply, Comparison, Judgement, Kind, Move, Pair, Plan},
    request::{PoolId, Ppm, Request},
};
use cutover_policy_host::{
    PolicyError,
    ask::Asked,
    candidate::{Candidate, Compared, Disagreement, Weighed},
    evaluation::{EvaluationQueue, Job},
    installed::InstalledPolicy,
    record::{Call, Memory, Question, Role},
    route::{Control, Published, Router},
    slot::Slots,
};
use cutover_store::Store;

/// Asks candidates beside the policies in charge.
#[derive(Debug)]
pub struct CandidateEvaluator {
    /// The name of the migration.
    pub migration: String,
    /// The policies in charge, and the candidates beside them.
    pub slots: Arc<Slots>,
    /// Where calls of policies are logged.
    pub store: Store,
    /// The controller, which promotes and demotes candidates.
    pub handle: Handle,
    /// Takes the failures of policies in charge.
    pub evaluations: EvaluationQueue,
    /// What is kept of V1, whatever a plan says.
    pub control: Control,
    /// The time that rules go by.
    pub clock: Clock,
}

/// What became of asking a candidate.
struct Tried {
    compared: Compared,
    calls: Vec<Call>,
}

/// The plan of a routing candidate, to route requests by without effect.
struct Shadow {
    of: Arc<Candidate>,
    router: Router,
}

impl CandidateEvaluator {
    /// Takes jobs, one after the other, until `shutdown`.
    pub async fn run(self, mut jobs: mpsc::Receiver<Job>, shutdown: CancellationToken) {
        let mut shadow = None;
        loop {
            let job = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(job) = jobs.recv() => job,
            };
            self.take(job, &mut shadow).await;
        }
    }

    async fn take(&self, job: Job, shadow: &mut Option<Arc<Shadow>>) {
        let kind = match &job {
            Job::Sampled(..) => return self.sample(job).await,
            Job::Judged(..) => Kind::Rollback,
            Job::Staged(..) => Kind::Stages,
            Job::Planned(..) | Job::Routed(..) => Kind::Routing,
            Job::Compared(..) => Kind::Comparison,
            Job::Called(..) | Job::Replied(..) => Kind::Adapter,
        };
        let Some(candidate) = self.slots.get(kind).candidate() else { return };
        let current = shadow.take().filter(|shadow| Arc::ptr_eq(&shadow.of, &candidate));
        let (asked, plan, control) = (Arc::clone(&candidate), current.clone(), self.control);
        let tried = spawn_blocking(move || attempt(&asked, job, plan.as_deref(), control)).await;
        let Ok((tried, planned)) = tried else {
            tracing::error!(migration = self.migration, "a trial panicked");
            return;
        };
        *shadow = planned.map(|router| Arc::new(Shadow { of: Arc::clone(&candidate), router })).or(current);
        let Some(tried) = tried else { return };
        self.log(&tried.calls).await;
        let (install, reason) = match candidate.learn(tried.compared, self.clock.now()) {
            Weighed::Wait(_) => return,
            Weighed::Promote(reason) => (Install::Promote(kind), reason),
            Weighed::Demote(reason) => (Install::Drop(kind), reason),
        };
        // An operator may have replaced the candidate meanwhile.
        if self.slots.get(kind).candidate().is_some_and(|now| Arc::ptr_eq(&now, &candidate))
            && let Err(why) = self.handle.ask(CommandKind::Install(Box::new(install)), "rule", &reason).await
        {
            tracing::error!(migration = self.migration, %kind, "the candidate's rule was not followed: {why}");
        }
    }

    /// Asks a fresh instance what a warm one was asked: that is what can be replayed, and a policy that answers
    /// differently keeps something to itself.
    async fn sample(&self, job: Job) {
        let Job::Sampled(installed, frame, target) = job else { return };
        let asked = spawn_blocking(move || {
            let asked = installed.policy.decide_fresh(&frame);
            (installed, frame, asked)
        });
        let Ok((installed, frame, asked)) = asked.await else { return };
        if asked.answer.as_ref().is_ok_and(|fresh| *fresh != target) {
            let message = "a warm instance answers `decide` differently from a fresh one: it keeps something to itself";
            self.evaluations.failed(Kind::Routing, Some(&installed.policy), &PolicyError::nonsense(message));
        }
        let question = Question::Decide(Memory(frame));
        self.log(&[Call::of(clock::unix_ms(), Role::Active, &installed, question, Vec::new(), &asked)]).await;
    }

    async fn log(&self, calls: &[Call]) {
        if calls.is_empty() {
            return;
        }
        if let Err(error) = self.store.log_calls(&self.migration, calls).await {
            tracing::error!(migration = self.migration, "calls are not on record: {}", chain(&error));
        }
    }
}

/// Asks the candidate; also returns its router, if it made a plan. None if the active policy's answer is none to compare
/// with, or nothing can be asked yet.
fn attempt(
    candidate: &Candidate,
    job: Job,
    shadow: Option<&Shadow>,
    control: Control,
) -> (Option<Tried>, Option<Router>) {
    let installed = &candidate.installed;
    let (memory, _) = candidate.memory.lock().clone();
    let now = clock::unix_ms();
    match job {
        Job::Judged(check, active) => {
            let asked = installed.policy.judge(&check, &memory);
            remember(candidate, check.now_ms, &asked);
            let compared = one("a check", &active, &asked, |j: &Judgement| json!(j.verdict), |j| json!(j));
            let question = Question::Rollback(check);
            (Some(tried(installed, question, memory, compared, &asked)), None)
        }
        Job::Staged(progress, active) => {
            let asked = installed.policy.next(&progress, &memory);
            remember(candidate, progress.check.now_ms, &asked);
            let compared = one("a check", &active, &asked, |m: &Move| json!(m.action), |m| json!(m));
            (Some(tried(installed, Question::Stages(progress), memory, compared, &asked)), None)
        }
        Job::Planned(situation, active) => {
            let asked = installed.policy.make_plan(&situation, &memory);
            remember(candidate, now, &asked);
            let compared = one("a plan", &active, &asked, |p: &Plan| json!(p), |p| json!(p));
            let router = asked.answer.as_ref().ok().map(|plan| router(plan, installed, control));
            (Some(tried(installed, Question::Routing(situation), memory, compared, &asked)), router)
        }
        Job::Routed(request, pool, mirror) => {
            (shadow.map(|shadow| routed(&shadow.router, &request, pool, mirror)), None)
        }
        Job::Compared(pairs, active) => {
            let asked = installed.policy.compare(&pairs);
            (Some(Tried { compared: pairwise(&pairs, &active, &asked), calls: Vec::new() }), None)
        }
        Job::Called(call, active) => {
            let asked = installed.policy.adapt_call(&call);
            let shown = |a: &AdaptedCall| json!({ "operation": a.operation, "body": json_of(&a.body) });
            let compared = one(&format!("a call of `{}`", call.operation), &active, &asked, shown, shown);
            (Some(Tried { compared, calls: Vec::new() }), None)
        }
        Job::Replied(call, reply, active) => {
            let asked = installed.policy.adapt_reply(&call, reply);
            let shown = |a: &AdapterReply| json!({ "success": a.success, "body": json_of(&a.body) });
            let compared = one(&format!("a reply to `{}`", call.operation), &active, &asked, shown, shown);
            (Some(Tried { compared, calls: Vec::new() }), None)
        }
        Job::Sampled(..) => (None, None),
    }
}

fn router(plan: &Plan, installed: &InstalledPolicy, control: Control) -> Router {
    let decider = installed.policy.decides().then(|| Arc::new(installed.clone()));
    let router = Router::closed();
    router.publish(Published { plan: plan.clone(), v2_serves: true, most: Ppm::ALL, decider, control });
    router
}

/// Keeps the candidate's memory, if it has answered, and until when it has seen everything.
fn remember<T>(candidate: &Candidate, at: UnixMs, asked: &Asked<T>) {
    let mut kept = candidate.memory.lock();
    if asked.answer.is_ok() {
        kept.0.clone_from(&asked.memory);
    }
    kept.1 = UnixMs(at.0 + 1);
}

/// Two answers to one question. `decided` is what counts of an answer, `shown` what people see of it.
fn one<T>(
    about: &str,
    active: &Asked<T>,
    candidate: &Asked<T>,
    decided: impl Fn(&T) -> Value,
    shown: impl Fn(&T) -> Value,
) -> Compared {
    let says = |asked: &Asked<T>, part: &dyn Fn(&T) -> Value| match &asked.answer {
        Ok(answer) => part(answer),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let failure = candidate.answer.as_ref().err().map(ToString::to_string);
    let differ = failure.is_none() && says(active, &decided) != says(candidate, &decided);
    let disagreement = || Disagreement {
        at: clock::unix_ms(),
        about: about.into(),
        active: says(active, &shown),
        candidate: says(candidate, &shown),
    };
    Compared {
        asked: 1,
        disagreements: differ.then(disagreement).into_iter().collect(),
        failure,
        fuel: [candidate.fuel, active.fuel],
        took: [candidate.took, active.took],
    }
}

fn tried<T: Serialize>(
    installed: &InstalledPolicy,
    question: Question,
    memory: Vec<u8>,
    compared: Compared,
    asked: &Asked<T>,
) -> Tried {
    let at = question.now().unwrap_or_default();
    Tried { compared, calls: vec![Call::of(at, Role::Candidate, installed, question, memory, asked)] }
}

/// Where the candidate's plan would send a request that was sent somewhere.
fn routed(router: &Router, request: &Request, pool: PoolId, mirror: bool) -> Tried {
    let route = router.route(request);
    let shown = |pool: PoolId, mirror: bool| json!({ "pool": pool.to_string(), "mirror": mirror });
    let differ = (route.pool, route.mirror) != (pool, mirror);
    let disagreement = || Disagreement {
        at: clock::unix_ms(),
        about: format!("request {} of `{}`", request.id, request.operation),
        active: shown(pool, mirror),
        candidate: shown(route.pool, route.mirror),
    };
    let failure = route.error.as_ref().map(|(error, _)| error.to_string());
    let disagreements = (differ && failure.is_none()).then(disagreement).into_iter().collect();
    let compared = Compared { asked: 1, disagreements, failure, fuel: [0, 0], took: Default::default() };
    Tried { compared, calls: Vec::new() }
}

/// The outcomes of each pair.
fn pairwise(pairs: &[Pair], active: &Asked<Vec<Comparison>>, candidate: &Asked<Vec<Comparison>>) -> Compared {
    let said = |asked: &Asked<Vec<Comparison>>| asked.answer.clone().unwrap_or_default();
    let (ours, theirs) = (said(active), said(candidate));
    let differ = |(pair, (a, c)): (&Pair, (&Comparison, &Comparison))| {
        let about = format!("a pair of `{}`", pair.operation);
        (std::mem::discriminant(a) != std::mem::discriminant(c)).then(|| Disagreement {
            at: clock::unix_ms(),
            about,
            active: json!(a),
            candidate: json!(c),
        })
    };
    let disagreements = pairs.iter().zip(ours.iter().zip(&theirs)).filter_map(differ).collect();
    Compared {
        asked: pairs.len() as u64,
        disagreements,
        failure: candidate.answer.as_ref().err().map(ToString::to_string),
        fuel: [candidate.fuel, active.fuel],
        took: [candidate.took, active.took],
    }
}

/// A body as JSON, so that blanks and the order of fields do not count; as text if it is none.
fn json_of(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_none| String::from_utf8_lossy(body).into())
}
