//! One instance that is kept answers as fresh ones do, and a component is compiled once.

use std::{sync::Arc, thread};

use cutover::policy::{
    PolicyError,
    port::{Kind, Verdict},
};

use super::{admit, check, engine, guest};

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
