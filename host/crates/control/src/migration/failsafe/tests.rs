use proptest::prelude::*;

use super::*;
use cutover_model::{
    facts::{Calls, OperationCalls},
    request::Class,
};

const SECOND: Duration = Duration::from_secs(1);

fn at(second: u64) -> Mono {
    Mono::from_nanos(second * 1_000_000_000)
}

/// A second in which V1 and V2 were called so often and failed so often; each failure is a session's first.
fn batch(v1: (u64, u64), v2: (u64, u64)) -> Batch {
    let calls = |(requests, errors): (u64, u64)| Calls { requests, errors, unit_errors: errors, ..Calls::default() };
    let operation = OperationCalls {
        operation: "execute".into(),
        class: Class::Read,
        v1: calls(v1),
        v2: calls(v2),
        shadow: Calls::default(),
    };
    Batch { duration_ms: 1_000, operations: vec![operation], ..Batch::default() }
}

fn facts(batch: &Batch) -> Facts<'_> {
    Facts { serves: true, judge: None, store: None, stages: None, held_back: None, can_pause: true, batch }
}

fn trapped(second: u64) -> Fault {
    Fault { since: at(second), why: "the rollback policy trapped".into() }
}

fn failsafe() -> Failsafe {
    Failsafe::new(&Settings::default(), Duration::from_secs(5))
}

fn acts(said: &[Said]) -> Option<Action> {
    said.iter().find_map(|said| match said {
        Said::Act { action, .. } => Some(*action),
        Said::Alarm { .. } => None,
    })
}

fn alarms(said: &[Said]) -> Vec<&'static str> {
    let event = |said: &Said| match said {
        Said::Alarm { event, .. } => Some(*event),
        Said::Act { .. } => None,
    };
    said.iter().filter_map(event).collect()
}

#[test]
fn a_lost_judge_is_told_at_once_and_ends_in_a_rollback_after_two_minutes() {
    let (mut failsafe, fine) = (failsafe(), batch((100, 0), (100, 0)));
    for second in 0..10 {
        assert_eq!(failsafe.observe(at(second), facts(&fine)), []);
    }
    let said = failsafe.observe(at(10), Facts { judge: Some(trapped(10)), ..facts(&fine) });
    let [Said::Alarm { event: "judge-lost", severity: "critical", message, .. }] = &said[..] else {
        panic!("{said:?}")
    };
    assert_eq!(
        message,
        "nobody judges V2 while V2 has callers: the rollback policy trapped; if that lasts, everything goes back to V1 in 2m"
    );
    for second in 11..130 {
        assert_eq!(failsafe.observe(at(second), Facts { judge: Some(trapped(10)), ..facts(&fine) }), [], "{second}");
    }
    assert_eq!(failsafe.shown(at(129))[0].acts_in_ms, Some(1_000));
    let said = failsafe.observe(at(130), Facts { judge: Some(trapped(10)), ..facts(&fine) });
    let [Said::Act { action: Action::Rollback, findings }] = &said[..] else { panic!("{said:?}") };
    assert_eq!((&*findings[0].rule, findings[0].observed, findings[0].limit), ("judge-lost", 120_000, 120_000));
}

#[test]
fn a_judge_that_is_back_in_time_is_no_loss_and_one_that_flickers_is_told_once() {
    let (mut failsafe, fine) = (failsafe(), batch((100, 0), (100, 0)));
    assert_eq!(alarms(&failsafe.observe(at(0), Facts { judge: Some(trapped(0)), ..facts(&fine) })), ["judge-lost"]);
    assert_eq!(alarms(&failsafe.observe(at(5), facts(&fine))), ["judge-back"]);
    assert_eq!(failsafe.observe(at(10), Facts { judge: Some(trapped(10)), ..facts(&fine) }), []);
    assert_eq!(failsafe.observe(at(15), facts(&fine)), []);
    assert_eq!(failsafe.observe(at(20), Facts { judge: Some(trapped(20)), ..facts(&fine) }), []);
    let stays = failsafe.observe(at(80), Facts { judge: Some(trapped(20)), ..facts(&fine) });
    assert_eq!(alarms(&stays), ["judge-lost"], "it stays this time");
}

#[test]
fn the_time_counts_from_when_v2_has_callers() {
    let (mut failsafe, fine) = (failsafe(), batch((100, 0), (0, 0)));
    for second in 0..500 {
        let nobody = Facts { serves: false, judge: Some(trapped(0)), ..facts(&fine) };
        assert_eq!(failsafe.observe(at(second), nobody), []);
    }
    assert_eq!(alarms(&failsafe.observe(at(500), Facts { judge: Some(trapped(0)), ..facts(&fine) })), ["judge-lost"]);
    assert_eq!(acts(&failsafe.observe(at(619), Facts { judge: Some(trapped(0)), ..facts(&fine) })), None);
    assert_eq!(
        acts(&failsafe.observe(at(620), Facts { judge: Some(trapped(0)), ..facts(&fine) })),
        Some(Action::Rollback)
    );
}

#[test]
fn with_the_flag_off_people_are_told_and_nothing_is_done() {
    let (mut failsafe, fine) = (failsafe(), batch((100, 0), (100, 0)));
    let held_back = Some("nothing is done: the flag `auto_rollback` is off");
    let mut told = Vec::new();
    for second in 0..600 {
        let said = failsafe.observe(at(second), Facts { judge: Some(trapped(0)), held_back, ..facts(&fine) });
        assert_eq!(acts(&said), None);
        told.extend(alarms(&said).into_iter().map(|event| (second, event)));
    }
    assert_eq!(told, [(0, "judge-lost"), (120, "judge-lost")], "when it is lost, and when it is due");
    let shown = &failsafe.shown(at(600))[0];
    assert_eq!((shown.acts_in_ms, shown.held_back), (Some(0), held_back));
}

#[test]
fn a_store_is_as_a_judge_and_a_stages_policy_that_is_gone_only_alarms() {
    let fine = batch((100, 0), (100, 0));
    let mut store = failsafe();
    store.observe(at(0), Facts { store: Some(trapped(0)), ..facts(&fine) });
    assert_eq!(
        acts(&store.observe(at(120), Facts { store: Some(trapped(0)), ..facts(&fine) })),
        Some(Action::Rollback)
    );
    let mut stages = failsafe();
    for second in 0..600 {
        assert_eq!(acts(&stages.observe(at(second), Facts { stages: Some(trapped(0)), ..facts(&fine) })), None);
    }
    assert_eq!(stages.shown(at(600))[0].acts_in_ms, None);
}

#[test]
fn a_retreat_goes_on_stage_by_stage_while_nobody_judges() {
    let settings = Settings { action: Action::Retreat, ..Settings::default() };
    let (mut failsafe, fine) = (Failsafe::new(&settings, SECOND), batch((100, 0), (100, 0)));
    let acted: Vec<_> = (0..400)
        .filter(|second| {
            acts(&failsafe.observe(at(*second), Facts { judge: Some(trapped(0)), ..facts(&fine) })).is_some()
        })
        .collect();
    assert_eq!(acted, [120, 240, 360]);
}

#[test]
fn what_cannot_be_recorded_is_rolled_back_and_what_is_asked_rarely_has_two_questions() {
    let settings = Settings { action: Action::Retreat, ..Settings::default() };
    let (mut failsafe, fine) = (Failsafe::new(&settings, Duration::from_hours(1)), batch((100, 0), (100, 0)));
    let lost = || Facts { store: Some(trapped(0)), ..facts(&fine) };
    failsafe.observe(at(0), lost());
    assert_eq!(acts(&failsafe.observe(at(7_199), lost())), None);
    assert_eq!(acts(&failsafe.observe(at(7_200), lost())), Some(Action::Rollback));
}

/// Calls of V2 that fail until the host acts, if it is out from somewhere within a second on.
fn failed_until_it_acts(failsafe: &mut Failsafe, per_second: u64, into_second: u64, v1: (u64, u64)) -> Option<u64> {
    let mut failed = 0;
    for second in 0..60 {
        let errors = if second == 0 { per_second - per_second * into_second / 1_000 } else { per_second };
        failed += errors;
        if acts(&failsafe.observe(at(second), facts(&batch(v1, (per_second, errors))))).is_some() {
            return Some(failed);
        }
    }
    None
}

#[test]
fn an_outage_at_five_calls_a_second_costs_fewer_than_twenty() {
    for into_second in (0..1_000).step_by(50) {
        let failed = failed_until_it_acts(&mut failsafe(), 5, into_second, (95, 0)).unwrap();
        assert!(failed <= 15, "{failed} calls failed");
    }
}

#[test]
fn an_outage_of_a_busy_v2_is_over_within_three_seconds() {
    let mut failsafe = failsafe();
    failsafe.observe(at(0), facts(&batch((1_000, 1), (1_000, 400))));
    assert_eq!(acts(&failsafe.observe(at(1), facts(&batch((1_000, 1), (1_000, 1_000))))), None);
    let said = failsafe.observe(at(2), facts(&batch((1_000, 1), (1_000, 1_000))));
    let [Said::Act { action: Action::Rollback, findings }] = &said[..] else { panic!("{said:?}") };
    let notes: Vec<_> = findings.iter().map(|finding| (&*finding.rule, &*finding.note)).collect();
    assert_eq!(
        notes,
        [
            ("v2-outage", "V2 failed all of 2000 calls in 2s, the first failure of 2000 sessions among them"),
            ("v2-outage", "V1 failed 2 of 2000 meanwhile"),
        ]
    );
}

#[test]
fn trouble_that_v1_shares_is_no_outage_of_v2() {
    assert_eq!(failed_until_it_acts(&mut failsafe(), 50, 0, (100, 25)), None);
    assert!(failed_until_it_acts(&mut failsafe(), 50, 0, (100, 24)).is_some());
}

#[test]
fn alone_or_of_one_caller_it_takes_five_times_the_calls() {
    assert_eq!(failed_until_it_acts(&mut failsafe(), 10, 0, (0, 0)), Some(50));
    let mut one_caller = failsafe();
    let failing = |mut batch: Batch| {
        batch.operations[0].v2.unit_errors = 0;
        batch
    };
    let acted = (0..60).find(|n| acts(&one_caller.observe(at(*n), facts(&failing(batch((9, 0), (10, 10)))))).is_some());
    assert_eq!(acted, Some(4));
}

#[test]
fn one_answer_ends_the_streak_and_silence_does_not() {
    let mut failsafe = failsafe();
    let mut observe = |second, v2| acts(&failsafe.observe(at(second), facts(&batch((50, 0), v2))));
    assert_eq!(observe(0, (6, 6)), None);
    assert_eq!(observe(1, (6, 5)), None);
    assert_eq!(observe(2, (6, 6)), None);
    assert_eq!(observe(3, (0, 0)), None);
    assert_eq!(observe(4, (6, 6)), Some(Action::Rollback));
}

#[test]
fn an_outage_with_the_flag_off_is_told_once_and_shown() {
    let mut failsafe = failsafe();
    let out = batch((50, 0), (50, 50));
    let told: usize = (0..60)
        .map(|second| {
            let said = failsafe.observe(at(second), Facts { held_back: Some("nothing is done"), ..facts(&out) });
            assert_eq!(acts(&said), None);
            alarms(&said).len()
        })
        .sum();
    assert_eq!((told, failsafe.shown(at(60))[0].lost), (1, Thing::V2));
}

/// A second: whether V2 has callers, whether judge, store and stages policy are lost, whether it is held back, and the
/// calls and failures of both pools.
type Second = (bool, [bool; 3], bool, (u64, u64), (u64, u64));

fn any_second() -> impl Strategy<Value = Second> {
    let calls = || (0_u64..200, 0_u64..=100).prop_map(|(calls, percent)| (calls, calls * percent / 100));
    let rarely = || prop::bool::weighted(0.05);
    (prop::bool::weighted(0.95), [prop::bool::weighted(0.9), rarely(), rarely()], rarely(), calls(), calls())
}

proptest! {
    #[test]
    fn it_acts_for_a_reason_and_in_time(seconds in prop::collection::vec(any_second(), 1..400)) {
        let settings = Settings { no_verdict: SECOND * 20, no_record: SECOND * 10, ..Settings::default() };
        let mut failsafe = Failsafe::new(&settings, SECOND);
        let mut since = [None; 3];
        let mut serves_since = None;
        for (n, (serves, lost, held_back, v1, v2)) in seconds.into_iter().enumerate() {
            let now = n as u64;
            serves_since = serves.then(|| serves_since.unwrap_or(now));
            for (since, lost) in since.iter_mut().zip(lost) {
                *since = lost.then(|| since.unwrap_or(now));
            }
            let [judge, store, stages] = since.map(|since| since.map(trapped));
            let held_back = held_back.then_some("nothing is done");
            let batch = batch(v1, v2);
            let facts = Facts { serves, judge, store, stages, held_back, can_pause: true, batch: &batch };
            let said = failsafe.observe(at(now), facts);
            let lasted = |since: Option<u64>| Some(now - since?.max(serves_since?));
            let [judge, store, _] = since.map(lasted);
            let due = judge.is_some_and(|s| s >= 20) || store.is_some_and(|s| s >= 10);
            let out = v2.0 > 0 && v2.0 == v2.1;
            let acted = acts(&said);
            prop_assert!(acted.is_none() || serves && held_back.is_none() && (due || out), "{acted:?} in second {now}");
            prop_assert!(acted != Some(Action::Pause) && acted != Some(Action::None));
            let first = judge == Some(20) || store == Some(10);
            if first && serves && held_back.is_none() {
                prop_assert_eq!(acted, Some(Action::Rollback), "second {}", now);
            }
            let acts = said.iter().filter(|said| matches!(said, Said::Act { .. })).count();
            prop_assert!(acts <= 1, "{:?}", said);
        }
    }
}
