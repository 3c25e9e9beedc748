//! What a policy needs or is asked is held against the limits of its kind before it runs.

use std::{sync::Arc, time::Duration};

use cutover_control::migration::judge;
use cutover_model::{
    clock,
    port::{AdapterCall, Kind, Situation, Target},
    request::Ppm,
};
use cutover_policy_host::{
    PolicyError,
    engine::{Engine, KindLimits, Limits, Policy},
    installed::InstalledPolicy,
    slot::Slots,
};

use super::{admit, check, engine, guest};
use crate::hostile::contract::{Export, Guest};

/// A component with `instances` core instances and a few bytes of code.
fn crowd(instances: usize, module: &str) -> Vec<u8> {
    let run = "(core instance (instantiate $m))".repeat(instances);
    wat::parse_str(format!("(component (core module $m {module}) {run})")).unwrap()
}

/// What a component is refused for.
fn over(component: &[u8]) -> (&'static str, u64, u64) {
    match engine().compile(component) {
        Err(PolicyError::OverBudget { setting, needs, limit, .. }) => (setting, needs, limit),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_component_that_needs_more_than_any_kind_may_have_is_not_even_compiled() {
    assert_eq!(over(&crowd(65, "")), ("instances", 65, 64));
    assert_eq!(over(&crowd(5, "(memory 1)")), ("memories", 5, 4));
    assert_eq!(over(&crowd(9, "(table 1 funcref)")), ("tables", 9, 8));
    assert_eq!(over(&crowd(1, "(memory 16384)")), ("memory_bytes", 1 << 30, 64 << 20));
    assert_eq!(over(&crowd(1, "(table 1000000 funcref)")), ("table_elements", 1_000_000, 20_000));
    assert!(engine().compile(&crowd(64, "")).is_ok());
}

#[test]
fn each_kind_has_limits_of_its_own() {
    let mut limits = Limits::default();
    limits.stages.memories = 0;
    limits.rollback.memory_bytes = 2 << 20;
    // Long enough to take all memory on a busy machine.
    limits.comparison.time = Duration::from_secs(10);
    let engine = Engine::new(limits).unwrap();
    let compiled = engine.compile(&guest("hostile")).unwrap();
    let refused = Policy::admit(&engine, compiled.clone(), Kind::Stages, "{}").unwrap_err();
    let wanted = PolicyError::OverBudget { what: "linear memories", needs: 1, limit: 0, setting: "memories" };
    assert_eq!(refused, wanted);
    let allocate = |kind: Kind| {
        let settings = format!(r#"{{ "do": "allocate", "in": "{kind}" }}"#);
        Policy::admit(&engine, compiled.clone(), kind, &settings).unwrap()
    };
    let judged = allocate(Kind::Rollback).judge(&check(0, 0), &[]);
    assert_eq!(judged.answer, Err(PolicyError::OutOfMemory { limit_bytes: 2 << 20 }));
    assert!(judged.memory_peak <= 2 << 20, "{}", judged.memory_peak);
    let compared = allocate(Kind::Comparison).compare(&[]);
    assert_eq!(compared.answer, Err(PolicyError::OutOfMemory { limit_bytes: 64 << 20 }));
}

#[test]
fn a_question_that_is_too_large_is_not_asked() {
    let mut limits = Limits::default();
    for kind in Kind::ALL {
        limits.of_mut(kind).input_bytes = 4 << 10;
    }
    let engine = Engine::new(limits).unwrap();
    let judge = admit(&engine, "hostile", Kind::Rollback, "{}");
    let too_large = |error: PolicyError| {
        let PolicyError::InputTooLarge { bytes, limit } = error else { panic!("{error:?}") };
        (bytes, limit)
    };
    assert!(judge.judge(&check(0, 0), &[]).answer.is_ok());
    let asked = judge.judge(&check(0, 0), &[0; 4 << 10]);
    assert_eq!((asked.fuel, asked.memory_peak), (0, 0), "nobody was asked");
    let (bytes, limit) = too_large(asked.answer.unwrap_err());
    assert!(bytes > 4 << 10 && limit == 4 << 10);
    too_large(judge.warm().judge(&check(0, 0), &[0; 4 << 10]).answer.unwrap_err());

    let adapter = admit(&engine, "hostile", Kind::Adapter, "{}");
    let call = AdapterCall { operation: "o".into(), session: String::new(), body: vec![b' '; 4 << 10] };
    too_large(adapter.adapt_call(&call).answer.unwrap_err());
    let decider = admit(&engine, "hostile", Kind::Routing, r#"{ "in": "decide" }"#);
    too_large(decider.decide(&[0; 5 << 10]).unwrap_err());
    let compiled = engine.compile(&guest("hostile")).unwrap();
    let settings = format!(r#"{{ "do": "{}" }}"#, "x".repeat(4 << 10));
    too_large(Policy::admit(&engine, compiled, Kind::Rollback, &settings).unwrap_err());
}

/// The frame of a request without attributes: position, share and number of attributes are 0.
const FRAME: [u8; 12] = [0; 12];

#[test]
fn no_more_policies_with_decide_are_admitted_than_there_is_room_for() {
    // A busy machine may not give an instance the processor for 5 ms.
    let patient = Limits::alike(KindLimits { decide_time: Duration::from_secs(20), ..KindLimits::default() });
    let engine = Engine::new(Limits { live_instances: 16, ..patient }).unwrap();
    let compiled = engine.compile(&guest("hostile")).unwrap();
    let one_more = || Policy::admit(&engine, compiled.clone(), Kind::Routing, r#"{ "in": "decide" }"#);
    let mut admitted = Vec::new();
    let refused = loop {
        match one_more() {
            Ok(policy) => admitted.push(policy),
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, PolicyError::NoDecideCapacity { room, .. } if room == admitted.len()), "{refused}");
    assert!(admitted.iter().all(|policy| policy.decide(&FRAME) == Ok(Target::Share)), "each has its instance");
    assert!(Policy::admit(&engine, compiled.clone(), Kind::Rollback, "{}").is_ok(), "the others need no permit");
    // A thousand swaps of one of them leave room for all.
    for _ in 0..1_000 {
        drop(admitted.pop());
        admitted.push(one_more().unwrap());
        assert_eq!(admitted.last().unwrap().decide(&FRAME), Ok(Target::Share));
    }
    assert!(one_more().is_err());
}

#[test]
fn a_decide_that_never_answers_costs_a_thread_a_small_part_of_its_time() {
    let policy = admit(&engine(), "hostile", Kind::Routing, r#"{ "do": "loop", "in": "decide" }"#);
    let (mut answers, started) = (0_u64, clock::mono());
    while clock::mono().since(started) < Duration::from_secs(1) {
        assert_eq!(policy.decide(&FRAME), Err(PolicyError::Deadline { limit_ms: 5, setting: "decide_time" }));
        answers += 1;
    }
    // Each that was really asked took 5 ms, so at most 200 were.
    assert!(answers > 2_000, "requests do not wait for it: {answers}");
}

#[test]
fn a_plan_is_asked_under_the_limits_of_routing() {
    let mut limits = Limits::default();
    limits.routing.time = Duration::from_millis(20);
    let policy = admit(&Engine::new(limits).unwrap(), "hostile", Kind::Routing, r#"{ "do": "loop", "in": "plan" }"#);
    let situation = Situation {
        now_ms: clock::UnixMs(0),
        migration: "m".into(),
        phase: cutover_model::port::Phase::Ramping,
        stage: 0,
        share: Ppm::ZERO,
        salt: "m".into(),
        operations: Vec::new(),
    };
    let asked = policy.make_plan(&situation, &[]);
    assert_eq!(asked.answer, Err(PolicyError::Deadline { limit_ms: 20, setting: "time" }));
}

/// Works for so many rounds in a function with this local.
fn spin(rounds: u128) -> String {
    format!(
        "(local.set $left (i64.const {rounds})) (loop $again \
         (local.set $left (i64.sub (local.get $left) (i64.const 1))) \
         (br_if $again (i64.ne (local.get $left) (i64.const 0))))"
    )
}

/// A judge that works when it is instantiated, when it gets its settings, and when it is asked.
fn working(rounds: [u128; 3]) -> Vec<u8> {
    let [instantiation, configuration, question] = rounds.map(spin);
    let mut guest =
        Guest::with(Export::Judge).body(format!("(local $left i64) {question} i32.const 64")).fields(format!(
            "(global $asked (mut i32) (i32.const 0)) (func $begin (local $left i64) {instantiation}) (start $begin)"
        ));
    // The first memory that is asked for is for the settings.
    guest.realloc = Some(format!(
        "(local $left i64) (local $at i32) \
         (if (i32.eqz (global.get $asked)) (then (global.set $asked (i32.const 1)) {configuration})) \
         (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16))) \
         (global.set $heap (i32.add (local.get $at) (local.get 3))) local.get $at"
    ));
    guest.component()
}

/// Admits and asks it.
fn asked(engine: &Arc<Engine>, rounds: [u128; 3]) -> Result<Duration, PolicyError> {
    let policy = Policy::admit(engine, engine.compile(&working(rounds))?, Kind::Rollback, "{}")?;
    let asked = policy.judge(&check(0, 0), &[]);
    asked.answer.map(|_| asked.took)
}

#[test]
fn instantiation_configuration_and_question_share_one_time_limit() {
    const LIMIT: Duration = Duration::from_secs(1);
    let engine = |time| {
        let mut limits = Limits::default();
        limits.rollback.time = time;
        Engine::new(limits).unwrap()
    };
    let (patient, strict) = (engine(Duration::from_mins(1)), engine(LIMIT));
    // Two thirds of the limit: one of the three takes no longer, any two do. A machine whose speed changes in the middle of
    // it shows nothing, so it may take another look.
    let shown = || {
        let some = 10_000_000;
        let took = (0..3).map(|_| asked(&patient, [1, 1, some]).unwrap()).min().unwrap();
        let much = some * LIMIT.as_nanos() * 2 / 3 / took.as_nanos().max(1);
        let alone = [[much, 1, 1], [1, much, 1], [1, 1, much]].map(|rounds| asked(&strict, rounds));
        let pairs = [[much, much, 1], [much, 1, much], [1, much, much]].map(|rounds| asked(&strict, rounds));
        let deadline = PolicyError::Deadline { limit_ms: 1_000, setting: "time" };
        for error in alone.iter().chain(&pairs).filter_map(|asked| asked.as_ref().err()) {
            assert_eq!(*error, deadline);
        }
        alone.iter().all(Result::is_ok) && pairs.iter().all(Result::is_err)
    };
    assert!((0..12).any(|_| shown()), "each of the three has a limit of its own");
}

#[test]
fn what_a_policy_remembers_is_limited_and_too_much_of_it_is_a_failure() {
    let mut limits = Limits::default();
    limits.rollback.remember_bytes = 2_000;
    let engine = Engine::new(limits).unwrap();
    let judge = |n: u32| admit(&engine, "hostile", Kind::Rollback, &format!(r#"{{ "remember": {n} }}"#));
    let fits = judge(1_900).judge(&check(0, 0), b"");
    assert!(fits.answer.is_ok() && (1_900..=2_000).contains(&fits.memory.len()), "{fits:?}");
    for asked in [judge(2_001).judge(&check(0, 0), b""), judge(2_001).warm().judge(&check(0, 0), b"")] {
        let Err(PolicyError::OverBudget { what, needs, limit, setting }) = asked.answer else { panic!("{asked:?}") };
        assert_eq!((what, limit, setting), ("bytes to remember", 2_000, "remember_bytes"));
        assert!(needs > 2_000, "{needs}");
        assert_eq!(asked.memory, b"", "nothing of it is kept");
    }

    // What was remembered before stays.
    let slots = Slots::default();
    let slot = slots.get(Kind::Rollback);
    slot.activate(InstalledPolicy::of(Arc::new(judge(2_001))), br#""before""#.to_vec());
    let answered = judge::judge(&slots, &check(0, 0)).unwrap();
    assert_eq!(answered.asked.answer.unwrap_err().cause(), "over-budget");
    assert_eq!(slot.question().unwrap().1, br#""before""#);
}
