//! Closes connections that callers hold without using them.
//!
//! A connection is closed when a head does not become whole in time, when no further request comes, or when the caller
//! does not take what it is sent, or takes it too slowly. While a request is served, its pool's limits hold instead.
//!
//! Connections over which no whole head has come have a limit of their own. Beyond it the oldest of them is closed: an
//! honest caller sends its request at once, so an honest one is more likely among the newest. And when there are as
//! many connections as there may be, those over which the host has waited longest for the caller make room, as in
//! nginx.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::Ends;
use crate::{
    ingress::activity::{ConnectionActivity, Directive, Home, Shortage},
    pace::Pace,
};
use cutover_model::clock::{self, Mono};

/// How often connections are looked at, at least.
const LOOK: Duration = Duration::from_secs(5);

/// Connections that make room in one go: finding them costs a look at all.
const BATCH: usize = 32;

/// A connection over which the host has waited for so long makes room before others.
const LONG: Duration = Duration::from_millis(500);

/// How long the host waits for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a head to its end; also the longest wait for the first request of a connection.
    pub header_timeout: Duration,
    /// From the end of a request to the next one.
    pub keep_alive: Duration,
    /// Until the caller takes anything of what it is sent.
    pub send_timeout: Duration,
    /// How fast callers must take answers and send bodies.
    pub pace: Pace,
}

/// Connections that are looked at all at once and now and then, so that none of them has to keep a timer: those of one
/// thread, as a rule.
#[derive(Debug)]
pub struct IdleReaper {
    limits: Limits,
    /// How many connections there may be over which no whole head has come.
    max_pending: usize,
    home: Arc<Home>,
    all: Mutex<Vec<Weak<ConnectionActivity>>>,
    /// Connections over which no whole head has come, and some over which one has, in the order in which they came.
    arrivals: Mutex<VecDeque<Weak<ConnectionActivity>>>,
    leaving: AtomicBool,
    ending: AtomicBool,
}

impl IdleReaper {
    /// Watches connections with these limits, of which at most so many may not have asked anything yet.
    pub fn new(limits: Limits, max_pending: usize, shortage: Arc<Shortage>) -> Self {
        Self {
            limits,
            max_pending,
            home: Arc::new(Home { pace: limits.pace, pending: AtomicUsize::new(0), shortage }),
            all: Mutex::default(),
            arrivals: Mutex::default(),
            leaving: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }

    /// Takes a connection in: one that can be given away, or cannot; `is_pending` if no request has come over it yet.
    pub fn add(&self, can_leave: bool, is_pending: bool) -> Arc<ConnectionActivity> {
        let pulse = Arc::new(ConnectionActivity::new(&self.home, clock::mono(), can_leave, is_pending));
        self.all.lock().push(Arc::downgrade(&pulse));
        if is_pending {
            self.keep_pending_few(&pulse);
        }
        if self.ending.load(Ordering::Acquire) {
            pulse.tell(Directive::End);
        } else if self.leaving.load(Ordering::Acquire) {
            pulse.tell(Directive::Leave);
        }
        pulse
    }

    /// Connections over which only the caller is waited for, and since when.
    fn waiting(&self) -> Vec<(u64, Arc<ConnectionActivity>)> {
        let all = self.all.lock();
        all.iter().filter_map(Weak::upgrade).filter_map(|pulse| Some((pulse.waits_since()?, pulse))).collect()
    }

    /// Looks after the connections until they are told to leave or to end, and then on until `done`.
    pub async fn run(&self, ends: &Ends, done: &CancellationToken) {
        let mut not_told = Some(ends.told.token());
        let Limits { header_timeout, keep_alive, send_timeout, pace } = self.limits;
        let shortest = header_timeout.min(keep_alive).min(send_timeout);
        let shortest = if pace.rate > 0 { shortest.min(pace.grace) } else { shortest };
        let mut looks = tokio::time::interval((shortest / 2).clamp(Duration::from_millis(10), LOOK));
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = ends.shutdown.cancelled(), if !self.ending.load(Ordering::Acquire) => {
                    self.ending.store(true, Ordering::Release);
                    self.tell_all(Directive::End);
                }
                () = ends.leave.cancelled(), if !self.leaving.load(Ordering::Acquire) => {
                    self.leaving.store(true, Ordering::Release);
                    self.tell_all(Directive::Leave);
                    not_told.take();
                }
                _ = looks.tick() => self.look(clock::mono()),
            }
        }
    }

    fn tell_all(&self, order: Directive) {
        self.all.lock().iter().filter_map(Weak::upgrade).for_each(|pulse| pulse.tell(order));
    }

    fn look(&self, now: Mono) {
        self.all.lock().retain(|pulse| {
            let Some(pulse) = pulse.upgrade() else { return false };
            if let Some(why) = pulse.overdue(&self.limits, now) {
                tracing::debug!(?why, "a connection is closed");
                pulse.tell(Directive::Close);
            }
            true
        });
        self.arrivals.lock().retain(is_pending);
    }

    /// Takes in one over which nothing has come, and closes the oldest of them if there are too many.
    fn keep_pending_few(&self, pulse: &Arc<ConnectionActivity>) {
        let mut arrivals = self.arrivals.lock();
        arrivals.push_back(Arc::downgrade(pulse));
        while let Some(oldest) = arrivals.front() {
            if is_pending(oldest) {
                if self.home.pending.load(Ordering::Relaxed) <= self.max_pending {
                    return;
                }
                if let Some(oldest) = oldest.upgrade() {
                    tracing::debug!("a connection over which no request has come makes room");
                    oldest.give_way();
                }
            }
            arrivals.pop_front();
        }
    }
}

/// Tells connections to close over which the host has waited longest for the caller: as many as others wait for, and some
/// more of those that have waited for long. None that is `young`: what was sent over it may be on its way.
pub fn make_room(watches: &[Arc<IdleReaper>], shortage: &Shortage, young: Duration, now: Mono) {
    let wanted = shortage.wanted();
    if wanted == 0 {
        return;
    }
    let mut waiting: Vec<_> = watches.iter().flat_map(|watch| watch.waiting()).collect();
    let most = wanted.max(BATCH);
    if waiting.len() > most {
        waiting.select_nth_unstable_by_key(most, |(since, _)| *since);
        waiting.truncate(most);
    }
    waiting.sort_unstable_by_key(|(since, _)| *since);
    for (at, (since, pulse)) in waiting.into_iter().enumerate() {
        let age = now.since(Mono::from_nanos(since));
        if age > young && at < wanted || age > LONG {
            pulse.give_way();
        }
    }
}

fn is_pending(pulse: &Weak<ConnectionActivity>) -> bool {
    pulse.upgrade().is_some_and(|pulse| pulse.is_pending())
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_millis(100);

    const LIMITS: Limits = Limits {
        header_timeout: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        send_timeout: Duration::from_mins(1),
        pace: Pace::NONE,
    };

    fn is_told(pulse: &ConnectionActivity) -> bool {
        let cx = std::task::Context::from_waker(std::task::Waker::noop());
        pulse.order(&cx) == Directive::Close
    }

    #[test]
    fn of_those_who_have_not_asked_the_oldest_goes_when_there_are_too_many() {
        let watch = IdleReaper::new(LIMITS, 3, Arc::default());
        let all: Vec<_> = (0..3).map(|_| watch.add(true, true)).collect();
        let carried = watch.add(true, false);
        drop(all[0].begin());
        let fourth = watch.add(true, true);
        assert!(all.iter().chain([&carried, &fourth]).all(|pulse| !is_told(pulse)), "one of them has asked");
        let fifth = watch.add(true, true);
        assert_eq!(all.iter().map(|pulse| is_told(pulse)).collect::<Vec<_>>(), [false, true, false]);
        assert!(![&carried, &fourth, &fifth].into_iter().any(|pulse| is_told(pulse)));
        drop(all);
        let more: Vec<_> = (0..1).map(|_| watch.add(true, true)).collect();
        assert!(![&fourth, &fifth, &more[0]].into_iter().any(|pulse| is_told(pulse)), "one has gone");
    }

    #[test]
    fn who_has_kept_the_host_waiting_longest_makes_room_and_who_is_served_does_not() {
        let shortage = Arc::<Shortage>::default();
        let watches = [(); 2].map(|()| Arc::new(IdleReaper::new(LIMITS, 1_000, Arc::clone(&shortage))));
        let mut all: Vec<_> = (0..50).map(|at| Some(watches[at % 2].add(true, true))).collect();
        let served = all[3].as_ref().unwrap().begin();
        let told = |all: &[Option<Arc<ConnectionActivity>>]| -> Vec<usize> {
            (0..50).filter(|at| all[*at].as_ref().is_some_and(|pulse| is_told(pulse))).collect()
        };
        let now = clock::mono();
        make_room(&watches, &shortage, YOUNG, now + 2 * YOUNG);
        assert!(told(&all).is_empty(), "nobody wants it");
        let _waits: Vec<_> = (0..4).map(|_| shortage.begins()).collect();
        make_room(&watches, &shortage, YOUNG, now);
        assert!(told(&all).is_empty(), "all have just come");
        make_room(&watches, &shortage, YOUNG, now + 2 * YOUNG);
        make_room(&watches, &shortage, YOUNG, now + 2 * YOUNG);
        assert_eq!(
            told(&all),
            [0, 1, 2, 4],
            "nobody has waited for long, so no more than are wanted, and these go already"
        );
        for gone in told(&all) {
            all[gone] = None;
        }
        make_room(&watches, &shortage, YOUNG, now + 2 * LONG);
        assert_eq!(told(&all), (5..37).collect::<Vec<_>>());
        drop(served);
    }

    #[test]
    fn a_connection_ends_with_its_request_while_others_wait_for_its_place() {
        let shortage = Arc::<Shortage>::default();
        let watch = IdleReaper::new(LIMITS, 1_000, Arc::clone(&shortage));
        let pulse = watch.add(true, true);
        assert!(!pulse.is_ending());
        let waiting = shortage.begins();
        assert!(pulse.is_ending() && !pulse.makes_room(), "who has just come may ask");
        drop(pulse.begin());
        assert!(pulse.makes_room() && pulse.is_told_to_end());
        drop(waiting);
        let next = watch.add(true, false);
        assert!(!next.is_ending() && !next.makes_room());
    }
}
