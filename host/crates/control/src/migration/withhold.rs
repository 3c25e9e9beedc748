//! What the host does not do by itself while V1 is down. Pure.
//!
//! A rollback needs a V1 to go back to: if V1 is down, callers that V2 fails now and then would be failed always. So
//! what a policy, or the host itself, would send back to V1 stays where it is, and people are alarmed. A step forward
//! that is wanted because a dead V1 looks worse than V2 waits for a person, unless it is configured not to. Orders of
//! operators are not withheld.

use super::failsafe;
use crate::migration::event::Event;
use cutover_model::{
    facts::Finding,
    port::{Action, Verdict},
    request::Ppm,
};
use cutover_store::state::State;

/// The rule that findings about it name.
pub const RULE: &str = "v1-down";

/// Whether V1 could take what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V1 {
    /// A member of it can be reached.
    Serves,
    /// No member of it can be reached.
    Down,
    /// The configuration has no V1.
    Absent,
}

/// The direction in which the host does not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// Sessions do not go back to V1.
    GoingBack,
    /// V2 does not get more.
    GoingUp,
}

/// Whether what an event asks for is not done while V1 is as it is. `raises` says whether V2's share may be raised all the
/// same.
pub fn withhold(state: &State, event: &Event, v1: V1, raises: bool) -> Option<Withheld> {
    if v1 == V1::Serves {
        return None;
    }
    match event {
        Event::Judged { verdict: Verdict::RollBack, .. } if state.is_judged() => Some(Withheld::GoingBack),
        Event::Moved { action, .. } if state.is_staged() => match action {
            Action::Retreat(_) => Some(Withheld::GoingBack),
            Action::Advance(to) if to.share < state.share => Some(Withheld::GoingBack),
            Action::Advance(to) if to.share > state.share && state.needs_v1() && !raises => Some(Withheld::GoingUp),
            Action::Complete if state.needs_v1() && !raises => Some(Withheld::GoingUp),
            Action::Advance(_) | Action::Hold | Action::Complete | Action::Pause => None,
        },
        Event::Failsafe { action: failsafe::Action::Retreat | failsafe::Action::Rollback, .. } if state.is_judged() => {
            Some(Withheld::GoingBack)
        }
        Event::Failsafe { .. }
        | Event::Judged { .. }
        | Event::Moved { .. }
        | Event::PoolsReady
        | Event::Ordered(_)
        | Event::FlagsChanged
        | Event::Returned
        | Event::Tabled(_) => None,
    }
}

impl Withheld {
    /// What is told to people and records, with what people can do.
    pub fn finding(self, migration: &str, share: Ppm) -> Finding {
        let note = match self {
            Self::GoingBack => format!(
                "would go back, but V1 is down: nothing goes back to it by itself; `cutover rollback {migration} --reason TEXT` \
                 does it all the same"
            ),
            Self::GoingUp => format!(
                "V1 is down, so V2 gets no more than {share} by itself; bring V1 back, or send everything to V2: `{}`",
                without_v1(migration)
            ),
        };
        Finding { rule: RULE.into(), observed: 0, limit: 1, unit: "count".into(), note }
    }
}

/// The command that goes on without V1.
pub fn without_v1(migration: &str) -> String {
    format!("cutover advance {migration} --without-v1 --reason TEXT")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_model::{
        clock::UnixMs,
        port::{Phase, Step},
    };

    fn ramping(share: u32) -> State {
        State { phase: Phase::Ramping, share: Ppm::new(share), ..State::new(UnixMs(0)) }
    }

    fn moved(action: Action) -> Event {
        Event::Moved { action, findings: Vec::new() }
    }

    #[test]
    fn nothing_goes_back_to_a_dead_v1_and_nothing_goes_up_because_it_is_dead() {
        let to = |share| Step { stage: 1, share: Ppm::new(share), soak: None };
        let rollback = || Event::Judged { verdict: Verdict::RollBack, findings: Vec::new() };
        let secured = |action| Event::Failsafe { action, findings: Vec::new() };
        let half = ramping(500_000);
        let complete = State { phase: Phase::Complete, share: Ppm::ALL, ..half.clone() };
        let cases = [
            (&half, rollback(), Some(Withheld::GoingBack)),
            (&complete, rollback(), Some(Withheld::GoingBack)),
            (&half, moved(Action::Retreat(to(100_000))), Some(Withheld::GoingBack)),
            (&half, moved(Action::Advance(to(750_000))), Some(Withheld::GoingUp)),
            (&half, secured(failsafe::Action::Rollback), Some(Withheld::GoingBack)),
            (&half, secured(failsafe::Action::Pause), None),
            (&half, moved(Action::Pause), None),
            (&half, moved(Action::Hold), None),
        ];
        for (state, event, expected) in cases {
            assert_eq!(withhold(state, &event, V1::Down, false), expected, "{event:?}");
            assert_eq!(withhold(state, &event, V1::Serves, false), None, "{event:?}");
        }
        let raise = moved(Action::Advance(to(750_000)));
        assert_eq!(withhold(&half, &raise, V1::Down, true), None, "it is configured");
        let all = ramping(1_000_000);
        assert_eq!(withhold(&half, &moved(Action::Complete), V1::Down, false), Some(Withheld::GoingUp));
        assert_eq!(withhold(&all, &moved(Action::Complete), V1::Down, false), None, "nobody is on V1 any more");
    }
}
