//! The body of a request on its way to an upstream.
//!
//! A short body is read before the request is sent, and then can be sent again. Of any other body the beginning is read
//! first ([`Upload::gather`]), so that a caller who sends byte by byte takes no place at an upstream. The body notes
//! how far it has come, for the task that waits for the answer; it breaks off if the caller is too slow ([`Pace`]); and
//! it waits until the upstream asks for it if the caller wants that (`Expect: 100-continue`, RFC 9110, 10.1.1).

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
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
use tokio::time::{Sleep, timeout};

use crate::pace::Pace;
use cutover_model::clock::{self, Mono};

/// How long an upstream may be silent until the body is sent without having been asked for; RFC 9110 leaves it open,
/// and many upstreams never ask.
const UNASKED: Duration = Duration::from_secs(1);

/// The longest body that is kept.
pub const SHORT: usize = 16 << 10;

/// What has to live as long as a body comes in.
pub trait Hold: fmt::Debug + Send + Sync {
    /// Says whether the host waits for the caller alone from now on.
    fn gathers(&self, gathers: bool);
}

/// The body of a request: nothing, all of it, or still coming.
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
    /// The parts that have come and were not taken yet.
    ahead: VecDeque<Frame<Bytes>>,
    has_ended: bool,
    progress: Arc<Progress>,
    lag: Lag,
    gate: Option<Gate>,
    /// What holds the caller's connection; dropped after the body.
    held: Box<dyn Hold>,
}

/// How far behind its least rate a caller is.
#[derive(Debug)]
struct Lag {
    pace: Pace,
    behind: Duration,
    /// Since when it is waited for.
    since: Option<Mono>,
    /// Made when it is first waited for: most bodies that come never keep one waiting for long.
    alarm: Option<Pin<Box<Sleep>>>,
}

/// How long one waits for a body before anybody is asked.
#[derive(Debug, Clone, Copy)]
pub struct Wait {
    /// For any part of it.
    pub idle: Duration,
    /// For all of it.
    pub total: Duration,
    /// So many bytes are waited for, or the whole body if that is shorter.
    pub bytes: usize,
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
    /// It came too slowly.
    #[error("the body came more slowly than {0} bytes a second (`host.http.min_rate`)")]
    Slow(u64),
    /// It took too long.
    #[error("the body took longer than {0:?}")]
    Late(Duration),
}

/// How far a body has come.
#[derive(Debug, Default)]
pub struct Progress {
    started: AtomicBool,
    done: AtomicBool,
    broken: AtomicBool,
    /// The rate that it did not keep, if it was broken off for that.
    slow: AtomicU64,
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
    /// A body, over HTTP/2 or not, that has to come at a pace, and how far it will have come; what is `held` is dropped with
    /// it.
    pub fn of(
        body: Incoming,
        is_http2: bool,
        pace: Pace,
        held: impl FnOnce(&Arc<Progress>) -> Box<dyn Hold>,
    ) -> (Self, Option<Arc<Progress>>) {
        if body.is_end_stream() {
            return (Self::default(), None);
        }
        let progress = Arc::<Progress>::default();
        progress.last.store(clock::mono().nanos(), Ordering::Relaxed);
        let held = held(&progress);
        let lag = Lag { pace, behind: Duration::ZERO, since: None, alarm: None };
        let coming = Coming {
            inner: body,
            is_http2,
            ahead: VecDeque::new(),
            has_ended: false,
            progress: Arc::clone(&progress),
            lag,
            gate: None,
            held,
        };
        (Self(Form::Coming(Box::new(coming))), Some(progress))
    }

    /// A body that is here already.
    pub fn whole(body: Bytes) -> Self {
        Self(if body.is_empty() { Form::None } else { Form::Whole(body) })
    }

    /// How long it is, if that is known.
    pub fn length(&self) -> Option<u64> {
        self.size_hint().exact()
    }

    /// Waits until so much of it is here. If it is whole then and `is_kept`, it can be sent again.
    ///
    /// # Errors
    /// Why the body did not come.
    pub async fn gather(&mut self, wait: Wait, is_kept: bool) -> Result<(), Incomplete> {
        let Form::Coming(coming) = &mut self.0 else { return Ok(()) };
        let length = coming.inner.size_hint().exact().and_then(|length| usize::try_from(length).ok());
        coming.held.gathers(true);
        let gathered = coming.read_ahead(length, wait);
        let gathered = timeout(wait.total, gathered).await.unwrap_or(Err(Incomplete::Late(wait.total)));
        coming.held.gathers(false);
        if gathered? && is_kept {
            // Trailers may be left out (RFC 9110, 6.5.1).
            let parts = coming.ahead.iter().filter_map(Frame::data_ref).map(|data| &**data);
            let whole = parts.collect::<Vec<_>>().concat();
            coming.progress.has_ended();
            *self = Self::whole(whole.into());
        }
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

    /// Why it will not become whole, if the caller has broken off or was too slow.
    pub fn why_broken(&self) -> Option<Incomplete> {
        match self.slow.load(Ordering::Acquire) {
            0 => self.broken.load(Ordering::Acquire).then_some(Incomplete::Broken),
            rate => Some(Incomplete::Slow(rate)),
        }
    }

    /// When the last part of it came.
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

impl Coming {
    /// Reads until so much is here; whether that is all, which then has as many bytes as were announced.
    async fn read_ahead(&mut self, length: Option<usize>, wait: Wait) -> Result<bool, Incomplete> {
        let mut bytes = 0;
        // The end is waited for, too: over HTTP/2 it comes by itself.
        while bytes < wait.bytes || length == Some(bytes) {
            let next = timeout(wait.idle, poll_fn(|cx| self.poll_next(cx)));
            let Some(frame) = next.await.map_err(|_elapsed| Incomplete::Still(wait.idle))?.transpose()? else {
                // HTTP/2 can end a body early without calling that an error.
                let is_whole = length.is_none_or(|length| length == bytes);
                return if is_whole { Ok(true) } else { Err(Incomplete::Broken) };
            };
            bytes += frame.data_ref().map_or(0, Bytes::len);
            self.ahead.push_back(frame);
        }
        Ok(false)
    }

    /// Polls for the next part, and notes how fast the caller sends.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let Self { inner, is_http2, progress, lag, .. } = self;
        progress.started.store(true, Ordering::Release);
        let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
            ready!(lag.poll(cx));
            progress.slow.store(lag.pace.rate, Ordering::Release);
            progress.broken.store(true, Ordering::Release);
            return Poll::Ready(Some(Err(Incomplete::Slow(lag.pace.rate))));
        };
        let frame = match frame {
            // A stream that is reset without an error is no error to hyper, and a part of a body no whole one.
            None if *is_http2 && !inner.is_end_stream() => Some(Err(Incomplete::Broken)),
            frame => frame.map(|frame| frame.map_err(|_broken| Incomplete::Broken)),
        };
        let came = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        lag.ends(came);
        progress.last.store(clock::mono().nanos(), Ordering::Release);
        match &frame {
            Some(Err(_)) => progress.broken.store(true, Ordering::Release),
            None => progress.has_ended(),
            Some(Ok(_)) if inner.is_end_stream() => progress.has_ended(),
            Some(Ok(_)) => {}
        }
        self.has_ended = frame.as_ref().is_none_or(Result::is_err);
        Poll::Ready(frame)
    }
}

impl Lag {
    /// The caller is waited for: ready once that has been too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.since.get_or_insert_with(clock::mono);
        let Some(left) = self.pace.left(self.behind) else { return Poll::Pending };
        let due = since + left;
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due.timer())));
        // It is never due earlier than it was, so the alarm is put off only when it goes off.
        while alarm.as_mut().poll(cx).is_ready() {
            if due <= clock::mono() {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(due.timer());
        }
        Poll::Pending
    }

    /// So many bytes have come.
    fn ends(&mut self, bytes: usize) {
        if self.since.is_some() || !self.behind.is_zero() {
            let waited = self.since.take().map_or(Duration::ZERO, |since| clock::mono().since(since));
            self.behind = self.pace.behind(self.behind, waited, bytes);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Incomplete;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Incomplete>>> {
        let Form::Coming(coming) = &mut self.0 else {
            return Poll::Ready(match std::mem::take(&mut self.0) {
                Form::Whole(body) => Some(Ok(Frame::data(body))),
                Form::None | Form::Coming(_) => None,
            });
        };
        if let Some(waits) = &mut coming.gate {
            ready!(waits.poll(cx));
            coming.gate = None;
        }
        if let Some(frame) = coming.ahead.pop_front() {
            coming.progress.last.store(clock::mono().nanos(), Ordering::Release);
            return Poll::Ready(Some(Ok(frame)));
        }
        coming.poll_next(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Form::None => true,
            Form::Whole(_) => false,
            Form::Coming(coming) => coming.ahead.is_empty() && (coming.has_ended || coming.inner.is_end_stream()),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Form::None => SizeHint::with_exact(0),
            Form::Whole(body) => SizeHint::with_exact(body.len() as u64),
            Form::Coming(coming) => {
                let ahead: usize = coming.ahead.iter().filter_map(Frame::data_ref).map(Bytes::len).sum();
                let (mut hint, ahead) = (coming.inner.size_hint(), ahead as u64);
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + ahead);
                }
                hint.set_lower(hint.lower() + ahead);
                hint
            }
        }
    }
}
