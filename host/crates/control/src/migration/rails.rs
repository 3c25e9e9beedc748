//! The host's own limits on raising V2's share, which hold whatever a policy says. Pure.
//!
//! A policy can be wrong, or be written by somebody else. So the first share, the size of a step, the least time of a
//! stage, and the evidence that a raise rests on have limits of their own. They do not hold a person who advances:
//! people have their reasons, and those are on record.

use std::{fmt, time::Duration};

use serde::Serialize;

use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Action, Phase, Verdict},
    request::Ppm,
};
use cutover_store::state::State;

/// Minutes of a day, and milliseconds of one.
const DAY_MINUTES: u64 = 24 * 60;
const MINUTE_MS: u64 = 60_000;

/// The limits that no policy passes, as they are configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rails {
    /// The most that V2 gets at first.
    pub first_share: Ppm,
    /// The most that one step adds.
    pub largest_step: Ppm,
    /// How long a stage, and `shadow`, lasts at least.
    pub least_soak: Duration,
    /// Pairs that were compared since the host began before V2 gets anybody.
    pub min_compared: u64,
    /// Whether the rollback policy must have said `healthy`; before V2 has anybody, `hold` is enough.
    pub healthy: bool,
    /// Whether nothing is raised at all.
    pub freeze: bool,
    /// When something may be raised, by the clock in UTC; at any time, if that is not set.
    pub hours: Option<Hours>,
    /// From this share on only a person raises.
    pub approval_over: Ppm,
}

/// Days of the week and a time of day, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Hours {
    /// The first and the last day, from 0 for Monday.
    pub days: (u64, u64),
    /// The minute of the day from which on something may be raised, counted from 0.
    pub from: u64,
    /// The minute of the day at which that ends; 1 440 for the end of the day.
    pub to: u64,
}

/// What is known when a policy wants something.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// What the rollback policy said.
    pub verdict: Verdict,
    /// Pairs that were compared since the host began.
    pub compared: u64,
    /// Now, as policies are told.
    pub now: UnixMs,
    /// Now, by the wall clock.
    pub wall: UnixMs,
}

impl Default for Rails {
    fn default() -> Self {
        Self {
            first_share: Ppm::new(500_000),
            largest_step: Ppm::new(500_000),
            least_soak: Duration::ZERO,
            min_compared: 1,
            healthy: true,
            freeze: false,
            hours: None,
            approval_over: Ppm::ALL,
        }
    }
}

impl Rails {
    /// Why a step that a policy wants is not taken.
    pub fn holds(&self, state: &State, action: Action, facts: Facts) -> Option<Finding> {
        let to = match action {
            Action::Advance(to) => to.share,
            Action::Complete => Ppm::ALL,
            Action::Hold | Action::Retreat(_) | Action::Pause => return None,
        };
        if to <= state.share && action != Action::Complete {
            return None;
        }
        self.frozen(facts.wall).or_else(|| self.too_far(state, to)).or_else(|| self.too_early(state, facts))
    }

    fn frozen(&self, wall: UnixMs) -> Option<Finding> {
        if self.freeze {
            return Some(finding("rail-freeze", 1, 0, "count", "nothing is raised while `rails.freeze` is set".into()));
        }
        let hours = self.hours.filter(|hours| !hours.has(wall))?;
        Some(finding("rail-hours", 1, 0, "count", format!("nothing is raised outside of {hours}")))
    }

    fn too_far(&self, state: &State, to: Ppm) -> Option<Finding> {
        let from = state.share;
        let wanted = i64::from(to.get());
        let step = Ppm::new(to.get().saturating_sub(from.get()));
        if to > from && to > self.approval_over {
            let most = self.approval_over;
            let note = format!("V2 gets more than {most} only when a person advances: `rails.approval_over`");
            return Some(finding("rail-approval", wanted, most.get().into(), "ppm", note));
        }
        if from == Ppm::ZERO && to > self.first_share {
            let most = self.first_share;
            let note = format!("the first share would be {to}, and {most} is the most: `rails.first_share`");
            return Some(finding("rail-first-share", wanted, most.get().into(), "ppm", note));
        }
        (from > Ppm::ZERO && step > self.largest_step).then(|| {
            let most = self.largest_step;
            let note = format!("the step from {from} to {to} is larger than {most}: `rails.largest_step`");
            finding("rail-step", step.get().into(), most.get().into(), "ppm", note)
        })
    }

    fn too_early(&self, state: &State, facts: Facts) -> Option<Finding> {
        let lasted = facts.now.since(state.since);
        if lasted < self.least_soak {
            let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
            let shown = humantime::format_duration(self.least_soak);
            let note = format!("a stage lasts {shown} at least: `rails.least_soak`");
            return Some(finding("rail-soak", ms(lasted), ms(self.least_soak), "ms", note));
        }
        let has_callers = state.share > Ppm::ZERO;
        let is_enough = match facts.verdict {
            Verdict::Healthy => true,
            Verdict::Hold => !has_callers,
            Verdict::Warn | Verdict::RollBack => false,
        };
        if self.healthy && !is_enough {
            let note = format!(
                "the rollback policy says `{}`, and nothing is raised then: `rails.healthy`",
                facts.verdict.name()
            );
            return Some(finding("rail-verdict", 0, 1, "verdicts", note));
        }
        let few = state.in_force() == Phase::Shadow && facts.compared < self.min_compared;
        few.then(|| {
            let (count, least) = (facts.compared, self.min_compared);
            let note =
                format!("{count} of {least} mirrored pairs were compared since the host began: `rails.min_compared`");
            let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            finding("rail-compared", whole(count), whole(least), "count", note)
        })
    }
}

fn finding(rule: &str, observed: i64, limit: i64, unit: &str, note: String) -> Finding {
    Finding { rule: rule.into(), observed, limit, unit: unit.into(), note }
}

impl Hours {
    const DAYS: [&'static str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];

    /// From a configuration: `Mon-Fri 09:00-17:00`; `None` if it is nothing of the kind.
    pub fn parse(text: &str) -> Option<Self> {
        let (days, times) = text.split_once(' ')?;
        let day = |name: &str| Self::DAYS.iter().position(|day| *day == name).and_then(|at| u64::try_from(at).ok());
        let (first, last) = days.split_once('-').unwrap_or((days, days));
        let minute = |text: &str| {
            let (hours, minutes) = text.split_once(':')?;
            let two = |digits: &str| digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            let (hours, minutes) =
                (two(hours).then(|| hours.parse::<u64>().ok())??, two(minutes).then(|| minutes.parse::<u64>().ok())??);
            (minutes < 60 && hours * 60 + minutes <= DAY_MINUTES).then_some(hours * 60 + minutes)
        };
        let (from, to) = times.split_once('-')?;
        let hours = Self { days: (day(first)?, day(last)?), from: minute(from)?, to: minute(to)? };
        (hours.days.0 <= hours.days.1 && hours.from < hours.to).then_some(hours)
    }

    fn has(&self, wall: UnixMs) -> bool {
        let minutes = wall.0 / MINUTE_MS;
        // The first of January 1970 was a Thursday.
        let (day, minute) = ((minutes / DAY_MINUTES + 3) % 7, minutes % DAY_MINUTES);
        (self.days.0..=self.days.1).contains(&day) && (self.from..self.to).contains(&minute)
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |at: u64| usize::try_from(at).ok().and_then(|at| Self::DAYS.get(at)).copied().unwrap_or("?");
        let time = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} {}-{} (UTC)", day(self.days.0), day(self.days.1), time(self.from), time(self.to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::port::Step;

    const FINE: Facts = Facts { verdict: Verdict::Healthy, compared: 100, now: UnixMs(1_000_000), wall: UnixMs(0) };

    fn at(phase: Phase, percent: u32) -> State {
        State { phase, share: Ppm::new(percent * 10_000), ..State::new(UnixMs(0)) }
    }

    fn up(percent: u32) -> Action {
        Action::Advance(Step { stage: 0, share: Ppm::new(percent * 10_000), soak: None })
    }

    fn rule(rails: &Rails, state: &State, action: Action, facts: Facts) -> Option<String> {
        rails.holds(state, action, facts).map(|finding| finding.rule)
    }

    #[test]
    fn a_policy_that_wants_everything_at_once_gets_nothing() {
        let (rails, shadow) = (Rails::default(), at(Phase::Shadow, 0));
        let warned = Facts { verdict: Verdict::Warn, compared: 0, ..FINE };
        assert_eq!(rule(&rails, &shadow, up(100), warned).as_deref(), Some("rail-first-share"));
        assert_eq!(rule(&rails, &shadow, up(5), warned).as_deref(), Some("rail-verdict"));
        let hold = Facts { verdict: Verdict::Hold, ..FINE };
        assert_eq!(rule(&rails, &shadow, up(5), Facts { compared: 0, ..hold }).as_deref(), Some("rail-compared"));
        assert_eq!(rule(&rails, &shadow, up(5), hold), None, "V2 has no callers yet to be judged by");
        let ramping = at(Phase::Ramping, 25);
        assert_eq!(rule(&rails, &ramping, up(50), hold).as_deref(), Some("rail-verdict"));
        assert_eq!(rule(&rails, &ramping, up(80), FINE).as_deref(), Some("rail-step"));
        assert_eq!(rule(&rails, &ramping, up(75), FINE), None);
        assert_eq!(rule(&rails, &ramping, Action::Complete, FINE).as_deref(), Some("rail-step"));
    }

    #[test]
    fn what_goes_down_or_stays_passes_every_rail() {
        let rails = Rails { freeze: true, least_soak: Duration::from_hours(9), ..Rails::default() };
        let warned = Facts { verdict: Verdict::RollBack, compared: 0, ..FINE };
        let down = Action::Retreat(Step { stage: 0, share: Ppm::new(1), soak: None });
        for action in [down, Action::Hold, Action::Pause] {
            assert_eq!(rule(&rails, &at(Phase::Ramping, 50), action, warned), None);
        }
    }

    #[test]
    fn soak_freeze_hours_and_approval_hold_what_is_otherwise_fine() {
        let state = at(Phase::Ramping, 10);
        let with = |rails: Rails, facts| rule(&rails, &state, up(25), facts);
        let soak = Rails { least_soak: Duration::from_secs(1_001), ..Rails::default() };
        assert_eq!(with(soak, FINE).as_deref(), Some("rail-soak"));
        assert_eq!(with(Rails { freeze: true, ..Rails::default() }, FINE).as_deref(), Some("rail-freeze"));
        let person = Rails { approval_over: Ppm::new(200_000), ..Rails::default() };
        assert_eq!(with(person, FINE).as_deref(), Some("rail-approval"));
        let office = Rails { hours: Hours::parse("Mon-Fri 09:00-17:00"), ..Rails::default() };
        let thursday_at = |minute: u64| Facts { wall: UnixMs(minute * MINUTE_MS), ..FINE };
        assert_eq!(with(office.clone(), thursday_at(9 * 60)), None);
        assert_eq!(with(office.clone(), thursday_at(17 * 60)).as_deref(), Some("rail-hours"));
        let saturday = Facts { wall: UnixMs((2 * DAY_MINUTES + 600) * MINUTE_MS), ..FINE };
        assert_eq!(with(office, saturday).as_deref(), Some("rail-hours"));
    }

    #[test]
    fn hours_that_are_none_are_refused() {
        for wrong in [
            "",
            "Mon-Fri",
            "Mon-Fri 9:00-17:00",
            "Fri-Mon 09:00-17:00",
            "Mon 17:00-09:00",
            "Mon 09:00-25:00",
            "mon 09:00-10:00",
        ] {
            assert_eq!(Hours::parse(wrong), None, "{wrong}");
        }
        let hours = Hours::parse("Sat 00:00-24:00").unwrap();
        assert_eq!(hours.to_string(), "Sat-Sat 00:00-24:00 (UTC)");
    }
}
