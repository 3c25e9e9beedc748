//! What somebody said of each check, kept as runs of checks of which the same was said: a month that changes ten times
//! takes ten of them.

use std::collections::BTreeMap;

use serde::Serialize;

use cutover_model::{
    clock::UnixMs,
    port::{Action, Verdict},
};

/// What somebody said of a check. A policy that failed has said `hold`, as in the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stand {
    /// The verdict; none from a side without a rollback policy.
    pub verdict: Option<Verdict>,
    /// The stage action; none if nobody was asked for one.
    pub action: Option<Action>,
}

/// Checks in a row of which the same was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first check, counted from 0.
    pub first: u64,
    /// When the first check was made.
    pub at: UnixMs,
    /// What was said; none if it is not known.
    pub stand: Option<Stand>,
}

/// All runs, in the order of their checks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    all: Vec<Run>,
    checks: u64,
    end: UnixMs,
}

/// Checks in a row of which two said different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The first of these checks.
    pub from: UnixMs,
    /// The check after the last of them, or the last check of all.
    pub to: UnixMs,
    /// The number of these checks.
    pub checks: u64,
    /// What the first side said.
    pub left: Stand,
    /// What the other side said.
    pub right: Stand,
}

impl Runs {
    /// Adds what was said of the check with this number, which is one more than that before. True if it is another than
    /// before.
    pub fn add(&mut self, check: u64, at: UnixMs, stand: Option<Stand>) -> bool {
        (self.checks, self.end) = (check + 1, at);
        let other = self.all.last().is_none_or(|run| run.stand != stand);
        if other {
            self.all.push(Run { first: check, at, stand });
        }
        other
    }

    /// Whether nothing is known of any check.
    pub fn is_empty(&self) -> bool {
        self.all.iter().all(|run| run.stand.is_none())
    }

    /// The number of checks with each verdict, by its name.
    pub fn verdicts(&self) -> BTreeMap<&'static str, u64> {
        self.count(|stand| stand.verdict.map(Verdict::name))
    }

    /// The number of checks with each stage action, by its name.
    pub fn actions(&self) -> BTreeMap<&'static str, u64> {
        self.count(|stand| stand.action.map(Action::name))
    }

    fn count(&self, name: impl Fn(Stand) -> Option<&'static str>) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (n, run) in self.all.iter().enumerate() {
            let over = self.all.get(n + 1).map_or(self.checks, |next| next.first);
            if let Some(name) = run.stand.and_then(&name) {
                *counts.entry(name).or_default() += over - run.first;
            }
        }
        counts
    }

    /// The runs with this verdict: when each began, and when it was over.
    pub fn with(&self, verdict: Verdict) -> impl Iterator<Item = (UnixMs, UnixMs)> + use<> {
        // Actions may split what is one run of verdicts.
        let mut merged: Vec<(UnixMs, UnixMs, Option<Verdict>)> = Vec::new();
        for (n, run) in self.all.iter().enumerate() {
            let over = self.all.get(n + 1).map_or(self.end, |next| next.at);
            let said = run.stand.and_then(|stand| stand.verdict);
            match merged.last_mut() {
                Some(last) if last.2 == said => last.1 = over,
                _ => merged.push((run.at, over, said)),
            }
        }
        merged.into_iter().filter(move |run| run.2 == Some(verdict)).map(|(from, to, _)| (from, to))
    }

    /// Where two differ in what both know: verdicts, and stage actions. Also how many checks both spoke of.
    pub fn differences(&self, other: &Self) -> (Vec<Difference>, u64) {
        let (mut found, mut compared): (Vec<Difference>, u64) = (Vec::new(), 0);
        let (mut mine, mut theirs) = (self.all.iter().peekable(), other.all.iter().peekable());
        let (mut left, mut right) = (None, None);
        let mut joined = false;
        while let Some(from) = [mine.peek(), theirs.peek()].into_iter().flatten().map(|run| (run.first, run.at)).min() {
            left = mine.next_if(|run| run.first == from.0).map_or(left, |run| run.stand);
            right = theirs.next_if(|run| run.first == from.0).map_or(right, |run| run.stand);
            let next = [mine.peek(), theirs.peek()].into_iter().flatten().map(|run| (run.first, run.at)).min();
            let (over, to) = next.unwrap_or((self.checks, self.end));
            let both = left.zip(right);
            compared += both.map_or(0, |_| over - from.0);
            let differ = both.and_then(|(left, right)| left.differs(right));
            match (differ, found.last_mut()) {
                (Some(pair), Some(last)) if joined && pair == (last.left, last.right) => {
                    last.to = to;
                    last.checks += over - from.0;
                }
                (Some((left, right)), _) => {
                    found.push(Difference { from: from.1, to, checks: over - from.0, left, right });
                }
                (None, _) => {}
            }
            joined = differ.is_some();
        }
        (found, compared)
    }
}

impl Stand {
    /// What of the two differs, reduced to what both know; none if nothing does.
    fn differs(self, other: Self) -> Option<(Self, Self)> {
        let verdicts = self.verdict.is_some() && other.verdict.is_some() && self.verdict != other.verdict;
        let actions = self.action.is_some() && other.action.is_some() && self.action != other.action;
        let keep = |stand: Self| Self {
            verdict: stand.verdict.filter(|_| verdicts),
            action: stand.action.filter(|_| actions),
        };
        (verdicts || actions).then(|| (keep(self), keep(other)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "what runs are made of")]
    fn stand(verdict: Verdict) -> Option<Stand> {
        Some(Stand { verdict: Some(verdict), action: None })
    }

    /// One check each second.
    fn runs(stands: &[Option<Stand>]) -> Runs {
        let mut runs = Runs::default();
        for (n, stand) in (0_u64..).zip(stands) {
            runs.add(n, UnixMs(n * 1_000), *stand);
        }
        runs
    }

    #[test]
    fn runs_of_a_verdict_are_not_split_by_actions() {
        let warn = |action| Some(Stand { verdict: Some(Verdict::Warn), action });
        let runs = runs(&[
            stand(Verdict::Hold),
            warn(None),
            warn(Some(Action::Hold)),
            warn(Some(Action::Pause)),
            stand(Verdict::Hold),
            warn(None),
        ]);
        let expected = [(1_000, 4_000), (5_000, 5_000)].map(|(from, to)| (UnixMs(from), UnixMs(to)));
        assert_eq!(runs.with(Verdict::Warn).collect::<Vec<_>>(), expected);
        assert_eq!(runs.with(Verdict::RollBack).count(), 0);
    }

    #[test]
    fn differences_are_spans_of_what_both_know() {
        use Verdict::{Healthy, Hold, RollBack};
        let mine = runs(&[stand(Hold), stand(Healthy), stand(Healthy), stand(RollBack), stand(RollBack)]);
        let theirs = runs(&[None, stand(Hold), stand(Hold), stand(Hold), stand(RollBack)]);
        let (found, compared) = mine.differences(&theirs);
        let difference = |from, to, checks, left, right| Difference {
            from: UnixMs(from),
            to: UnixMs(to),
            checks,
            left: Stand { verdict: Some(left), action: None },
            right: Stand { verdict: Some(right), action: None },
        };
        let expected = [difference(1_000, 3_000, 2, Healthy, Hold), difference(3_000, 4_000, 1, RollBack, Hold)];
        assert_eq!((found.as_slice(), compared), (expected.as_slice(), 4));
    }

    #[test]
    fn actions_differ_only_where_both_were_asked() {
        let acts = |action| Some(Stand { verdict: None, action });
        let mine = runs(&[acts(None), acts(Some(Action::Hold)), acts(Some(Action::Hold))]);
        let theirs = runs(&[acts(Some(Action::Hold)), acts(Some(Action::Hold)), acts(Some(Action::Pause))]);
        let (found, compared) = mine.differences(&theirs);
        assert_eq!((found.len(), found[0].checks, compared), (1, 1, 3));
        assert_eq!((found[0].left.action, found[0].right.action), (Some(Action::Hold), Some(Action::Pause)));
    }

    proptest! {
        #[test]
        fn every_check_on_which_two_differ_is_in_one_span(
            stands in prop::collection::vec((0..4_usize, 0..4_usize), 0..60),
        ) {
            let of = |n| [None, stand(Verdict::Hold), stand(Verdict::Warn), stand(Verdict::RollBack)][n];
            let (mine, theirs): (Vec<_>, Vec<_>) = stands.iter().map(|&(a, b)| (of(a), of(b))).unzip();
            let (found, compared) = runs(&mine).differences(&runs(&theirs));
            let both = mine.iter().zip(&theirs).filter(|(a, b)| a.is_some() && b.is_some());
            prop_assert_eq!(compared, both.clone().count() as u64);
            prop_assert_eq!(found.iter().map(|d| d.checks).sum::<u64>(), both.filter(|(a, b)| a != b).count() as u64);
            prop_assert!(found.windows(2).all(|w| w[0].to < w[1].from || (w[0].left, w[0].right) != (w[1].left, w[1].right)));
        }
    }
}
