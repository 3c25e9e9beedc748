//! The port on both databases: whatever is done to a store, in whatever order, both give the same answers.

use std::{fmt::Debug, sync::Arc};

use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::{
    Store, StoreError,
    calls::Wanted,
    in_force::InForce,
    plans::LastPlan,
    postgres_server,
    records::{Audited, Decision, PoolConfiguration},
    slots::{Remembered, SlotRecord, SlotRole},
    state::State,
};
use cutover_model::{
    clock::UnixMs,
    facts::Finding,
    port::{Check, Kind, Phase, Plan, Verdict},
    request::{Class, Ppm},
};
use cutover_policy_host::{
    history::synthetic::Synthetic,
    installed::Title,
    record::{Call, Memory, Question, Role},
    release::{Manifest, Provenance, Release},
};
use cutover_traffic::{
    observe::marks::Marks,
    pool::journal::{Entry, Keep},
};

/// Something that is done to a store, with numbers and words that make it this or that.
#[derive(Debug, Clone)]
enum Does {
    Decides(u8, u8, Option<u8>),
    Audits(u8),
    SetsFlag(u8, u8),
    Configures(u8),
    Records(u8, u8),
    Forgets(u8),
    Logs(u8, u8),
    ForgetsCalls(u8),
    Keeps(u8, u8, bool),
    Activates(u8, u8, bool),
    Reverts(u8),
    Holds(u8),
    StandsBy(u8, Option<u8>),
    Remembers(u8, u8),
    Releases(u8, u8),
    Plans(u8),
    PutsInForce(u8),
    Begins(u8),
    Beats,
}

fn anything() -> impl Strategy<Value = Does> {
    let n = 0..4_u8;
    prop_oneof![
        (n.clone(), n.clone(), proptest::option::of(n.clone())).prop_map(|(a, b, c)| Does::Decides(a, b, c)),
        n.clone().prop_map(Does::Audits),
        (n.clone(), n.clone()).prop_map(|(a, b)| Does::SetsFlag(a, b)),
        n.clone().prop_map(Does::Configures),
        (n.clone(), n.clone()).prop_map(|(a, b)| Does::Records(a, b)),
        n.clone().prop_map(Does::Forgets),
        (n.clone(), n.clone()).prop_map(|(a, b)| Does::Logs(a, b)),
        n.clone().prop_map(Does::ForgetsCalls),
        (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Does::Keeps(a, b, c)),
        (n.clone(), n.clone(), any::<bool>()).prop_map(|(a, b, c)| Does::Activates(a, b, c)),
        n.clone().prop_map(Does::Reverts),
        n.clone().prop_map(Does::Holds),
        (n.clone(), proptest::option::of(n.clone())).prop_map(|(a, b)| Does::StandsBy(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Does::Remembers(a, b)),
        (n.clone(), n.clone()).prop_map(|(a, b)| Does::Releases(a, b)),
        n.clone().prop_map(Does::Plans),
        n.clone().prop_map(Does::PutsInForce),
        n.prop_map(Does::Begins),
        Just(Does::Beats),
    ]
}

/// Words that databases have different ideas of.
fn word(n: u8) -> String {
    ["plain", "a\0b \\u0000", "quote ' \" $1 ? ü 👩‍🚀", ""][usize::from(n) % 4].into()
}

fn migration(n: u8) -> String {
    ["shop", "Shop", "shop'; --", "über"][usize::from(n) % 4].into()
}

/// Numbers and strings that JSON of databases could spell in another way.
fn value(n: u8) -> Value {
    match n % 4 {
        0 => json!({ "b": 1, "a": [1.0, 1e300, 0.1, -0.5], "n": u64::MAX }),
        1 => json!({ "text": word(1), "deep": { "er": null } }),
        2 => json!([true, false, 1.5e-9, i64::MIN]),
        _ => json!("only text"),
    }
}

fn time(n: u8) -> UnixMs {
    UnixMs(1_800_000_000_000 + u64::from(n) * 1_000)
}

fn audited(n: u8) -> Audited {
    Audited {
        at: time(n),
        actor: word(n),
        migration: migration(n),
        action: "test".into(),
        detail: json!({ "value": value(n) }),
    }
}

fn check(n: u8) -> Check {
    let recorded = Synthetic { checks: 4, batches: 2, ..Synthetic::default() }.into_iter().nth(usize::from(n)).unwrap();
    recorded.check
}

fn call(n: u8, m: u8) -> Call {
    Call {
        at: time(n),
        role: if m.is_multiple_of(2) { Role::Active } else { Role::Candidate },
        policy: "p@1.0.0".into(),
        digest: format!("{n:02}"),
        wasi_stub: m == 3,
        settings: format!("{{ \"z\": {m}, \"a\": 1.0 }}"),
        question: Question::Rollback(check(n)),
        memory: Memory(vec![n; usize::from(m) * 2_000]),
        answer: json!({ "ok": value(m), "long": "x".repeat(usize::from(m) * 200) }),
        memory_after: Memory(vec![n + 1; usize::from(m) * 2_000]),
        fuel: u64::from(n),
        took_us: 7,
    }
}

fn slot(n: u8) -> SlotRecord {
    SlotRecord {
        title: Title { name: format!("p{n}"), version: "1.0.0".into() },
        digest: format!("digest{n}"),
        wasi_stub: n % 2 == 1,
        settings: format!("{{\"z\":{n},  \"a\":1}}"),
        configured: word(0),
        memory: vec![0, n, 255],
        held: None,
        rule: None,
        evidence: None,
        since: time(n),
        updated_by: word(0),
        component: vec![n; 10],
    }
}

fn release(n: u8, m: u8) -> Release {
    let manifest = Manifest {
        name: format!("p{n}"),
        version: format!("1.0.{m}"),
        kind: Kind::Rollback,
        component_sha256: format!("digest{m}"),
        contract: "0.1.0".into(),
        settings_schema_sha256: "s".into(),
        settings: serde_json::from_value(json!({ "z": 1.0, "a": 2 })).unwrap(),
        script: (m == 1).then(|| "text".into()),
        wasi_stub: m == 2,
    };
    Release {
        manifest,
        summary: word(n),
        author: word(m),
        reason: word(n),
        actor: word(m),
        at: time(n),
        provenance: Provenance::File { path: word(n) },
        envelope: None,
    }
}

const ROLES: [SlotRole; 3] = [SlotRole::Active, SlotRole::Previous, SlotRole::Candidate];

/// Errors are of the same kind; their words are each database's own.
fn answer<T: Debug>(done: Result<T, StoreError>) -> String {
    match done {
        Ok(done) => format!("{done:?}"),
        Err(error) => error.to_string(),
    }
}

impl Does {
    async fn to(&self, store: &Store) -> String {
        match *self {
            Self::Decides(n, m, begins) => decide(store, n, m, begins).await,
            Self::Audits(n) => answer(store.audit(&audited(n)).await),
            Self::SetsFlag(n, m) => answer(store.set_flag(&format!("flag{m}"), &value(m), &audited(n)).await),
            Self::Configures(n) => {
                let pool = PoolConfiguration { name: migration(n), version: 2, config: value(n) };
                format!(
                    "{} {}",
                    answer(store.configure_pool(&pool).await),
                    answer(store.pool_configuration(&pool).await)
                )
            }
            Self::Records(n, m) => {
                let (check, marks) = (check(m), (i64::from(n), Marks::default()));
                let recorded = store.record_check(&migration(n), &check, Some(Verdict::Hold), &marks).await;
                let metrics = store.record_metrics(&migration(n), &check.batches).await;
                format!("{} {}", recorded.is_ok(), answer(metrics))
            }
            Self::Forgets(n) => {
                let before = check(n).now_ms;
                let metrics = store.forget_metrics(UnixMs(0)).await;
                format!("{} {}", answer(store.forget_checks(before).await), answer(metrics))
            }
            Self::Logs(n, m) => answer(store.log_calls(&migration(n), &[call(n, m), call(n, 0)]).await),
            Self::ForgetsCalls(n) => answer(store.forget_calls(time(n)).await),
            Self::Keeps(n, m, removes) => keep(store, n, m, removes).await,
            Self::Activates(n, m, ends) => answer(store.activate(Kind::Rollback, &slot(m), ends, &audited(n)).await),
            Self::Reverts(n) => answer(store.revert(Kind::Rollback, &[1, 0], &audited(n)).await),
            Self::Holds(n) => answer(store.hold_slot(Kind::Rollback, &word(n), &audited(n)).await),
            Self::StandsBy(n, m) => {
                answer(store.set_candidate(Kind::Rollback, m.map(slot).as_ref(), &audited(n)).await)
            }
            Self::Remembers(n, m) => remember(store, n, m).await,
            Self::Releases(n, m) => {
                let added = store.add_release(&release(n, m), &[m], &audited(n)).await;
                format!("{} {}", answer(added), answer(store.sign_release(&release(n, m), &audited(n)).await))
            }
            Self::Plans(n) => {
                let last = LastPlan { at: time(n), phase: Phase::Ramping, digest: word(0), plan: Plan::all_to_v2() };
                answer(store.keep_plan(&migration(n), &last).await)
            }
            Self::PutsInForce(n) => {
                let this = InForce { salt: word(0), operations: [("get".into(), Class::Read)].into() };
                answer(store.put_in_force(&migration(n), &this, time(n)).await)
            }
            Self::Begins(n) => answer(store.sessions(&migration(n)).await.map(|known| (known.stage, known.marks))),
            Self::Beats => {
                store.look(true).await;
                format!("{:?}", store.trouble().map(|trouble| trouble.why.clone()))
            }
        }
    }
}

async fn decide(store: &Store, n: u8, m: u8, begins: Option<u8>) -> String {
    let phase = [Phase::Shadow, Phase::Ramping, Phase::RolledBack, Phase::Complete][usize::from(m)];
    let state = State { phase, share: Ppm::new(u32::from(m) * 1_000), ..State::new(time(n)) };
    let note = word(m);
    let finding = Finding { rule: "r".into(), observed: i64::MAX, limit: 0, unit: String::new(), note };
    let decision = Decision {
        id: 0,
        migration: migration(n),
        at: time(n),
        kind: "test".into(),
        actor: word(m),
        reason: word(n),
        from_phase: Phase::Preparing,
        to_phase: phase,
        from_share: Ppm::ZERO,
        to_share: state.share,
        policy: (m == 1).then(|| "p@1.0.0".into()),
        digest: (m == 1).then(|| "00".into()),
        findings: vec![finding],
        inputs: (m == 2).then(|| call(n, m)),
    };
    let decided = store.decide(&decision, &state, begins.map(i64::from)).await;
    format!("{} {}", answer(decided), answer(store.has_decided(&decision).await))
}

async fn remember(store: &Store, n: u8, m: u8) -> String {
    let SlotRecord { digest, settings, .. } = slot(m);
    let remembered = ROLES.map(|place| Remembered {
        kind: Kind::Rollback,
        place,
        digest: digest.as_str().into(),
        settings: settings.as_str().into(),
        memory: vec![n],
        evidence: None,
    });
    answer(store.remember(&migration(n), remembered.into()).await)
}

async fn keep(store: &Store, n: u8, m: u8, removes: bool) -> String {
    let (keeper, inbox) = mpsc::channel(8);
    let (kept, told) = oneshot::channel();
    let arguments = json!({ "id": m, "text": word(1), "number": 1e-7 });
    let entry = Entry {
        version: u64::from(n) * 4 + u64::from(m) + 1,
        operation: "create".into(),
        arguments: Arc::new(serde_json::from_value(arguments).unwrap()),
        key: (m > 1).then(|| format!("\"{m}\"")),
        removes,
    };
    keeper.send(Keep { session: "s".into(), entry, kept }).await.unwrap();
    drop(keeper);
    store.clone().keep_journal(migration(n), inbox).await;
    told.await.unwrap().is_ok().to_string()
}

/// Everything that a store says, in words.
async fn said(store: &Store) -> Vec<String> {
    let mut all = vec![answer(store.states().await), answer(store.migrations_with_checks().await)];
    for n in 0..4 {
        let migration = migration(n);
        all.push(answer(store.state(&migration).await));
        all.push(answer(store.decisions(&migration, 3).await));
        all.push(answer(store.last_decision(&migration).await));
        all.push(answer(store.decision(i64::from(n)).await));
        all.push(answer(store.audited(&migration, 4).await));
        all.push(answer(store.flags(&migration).await));
        all.push(answer(store.last_check(&migration).await));
        let checks = store.checks(&migration, check(1).now_ms, UnixMs(u64::MAX), 0, 10).await;
        let checks =
            checks.map(|all| all.into_iter().map(|one| one.read().map(|one| one.check).ok()).collect::<Vec<_>>());
        all.push(answer(checks));
        let wanted = Wanted { migration: Some(migration.clone()), most: 5, ..Wanted::default() };
        // Numbers go up in both; SQLite gives those of the newest again once they are gone.
        let calls = store.calls(&wanted).await;
        all.push(answer(calls.map(|page| page.calls.into_iter().map(|logged| logged.call).collect::<Vec<_>>())));
        let entries = store.journal(&migration).await;
        all.push(answer(entries.map(|all| format!("{all:?}"))));
        for role in ROLES {
            all.push(answer(store.policy_in_slot(&migration, Kind::Rollback, role).await));
        }
        all.push(answer(store.in_charge(&migration, Kind::Rollback).await));
        all.push(answer(store.last_plan(&migration).await));
        all.push(answer(store.in_force(&migration).await));
        all.push(answer(store.release(&format!("p{n}"), "1.0.1").await));
        all.push(answer(store.release_versions(&format!("p{n}")).await.map(sorted)));
        all.push(answer(store.component(&format!("digest{n}")).await));
    }
    all.push(answer(store.release_labels().await.map(sorted)));
    all.push(answer(store.oldest_call().await));
    all
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all
}

async fn same_on_both(all: &[Does]) -> Result<(), TestCaseError> {
    let Some(postgres) = postgres_server::store().await else { return Ok(()) };
    let folder = TempDir::new().unwrap();
    let sqlite = Store::open(&folder.path().join("test.db")).await.unwrap();
    for one in all {
        prop_assert_eq!(one.to(&postgres).await, one.to(&sqlite).await, "PostgreSQL and SQLite, after {:?}", one);
    }
    for (of_postgres, of_sqlite) in said(&postgres).await.into_iter().zip(said(&sqlite).await) {
        prop_assert_eq!(of_postgres, of_sqlite, "PostgreSQL and SQLite");
    }
    postgres.close().await;
    sqlite.close().await;
    Ok(())
}

#[test]
fn any_sequence_of_operations_gives_the_same_answers_from_both_databases() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 24,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let does = proptest::collection::vec(anything(), 1..40);
    runner.run(&does, |all| runtime.block_on(same_on_both(&all))).unwrap();
}
