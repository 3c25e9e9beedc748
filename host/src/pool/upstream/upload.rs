//! A request's body on its way to an upstream.
//!
//! It is here already, if it is short, and then can be sent again. Or it comes: then it knows how far it has come, for
//! whoever waits for the answer; and it holds back until the upstream wants it if the caller asked for that
//! (`Expect: 100-continue`, RFC 9110, 10.1.1).

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
use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, timeout, timeout_at};

use crate::clock::{self, Mono};

/// How long an upstream may be silent until the body is sent without having been asked for; RFC 9110 leaves it open,
/// and many upstreams never ask.
const UNASKED: Duration = Duration::from_secs(1);

/// The longest body that is kept.
pub const SHORT: usize = 16 << 10;

/// What has to live as long as a body comes in.
pub type Held = Box<dyn fmt::Debug + Send + Sync>;

/// See the module.
#[derive(Debug, Default)]
pub struct Upload(Form);

#[derive(Debug, Default)]
enum Form {
    /// All of it is here, or all that is left of it. Most requests have none.
    #[default]
    None,
    Whole(Bytes),
    Coming(Box<Coming>),
}

#[derive(Debug)]
struct Coming {
    inner: Incoming,
    is_http2: bool,
    progress: Arc<Progress>,
    gate: Option<Gate>,
    /// What holds the caller's connection; dropped after the body.
    _held: Held,
}

/// Why a body did not become whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The caller broke off.
    #[error("the caller broke off in the middle of the body")]
    Broken,
    /// The caller sent nothing for a while.
    #[error("the body stood still for {0:?}")]
    Still(Duration),
    /// It took too long.
    #[error("the body took longer than `total_timeout` allows")]
    Late,
}

/// Why the rest of a body does not come.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// What hyper says.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// The caller ended the stream before the body.
    #[error("the stream was reset before its end")]
    Reset,
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
    /// A body, over HTTP/2 or not, and how far it will have come; what is `held` is dropped with it.
    pub fn of(
        body: Incoming,
        is_http2: bool,
        held: impl FnOnce(&Arc<Progress>) -> Held,
    ) -> (Self, Option<Arc<Progress>>) {
        if body.is_end_stream() {
            return (Self::default(), None);
        }
        let progress = Arc::<Progress>::default();
        progress.last.store(clock::mono().nanos(), Ordering::Relaxed);
        let held = held(&progress);
        let coming = Coming { inner: body, is_http2, progress: Arc::clone(&progress), gate: None, _held: held };
        (Self(Form::Coming(Box::new(coming))), Some(progress))
    }

    /// A body that is here already.
    pub fn whole(body: Bytes) -> Self {
        Self(if body.is_empty() { Form::None } else { Form::Whole(body) })
    }

    /// Waits for all of it, if it is short and has a length, so that it can be sent again. No part of it may take longer than
    /// `idle`, and all of it no longer than `total`.
    ///
    /// # Errors
    /// Why it will not become whole.
    pub async fn gather(&mut self, idle: Duration, total: Option<Duration>) -> Result<(), Incomplete> {
        let Form::Coming(coming) = &mut self.0 else { return Ok(()) };
        let length = coming.inner.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        let Some(length) = length.filter(|length| *length <= SHORT) else { return Ok(()) };
        let gathered = async {
            let mut whole = Vec::new();
            while let Some(frame) =
                timeout(idle, coming.inner.frame()).await.map_err(|_elapsed| Incomplete::Still(idle))?
            {
                // Trailers may be left out (RFC 9110, 6.5.1).
                if let Ok(data) = frame.map_err(|_broken| Incomplete::Broken)?.into_data() {
                    whole.extend_from_slice(&data);
                }
            }
            // HTTP/2 can end a body early without calling that an error.
            if whole.len() != length {
                return Err(Incomplete::Broken);
            }
            coming.progress.has_ended();
            Ok(whole)
        };
        let whole = match total.map(|total| clock::mono() + total) {
            Some(end) => timeout_at(end.timer(), gathered).await.unwrap_or(Err(Incomplete::Late))?,
            None => gathered.await?,
        };
        *self = Self::whole(whole.into());
        Ok(())
    }

    /// Holds the body back until the upstream asks for it.
    pub fn hold_back(&mut self) {
        if let Form::Coming(coming) = &mut self.0 {
            coming.gate = Some(Gate { asked: Arc::default(), patience: None });
        }
    }

    /// What is to be told that the upstream asks for it, if it waits for that.
    pub fn asked(&self) -> Option<Arc<Asked>> {
        match &self.0 {
            Form::Coming(coming) => Some(Arc::clone(&coming.gate.as_ref()?.asked)),
            Form::None | Form::Whole(_) => None,
        }
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, Form::None)
    }

    /// All of it, if it is here.
    pub fn as_whole(&self) -> Option<&[u8]> {
        match &self.0 {
            Form::None => Some(&[]),
            Form::Whole(body) => Some(body),
            Form::Coming(_) => None,
        }
    }

    /// The same once more, if it is here.
    pub fn again(&self) -> Option<Self> {
        match &self.0 {
            Form::None => Some(Self::default()),
            Form::Whole(body) => Some(Self(Form::Whole(body.clone()))),
            Form::Coming(_) => None,
        }
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

    /// All of it is on its way.
    pub fn has_ended(&self) {
        self.done.store(true, Ordering::Release);
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
    type Error = Lost;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Lost>>> {
        let Form::Coming(coming) = &mut self.0 else {
            return Poll::Ready(match std::mem::take(&mut self.0) {
                Form::Whole(body) => Some(Ok(Frame::data(body))),
                Form::None | Form::Coming(_) => None,
            });
        };
        let Coming { inner, is_http2, progress, gate, .. } = &mut **coming;
        if let Some(waits) = gate {
            ready!(waits.poll(cx));
            *gate = None;
        }
        progress.started.store(true, Ordering::Release);
        let frame = match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
            // A stream that is reset without an error is no error to hyper, and a part of a body no whole one.
            None if *is_http2 && !inner.is_end_stream() => Some(Err(Lost::Reset)),
            frame => frame.map(|frame| frame.map_err(Lost::Hyper)),
        };
        progress.last.store(clock::mono().nanos(), Ordering::Release);
        match &frame {
            Some(Err(_)) => progress.broken.store(true, Ordering::Release),
            None => progress.has_ended(),
            Some(Ok(_)) if inner.is_end_stream() => progress.has_ended(),
            Some(Ok(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Form::None => true,
            Form::Whole(_) => false,
            Form::Coming(coming) => coming.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Form::None => SizeHint::with_exact(0),
            Form::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Form::Coming(coming) => coming.inner.size_hint(),
        }
    }
}
