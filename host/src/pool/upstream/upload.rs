//! A request's body on its way to an upstream.
//!
//! It knows how far it has come, for whoever waits for the answer; and it holds back until the upstream wants it if the
//! caller asked for that (`Expect: 100-continue`, RFC 9110, 10.1.1).

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Sleep;

use crate::clock::{self, Mono};

/// How long an upstream may be silent until the body is sent without having been asked for; RFC 9110 leaves it open,
/// and many upstreams never ask.
const UNASKED: Duration = Duration::from_secs(1);

/// What has to live as long as a body comes in.
pub type Held = Box<dyn fmt::Debug + Send + Sync>;

/// See the module. Most requests have none.
#[derive(Debug, Default)]
pub struct Upload(Option<Box<Coming>>);

#[derive(Debug)]
struct Coming {
    inner: Incoming,
    progress: Arc<Progress>,
    gate: Option<Gate>,
    /// What holds the caller's connection; dropped after the body.
    _held: Held,
}

/// How far a body has come.
#[derive(Debug, Default)]
pub struct Progress {
    started: AtomicBool,
    done: AtomicBool,
    broken: AtomicBool,
    last: AtomicU64,
}

/// Opens when an upstream says `100 Continue`.
#[derive(Debug, Default)]
pub struct Asked {
    open: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug)]
struct Gate {
    asked: Arc<Asked>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Upload {
    /// A body, and how far it will have come; what is `held` is dropped with it.
    pub fn of(body: Incoming, held: impl FnOnce() -> Held) -> (Self, Option<Arc<Progress>>) {
        if body.is_end_stream() {
            return (Self::default(), None);
        }
        let progress = Arc::<Progress>::default();
        progress.last.store(clock::mono().nanos(), Ordering::Relaxed);
        let coming = Coming { inner: body, progress: Arc::clone(&progress), gate: None, _held: held() };
        (Self(Some(Box::new(coming))), Some(progress))
    }

    /// Holds the body back until the upstream asks for it.
    pub fn hold_back(&mut self) {
        if let Some(coming) = &mut self.0 {
            coming.gate = Some(Gate { asked: Arc::default(), patience: None });
        }
    }

    /// What is to be told that the upstream asks for it, if it waits for that.
    pub fn asked(&self) -> Option<Arc<Asked>> {
        Some(Arc::clone(&self.0.as_ref()?.gate.as_ref()?.asked))
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Progress {
    /// Whether any of it was asked for.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether all of it is on its way.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Whether the caller broke off.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// When the last of it came.
    pub fn last(&self) -> Mono {
        Mono::from_nanos(self.last.load(Ordering::Acquire))
    }
}

impl Asked {
    /// Lets the body go.
    pub fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Gate {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.asked.waker.register(cx.waker());
        if self.asked.open.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(UNASKED))).as_mut().poll(cx)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(coming) = &mut self.0 else { return Poll::Ready(None) };
        let Coming { inner, progress, gate, .. } = &mut **coming;
        if let Some(waits) = gate {
            ready!(waits.poll(cx));
            *gate = None;
        }
        progress.started.store(true, Ordering::Release);
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        progress.last.store(clock::mono().nanos(), Ordering::Release);
        match &frame {
            Some(Err(_)) => progress.broken.store(true, Ordering::Release),
            None => progress.done.store(true, Ordering::Release),
            Some(Ok(_)) if inner.is_end_stream() => progress.done.store(true, Ordering::Release),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|coming| coming.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |coming| coming.inner.size_hint())
    }
}
