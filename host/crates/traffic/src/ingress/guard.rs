//! Drives a connection until it has ended, can be given away, or is told to close.

use std::{future::poll_fn, pin::Pin, task::Poll};

use crate::ingress::activity::{ConnectionActivity, Directive};

/// Why a connection is not driven any more.
#[derive(Debug)]
pub enum Guarded<T> {
    /// It has ended, with this result.
    Ended(T),
    /// It can be given away: nothing is under way.
    Left,
    /// It was told to close.
    Closed,
}

/// Drives a connection, and does with it what it is told. It is given away only when nothing is under way.
pub async fn guard<C: Future>(
    mut connection: Pin<&mut C>,
    pulse: &ConnectionActivity,
    end: impl FnOnce(Pin<&mut C>),
) -> Guarded<C::Output> {
    let mut end = Some(end);
    poll_fn(|cx| {
        let order = pulse.order(cx);
        match order {
            Directive::GoOn | Directive::Leave => {}
            Directive::End => {
                if let Some(end) = end.take() {
                    // First it takes what was read before it began: that may be a part of a request.
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Guarded::Ended(ended));
                    }
                    end(connection.as_mut());
                }
            }
            Directive::Close => return Poll::Ready(Guarded::Closed),
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Guarded::Ended(ended)),
            Poll::Pending if order == Directive::Leave && pulse.can_go() => {
                // Hyper learns of a body that is not read any more when it is polled next: it reads the rest that is
                // here, or closes. Then it may come to another request.
                while pulse.was_torn() {
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Guarded::Ended(ended));
                    }
                    if !pulse.can_go() {
                        return Poll::Pending;
                    }
                }
                Poll::Ready(Guarded::Left)
            }
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// A connection of hyper's has ended.
pub fn end(pulse: &ConnectionActivity, guarded: &Guarded<hyper::Result<()>>) {
    if let Guarded::Ended(ended) = guarded {
        pulse.has_ended();
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
