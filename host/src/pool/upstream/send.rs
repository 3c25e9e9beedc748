//! Sending one request and waiting for the head of its answer.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use hyper::{Request, Response, body::Incoming};
use tokio::time::{timeout, timeout_at};

use super::{
    Inner, Ticket,
    connection::{Sender, Sent},
    member::Address,
    upload::{Progress, Upload},
};
use crate::{
    causes::chain,
    clock::{self, Mono},
    request::{Failure, FailureKind},
};

/// Connections that were closed while they waited, which are tried until a new one is made.
const STALE: usize = 8;

/// How long a connection that waited may still be busy.
const BUSY: Duration = Duration::from_millis(10);

/// An answer's head, and its body to come.
#[derive(Debug)]
pub struct Answered {
    /// The answer.
    pub response: Response<Incoming>,
    /// The connection, for when the body has been read.
    pub reuse: Reuse,
    /// How long the head took, from when the request was sent.
    pub took: Duration,
}

/// A connection that can be used again once the answer's body was read to its end; dropping it before closes it.
#[derive(Debug)]
pub struct Reuse(Option<(Arc<Inner>, usize, Sender)>);

/// A request that got no answer.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub failure: Failure,
    /// The request, if the member has not seen any of it.
    pub request: Option<Box<Request<Upload>>>,
    /// Whether it was the caller that broke off.
    pub by_caller: bool,
}

impl Reuse {
    /// Keeps the connection: the body was read to its end.
    pub fn keep(&mut self) {
        if let Some((pool, member, sender)) = self.0.take() {
            pool.keep(member, sender);
        }
    }
}

impl Ticket {
    /// Sends a request and waits for the head of its answer: until the deadline, or, while the caller still sends the
    /// body, as long as that moves on.
    ///
    /// # Errors
    /// By cause; what the member has not seen comes back.
    pub async fn send(
        &self,
        mut request: Box<Request<Upload>>,
        progress: Option<&Progress>,
        deadline: Mono,
    ) -> Result<Answered, Unanswered> {
        let Some(member) = self.pool.members.get(self.member) else {
            return Err(Unanswered::unsent(Failure::unsent(FailureKind::System, "no such member"), request));
        };
        for attempt in 0.. {
            let waiting = if attempt < STALE { self.pool.reuse(self.member) } else { None };
            let is_new = waiting.is_none();
            let mut sender = match waiting {
                Some(sender) => sender,
                None => match self.connect(&member.address, deadline).await {
                    Ok(sender) => sender,
                    Err(failure) => return Err(Unanswered::unsent(failure, request)),
                },
            };
            if !is_new && !self.is_ready(&mut sender).await {
                continue;
            }
            let started = clock::mono();
            self.pool.dispatched(started);
            let sent = match self.answer(sender.send(*request), progress, deadline).await {
                Ok(sent) => sent,
                Err(unanswered) => return Err(unanswered),
            };
            match sent {
                Ok(response) => {
                    let now = clock::mono();
                    let took = now.since(started);
                    member.answered(took, now);
                    return Ok(self.answered(response, sender, took));
                }
                Err(mut error) => match error.take_message() {
                    // It was closed at the very moment that it was chosen.
                    Some(unsent) if !is_new => request = Box::new(unsent),
                    unsent => return Err(self.broken(&error.into_error(), unsent, progress)),
                },
            }
        }
        Err(Unanswered::unsent(Failure::unsent(FailureKind::Connection, "no connection"), request))
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

    async fn connect(&self, address: &Address, deadline: Mono) -> Result<Sender, Failure> {
        // Apart from the request, which would carry the room for it otherwise: connecting is rare.
        let connecting = Box::pin(self.pool.connect(address));
        timeout_at(deadline.timer(), connecting).await.unwrap_or_else(|_elapsed| {
            Err(Failure::unsent(FailureKind::Timeout, format!("{address} was not reached in time")))
        })
    }

    fn answered(&self, response: Response<Incoming>, sender: Sender, took: Duration) -> Answered {
        // Other requests share a connection of HTTP/2 already: it waits with the others.
        let sender = if matches!(sender, Sender::Http2(_)) { None } else { Some(sender) };
        let reuse = Reuse(sender.map(|sender| (Arc::clone(&self.pool), self.member, sender)));
        Answered { response, reuse, took }
    }

    /// Waits for an answer, but not for ever.
    async fn answer(
        &self,
        sent: impl Future<Output = Sent>,
        progress: Option<&Progress>,
        mut deadline: Mono,
    ) -> Result<Sent, Unanswered> {
        let mut sent = std::pin::pin!(sent);
        let idle = self.pool.spec.idle_timeout;
        loop {
            if let Ok(sent) = timeout_at(deadline.timer(), &mut sent).await {
                return Ok(sent);
            }
            let Some(uploading) = progress.filter(|p| p.has_started() && !p.is_done()) else {
                let message = format!("{} did not answer in time", self.address());
                return Err(Unanswered::seen(Failure::sent(FailureKind::Timeout, message)));
            };
            // The answer is not due before the whole body is there.
            let now = clock::mono();
            if uploading.last() + idle <= now {
                let failure = Failure::sent(FailureKind::Timeout, format!("the body stood still for {idle:?}"));
                return Err(Unanswered { failure, request: None, by_caller: true });
            }
            deadline = uploading.last() + idle;
        }
    }

    fn broken(&self, error: &hyper::Error, unsent: Option<Request<Upload>>, progress: Option<&Progress>) -> Unanswered {
        if self.signals.give_up.is_cancelled() {
            let message = format!("{} was stopped", self.pool.spec.label);
            return Unanswered::seen(Failure::sent(FailureKind::System, message));
        }
        let address = self.address();
        let by_caller = progress.is_some_and(Progress::is_broken);
        let message = if by_caller {
            "the caller broke off in the middle of the body".to_owned()
        } else {
            format!("{address} broke off: {}", chain(error))
        };
        let kind = if error.is_parse() { FailureKind::Communication } else { FailureKind::Connection };
        match unsent {
            Some(request) => Unanswered::unsent(Failure::unsent(kind, message), Box::new(request)),
            None => Unanswered { failure: Failure::sent(kind, message), request: None, by_caller },
        }
    }

    fn address(&self) -> String {
        self.pool.members.get(self.member).map_or_else(String::new, |member| member.address.to_string())
    }
}

impl Unanswered {
    fn unsent(failure: Failure, request: Box<Request<Upload>>) -> Self {
        Self { failure, request: Some(request), by_caller: false }
    }

    const fn seen(failure: Failure) -> Self {
        Self { failure, request: None, by_caller: false }
    }
}
