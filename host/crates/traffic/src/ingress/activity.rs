//! What is known of one connection: what it waits for, since when, and what it is told to do.
//!
//! It is shared by the task that serves the connection, which writes it, and by the [reaper](super::reaper), which
//! reads it and tells the connection to close.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
    task::Context,
    time::Duration,
};

use futures_util::task::AtomicWaker;

use crate::{
    ingress::reaper::Limits,
    pace::Pace,
    pool::upstream::upload::{Hold, Progress},
};
use cutover_model::clock::{self, Mono};

/// What the kernel keeps of an answer at least, so that it seems to be taken in pieces as large as this.
const IN_KERNEL: usize = 64 << 10;

/// What is known of one connection. Times are nanoseconds of the monotonic clock; 0 means "not waiting for this now".
#[derive(Debug)]
pub struct ConnectionActivity {
    /// Requests that have begun and whose answers are not whole yet.
    active: AtomicU32,
    /// Those of them that were not sent to a pool yet, because their bodies have not come.
    gathering: AtomicU32,
    /// Bodies that are not whole yet.
    arriving: AtomicU32,
    /// How many milliseconds behind the least rate the caller is in taking answers.
    behind_ms: AtomicU32,
    /// Whether the rest of the last body was left unread: the next bytes may belong to it.
    is_torn: AtomicBool,
    /// Whether no whole head has come yet.
    is_pending: AtomicBool,
    /// Whether it was told to close because others want its place.
    gives_way: AtomicBool,
    order: AtomicU8,
    /// Whether it can be given away to another host.
    can_leave: AtomicBool,
    /// Since when no request is served.
    idle_since: AtomicU64,
    /// Since when a head comes in.
    head_since: AtomicU64,
    /// Since when the caller takes nothing.
    stuck_since: AtomicU64,
    home: Arc<Home>,
    waker: AtomicWaker,
}

/// What connections that are watched together count in.
#[derive(Debug)]
pub(crate) struct Home {
    /// How fast answers must be taken.
    pub(super) pace: Pace,
    /// Connections over which no whole head has come yet.
    pub(super) pending: AtomicUsize,
    pub(super) shortage: Arc<Shortage>,
}

/// Callers who are there and may not come in, because there are as many connections as there may be.
#[derive(Debug, Default)]
pub struct Shortage {
    waiting: AtomicUsize,
    /// Connections that were told to make room and have not gone yet.
    going: AtomicUsize,
}

/// One caller who waits for a place; dropping it ends the wait.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Shortage);

/// What a connection is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Directive {
    /// Serve the next request.
    GoOn,
    /// Be given away when nothing is under way.
    Leave,
    /// End when the requests under way have ended.
    End,
    /// Close at once, whatever is under way.
    Close,
}

/// A request that is served; dropping it ends that.
#[derive(Debug)]
pub struct Active(Arc<ConnectionActivity>);

/// A body that comes in, maybe longer than its request is served; dropping it ends that.
#[derive(Debug)]
pub struct Arriving {
    pulse: Arc<ConnectionActivity>,
    progress: Arc<Progress>,
    /// Whether the request waits for this body and was not sent to a pool yet.
    gathers: AtomicBool,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The head did not become whole in time.
    Head,
    /// No request began in time.
    Idle,
    /// The caller took nothing of an answer for the send timeout.
    Stuck,
    /// The caller takes its answer more slowly than the least rate allows.
    Slow,
}

impl ConnectionActivity {
    /// For a new connection. `can_leave` if it can be given away; `is_pending` if no request has come over it yet.
    pub(crate) fn new(home: &Arc<Home>, now: Mono, can_leave: bool, is_pending: bool) -> Self {
        if is_pending {
            home.pending.fetch_add(1, Ordering::Relaxed);
        }
        Self {
            active: AtomicU32::new(0),
            gathering: AtomicU32::new(0),
            arriving: AtomicU32::new(0),
            behind_ms: AtomicU32::new(0),
            is_torn: AtomicBool::new(false),
            is_pending: AtomicBool::new(is_pending),
            gives_way: AtomicBool::new(false),
            order: AtomicU8::new(Directive::GoOn as u8),
            can_leave: AtomicBool::new(can_leave),
            idle_since: AtomicU64::new(now.nanos()),
            head_since: AtomicU64::new(0),
            stuck_since: AtomicU64::new(0),
            home: Arc::clone(home),
            waker: AtomicWaker::new(),
        }
    }

    /// What it is told; the task is woken when that changes.
    pub(crate) fn order(&self, cx: &Context<'_>) -> Directive {
        self.waker.register(cx.waker());
        match self.order.load(Ordering::Acquire) {
            0 => Directive::GoOn,
            1 => Directive::Leave,
            2 => Directive::End,
            _ => Directive::Close,
        }
    }

    /// Whether it ends with the request under way: it is told to, or others wait for its place.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_told_to_end() || self.home.shortage.is_there()
    }

    /// Whether it is told to end with the request under way.
    pub(crate) fn is_told_to_end(&self) -> bool {
        self.order.load(Ordering::Acquire) >= Directive::End as u8
    }

    /// Whether it ends instead of waiting for a further request, because others wait for its place.
    pub(crate) fn makes_room(&self) -> bool {
        !self.is_pending() && self.home.shortage.is_there()
    }

    /// Whether it is to leave, and can: nothing is under way in either direction. Holds only right after the connection was
    /// polled and waits.
    pub(crate) fn can_go(&self) -> bool {
        self.reads_no_more() && self.stuck_since.load(Ordering::Relaxed) == 0
    }

    /// The connection is over, as one of HTTP: it may go on as something else, and is read then whatever it was told.
    pub(crate) fn has_ended(&self) {
        self.order.fetch_max(Directive::Close as u8, Ordering::AcqRel);
    }

    /// It cannot be given away any more.
    pub(crate) fn stays(&self) {
        self.can_leave.store(false, Ordering::Release);
        if self.order.load(Ordering::Acquire) == Directive::Leave as u8 {
            self.tell(Directive::End);
        }
    }

    /// Whether no whole head has come over it yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.is_pending.load(Ordering::Relaxed)
    }

    /// Whether a body was left unread since this was last asked: another host would take the rest of it for a request.
    pub(crate) fn was_torn(&self) -> bool {
        self.is_torn.swap(false, Ordering::AcqRel)
    }

    /// Whether what comes in now is for the host that gets the connection next.
    pub(super) fn reads_no_more(&self) -> bool {
        self.order.load(Ordering::Acquire) == Directive::Leave as u8 && self.has_ended_all()
    }

    pub(super) fn tell(&self, order: Directive) {
        let order =
            if order == Directive::Leave && !self.can_leave.load(Ordering::Acquire) { Directive::End } else { order };
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Tells it to close because others want its place.
    pub(super) fn give_way(&self) {
        self.settle();
        if !self.gives_way.swap(true, Ordering::AcqRel) {
            self.home.shortage.going.fetch_add(1, Ordering::SeqCst);
        }
        self.tell(Directive::Close);
    }

    /// Since when nothing but the caller has been waited for; none if that is not so.
    pub(super) fn waits_since(&self) -> Option<u64> {
        let waits = self.active.load(Ordering::SeqCst) == self.gathering.load(Ordering::SeqCst);
        let is_told = self.order.load(Ordering::Acquire) == Directive::Close as u8;
        (waits && !is_told && self.stuck_since.load(Ordering::Relaxed) == 0)
            .then(|| self.idle_since.load(Ordering::Relaxed))
    }

    /// A part of a head has come.
    pub(crate) fn head_began(&self) {
        if self.active.load(Ordering::Relaxed) == 0 && self.head_since.load(Ordering::Relaxed) == 0 {
            self.head_since.store(clock::mono().nanos(), Ordering::Relaxed);
        }
    }

    /// The caller is known: from now on a head is waited for.
    pub(crate) fn is_known(&self, now: Mono) {
        self.head_since.store(0, Ordering::Relaxed);
        self.idle_since.store(now.nanos(), Ordering::Relaxed);
    }

    /// A request's head is whole.
    pub fn begin(self: &Arc<Self>) -> Active {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.settle();
        Active(Arc::clone(self))
    }

    /// Whether the connection is to be closed now.
    pub(crate) fn overdue(&self, limits: &Limits, now: Mono) -> Option<Overdue> {
        let waited = |since: &AtomicU64| match since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(now.since(Mono::from_nanos(since))),
        };
        let past = |since: &AtomicU64, limit: Duration| waited(since).is_some_and(|waited| waited >= limit);
        // A caller that is still being sent the end of an answer is not idle.
        if let Some(stuck) = waited(&self.stuck_since) {
            let behind = Duration::from_millis(self.behind_ms.load(Ordering::Relaxed).into());
            let left = self.home.pace.gathered(IN_KERNEL).left(behind);
            let slow = left.is_some_and(|left| stuck > left).then_some(Overdue::Slow);
            return slow.or((stuck >= limits.send_timeout).then_some(Overdue::Stuck));
        }
        if self.active.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if past(&self.head_since, limits.header_timeout) {
            return Some(Overdue::Head);
        }
        let limit = if self.is_pending() { limits.header_timeout.min(limits.keep_alive) } else { limits.keep_alive };
        past(&self.idle_since, limit).then_some(Overdue::Idle)
    }

    /// So many bytes were taken by the caller, or none could be sent.
    pub(super) fn sends(&self, took: Option<usize>) {
        let since = self.stuck_since.load(Ordering::Relaxed);
        match took {
            Some(_) if since == 0 && self.behind_ms.load(Ordering::Relaxed) == 0 => {}
            Some(bytes) => {
                self.stuck_since.store(0, Ordering::Relaxed);
                let waited = if since > 0 { clock::mono().since(Mono::from_nanos(since)) } else { Duration::ZERO };
                let behind = Duration::from_millis(self.behind_ms.load(Ordering::Relaxed).into());
                let behind = self.home.pace.behind(behind, waited, bytes).as_millis();
                self.behind_ms.store(u32::try_from(behind).unwrap_or(u32::MAX), Ordering::Relaxed);
            }
            None if since > 0 => {}
            None => self.stuck_since.store(clock::mono().nanos(), Ordering::Relaxed),
        }
    }

    fn has_ended_all(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0 && self.arriving.load(Ordering::Acquire) == 0
    }

    /// Wakes a connection that waits to leave, if it may be free to.
    fn ended_one(&self) {
        if self.order.load(Ordering::Acquire) == Directive::Leave as u8 {
            self.waker.wake();
        }
    }

    /// It counts no longer as one over which nothing has come.
    fn settle(&self) {
        if self.is_pending.load(Ordering::Relaxed) && self.is_pending.swap(false, Ordering::AcqRel) {
            self.home.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shortage {
    /// Counts a caller that waits for a place. A thread that looks at connections after that either sees one that has
    /// ended its last request, or that connection sees the shortage.
    pub fn begins(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        Waiting(self)
    }

    /// Connections that have to make room besides those that already do.
    pub(super) fn wanted(&self) -> usize {
        self.waiting.load(Ordering::SeqCst).saturating_sub(self.going.load(Ordering::SeqCst))
    }

    fn is_there(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Active {
    /// What comes of it is under way, too.
    pub(crate) fn another(&self) -> Self {
        self.0.begin()
    }

    /// Its body comes in, so far.
    pub fn arriving(&self, progress: &Arc<Progress>) -> Arriving {
        self.0.arriving.fetch_add(1, Ordering::Relaxed);
        Arriving { pulse: Arc::clone(&self.0), progress: Arc::clone(progress), gathers: AtomicBool::new(false) }
    }
}

impl Hold for Arriving {
    fn gathers(&self, gathers: bool) {
        let pulse = &self.pulse;
        match (self.gathers.swap(gathers, Ordering::Relaxed), gathers) {
            (false, true) => {
                pulse.idle_since.store(clock::mono().nanos(), Ordering::Relaxed);
                pulse.gathering.fetch_add(1, Ordering::SeqCst);
            }
            (true, false) => drop(pulse.gathering.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.gathers(false);
        if !self.progress.is_done() {
            self.pulse.is_torn.store(true, Ordering::Release);
        }
        self.pulse.arriving.fetch_sub(1, Ordering::Release);
        self.pulse.ended_one();
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // The time first: who sees that nothing is served has to see since when.
        self.0.idle_since.store(clock::mono().nanos(), Ordering::Relaxed);
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.ended_one();
            if self.0.home.shortage.is_there() {
                self.0.tell(Directive::End);
            }
        }
    }
}

impl Drop for ConnectionActivity {
    fn drop(&mut self) {
        self.settle();
        if self.gives_way.load(Ordering::Acquire) {
            self.home.shortage.going.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        header_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        send_timeout: Duration::from_mins(1),
        pace: Pace::NONE,
    };

    fn pulse(now: Mono, can_leave: bool) -> Arc<ConnectionActivity> {
        paced(now, can_leave, Pace::NONE)
    }

    fn paced(now: Mono, can_leave: bool, pace: Pace) -> Arc<ConnectionActivity> {
        let home = Home { pace, pending: AtomicUsize::new(0), shortage: Arc::default() };
        Arc::new(ConnectionActivity::new(&Arc::new(home), now, can_leave, true))
    }

    #[test]
    fn a_connection_that_is_not_used_is_overdue() {
        let start = clock::mono() + Duration::from_secs(1);
        let pulse = pulse(start, true);
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
    fn who_takes_an_answer_too_slowly_is_overdue_although_it_takes_some() {
        let pulse = paced(clock::mono(), true, Pace { rate: 1 << 20, grace: Duration::from_millis(500) });
        let stuck = |ms: u64| {
            let now = clock::mono() + Duration::from_mins(1);
            pulse.stuck_since.store(now.nanos() - ms * 1_000_000, Ordering::Relaxed);
            pulse.overdue(&LIMITS, now)
        };
        assert_eq!((stuck(500), stuck(600)), (None, Some(Overdue::Slow)));
        // It took one byte after a third of a second: that is forgotten only when it has taken as much as was due.
        pulse.behind_ms.store(333, Ordering::Relaxed);
        pulse.stuck_since.store(0, Ordering::Relaxed);
        pulse.sends(Some(1));
        assert_eq!((stuck(100), stuck(300)), (None, Some(Overdue::Slow)));
        pulse.stuck_since.store(0, Ordering::Relaxed);
        pulse.sends(Some(1 << 20));
        assert_eq!(stuck(500), None);
    }

    #[test]
    fn a_connection_leaves_when_nothing_is_under_way_and_not_before() {
        let pulse = pulse(clock::mono(), true);
        assert!(!pulse.can_go() && !pulse.reads_no_more(), "it was not told to leave");
        let (active, progress) = (pulse.begin(), Arc::<Progress>::default());
        let arriving = active.arriving(&progress);
        pulse.tell(Directive::Leave);
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
        let pulse = pulse(clock::mono(), true);
        let progress = Arc::<Progress>::default();
        progress.has_ended();
        drop(pulse.begin().arriving(&progress));
        assert!(!pulse.was_torn(), "all of it was read");
        drop(pulse.begin().arriving(&Arc::default()));
        assert!(pulse.was_torn() && !pulse.was_torn());
    }

    #[test]
    fn a_connection_that_cannot_leave_ends() {
        let pulse = pulse(clock::mono(), false);
        pulse.tell(Directive::Leave);
        assert_eq!(pulse.order.load(Ordering::Acquire), Directive::End as u8);
    }

    #[test]
    fn only_the_caller_is_waited_for_between_requests_and_while_a_body_is_gathered() {
        let pulse = pulse(clock::mono(), true);
        assert!(pulse.waits_since().is_some());
        let active = pulse.begin();
        assert_eq!(pulse.waits_since(), None);
        let arriving = active.arriving(&Arc::default());
        arriving.gathers(true);
        assert!(pulse.waits_since().is_some());
        arriving.gathers(false);
        assert_eq!(pulse.waits_since(), None);
        arriving.gathers(true);
        drop(arriving);
        assert_eq!(pulse.waits_since(), None);
        drop(active);
        assert!(pulse.waits_since().is_some());
        pulse.give_way();
        assert_eq!(pulse.waits_since(), None, "it is told once");
    }
}
