//! One request through a migration: route, call, fail over, observe, mirror.
//!
//! What is repeated or duplicated depends on the operation's class alone: a `read` that V2 fails is answered by V1
//! within the caller's deadline; a `replicate` is answered by V1 (by V2 once V1 is gone and everybody is on V2), recorded
//! in the journal and then brought to V2; an `exclusive` goes to one pool, and elsewhere only if no worker saw it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::{
    failover::{Failed, May},
    load::{NO_ROOM, Room},
    observe::{
        Observation, Outcome,
        failed::{self, Counted},
    },
    pool::{Call, WorkerPool, journal::Journal, workers::Tried},
    shadow::Mirror,
    split::Split,
};
use cutover_model::{
    clock::{self, Mono},
    request::{Answer, Class, Failure, FailureKind, PoolId, Reason, Request, Served},
};
use cutover_policy_host::{PolicyError, route::Route};

/// Replications to V2 that may be under way at once. What does not fit is caught up with by the session's next call.
const REPLICATIONS: usize = 256;

/// How long one replication may take, unless the operation's own deadline is longer.
const REPLICATION: Duration = Duration::from_secs(10);

/// An operation of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What may be repeated and mirrored of it.
    pub class: Class,
    /// How long its callers and its mirrored calls wait; `None` for the migration's own deadline.
    pub deadline: Option<Duration>,
    /// The argument that names what a `replicate` operation is about; `None` if no call of it supersedes another.
    pub key: Option<String>,
    /// Whether a call removes what `key` names, instead of creating or changing it.
    pub removes: bool,
    /// The rules by which a call of it counts as failed.
    pub failed: Arc<failed::Failed>,
}

/// Whether a call failed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    No,
    /// The other pool answered instead.
    To,
    /// The other pool had failed it before.
    From,
}

/// Dispatches the calls of one migration's operations.
#[derive(Debug)]
pub struct Dispatch {
    /// Its operations by name.
    pub operations: BTreeMap<Arc<str>, Operation>,
    /// Chooses the pool for each request, and counts what became of it.
    pub split: Arc<Split>,
    /// The pool that is being replaced.
    pub v1: WorkerPool,
    /// The pool that replaces `v1`.
    pub v2: WorkerPool,
    /// Sends reads to the other pool, too, when the plan says so.
    pub mirror: Arc<Mirror>,
    /// The recorded `replicate` calls, which workers of both pools are brought up to.
    pub journal: Arc<Journal>,
    /// The part of a caller's time that is kept for V1 after V2 failed a read, in percent.
    pub failover_reserve_percent: u32,
    replications: Arc<Semaphore>,
    tasks: TaskTracker,
}

/// The parts that a [`Dispatch`] is made of. Each field is described there.
#[expect(missing_docs, reason = "each field is described at the field of `Dispatch` with the same name")]
#[derive(Debug)]
pub struct Parts {
    pub operations: BTreeMap<Arc<str>, Operation>,
    pub split: Arc<Split>,
    pub v1: WorkerPool,
    pub v2: WorkerPool,
    pub mirror: Arc<Mirror>,
    pub journal: Arc<Journal>,
    pub failover_reserve_percent: u32,
    /// Where replications to V2 run, beside the request.
    pub tasks: TaskTracker,
}

impl Dispatch {
    /// Puts the parts together; no replication is under way.
    pub fn new(parts: Parts) -> Self {
        Self {
            operations: parts.operations,
            split: parts.split,
            v1: parts.v1,
            v2: parts.v2,
            mirror: parts.mirror,
            journal: parts.journal,
            failover_reserve_percent: parts.failover_reserve_percent,
            replications: Arc::new(Semaphore::new(REPLICATIONS)),
            tasks: parts.tasks,
        }
    }

    /// The longest of the deadlines that operations have of their own; `None` if none has one.
    pub fn longest_deadline(&self) -> Option<Duration> {
        self.operations.values().filter_map(|operation| operation.deadline).max()
    }

    /// Serves a request if there is room for it; `None` if the migration has no such operation.
    pub async fn serve(&self, request: Request, room: Room) -> Option<Served> {
        let operation = self.operations.get(&request.operation)?;
        Some(match operation.class {
            Class::Read => self.read(request, operation, room).await,
            Class::Replicate => self.replicate(request, operation).await,
            Class::Exclusive => self.exclusive(request, operation, room).await,
        })
    }

    async fn read(&self, request: Request, operation: &Operation, room: Room) -> Served {
        let route = self.split.route(&request, || request.clone());
        if route.pool == PoolId::V2 && room < Room::V2 {
            return no_room();
        }
        if route.pool == PoolId::V1 {
            let result = self.call(PoolId::V1, &request, operation, (request.deadline, Over::No, route.apart)).await;
            if route.mirror {
                self.mirror(request, PoolId::V1, &result, room);
            }
            return Served { result, pool: PoolId::V1, reason: route.reason };
        }
        self.by_v2(request, operation, route, room).await
    }

    /// Lets V2 answer, and V1 if V2 fails and the request may go there.
    async fn by_v2(&self, request: Request, operation: &Operation, route: Route, room: Room) -> Served {
        let started = clock::mono();
        let may = May { repeat: operation.class == Class::Read, go_to_v1: !self.split.is_v1_gone() };
        let deadline = may.v2_deadline(started, request.deadline, self.failover_reserve_percent);
        let v2 = self.attempt(PoolId::V2, &request, operation.class, deadline).await;
        let now = clock::mono();
        let took = now.since(started);
        let failed = match &v2.result {
            Err(failure) if may.asks_v1(failure.into(), now, request.deadline) => Failed::from(failure),
            Ok(Answer::Refused(_)) if may.fail_over() && self.v2.adapter().is_some() => {
                return self.refused_in_translation(request, operation, route, (v2, took)).await;
            }
            answer => {
                self.observe(PoolId::V2, &request, operation, &v2, (took, Over::No, route.apart));
                if route.mirror && may.fail_over() && answer.is_ok() {
                    self.mirror(request, PoolId::V2, answer, room);
                }
                return Served { result: v2.result, pool: PoolId::V2, reason: route.reason };
            }
        };
        let result = self.call(PoolId::V1, &request, operation, (request.deadline, Over::From, route.apart)).await;
        if failed.counts() {
            let over = if result.is_ok() { Over::To } else { Over::No };
            self.observe(PoolId::V2, &request, operation, &v2, (took, over, route.apart));
        }
        Served { result, pool: PoolId::V1, reason: Reason::Word("failover") }
    }

    /// A read that V2 refused after an adapter translated it: what V1 answers was the adapter's fault, and what V1 refuses as
    /// well was the caller's.
    async fn refused_in_translation(
        &self,
        request: Request,
        operation: &Operation,
        Route { reason, apart, .. }: Route,
        (v2, took): (Tried, Duration),
    ) -> Served {
        let result = self.call(PoolId::V1, &request, operation, (request.deadline, Over::From, apart)).await;
        if !matches!(result, Ok(Answer::Success(_))) {
            self.observe(PoolId::V2, &request, operation, &v2, (took, Over::No, apart));
            return Served { result: v2.result, pool: PoolId::V2, reason };
        }
        let message =
            format!("V2 refuses a call of `{}` as it translates it, and V1 does what was asked", request.operation);
        let failure = Failure::sent(FailureKind::Worker, format!("the adapter policy failed: {message}"));
        let failed = Tried { failed: Some(failure.kind), result: Err(failure) };
        self.observe(PoolId::V2, &request, operation, &failed, (took, Over::To, apart));
        if let Some(adapter) = self.v2.adapter() {
            self.v2.adapter_failed(&adapter, &PolicyError::nonsense(message));
        }
        Served { result, pool: PoolId::V1, reason: Reason::Word("failover") }
    }

    /// Has the other pool answer as well, if there is room for it.
    fn mirror(&self, request: Request, by: PoolId, answer: &Result<Answer, Failure>, room: Room) {
        if room >= Room::Mirrors {
            self.mirror.mirror(request, by, answer);
        } else {
            self.mirror.leave_out(&request, by, answer);
        }
    }

    async fn replicate(&self, request: Request, operation: &Operation) -> Served {
        let (reason, keeper) = (Reason::Word("replicate"), self.split.keeper());
        let session = request.session.clone().unwrap_or_else(|| "".into());
        if let Err(full) = self.journal.admits(&session, operation.removes) {
            let result = Err(Failure::unsent(FailureKind::Resource, full.to_string()));
            return Served { result, pool: keeper, reason };
        }
        let mut result = self.call(keeper, &request, operation, (request.deadline, Over::No, false)).await;
        if let Ok(Answer::Success(answer)) = &result {
            let (arguments, key) = keyed(&request.arguments, operation, answer.get());
            let recorded = self.journal.record(&session, &request.operation, arguments, key, operation.removes).await;
            if let Err(error) = recorded {
                result = Err(Failure::sent(FailureKind::System, error.to_string()));
            }
            self.bring_to_v2(request, operation.deadline);
        }
        Served { result, pool: keeper, reason }
    }

    async fn exclusive(&self, request: Request, operation: &Operation, room: Room) -> Served {
        let route = self.split.route(&request, || request.clone());
        if route.pool == PoolId::V2 && room < Room::V2 {
            return no_room();
        }
        if route.pool == PoolId::V2 {
            return self.by_v2(request, operation, route, room).await;
        }
        let result = self.call(PoolId::V1, &request, operation, (request.deadline, Over::No, route.apart)).await;
        Served { result, pool: PoolId::V1, reason: route.reason }
    }

    /// Calls a pool and counts the call, apart if it is no evidence.
    async fn call(
        &self,
        pool: PoolId,
        request: &Request,
        operation: &Operation,
        (deadline, over, apart): (Mono, Over, bool),
    ) -> Result<Answer, Failure> {
        let started = clock::mono();
        let tried = self.attempt(pool, request, operation.class, deadline).await;
        self.observe(pool, request, operation, &tried, (clock::mono().since(started), over, apart));
        tried.result
    }

    async fn attempt(&self, pool: PoolId, request: &Request, class: Class, deadline: Mono) -> Tried {
        let pool = match pool {
            PoolId::V1 => &self.v1,
            PoolId::V2 => &self.v2,
        };
        let session = request.session.as_ref();
        let call = Call { operation: &request.operation, arguments: &request.arguments, session, deadline };
        pool.serve(call, class).await
    }

    fn observe(
        &self,
        pool: PoolId,
        request: &Request,
        operation: &Operation,
        Tried { result, failed }: &Tried,
        (took, over, apart): (Duration, Over, bool),
    ) {
        let Counted { outcome, status, unread } = operation.failed.count(result, *failed, took);
        let recorder = &self.split.recorder;
        let status = if over == Over::From { Observation::no_sample(outcome, status) } else { status };
        let call = Observation {
            operation: &request.operation,
            class: operation.class,
            pool,
            mirrored: false,
            session: request.session.as_deref().map(|key| recorder.session(key)),
            outcome,
            status,
            unread,
            failed_over: over == Over::To,
            took,
        };
        if apart { recorder.apart().record(&call) } else { recorder.record(call) }
    }

    /// Brings a session's new state to V2 off the request's path. If that fails or does not fit, the session's next
    /// call on V2 catches up.
    fn bring_to_v2(&self, request: Request, limit: Option<Duration>) {
        // State without a session is caught up with by each worker on its next call.
        let Some(session) = request.session.clone().filter(|_| self.v2.is_open()) else { return };
        let Ok(permit) = Arc::clone(&self.replications).try_acquire_owned() else { return };
        let (v2, recorder) = (self.v2.clone(), Arc::clone(&self.split.recorder));
        self.tasks.spawn(async move {
            let started = clock::mono();
            let limit = limit.unwrap_or_default().max(REPLICATION);
            let synced = v2.sync(&session, started + limit).await;
            let (outcome, status) = match synced {
                Ok(()) => (Outcome::Answered, Observation::SUCCESS),
                Err(failure) if failure.kind == FailureKind::System => return,
                Err(failure) => (Outcome::Failed(failure.kind), 0),
            };
            recorder.record(Observation {
                operation: &request.operation,
                class: Class::Replicate,
                pool: PoolId::V2,
                mirrored: true,
                session: None,
                outcome,
                status,
                unread: false,
                failed_over: false,
                took: clock::mono().since(started),
            });
            drop(permit);
        });
    }
}

/// The host serves too much to serve V2's calls, too. That is no fault of V2, and V1 must not have to bear it.
fn no_room() -> Served {
    let failure = Failure::unsent(FailureKind::Resource, NO_ROOM);
    Served { result: Err(failure), pool: PoolId::V2, reason: Reason::Word("overload") }
}

/// The arguments to replicate and what they are about. A key that V1 chose goes into the arguments, so that V2 uses the
/// same one.
fn keyed(
    arguments: &Arc<Map<String, Value>>,
    operation: &Operation,
    answer: &str,
) -> (Arc<Map<String, Value>>, Option<String>) {
    let Some(name) = &operation.key else { return (Arc::clone(arguments), None) };
    if let Some(key) = arguments.get(name) {
        return (Arc::clone(arguments), Some(key.to_string()));
    }
    let chosen = serde_json::from_str::<Map<String, Value>>(answer).ok().and_then(|mut a| a.remove(name));
    match chosen {
        Some(key) => {
            let mut arguments = Map::clone(arguments);
            arguments.insert(name.clone(), key.clone());
            (Arc::new(arguments), Some(key.to_string()))
        }
        None => (Arc::clone(arguments), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_v1_chose_is_replicated_with_the_call() {
        let operation = Operation {
            class: Class::Replicate,
            deadline: None,
            key: Some("program_id".into()),
            removes: false,
            failed: Arc::default(),
        };
        let arguments = Arc::new(Map::from_iter([("signature".to_owned(), Value::from("q -> a"))]));
        let (replicated, key) = keyed(&arguments, &operation, r#"{"program_id":"p7"}"#);
        assert_eq!((replicated.get("program_id"), key.as_deref()), (Some(&Value::from("p7")), Some("\"p7\"")));
        let (same, none) = keyed(&arguments, &operation, r#""done""#);
        assert!(Arc::ptr_eq(&same, &arguments) && none.is_none());
    }
}
