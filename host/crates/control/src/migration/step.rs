//! The migration controller as a pure function: `step(state, event) -> (state, effects)`.
//!
//! No clock, no randomness, no I/O: so every decision can be repeated, and thousands of migrations simulated in a test.
//! **Invariants**, each held by a property test: V2's share is zero outside of `ramping` and `complete` (and pauses in
//! them); a rollback's first effects are to persist and to route everything to V1; nothing changes without a decision;
//! nothing that the host does by itself raises the share.

mod ordered;

use std::time::Duration;

use self::ordered::ordered;
pub(super) use self::ordered::preparing;
use super::{
    failsafe,
    withhold::{V1, Withheld, withhold},
};
use crate::migration::event::{Decided, Effect, Event, Refused};
use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Action, Phase, Step, Verdict},
    request::Ppm,
};
use cutover_store::state::{State, table::Table};

/// What operators have switched, as far as a step has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switches {
    /// Whether the rollback policy's verdicts are acted on.
    pub auto_rollback: bool,
    /// Whether the stages policy's advances are acted on.
    pub auto_advance: bool,
}

/// What a step has to know besides the state and the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// What operators have switched.
    pub switches: Switches,
    /// The migration's name, for commands that people are told.
    pub migration: &'a str,
    /// Whether V1 could take what is sent to it.
    pub v1: V1,
    /// Whether V2 could take what is sent to it.
    pub v2_serves: bool,
    /// Whether the stages policy may raise V2's share while V1 is down.
    pub raises_without_v1: bool,
    /// Whether V2's members are workers of the host, which a host that starts has started anew.
    pub v2_is_own: bool,
    /// The most that V2 gets by what operators have switched.
    pub most: Ppm,
}

/// Takes one step. `reason` is an operator's, and empty for policies.
///
/// # Errors
/// Why an order is refused in this state. Events that do not apply are not errors: they have no effects.
pub fn step(
    state: &State,
    event: Event,
    reason: &str,
    facts: Facts<'_>,
    now: UnixMs,
) -> Result<(State, Vec<Effect>), Refused> {
    let switches = facts.switches;
    if let Some(withheld) = withhold(state, &event, facts.v1, facts.raises_without_v1)
        && (switches.auto_rollback || matches!(event, Event::Moved { .. }))
        && (switches.auto_advance || withheld != Withheld::GoingUp)
    {
        let findings = match event {
            Event::Judged { findings, .. } | Event::Moved { findings, .. } | Event::Failsafe { findings, .. } => {
                findings
            }
            Event::PoolsReady | Event::Ordered(_) | Event::FlagsChanged | Event::Tabled(_) | Event::Returned => {
                Vec::new()
            }
        };
        return Ok((state.clone(), vec![Effect::Withhold(withheld, findings)]));
    }
    match event {
        Event::PoolsReady if state.redeploys && facts.v2_is_own => Ok(returned(state, now)),
        Event::PoolsReady => Ok(pools_ready(state, now)),
        Event::Returned => Ok(returned(state, now)),
        Event::Judged { verdict: Verdict::RollBack, findings } if state.is_judged() && switches.auto_rollback => {
            let because = because(&findings, "the rollback policy says so");
            Ok(roll_back(state, because, findings, Effect::DrainV2, now))
        }
        Event::Moved { action, findings } if state.is_staged() => Ok(moved(state, action, findings, facts, now)),
        Event::Ordered(order) => ordered(state, order, reason, facts, now),
        Event::FlagsChanged => Ok((state.clone(), vec![Effect::Route])),
        Event::Failsafe { action, findings } if state.is_judged() && switches.auto_rollback => {
            Ok(secure(state, action, findings, now))
        }
        Event::Tabled(table) => Ok(tabled(state, table)),
        Event::Judged { .. } | Event::Moved { .. } | Event::Failsafe { .. } => Ok((state.clone(), Vec::new())),
    }
}

fn pools_ready(state: &State, now: UnixMs) -> (State, Vec<Effect>) {
    if state.phase != Phase::Preparing {
        // After a restart: the state is what it was, and now V2 can serve its share.
        return (state.clone(), vec![Effect::Route]);
    }
    let next = State { phase: Phase::Shadow, ..state.anew(now) };
    let effects = vec![decide("begin", "both pools are ready", Vec::new()), Effect::BeginStage, Effect::Route];
    (next, effects)
}

/// V2 has its callers again. It is another V2: its stage begins anew, with soak and evidence.
fn returned(state: &State, now: UnixMs) -> (State, Vec<Effect>) {
    if !state.redeploys {
        return (state.clone(), Vec::new());
    }
    let next = State { redeploys: false, since: now, ..state.clone() };
    let reason = format!("V2 was replaced and is ready: it has {} again, and its stage begins anew", state.share);
    let decided = decide("redeployed", &reason, Vec::new());
    (next, vec![decided, Effect::BeginStage, Effect::Route, Effect::Notify])
}

fn moved(state: &State, action: Action, findings: Vec<Finding>, facts: Facts<'_>, now: UnixMs) -> (State, Vec<Effect>) {
    let (nothing, switches) = (|| (state.clone(), Vec::new()), facts.switches);
    if held(state, action, facts.most, now).is_some() {
        return nothing();
    }
    match action {
        Action::Hold => nothing(),
        Action::Advance(_) | Action::Complete if !switches.auto_advance => nothing(),
        Action::Advance(to) => {
            go(state, "advance", to, &because(&findings, "the stages policy says so"), findings, now)
        }
        Action::Retreat(to) => {
            go(state, "retreat", to, &because(&findings, "the stages policy says so"), findings, now)
        }
        Action::Complete => complete(state, &because(&findings, "the stages policy says so"), findings, now),
        Action::Pause => pause(state, &because(&findings, "the stages policy says so"), findings),
    }
}

/// What the host does by itself.
fn secure(state: &State, action: failsafe::Action, findings: Vec<Finding>, now: UnixMs) -> (State, Vec<Effect>) {
    let reason = because(&findings, "nobody would notice a bad V2");
    match (action, state.below.last().copied()) {
        (failsafe::Action::Pause, _) if matches!(state.phase, Phase::Shadow | Phase::Ramping) => {
            pause(state, &reason, findings)
        }
        (failsafe::Action::Pause | failsafe::Action::None, _) => (state.clone(), Vec::new()),
        // While it is paused it stays so: only a person resumes.
        (failsafe::Action::Retreat, Some(to)) => {
            let paused = (state.phase, state.paused_in, state.because.clone());
            let (next, effects) = go(state, "retreat", to, &reason, findings, now);
            if paused.0 == Phase::Paused {
                let (phase, paused_in, because) = paused;
                (State { phase, paused_in, because, ..next }, effects)
            } else {
                (next, effects)
            }
        }
        (failsafe::Action::Retreat | failsafe::Action::Rollback, _) => {
            roll_back(state, reason, findings, Effect::DrainV2, now)
        }
    }
}

/// Why the host does not take a step that a stages policy wants; the policy is told nothing, and people are. `most` is what
/// V2 gets at most by what operators have switched.
pub fn held(state: &State, action: Action, most: Ppm, now: UnixMs) -> Option<Finding> {
    let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let finding = |rule: &str, observed, limit, unit: &str, note| Finding {
        rule: rule.into(),
        observed,
        limit,
        unit: unit.into(),
        note,
    };
    if let Some(note) = wrong_way(state, action) {
        let to = match action {
            Action::Advance(to) | Action::Retreat(to) => to.share,
            Action::Hold | Action::Complete | Action::Pause => state.share,
        };
        return Some(finding("wrong-way", to.get().into(), state.share.get().into(), "ppm", note));
    }
    if let Some((to, note)) = beyond(action, most) {
        return Some(finding("flag-limit", to.get().into(), most.get().into(), "ppm", note));
    }
    let goes_up = matches!(action, Action::Advance(_) | Action::Complete);
    let (lasted, soak) = state.kept_soak(now).filter(|_| goes_up)?;
    let note = format!(
        "{} is no stage of the table in force, so it keeps the soak that it began with: {} of {}",
        state.share,
        humantime::format_duration(Duration::from_secs(lasted.as_secs())),
        humantime::format_duration(soak)
    );
    Some(finding("kept-soak", ms(lasted), ms(soak), "ms", note))
}

/// Where a step would go if the flags let V2 have as much, and why it does not go there: V2 would not get what the stage
/// stands for, and nothing would be learned of it.
fn beyond(action: Action, most: Ppm) -> Option<(Ppm, String)> {
    let to = match action {
        Action::Advance(to) => to.share,
        Action::Complete => Ppm::ALL,
        Action::Hold | Action::Pause | Action::Retreat(_) => return None,
    };
    let flag = if most == Ppm::ZERO {
        "`pool_v2_enabled` or `gradual_rollout_percentage`"
    } else {
        "`gradual_rollout_percentage`"
    };
    let note = || format!("the flag {flag} leaves V2 no more than {most}, so it cannot go to {to}; set the flag first");
    (to > most).then(|| (to, note()))
}

/// Why a step is none in its direction, as a sentence: shares say where a ramp is, whatever the numbers of stages are.
fn wrong_way(state: &State, action: Action) -> Option<String> {
    let (from, ramping) = (state.share, state.phase == Phase::Ramping);
    match action {
        Action::Advance(to) if to.share <= from || to.share == Ppm::ZERO => {
            Some(format!("an advance from {from} to {} is refused: it does not raise the share", to.share))
        }
        Action::Retreat(to) if to.share >= from || !ramping => {
            Some(format!("a retreat from {from} to {} is refused: it does not lower the share", to.share))
        }
        Action::Complete if !ramping => Some("the end is refused: V2 has not ramped".into()),
        Action::Advance(_) | Action::Retreat(_) | Action::Complete | Action::Hold | Action::Pause => None,
    }
}

/// Another table moves nothing: it says what comes next.
fn tabled(state: &State, table: Table) -> (State, Vec<Effect>) {
    if state.table.as_ref().is_some_and(|known| known.stages == table.stages) {
        return (state.clone(), Vec::new());
    }
    let reason = table.change(state);
    let next = State { soak: table.soak(state), table: Some(table), ..state.clone() };
    (next, vec![decide("table", &reason, Vec::new()), Effect::Notify])
}

fn go(
    state: &State,
    kind: &'static str,
    to: Step,
    reason: &str,
    findings: Vec<Finding>,
    now: UnixMs,
) -> (State, Vec<Effect>) {
    let next = State {
        phase: Phase::Ramping,
        paused_in: None,
        stage: to.stage,
        share: to.share,
        soak: to.soak,
        since: now,
        because: None,
        below: below(state, to.share),
        table: state.table.clone(),
        redeploys: false,
    };
    // Less traffic for V2 cannot wait for anything; more of it is a new stage.
    let effects = vec![decide(kind, reason, findings), Effect::Route, Effect::BeginStage, Effect::Notify];
    debug_assert_ne!(&next, state, "a step that changes nothing is not asked for");
    (next, effects)
}

fn complete(state: &State, reason: &str, findings: Vec<Finding>, now: UnixMs) -> (State, Vec<Effect>) {
    let below = below(state, Ppm::ALL);
    let next = State {
        phase: Phase::Complete,
        share: Ppm::ALL,
        soak: None,
        since: now,
        because: None,
        below,
        ..state.clone()
    };
    (next, vec![decide("complete", reason, findings), Effect::Route, Effect::BeginStage, Effect::Notify])
}

fn pause(state: &State, reason: &str, findings: Vec<Finding>) -> (State, Vec<Effect>) {
    let next =
        State { phase: Phase::Paused, paused_in: Some(state.phase), because: Some(reason.into()), ..state.clone() };
    (next, vec![decide("pause", reason, findings), Effect::Notify])
}

fn resume(state: &State, reason: &str) -> (State, Vec<Effect>) {
    let next = State { phase: state.in_force(), paused_in: None, because: None, ..state.clone() };
    (next, vec![decide("resume", reason, Vec::new()), Effect::Route])
}

fn roll_back(
    state: &State,
    because: String,
    findings: Vec<Finding>,
    stop: Effect,
    now: UnixMs,
) -> (State, Vec<Effect>) {
    debug_assert!(matches!(stop, Effect::DrainV2 | Effect::KillV2));
    let decided = decide("rollback", &because, findings);
    let next = State { phase: Phase::RolledBack, because: Some(because), ..state.anew(now) };
    debug_assert!(state.phase != Phase::RolledBack);
    (next, vec![decided, Effect::Route, stop, Effect::Notify])
}

/// The stages below a share: those that led to it.
fn below(state: &State, share: Ppm) -> Vec<Step> {
    let this = Step { stage: state.stage, share: state.share, soak: state.soak };
    let lower = state.below.iter().copied().chain((state.share > Ppm::ZERO).then_some(this));
    lower.filter(|stage| stage.share < share).collect()
}

fn decide(kind: &'static str, reason: &str, findings: Vec<Finding>) -> Effect {
    Effect::Decide(Decided { kind, reason: reason.into(), findings })
}

/// The findings' own sentences, or `otherwise`.
fn because(findings: &[Finding], otherwise: &str) -> String {
    let notes: Vec<_> = findings.iter().filter(|f| !f.note.is_empty()).map(|f| f.note.as_str()).collect();
    if notes.is_empty() { otherwise.into() } else { notes.join("; ") }
}

/// Nothing keeps a migration from anything.
#[cfg(test)]
pub(super) const ON: Facts<'_> = Facts {
    switches: Switches { auto_rollback: true, auto_advance: true },
    migration: "shop",
    v1: V1::Serves,
    v2_serves: true,
    raises_without_v1: false,
    v2_is_own: true,
    most: Ppm::ALL,
};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::migration::event::Transition;

    const V1_DOWN: Facts<'_> = Facts { v1: V1::Down, ..ON };

    fn ramping(stage: u32, share: u32) -> State {
        State { phase: Phase::Ramping, stage, share: Ppm::new(share), ..State::new(UnixMs(5)) }
    }

    fn to(stage: u32, share: u32) -> Step {
        Step { stage, share: Ppm::new(share), soak: Some(Duration::from_secs(1)) }
    }

    fn judged(verdict: Verdict) -> Event {
        Event::Judged { verdict, findings: Vec::new() }
    }

    fn run(state: &State, event: Event) -> (State, Vec<Effect>) {
        step(state, event, "because", ON, UnixMs(9)).unwrap()
    }

    #[test]
    fn a_rollback_persists_then_routes_then_drains_then_tells() {
        let (state, effects) = run(&ramping(3, 500_000), judged(Verdict::RollBack));
        assert_eq!((state.phase, state.share), (Phase::RolledBack, Ppm::ZERO));
        assert!(matches!(effects[..], [Effect::Decide(_), Effect::Route, Effect::DrainV2, Effect::Notify]));
    }

    #[test]
    fn a_rollback_works_from_pauses_and_completion_and_by_order_without_the_policy() {
        let (paused, _) = run(&ramping(1, 100_000), Event::Ordered(Transition::Pause));
        assert_eq!((paused.phase, paused.share), (Phase::Paused, Ppm::new(100_000)));
        assert_eq!(run(&paused, judged(Verdict::RollBack)).0.phase, Phase::RolledBack);
        let (complete, _) =
            run(&ramping(5, 1_000_000), Event::Moved { action: Action::Complete, findings: Vec::new() });
        assert_eq!(run(&complete, judged(Verdict::RollBack)).0.phase, Phase::RolledBack);
        for state in [State::new(UnixMs(0)), paused, complete, ramping(0, 50_000)] {
            let (next, effects) = run(&state, Event::Ordered(Transition::EmergencyRollback));
            assert_eq!(next.phase, Phase::RolledBack);
            assert!(effects.contains(&Effect::KillV2));
        }
    }

    #[test]
    fn switches_hold_policies_back_but_not_operators() {
        let off = Facts { switches: Switches { auto_rollback: false, auto_advance: false }, ..ON };
        let state = ramping(0, 50_000);
        let events =
            [judged(Verdict::RollBack), Event::Moved { action: Action::Advance(to(1, 100_000)), findings: Vec::new() }];
        for event in events {
            assert_eq!(step(&state, event, "", off, UnixMs(9)).unwrap(), (state.clone(), Vec::new()));
        }
        let forced = Event::Ordered(Transition::Advance(Action::Advance(to(1, 100_000))));
        assert_eq!(step(&state, forced, "now", off, UnixMs(9)).unwrap().0.stage, 1);
    }

    fn failsafe(action: failsafe::Action) -> Event {
        let note = "nobody judged V2 for 2m".into();
        let finding = Finding { rule: "judge-lost".into(), observed: 120_000, limit: 120_000, unit: "ms".into(), note };
        Event::Failsafe { action, findings: vec![finding] }
    }

    #[test]
    fn the_host_goes_back_stage_by_stage_and_from_the_first_one_to_v1() {
        let climb = |state: State, stage, share| {
            run(&state, Event::Moved { action: Action::Advance(to(stage, share)), findings: Vec::new() }).0
        };
        let shadow = State { phase: Phase::Shadow, ..State::new(UnixMs(0)) };
        let mut state = climb(climb(climb(shadow, 0, 50_000), 1, 250_000), 2, 500_000);
        let mut shares = Vec::new();
        while state.phase == Phase::Ramping {
            let (next, effects) = run(&state, failsafe(failsafe::Action::Retreat));
            let Some(Effect::Decide(decided)) = effects.first() else { panic!("{effects:?}") };
            assert_eq!(decided.reason, "nobody judged V2 for 2m");
            shares.push((decided.kind, next.share.get()));
            state = next;
        }
        assert_eq!(shares, [("retreat", 250_000), ("retreat", 50_000), ("rollback", 0)]);
    }

    #[test]
    fn a_pause_survives_a_retreat_of_the_host_and_complete_can_be_left_by_one() {
        let up = Event::Moved { action: Action::Advance(to(1, 500_000)), findings: Vec::new() };
        let high = run(&ramping(0, 50_000), up).0;
        let paused = run(&high, Event::Ordered(Transition::Pause)).0;
        let retreated = run(&paused, failsafe(failsafe::Action::Retreat)).0;
        assert_eq!((retreated.phase, retreated.share), (Phase::Paused, Ppm::new(50_000)));
        assert_eq!(run(&retreated, Event::Ordered(Transition::Resume)).0.phase, Phase::Ramping);
        let complete = run(&high, Event::Moved { action: Action::Complete, findings: Vec::new() }).0;
        let retreated = run(&complete, failsafe(failsafe::Action::Retreat)).0;
        assert_eq!((retreated.phase, retreated.share), (Phase::Ramping, Ppm::new(500_000)));
    }

    #[test]
    fn with_the_flag_off_the_host_does_nothing_by_itself() {
        let off = Facts { switches: Switches { auto_rollback: false, auto_advance: true }, ..ON };
        let state = ramping(0, 50_000);
        for action in [failsafe::Action::Rollback, failsafe::Action::Retreat, failsafe::Action::Pause] {
            assert_eq!(step(&state, failsafe(action), "", off, UnixMs(9)).unwrap(), (state.clone(), Vec::new()));
        }
    }

    #[test]
    fn a_pause_keeps_the_share_and_a_resume_keeps_the_stage() {
        let state = ramping(2, 250_000);
        let (paused, effects) = run(&state, Event::Ordered(Transition::Pause));
        assert!(!effects.contains(&Effect::Route), "routing stays as it is");
        let held = Event::Moved { action: Action::Advance(to(3, 500_000)), findings: Vec::new() };
        assert_eq!(run(&paused, held).0, paused);
        assert_eq!(run(&paused, Event::Ordered(Transition::Resume)).0, state);
    }

    #[test]
    fn orders_that_make_no_sense_are_refused_with_the_phase() {
        let refused = |state: &State, order| step(state, Event::Ordered(order), "", ON, UnixMs(9)).unwrap_err().0;
        let rolled_back = run(&ramping(0, 1), Event::Ordered(Transition::Rollback)).0;
        assert!(refused(&rolled_back, Transition::Rollback).contains("rolled-back"));
        assert!(refused(&rolled_back, Transition::Pause).contains("only `shadow` and `ramping`"));
        assert!(refused(&ramping(0, 1), Transition::Resume).contains("ramping"));
        assert!(refused(&rolled_back, Transition::Advance(Action::Hold)).contains("`resume` begins again"));
    }

    fn tables() -> [Table; 3] {
        let table = |stages: &str| Table::of("standard-stages@0.1.0".into(), &format!("{{\"stages\":{stages}}}"));
        [
            table(r#"[{"share":"10%","soak":"1s"},{"share":"50%","soak":"6s"},{"share":"100%"}]"#),
            table(r#"[{"share":"1%","soak":"1s"},{"share":"20%","soak":"1s"},{"share":"100%"}]"#),
            table(r#"[{"share":"50%","soak":"9s"},{"share":"100%"}]"#),
        ]
    }

    fn moved(action: Action) -> Event {
        Event::Moved { action, findings: Vec::new() }
    }

    #[test]
    fn another_table_moves_nothing_and_a_share_that_it_lacks_keeps_its_soak() {
        let [old, finer, longer] = tables();
        let soak = Some(Duration::from_secs(6));
        let state = State { soak, table: Some(old.clone()), ..ramping(1, 500_000) };
        assert_eq!(run(&state, Event::Tabled(old)), (state.clone(), Vec::new()), "it is no other one");
        let (edited, effects) = run(&state, Event::Tabled(finer));
        assert!(matches!(&effects[..], [Effect::Decide(decided), Effect::Notify] if decided.kind == "table"));
        assert_eq!((edited.share, edited.stage, edited.since, edited.soak), (state.share, 1, state.since, soak));
        let up = Action::Advance(to(2, 1_000_000));
        let at = |ms: u64| step(&edited, moved(up), "", ON, UnixMs(5 + ms)).unwrap().0.share;
        assert_eq!((at(5_999), at(6_000)), (state.share, Ppm::ALL));
        let why = held(&edited, up, Ppm::ALL, UnixMs(1_005)).unwrap();
        assert_eq!((&*why.rule, why.observed, why.limit), ("kept-soak", 1_000, 6_000));
        let forced = Event::Ordered(Transition::Advance(up));
        assert_eq!(step(&edited, forced, "now", ON, UnixMs(6)).unwrap().0.share, Ppm::ALL, "a person need not wait");
        let (edited, _) = run(&state, Event::Tabled(longer));
        assert_eq!(edited.soak, Some(Duration::from_secs(9)), "that table has the very share");
        let (rolled_back, _) = run(&edited, Event::Ordered(Transition::Rollback));
        let (again, _) = run(&rolled_back, Event::Ordered(Transition::Resume));
        assert_eq!((&rolled_back.table, &again.table), (&edited.table, &edited.table));
    }

    #[test]
    fn an_advance_raises_the_share_and_a_retreat_lowers_it_whatever_the_stages_are_called() {
        let state = ramping(1, 500_000);
        for action in [
            Action::Advance(to(2, 500_000)),
            Action::Advance(to(2, 200_000)),
            Action::Retreat(to(0, 500_000)),
            Action::Retreat(to(0, 600_000)),
        ] {
            assert_eq!(run(&state, moved(action)), (state.clone(), Vec::new()), "{action:?}");
            assert_eq!(held(&state, action, Ppm::ALL, UnixMs(9)).unwrap().rule, "wrong-way");
            let refused = step(&state, Event::Ordered(Transition::Advance(action)), "", ON, UnixMs(9)).unwrap_err();
            assert!(refused.0.contains("is refused: it does not"), "{refused}");
        }
        let shadow = State { phase: Phase::Shadow, ..State::new(UnixMs(5)) };
        for action in [Action::Advance(to(0, 0)), Action::Complete, Action::Retreat(to(0, 0))] {
            assert_eq!(run(&shadow, moved(action)), (shadow.clone(), Vec::new()), "{action:?}");
        }
    }

    #[test]
    fn nothing_goes_beyond_what_the_flags_leave_v2_by_itself_or_by_order() {
        let three = Facts { most: Ppm::new(30_000), ..ON };
        let low = ramping(0, 50_000);
        let all = ramping(5, 1_000_000);
        for (state, action, to) in [(&low, Action::Advance(to(1, 100_000)), "10%"), (&all, Action::Complete, "100%")] {
            assert_eq!(step(state, moved(action), "", three, UnixMs(9)).unwrap(), (state.clone(), Vec::new()));
            let why = held(state, action, three.most, UnixMs(9)).unwrap();
            assert_eq!((&*why.rule, why.limit), ("flag-limit", 30_000));
            let order = Event::Ordered(Transition::Advance(action));
            let refused = step(state, order, "now", three, UnixMs(9)).unwrap_err().0;
            let said =
                format!("the flag `gradual_rollout_percentage` leaves V2 no more than 3%, so it cannot go to {to}");
            assert!(refused.contains(&said), "{refused}");
            let enough = Facts { most: Ppm::ALL, ..ON };
            assert_ne!(step(state, moved(action), "", enough, UnixMs(9)).unwrap().0, *state);
        }
        let dead = Facts { most: Ppm::new(30_000), ..V1_DOWN };
        let refused = step(&low, Event::Ordered(Transition::AdvanceWithoutV1), "now", dead, UnixMs(9)).unwrap_err().0;
        assert!(refused.contains("leaves V2 no more than 3%"), "{refused}");
        let back = moved(Action::Retreat(to(0, 50_000)));
        let high = ramping(3, 500_000);
        assert_eq!(step(&high, back, "", three, UnixMs(9)).unwrap().0.share, Ppm::new(50_000), "down it always goes");
    }

    #[test]
    fn a_migration_that_waits_for_a_dead_v1_says_the_command_that_goes_on_without_it() {
        let preparing = State::new(UnixMs(0));
        let order = |order, facts| step(&preparing, Event::Ordered(order), "V1 is dead", facts, UnixMs(9));
        for asked in [Transition::Advance(Action::Hold), Transition::Resume] {
            let why = order(asked, V1_DOWN).unwrap_err().0;
            assert!(why.contains("`cutover advance shop --without-v1 --reason TEXT`"), "{why}");
        }
        let (next, effects) = order(Transition::AdvanceWithoutV1, V1_DOWN).unwrap();
        assert_eq!((next.phase, next.share), (Phase::Complete, Ppm::ALL));
        assert!(matches!(effects[..], [Effect::Decide(_), Effect::Route, Effect::BeginStage, Effect::Notify]));
        assert!(order(Transition::AdvanceWithoutV1, ON).unwrap_err().0.contains("V1 is there"));
        let nobody = Facts { v2_serves: false, ..V1_DOWN };
        assert!(order(Transition::AdvanceWithoutV1, nobody).unwrap_err().0.contains("V2 is not ready either"));
        let (paused, _) = run(&ramping(1, 100_000), Event::Ordered(Transition::Pause));
        let (next, _) =
            step(&paused, Event::Ordered(Transition::AdvanceWithoutV1), "V1 is dead", V1_DOWN, UnixMs(9)).unwrap();
        assert_eq!((next.phase, next.paused_in), (Phase::Complete, None));
    }

    #[test]
    fn a_verdict_against_v2_waits_for_a_person_while_v1_is_down() {
        let complete = State { phase: Phase::Complete, ..ramping(5, 1_000_000) };
        let (same, effects) = step(&complete, judged(Verdict::RollBack), "", V1_DOWN, UnixMs(9)).unwrap();
        assert_eq!((same, effects), (complete.clone(), vec![Effect::Withhold(Withheld::GoingBack, Vec::new())]));
        let ordered = Event::Ordered(Transition::Rollback);
        assert_eq!(step(&complete, ordered, "I know", V1_DOWN, UnixMs(9)).unwrap().0.phase, Phase::RolledBack);
        let absent = Facts { v1: V1::Absent, ..ON };
        for order in [Transition::Rollback, Transition::EmergencyRollback] {
            let refused = step(&complete, Event::Ordered(order), "I know", absent, UnixMs(9)).unwrap_err().0;
            assert!(refused.contains("the configuration has no V1"), "{refused}");
        }
    }

    #[test]
    fn after_a_restart_ready_pools_route_again_and_decide_nothing() {
        let state = ramping(2, 250_000);
        assert_eq!(run(&state, Event::PoolsReady), (state.clone(), vec![Effect::Route]));
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let step = (0_u32..6, 1_u32..=1_000_000).prop_map(|(stage, share)| to(stage, share));
        let action = prop_oneof![
            Just(Action::Hold),
            step.clone().prop_map(Action::Advance),
            step.prop_map(Action::Retreat),
            Just(Action::Complete),
            Just(Action::Pause),
        ];
        let verdict = prop::sample::select(vec![Verdict::Healthy, Verdict::Hold, Verdict::Warn, Verdict::RollBack]);
        prop_oneof![
            Just(Event::PoolsReady),
            verdict.prop_map(judged),
            action.clone().prop_map(|action| Event::Moved { action, findings: Vec::new() }),
            prop_oneof![
                Just(Transition::Pause),
                Just(Transition::Resume),
                action.prop_map(Transition::Advance),
                Just(Transition::AdvanceWithoutV1),
                Just(Transition::Rollback),
                Just(Transition::EmergencyRollback)
            ]
            .prop_map(Event::Ordered),
            Just(Event::FlagsChanged),
            prop::sample::select(vec![
                failsafe::Action::Rollback,
                failsafe::Action::Retreat,
                failsafe::Action::Pause,
                failsafe::Action::None
            ])
            .prop_map(failsafe),
            prop::sample::select(tables().to_vec()).prop_map(Event::Tabled),
        ]
    }

    fn any_v1() -> impl Strategy<Value = V1> {
        prop::sample::select(vec![V1::Serves, V1::Serves, V1::Down, V1::Absent])
    }

    proptest! {
        #[test]
        fn invariants_hold_along_any_history(events in prop::collection::vec((any_event(), any_v1()), 0..40)) {
            let mut state = State::new(UnixMs(0));
            for (n, (event, v1)) in events.into_iter().enumerate() {
                let raises = matches!(
                    event,
                    Event::Moved { action: Action::Advance(_) | Action::Complete, .. }
                        | Event::Ordered(
                            Transition::Advance(Action::Advance(_) | Action::Complete) | Transition::AdvanceWithoutV1
                        )
                );
                let lowers = matches!(
                    event,
                    Event::Moved { action: Action::Retreat(_), .. }
                        | Event::Judged { .. }
                        | Event::Failsafe { .. }
                        | Event::Ordered(Transition::Rollback | Transition::EmergencyRollback)
                );
                let (facts, by_a_person) = (Facts { v1, ..ON }, matches!(event, Event::Ordered(_)));
                let Ok((next, effects)) = step(&state, event, "why", facts, UnixMs(n as u64 + 1)) else { continue };
                prop_assert!(next.below.is_sorted_by(|a, b| a.share < b.share), "{:?}", next.below);
                prop_assert!(next.below.iter().all(|step| step.share < next.share), "{:?}", next);
                prop_assert!(next.share <= state.share || raises, "{state:?} became {next:?}");
                prop_assert!(next.share >= state.share || lowers, "{state:?} became {next:?}");
                if v1 != V1::Serves && !by_a_person {
                    prop_assert_eq!(next.share, state.share, "nothing moves by itself while V1 is down");
                }
                let serves = matches!(next.in_force(), Phase::Ramping | Phase::Complete);
                prop_assert!(serves || next.share == Ppm::ZERO, "{next:?}");
                prop_assert_eq!(next.phase == Phase::Paused, next.paused_in.is_some());
                let decided = matches!(effects.first(), Some(Effect::Decide(_)));
                prop_assert!(decided || next == state, "{state:?} became {next:?} without a decision");
                if next.phase == Phase::RolledBack && state.phase != Phase::RolledBack {
                    prop_assert_eq!(&effects[1], &Effect::Route);
                }
                if next.v2_runs() != state.v2_runs() {
                    let handled = effects.iter().any(|e| matches!(e, Effect::DrainV2 | Effect::KillV2));
                    prop_assert!(handled || next.v2_runs(), "V2 must be stopped");
                }
                state = next;
            }
        }
    }
}
