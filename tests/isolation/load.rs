//! What one migration's policies do does not make those of another late.

use std::{sync::Arc, thread, time::Duration};

use cutover_control::migration::judge;
use cutover_model::{
    clock::{self, Mono},
    port::{AdapterCall, Kind},
};
use cutover_policy_host::{
    PolicyError,
    engine::{Engine, KindLimits, Limits, Policy},
    installed::InstalledPolicy,
    slot::Slots,
};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::MissedTickBehavior,
};

use super::{check, engine, guest};

const MIGRATIONS: usize = 100;

/// Shorter than any that is configured as a rule, longer than a busy machine takes for a hundred judges.
const INTERVAL: Duration = Duration::from_secs(2);

const CHECKS: u32 = 3;

/// As long as a question may take: a judge that loops and is asked so often is always busy.
const ALWAYS: Duration = Duration::from_millis(250);

/// What became of one migration's checks: how late the latest answer was, and how many were none.
struct Judged {
    latest: Duration,
    failures: u64,
}

fn admit(engine: &Arc<Engine>, guest: &[u8], kind: Kind, settings: &str) -> Policy {
    Policy::admit(engine, engine.compile(guest).unwrap(), kind, settings).unwrap()
}

/// Asks each interval, as a controller does: on a blocking thread, one check at a time.
async fn judge_each(interval: Duration, slots: Arc<Slots>, begin: Mono) -> Judged {
    let mut checks = tokio::time::interval_at(begin.timer(), interval);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut judged = Judged { latest: Duration::ZERO, failures: 0 };
    for n in 0.. {
        let due = begin + interval * n;
        if due >= begin + INTERVAL * CHECKS {
            break;
        }
        checks.tick().await;
        let slots = Arc::clone(&slots);
        let answered = spawn_blocking(move || judge::judge(&slots, &check(n.into(), 0)).unwrap()).await.unwrap();
        judged.latest = judged.latest.max(answered.at.since(due));
        match answered.asked.answer {
            Ok(_) => {}
            Err(PolicyError::Deadline { .. }) => judged.failures += 1,
            Err(other) => panic!("{other}"),
        }
    }
    judged
}

/// Slots of many migrations, the first of which has a judge with `settings`.
fn migrations(engine: &Arc<Engine>, settings: &str) -> Vec<Arc<Slots>> {
    let (hostile, good) = (guest("hostile"), guest("thresholds"));
    let slots = (0..MIGRATIONS).map(|n| {
        let (guest, settings) = if n == 0 { (&hostile, settings) } else { (&good, "{}") };
        let slots = Arc::<Slots>::default();
        let installed = InstalledPolicy::of(Arc::new(admit(engine, guest, Kind::Rollback, settings)));
        slots.get(Kind::Rollback).activate(installed, Vec::new());
        slots
    });
    slots.collect()
}

async fn judge_all(migrations: Vec<Arc<Slots>>, first: Duration) -> Vec<Judged> {
    let begin = clock::mono() + Duration::from_millis(50);
    let mut tasks = JoinSet::new();
    for (n, slots) in migrations.into_iter().enumerate() {
        let interval = if n == 0 { first } else { INTERVAL };
        tasks.spawn(async move { (n, judge_each(interval, slots, begin).await) });
    }
    let mut all = tasks.join_all().await;
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().map(|(_, judged)| judged).collect()
}

fn assert_on_time(judged: &[Judged]) {
    let late: Vec<_> = judged.iter().filter(|judged| judged.latest >= INTERVAL).map(|j| j.latest).collect();
    let failures = judged.iter().map(|judged| judged.failures).sum::<u64>();
    assert!(late.is_empty() && failures == 0, "{} are late, {failures} answers are none: {late:?}", late.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_that_loops_makes_no_other_migration_late() {
    let migrations = migrations(&engine(), r#"{ "do": "loop", "in": "rollback" }"#);
    let judged = judge_all(migrations, ALWAYS).await;
    let (looping, others) = judged.split_first().unwrap();
    assert!(looping.failures > 2 * u64::from(CHECKS), "it loops all the time: {}", looping.failures);
    assert_on_time(others);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_that_loops_for_every_caller_makes_no_judge_late() {
    let engine = engine();
    let settings = r#"{ "do": "loop", "in": "adapter" }"#;
    let adapter = Arc::new(admit(&engine, &guest("hostile"), Kind::Adapter, settings));
    let migrations = migrations(&engine, "{}");
    let mut callers = JoinSet::new();
    let end = clock::mono() + INTERVAL * CHECKS;
    for _ in 0..64 {
        let adapter = Arc::clone(&adapter);
        callers.spawn(async move {
            let mut refused = 0_u64;
            while clock::mono() < end {
                let adapter = Arc::clone(&adapter);
                let call = AdapterCall { operation: "o".into(), session: "s".into(), body: b"{}".to_vec() };
                let asked = spawn_blocking(move || adapter.adapt_call(&call)).await.unwrap();
                assert!(matches!(asked.answer, Err(PolicyError::Deadline { .. })), "{:?}", asked.answer);
                refused += 1;
                // Callers come again; what is answered at once must not become a load of its own.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            refused
        });
    }
    assert_on_time(&judge_all(migrations, INTERVAL).await);
    let refused: u64 = callers.join_all().await.into_iter().sum();
    // Two threads could have asked 32 times in that time; the others were told at once.
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn judges_that_compute_for_long_take_turns_so_that_each_has_its_time() {
    let settings = r#"{ "in": "rollback", "spins": 50000000 }"#;
    let within = |time| Engine::new(Limits::alike(KindLimits { time, ..KindLimits::default() })).unwrap();
    let patient = admit(&within(Duration::from_mins(1)), &guest("hostile"), Kind::Rollback, settings);
    let alone = (0..3).map(|n| patient.judge(&check(n, 0), &[]).took).max().unwrap();
    // All at once, each would take 16 times as long as alone.
    let all = 16 * thread::available_parallelism().unwrap().get();
    let judge = admit(&within(8 * alone), &guest("hostile"), Kind::Rollback, settings);
    for n in 0..3 {
        judge.judge(&check(n, 0), &[]).answer.unwrap();
    }
    let late = thread::scope(|scope| {
        let asked: Vec<_> = (0..all).map(|_| scope.spawn(|| judge.judge(&check(9, 0), &[]).answer.is_err())).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).filter(|late| *late).count()
    });
    assert_eq!(late, 0, "of {all}, with 8 times {alone:?} each");
}
