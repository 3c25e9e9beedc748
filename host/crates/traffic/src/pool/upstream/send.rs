//! Sending one request and waiting for the head of its answer.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use hyper::upgrade::OnUpgrade;
use tokio::time::{timeout, timeout_at};

use super::{
    Ticket,
    connection::{Begun, NotSent, Sender, Sent},
    interim::Interims,
    member::Member,
    upload::{Incomplete, Progress, Upload},
    wire::AnswerBody,
};
use crate::{
    message::{ReplyHead, RequestHead},
    proxy_protocol::Ends,
};
use cutover_model::{
    causes::chain,
    clock::{self, Mono},
    request::{Failure, FailureKind},
};

/// Connections that were closed while they waited, which are tried until a new one is made.
const STALE: usize = 8;

/// How long a connection that waited may still be busy.
const BUSY: Duration = Duration::from_millis(10);

/// How a request is sent.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// How far its body has come, if it has one.
    pub progress: Option<&'a Progress>,
    /// Until when the head of the answer has to be there.
    pub deadline: Mono,
    /// How long its body may take to come; `None` for as long as it moves.
    pub total: Option<Duration>,
    /// Whether the request is wanted back, because it may be sent again; only one whose body is here can be.
    pub again: bool,
    /// Whether the request may be sent once more if the upstream closed the connection, which had waited, without a word.
    pub may_race: bool,
}

/// A request to an upstream.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug)]
pub struct Outgoing {
    pub head: Box<RequestHead>,
    pub body: Upload,
    /// Where interim answers are left for the caller; `None` if nobody passes them on.
    pub interims: Option<Arc<Interims>>,
    /// The addresses of its caller, for the PROXY protocol; `None` if no pool is told.
    pub ends: Option<Box<Ends>>,
}

/// An answer's head, and its body to come.
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
#[derive(Debug)]
pub struct Answered {
    pub head: ReplyHead,
    pub body: AnswerBody,
    /// The connection, once it has changed its protocol.
    pub upgraded: Option<OnUpgrade>,
    /// The request, if it was wanted again.
    pub request: Option<Outgoing>,
    /// The connection, for when the body has been read.
    pub reuse: Reuse,
}

/// A connection that can be used again once the answer's body was read to its end; dropping it before closes it.
#[derive(Debug)]
pub struct Reuse {
    /// None if the body holds it.
    sender: Option<Sender>,
    since: Mono,
}

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why there is no answer, and whether the member may have seen the request.
    pub failure: Failure,
    /// The request, if the member has not seen any of it or it was wanted again.
    pub request: Option<Outgoing>,
    /// Whether it was the caller that broke off.
    pub by_caller: bool,
}

impl Outgoing {
    /// A request without a body.
    pub fn of(head: RequestHead) -> Self {
        Self { head: Box::new(head), body: Upload::default(), interims: None, ends: None }
    }
}

impl Reuse {
    /// Keeps the connection: this body was read to its end.
    pub fn keep(&mut self, body: &mut AnswerBody, ticket: &Ticket) {
        let sender = self.sender.take().or_else(|| body.take_wire().map(Sender::Wire));
        if let Some(sender) = sender {
            ticket.pool.0.keep(ticket.member, sender, self.since);
        }
    }
}

impl Ticket {
    /// Sends a request and waits for the head of its answer: until the deadline, or, while the caller still sends the
    /// body, as long as that moves on.
    ///
    /// # Errors
    /// By cause. The request comes back if the member has not seen any of it.
    pub async fn send(&self, request: Outgoing, ask: Ask<'_>) -> Result<Answered, Unanswered> {
        let mut slot = Some(request);
        let (failure, by_caller) = match self.try_send(&mut slot, ask).await {
            Ok((Begun { head, body, upgraded, sender }, now)) => {
                let reuse = Reuse { sender, since: now };
                return Ok(Answered { head, body, upgraded, request: slot.filter(|_| ask.again), reuse });
            }
            Err(failed) => failed,
        };
        let request = slot.filter(|_| ask.again || !failure.sent);
        Err(Unanswered { failure, request, by_caller })
    }

    /// The request stays in its slot unless it was sent and is not wanted again. A failure comes with whether it was the
    /// caller that broke off.
    async fn try_send(&self, request: &mut Option<Outgoing>, ask: Ask<'_>) -> Result<(Begun, Mono), (Failure, bool)> {
        let pool = &self.pool.0;
        let Some(member) = pool.members.get(self.member) else {
            return Err((Failure::unsent(FailureKind::System, "no such member"), false));
        };
        // Once it was closed under a request that the member may have seen, no other that waits is tried.
        let mut has_raced = false;
        let ends = request.as_ref().and_then(|request| request.ends.as_deref().copied());
        for attempt in 0.. {
            let waiting = if attempt < STALE && !has_raced {
                pool.reuse(self.member, ends.as_ref(), clock::mono())
            } else {
                None
            };
            let is_new = waiting.is_none();
            let mut sender = match waiting {
                Some(sender) => sender,
                None => self.connect(member, ends.as_ref(), ask.deadline).await.map_err(|failure| (failure, false))?,
            };
            if !is_new && !self.is_ready(&mut sender).await {
                continue;
            }
            let started = clock::mono();
            pool.dispatched(started);
            let sent = sender.send((pool, &member.address), request, ask.again);
            match self.answer(sent, ask, started).await? {
                Ok(begun) => {
                    let now = clock::mono();
                    member.answered(now.since(started), now);
                    return Ok((begun, now));
                }
                // It was closed at the very moment that it was chosen.
                Err(NotSent { seen: false, .. }) if !is_new && request.is_some() => {}
                Err(NotSent { is_silent: true, .. }) if !is_new && ask.may_race && request.is_some() => {
                    has_raced = true;
                }
                Err(broken) => return Err(self.broken(&broken, ask.progress)),
            }
        }
        Err((Failure::unsent(FailureKind::Connection, "no connection"), false))
    }

    /// Whether a connection that waited can be used: at once, as a rule. An upstream that answered before it had the whole
    /// body leaves one that is still busy with the rest.
    async fn is_ready(&self, sender: &mut Sender) -> bool {
        let mut ready = std::pin::pin!(sender.ready());
        match ready.as_mut().now_or_never() {
            Some(is_ready) => is_ready,
            None => timeout(BUSY, ready).await.unwrap_or(false),
        }
    }

    async fn connect(&self, member: &Member, ends: Option<&Ends>, deadline: Mono) -> Result<Sender, Failure> {
        let address = &member.address;
        // Apart from the request, which would carry the room for it otherwise: connecting is rare.
        let connecting = Box::pin(self.pool.0.connect(member, ends));
        let connected = timeout_at(deadline.timer(), connecting).await.unwrap_or_else(|_elapsed| {
            Err(Failure::unsent(FailureKind::Timeout, format!("{address} was not reached in time")))
        });
        match &connected {
            Ok(_) => member.reach.meet(clock::mono()),
            // If no descriptor is left, that says nothing about the member.
            Err(failure) if failure.kind == FailureKind::Resource => {}
            Err(failure) => member.miss(&failure.message),
        }
        connected
    }

    /// Waits for an answer, but not for ever.
    async fn answer(
        &self,
        sent: impl Future<Output = Sent>,
        Ask { progress, deadline, total, .. }: Ask<'_>,
        started: Mono,
    ) -> Result<Sent, (Failure, bool)> {
        let mut sent = std::pin::pin!(sent);
        let spec = &self.pool.0.spec;
        let (idle, total) = (spec.idle_timeout, total.map(|limit| started + limit));
        let mut due = total.filter(|_| progress.is_some()).map_or(deadline, |at| at.min(deadline));
        loop {
            if let Ok(sent) = timeout_at(due.timer(), &mut sent).await {
                return Ok(sent);
            }
            let now = clock::mono();
            let Some(uploading) = progress.filter(|p| p.has_started() && !p.is_done()) else {
                if now < deadline {
                    // It was the body's time that was over, and the body has come.
                    due = deadline;
                    continue;
                }
                let message = format!("{} did not answer in time", self.address());
                return Err((Failure::sent(FailureKind::Timeout, message), false));
            };
            // The answer is not due before the whole body is there.
            if uploading.last() + idle <= now {
                let message = format!("the body stood still for {idle:?}");
                return Err((Failure::sent(FailureKind::Timeout, message), true));
            }
            if total.is_some_and(|at| at <= now) {
                let message = "the body took longer than `total_timeout` allows";
                return Err((Failure::sent(FailureKind::Timeout, message), true));
            }
            due = total.map_or(uploading.last() + idle, |at| at.min(uploading.last() + idle));
        }
    }

    fn broken(&self, NotSent { why, seen, .. }: &NotSent, progress: Option<&Progress>) -> (Failure, bool) {
        if self.signals().give_up.is_cancelled() {
            let message = format!("{} was stopped", self.pool.0.spec.label);
            return (Failure::sent(FailureKind::System, message), false);
        }
        let address = self.address();
        let by_caller = progress.and_then(Progress::why_broken);
        if let Some(why @ Incomplete::Slow(_)) = by_caller {
            return (Failure::sent(FailureKind::Timeout, why.to_string()), true);
        }
        let message = match by_caller {
            Some(why) => why.to_string(),
            None => format!("{address} broke off: {}", chain(why)),
        };
        let kind = if why.is_syntax() { FailureKind::Communication } else { FailureKind::Connection };
        let failure = if *seen { Failure::sent(kind, message) } else { Failure::unsent(kind, message) };
        (failure, by_caller.is_some())
    }

    fn address(&self) -> String {
        self.pool.0.members.get(self.member).map_or_else(String::new, |member| member.address.to_string())
    }
}
