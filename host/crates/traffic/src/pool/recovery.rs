//! What is done about a failed call, as a table by the failure's category: how often the call is tried again, after
//! what time, and what happens when no try is left.
//!
//! Pure: [`Recovery::next`] is a function of the category, the attempt, the operation's class, whether a worker may
//! have seen the call, and the time that the caller has left. It never repeats a call that is not safe to repeat, and
//! never lets one begin past the caller's deadline.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use cutover_model::request::{Class, Failure, FailureKind};

/// How bad a failure is: with which level it is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Logged as an error.
    Critical,
    /// Logged as a warning.
    Major,
    /// Logged for debugging alone, which is off by default.
    Minor,
}

/// What is done about a failure first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// Try again at once, the first time; then after the backoff.
    RetryNow,
    /// Try again after the backoff.
    BackOff,
    /// Let the other pool answer, if the call may go there; where there is no other, try again as often as retries say.
    FailOver,
    /// Try again after the backoff, like [`Strategy::BackOff`]; the whole pool is at fault, which refuses by itself.
    CircuitBreak,
    /// Give up: the caller gets the failure.
    Abandon,
}

/// How the time between attempts grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backoff {
    /// No time at all.
    None,
    /// By the same step each time.
    Linear,
    /// Twice as long each time.
    Exponential,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How bad such a failure is.
    pub severity: Severity,
    /// What is done first.
    pub strategy: Strategy,
    /// Attempts beyond the first.
    pub retries: u32,
    /// The time between them.
    pub backoff: Backoff,
}

/// The table of one pool, and what its times are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// One row for each category, in the order of [`FailureKind::ALL`].
    rules: [Rule; FailureKind::ALL.len()],
    /// The step of linear backoff.
    pub linear: Duration,
    /// The first wait of exponential backoff.
    pub exponential: Duration,
    /// The longest time between two attempts.
    pub longest: Duration,
}

/// What comes after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt after this time.
    Retry {
        /// The time before the next attempt.
        after: Duration,
    },
    /// The other pool, if the call may go there.
    FailOver,
    /// The failure is the caller's answer.
    GiveUp,
}

/// A call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// What went wrong, by category.
    pub kind: FailureKind,
    /// Which attempt it was, from 1.
    pub number: u32,
    /// What repeating it would mean.
    pub class: Class,
    /// Whether a worker may have seen it.
    pub sent: bool,
    /// The time that the caller has left.
    pub left: Duration,
    /// Whether another pool could answer it.
    pub elsewhere: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            rules: FailureKind::ALL.map(Rule::default_of),
            linear: Duration::from_millis(50),
            exponential: Duration::from_millis(50),
            longest: Duration::from_secs(2),
        }
    }
}

impl Rule {
    /// The row that a category has unless the configuration says otherwise.
    pub const fn default_of(kind: FailureKind) -> Self {
        use Severity::{Critical, Major, Minor};
        use Strategy::{Abandon, BackOff, CircuitBreak, FailOver, RetryNow};
        let (severity, strategy, retries, backoff) = match kind {
            FailureKind::Initialization => (Critical, CircuitBreak, 3, Backoff::Exponential),
            FailureKind::Connection => (Major, BackOff, 5, Backoff::Exponential),
            FailureKind::Communication => (Major, RetryNow, 3, Backoff::Linear),
            FailureKind::Timeout => (Major, BackOff, 2, Backoff::Exponential),
            FailureKind::Resource => (Critical, CircuitBreak, 1, Backoff::None),
            FailureKind::HealthCheck => (Minor, BackOff, 3, Backoff::Linear),
            FailureKind::Session => (Minor, RetryNow, 2, Backoff::None),
            FailureKind::Worker => (Major, FailOver, 1, Backoff::None),
            FailureKind::System => (Critical, Abandon, 0, Backoff::None),
        };
        Self { severity, strategy, retries, backoff }
    }
}

impl Recovery {
    /// The row of a category.
    pub fn rule(&self, kind: FailureKind) -> Rule {
        self.rules.get(kind.index()).copied().unwrap_or_else(|| Rule::default_of(kind))
    }

    /// Changes the row of a category.
    pub fn set(&mut self, kind: FailureKind, rule: Rule) {
        if let Some(row) = self.rules.get_mut(kind.index()) {
            *row = rule;
        }
    }

    /// What comes after a failed attempt.
    pub fn next(&self, attempt: Attempt) -> Next {
        let rule = self.rule(attempt.kind);
        let spent = match rule.strategy {
            Strategy::Abandon => return Next::GiveUp,
            Strategy::FailOver => Next::FailOver,
            Strategy::RetryNow | Strategy::BackOff | Strategy::CircuitBreak => Next::GiveUp,
        };
        if rule.strategy == Strategy::FailOver && attempt.elsewhere {
            return Next::FailOver;
        }
        let safe = !attempt.sent || attempt.class == Class::Read;
        if !safe || attempt.number > rule.retries {
            return spent;
        }
        let after = self.wait(rule, attempt.number);
        // An attempt that begins when the caller is about to go does not help.
        if after < attempt.left { Next::Retry { after } } else { spent }
    }

    /// Whether a failure counts against its operation's circuit breaker: when a worker may have seen the call. What happens
    /// before that (no worker runs, the queue is full, the session's state cannot be restored) is the whole pool's trouble,
    /// and no reason to refuse the operation once the pool is well again.
    pub fn counts(&self, failure: &Failure) -> bool {
        failure.sent && self.rule(failure.kind).strategy != Strategy::Abandon
    }

    /// The time between an attempt, from 1, and the next.
    fn wait(&self, rule: Rule, number: u32) -> Duration {
        // The first retry of those that are made at once waits for nothing.
        let steps = if rule.strategy == Strategy::RetryNow { number.saturating_sub(1) } else { number };
        let Some(doublings) = steps.checked_sub(1) else { return Duration::ZERO };
        let wait = match rule.backoff {
            Backoff::None => Duration::ZERO,
            Backoff::Linear => self.linear.saturating_mul(steps),
            Backoff::Exponential => self.exponential.saturating_mul(1 << doublings.min(20)),
        };
        wait.min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy as _, any, prop, prop_assert, proptest};

    use super::*;

    fn attempt(kind: FailureKind, number: u32) -> Attempt {
        let left = Duration::from_mins(1);
        Attempt { kind, number, class: Class::Read, sent: true, left, elsewhere: false }
    }

    /// What comes after each attempt: milliseconds to wait, and then the end.
    fn story(kind: FailureKind, elsewhere: bool) -> String {
        let recovery = Recovery::default();
        let mut told = Vec::new();
        for number in 1.. {
            match recovery.next(Attempt { elsewhere, ..attempt(kind, number) }) {
                Next::Retry { after } => told.push(after.as_millis().to_string()),
                end @ (Next::FailOver | Next::GiveUp) => {
                    told.push(format!("{end:?}"));
                    break;
                }
            }
        }
        format!("{kind}: {}", told.join(", "))
    }

    #[test]
    fn the_defaults_are_those_of_the_documented_table() {
        let row = |kind| {
            let rule = Rule::default_of(kind);
            format!("{kind}: {:?} {:?} {} {:?}", rule.severity, rule.strategy, rule.retries, rule.backoff)
        };
        insta::assert_snapshot!(FailureKind::ALL.map(row).join("\n"), @r"
        initialization: Critical CircuitBreak 3 Exponential
        connection: Major BackOff 5 Exponential
        communication: Major RetryNow 3 Linear
        timeout: Major BackOff 2 Exponential
        resource: Critical CircuitBreak 1 None
        health-check: Minor BackOff 3 Linear
        session: Minor RetryNow 2 None
        worker: Major FailOver 1 None
        system: Critical Abandon 0 None
        ");
    }

    #[test]
    fn each_category_is_tried_again_as_its_row_says() {
        insta::assert_snapshot!(FailureKind::ALL.map(|kind| story(kind, false)).join("\n"), @r"
        initialization: 50, 100, 200, GiveUp
        connection: 50, 100, 200, 400, 800, GiveUp
        communication: 0, 50, 100, GiveUp
        timeout: 50, 100, GiveUp
        resource: 0, GiveUp
        health-check: 50, 100, 150, GiveUp
        session: 0, 0, GiveUp
        worker: 0, FailOver
        system: GiveUp
        ");
        assert_eq!(story(FailureKind::Worker, true), "worker: FailOver");
    }

    #[test]
    fn only_what_a_worker_saw_counts_against_its_operations_breaker() {
        let recovery = Recovery::default();
        let counts = |kind, sent| recovery.counts(&Failure { kind, message: String::new(), sent });
        for kind in FailureKind::ALL {
            assert!(!counts(kind, false), "{kind}");
            assert_eq!(counts(kind, true), kind != FailureKind::System, "{kind}");
        }
    }

    fn any_rule() -> impl proptest::strategy::Strategy<Value = Rule> {
        let strategies =
            [Strategy::RetryNow, Strategy::BackOff, Strategy::FailOver, Strategy::CircuitBreak, Strategy::Abandon];
        let backoffs = [Backoff::None, Backoff::Linear, Backoff::Exponential];
        (prop::sample::select(strategies.to_vec()), 0_u32..50, prop::sample::select(backoffs.to_vec()))
            .prop_map(|(strategy, retries, backoff)| Rule { severity: Severity::Major, strategy, retries, backoff })
    }

    proptest! {
        /// Whatever the table says: nothing unsafe is repeated, nothing begins after the caller is gone, and there is an
        /// end.
        #[test]
        fn retries_are_safe_in_time_and_bounded(
            rule in any_rule(), kind in prop::sample::select(FailureKind::ALL.to_vec()),
            class in prop::sample::select(vec![Class::Read, Class::Replicate, Class::Exclusive]),
            sent in any::<bool>(), elsewhere in any::<bool>(), left_ms in 0_u64..5_000, step_ms in 0_u64..5_000,
        ) {
            let mut recovery = Recovery { linear: Duration::from_millis(step_ms), ..Recovery::default() };
            recovery.set(kind, rule);
            let mut left = Duration::from_millis(left_ms);
            for number in 1..=60 {
                let Next::Retry { after } = recovery.next(Attempt { kind, number, class, sent, left, elsewhere }) else {
                    return Ok(());
                };
                prop_assert!(class == Class::Read || !sent);
                prop_assert!(number <= rule.retries && after < left && after <= recovery.longest);
                left -= after;
            }
            prop_assert!(false, "no end");
        }
    }
}
