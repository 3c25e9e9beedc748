//! An answer's body on its way to the caller.
//!
//! It holds the request's place at its upstream until the body has been read to its end, gives the connection back, and
//! tells what became of the exchange. It gives up when nothing moves for too long, and ends where a stream can end when
//! its pool is drained: server-sent events end after a whole event, which is a clean end; any other body is cut off
//! only when its pool is stopped, and then visibly, because a part must not pass for the whole.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::grpc;
use crate::{
    observe::Outcome,
    pool::upstream::{AnswerBody, Reuse, Ticket, Torn},
    proxy::recorder::ResponseRecorder,
};
use cutover_model::{
    clock::{self, Mono},
    request::FailureKind,
};

/// How long a body of a known length has stood still when its caller gives up, for that to be the pool's failure.
pub(super) const STILL: Duration = Duration::from_secs(1);

/// A body that is under way for longer counts by its head, and not only when it ends: it may never.
const COUNTED_AFTER: Duration = Duration::from_mins(1);

/// What is sent to a caller.
#[derive(Debug)]
pub enum ReplyBody {
    /// Something that is already here.
    Whole(Full<Bytes>),
    /// Something that an upstream still sends.
    Download(Box<Download>),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Cut {
    /// The upstream broke off.
    #[error("the upstream broke off")]
    Upstream(#[source] Torn),
    /// Nothing came for too long.
    #[error("the upstream sent nothing for {0:?}")]
    Idle(Duration),
    /// Nothing came until the caller gave up.
    #[error("the upstream sent nothing for {0:?}, and the caller gave up")]
    GivenUp(Duration),
    /// It took too long.
    #[error("the exchange took longer than {0:?}")]
    Total(Duration),
    /// Its pool was stopped.
    #[error("the pool was stopped")]
    Stopped,
}

/// The body of an answer that an upstream still sends.
#[derive(Debug)]
pub struct Download {
    inner: AnswerBody,
    /// None once it has ended.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    ticket: Ticket,
    reuse: Reuse,
    account: ResponseRecorder,
    /// Whether trailers said that the service failed, if they are what says so.
    has_failed: Option<bool>,
    /// Whether and where a stream of events can end.
    events: Option<Events>,
    /// Whether anything came since it last waited.
    moves: bool,
    /// Since when it waits.
    last: Mono,
    /// When its head was there.
    began: Mono,
    total: Option<(Duration, Mono)>,
    alarms: Option<Box<Alarms>>,
}

/// What wakes a body that waits. Made when it first waits: most bodies never do.
#[derive(Debug)]
struct Alarms {
    timer: Pin<Box<Sleep>>,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

/// Where in a stream of server-sent events it is: an event ends with an empty line.
#[derive(Debug, Clone, Copy, Default)]
pub struct Events {
    /// Line ends in a row.
    ends: u8,
    /// Whether the last byte was a carriage return, which a line feed may belong to.
    after_return: bool,
    /// Whether anything has come.
    begun: bool,
}

impl ReplyBody {
    /// Bytes that are already here.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Download {
    /// The body of an answer: of a stream of events, if it is one, and whether trailers have yet to say that it failed.
    pub fn new(
        inner: AnswerBody,
        (ticket, reuse): (Ticket, Reuse),
        account: ResponseRecorder,
        (events, has_failed): (Option<Events>, Option<bool>),
    ) -> Self {
        let now = clock::mono();
        let is_stream = events.is_some() || has_failed.is_some();
        let total = ticket.spec().total(is_stream).map(|limit| (limit, now + limit));
        let exchange = Exchange {
            ticket,
            reuse,
            account,
            has_failed,
            events,
            moves: false,
            last: now,
            began: now,
            total,
            alarms: None,
        };
        Self { inner, exchange: Some(exchange) }
    }

    /// Whether its pool has given it up.
    fn is_stopped(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.ticket.signals().give_up.is_cancelled())
    }

    /// The body was read to its end.
    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.reuse.keep(&mut self.inner, &exchange.ticket);
            let failed = exchange.decide();
            exchange.account.close(failed);
        }
    }

    /// Ends the exchange before the body does. `kind` is the member's failure; `None` if it is not to blame.
    fn cut(&mut self, kind: Option<FailureKind>, why: Cut) -> Cut {
        if let Some(mut exchange) = self.exchange.take() {
            match kind {
                Some(kind) => {
                    exchange.ticket.count_failure(&cutover_model::causes::chain(&why));
                    exchange.account.close(Some(Outcome::Failed(kind)));
                }
                None => exchange.account.leave(),
            }
        }
        why
    }

    /// Whether something other than the next frame has come to pass.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(Ok(())) };
        let idle = exchange.ticket.spec().idle_timeout;
        if std::mem::take(&mut exchange.moves) {
            exchange.last = clock::mono();
            if exchange.last.since(exchange.began) > COUNTED_AFTER {
                exchange.account.leave();
            }
        }
        let due = |last: Mono, total: Option<(Duration, Mono)>| {
            let idle_at = last + idle;
            total.map_or(idle_at, |(_, total_at)| total_at.min(idle_at))
        };
        let alarms = exchange.alarms.get_or_insert_with(|| {
            let signals = exchange.ticket.signals();
            Box::new(Alarms {
                timer: Box::pin(tokio::time::sleep_until(due(exchange.last, exchange.total).timer())),
                end: exchange.events.map(|_| Box::pin(signals.end.clone().cancelled_owned())),
            })
        });
        let told = alarms.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready());
        if told && exchange.events.is_some_and(Events::at_end) {
            if let Some(mut exchange) = self.exchange.take() {
                exchange.account.close(None);
            }
            return Poll::Ready(Ok(()));
        }
        while alarms.timer.as_mut().poll(cx).is_ready() {
            let now = clock::mono();
            if let Some((limit, at)) = exchange.total
                && at <= now
            {
                return Poll::Ready(Err(self.cut(Some(FailureKind::Timeout), Cut::Total(limit))));
            }
            if exchange.last + idle <= now {
                return Poll::Ready(Err(self.cut(Some(FailureKind::Timeout), Cut::Idle(idle))));
            }
            alarms.timer.as_mut().reset(due(exchange.last, exchange.total).timer());
        }
        Poll::Pending
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.exchange.is_none() {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(exchange) = &mut self.exchange {
                    exchange.moves = true;
                    if let Some(data) = frame.data_ref() {
                        exchange.account.see(data);
                        exchange.events.iter_mut().for_each(|events| events.see(data));
                    }
                    if let (Some(failed), Some(trailers)) = (&mut exchange.has_failed, frame.trailers_ref()) {
                        *failed |= grpc::say_failed(trailers);
                    }
                }
                if self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) if self.is_stopped() => Poll::Ready(Some(Err(self.cut(None, Cut::Stopped)))),
            Poll::Ready(Some(Err(error))) => {
                let kind = if error.is_syntax() { FailureKind::Communication } else { FailureKind::Connection };
                Poll::Ready(Some(Err(self.cut(Some(kind), Cut::Upstream(error)))))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Pending => self.wait(cx).map(|ended| ended.err().map(Err)),
        }
    }
}

impl Exchange {
    /// Counts for the member what only the end of an answer says; the failure, if it is one.
    fn decide(&self) -> Option<Outcome> {
        if self.has_failed? {
            self.ticket.count_failure(grpc::FAILED);
            return Some(Outcome::Failed(FailureKind::Worker));
        }
        self.ticket.count_success();
        None
    }
}

impl Events {
    fn see(&mut self, data: &[u8]) {
        for &byte in data {
            self.begun = true;
            match byte {
                b'\n' if self.after_return => self.after_return = false,
                b'\n' => self.ends = self.ends.saturating_add(1),
                b'\r' => {
                    self.ends = self.ends.saturating_add(1);
                    self.after_return = true;
                }
                _ => (self.ends, self.after_return) = (0, false),
            }
        }
    }

    /// Whether no event is half-way.
    const fn at_end(self) -> bool {
        !self.begun || self.ends >= 2
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // The caller went away: no fault of the pool, unless it was kept waiting. The connection is closed, because the rest
        // is still on it.
        if let Some(mut exchange) = self.exchange.take() {
            let still = clock::mono().since(exchange.last);
            let waits = exchange.alarms.is_some() && !exchange.moves && still >= STILL;
            // Whether more was to come of a stream of events or a call of gRPC is not known.
            let is_stream = exchange.events.is_some() || exchange.has_failed.is_some();
            let is_unfinished = self.inner.size_hint().exact().map_or(!is_stream, |left| left > 0);
            if waits && is_unfinished {
                exchange.ticket.count_failure(&cutover_model::causes::chain(&Cut::GivenUp(still)));
                exchange.account.close(Some(Outcome::Failed(FailureKind::Timeout)));
                return;
            }
            match exchange.decide() {
                Some(failed) => exchange.account.close(Some(failed)),
                None if is_unfinished => exchange.account.abandon(),
                None => exchange.account.leave(),
            }
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Download(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Download(body) => body.exchange.is_none() || body.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Download(body) => body.inner.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_events_can_end_after_an_empty_line() {
        let after = |parts: &[&str]| {
            let mut events = Events::default();
            for part in parts {
                events.see(part.as_bytes());
            }
            events.at_end()
        };
        assert!(after(&[]) && after(&["data: 1\n\n"]) && after(&["data: 1\r\n\r\n"]) && after(&["data: 1\r\r"]));
        assert!(after(&["data: 1\n", "\n"]) && after(&["data: 1\r", "\n\r", "\n"]) && after(&[": hi\n\n\n"]));
        assert!(!after(&["data: 1\n"]) && !after(&["data: 1\r\n"]) && !after(&["data: 1\n\ndata: 2"]));
    }
}
