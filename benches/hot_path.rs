//! What a request and a check cost inside the host, beside what they are measured against.
//!
//! `route/plan` is the shipped routing policy's plan on a request that no rule matches; `route/by hand` does the same
//! with a Rust `match` and the same hash. `policy/*` are questions to shipped policies, each in a fresh instance, and
//! `decide` on a warm one. Read them as ratios: absolute times drift on shared machines.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot start has nothing to say")]

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use cutover::{
    app::admit,
    clock::{Mono, UnixMs},
    policy::{
        engine::{Engine, Limits, Policy},
        facts::{Batch, Calls, OperationCalls},
        port::{Check, Kind, Phase, Situation},
    },
    request::{Class, Head, PoolId, Ppm, Request},
    route::{Published, Router},
};
use cutover_contract::{frame, share};

const SHARE: u32 = 250_000;

fn policy(engine: &Arc<Engine>, kind: Kind, guest: &str, settings: &str) -> Policy {
    let file = format!("{}/../target/components/{guest}.wasm", env!("CARGO_MANIFEST_DIR"));
    admit(engine, kind, &std::fs::read(file).unwrap(), settings).unwrap()
}

fn request(n: usize) -> Request {
    Request {
        id: format!("request-{n}").into(),
        operation: "execute".into(),
        session: Some(format!("session-{n}").into()),
        arguments: Arc::default(),
        deadline: Mono::default(),
        head: Arc::new(Head {
            method: "POST".into(),
            path: "/v1/programs/execute".into(),
            host: "localhost".into(),
            headers: [("accept", "*/*"), ("user-agent", "bench"), ("x-session-id", "s"), ("content-length", "12")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
                .into(),
        }),
    }
}

fn situation() -> Situation {
    Situation {
        now_ms: UnixMs(0),
        migration: "programs".into(),
        phase: Phase::Ramping,
        stage: 2,
        share: Ppm::new(SHARE),
        salt: "programs".into(),
        operations: vec![("execute".into(), Class::Read)],
    }
}

/// What somebody would write by hand for the same rules: a header that overrides, else the hash.
fn by_hand(request: &Request) -> PoolId {
    let wanted =
        request.head.headers.iter().find(|(name, _)| name == "x-cutover-pool").map(|(_, value)| value.as_str());
    match wanted {
        Some("v1") => PoolId::V1,
        Some("v2") => PoolId::V2,
        _ => {
            let key = request.session.as_deref().unwrap_or(&request.id);
            let v2 = share::is_v2(share::position("programs", key), SHARE);
            // The plan also draws whether a request that stays on V1 is mirrored.
            if !v2 {
                black_box(share::is_v2(share::position("shadow", &request.id), 100_000));
            }
            if v2 { PoolId::V2 } else { PoolId::V1 }
        }
    }
}

fn route(c: &mut Criterion) {
    let engine = Engine::new(Limits::default()).unwrap();
    let sticky = policy(&engine, Kind::Routing, "sticky-share", "{}");
    let plan = sticky.make_plan(&situation(), b"").answer.unwrap();
    let router = Router::closed();
    router.publish(Published { plan, v2_serves: true, decider: None });
    let requests: Vec<_> = (0..64).map(request).collect();
    let mut group = c.benchmark_group("route");
    let mut next = requests.iter().cycle();
    group.bench_function("by hand", |b| b.iter(|| by_hand(black_box(next.next().unwrap()))));
    group.bench_function("plan", |b| b.iter(|| router.route(black_box(next.next().unwrap())).pool));
    group.finish();
}

fn policies(c: &mut Criterion) {
    let engine = Engine::new(Limits::default()).unwrap();
    let mut group = c.benchmark_group("policy");
    let sticky = policy(&engine, Kind::Routing, "sticky-share", "{}");
    group.bench_function("make-plan, sticky-share", |b| b.iter(|| sticky.make_plan(&situation(), b"").answer.unwrap()));

    let check = check();
    for guest in ["thresholds", "sequential"] {
        let judge = policy(&engine, Kind::Rollback, guest, "{}");
        let memory = judge.judge(&check, b"").memory;
        group.bench_function(format!("judge, {guest}"), |b| b.iter(|| judge.judge(&check, &memory).answer.unwrap()));
    }

    let decider = policy(&engine, Kind::Routing, "hostile", r#"{"do": "behave"}"#);
    let mut packed = Vec::new();
    let attributes = ["execute", "session-1", "POST", "/v1/programs/execute", "localhost", "*/*", "bench", "beta"];
    frame::pack(&mut packed, 123_456, SHARE, attributes.into_iter().map(Some));
    group.bench_function("decide, 8 attributes, warm", |b| b.iter(|| decider.decide(black_box(&packed)).unwrap()));
    group.finish();
}

/// Five seconds of a busy operation.
fn check() -> Check {
    let calls = |requests: u64| Calls {
        requests,
        units: requests,
        latency: (300..340).map(|bucket| (bucket, requests / 40)).collect(),
        ..Calls::default()
    };
    let batch = |n: u64| Batch {
        start_ms: UnixMs(n * 1_000),
        duration_ms: 1_000,
        share: Ppm::new(SHARE),
        operations: vec![OperationCalls {
            operation: "execute".into(),
            class: Class::Read,
            v1: calls(3_000),
            v2: calls(1_000),
            shadow: Calls::default(),
        }],
        ..Batch::default()
    };
    Check {
        now_ms: UnixMs(5_000),
        phase: Phase::Ramping,
        stage: 2,
        share: Ppm::new(SHARE),
        stage_started_ms: UnixMs(0),
        batches: (0..5).map(batch).collect(),
    }
}

criterion_group!(benches, route, policies);
criterion_main!(benches);
