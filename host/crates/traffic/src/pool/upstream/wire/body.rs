//! The body of an answer, from wherever it comes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::{
    Broken, Wire,
    framing::{Framing, Step},
};

/// A body that arrives from an upstream.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of it has come; none once it was taken.
    Whole(Option<Bytes>),
    /// The rest of it is read from the connection.
    Rest(Rest),
    /// It comes through hyper.
    Hyper {
        /// The body as hyper reads it.
        body: Incoming,
        /// Whether it comes over HTTP/2.
        is_http2: bool,
    },
}

/// A body that is read from its connection.
#[derive(Debug)]
pub struct Rest {
    /// None once reading failed.
    wire: Option<Box<Wire>>,
    framing: Framing,
    /// Whether the connection may be used again after it.
    reusable: bool,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Torn {
    /// The connection, or what came over it.
    #[error(transparent)]
    Wire(#[from] Broken),
    /// Hyper could not read it.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The upstream ended the stream before the body.
    #[error("the stream was reset before its end")]
    Reset,
}

impl Torn {
    /// Whether the upstream said something that is wrong.
    pub fn is_syntax(&self) -> bool {
        match self {
            Self::Wire(broken) => broken.is_syntax(),
            Self::Hyper(error) => error.is_parse(),
            Self::Reset => false,
        }
    }
}

impl AnswerBody {
    /// All of the body, if it is there.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        if let Self::Whole(whole) = self { whole.take() } else { None }
    }

    /// The connection that the body came over, if it has been read to its end.
    pub(in super::super) fn take_wire(&mut self) -> Option<Box<Wire>> {
        let Self::Rest(rest) = self else { return None };
        rest.wire.take().filter(|wire| rest.reusable && rest.framing.is_ended() && wire.read.is_empty())
    }
}

impl Rest {
    pub(super) const fn new(wire: Box<Wire>, framing: Framing, reusable: bool) -> Self {
        Self { wire: Some(wire), framing, reusable }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
        Poll::Ready(match ready!(wire.poll_step(cx, &mut self.framing)) {
            Ok(Step::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Step::Trailers(fields)) => Some(Ok(Frame::trailers(fields))),
            Ok(Step::End | Step::More) => None,
            Err(broken) => {
                self.wire = None;
                Some(Err(broken.into()))
            }
        })
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        match self.get_mut() {
            Self::Whole(whole) => Poll::Ready(whole.take().filter(|bytes| !bytes.is_empty()).map(Frame::data).map(Ok)),
            Self::Rest(rest) => rest.poll(cx),
            Self::Hyper { body, is_http2 } => match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                // A stream that is reset without an error is no error to hyper, and a part of a body no whole one.
                None if *is_http2 && !body.is_end_stream() => Poll::Ready(Some(Err(Torn::Reset))),
                frame => Poll::Ready(frame.map(|frame| frame.map_err(Torn::Hyper))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.as_ref().is_none_or(Bytes::is_empty),
            Self::Rest(rest) => rest.framing.is_ended(),
            Self::Hyper { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, Bytes::len) as u64),
            Self::Rest(Rest { framing: Framing::Length(left), .. }) => SizeHint::with_exact(*left),
            Self::Rest(_) => SizeHint::default(),
            Self::Hyper { body, .. } => body.size_hint(),
        }
    }
}
