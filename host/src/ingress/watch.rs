//! Sees to it that no caller holds on to a connection without using it.
//!
//! A connection is closed when a head does not become whole in time, when no further request comes, or when the caller
//! does not take what it is sent. While a request is served, its pool's limits hold instead.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use super::{Ends, Settings};
use crate::{
    clock::{self, Mono},
    pool::upstream::upload::Progress,
    scratch,
};

/// How often connections are looked at, at least.
const LOOK: Duration = Duration::from_secs(5);

/// What is written at once is gathered in one place up to this size.
const FLAT: usize = 2 << 10;

thread_local! {
    /// Where it is gathered: for all connections of a thread, so that it stays in the processor's cache.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is known of a connection. Times are nanoseconds of the monotonic clock; 0 is "not now".
#[derive(Debug)]
pub(super) struct Pulse {
    /// Requests whose answers are not whole yet.
    active: AtomicU32,
    /// Bodies that are not whole yet.
    arriving: AtomicU32,
    /// Nobody wanted the rest of the last body: what comes may belong to it.
    is_torn: AtomicBool,
    /// Since when no request is served.
    idle_since: AtomicU64,
    /// Since when a head comes in.
    head_since: AtomicU64,
    /// Since when the caller takes nothing.
    stuck_since: AtomicU64,
    served: AtomicU32,
    order: AtomicU8,
    /// Whether it can be given away.
    can_leave: bool,
    waker: AtomicWaker,
}

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    /// To go on.
    GoOn,
    /// To be given away when its requests have ended.
    Leave,
    /// To end when its requests have.
    End,
    /// To be closed.
    Close,
}

/// The connections of one thread. They are looked at all at once and now and then, so that none of them has to keep a
/// timer.
#[derive(Debug, Default)]
pub(super) struct Watch {
    all: Mutex<Vec<Weak<Pulse>>>,
    leaving: AtomicBool,
    ending: AtomicBool,
}

/// A request that is served; dropping it ends that.
#[derive(Debug)]
pub(super) struct Active(Arc<Pulse>);

/// A body that comes in, maybe longer than its request is served; dropping it ends that.
#[derive(Debug)]
pub(super) struct Arriving(Arc<Pulse>, Arc<Progress>);

/// A stream whose reads and writes are noted.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    /// What was read before, by whoever had the connection then.
    before: Bytes,
    pulse: Arc<Pulse>,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The head did not become whole in time.
    Head,
    /// No request came.
    Idle,
    /// The caller took nothing.
    Stuck,
}

impl Pulse {
    /// Of a connection that can be given away, or cannot.
    pub(super) fn new(now: Mono, can_leave: bool) -> Self {
        Self {
            active: AtomicU32::new(0),
            arriving: AtomicU32::new(0),
            is_torn: AtomicBool::new(false),
            idle_since: AtomicU64::new(now.nanos()),
            head_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
            served: AtomicU32::new(0),
            order: AtomicU8::new(Order::GoOn as u8),
            can_leave,
            waker: AtomicWaker::new(),
        }
    }

    /// What it is told; whoever asks is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        self.waker.register(cx.waker());
        match self.order.load(Ordering::Acquire) {
            0 => Order::GoOn,
            1 => Order::Leave,
            2 => Order::End,
            _ => Order::Close,
        }
    }

    /// Whether it ends with the request under way.
    pub(super) fn is_ending(&self) -> bool {
        self.order.load(Ordering::Acquire) >= Order::End as u8
    }

    /// Whether it is to leave, and can: nothing is under way in either direction. Holds only right after the connection was
    /// polled and waits.
    pub(super) fn can_go(&self) -> bool {
        self.reads_no_more() && self.stuck_since.load(Ordering::Relaxed) == 0
    }

    /// The connection is over, as one of HTTP: it may go on as something else, and is read then whatever it was told.
    pub(super) fn has_ended(&self) {
        self.order.fetch_max(Order::Close as u8, Ordering::AcqRel);
    }

    /// Whether a body was left unread since this was last asked. Whoever got the connection would take its rest for a request.
    pub(super) fn was_torn(&self) -> bool {
        self.is_torn.swap(false, Ordering::AcqRel)
    }

    fn has_ended_all(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0 && self.arriving.load(Ordering::Acquire) == 0
    }

    /// Wakes a connection that waits to leave, if it may be free to.
    fn ended_one(&self) {
        if self.order.load(Ordering::Acquire) == Order::Leave as u8 {
            self.waker.wake();
        }
    }

    /// Whether what comes in now is for whoever gets the connection next.
    fn reads_no_more(&self) -> bool {
        self.order.load(Ordering::Acquire) == Order::Leave as u8 && self.has_ended_all()
    }

    fn tell(&self, order: Order) {
        let order = if order == Order::Leave && !self.can_leave { Order::End } else { order };
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// A part of a head has come.
    pub(super) fn head_began(&self) {
        if self.active.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(clock::mono().nanos(), Ordering::Relaxed);
        }
    }

    /// A request's head is whole.
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        Active(Arc::clone(self))
    }

    /// Whether the connection is to be closed now.
    pub(super) fn overdue(&self, limits: &Settings, now: Mono) -> Option<Overdue> {
        let past = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Ordering::Relaxed);
            since > 0 && now.since(Mono::from_nanos(since)) >= limit
        };
        // Who is still being sent the end of an answer is not idle.
        if self.stuck_since.load(Ordering::Relaxed) > 0 {
            return past(&self.stuck_since, limits.send_timeout).then_some(Overdue::Stuck);
        }
        if self.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if past(&self.head_since, limits.header_timeout) {
            return Some(Overdue::Head);
        }
        let first = self.served.load(Ordering::Relaxed) == 0;
        let limit = if first { limits.header_timeout.min(limits.keep_alive) } else { limits.keep_alive };
        past(&self.idle_since, limit).then_some(Overdue::Idle)
    }
}

impl Watch {
    /// Takes a connection in.
    pub(super) fn add(&self, pulse: &Arc<Pulse>) {
        self.all.lock().push(Arc::downgrade(pulse));
        if self.ending.load(Ordering::Acquire) {
            pulse.tell(Order::End);
        } else if self.leaving.load(Ordering::Acquire) {
            pulse.tell(Order::Leave);
        }
    }

    /// Looks after the connections until they are told to leave or to end, and then on until `done`.
    pub(super) async fn run(&self, limits: &Settings, ends: &Ends, done: &CancellationToken) {
        let mut not_told = Some(ends.told.token());
        let shortest = limits.header_timeout.min(limits.keep_alive).min(limits.send_timeout);
        let mut looks = tokio::time::interval((shortest / 2).clamp(Duration::from_millis(10), LOOK));
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = ends.shutdown.cancelled(), if !self.ending.load(Ordering::Acquire) => {
                    self.ending.store(true, Ordering::Release);
                    self.tell_all(Order::End);
                }
                () = ends.leave.cancelled(), if !self.leaving.load(Ordering::Acquire) => {
                    self.leaving.store(true, Ordering::Release);
                    self.tell_all(Order::Leave);
                    not_told.take();
                }
                _ = looks.tick() => self.look(limits, clock::mono()),
            }
        }
    }

    fn tell_all(&self, order: Order) {
        self.all.lock().iter().filter_map(Weak::upgrade).for_each(|pulse| pulse.tell(order));
    }

    fn look(&self, limits: &Settings, now: Mono) {
        self.all.lock().retain(|pulse| {
            let Some(pulse) = pulse.upgrade() else { return false };
            if let Some(why) = pulse.overdue(limits, now) {
                tracing::debug!(?why, "a connection is closed");
                pulse.tell(Order::Close);
            }
            true
        });
    }
}

impl Active {
    /// Its body comes in, so far.
    pub(super) fn arriving(&self, progress: &Arc<Progress>) -> Arriving {
        self.0.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving(Arc::clone(&self.0), Arc::clone(progress))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.1.is_done() {
            self.0.is_torn.store(true, Ordering::Release);
        }
        self.0.arriving.fetch_sub(1, Ordering::Release);
        self.0.ended_one();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.idle_since.store(clock::mono().nanos(), Ordering::Relaxed);
            self.0.ended_one();
        }
    }
}

impl<S> Watched<S> {
    /// A stream, and what was already read of it.
    pub(super) const fn new(inner: S, before: Bytes, pulse: Arc<Pulse>) -> Self {
        Self { inner, before, pulse }
    }

    /// The stream, and what was read before and not asked for.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.inner, self.before)
    }

    fn wrote<T>(&self, polled: &Poll<T>) {
        let since = &self.pulse.stuck_since;
        match polled {
            Poll::Ready(_) if since.load(Ordering::Relaxed) == 0 => {}
            Poll::Ready(_) => since.store(0, Ordering::Relaxed),
            Poll::Pending if since.load(Ordering::Relaxed) > 0 => {}
            Poll::Pending => since.store(clock::mono().nanos(), Ordering::Relaxed),
        }
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Adds what has come to what was read, and says how much; nothing at the end. Whether a head has begun is for whoever
    /// asks to tell ([`Pulse::head_began`]): most come whole.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, read: &mut BytesMut) -> Poll<io::Result<usize>> {
        if !self.before.is_empty() {
            read.extend_from_slice(&self.before);
            return Poll::Ready(Ok(std::mem::take(&mut self.before).len()));
        }
        if self.pulse.reads_no_more() {
            return Poll::Pending;
        }
        scratch::poll_read(Pin::new(&mut self.inner), cx, read)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = if !self.before.is_empty() {
            let some = self.before.len().min(buffer.remaining());
            buffer.put_slice(&self.before.copy_to_bytes(some));
            Poll::Ready(Ok(()))
        } else if self.pulse.reads_no_more() {
            // Whoever drives the connection gives it away as soon as it waits.
            Poll::Pending
        } else {
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        };
        if buffer.filled().len() > before {
            self.pulse.head_began();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes what is written, and waits here.
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.wrote(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head and a short body are written faster from one place than from two.
        let this = &mut *self;
        let polled = if slices.iter().map(|slice| slice.len()).sum::<usize>() <= FLAT {
            SCRATCH.with_borrow_mut(|flat| {
                flat.clear();
                for slice in slices {
                    flat.extend_from_slice(slice);
                }
                Pin::new(&mut this.inner).poll_write(cx, flat)
            })
        } else {
            Pin::new(&mut this.inner).poll_write_vectored(cx, slices)
        };
        self.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Settings = Settings {
        threads: 1,
        max_connections: 1,
        max_in_flight: 1,
        header_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        send_timeout: Duration::from_mins(1),
        tls: None,
    };

    #[test]
    fn a_connection_that_is_not_used_is_overdue() {
        let start = clock::mono() + Duration::from_secs(1);
        let pulse = Arc::new(Pulse::new(start, true));
        let after = |seconds| pulse.overdue(&LIMITS, start + Duration::from_secs(seconds));
        assert_eq!((after(9), after(10)), (None, Some(Overdue::Idle)), "the first request is wanted soon");
        let active = pulse.begin();
        assert_eq!(after(1_000), None, "its pool looks after a request that is served");
        drop(active);
        pulse.idle_since.store(start.nanos(), Ordering::Relaxed);
        assert_eq!((after(74), after(75)), (None, Some(Overdue::Idle)));
        pulse.head_since.store((start + Duration::from_secs(5)).nanos(), Ordering::Relaxed);
        assert_eq!((after(14), after(15)), (None, Some(Overdue::Head)));
        pulse.stuck_since.store((start + Duration::from_secs(90)).nanos(), Ordering::Relaxed);
        assert_eq!((after(149), after(150)), (None, Some(Overdue::Stuck)), "what is being sent is no idleness");
        pulse.stuck_since.store(start.nanos(), Ordering::Relaxed);
        let _active = pulse.begin();
        assert_eq!((after(59), after(60)), (None, Some(Overdue::Stuck)));
    }

    #[test]
    fn a_connection_leaves_when_nothing_is_under_way_and_not_before() {
        let pulse = Arc::new(Pulse::new(clock::mono(), true));
        assert!(!pulse.can_go() && !pulse.reads_no_more(), "it was not told to leave");
        let (active, progress) = (pulse.begin(), Arc::<Progress>::default());
        let arriving = active.arriving(&progress);
        pulse.tell(Order::Leave);
        assert!(!pulse.can_go() && !pulse.reads_no_more(), "a request is served");
        drop(active);
        assert!(!pulse.can_go() && !pulse.reads_no_more(), "its body still comes in");
        progress.has_ended();
        drop(arriving);
        assert!(pulse.can_go() && pulse.reads_no_more());
        pulse.stuck_since.store(1, Ordering::Relaxed);
        assert!(!pulse.can_go(), "the caller has not taken all of the answer");
        pulse.has_ended();
        assert!(!pulse.reads_no_more(), "it goes on as something else");
    }

    #[test]
    fn a_body_that_was_left_unread_is_known() {
        let pulse = Arc::new(Pulse::new(clock::mono(), true));
        let progress = Arc::<Progress>::default();
        progress.has_ended();
        drop(pulse.begin().arriving(&progress));
        assert!(!pulse.was_torn(), "all of it was read");
        drop(pulse.begin().arriving(&Arc::default()));
        assert!(pulse.was_torn() && !pulse.was_torn());
    }

    #[test]
    fn a_connection_that_cannot_leave_ends() {
        let pulse = Arc::new(Pulse::new(clock::mono(), false));
        pulse.tell(Order::Leave);
        assert_eq!(pulse.order.load(Ordering::Acquire), Order::End as u8);
    }
}
