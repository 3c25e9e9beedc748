//! One instance that is kept answers as fresh ones do, and a component is compiled once.

use std::{sync::Arc, thread, time::Duration};

use cutover_model::{
    clock,
    port::{Kind, Verdict},
};
use cutover_policy_host::{
    PolicyError,
    engine::{Engine, KindLimits, Limits},
};

use super::{admit, check, engine, guest};
use crate::hostile::{
    ask,
    contract::{Export, Guest},
};

#[test]
fn a_kept_instance_judges_as_fresh_ones_do() {
    let engine = engine();
    for name in ["thresholds", "sequential"] {
        let policy = admit(&engine, name, Kind::Rollback, "{}");
        let mut warm = policy.warm();
        let (mut fresh_memory, mut warm_memory) = (Vec::new(), Vec::new());
        let mut last = Verdict::Hold;
        for n in 0..20 {
            let question = check(n, if n < 10 { 0 } else { 60 });
            let fresh = policy.judge(&question, &fresh_memory);
            let kept = warm.judge(&question, &warm_memory);
            assert_eq!(fresh.answer, kept.answer, "{name}, check {n}");
            assert_eq!(fresh.memory, kept.memory, "{name}, check {n}");
            assert!(kept.fuel > 0 && kept.fuel < fresh.fuel, "{name}: {} and {}", kept.fuel, fresh.fuel);
            assert!(kept.memory_peak >= 64 << 10 && fresh.memory_peak >= 64 << 10);
            last = fresh.answer.unwrap().verdict;
            (fresh_memory, warm_memory) = (fresh.memory, kept.memory);
        }
        assert_eq!(last, Verdict::RollBack, "{name} sees that V2 fails");
    }
}

#[test]
fn a_kept_instance_is_replaced_after_an_error() {
    let engine = engine();
    let policy = admit(&engine, "hostile", Kind::Rollback, r#"{ "do": "trap", "in": "rollback" }"#);
    let mut warm = policy.warm();
    for _ in 0..3 {
        let asked = warm.judge(&check(0, 0), &[]);
        assert!(matches!(asked.answer, Err(PolicyError::Trap { .. })), "{:?}", asked.answer);
        assert_eq!(asked.memory, b"");
    }
    let policy = admit(&engine, "hostile", Kind::Rollback, r#"{ "do": "refuse", "in": "rollback" }"#);
    let mut warm = policy.warm();
    let fuel = [(); 3].map(|()| {
        let asked = warm.judge(&check(0, 0), &[]);
        assert!(matches!(asked.answer, Err(PolicyError::Said { .. })), "{:?}", asked.answer);
        asked.fuel
    });
    assert!(fuel[0] < policy.judge(&check(0, 0), &[]).fuel, "an error that is said costs no new instance");
}

#[test]
fn a_component_is_compiled_once_however_many_ask_for_it() {
    let engine = engine();
    let component = guest("sequential");
    let compiled = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| engine.compile(&component).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let first = &compiled[0];
    assert!(compiled.iter().all(|other| Arc::ptr_eq(&other.digest, &first.digest)), "all have the same one");
    assert_eq!((first.bytes, first.contracts.as_slice()), (component.len(), ["0.1.0".to_owned()].as_slice()));
    assert!(first.image_bytes > first.bytes / 2 && first.imports.iter().all(|name| name.contains("/types@")));
}

#[test]
fn a_policy_says_what_starting_it_costs() {
    let policy = admit(&engine(), "thresholds", Kind::Rollback, "{}");
    let start_up = policy.start_up().unwrap();
    assert!(start_up.instantiation.as_nanos() > 0 && start_up.configuration.as_nanos() > 0);
    assert!(start_up.fuel > 0 && start_up.memory >= 128 << 10);
    assert_eq!(start_up.fuel, policy.start_up().unwrap().fuel);
}

/// A policy that wants to be asked for each request, and counts so far before it takes its settings.
pub(super) fn slow_to_begin(rounds: u128) -> Vec<u8> {
    let body = format!(
        "(local $left i64) (local.set $left (i64.const {rounds})) \
         (loop $again (local.set $left (i64.sub (local.get $left) (i64.const 1))) \
         (br_if $again (i64.ne (local.get $left) (i64.const 0)))) i32.const 64"
    );
    // The plan sends what no rule matches to `decide`.
    let asked = "(data (i32.const 332) \"\\03\")";
    Guest { world: "deciding-policy", ..Guest::with(Export::Configure) }.body(body).fields(asked).component()
}

#[test]
fn a_policy_that_takes_long_to_take_its_settings_does_not_do_so_while_requests_wait() {
    let limits = Limits::alike(KindLimits { time: Duration::from_secs(20), ..KindLimits::default() });
    let engine = Engine::new(limits).unwrap();
    let slow =
        |rounds| cutover_policy_host::admission::admit(&engine, Kind::Routing, &slow_to_begin(rounds), "{}").unwrap();
    let few = slow(10_000_000).start_up().unwrap().configuration;
    let wanted = Duration::from_millis(400);
    let policies: Vec<_> =
        (0..12).map(|n| slow(wanted.as_nanos() * (10_000_000 + n) / few.as_nanos().max(1))).collect();
    // One thread serves all of them, as an ingress thread does.
    let longest = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            // There is one for each thread that serves requests; other threads take them.
            let threads = thread::available_parallelism().unwrap().get();
            for policy in &policies {
                for _ in 0..threads {
                    scope.spawn(|| policy.decide(&ask::frame()).unwrap()).join().unwrap();
                }
                let before = clock::mono();
                let late = policy.decide(&ask::frame());
                assert!(matches!(late, Err(PolicyError::Deadline { setting: "decide_time", .. })), "{late:?}");
                longest = longest.max(clock::mono().since(before));
            }
            longest
        });
        asked.join().unwrap()
    });
    assert!(longest < wanted / 2, "{longest:?}");
    // It has one soon.
    let deadline = clock::mono() + Duration::from_mins(1);
    while policies.iter().any(|policy| policy.decide(&ask::frame()).is_err()) {
        assert!(clock::mono() < deadline, "no instance was made");
        thread::sleep(Duration::from_millis(50));
    }
}
