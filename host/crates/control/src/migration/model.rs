//! A migration in a model world in which everything is lost that can be: the share never rises because of it.
//!
//! It runs the pure parts together as the controller does: [`step`], the [`Failsafe`] and the [`Timeline`]. The random
//! part is: judges, stores and stages policies that are lost and come back, clocks that step, hosts that go down, also
//! while the store is lost, a V2 that fails, stage tables that are edited, flags, and people who pause and resume.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    failsafe::{Action as Acts, Facts, Failsafe, Fault, Said, Settings},
    step::{Facts as Around, ON, Switches, step},
};
use crate::migration::event::{Effect, Event, Transition};
use cutover_model::{
    clock::{
        Mono, Reading, UnixMs,
        timeline::{Known, Resumed, Timeline},
    },
    facts::{Batch, Calls, OperationCalls},
    port::{Action, Phase, Step, Verdict},
    request::{Class, Ppm},
};
use cutover_store::state::{
    State,
    table::{Row, Table},
};

/// What the stages policy of this world has: shares in percent.
const LADDER: [u32; 5] = [5, 10, 25, 50, 100];
/// What people may edit that to.
const EDITED: [&[u32]; 4] = [&LADDER, &[1, 2, 3, 100], &[50, 100], &[5, 15, 35, 60, 80, 90, 100]];
const SOAK: Duration = Duration::from_mins(30);

/// What happens in a stretch of time.
#[derive(Debug, Clone)]
enum Happens {
    /// So many seconds pass in checks of five, and then the wall clock is set by so many milliseconds.
    Passes(u64, i64),
    /// The judge, the store or the stages policy is lost, or is back.
    Loses(usize, bool),
    /// V2 fails so many percent.
    Fails(u64),
    /// The host is down for so many seconds.
    Restarts(u64),
    /// The host is stopped for so many seconds, and goes on.
    Stands(u64),
    /// People switch the flag `auto_rollback`.
    Flag(bool),
    /// The stages policy gets another table.
    Edits(usize),
    Pauses,
    Resumes,
}

struct World {
    mono_ms: u64,
    wall: u64,
    state: State,
    /// What a host that starts finds.
    stored: (State, Option<(UnixMs, UnixMs)>),
    /// The number of the last decision on record.
    last_decision: u64,
    /// What was decided and is not on record, or a rollback that is; and the last decision on record then.
    marker: Option<(u64, State)>,
    /// Whether something is not on record yet.
    is_behind: bool,
    /// Whether the host began without a store.
    refuses: bool,
    ladder: &'static [u32],
    timeline: Timeline,
    failsafe: Failsafe,
    settings: Settings,
    lost: [Option<Mono>; 3],
    fails: u64,
    auto_rollback: bool,
    /// How long the host was up in this stage, as far as that is on record and in truth.
    up_ms: (u64, u64),
}

fn settings(action: Acts) -> Settings {
    Settings { action, no_stages_action: action, ..Settings::default() }
}

impl World {
    fn new(action: Acts) -> Self {
        let wall = 1_700_000_000_000;
        let reading = Reading { mono: Mono::from_nanos(0), wall: UnixMs(wall) };
        let state = State { phase: Phase::Shadow, ..State::new(UnixMs(wall)) };
        let settings = settings(action);
        Self {
            mono_ms: 0,
            wall,
            stored: (state.clone(), None),
            last_decision: 0,
            marker: None,
            is_behind: false,
            refuses: false,
            ladder: &LADDER,
            state,
            timeline: Timeline::new(reading),
            failsafe: Failsafe::new(&settings, Duration::from_secs(5)),
            settings,
            lost: [None; 3],
            fails: 0,
            auto_rollback: true,
            up_ms: (0, 0),
        }
    }

    fn reading(&self) -> Reading {
        Reading { mono: Mono::from_nanos(self.mono_ms * 1_000_000), wall: UnixMs(self.wall) }
    }

    /// Takes an event as the controller does: what is not on record is not done, unless it takes something from V2.
    fn apply(&mut self, event: &Event) {
        let facts = Around { switches: Switches { auto_rollback: self.auto_rollback, auto_advance: true }, ..ON };
        let anchor = self.timeline.anchor(self.reading(), self.state.phase == Phase::Preparing);
        let now = self.timeline.now(self.reading().mono);
        let take = |now| step(&self.state, event.clone(), "because", facts, now);
        let Ok((_, effects)) = take(now) else { return };
        let begins = effects.contains(&Effect::BeginStage);
        let Ok((next, effects)) = take(if begins { anchor.show } else { now }) else { return };
        let is_recorded = self.lost[1].is_none();
        let lowers = next.phase == Phase::RolledBack || next.share < self.state.share;
        if effects.is_empty() || !is_recorded && !lowers {
            return;
        }
        if begins {
            self.timeline.go_on(anchor);
            self.up_ms = (0, 0);
        }
        self.state = next;
        if is_recorded {
            self.catch_up();
            self.last_decision += 1;
            self.stored.0 = self.state.clone();
        }
        self.is_behind = !is_recorded;
        let is_marked = self.is_behind || self.state.phase == Phase::RolledBack;
        self.marker = is_marked.then(|| (self.last_decision, self.state.clone()));
    }

    /// What could not be recorded is, and what is marked is if it is a rollback.
    fn catch_up(&mut self) {
        if std::mem::take(&mut self.is_behind) {
            self.last_decision += 1;
            self.marker = self.marker.take().filter(|_| self.state.phase == Phase::RolledBack);
        }
    }

    fn check(&mut self) {
        let now = self.timeline.now(self.reading().mono);
        if self.refuses {
            return;
        }
        if self.lost[1].is_none() && self.is_behind {
            self.catch_up();
            self.stored.0 = self.state.clone();
        }
        if !self.state.is_judged() {
            return;
        }
        if self.lost[1].is_none() {
            // What could not be written before is written now.
            self.stored = (self.state.clone(), Some((now, self.state.since)));
            self.up_ms.0 = self.up_ms.1;
        }
        if self.lost[0].is_some() {
            return self.apply(&Event::Judged { verdict: Verdict::Hold, findings: Vec::new() });
        }
        let verdict = if self.fails > 20 { Verdict::Warn } else { Verdict::Healthy };
        self.apply(&Event::Judged { verdict, findings: Vec::new() });
        let is_over = now.since(self.state.since) >= SOAK;
        if self.lost[2].is_none() && self.state.is_staged() && verdict == Verdict::Healthy && is_over {
            let shares = self.ladder.iter().map(|percent| Ppm::new(percent * 10_000));
            let next = shares.into_iter().find(|share| *share > self.state.share);
            let action = next.map_or(Action::Complete, |share| {
                let stage = if self.state.phase == Phase::Shadow { 0 } else { self.state.stage + 1 };
                Action::Advance(Step { stage, share, soak: Some(SOAK) })
            });
            self.apply(&Event::Moved { action, findings: Vec::new() });
        }
    }

    fn second(&mut self) {
        self.mono_ms += 1_000;
        self.wall += 1_000;
        self.up_ms.1 += 1_000;
        self.timeline.look(self.reading());
        let now = self.timeline.up(self.reading().mono);
        let calls = |errors| Calls { requests: 100, errors, unit_errors: errors, ..Calls::default() };
        let operations = vec![OperationCalls {
            operation: "execute".into(),
            class: Class::Read,
            v1: calls(1),
            v2: calls(self.fails),
            shadow: Calls::default(),
        }];
        let batch = Batch { duration_ms: 1_000, operations, ..Batch::default() };
        let [judge, store, stages] = self.lost.map(|since| Some(Fault { since: since?, why: "it is lost".into() }));
        let facts = Facts {
            serves: !self.refuses && self.state.share > Ppm::ZERO && self.state.is_judged(),
            judge,
            store,
            stages,
            held_back: (!self.auto_rollback).then_some("nothing is done"),
            can_pause: self.state.phase == Phase::Ramping,
            batch: &batch,
        };
        for said in self.failsafe.observe(now, facts) {
            if let Said::Act { action, findings } = said {
                let before = self.state.share;
                self.apply(&Event::Failsafe { action, findings });
                assert!(self.state.share <= before, "what the host does by itself raises nothing");
            }
        }
    }

    fn restart(&mut self, seconds: u64) {
        self.wall += seconds * 1_000;
        let (mut state, last_check) = self.stored.clone();
        self.refuses = self.lost[1].is_some();
        self.is_behind = false;
        if let Some((after, marked)) = &self.marker
            && state.phase != Phase::RolledBack
            && self.last_decision <= *after
        {
            state = marked.clone();
            self.is_behind = true;
        }
        let known = Known { since: state.since, is_judged: state.is_judged(), last_check };
        let Resumed { timeline, since, mended } = Timeline::resume(known, self.reading());
        self.state = State { since, ..state };
        self.timeline = timeline;
        if mended.is_some() && !self.refuses {
            let now = self.timeline.now(self.reading().mono);
            self.stored = (self.state.clone(), Some((now, since)));
        }
        self.failsafe = Failsafe::new(&self.settings, Duration::from_secs(5));
        self.up_ms.1 = self.up_ms.0;
    }

    fn takes(&mut self, happens: &Happens) {
        match *happens {
            Happens::Passes(seconds, by_ms) => {
                for second in 1..=seconds {
                    self.second();
                    if second % 5 == 0 {
                        self.law(Self::check);
                    }
                }
                self.wall = self.wall.saturating_add_signed(by_ms);
            }
            Happens::Loses(what, is_lost) => {
                let now = self.timeline.up(self.reading().mono);
                let lost = &mut self.lost[what];
                *lost = is_lost.then(|| lost.unwrap_or(now));
                if self.refuses && self.lost[1].is_none() {
                    // The store can be had: the host begins again with it.
                    self.restart(0);
                }
            }
            Happens::Fails(percent) => self.fails = percent,
            Happens::Restarts(seconds) => self.restart(seconds),
            Happens::Stands(seconds) => {
                self.mono_ms += seconds * 1_000;
                self.wall += seconds * 1_000;
                // The stage may end in it: then it begins anew.
                self.up_ms.1 += 1_000 * seconds.min(4);
                self.second();
            }
            Happens::Flag(on) => self.auto_rollback = on,
            Happens::Edits(which) => {
                self.ladder = EDITED[which];
                let row = |percent: &u32| Row { share: Ppm::new(percent * 10_000), soak: Some(SOAK) };
                let stages = self.ladder.iter().map(row).collect();
                self.apply(&Event::Tabled(Table { policy: "stages@1".into(), stages }));
            }
            Happens::Pauses => self.apply(&Event::Ordered(Transition::Pause)),
            Happens::Resumes if self.state.phase == Phase::Paused => self.apply(&Event::Ordered(Transition::Resume)),
            Happens::Resumes => {}
        }
    }

    /// A check is all that may raise the share: with a judge, a store and a stages policy, and after the soak.
    fn law(&mut self, check: impl FnOnce(&mut Self)) {
        let (before, soaked) = (self.state.share, self.up_ms.1);
        check(self);
        if self.state.share > before {
            assert!(self.lost.iter().all(Option::is_none), "{:?}", self.lost);
            assert!(u128::from(soaked) >= SOAK.as_millis(), "a soak of {SOAK:?} was over after {soaked} ms");
        }
    }
}

fn anything() -> impl Strategy<Value = Happens> {
    let step = prop_oneof![3 => Just(0_i64), 1 => -20_000_000_i64..20_000_000];
    prop_oneof![
        8 => (1_u64..900, step).prop_map(|(seconds, by_ms)| Happens::Passes(seconds, by_ms)),
        2 => (0_usize..3, any::<bool>()).prop_map(|(what, is_lost)| Happens::Loses(what, is_lost)),
        1 => prop::sample::select(vec![0_u64, 0, 0, 10, 40, 100]).prop_map(Happens::Fails),
        2 => (0_u64..20_000).prop_map(Happens::Restarts),
        1 => (0_u64..20_000).prop_map(Happens::Stands),
        1 => (0..EDITED.len()).prop_map(Happens::Edits),
        1 => any::<bool>().prop_map(Happens::Flag),
        1 => Just(Happens::Pauses),
        2 => Just(Happens::Resumes),
    ]
}

#[test]
fn with_nothing_lost_the_ramp_is_climbed() {
    let mut world = World::new(Acts::Rollback);
    world.takes(&Happens::Passes(4 * 3_600, 0));
    assert_eq!(world.state.phase, Phase::Complete);
    assert_eq!(world.state.below.iter().map(|step| step.share.get() / 10_000).collect::<Vec<_>>(), LADDER[..4]);
}

#[test]
fn who_is_lost_is_not_lost_for_longer_because_the_host_was_stopped() {
    let mut world = World::new(Acts::Rollback);
    world.takes(&Happens::Passes(2_000, 0));
    assert_eq!(world.state.phase, Phase::Ramping);
    world.takes(&Happens::Loses(0, true));
    for happens in [Happens::Passes(60, 0), Happens::Stands(600), Happens::Passes(50, 0)] {
        world.takes(&happens);
        assert_eq!(world.state.phase, Phase::Ramping, "two minutes are not over: {happens:?}");
    }
    world.takes(&Happens::Passes(10, 0));
    assert_eq!(world.state.phase, Phase::RolledBack);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn the_share_never_rises_by_what_is_lost(
        action in prop::sample::select(vec![Acts::Rollback, Acts::Retreat, Acts::Pause, Acts::None]),
        history in prop::collection::vec(anything(), 1..40),
    ) {
        let mut world = World::new(action);
        for happens in &history {
            let is_check = matches!(happens, Happens::Passes(..));
            let before = world.state.share;
            world.takes(happens);
            prop_assert!(is_check || world.state.share <= before);
        }
    }

    #[test]
    fn without_a_judge_v2_loses_its_callers_in_time(
        action in prop::sample::select(vec![Acts::Rollback, Acts::Retreat]),
        history in prop::collection::vec(anything(), 1..30),
    ) {
        let mut world = World::new(action);
        for happens in &history {
            world.takes(happens);
        }
        world.lost = [Some(world.timeline.up(world.reading().mono)), None, None];
        world.auto_rollback = true;
        // From the highest stage it is one retreat for each below it.
        let enough = 125 * (LADDER.len() as u64 + 1);
        world.takes(&Happens::Passes(enough, 0));
        // A host that began without a store gives V2 nobody.
        prop_assert!(world.refuses || world.state.share == Ppm::ZERO, "{:?}", world.state);
    }
}
