//! Mirrors reads to the pool that did not answer them, within a budget, and hands both answers in for comparison. Reads
//! that V1 answered go to V2; once V2 answers nearly everything, some of V2's go back to V1.
//!
//! Mirrored requests are measured as callers' requests are: by the time from when the pool was asked to the head of the
//! answer. Bodies are compared without the compression that they were sent with.
//!
//! **Invariant**: nothing here can delay or change what the caller gets. Mirrored requests run on another runtime than
//! callers' requests; those that the budget has no room for are left out and counted.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{StatusCode, body::Bytes};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};
use tokio_util::task::TaskTracker;

use super::grpc;
use crate::{
    compare::Comparer,
    failover::{Failed as FailedCall, may_mirror},
    load::Room,
    message::{
        Fields, ReplyHead,
        encoding::{self, Undecoded, decode},
    },
    observe::{Asked, Failed, Observation, Outcome, Recorder, Session, Uncompared, failed::Said},
    pool::{
        UpstreamPool,
        upstream::{Ask, Outgoing},
    },
    proxy::recorder::CallContext,
    shadow::{BUDGET_SPENT, HOST_BUSY},
};
use cutover_model::{
    clock::{self, Mono},
    port::{Pair, Side},
    request::{Class, Failure, FailureKind, PoolId},
};

/// The largest body that is compared, before and after it is decompressed.
const MOST: usize = 256 << 10;

/// The field that tells an upstream that no caller waits for the answer.
const MARK: &str = "x-cutover-shadow";

/// Mirrors the reads of one migration.
#[derive(Debug)]
pub struct HttpMirror {
    parts: Setup,
    budget: Arc<Semaphore>,
    left_out: AtomicU64,
}

/// What a mirror is made of.
#[derive(Debug)]
pub struct Setup {
    /// The pool that is being replaced.
    pub v1: UpstreamPool,
    /// The pool that replaces `v1`.
    pub v2: UpstreamPool,
    /// Where mirrored requests are counted.
    pub recorder: Arc<Recorder>,
    /// Where answers are compared.
    pub comparer: Comparer,
    /// Mirrored requests that may be under way at once.
    pub budget: usize,
    /// How long one may take, unless its operation says otherwise.
    pub timeout: Duration,
    /// Operations that say themselves how long that is.
    pub limits: BTreeMap<Arc<str>, Duration>,
    /// Fields that they are sent without; in lower case.
    pub drop: Vec<String>,
    /// The runtime that they run on, apart from that of callers' requests.
    pub runtime: Handle,
    /// Counts them, so that the host can wait for them to end.
    pub tasks: TaskTracker,
}

/// A request that is to be mirrored, and its answer as far as it has come.
#[derive(Debug)]
pub struct Original {
    mirror: Arc<HttpMirror>,
    operation: Arc<str>,
    /// What counts as failed.
    failed: Arc<Failed>,
    session: Option<Session>,
    /// The pool whose answer the caller gets.
    by: PoolId,
    request: Outgoing,
    answer: Kept,
    /// When its head was here.
    began: Mono,
    permit: OwnedSemaphorePermit,
}

/// An answer as it came.
#[derive(Debug)]
struct Kept {
    status: StatusCode,
    media_type: String,
    encoding: String,
    /// Whether it says that the call failed, whatever its status is.
    fails_call: bool,
    /// Whether it counts as failed.
    says: Said,
    /// Or why it is not here.
    body: Result<Vec<u8>, Uncompared>,
}

/// Whether a request is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The plan does not want it.
    No,
    /// It is mirrored as soon as it is answered.
    Yes,
    /// It was to be, but the host serves too much.
    HostBusy,
    /// It was to be, but the connection is to change its protocol.
    Upgrade,
    /// It was to be, but its answer is a stream of events, which has no end.
    Endless,
}

impl HttpMirror {
    /// Puts the parts together; the whole budget is free.
    pub fn new(parts: Setup) -> Self {
        let budget = Arc::new(Semaphore::new(parts.budget));
        Self { parts, budget, left_out: AtomicU64::new(0) }
    }

    /// Begins to mirror a request that a pool answers, if there is room. `request` is what it was sent.
    pub fn begin(
        self: &Arc<Self>,
        whose: CallContext<'_>,
        by: PoolId,
        request: Option<Outgoing>,
        answer: &ReplyHead,
    ) -> Option<Box<Original>> {
        if !may_mirror(by, self.parts.v1.is_open()) {
            return None;
        }
        let Some(request) = request else {
            self.leave_out(whose, by, "the request had a long body, which is not kept");
            return None;
        };
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_owned() else {
            self.leave_out(whose, by, BUDGET_SPENT);
            return None;
        };
        let (mirror, operation) = (Arc::clone(self), Arc::clone(whose.operation));
        let failed = Arc::clone(whose.failed);
        let answer = Kept::of(answer, grpc::is_call(&answer.fields) && grpc::has_failed(&answer.fields));
        let (session, began) = (whose.session, clock::mono());
        Some(Box::new(Original { mirror, operation, failed, session, by, request, answer, began, permit }))
    }

    /// A read that a pool answers is not mirrored although it was to be.
    fn leave_out(&self, whose: CallContext<'_>, by: PoolId, why: &str) {
        self.left_out.fetch_add(1, Ordering::Relaxed);
        if by == PoolId::V1 {
            self.parts.comparer.leave(self.parts.recorder.pairs().ask(whose.operation), Uncompared::LeftOut, why);
        }
    }

    /// Leaves a read out if its wish is not to be fulfilled; whether that is so.
    pub fn deny(&self, wish: Wish, whose: CallContext<'_>, by: PoolId) -> bool {
        let denied = wish.denied();
        if let Some(why) = denied {
            self.leave_out(whose, by, why);
        }
        denied.is_some()
    }

    /// Mirrored requests that were left out because the budget was spent, or because their bodies are not here any more.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Wish {
    /// What a plan wants, as far as there is room.
    pub fn of(is_wanted: bool, upgrades: bool, room: Room) -> Self {
        match (is_wanted, upgrades) {
            (false, _) => Self::No,
            (true, true) => Self::Upgrade,
            (true, false) if room < Room::Mirrors => Self::HostBusy,
            (true, false) => Self::Yes,
        }
    }

    /// Why it is not fulfilled, if it is not.
    const fn denied(self) -> Option<&'static str> {
        match self {
            Self::No | Self::Yes => None,
            Self::HostBusy => Some(HOST_BUSY),
            Self::Upgrade => Some("the connection was to change its protocol"),
            Self::Endless => Some("a stream of events has no end to compare"),
        }
    }
}

impl Original {
    /// A part of the body came by.
    pub fn see(&mut self, data: &Bytes) {
        match &mut self.answer.body {
            Ok(body) if body.len() + data.len() <= MOST => body.extend_from_slice(data),
            Ok(_) => self.answer.body = Err(Uncompared::TooLarge),
            Err(_) => {}
        }
    }

    /// The answer is whole: asks the other pool, and hands both in.
    pub fn compare(self: Box<Self>) {
        let (tasks, runtime) = (self.mirror.parts.tasks.clone(), self.mirror.parts.runtime.clone());
        tasks.spawn_on(async move { self.run().await }, &runtime);
    }

    async fn run(self: Box<Self>) {
        let Self { mirror, operation, failed, session, by, request, answer, began, permit } = *self;
        // The other may take as long for its body as this one did.
        let kind = (&operation, &*failed, clock::mono().since(began));
        let pairs = mirror.parts.recorder.pairs();
        match by {
            PoolId::V1 => {
                let asked = pairs.ask(&operation);
                match mirror.ask(PoolId::V2, request, kind, None).await {
                    // A V2 that failed has not answered otherwise; how often it fails is the judge's to weigh.
                    Ok(v2) if v2.is_failure() && !answer.is_failure() => {
                        mirror.parts.comparer.leave(asked, Uncompared::Unanswered, &v2.failure());
                    }
                    Ok(v2) => mirror.hand_in(asked, by, answer, v2),
                    // A pool that was closed under a mirrored request says nothing about V2.
                    Err(failure) if !counts(&mirror.parts.v2, PoolId::V2, &failure) => drop(asked),
                    Err(failure) => mirror.parts.comparer.leave(asked, Uncompared::Unanswered, failure.kind.name()),
                }
            }
            // A read that V1 did not answer makes no pair: V2 must not be judged by a pool that may be on its way out.
            PoolId::V2 => {
                if let Ok(v1) = mirror.ask(PoolId::V1, request, kind, session).await
                    && (answer.is_failure() || !v1.is_failure())
                {
                    mirror.hand_in(pairs.ask(&operation), by, v1, answer);
                }
            }
        }
        drop(permit);
    }
}

/// Why a mirrored answer is none.
const LATE: &str = "the mirrored answer did not end in time";

impl HttpMirror {
    /// Asks a pool, and counts the call.
    async fn ask(
        &self,
        id: PoolId,
        mut request: Outgoing,
        (operation, failed, body): (&Arc<str>, &Failed, Duration),
        session: Option<Session>,
    ) -> Result<Kept, Failure> {
        let Setup { v1, v2, recorder, timeout, limits, .. } = &self.parts;
        let pool = match id {
            PoolId::V1 => v1,
            PoolId::V2 => v2,
        };
        // The caller has its answer.
        request.interims = None;
        for name in &self.parts.drop {
            request.head.fields.remove(name);
        }
        let started = clock::mono();
        let mut head_at = None;
        let deadline = started + *limits.get(operation).unwrap_or(timeout) + body;
        let answer = ask(pool, request, deadline, &mut head_at, failed).await;
        let took = head_at.unwrap_or_else(clock::mono).since(started);
        let outcome = match &answer {
            Ok(answer) if answer.says == Said::Failed || failed.by_time(took) => Outcome::Failed(FailureKind::Worker),
            Ok(_) => Outcome::Answered,
            Err(failure) if !counts(pool, id, failure) => return answer,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        recorder.record(Observation {
            operation,
            class: Class::Read,
            pool: id,
            mirrored: true,
            session,
            outcome,
            status: answer.as_ref().map_or(0, |answer| answer.status.as_u16()),
            unread: answer.as_ref().is_ok_and(|answer| answer.says == Said::Unread),
            failed_over: false,
            took,
        });
        answer
    }

    /// Hands in both answers, if there is anything to compare.
    fn hand_in(&self, asked: Asked, by: PoolId, v1: Kept, v2: Kept) {
        let (own, other) = match by {
            PoolId::V1 => (&v1, &v2),
            PoolId::V2 => (&v2, &v1),
        };
        let operation = asked.operation().to_string();
        // The caller has what the pool that answered it once sent, and says so with a validator that the other need not know.
        let sides = if own.status == StatusCode::NOT_MODIFIED && other.status == StatusCode::OK {
            Err((Uncompared::LeftOut, "not modified, says one pool, and the other has sent the whole".to_owned()))
        } else {
            v1.read("V1").and_then(|v1| Ok((v1, v2.read("V2")?)))
        };
        match sides {
            Ok((v1, v2)) => self.parts.comparer.submit(Pair { operation, v1, v2 }, asked),
            Err((what, why)) => self.parts.comparer.leave(asked, what, &why),
        }
    }
}

impl Kept {
    /// What is kept of an answer whose body is to come.
    fn of(head: &ReplyHead, fails_call: bool) -> Self {
        let text = |name| head.fields.text(name).unwrap_or_default().to_owned();
        let (media_type, encoding) = (text("content-type"), encoding::of(&head.fields));
        Self { status: head.status, media_type, encoding, fails_call, says: Said::Fine, body: Ok(Vec::new()) }
    }

    /// Takes note of what the whole of it says, as callers' answers are read.
    fn judge(&mut self, failed: &Failed, fields: &Fields) {
        self.says = match &self.body {
            _ if self.fails_call || failed.by_head(self.status.as_u16(), fields) => Said::Failed,
            Ok(body) => failed.by_body(self.status.as_u16(), fields, body),
            Err(_) if failed.reads_bodies() => Said::Unread,
            Err(_) => Said::Fine,
        };
    }

    /// Whether the pool failed the call, as callers' calls are failed over.
    fn is_failure(&self) -> bool {
        super::is_failure(self.status) || self.fails_call
    }

    /// How the pool failed the call.
    fn failure(&self) -> String {
        if self.fails_call { grpc::FAILED.to_owned() } else { super::said(self.status) }
    }

    /// As the comparison policy gets it, or why it does not.
    fn read(self, whose: &str) -> Result<Side, (Uncompared, String)> {
        let Self { status, media_type, encoding, fails_call, body, .. } = self;
        let too_large = || (Uncompared::TooLarge, format!("the answer of {whose} is larger than {} KiB", MOST >> 10));
        let body = body.map_err(|_too_large| too_large())?;
        let body = match decode(&encoding, &body, MOST) {
            Ok(Some(decoded)) => decoded,
            // A body that is not encoded as it says is left to the policy, which may know what it should be.
            Ok(None) | Err(Undecoded::Broken) => body,
            Err(Undecoded::TooLarge) => return Err(too_large()),
            Err(Undecoded::Unknown(encoding)) => {
                let why = format!("the answer of {whose} is encoded as `{encoding}`, which the host does not read");
                return Err((Uncompared::Incomparable, why));
            }
        };
        Ok(Side { success: status.as_u16() < 400 && !fails_call, status: status.as_u16(), media_type, body })
    }
}

fn counts(upstreams: &UpstreamPool, pool: PoolId, failure: &Failure) -> bool {
    FailedCall::from(failure).mirrored_counts(pool, upstreams.is_open())
}

/// Asks a pool, and waits for the whole answer; `head_at` is when its head was there.
async fn ask(
    pool: &UpstreamPool,
    mut request: Outgoing,
    deadline: Mono,
    head_at: &mut Option<Mono>,
    failed: &Failed,
) -> Result<Kept, Failure> {
    let ticket = pool.check_out(None, None, deadline, clock::mono()).await.map_err(|none| none.failure)?;
    request.head.fields.set(MARK, "1");
    let ask = Ask { progress: None, deadline, total: None, again: false, may_race: true };
    let mut answered = ticket.send(request, ask).await.map_err(|unanswered| unanswered.failure)?;
    *head_at = Some(clock::mono());
    let is_call = grpc::is_call(&answered.head.fields);
    let mut kept = Kept::of(&answered.head, is_call && grpc::has_failed(&answered.head.fields));
    let limited = Limited::new(&mut answered.body, MOST).collect();
    match timeout_at(deadline.timer(), limited).await {
        Ok(Ok(body)) => {
            // What was not read to its end is closed.
            answered.reuse.keep(&mut answered.body, &ticket);
            kept.fails_call |= is_call && body.trailers().is_some_and(grpc::say_failed);
            kept.body = Ok(body.to_bytes().to_vec());
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => kept.body = Err(Uncompared::TooLarge),
        Ok(Err(error)) => {
            let message = format!("the mirrored answer broke off: {error}");
            return Err(Failure::sent(FailureKind::Communication, message));
        }
        // The pool whose answer it is held against has ended its own.
        Err(_elapsed) => {
            ticket.count_failure(LATE);
            return Err(Failure::sent(FailureKind::Timeout, LATE.to_owned()));
        }
    }
    kept.judge(failed, &answered.head.fields);
    Ok(kept)
}
