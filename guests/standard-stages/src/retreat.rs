//! Back by a stage when both pools fail right after a raise.
//!
//! A V2 that ruins what V1 uses too makes both fail alike, so no comparison shows it, and the judge can only warn. If that
//! began within minutes of a raise, the raise is what changed, and taking it back costs little. It is a rule of caution and
//! not a proof: that both fail needs the judge's own evidence, its verdict `warn`.
//!
//! The rate is that of calls, not of sessions: sessions that always fail count in every stage anew, calls do not.

use cutover_policy::{Action, Finding, Progress, Step, Verdict, finding, text};
use serde::{Deserialize, Serialize};

use crate::settings::{Retreat, Stage};

/// Calls of both pools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Calls {
    requests: u64,
    errors: u64,
}

/// What both pools did in this stage, and in the last one that was not gone back from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    share: u32,
    now: Calls,
    before: Calls,
}

impl Seen {
    /// A stage begins. What was seen in one that is gone back from is no measure.
    pub(crate) fn begin(self, share: u32) -> Self {
        let rose = share >= self.share && self.now.requests > 0;
        Self { share, now: Calls::default(), before: if rose { self.now } else { self.before } }
    }

    /// Adds a batch of this stage.
    pub(crate) fn add(&mut self, batch: &cutover_policy::Batch) {
        for calls in batch.operations.iter().flat_map(|operation| [&operation.v1, &operation.v2]) {
            self.now.requests = self.now.requests.saturating_add(calls.requests);
            self.now.errors = self.now.errors.saturating_add(calls.errors);
        }
    }

    /// The step back, if it is time for one, and why.
    pub(crate) fn step(self, limits: &Retreat, stages: &[Stage], progress: &Progress) -> Option<(Action, Finding)> {
        let elapsed = progress.now_ms.saturating_sub(progress.stage_started_ms);
        let below = stages.iter().rev().find(|stage| stage.share.0 < progress.share)?;
        let Self { now, before, .. } = self;
        let is_young = elapsed <= limits.within.0;
        if progress.verdict != Verdict::Warn || !is_young || now.errors < limits.min_errors || before.requests == 0 {
            return None;
        }
        let (rate, limit) = (now.rate_ppm(), before.rate_ppm().saturating_mul(limits.max_ratio.0.into()) / 1_000_000);
        if rate <= limit {
            return None;
        }
        let note = format!(
            "both pools together fail {} of their calls since the share was raised {} ago, {} before: back by a stage",
            text::percent(text::round_up(rate)),
            text::span(elapsed),
            text::percent(text::round_up(before.rate_ppm())),
        );
        let step = Step {
            stage: progress.stage.saturating_sub(1),
            share: below.share.0,
            soak_ms: below.soak.map(|soak| soak.0),
        };
        Some((Action::Retreat(step), finding("retreat", rate, limit, "ppm", note)))
    }
}

impl Calls {
    /// At least as if one call had failed: no failures so far are not none ever.
    fn rate_ppm(self) -> u64 {
        let ppm = (u128::from(self.errors.max(1)) * 1_000_000).div_ceil(u128::from(self.requests.max(1)));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::Phase;
    use cutover_policy::testing::{batch, calls, operation};
    use proptest::prelude::*;

    use super::*;
    use crate::settings::Settings;

    const MINUTE: u64 = 60_000;

    fn second(v1: (u64, u64), v2: (u64, u64)) -> cutover_policy::Batch {
        let mut batch = batch(0);
        let mut execute = operation("execute");
        (execute.v1, execute.v2) = (calls(v1.0, v1.1, 1), calls(v2.0, v2.1, 1));
        batch.operations.push(execute);
        batch
    }

    fn progress(percent: u32, elapsed_ms: u64, verdict: Verdict) -> Progress {
        let (stage_started_ms, share) = (1_000_000, percent * 10_000);
        let now_ms = stage_started_ms + elapsed_ms;
        Progress { now_ms, phase: Phase::Ramping, stage: 1, share, stage_started_ms, verdict, batches: Vec::new() }
    }

    /// 1 of 1 000 calls failed at 5 %, and 150 of 1 000 in both pools at 10 %.
    fn ruined() -> Seen {
        let mut seen = Seen::default().begin(50_000);
        seen.add(&second((950, 1), (50, 0)));
        let mut seen = seen.begin(100_000);
        seen.add(&second((900, 135), (100, 15)));
        seen
    }

    fn step(seen: Seen, progress: &Progress) -> Option<(Action, Finding)> {
        let settings = Settings::default();
        seen.step(&settings.retreat, &settings.stages, progress)
    }

    #[test]
    fn what_ruins_both_right_after_a_raise_is_gone_back_from() {
        let (action, finding) = step(ruined(), &progress(10, 2 * MINUTE, Verdict::Warn)).unwrap();
        assert_eq!(action, Action::Retreat(Step { stage: 0, share: 50_000, soak_ms: Some(60 * MINUTE) }));
        assert_eq!((finding.rule.as_str(), finding.observed, finding.limit), ("retreat", 150_000, 3_000));
        assert_eq!(
            finding.note,
            "both pools together fail 15 % of their calls since the share was raised 2m ago, 0.1 % before: back by a stage"
        );
    }

    #[test]
    fn it_takes_a_warning_a_young_stage_failures_and_a_stage_below() {
        for (percent, elapsed, verdict) in [
            (10, 2 * MINUTE, Verdict::Hold),
            (10, 2 * MINUTE, Verdict::Healthy),
            (10, 11 * MINUTE, Verdict::Warn),
            (5, 2 * MINUTE, Verdict::Warn),
        ] {
            assert_eq!(step(ruined(), &progress(percent, elapsed, verdict)), None);
        }
        let mut few = ruined();
        few.now.errors = 9;
        assert_eq!(step(few, &progress(10, MINUTE, Verdict::Warn)), None);
        let mut unknown = ruined();
        unknown.before = Calls::default();
        assert_eq!(step(unknown, &progress(10, MINUTE, Verdict::Warn)), None);
    }

    #[test]
    fn a_stage_that_was_gone_back_from_is_no_measure() {
        let back = ruined().begin(50_000);
        assert_eq!(back.before, Calls { requests: 1_000, errors: 1 });
        let mut again = back;
        again.add(&second((950, 2), (50, 0)));
        assert_eq!(again.begin(100_000).before, Calls { requests: 1_000, errors: 2 });
        assert_eq!(ruined().begin(100_000).begin(250_000).before, ruined().now, "nobody called in between");
    }

    proptest! {
        #[test]
        fn it_only_ever_goes_down(
            counts in prop::array::uniform4(any::<u64>()), percent in 0_u32..=100, elapsed: u64, warns: bool,
        ) {
            let verdict = if warns { Verdict::Warn } else { Verdict::Healthy };
            let progress = progress(percent, elapsed % (20 * MINUTE), verdict);
            let [requests, errors, n, x] = counts;
            let seen = Seen {
                share: progress.share,
                now: Calls { requests, errors },
                before: Calls { requests: n, errors: x },
            };
            if let Some((action, _)) = step(seen, &progress) {
                let Action::Retreat(to) = action else { panic!("{action:?}") };
                prop_assert!(warns && to.share < progress.share && to.share > 0);
            }
        }
    }
}
