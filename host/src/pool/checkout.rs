//! Who gets which worker next: a pure queue, without processes or time.
//!
//! A call either takes any worker or waits for the one that its session belongs to. Among the calls that a free worker
//! could serve, the one that has waited longest goes first; among free workers, the one that was used last, so that
//! the others may stay cold. A serialized pool is the same with one lane. Waiting is bounded.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// The queue of one pool. `W` is a worker.
#[derive(Debug)]
pub struct Checkout<W> {
    slots: Vec<Slot<W>>,
    shared: VecDeque<Waiter<W>>,
    tickets: u64,
    max_waiting: usize,
    lanes: usize,
    open: bool,
}

/// A place for a worker, whichever process fills it.
#[derive(Debug)]
struct Slot<W> {
    state: State<W>,
    /// Counts the workers that the slot has had: state in a worker of an earlier generation is gone.
    generation: u64,
    queue: VecDeque<Waiter<W>>,
    sessions: usize,
}

#[derive(Debug)]
enum State<W> {
    Down,
    Starting,
    Idle { worker: W, since: u64 },
    Busy,
}

#[derive(Debug)]
struct Waiter<W> {
    ticket: u64,
    hand_over: oneshot::Sender<Lent<W>>,
}

/// A worker on loan.
#[derive(Debug)]
pub struct Lent<W> {
    /// Its slot.
    pub slot: usize,
    /// The slot's generation.
    pub generation: u64,
    /// The worker.
    pub worker: W,
}

/// Why a call does not even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The pool is closed.
    Closed,
    /// As many calls wait as may.
    Full,
}

impl<W> Checkout<W> {
    /// A closed pool of empty slots. `lanes` calls may run at once.
    pub fn new(slots: usize, lanes: usize, max_waiting: usize) -> Self {
        let slot = || Slot { state: State::Down, generation: 0, queue: VecDeque::new(), sessions: 0 };
        Self {
            slots: (0..slots).map(|_| slot()).collect(),
            shared: VecDeque::new(),
            tickets: 0,
            max_waiting,
            lanes,
            open: false,
        }
    }

    /// Lets calls in.
    pub const fn open(&mut self) {
        self.open = true;
    }

    /// Lets no call in any more and turns away those that wait.
    pub fn close(&mut self) {
        self.open = false;
        self.shared.clear();
        self.slots.iter_mut().for_each(|slot| slot.queue.clear());
    }

    /// Whether calls are let in.
    pub const fn is_open(&self) -> bool {
        self.open
    }

    /// Waits for a worker: the one in `slot`, or any.
    ///
    /// # Errors
    /// Why the call does not wait.
    pub fn acquire(&mut self, slot: Option<usize>) -> Result<oneshot::Receiver<Lent<W>>, Refusal> {
        if !self.open {
            return Err(Refusal::Closed);
        }
        self.tickets += 1;
        let (hand_over, taken) = oneshot::channel();
        let waiter = Waiter { ticket: self.tickets, hand_over };
        match slot.and_then(|at| self.slots.get_mut(at)) {
            Some(slot) => slot.queue.push_back(waiter),
            None => self.shared.push_back(waiter),
        }
        self.dispatch();
        // Whoever was handed a worker waits no more; those who gave up do not count either.
        if self.waiting() > self.max_waiting {
            self.withdraw(self.tickets);
            return Err(Refusal::Full);
        }
        Ok(taken)
    }

    /// Takes a worker back, or learns that it is gone.
    pub fn hand_in(&mut self, slot: usize, worker: Option<W>) {
        self.tickets += 1;
        let since = self.tickets;
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.state = worker.map_or(State::Down, |worker| State::Idle { worker, since });
        }
        self.dispatch();
    }

    /// Fills a slot with a worker that was started.
    pub fn fill(&mut self, slot: usize, worker: W) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.generation += 1;
        }
        self.hand_in(slot, Some(worker));
    }

    /// Slots that need a worker; they count as starting from now on.
    pub fn take_down(&mut self) -> Vec<usize> {
        let down = self.slots.iter_mut().enumerate().filter(|(_, slot)| matches!(slot.state, State::Down));
        down.map(|(at, slot)| {
            slot.state = State::Starting;
            at
        })
        .collect()
    }

    /// Takes all idle workers out, to be stopped.
    pub fn take_idle(&mut self) -> Vec<W> {
        let mut idle = Vec::new();
        for slot in &mut self.slots {
            match std::mem::replace(&mut slot.state, State::Down) {
                State::Idle { worker, .. } => idle.push(worker),
                other @ (State::Down | State::Starting | State::Busy) => slot.state = other,
            }
        }
        idle
    }

    /// The slot for a session that has none: the one with the least work, then with the fewest sessions.
    pub fn assign(&mut self) -> usize {
        let load = |slot: &Slot<W>| {
            let down = matches!(slot.state, State::Down | State::Starting);
            let busy = matches!(slot.state, State::Busy);
            (down, slot.queue.len() + usize::from(busy), slot.sessions)
        };
        let best = self.slots.iter_mut().enumerate().min_by_key(|(_, slot)| load(slot));
        best.map_or(0, |(at, slot)| {
            slot.sessions += 1;
            at
        })
    }

    /// A session left its slot.
    pub fn unassign(&mut self, slot: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.sessions = slot.sessions.saturating_sub(1);
        }
    }

    /// Workers that can take or have a call.
    pub fn ready(&self) -> usize {
        self.slots.iter().filter(|s| matches!(s.state, State::Idle { .. } | State::Busy)).count()
    }

    /// Workers that have a call.
    pub fn busy(&self) -> usize {
        self.slots.iter().filter(|s| matches!(s.state, State::Busy)).count()
    }

    /// Slots whose worker is idle.
    pub fn idle_slots(&self) -> Vec<usize> {
        let idle = self.slots.iter().enumerate().filter(|(_, s)| matches!(s.state, State::Idle { .. }));
        idle.map(|(at, _)| at).collect()
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        let alive = |queue: &VecDeque<Waiter<W>>| queue.iter().filter(|w| !w.hand_over.is_closed()).count();
        alive(&self.shared) + self.slots.iter().map(|s| alive(&s.queue)).sum::<usize>()
    }

    fn withdraw(&mut self, ticket: u64) {
        self.shared.retain(|w| w.ticket != ticket);
        for slot in &mut self.slots {
            slot.queue.retain(|w| w.ticket != ticket);
        }
    }

    /// Hands out workers as long as a free one and a waiter for it exist.
    fn dispatch(&mut self) {
        while self.busy() < self.lanes {
            let Some((at, own)) = self.next() else { return };
            let shared = &mut self.shared;
            let Some(slot) = self.slots.get_mut(at) else { return };
            let waiter = if own { slot.queue.pop_front() } else { shared.pop_front() };
            let (Some(waiter), State::Idle { worker, since }) =
                (waiter, std::mem::replace(&mut slot.state, State::Busy))
            else {
                return;
            };
            let lent = Lent { slot: at, generation: slot.generation, worker };
            if let Err(Lent { worker, .. }) = waiter.hand_over.send(lent) {
                // The taker gave up while it waited.
                slot.state = State::Idle { worker, since };
            }
        }
    }

    /// The waiter that has waited longest for a free worker: its slot, and whether it is in the slot's own queue.
    fn next(&mut self) -> Option<(usize, bool)> {
        let idle = |slot: &Slot<W>| match slot.state {
            State::Idle { since, .. } => Some(since),
            State::Down | State::Starting | State::Busy => None,
        };
        let slots = || self.slots.iter().enumerate();
        let own = slots()
            .filter(|(_, slot)| idle(slot).is_some())
            .filter_map(|(at, slot)| Some((slot.queue.front()?.ticket, at, true)))
            .min();
        let warmest = slots().filter_map(|(at, slot)| Some((idle(slot)?, at))).max();
        let any = warmest.and_then(|(_, at)| Some((self.shared.front()?.ticket, at, false)));
        own.into_iter().chain(any).min().map(|(_, at, own)| (at, own))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Taken = oneshot::Receiver<Lent<&'static str>>;

    fn pool(workers: &[&'static str], lanes: usize, max_waiting: usize) -> Checkout<&'static str> {
        let mut pool = Checkout::new(workers.len(), lanes, max_waiting);
        pool.open();
        for (at, worker) in workers.iter().enumerate() {
            assert_eq!(pool.take_down().len(), if at == 0 { workers.len() } else { 0 });
            pool.fill(at, *worker);
        }
        pool
    }

    fn taken(receiver: &mut Taken) -> Option<&'static str> {
        receiver.try_recv().ok().map(|lent| lent.worker)
    }

    #[test]
    fn a_pinned_call_waits_for_its_worker_and_others_take_any() {
        let mut pool = pool(&["a", "b"], 2, 9);
        let mut first = pool.acquire(Some(0)).unwrap();
        let mut pinned = pool.acquire(Some(0)).unwrap();
        let mut any = pool.acquire(None).unwrap();
        assert_eq!((taken(&mut first), taken(&mut pinned), taken(&mut any)), (Some("a"), None, Some("b")));
        pool.hand_in(1, Some("b"));
        assert_eq!(taken(&mut pinned), None);
        pool.hand_in(0, Some("a"));
        assert_eq!(taken(&mut pinned), Some("a"));
    }

    #[test]
    fn one_lane_serializes_however_many_workers_there_are() {
        let mut pool = pool(&["a", "b"], 1, 9);
        let (mut first, mut second) = (pool.acquire(None).unwrap(), pool.acquire(None).unwrap());
        let got = taken(&mut first).unwrap();
        assert_eq!(taken(&mut second), None);
        pool.hand_in(usize::from(got == "b"), Some(got));
        assert!(taken(&mut second).is_some());
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_pool_turns_everyone_away() {
        let mut pool = pool(&["a"], 1, 1);
        let _first = pool.acquire(None).unwrap();
        let mut waiting = pool.acquire(None).unwrap();
        assert_eq!(pool.acquire(None).unwrap_err(), Refusal::Full);
        pool.close();
        assert_eq!(waiting.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
        assert_eq!(pool.acquire(None).unwrap_err(), Refusal::Closed);
        assert_eq!(pool.busy(), 1, "work in flight goes on");
    }

    #[test]
    fn a_dead_worker_leaves_its_slot_to_the_next_generation() {
        let mut pool = pool(&["a"], 1, 9);
        let lent = pool.acquire(None).unwrap().try_recv().unwrap();
        pool.hand_in(lent.slot, None);
        let mut waiting = pool.acquire(Some(0)).unwrap();
        assert_eq!((pool.take_down(), pool.ready()), (vec![0], 0));
        pool.fill(0, "a2");
        let next = waiting.try_recv().unwrap();
        assert_eq!((next.worker, next.generation), ("a2", lent.generation + 1));
    }

    proptest! {
        /// Whatever happens, a worker is never lent twice, lanes are kept, and nobody waits for a worker that is free.
        #[test]
        fn workers_are_lent_once_and_nobody_waits_in_vain(
            workers in 1_usize..5, lanes in 1_usize..5, steps in prop::collection::vec((0_u8..4, 0_usize..5), 0..80),
        ) {
            let mut pool = Checkout::new(workers, lanes, 1_000);
            pool.open();
            pool.take_down().into_iter().for_each(|at| pool.fill(at, at));
            let (mut waiting, mut lent): (Vec<oneshot::Receiver<Lent<usize>>>, Vec<Lent<usize>>) = Default::default();
            for (what, n) in steps {
                match what {
                    0 => waiting.push(pool.acquire(None).unwrap()),
                    1 => waiting.push(pool.acquire(Some(n % workers)).unwrap()),
                    2 if !lent.is_empty() => {
                        let back = lent.remove(n % lent.len());
                        pool.hand_in(back.slot, Some(back.worker));
                    }
                    3 if !waiting.is_empty() => drop(waiting.remove(n % waiting.len())),
                    _ => {}
                }
                let mut still = Vec::new();
                for mut receiver in waiting.drain(..) {
                    match receiver.try_recv() {
                        Ok(got) => lent.push(got),
                        Err(_) => still.push(receiver),
                    }
                }
                waiting = still;
                // A receiver that was dropped with a worker in it loses the worker: the pool's lease hands it in.
                let mut ids: Vec<_> = lent.iter().map(|l| l.worker).collect();
                ids.sort_unstable();
                let before = ids.len();
                ids.dedup();
                prop_assert_eq!(ids.len(), before);
                prop_assert!(pool.busy() <= lanes);
                prop_assert!(pool.next().is_none() || pool.busy() == lanes);
            }
        }
    }
}
