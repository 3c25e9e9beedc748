//! Back by a stage when both pools fail right after a raise.
//!
//! A V2 that ruins what V1 uses too makes both fail alike, so no comparison shows it, and the judge can only warn. If that
//! began within minutes of a raise, the raise is what changed, and taking it back costs little. It is a rule of caution and
//! not a proof: that both fail needs the judge's own evidence, its verdict `warn`.
//!
//! Callers go back to V1 only from a V2 that fails them as well, and not to a V1 that is clearly worse. A V2 that fails
//! alone is the judge's business.
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

/// V1 fails clearly more if it fails more than so many times as often as V2.
const CLEARLY: u64 = 2;

/// What both pools did in this stage, and in the last one that was not gone back from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Seen {
    share: u32,
    /// Of both pools.
    now: Calls,
    /// Of these, V2's.
    v2: Calls,
    before: Calls,
    /// Whether this stage began by going back.
    fell: bool,
}

impl Seen {
    /// A stage begins. What was seen in one that is gone back from is no measure.
    pub(crate) fn begin(self, share: u32) -> Self {
        let rose = share >= self.share && self.now.requests > 0;
        let fell = share < self.share || (share == self.share && self.fell);
        Self { share, before: if rose { self.now } else { self.before }, fell, ..Self::default() }
    }

    /// Adds a batch of this stage.
    pub(crate) fn add(&mut self, batch: &cutover_policy::Batch) {
        for operation in &batch.operations {
            // What was mirrored back to V1 is no caller's.
            let mirrored = batch.count_of("v1.mirrored", &operation.operation);
            let (v1, v2) = (Calls::of(&operation.v1).without(mirrored), Calls::of(&operation.v2));
            self.now = self.now.plus(v1).plus(v2);
            self.v2 = self.v2.plus(v2);
        }
    }

    /// The step back, if it is time for one, and why.
    pub(crate) fn step(self, limits: &Retreat, stages: &[Stage], progress: &Progress) -> Option<(Action, Finding)> {
        let elapsed = progress.now_ms.saturating_sub(progress.stage_started_ms);
        let below = stages.iter().rev().find(|stage| stage.share.0 < progress.share)?;
        let Self { now, before, .. } = self;
        let was_raised = elapsed <= limits.within.0 && !self.fell;
        if progress.verdict != Verdict::Warn || !was_raised || now.errors < limits.min_errors || before.requests == 0 {
            return None;
        }
        let (rate, limit) = (now.rate_ppm(), before.rate_ppm().saturating_mul(limits.max_ratio.0.into()) / 1_000_000);
        if rate <= limit || !self.is_of_both(limit) {
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

impl Seen {
    /// Whether each pool fails over the limit by itself, one odd call left out, and V1 not clearly more than V2.
    fn is_of_both(self, limit: u64) -> bool {
        let v2 = self.v2;
        let v1 = Calls {
            requests: self.now.requests.saturating_sub(v2.requests),
            errors: self.now.errors.saturating_sub(v2.errors),
        };
        let fails =
            |Calls { requests, errors }: Calls| errors > 1 && Calls { requests, errors: errors - 1 }.rate_ppm() > limit;
        fails(v1) && fails(v2) && v1.rate_ppm() <= v2.rate_ppm().saturating_mul(CLEARLY)
    }
}

impl Calls {
    const fn of(calls: &cutover_policy::Calls) -> Self {
        Self { requests: calls.requests, errors: calls.errors }
    }

    const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            errors: self.errors.saturating_add(other.errors),
        }
    }

    /// Without so many, of which nobody says how many failed: as many as of all.
    fn without(self, calls: u64) -> Self {
        let requests = self.requests.saturating_sub(calls);
        let errors = u128::from(self.errors) * u128::from(requests) / u128::from(self.requests.max(1));
        Self { requests, errors: u64::try_from(errors).unwrap_or(u64::MAX) }
    }

    /// At least as if one call had failed: no failures so far are not none ever.
    fn rate_ppm(self) -> u64 {
        let ppm = (u128::from(self.errors.max(1)) * 1_000_000).div_ceil(u128::from(self.requests.max(1)));
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use cutover_policy::{
        Phase,
        testing::{batch, calls, operation},
    };
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

    /// 1 of 1 000 calls failed at 50 %, and as told at 100 % of the list's last stages.
    fn raised(v1: (u64, u64), v2: (u64, u64)) -> Seen {
        let mut seen = Seen::default().begin(500_000);
        seen.add(&second((500, 1), (500, 0)));
        let mut seen = seen.begin(750_000);
        seen.add(&second(v1, v2));
        seen
    }

    #[test]
    fn nobody_goes_back_to_a_v1_that_is_worse_or_for_a_v2_that_fails_alone() {
        let goes = |v1, v2| step(raised(v1, v2), &progress(75, MINUTE, Verdict::Warn)).is_some();
        assert!(goes((250, 75), (750, 225)) && goes((250, 100), (750, 160)));
        assert!(!goes((250, 75), (750, 0)), "V1 alone fails");
        assert!(!goes((250, 75), (750, 1)), "one odd call");
        assert!(!goes((250, 120), (750, 160)), "V1 fails more than twice as much");
        assert!(!goes((250, 0), (750, 225)), "V2 alone fails: the judge's business");
        assert!(!goes((0, 0), (750, 225)), "V1 has no callers");
    }

    #[test]
    fn calls_mirrored_back_to_v1_are_no_callers() {
        let mut batch = second((250, 75), (750, 225));
        batch.gauges.push(cutover_policy::Gauge { name: "v1.mirrored{execute}".into(), value: 250 });
        let mut seen = raised((0, 0), (0, 0));
        seen.add(&batch);
        assert_eq!((seen.now, seen.v2), (Calls { requests: 750, errors: 225 }, Calls { requests: 750, errors: 225 }));
        assert_eq!(step(seen, &progress(75, MINUTE, Verdict::Warn)), None);
        assert_eq!(Calls { requests: 100, errors: 10 }.without(50), Calls { requests: 50, errors: 5 });
        assert_eq!(Calls { requests: 0, errors: 0 }.without(9), Calls::default());
    }

    #[test]
    fn a_stage_that_began_by_going_back_is_not_gone_back_from() {
        let mut back = ruined().begin(50_000);
        back.add(&second((900, 135), (100, 15)));
        let list = [Stage { share: cutover_policy::settings::Share(10_000), soak: None }];
        let at = |seen: Seen| seen.step(&Settings::default().retreat, &list, &progress(5, MINUTE, Verdict::Warn));
        assert_eq!(at(back), None);
        let mut again = back.begin(50_000);
        again.add(&second((900, 135), (100, 15)));
        assert_eq!(at(again), None, "another stage of the same share");
        let mut raised = back.begin(100_000);
        raised.add(&second((900, 850), (100, 95)));
        assert!(step(raised, &progress(10, MINUTE, Verdict::Warn)).is_some());
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
            counts in prop::array::uniform6(any::<u64>()), percent in 0_u32..=100, elapsed: u64, warns: bool,
        ) {
            let verdict = if warns { Verdict::Warn } else { Verdict::Healthy };
            let progress = progress(percent, elapsed % (20 * MINUTE), verdict);
            let [requests, errors, n, x, n2, x2] = counts;
            let seen = Seen {
                share: progress.share,
                now: Calls { requests, errors },
                v2: Calls { requests: n2, errors: x2 },
                before: Calls { requests: n, errors: x },
                fell: false,
            };
            if let Some((action, _)) = step(seen, &progress) {
                let Action::Retreat(to) = action else { panic!("{action:?}") };
                prop_assert!(warns && to.share < progress.share && to.share > 0);
            }
        }
    }
}
