//! What an operator orders, phase by phase. Each refusal says what can be done instead.

use super::{Facts, beyond, complete, decide, go, pause, resume, roll_back, wrong_way};
use crate::migration::{
    event::{Effect, Refused, Transition},
    withhold::{V1, without_v1},
};
use cutover_model::{
    clock::UnixMs,
    port::{Action, Phase, Step},
    request::Ppm,
};
use cutover_store::state::State;

pub(super) fn ordered(
    state: &State,
    order: Transition,
    reason: &str,
    facts: Facts<'_>,
    now: UnixMs,
) -> Result<(State, Vec<Effect>), Refused> {
    let phase = state.phase;
    let refuse = |why: &str| Err(Refused(format!("the migration is {phase}{why}")));
    let because = |why: String| Err(Refused(why));
    match (order, phase) {
        (Transition::Advance(_) | Transition::AdvanceTo(_) | Transition::Retreat(_) | Transition::Redeploy, _)
            if state.redeploys =>
        {
            because("V2 is being replaced, so nothing moves until it is back; `rollback` works nevertheless".into())
        }
        (Transition::Pause, Phase::Shadow | Phase::Ramping) => Ok(pause(state, reason, Vec::new())),
        (Transition::Pause, Phase::Preparing) => {
            refuse(": there is nothing to pause before `shadow`; `rollback` stops V2 now")
        }
        (Transition::Pause, Phase::Paused) => refuse(" already; `resume` goes on"),
        (Transition::Pause, Phase::Complete) => refuse(
            ": nothing moves any more that could be paused; the flag `auto_rollback` keeps policies from going back",
        ),
        (Transition::Pause, Phase::RolledBack | Phase::Decommissioned) => {
            refuse(": nothing moves that could be paused; only `shadow` and `ramping` can")
        }
        (Transition::Resume, Phase::Paused) => Ok(resume(state, reason)),
        (Transition::Resume, Phase::RolledBack) => {
            let effects = vec![decide("begin-again", reason, Vec::new()), Effect::Route, Effect::OpenV2];
            Ok((state.anew(now), effects))
        }
        (Transition::Resume, Phase::Shadow | Phase::Ramping) => refuse(
            " and goes on already; only `paused` and `rolled-back` can be resumed. `advance` takes the next stage now",
        ),
        (Transition::Resume, Phase::Complete | Phase::Decommissioned) => {
            refuse(", which is the end; only `paused` and `rolled-back` can be resumed")
        }
        (Transition::AdvanceTo(share), Phase::Shadow | Phase::Ramping) => advance_to(state, share, reason, facts, now),
        (Transition::Retreat(to), _) => retreat(state, to, reason, now),
        (Transition::Redeploy, _) => redeploy(state, reason, facts),
        (Transition::Advance(action), Phase::Shadow | Phase::Ramping) => match action {
            action if wrong_way(state, action).is_some() => Err(Refused(wrong_way(state, action).unwrap_or_default())),
            action if beyond(action, facts.most).is_some() => {
                Err(Refused(beyond(action, facts.most).map(|(_, note)| note).unwrap_or_default()))
            }
            Action::Advance(to) => Ok(go(state, "advance", to, reason, Vec::new(), now)),
            Action::Complete => Ok(complete(state, reason, Vec::new(), now)),
            Action::Hold | Action::Pause | Action::Retreat(_) => {
                Err(Refused("the stages policy names no stage to advance to".into()))
            }
        },
        (Transition::Advance(_) | Transition::AdvanceTo(_) | Transition::Resume, Phase::Preparing) => {
            because(preparing(facts))
        }
        (Transition::Advance(_) | Transition::AdvanceTo(_), Phase::Complete | Phase::Decommissioned) => {
            refuse(": V2 has everything, so there is nothing to advance to")
        }
        (Transition::Advance(_) | Transition::AdvanceTo(_), Phase::Paused) => {
            refuse(", so it cannot advance; `resume` first, and then `advance`")
        }
        (Transition::Advance(_) | Transition::AdvanceTo(_), Phase::RolledBack) => refuse(
            ", so it cannot advance; `resume` begins again, and `cutover wait` says when there is something to advance",
        ),
        (Transition::AdvanceWithoutV1, _) => without(state, reason, facts, now),
        (Transition::Rollback | Transition::EmergencyRollback, Phase::RolledBack) => {
            refuse(" already: V1 has everybody; `resume` begins again")
        }
        (Transition::Rollback | Transition::EmergencyRollback, _) if facts.v1 == V1::Absent => {
            refuse(" and cannot be rolled back: the configuration has no V1; put it back and restart the host first")
        }
        (Transition::Rollback | Transition::EmergencyRollback, Phase::Decommissioned) => {
            refuse(" and cannot be rolled back: V1 is gone; restore it from a backup first")
        }
        (Transition::Rollback, _) => Ok(roll_back(state, reason.into(), Vec::new(), Effect::DrainV2, now)),
        (Transition::EmergencyRollback, _) => Ok(roll_back(state, reason.into(), Vec::new(), Effect::KillV2, now)),
    }
}

/// Why a migration that is preparing does not go on, and what can be done.
pub(in crate::migration) fn preparing(Facts { migration, v1, v2_serves, .. }: Facts<'_>) -> String {
    match (v1, v2_serves) {
        (V1::Serves, true) => {
            "the migration is preparing: both pools are ready, and it goes on by itself in a moment".into()
        }
        (V1::Serves, false) => format!(
            "the migration is preparing: it goes on by itself when V2 is ready; `cutover wait {migration} --for shadow` returns \
             then, and `cutover status` says what it waits for"
        ),
        (V1::Down | V1::Absent, true) => format!(
            "the migration is preparing and waits for V1, which is not ready; if V1 is not coming back, `{}` sends everything \
             to V2",
            without_v1(migration)
        ),
        (V1::Down | V1::Absent, false) => "the migration is preparing, and neither V1 nor V2 is ready".into(),
    }
}

/// Up to a share that a person names, whatever the table says.
fn advance_to(
    state: &State,
    share: Ppm,
    reason: &str,
    facts: Facts<'_>,
    now: UnixMs,
) -> Result<(State, Vec<Effect>), Refused> {
    let number = if state.phase == Phase::Shadow { 0 } else { state.stage.saturating_add(1) };
    let soak = state.table.as_ref().and_then(|table| table.soak_at(share));
    let to = Step { stage: number, share, soak };
    match wrong_way(state, Action::Advance(to)) {
        Some(why) => Err(Refused(format!("{why}; `retreat` lowers it"))),
        None if beyond(Action::Advance(to), facts.most).is_some() => {
            Err(Refused(beyond(Action::Advance(to), facts.most).map(|(_, note)| note).unwrap_or_default()))
        }
        None => Ok(go(state, "advance", to, reason, Vec::new(), now)),
    }
}

/// Back to a lower share.
fn retreat(state: &State, to: Option<Ppm>, reason: &str, now: UnixMs) -> Result<(State, Vec<Effect>), Refused> {
    let refused = |why: String| Err(Refused(why));
    match state.phase {
        Phase::Ramping => {}
        Phase::Paused if state.paused_in == Some(Phase::Ramping) => {
            return refused(
                "the migration is paused; `resume` first, and then `retreat`, or `rollback`, which needs no resume"
                    .into(),
            );
        }
        Phase::Preparing | Phase::Shadow | Phase::Paused | Phase::RolledBack => {
            return refused(format!("the migration is {}: V2 has no share to go back from", state.phase));
        }
        Phase::Complete | Phase::Decommissioned => {
            return refused(format!(
                "the migration is {}: it has no stage to go back to; `rollback` sends everything to V1",
                state.phase
            ));
        }
    }
    let below = || state.below.last().copied();
    let named = |share: Ppm| {
        let soak = state.table.as_ref().and_then(|table| table.soak_at(share));
        let number = state.below.iter().filter(|step| step.share < share).count();
        Step { stage: u32::try_from(number).unwrap_or(u32::MAX), share, soak }
    };
    let Some(to) = to.map_or_else(below, |share| Some(named(share))) else {
        return refused(format!("{} is the first stage; `rollback` sends everything to V1", state.share));
    };
    if to.share == Ppm::ZERO {
        return refused("nothing for V2 is no stage; `rollback` sends everything to V1".into());
    }
    match wrong_way(state, Action::Retreat(to)) {
        Some(why) => refused(format!("{why}; `advance --to` raises it")),
        None => Ok(go(state, "retreat", to, reason, Vec::new(), now)),
    }
}

/// V1 has everybody while V2 is replaced.
fn redeploy(state: &State, reason: &str, facts: Facts<'_>) -> Result<(State, Vec<Effect>), Refused> {
    let refused = |why: String| Err(Refused(why));
    if !state.v2_runs() {
        let phase = state.phase;
        return refused(format!(
            "the migration is {phase}, so V2 has nobody: replace it, and it is used as it is when it starts"
        ));
    }
    if facts.v1 != V1::Serves && state.share > Ppm::ZERO {
        return refused("V1 is not there to take V2's callers meanwhile".into());
    }
    let next = State { redeploys: true, ..state.clone() };
    Ok((next, vec![decide("redeploy", reason, Vec::new()), Effect::Route, Effect::RestartV2, Effect::Notify]))
}

/// Sends everything to V2, because V1 is gone: a person says so, and nothing can be compared any more.
fn without(state: &State, reason: &str, facts: Facts<'_>, now: UnixMs) -> Result<(State, Vec<Effect>), Refused> {
    let phase = state.phase;
    let refused = |why: String| Err(Refused(why));
    match phase {
        Phase::Complete | Phase::Decommissioned => refused(format!("the migration is {phase}: everything is on V2")),
        Phase::RolledBack => refused(
            "the migration is rolled-back, so V2 is stopped; resume it first, and then advance without V1".into(),
        ),
        _ if facts.v1 == V1::Serves => {
            refused("V1 is there, so nothing goes on without it; `advance` takes the next stage".into())
        }
        _ if !facts.v2_serves => refused("V2 is not ready either, so there is nobody to go on with".into()),
        _ if facts.most < Ppm::ALL => {
            refused(beyond(Action::Complete, facts.most).map(|(_, note)| note).unwrap_or_default())
        }
        Phase::Preparing | Phase::Shadow | Phase::Ramping | Phase::Paused => {
            let state = State { paused_in: None, redeploys: false, ..state.clone() };
            Ok(complete(&state, reason, Vec::new(), now))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::migration::{
        event::Event,
        step::{ON, step},
    };
    use cutover_store::state::table::{Row, Table};

    fn at(phase: Phase, share: u32) -> State {
        State { phase, share: Ppm::new(share), ..State::new(UnixMs(5)) }
    }

    fn take(state: &State, order: Transition) -> Result<(State, Vec<Effect>), String> {
        step(state, Event::Ordered(order), "because", ON, UnixMs(9)).map_err(|refused| refused.0)
    }

    #[test]
    fn every_refusal_says_what_can_be_done_in_the_phase() {
        let paused = State { paused_in: Some(Phase::Ramping), ..at(Phase::Paused, 50_000) };
        let advance = Transition::Advance(Action::Hold);
        for (state, order, words) in [
            (at(Phase::Preparing, 0), Transition::Pause, "`rollback` stops V2 now"),
            (at(Phase::Preparing, 0), advance, "goes on by itself"),
            (at(Phase::Preparing, 0), Transition::Resume, "goes on by itself"),
            (at(Phase::Shadow, 0), Transition::Resume, "`advance` takes the next stage"),
            (at(Phase::Shadow, 0), Transition::Retreat(None), "no share to go back from"),
            (paused.clone(), Transition::Pause, "`resume` goes on"),
            (paused.clone(), advance, "`resume` first"),
            (paused, Transition::Retreat(None), "`resume` first"),
            (at(Phase::Complete, 1_000_000), Transition::Pause, "`auto_rollback`"),
            (at(Phase::Complete, 1_000_000), advance, "nothing to advance to"),
            (at(Phase::Complete, 1_000_000), Transition::Retreat(None), "`rollback` sends everything to V1"),
            (at(Phase::RolledBack, 0), advance, "`resume` begins again"),
            (at(Phase::RolledBack, 0), Transition::Rollback, "`resume` begins again"),
            (at(Phase::RolledBack, 0), Transition::Redeploy, "V2 has nobody"),
            (at(Phase::Ramping, 50_000), Transition::Retreat(None), "`rollback` sends everything to V1"),
            (at(Phase::Ramping, 50_000), Transition::Retreat(Some(Ppm::new(60_000))), "`advance --to`"),
            (at(Phase::Ramping, 50_000), Transition::Retreat(Some(Ppm::ZERO)), "`rollback`"),
            (at(Phase::Ramping, 50_000), Transition::AdvanceTo(Ppm::new(40_000)), "`retreat` lowers it"),
        ] {
            let phase = state.phase;
            let refused = take(&state, order).expect_err(phase.name());
            assert!(refused.contains(words), "{phase} {order:?}: {refused}");
        }
    }

    #[test]
    fn a_person_goes_up_to_a_share_and_back_to_one_with_the_soak_of_the_table() {
        let row =
            |percent: u32, hours| Row { share: Ppm::new(percent * 10_000), soak: Some(Duration::from_hours(hours)) };
        let table = Table { policy: "stages@1".into(), stages: vec![row(5, 1), row(10, 2), row(50, 4)] };
        let shadow = State { table: Some(table), ..at(Phase::Shadow, 0) };
        let (up, effects) = take(&shadow, Transition::AdvanceTo(Ppm::new(250_000))).unwrap();
        assert_eq!((up.phase, up.stage, up.share), (Phase::Ramping, 0, Ppm::new(250_000)));
        assert_eq!(up.soak, Some(Duration::from_hours(2)), "that of the highest stage that is not above it");
        assert!(matches!(effects[..], [Effect::Decide(_), Effect::Route, Effect::BeginStage, Effect::Notify]));
        let (higher, _) = take(&up, Transition::AdvanceTo(Ppm::new(500_000))).unwrap();
        assert_eq!((higher.stage, higher.below.len()), (1, 1));
        let (back, _) = take(&higher, Transition::Retreat(None)).unwrap();
        assert_eq!((back.stage, back.share), (0, Ppm::new(250_000)));
        let (lower, _) = take(&higher, Transition::Retreat(Some(Ppm::new(50_000)))).unwrap();
        assert_eq!((lower.stage, lower.share, lower.soak), (0, Ppm::new(50_000), Some(Duration::from_hours(1))));
    }

    #[test]
    fn a_v2_that_is_replaced_comes_back_at_its_stage_which_begins_anew() {
        let before = State { stage: 2, ..at(Phase::Ramping, 250_000) };
        let (held, effects) = take(&before, Transition::Redeploy).unwrap();
        assert!(matches!(effects[..], [Effect::Decide(_), Effect::Route, Effect::RestartV2, Effect::Notify]));
        assert!(held.redeploys && !held.is_judged() && !held.is_staged() && held.share == before.share);
        for order in [Transition::Advance(Action::Complete), Transition::Redeploy, Transition::Retreat(None)] {
            assert!(take(&held, order).unwrap_err().contains("until it is back"));
        }
        let happens = |facts, event| step(&held, event, "", facts, UnixMs(9)).unwrap();
        let (back, effects) = happens(ON, Event::Returned);
        assert_eq!(back, State { since: UnixMs(9), ..before });
        assert!(matches!(effects[..], [Effect::Decide(_), Effect::BeginStage, Effect::Route, Effect::Notify]));
        assert_eq!(happens(ON, Event::PoolsReady).0, back, "a host that starts has started its workers anew");
        let upstreams = Facts { v2_is_own: false, ..ON };
        assert!(happens(upstreams, Event::PoolsReady).0.redeploys, "whether upstreams are replaced a person says");
        let (rolled_back, _) = take(&held, Transition::Rollback).unwrap();
        assert!(!rolled_back.redeploys && rolled_back.phase == Phase::RolledBack);
        assert_eq!(step(&rolled_back, Event::Returned, "", ON, UnixMs(9)).unwrap().1, Vec::new());
    }
}
