//! A circuit breaker: refuses calls at once to what keeps failing, and finds out by a few calls when it works again.
//!
//! Pure: `now` is passed in. A closed breaker counts failures in a row; an open one refuses; a half-open one lets a few
//! calls through at a time, closes after some successes and opens with the first failure. If a call that was let in
//! before the breaker opened succeeds after that, the breaker becomes half-open.
//!
//! If nobody else answers what a breaker refuses ([`Backing::Alone`]), it never refuses everything. While it is open it
//! lets a trickle through: one call at a time, and so seldom that the trickle takes at most a tenth of one worker's
//! time. So the breaker finds out within seconds that calls work again, and calls that still fail take little from
//! other operations.

use std::time::Duration;

use serde::Serialize;

use cutover_model::clock::Mono;

/// After a call of the trickle, none is let through for so many times as long as that took: the trickle has a tenth of
/// one worker's time, and other operations have nine tenths if it is the only worker of the pool.
const TRICKLE_REST: u32 = 9;

/// The least time between two calls of the trickle: what fails at once is not tried more than ten times a second.
const TRICKLE_GAP: Duration = Duration::from_millis(100);

/// Whether another pool answers what a breaker refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// The other pool answers it.
    Other,
    /// No other pool answers it: the call fails.
    Alone,
}

/// What makes a breaker open and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row until it opens.
    pub failures: u32,
    /// How long it stays open before it is half-open.
    pub open_for: Duration,
    /// Calls at once while it is half-open.
    pub trials: u32,
    /// Successes until it closes.
    pub successes: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 5, open_for: Duration::from_mins(1), trials: 3, successes: 3 }
    }
}

/// The breaker of one operation or member.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Counts how often it has changed: what comes of a call is told by the state that let it in.
    epoch: u64,
    trickle: Trickle,
    refused: u64,
    opened: u64,
}

/// What an open breaker lets through all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trickle {
    /// The next call may go from this moment on.
    Next(Mono),
    /// A call of it is under way.
    Taken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Mono },
    HalfOpen { under_way: u32, successes: u32 },
}

/// A breaker's state, as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// All calls are let through.
    Closed,
    /// All calls are refused, except the trickle of [`Backing::Alone`].
    Open,
    /// A few calls at a time are let through to find out whether it works again.
    HalfOpen,
}

/// Lets one call through; what came of it is to be [told](Breaker::settle).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
    /// When it was let through, if it belongs to the trickle.
    trickle: Option<Mono>,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// The call was answered.
    Answer,
    /// The call failed, and the callee is to blame.
    Failure,
    /// Nothing that says anything: the caller went away, or no worker saw the call.
    Nothing,
}

/// Refused; the earliest time to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The time after which another call may be let through.
    pub for_another: Duration,
}

impl Breaker {
    /// A breaker that is closed.
    pub const fn new(settings: Settings) -> Self {
        let trickle = Trickle::Next(Mono::from_nanos(0));
        Self { settings, state: State::Closed { failures: 0 }, epoch: 0, trickle, refused: 0, opened: 0 }
    }

    /// Asks whether a call may be sent. `backing` says who answers if not.
    ///
    /// # Errors
    /// It may not.
    pub fn ask(&mut self, backing: Backing, now: Mono) -> Result<Pass, Refused> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.turn(State::HalfOpen { under_way: 0, successes: 0 });
        }
        let pass = Pass { epoch: self.epoch, trickle: None };
        let for_another = match &mut self.state {
            State::Closed { .. } => return Ok(pass),
            State::HalfOpen { under_way, .. } if *under_way < self.settings.trials => {
                *under_way += 1;
                return Ok(pass);
            }
            State::HalfOpen { .. } => Duration::ZERO,
            State::Open { until } => match (backing, self.trickle) {
                (Backing::Alone, Trickle::Next(from)) if from <= now => {
                    self.trickle = Trickle::Taken;
                    return Ok(Pass { trickle: Some(now), ..pass });
                }
                (Backing::Alone, Trickle::Next(from)) => from.min(*until).since(now),
                (Backing::Alone, Trickle::Taken) | (Backing::Other, _) => until.since(now),
            },
        };
        self.refused += 1;
        Err(Refused { for_another })
    }

    /// Takes note of what came of a call.
    pub fn settle(&mut self, pass: Pass, came: Came, now: Mono) {
        let (current, settings) = (pass.epoch == self.epoch, self.settings);
        if let Some(since) = pass.trickle.filter(|_| current) {
            self.trickle = Trickle::Next(now + (now.since(since) * TRICKLE_REST).max(TRICKLE_GAP));
        }
        match (&mut self.state, came) {
            (State::Closed { failures }, Came::Answer) if current => *failures = 0,
            (State::Closed { failures }, Came::Failure) if current => {
                *failures += 1;
                if *failures >= settings.failures {
                    self.open(now);
                }
            }
            (State::HalfOpen { under_way, successes }, Came::Answer) if current => {
                *under_way = under_way.saturating_sub(1);
                *successes += 1;
                if *successes >= settings.successes {
                    self.turn(State::Closed { failures: 0 });
                }
            }
            (State::HalfOpen { .. }, Came::Failure) if current => self.open(now),
            (State::HalfOpen { under_way, .. }, Came::Nothing) if current => *under_way = under_way.saturating_sub(1),
            (State::Open { .. }, Came::Answer) => self.turn(State::HalfOpen { under_way: 0, successes: 0 }),
            // What was sent before the state changed says nothing about after.
            (State::Closed { .. } | State::HalfOpen { .. } | State::Open { .. }, _) => {}
        }
    }

    /// Its state at `now`.
    pub fn position(&self, now: Mono) -> Position {
        match self.state {
            State::Closed { .. } => Position::Closed,
            State::Open { until } if now < until => Position::Open,
            State::Open { .. } | State::HalfOpen { .. } => Position::HalfOpen,
        }
    }

    /// Calls that it refused.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// How often it opened.
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    fn open(&mut self, now: Mono) {
        self.opened += 1;
        // The call that opened it was made just now.
        self.trickle = Trickle::Next(now + TRICKLE_GAP);
        self.turn(State::Open { until: now + self.settings.open_for });
    }

    const fn turn(&mut self, state: State) {
        self.state = state;
        self.epoch += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono::from_nanos(seconds * 1_000_000_000)
    }

    fn fail(breaker: &mut Breaker, times: u32, now: Mono) {
        for _ in 0..times {
            let pass = breaker.ask(Backing::Other, now).unwrap();
            breaker.settle(pass, Came::Failure, now);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_for_a_minute() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 4, at(0));
        let pass = breaker.ask(Backing::Other, at(0)).unwrap();
        breaker.settle(pass, Came::Answer, at(0));
        fail(&mut breaker, 4, at(1));
        assert_eq!(breaker.position(at(1)), Position::Closed, "not in a row");
        fail(&mut breaker, 1, at(1));
        assert_eq!((breaker.position(at(1)), breaker.opened()), (Position::Open, 1));
        assert_eq!(breaker.ask(Backing::Other, at(11)), Err(Refused { for_another: Duration::from_secs(50) }));
        assert_eq!(breaker.position(at(61)), Position::HalfOpen);
    }

    #[test]
    fn half_open_it_lets_three_through_at_once_and_closes_after_three_successes() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 5, at(0));
        let passes: Vec<_> = (0..3).map(|_| breaker.ask(Backing::Other, at(60)).unwrap()).collect();
        assert_eq!(breaker.ask(Backing::Other, at(60)), Err(Refused { for_another: Duration::ZERO }));
        assert_eq!(breaker.refused(), 1);
        breaker.settle(passes[0], Came::Nothing, at(60));
        let again = breaker.ask(Backing::Other, at(60)).unwrap();
        for pass in [passes[1], passes[2]] {
            breaker.settle(pass, Came::Answer, at(61));
        }
        assert_eq!(breaker.position(at(61)), Position::HalfOpen);
        breaker.settle(again, Came::Answer, at(61));
        assert_eq!(breaker.position(at(61)), Position::Closed);
    }

    #[test]
    fn one_failure_while_half_open_opens_it_again() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 5, at(0));
        let passes: Vec<_> = (0..2).map(|_| breaker.ask(Backing::Other, at(60)).unwrap()).collect();
        breaker.settle(passes[0], Came::Failure, at(60));
        assert_eq!((breaker.position(at(119)), breaker.position(at(120))), (Position::Open, Position::HalfOpen));
        breaker.settle(passes[1], Came::Failure, at(60));
        assert_eq!(breaker.opened(), 2, "what was sent before says nothing");
    }

    #[test]
    fn an_answer_to_a_call_from_before_ends_the_waiting() {
        let mut breaker = Breaker::new(Settings::default());
        let slow = breaker.ask(Backing::Other, at(0)).unwrap();
        fail(&mut breaker, 5, at(0));
        breaker.settle(slow, Came::Answer, at(5));
        assert_eq!(breaker.position(at(5)), Position::HalfOpen);
    }

    #[test]
    fn alone_it_lets_a_trickle_through_and_never_refuses_everything() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 5, at(0));
        let ms = |ms: u64| Mono::from_nanos(ms * 1_000_000);
        assert_eq!(breaker.ask(Backing::Alone, ms(99)), Err(Refused { for_another: Duration::from_millis(1) }));
        assert!(breaker.ask(Backing::Other, ms(100)).is_err(), "another pool answers");
        let slow = breaker.ask(Backing::Alone, ms(100)).unwrap();
        assert!(breaker.ask(Backing::Alone, ms(1_000)).is_err(), "one at a time");
        breaker.settle(slow, Came::Failure, ms(2_100));
        assert_eq!(breaker.position(ms(2_100)), Position::Open);
        assert!(breaker.ask(Backing::Alone, ms(20_099)).is_err(), "two seconds of twenty");
        let well = breaker.ask(Backing::Alone, ms(20_100)).unwrap();
        breaker.settle(well, Came::Answer, ms(20_101));
        assert_eq!(breaker.position(ms(20_101)), Position::HalfOpen, "it was found out");
    }

    proptest! {
        /// Whatever calls come to an open breaker that nobody stands behind: they take at most a tenth of a worker's time,
        /// but for the one that is under way, and some get through.
        #[test]
        fn a_trickle_takes_a_tenth_of_one_workers_time(
            calls in prop::collection::vec((1_u64..400, 0_u64..3_000), 1..80),
        ) {
            let settings = Settings { open_for: Duration::from_hours(1), ..Settings::default() };
            let (mut breaker, mut clock, mut taken, mut last) = (Breaker::new(settings), 0_u64, 0, 0);
            fail(&mut breaker, 5, at(0));
            let ms = |ms: u64| Mono::from_nanos(ms * 1_000_000);
            for (gap, took) in calls {
                clock += gap;
                let Ok(pass) = breaker.ask(Backing::Alone, ms(clock)) else { continue };
                prop_assert!(breaker.ask(Backing::Alone, ms(clock + took)).is_err(), "one at a time");
                prop_assert!(taken * 10 <= clock + 10, "{taken} ms of {clock}");
                clock += took;
                breaker.settle(pass, Came::Failure, ms(clock));
                (taken, last) = (taken + took, took);
            }
            let rest = (last * 9).max(100);
            prop_assert!(breaker.ask(Backing::Alone, ms(clock + rest)).is_ok());
        }

        /// It never lets more calls through at once than it may while half-open, and refuses all while open.
        #[test]
        fn it_keeps_its_word(
            failures in 1_u32..6, trials in 1_u32..4, successes in 1_u32..5,
            steps in prop::collection::vec((0_u8..5, 0_u64..40), 0..150),
        ) {
            let settings = Settings { failures, open_for: Duration::from_mins(1), trials, successes };
            let (mut breaker, mut clock) = (Breaker::new(settings), 0);
            let mut under_way: Vec<Pass> = Vec::new();
            for (what, n) in steps {
                let now = at(clock);
                match what {
                    0 | 1 => {
                        let before = breaker.position(now);
                        if let Ok(pass) = breaker.ask(Backing::Other, now) {
                            prop_assert_ne!(before, Position::Open);
                            under_way.push(pass);
                        } else {
                            prop_assert_ne!(before, Position::Closed);
                        }
                        let trying = under_way.iter().filter(|pass| pass.epoch == breaker.epoch).count();
                        if breaker.position(now) == Position::HalfOpen {
                            prop_assert!(trying <= trials as usize);
                        }
                    }
                    2 => clock += n,
                    came if !under_way.is_empty() => {
                        let pass = under_way.remove(usize::try_from(n).unwrap() % under_way.len());
                        breaker.settle(pass, if came == 3 { Came::Answer } else { Came::Failure }, now);
                    }
                    _ => {}
                }
            }
        }
    }
}
