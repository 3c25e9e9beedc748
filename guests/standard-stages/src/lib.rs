//! The stage policy that ships: a list of shares, each held for its soak while V2 is healthy and called.
//!
//! Time alone ends no stage: without enough calls, or without the verdict `healthy`, it holds and says what is missing.
//! Going back is the rollback policy's business, but for one case: both pools fail right after a raise (`retreat`).
//!
//! Where it is in its list it tells by the share in force, never by the stage's number: that counts the stages of this
//! ramp, and the list may have become another since it began. What comes next is the next higher share of the list.

mod pairs;
mod retreat;
pub mod settings;

use cutover_policy::{
    Action, Finding, Move, Phase, Policy, Problem, Progress, Stages, Step, Verdict, finding, settings::Span, text,
};
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, Stage};

/// See the module.
#[derive(Debug)]
pub struct StandardStages(Settings);

/// What was seen since the phase or stage began.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// When it began; other counts belong to another stage.
    stage_started_ms: u64,
    /// Mirrored pairs.
    pairs: pairs::Seen,
    /// Calls that V2 answered to callers.
    requests: u64,
    /// Calls of both pools, also of the stage before.
    both: retreat::Seen,
}

/// Something that a stage waits for.
struct Condition {
    met: bool,
    finding: Finding,
}

impl Policy for StandardStages {
    type Settings = Settings;
    const NAME: &'static str = "standard-stages";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const SUMMARY: &'static str = "raises V2's share stage by stage, each for its soak, while V2 is healthy and called";

    fn configure(settings: Settings) -> Result<Self, Vec<Problem>> {
        let problems = settings.problems();
        if problems.is_empty() { Ok(Self(settings)) } else { Err(problems) }
    }
}

impl Stages for StandardStages {
    type Memory = Seen;

    fn next(&self, progress: &Progress, forced: bool, seen: &mut Seen) -> Result<Move, String> {
        seen.add(progress, self.0.pairs.window);
        let (conditions, action) = match progress.phase {
            Phase::Shadow => (self.shadow_conditions(progress, seen), self.step(0, 0)),
            Phase::Ramping => self.ramping(progress, seen),
            Phase::Preparing | Phase::Complete | Phase::Decommissioned | Phase::Paused | Phase::RolledBack => {
                return Ok(Action::Hold.into());
            }
        };
        let back = self.retreat(progress, forced, seen);
        if let Some((action, finding)) = back {
            return Ok(Move { action, findings: vec![finding] });
        }
        let go = forced || conditions.iter().all(|c| c.met);
        // A hold names what is missing; a move shows all that it rests on, or that an operator passed over.
        let findings = conditions.into_iter().filter(|c| go || !c.met).map(|c| c.finding).collect();
        Ok(Move { action: if go { action } else { Action::Hold }, findings })
    }
}

impl StandardStages {
    /// An operator who advances has seen the warning.
    fn retreat(&self, progress: &Progress, forced: bool, seen: &Seen) -> Option<(Action, Finding)> {
        let asked = progress.phase == Phase::Ramping && !forced;
        asked.then(|| seen.both.step(&self.0.retreat, &self.0.stages, progress)).flatten()
    }

    /// In `shadow` the verdict `hold` does not stand in the way: V2 has no callers yet to be judged by.
    fn shadow_conditions(&self, progress: &Progress, seen: &Seen) -> Vec<Condition> {
        let shadow = self.0.shadow;
        let fine = matches!(progress.verdict, Verdict::Healthy | Verdict::Hold);
        let compared = seen.pairs.compared;
        let enough = Condition {
            met: compared >= shadow.min_compared,
            finding: finding(
                "compared",
                compared,
                shadow.min_compared,
                "count",
                format!("{compared} of the {} mirrored pairs needed were compared", shadow.min_compared),
            ),
        };
        let pairs = seen.pairs.conditions(&self.0.pairs, shadow.max_different.0.into(), true);
        [soak(progress, shadow.soak), enough]
            .into_iter()
            .chain(pairs)
            .chain([verdict(progress.verdict, fine)])
            .collect()
    }

    fn ramping(&self, progress: &Progress, seen: &Seen) -> (Vec<Condition>, Action) {
        let stages = &self.0.stages;
        let above = stages.partition_point(|stage| stage.share.0 <= progress.share);
        // A share that is not in the list lasts as long as the one below it, at least; the host keeps the soak that the
        // stage began with.
        let own = stages.get(above.saturating_sub(1)).and_then(|stage| stage.soak);
        let (wait, action) = if above < stages.len() {
            (own, self.step(above, progress.stage.saturating_add(1)))
        } else {
            (self.0.complete_after.map(|after| after.max(own.unwrap_or(after))), Action::Complete)
        };
        let requests = Condition {
            met: seen.requests >= self.0.min_requests,
            finding: finding(
                "v2-requests",
                seen.requests,
                self.0.min_requests,
                "count",
                format!("V2 answered {} of the {} calls that the stage needs", seen.requests, self.0.min_requests),
            ),
        };
        let healthy = progress.verdict == Verdict::Healthy;
        let wait = wait.map_or_else(|| open_ended(progress), |wait| soak(progress, wait));
        // At 100 % nothing need be mirrored any more.
        let pairs = seen.pairs.conditions(&self.0.pairs, self.0.pairs.max_different.0.into(), false);
        ([wait, requests].into_iter().chain(pairs).chain([verdict(progress.verdict, healthy)]).collect(), action)
    }

    /// To the share at `at` in the list, as the ramp's stage `number`.
    fn step(&self, at: usize, number: u32) -> Action {
        let Some(&Stage { share, soak }) = self.0.stages.get(at) else { return Action::Hold };
        let lasts = if at + 1 == self.0.stages.len() { self.0.complete_after.max(soak) } else { soak };
        Action::Advance(Step { stage: number, share: share.0, soak_ms: lasts.map(|s| s.0) })
    }
}

impl Seen {
    /// Adds what happened since the last call. Batches from before the stage belong to another share and are left out.
    fn add(&mut self, progress: &Progress, window: u64) {
        if self.stage_started_ms != progress.stage_started_ms {
            let both = self.both.begin(progress.share);
            *self = Self { stage_started_ms: progress.stage_started_ms, both, ..Self::default() };
        }
        for batch in progress.batches.iter().filter(|b| b.start_ms >= progress.stage_started_ms) {
            self.pairs.add(batch, window);
            self.both.add(batch);
            self.requests = batch.operations.iter().map(|o| o.v2.requests).fold(self.requests, u64::saturating_add);
        }
    }
}

fn elapsed_ms(progress: &Progress) -> u64 {
    progress.now_ms.saturating_sub(progress.stage_started_ms)
}

fn soak(progress: &Progress, Span(soak_ms): Span) -> Condition {
    let elapsed = elapsed_ms(progress);
    let note = format!("lasted {} of {}", text::span(elapsed), text::span(soak_ms));
    Condition { met: elapsed >= soak_ms, finding: finding("soak", elapsed, soak_ms, "ms", note) }
}

/// The wait of a last stage without `complete_after`; its limit of 0 stands for none.
fn open_ended(progress: &Progress) -> Condition {
    let note = "the last stage lasts until an operator advances";
    Condition { met: false, finding: finding("open-ended", elapsed_ms(progress), 0, "ms", note) }
}

fn verdict(verdict: Verdict, fine: bool) -> Condition {
    let name = match verdict {
        Verdict::Healthy => "healthy",
        Verdict::Hold => "hold",
        Verdict::Warn => "warn",
        Verdict::RollBack => "roll-back",
    };
    let note = format!("the rollback policy says `{name}`");
    Condition { met: fine, finding: finding("verdict", fine.into(), 1, "verdicts", note) }
}

cutover_policy::export!(StandardStages: stages);

#[cfg(test)]
mod tests;
