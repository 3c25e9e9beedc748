//! How much of the store a check takes, with the shipped judge and stages policy under steady traffic.

use std::{fs, sync::Arc};

use cutover_model::port::{Kind, Progress, Verdict};
use cutover_policy_host::{
    engine::{Engine, Limits, WarmPolicy},
    history::synthetic::Synthetic,
    installed::{InstalledPolicy, Title},
    record::{Call, Memory, Question, Role},
};
use cutover_store::Store;
use cutover_traffic::observe::marks::Marks;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::components;

/// Checks before it is measured, so that policies remember as much as they ever do.
const BEFORE: u64 = 300;

/// Checks that are measured.
const MEASURED: u64 = 600;

/// Bytes a check.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Of the store.
    all: u64,
    /// The same, if calls had in their rows what policies remember before and after, and what they say, as it is.
    plain: u64,
}

/// One of the policies, with what it remembers.
struct Asker {
    warm: WarmPolicy,
    installed: InstalledPolicy,
    memory: Vec<u8>,
}

impl Asker {
    fn new(engine: &Arc<Engine>, kind: Kind, name: &str, settings: &str) -> Self {
        let component = fs::read(components().join(name).with_extension("wasm")).unwrap();
        let policy = Arc::new(cutover_policy_host::admission::admit(engine, kind, &component, settings).unwrap());
        let title = Title { name: name.into(), version: "1.0.0".into() };
        Self { warm: policy.warm(), installed: InstalledPolicy { policy, title, wasi_stub: false }, memory: Vec::new() }
    }
}

async fn taken(name: &str, traffic: Synthetic) -> Taken {
    let engine = Engine::new(Limits::default()).unwrap();
    let mut judge = Asker::new(&engine, Kind::Rollback, "sequential", "{}");
    let mut stages = Asker::new(&engine, Kind::Stages, "standard-stages", "{}");
    let folder = TempDir::new().unwrap();
    let open = async |name: &str| Store::open(&folder.path().join(name)).await.unwrap();
    // One as a host has it, and one without what policies remember and say.
    let (whole, bare) = (open("whole.db").await, open("bare.db").await);
    let (mut plain, mut begin) = (0, (0, 0));
    for (n, recorded) in (0..).zip(Synthetic { checks: BEFORE + MEASURED, ..traffic }) {
        let check = recorded.check;
        if n == BEFORE {
            (plain, begin) = (0, (whole.bytes().await.unwrap(), bare.bytes().await.unwrap()));
        }
        let asked = judge.warm.judge(&check, &judge.memory);
        let verdict = asked.answer.as_ref().map_or(Verdict::Hold, |judgement| judgement.verdict);
        let question = Question::Rollback(check.clone());
        let judged = Call::of(check.now_ms, Role::Active, &judge.installed, question, judge.memory, &asked);
        judge.memory = asked.memory;
        let progress = Progress { check: check.clone(), verdict, forced: false };
        let asked = stages.warm.next(&progress, &stages.memory);
        let moved =
            Call::of(check.now_ms, Role::Active, &stages.installed, Question::Stages(progress), stages.memory, &asked);
        stages.memory = asked.memory;
        for (store, is_whole) in [(&whole, true), (&bare, false)] {
            store.record_metrics("mine", &check.batches).await.unwrap();
            store.record_check("mine", &check, Some(verdict), &<(i64, Marks)>::default()).await.unwrap();
            let bare = |call: &Call| {
                let (memory, memory_after) = (Memory(Vec::new()), Memory(Vec::new()));
                Call { memory, memory_after, answer: Value::Null, ..call.clone() }
            };
            let calls = [&judged, &moved].map(|call| if is_whole { call.clone() } else { bare(call) });
            store.log_calls("mine", &calls).await.unwrap();
        }
        let bytes = |call: &Call| call.memory.0.len() + call.memory_after.0.len() + call.answer.to_string().len();
        plain += u64::try_from(bytes(&judged) + bytes(&moved)).unwrap();
    }
    let (all, bare_bytes) = (whole.bytes().await.unwrap() - begin.0, bare.bytes().await.unwrap() - begin.1);
    let taken = Taken { all: all / MEASURED, plain: (plain + bare_bytes) / MEASURED };
    eprintln!("{name}: a check takes {} bytes, and would take {} as plain rows", taken.all, taken.plain);
    whole.close().await;
    bare.close().await;
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_takes_a_small_part_of_what_policies_remember() {
    let busy = taken("busy traffic", Synthetic { calls: 2_000, batches: 5, ..Synthetic::default() }).await;
    let light = taken("light traffic", Synthetic { calls: 20, batches: 5, ..Synthetic::default() }).await;
    assert!(light.all * 2 < light.plain && busy.all * 2 < busy.plain, "{light:?}, {busy:?}");
}
