//! The attempts of one request: which pool is asked, what may be sent again, and when V1 answers for V2.

use std::sync::Arc;

use hyper::StatusCode;

use super::{Proxy, is_failure};
use crate::{
    failover::{Failed, May},
    pool::upstream::{Answered, Ask, NoPlace, Outgoing, Ticket, Unanswered, callers::Source, upload::Progress},
    proxy::recorder::{CallContext, Ended},
};
use cutover_model::{
    clock::{self, Mono},
    request::{Failure, FailureKind, PoolId},
};

/// A request on its way, and what is needed to send it again.
pub(super) struct Exchange<'a> {
    pub(super) whose: CallContext<'a>,
    /// Whether the request is needed again after it was sent: only one whose body is here can be.
    pub(super) again: bool,
    pub(super) progress: Option<Arc<Progress>>,
    /// When it may be, of its own kind.
    pub(super) repeats: Repeats,
    pub(super) source: Source,
    pub(super) flow: Flow,
    /// Whether V1 may answer instead of V2.
    pub(super) may: May,
    pub(super) started: Mono,
    pub(super) deadline: Mono,
}

/// When a request may be sent again that an upstream may have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeats {
    Never,
    /// After the upstream has closed a connection that had waited, without a word (RFC 9112, 9.3.1).
    AfterRace,
    /// Whenever there was no answer.
    Always,
}

/// How a request's body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// From its beginning to its end.
    Body,
    /// For as long as there is something to say.
    Stream,
}

/// Where an exchange ended.
pub(super) struct ExchangeResult {
    pub(super) result: Result<Box<(Answered, Ticket)>, Failure>,
    pub(super) pool: PoolId,
    /// When the host began to ask that pool.
    pub(super) since: Mono,
    /// Whether it is the caller's doing that there is no answer.
    pub(super) by_caller: bool,
}

/// V2 answered, and the answer is a failure.
const FAILED_ANSWER: Failed = Failed { kind: FailureKind::Worker, sent: true };

/// Where an attempt goes.
#[derive(Clone, Copy)]
struct Target {
    pool: PoolId,
    avoid: Option<usize>,
    attempts: u32,
    started: Mono,
    /// When the host began to ask this pool.
    since: Mono,
}

impl Target {
    const fn first(pool: PoolId, started: Mono) -> Self {
        Self { pool, avoid: None, attempts: 1, started, since: started }
    }
}

/// What came of an attempt.
enum Attempt {
    Answered(Box<(Answered, Ticket)>),
    Again(Outgoing, Target),
    /// V1 is asked now, after what V2 made of it, if that counts.
    ToV1(Outgoing, Option<Ended>),
    Failed(Failure),
    /// The caller broke off, sent what is no body, or wants too much.
    Broken(Failure),
}

impl Exchange<'_> {
    /// Sends the request until it is answered or must not be sent again.
    pub(super) async fn run(&self, proxy: &Proxy, mut request: Outgoing, pool: PoolId) -> ExchangeResult {
        if self.repeats == Repeats::Always {
            proxy.pool(pool).count_request();
        }
        let mut target = Target::first(pool, self.started);
        let mut failed = FailedFirst { whose: &self.whose, by_v2: None };
        loop {
            let (result, by_caller) = match self.attempt(proxy, request, target).await {
                Attempt::Answered(answered) => (Ok(answered), false),
                Attempt::Failed(failure) => (Err(failure), false),
                Attempt::Broken(failure) => (Err(failure), true),
                Attempt::Again(again, next) => {
                    (request, target) = (again, next);
                    continue;
                }
                Attempt::ToV1(again, by_v2) => {
                    (request, target) = (again, Target::first(PoolId::V1, clock::mono()));
                    failed.by_v2 = by_v2;
                    continue;
                }
            };
            failed.count(result.as_ref().is_ok_and(|answered| !is_failure(answered.0.head.status)));
            return ExchangeResult { result, pool: target.pool, since: target.since, by_caller };
        }
    }

    async fn attempt(&self, proxy: &Proxy, request: Outgoing, target: Target) -> Attempt {
        let pool = proxy.pool(target.pool);
        let started = target.started;
        let is_v2 = target.pool == PoolId::V2;
        let deadline = if is_v2 {
            self.may.v2_deadline(started, self.deadline, proxy.failover_reserve_percent)
        } else {
            self.deadline
        };
        let mut waiting = Waiting { exchange: self, target, is_over: false };
        let found = pool.check_out(Some(self.source), target.avoid, deadline, started).await;
        let ticket = match found {
            Ok(ticket) => ticket,
            Err(NoPlace { failure, by_caller }) => {
                waiting.is_over = true;
                let unanswered = Unanswered { failure, request: Some(request), by_caller };
                return self.after(proxy, unanswered, (target, None));
            }
        };
        let ask = Ask {
            progress: self.progress.as_deref(),
            deadline,
            total: pool.spec().total(self.flow == Flow::Stream),
            again: self.again,
            may_race: self.repeats != Repeats::Never,
        };
        let sent = ticket.send(request, ask).await;
        waiting.is_over = true;
        match sent {
            Ok(answered) if is_v2 && is_failure(answered.head.status) && self.asks_v1(FAILED_ANSWER) => {
                self.failed_read((answered, ticket), target.since)
            }
            Ok(answered) => Attempt::Answered(Box::new((answered, ticket))),
            Err(unanswered) => {
                let Unanswered { failure, by_caller, .. } = &unanswered;
                if !by_caller && (failure.sent || failure.kind == FailureKind::Connection) {
                    ticket.count_failure(&failure.message);
                }
                self.after(proxy, unanswered, (target, Some(ticket.member())))
            }
        }
    }

    fn asks_v1(&self, failed: Failed) -> bool {
        self.may.asks_v1(failed, clock::mono(), self.deadline)
    }

    /// V2 answered a read with a failure: V1 is asked instead.
    fn failed_read(&self, answered: (Answered, Ticket), since: Mono) -> Attempt {
        let (mut answer, ticket) = answered;
        let Some(again) = answer.request.take() else { return Attempt::Answered(Box::new((answer, ticket))) };
        ticket.count_failure(&said(answer.head.status));
        let ended = self.whose.by_head(PoolId::V2, &answer.head, clock::mono().since(since));
        Attempt::ToV1(again, Some(ended))
    }

    /// What comes after an attempt without an answer.
    fn after(&self, proxy: &Proxy, unanswered: Unanswered, (target, member): (Target, Option<usize>)) -> Attempt {
        let Unanswered { failure, request, by_caller } = unanswered;
        if by_caller {
            return Attempt::Broken(failure);
        }
        let again = request.filter(|_| self.repeats == Repeats::Always || !failure.sent);
        let now = clock::mono();
        let in_time = now < self.deadline;
        let ended = Ended::without_answer(target.pool, failure.kind, now.since(target.since));
        let Some(again) = again.filter(|_| in_time) else {
            self.whose.observe(ended);
            return Attempt::Failed(failure);
        };
        // Another member of the same pool, unless there was none to be had, or it took all of the time.
        let other = member.filter(|_| failure.kind != FailureKind::Timeout);
        if other.is_some() && proxy.pool(target.pool).may_retry(target.attempts) {
            return Attempt::Again(
                again,
                Target { avoid: other, attempts: target.attempts + 1, started: now, ..target },
            );
        }
        let failed = Failed::from(&failure);
        if target.pool == PoolId::V2 && self.may.asks_v1(failed, now, self.deadline) {
            return Attempt::ToV1(again, failed.counts().then_some(ended));
        }
        self.whose.observe(ended);
        Attempt::Failed(failure)
    }
}

/// What V2 made of a request that V1 is asked for now. Whether V1 answered it is known when it has, or when the caller has
/// left.
struct FailedFirst<'a, 'b> {
    whose: &'a CallContext<'b>,
    by_v2: Option<Ended>,
}

impl FailedFirst<'_, '_> {
    fn count(&mut self, failed_over: bool) {
        if let Some(ended) = self.by_v2.take() {
            self.whose.observe(Ended { failed_over, ..ended });
        }
    }
}

impl Drop for FailedFirst<'_, '_> {
    fn drop(&mut self) {
        self.count(false);
    }
}

/// An attempt under way. It is dropped before it is over if its caller leaves. Then the time that the caller waited is
/// counted: otherwise a pool that lets all callers wait would have failed none.
struct Waiting<'a, 'b> {
    exchange: &'a Exchange<'b>,
    target: Target,
    is_over: bool,
}

impl Drop for Waiting<'_, '_> {
    fn drop(&mut self) {
        let Exchange { progress, flow, whose, .. } = self.exchange;
        // A caller that has not sent all of its body was not waiting for the pool. A stream may begin whenever it
        // wants.
        let is_sent = progress.as_ref().is_none_or(|progress| progress.is_done());
        if !self.is_over && is_sent && *flow == Flow::Body {
            whose.observe(Ended::abandoned(self.target.pool, clock::mono().since(self.target.since)));
        }
    }
}

/// The text of a failure by the status of an answer.
pub(super) fn said(status: StatusCode) -> String {
    format!("answered with {status}")
}
