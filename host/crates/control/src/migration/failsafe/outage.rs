//! The guard against a V2 that fails everything. It looks at each second, whichever policy judges.
//!
//! Its claim is exact: V2 answered nothing, over whole batches in a row, in enough calls of enough sessions, while V1
//! answered. So it needs no statistics, and leaves everything less than that to the judge.

use std::time::Duration;

use super::{Action, Said, Shown, Thing, spoken};
use cutover_model::{
    facts::{Batch, Finding},
    request::Ppm,
};

/// How many times as many calls are needed when they may be of one caller, or V1 has no calls to compare with.
const ALONE: u64 = 5;

/// When V2 counts as out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls in a row, all of them failed. Five times as many if they are of fewer sessions than `sessions`, or if V1 had
    /// no call meanwhile.
    pub calls: u64,
    /// Distinct sessions that failed.
    pub sessions: u64,
    /// How long that must have lasted, in whole batches.
    pub lasts: Duration,
    /// V1's error rate meanwhile, from which the fault is not V2's alone.
    pub v1_errors: Ppm,
}

impl Default for Limits {
    /// Ten calls of three sessions in two seconds, while V1 failed less than a quarter.
    fn default() -> Self {
        Self { calls: 10, sessions: 3, lasts: Duration::from_secs(2), v1_errors: Ppm::new(250_000) }
    }
}

/// The last batches in which V2 answered nothing, and the limits that they are held against.
#[derive(Debug)]
pub(super) struct Outage {
    limits: Limits,
    streak: Streak,
    /// Whether people were told of this streak.
    told: bool,
}

/// Batches in a row in which V2 was called and answered nothing. Those in which it was not called do not end it.
#[derive(Debug, Clone, Default)]
struct Streak {
    lasted_ms: u64,
    calls: u64,
    sessions: u64,
    v1_calls: u64,
    v1_errors: u64,
}

impl Outage {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, streak: Streak::default(), told: false }
    }

    pub(super) fn forget(&mut self) {
        self.streak = Streak::default();
        self.told = false;
    }

    pub(super) fn observe(
        &mut self,
        batch: &Batch,
        held_back: Option<&'static str>,
        said: &mut Vec<Said>,
        act: &mut Option<Said>,
    ) {
        let sum = |of: fn(&cutover_model::facts::OperationCalls) -> u64| {
            batch.operations.iter().map(of).fold(0_u64, u64::saturating_add)
        };
        let (calls, errors) = (sum(|o| o.v2.requests), sum(|o| o.v2.errors));
        if errors < calls {
            return self.forget();
        }
        let streak = &mut self.streak;
        let began = streak.calls > 0 || calls > 0;
        if began {
            streak.lasted_ms = streak.lasted_ms.saturating_add(batch.duration_ms.into());
            streak.calls = streak.calls.saturating_add(calls);
            streak.sessions = streak.sessions.saturating_add(sum(|o| o.v2.unit_errors));
            streak.v1_calls = streak.v1_calls.saturating_add(sum(|o| o.v1.requests));
            streak.v1_errors = streak.v1_errors.saturating_add(sum(|o| o.v1.errors));
        }
        if calls == 0 || !self.is_out() {
            return;
        }
        let findings = self.findings();
        match held_back {
            None => *act = Some(Said::Act { action: Action::Rollback, findings }),
            Some(why_not) if !self.told => {
                self.told = true;
                let notes: Vec<_> = findings.iter().map(|finding| finding.note.as_str()).collect();
                let message = format!("{}, and {why_not}", notes.join("; "));
                said.push(Said::Alarm { event: Thing::V2.rule(), severity: "critical", message, findings });
            }
            Some(_) => {}
        }
    }

    fn is_out(&self) -> bool {
        let Streak { lasted_ms, calls, sessions, v1_calls, v1_errors } = self.streak;
        let alone = v1_calls == 0 || sessions < self.limits.sessions;
        let enough = if alone { self.limits.calls.saturating_mul(ALONE) } else { self.limits.calls };
        let v1_limit = u128::from(v1_calls) * u128::from(self.limits.v1_errors.get());
        let v1_answers = v1_calls == 0 || u128::from(v1_errors) * 1_000_000 < v1_limit;
        u128::from(lasted_ms) >= self.limits.lasts.as_millis() && calls >= enough && v1_answers
    }

    fn findings(&self) -> Vec<Finding> {
        let Streak { lasted_ms, calls, sessions, v1_calls, v1_errors } = self.streak;
        let finding = |observed: u64, limit: u64, unit: &str, note: String| Finding {
            rule: Thing::V2.rule().into(),
            observed: i64::try_from(observed).unwrap_or(i64::MAX),
            limit: i64::try_from(limit).unwrap_or(i64::MAX),
            unit: unit.into(),
            note,
        };
        let lasted = spoken(Duration::from_millis(lasted_ms));
        let failed =
            format!("V2 failed all of {calls} calls in {lasted}, the first failure of {sessions} sessions among them");
        let rate = (u128::from(v1_errors) * 1_000_000).checked_div(u128::from(v1_calls)).unwrap_or(0);
        let rate = Ppm::new(u32::try_from(rate).unwrap_or(u32::MAX));
        let v1 = match v1_calls {
            0 => "V1 had no calls meanwhile".into(),
            _ => format!("V1 failed {v1_errors} of {v1_calls} meanwhile"),
        };
        vec![
            finding(calls, self.limits.calls, "count", failed),
            finding(rate.get().into(), self.limits.v1_errors.get().into(), "ppm", v1),
        ]
    }

    /// An outage that nothing is done about.
    pub(super) fn shown(&self, held_back: Option<&'static str>) -> Option<Shown> {
        let why = self.findings().into_iter().next()?.note;
        let for_ms = self.streak.lasted_ms;
        self.told.then_some(Shown {
            lost: Thing::V2,
            why,
            for_ms,
            action: Action::Rollback,
            acts_in_ms: Some(0),
            held_back,
        })
    }
}
