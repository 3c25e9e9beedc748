use proptest::prelude::*;

use super::*;
use crate::pool::restarts::Death;

type Pool = Checkout<&'static str>;

const NOW: Mono = Mono::from_nanos(1);

fn shape(workers: usize) -> Shape {
    Shape {
        wanted: workers,
        regular: workers,
        overflow: 0,
        max_overflow: 0,
        lanes: 99,
        max_waiting: 9,
        order: QueueOrder::Fifo,
        max_sessions: 100,
    }
}

/// An open pool whose slots have these workers.
fn pool(workers: &[&'static str], shape: Shape) -> Pool {
    let mut pool = Checkout::new(shape);
    pool.open();
    assert_eq!(pool.vacancies().len(), shape.wanted);
    for (slot, worker) in workers.iter().enumerate() {
        start(&mut pool, slot, worker);
    }
    pool
}

fn start(pool: &mut Pool, slot: usize, worker: &'static str) {
    let number = pool.begin(slot, NOW).unwrap();
    assert!(pool.started(slot, number, worker, NOW).is_none());
}

fn session(name: &str) -> Arc<str> {
    name.into()
}

fn now<W: std::fmt::Debug>(turn: Result<Turn<W>, Refusal>) -> Lent<W> {
    match turn.unwrap() {
        Turn::Now(lent) => lent,
        Turn::Later(later) => panic!("has to wait: {later:?}"),
    }
}

fn later<W: std::fmt::Debug>(turn: Result<Turn<W>, Refusal>) -> Pending<W> {
    match turn.unwrap() {
        Turn::Later(pending) => pending,
        Turn::Now(lent) => panic!("need not wait: {lent:?}"),
    }
}

fn back(pool: &mut Pool, Lent { slot, number, worker }: Lent<&'static str>) {
    assert!(pool.hand_in(slot, number, worker, NOW).is_none());
}

fn taken(pending: &mut Pending<&'static str>) -> Option<Lent<&'static str>> {
    pending.worker.try_recv().ok()
}

#[test]
fn a_session_waits_for_its_worker_and_calls_without_one_take_any() {
    let (mut pool, s) = (pool(&["a", "b"], shape(2)), session("s"));
    let first = now(pool.acquire(Some(&s), NOW));
    let mut again = later(pool.acquire(Some(&s), NOW));
    let any = now(pool.acquire(None, NOW));
    assert_ne!(first.worker, any.worker);
    back(&mut pool, any);
    assert!(taken(&mut again).is_none(), "its session is at home elsewhere");
    let slot = first.slot;
    back(&mut pool, first);
    assert_eq!(taken(&mut again).unwrap().slot, slot);
}

#[test]
fn sessions_spread_over_workers() {
    let mut pool = pool(&["a", "b", "c"], shape(3));
    for n in 0..9 {
        let lent = now(pool.acquire(Some(&session(&n.to_string())), NOW));
        back(&mut pool, lent);
    }
    let homes: Vec<_> = pool.slots().map(|s| s.sessions).collect();
    assert_eq!(homes, [3, 3, 3]);
}

#[test]
fn one_lane_serializes_however_many_workers_there_are() {
    let mut pool = pool(&["a", "b"], Shape { lanes: 1, ..shape(2) });
    let first = now(pool.acquire(None, NOW));
    let mut second = later(pool.acquire(None, NOW));
    assert!(taken(&mut second).is_none());
    back(&mut pool, first);
    assert!(taken(&mut second).is_some());
}

#[test]
fn a_full_queue_refuses_and_a_closed_pool_turns_everyone_away() {
    let mut pool = pool(&["a"], Shape { max_waiting: 1, ..shape(1) });
    let first = now(pool.acquire(None, NOW));
    let mut waiting = later(pool.acquire(None, NOW));
    assert_eq!(pool.acquire(None, NOW).unwrap_err(), Refusal::Full);
    pool.close();
    assert_eq!(waiting.worker.try_recv().unwrap_err(), oneshot::error::TryRecvError::Closed);
    assert_eq!(pool.acquire(None, NOW).unwrap_err(), Refusal::Closed);
    assert_eq!(pool.busy(), 1, "work in flight goes on");
    assert_eq!(pool.hand_in(first.slot, first.number, first.worker, NOW), Some("a"), "and its worker goes after it");
}

#[test]
fn who_gives_up_makes_room() {
    let mut pool = pool(&["a"], Shape { max_waiting: 1, ..shape(1) });
    let _first = now(pool.acquire(None, NOW));
    let waiting = later(pool.acquire(None, NOW));
    pool.give_up(waiting.ticket);
    assert_eq!(pool.waiting(), 0);
    later(pool.acquire(None, NOW));
}

#[test]
fn last_in_first_out_serves_the_call_that_came_last() {
    for (order, expected) in [(QueueOrder::Fifo, [true, false]), (QueueOrder::Lifo, [false, true])] {
        let mut pool = pool(&["a"], Shape { order, ..shape(1) });
        let first = now(pool.acquire(None, NOW));
        let mut waiting = [later(pool.acquire(None, NOW)), later(pool.acquire(None, NOW))];
        back(&mut pool, first);
        assert_eq!(waiting.each_mut().map(|w| taken(w).is_some()), expected, "{order:?}");
    }
}

#[test]
fn a_session_moves_when_its_worker_dies_and_its_calls_go_with_it() {
    let (mut pool, s) = (pool(&["a", "b"], shape(2)), session("s"));
    let lent = now(pool.acquire(Some(&s), NOW));
    pool.learned(Some(&s), lent.slot, lent.number, 7);
    assert_eq!(pool.known(Some(&s), lent.slot, lent.number), 7);
    let mut waiting = later(pool.acquire(Some(&s), NOW));
    assert!(pool.give_up_worker(lent.slot, lent.number, Broken::Failed("it hangs".into()), NOW));
    assert!(!pool.give_up_worker(lent.slot, lent.number, Broken::Failed("it hangs".into()), NOW), "known already");
    let other = taken(&mut waiting).expect("the other worker serves it");
    assert_ne!(other.slot, lent.slot);
    assert_eq!(pool.known(Some(&s), other.slot, other.number), 0, "and has to be told everything");
    let slot = other.slot;
    back(&mut pool, other);
    assert_eq!(now(pool.acquire(Some(&s), NOW)).slot, slot, "it stays there");
}

#[test]
fn a_dead_worker_leaves_its_slot_to_another_only_when_its_process_is_gone() {
    let mut pool = pool(&["a"], shape(1));
    let lent = now(pool.acquire(None, NOW));
    assert!(pool.give_up_worker(lent.slot, lent.number, Broken::Failed("garbage".into()), NOW));
    assert_eq!((pool.vacancies(), pool.ready()), (vec![], 0));
    assert_eq!(pool.gone(lent.slot, lent.number, "signal: 9", NOW), Ended::Known);
    assert_eq!(
        pool.vacancies(),
        [Vacancy { slot: 0, death: Some(Death { failed: 1, overdue: false }) }],
        "it had not proven itself"
    );
    let mut waiting = later(pool.acquire(None, NOW));
    start(&mut pool, 0, "a2");
    let next = taken(&mut waiting).unwrap();
    assert!(next.worker == "a2" && next.number > lent.number);
    assert!(pool.hand_in(lent.slot, lent.number, "a", NOW).is_some(), "the old one comes too late");
    back(&mut pool, next);
    assert_eq!(pool.gone(0, 2, "exit status: 1", NOW), Ended::ByItself);
    assert_eq!(
        pool.vacancies(),
        [Vacancy { slot: 0, death: Some(Death { failed: 0, overdue: false }) }],
        "this one had answered a call"
    );
    let stages: Vec<_> = pool.slots().next().unwrap().life.history().map(|c| c.stage.name()).collect();
    assert_eq!(stages, ["initializing", "ready", "busy", "ready", "terminating", "terminated"]);
    assert_eq!(pool.replaced().count(), 1);
}

#[test]
fn a_worker_that_was_killed_for_a_deadline_is_told_apart_from_one_that_failed() {
    let mut pool = pool(&["a"], shape(1));
    for failed in 1..4 {
        let lent = now(pool.acquire(None, NOW));
        assert!(pool.give_up_worker(lent.slot, lent.number, Broken::Overdue("no answer".into()), NOW));
        assert_eq!(pool.gone(lent.slot, lent.number, "signal: 9", NOW), Ended::Known);
        assert_eq!(pool.vacancies(), [Vacancy { slot: 0, death: Some(Death { failed, overdue: true }) }]);
        start(&mut pool, 0, "a");
    }
}

#[test]
fn a_worker_that_was_told_to_end_does_not_count_as_one_that_failed() {
    let mut pool = pool(&["a"], shape(1));
    pool.close();
    assert_eq!(pool.end_free(NOW), ["a"]);
    pool.open();
    assert_eq!(pool.vacancies(), [], "its process still runs");
    assert_eq!(pool.gone(0, 1, "exit status: 0", NOW), Ended::Known);
    assert_eq!(pool.vacancies(), [Vacancy { slot: 0, death: None }]);
    pool.close();
    assert_eq!(pool.begin(0, NOW), None);
    pool.leave(0);
    pool.open();
    assert_eq!(pool.vacancies().len(), 1);
}

#[test]
fn a_degraded_worker_is_lent_last_and_is_well_after_a_good_check() {
    let (mut pool, s) = (pool(&["a", "b"], shape(2)), session("s"));
    let home = now(pool.acquire(Some(&s), NOW));
    let slot = home.slot;
    back(&mut pool, home);
    let examined = pool.examine(slot).unwrap();
    assert!(matches!(pool.examined(examined, Health::Bad, "no".into(), 3, NOW), Left::Nothing));
    let elsewhere = now(pool.acquire(Some(&s), NOW));
    assert_ne!(elsewhere.slot, slot, "the session moves to one that is well");
    let last = now(pool.acquire(None, NOW));
    assert_eq!(last.slot, slot, "no other is free");
    back(&mut pool, last);
    assert_eq!(pool.slots().nth(slot).unwrap().life.stage(), WorkerState::Degraded);
    let examined = pool.examine(slot).unwrap();
    assert!(matches!(pool.examined(examined, Health::Good, String::new(), 3, NOW), Left::Nothing));
    assert_eq!(pool.slots().nth(slot).unwrap().life.stage(), WorkerState::Ready);
}

#[test]
fn a_worker_goes_after_so_many_failed_checks_in_a_row() {
    let mut pool = pool(&["a"], shape(1));
    let mut check = |health| {
        let examined = pool.examine(0).unwrap();
        assert!(pool.examine(0).is_none() && pool.busy() == 0, "it is out, and not busy");
        pool.examined(examined, health, "no".into(), 3, NOW)
    };
    for health in [Health::Bad, Health::Bad, Health::Good, Health::Bad, Health::Unchanged, Health::Bad] {
        assert!(matches!(check(health), Left::Nothing));
    }
    assert!(matches!(check(Health::Bad), Left::Sick("a")));
    assert_eq!(pool.ready(), 0);
}

#[test]
fn overflow_comes_when_all_are_busy_and_calls_wait_and_goes_when_it_is_idle() {
    let mut pool = pool(&["a"], Shape { overflow: 2, max_overflow: 2, ..shape(1) });
    let (s, t) = (session("s"), session("t"));
    let first = now(pool.acquire(Some(&s), NOW));
    assert!(!pool.needs_start(), "nobody waits");
    let mut waiting = [later(pool.acquire(Some(&t), NOW)), later(pool.acquire(Some(&s), NOW))];
    assert_eq!(pool.vacancies(), [Vacancy { slot: 1, death: None }]);
    assert_eq!(pool.vacancies(), [], "one at a time");
    start(&mut pool, 1, "extra");
    let moved = waiting.each_mut().map(|w| taken(w).map(|lent| lent.worker));
    assert_eq!(moved, [Some("extra"), None], "one session moved, the other stays at home");
    assert_eq!(pool.vacancies(), [Vacancy { slot: 2, death: None }], "one still waits");
    pool.leave(2);
    assert!(pool.hand_in(1, 2, "extra", Mono::from_nanos(10)).is_none());
    assert_eq!(pool.end_overflow(Mono::from_nanos(9), NOW), [] as [&str; 0]);
    assert_eq!(pool.end_overflow(Mono::from_nanos(10), NOW), ["extra"]);
    back(&mut pool, first);
    assert_eq!(pool.end_overflow(Mono::from_nanos(99), NOW), [] as [&str; 0], "regular workers stay");
}

#[test]
fn a_pool_that_shrinks_ends_what_is_free_now_and_the_rest_when_it_comes_back() {
    let mut pool = pool(&["a", "b", "c"], shape(3));
    let lent: Vec<_> = (0..2).map(|_| now(pool.acquire(None, NOW))).collect();
    let free = pool.resize(1, 0, NOW);
    let ended: Vec<_> =
        lent.into_iter().filter_map(|l| pool.hand_in(l.slot, l.number, l.worker, NOW)).chain(free).collect();
    assert_eq!((ended.len(), pool.ready()), (2, 1));
    assert_eq!(pool.slots().next().unwrap().life.stage(), WorkerState::Ready, "the first slots stay");
    pool.resize(3, 0, NOW);
    for slot in 1..3 {
        pool.gone(slot, slot as u64 + 1, "exit status: 0", NOW);
    }
    assert_eq!(pool.vacancies().len(), 2);
}

#[test]
fn a_new_worker_takes_over_sessions_from_crowded_ones() {
    let mut pool = pool(&["a"], Shape { wanted: 1, regular: 2, ..shape(2) });
    let all: Vec<_> = (0..4).map(|n| session(&n.to_string())).collect();
    for s in &all {
        let lent = now(pool.acquire(Some(s), NOW));
        back(&mut pool, lent);
    }
    pool.resize(2, 0, NOW);
    pool.vacancies();
    start(&mut pool, 1, "b");
    let mut busy = Vec::new();
    for s in &all {
        match pool.acquire(Some(s), NOW).unwrap() {
            Turn::Now(lent) => busy.push(lent),
            Turn::Later(mut pending) => busy.extend(taken(&mut pending)),
        }
    }
    let workers: Vec<_> = busy.iter().map(|l| l.worker).collect();
    assert_eq!(workers, ["a", "b"], "the second call need not wait for the first");
    let homes: Vec<_> = pool.slots().map(|s| s.sessions).collect();
    assert_eq!(homes, [3, 1]);
}

/// What a pool may be asked for.
#[derive(Debug, Clone)]
enum Step {
    Acquire(Option<u8>),
    HandIn(usize),
    Break(usize),
    GiveUp(usize),
    Die(usize),
    Start(bool),
    Examine(usize, bool),
    Resize(usize, usize),
    EndOverflow,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::option::of(0_u8..6).prop_map(Step::Acquire),
        4 => (0_usize..9).prop_map(Step::HandIn),
        1 => (0_usize..9).prop_map(Step::Break),
        1 => (0_usize..9).prop_map(Step::GiveUp),
        1 => (0_usize..9).prop_map(Step::Die),
        3 => any::<bool>().prop_map(Step::Start),
        1 => (0_usize..9, any::<bool>()).prop_map(|(at, good)| Step::Examine(at, good)),
        1 => (1_usize..5, 0_usize..3).prop_map(|(wanted, overflow)| Step::Resize(wanted, overflow)),
        1 => Just(Step::EndOverflow),
    ]
}

/// A pool in the hands of somebody who does everything at random; workers are their numbers.
struct Chaos {
    pool: Checkout<u64>,
    clock: u64,
    waiting: Vec<Pending<u64>>,
    lent: Vec<Lent<u64>>,
    /// Processes that run: slot and number.
    running: Vec<(usize, u64)>,
}

impl Chaos {
    fn take(&mut self, step: &Step) {
        self.clock += 1;
        let (pool, now) = (&mut self.pool, Mono::from_nanos(self.clock));
        match *step {
            Step::Acquire(who) => {
                let session = who.map(|s| session(&s.to_string()));
                match pool.acquire(session.as_ref(), now) {
                    Ok(Turn::Now(lent)) => self.lent.push(lent),
                    Ok(Turn::Later(pending)) => self.waiting.push(pending),
                    Err(refusal) => assert_eq!(refusal, Refusal::Full),
                }
            }
            Step::HandIn(n) if !self.lent.is_empty() => {
                let lent = self.lent.remove(n % self.lent.len());
                pool.hand_in(lent.slot, lent.number, lent.worker, now);
            }
            Step::Break(n) if !self.lent.is_empty() => {
                let lent = self.lent.remove(n % self.lent.len());
                pool.give_up_worker(lent.slot, lent.number, Broken::Failed("broken".into()), now);
            }
            Step::GiveUp(n) if !self.waiting.is_empty() => {
                let gone = self.waiting.remove(n % self.waiting.len());
                pool.give_up(gone.ticket);
            }
            Step::Die(n) if !self.running.is_empty() => {
                let (slot, number) = self.running.remove(n % self.running.len());
                pool.gone(slot, number, "died", now);
            }
            Step::Start(works) => {
                for vacancy in pool.vacancies() {
                    let Some(number) = pool.begin(vacancy.slot, now) else { continue };
                    if works {
                        self.running.push((vacancy.slot, number));
                        pool.started(vacancy.slot, number, number, now);
                    } else {
                        pool.not_started(vacancy.slot, number, "does not start", now);
                    }
                }
            }
            Step::Examine(n, good) => {
                let free = pool.free_slots();
                if let Some(examined) = free.get(n % free.len().max(1)).and_then(|at| pool.examine(*at)) {
                    let health = if good { Health::Good } else { Health::Bad };
                    pool.examined(examined, health, "asked".into(), 2, now);
                }
            }
            Step::Resize(wanted, overflow) => drop(pool.resize(wanted, overflow, now)),
            Step::EndOverflow => drop(pool.end_overflow(now, now)),
            Step::HandIn(_) | Step::Break(_) | Step::GiveUp(_) | Step::Die(_) => {}
        }
        let mut still = Vec::new();
        for mut pending in self.waiting.drain(..) {
            match pending.worker.try_recv() {
                Ok(got) => self.lent.push(got),
                Err(_) => still.push(pending),
            }
        }
        self.waiting = still;
    }
}

proptest! {
    /// Whatever happens, a worker is never lent twice, lanes and bounds are kept, nobody waits for a worker that is
    /// free, and every worker's history is a path of legal moves.
    #[test]
    fn workers_are_lent_once_and_nobody_waits_in_vain(
        lanes in 1_usize..6, lifo in any::<bool>(), steps in prop::collection::vec(step(), 0..120),
    ) {
        let order = if lifo { QueueOrder::Lifo } else { QueueOrder::Fifo };
        let shape = Shape { regular: 4, overflow: 1, max_overflow: 2, lanes, order, max_sessions: 4, ..shape(2) };
        let mut pool = Checkout::new(shape);
        pool.open();
        let mut chaos = Chaos { pool, clock: 1, waiting: Vec::new(), lent: Vec::new(), running: Vec::new() };
        for step in steps {
            chaos.take(&step);
            let pool = &chaos.pool;
            let mut lent: Vec<_> = chaos.lent.iter().map(|l| l.number).collect();
            lent.sort_unstable();
            let before = lent.len();
            lent.dedup();
            prop_assert_eq!(lent.len(), before);
            prop_assert!(pool.busy() <= lanes);
            prop_assert!(pool.waiting() == chaos.waiting.len() && pool.waiting() <= shape.max_waiting);
            prop_assert!(pool.next().is_none() || pool.busy() == lanes);
            prop_assert!(pool.ready() <= shape.regular + shape.max_overflow);
            for slot in pool.slots() {
                let stages: Vec<_> = slot.life.history().map(|c| c.stage).collect();
                if slot.life.left_out() == 0 && slot.life.history().all(|c| c.times == 1) {
                    prop_assert!(stages.windows(2).all(|w| w[0].leads_to(w[1])), "{stages:?}");
                }
            }
        }
    }
}
