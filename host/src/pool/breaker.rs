//! A circuit breaker: refuses calls at once to what has failed again and again, and finds out by few calls when it works
//! again.
//!
//! Pure: `now` is passed in. Closed, it counts failures in a row; open, it refuses; half-open, it lets a few calls
//! through at a time, and closes after so many successes or opens with the first failure. A call that was let in before
//! it opened, and succeeds after, is evidence that the worst is over: the breaker is half-open then.

use std::time::Duration;

use serde::Serialize;

use crate::clock::Mono;

/// What makes a breaker open and close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row until it opens.
    pub failures: u32,
    /// How long it refuses.
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

/// A breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: Settings,
    state: State,
    /// Counts how often it has changed: what comes of a call is told by the state that let it in.
    epoch: u64,
    refused: u64,
    opened: u64,
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
    /// Lets everything through.
    Closed,
    /// Refuses.
    Open,
    /// Tries.
    HalfOpen,
}

/// Lets one call through; what came of it is to be [told](Breaker::settle).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass(u64);

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// It was answered.
    Answer,
    /// It failed.
    Failure,
    /// Nothing that says anything: the caller went away, or nobody saw the call.
    Nothing,
}

/// Refused; the earliest time to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How long it stays open.
    pub for_another: Duration,
}

impl Breaker {
    /// A closed one.
    pub const fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, epoch: 0, refused: 0, opened: 0 }
    }

    /// Asks whether a call may be sent.
    ///
    /// # Errors
    /// It may not.
    pub fn ask(&mut self, now: Mono) -> Result<Pass, Refused> {
        if let State::Open { until } = self.state
            && now >= until
        {
            self.turn(State::HalfOpen { under_way: 0, successes: 0 });
        }
        let for_another = match &mut self.state {
            State::Closed { .. } => return Ok(Pass(self.epoch)),
            State::HalfOpen { under_way, .. } if *under_way < self.settings.trials => {
                *under_way += 1;
                return Ok(Pass(self.epoch));
            }
            State::HalfOpen { .. } => Duration::ZERO,
            State::Open { until } => until.since(now),
        };
        self.refused += 1;
        Err(Refused { for_another })
    }

    /// Takes note of what came of a call.
    pub fn settle(&mut self, Pass(epoch): Pass, came: Came, now: Mono) {
        let (current, settings) = (epoch == self.epoch, self.settings);
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
            let pass = breaker.ask(now).unwrap();
            breaker.settle(pass, Came::Failure, now);
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_for_a_minute() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 4, at(0));
        let pass = breaker.ask(at(0)).unwrap();
        breaker.settle(pass, Came::Answer, at(0));
        fail(&mut breaker, 4, at(1));
        assert_eq!(breaker.position(at(1)), Position::Closed, "not in a row");
        fail(&mut breaker, 1, at(1));
        assert_eq!((breaker.position(at(1)), breaker.opened()), (Position::Open, 1));
        assert_eq!(breaker.ask(at(11)), Err(Refused { for_another: Duration::from_secs(50) }));
        assert_eq!(breaker.position(at(61)), Position::HalfOpen);
    }

    #[test]
    fn half_open_it_lets_three_through_at_once_and_closes_after_three_successes() {
        let mut breaker = Breaker::new(Settings::default());
        fail(&mut breaker, 5, at(0));
        let passes: Vec<_> = (0..3).map(|_| breaker.ask(at(60)).unwrap()).collect();
        assert_eq!(breaker.ask(at(60)), Err(Refused { for_another: Duration::ZERO }));
        assert_eq!(breaker.refused(), 1);
        breaker.settle(passes[0], Came::Nothing, at(60));
        let again = breaker.ask(at(60)).unwrap();
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
        let passes: Vec<_> = (0..2).map(|_| breaker.ask(at(60)).unwrap()).collect();
        breaker.settle(passes[0], Came::Failure, at(60));
        assert_eq!((breaker.position(at(119)), breaker.position(at(120))), (Position::Open, Position::HalfOpen));
        breaker.settle(passes[1], Came::Failure, at(60));
        assert_eq!(breaker.opened(), 2, "what was sent before says nothing");
    }

    #[test]
    fn an_answer_to_a_call_from_before_ends_the_waiting() {
        let mut breaker = Breaker::new(Settings::default());
        let slow = breaker.ask(at(0)).unwrap();
        fail(&mut breaker, 5, at(0));
        breaker.settle(slow, Came::Answer, at(5));
        assert_eq!(breaker.position(at(5)), Position::HalfOpen);
    }

    proptest! {
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
                        if let Ok(pass) = breaker.ask(now) {
                            prop_assert_ne!(before, Position::Open);
                            under_way.push(pass);
                        } else {
                            prop_assert_ne!(before, Position::Closed);
                        }
                        let trying = under_way.iter().filter(|pass| pass.0 == breaker.epoch).count();
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
