//! What a request and a check cost inside the host, beside what they are measured against.
//!
//! `route/plan` is the shipped routing policy's plan on a request that no rule matches; `route/by hand` does the same
//! with a Rust `match` and the same hash. `policy/*` are questions to shipped policies, each in a fresh instance as the
//! host asks them, or in a kept one as back-tests do, and `decide` on a warm one. Read them as ratios: absolute times
//! drift on shared machines.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot start has nothing to say")]

mod fixtures;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use cutover_contract::{frame, share};
use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, OperationCalls},
    port::{Check, Kind, Phase},
    request::{Class, PoolId, Ppm, Request},
};
use cutover_policy_host::route::{Control, Published, Router};
use fixtures::{SALT, SHARE, bundled, engine, policy, request, situation};

/// What somebody would write by hand for the same rules: a header that overrides, else the hash.
fn by_hand(request: &Request) -> PoolId {
    let wanted =
        request.head.headers.iter().find(|(name, _)| name == "x-cutover-pool").map(|(_, value)| value.as_str());
    match wanted {
        Some("v1") => PoolId::V1,
        Some("v2") => PoolId::V2,
        _ => {
            let key = request.session.as_deref().unwrap_or(&request.id);
            let v2 = share::is_v2(share::position(SALT, key), SHARE);
            // The plan also draws whether a request that stays on V1 is mirrored.
            if !v2 {
                black_box(share::is_v2(share::position("shadow", &request.id), 100_000));
            }
            if v2 { PoolId::V2 } else { PoolId::V1 }
        }
    }
}

fn route(c: &mut Criterion) {
    let engine = engine();
    let sticky = policy(&engine, Kind::Routing, "sticky-share", "{}");
    let plan = sticky.make_plan(&situation(), b"").answer.unwrap();
    let router = Router::closed();
    router.publish(Published { plan, v2_serves: true, most: Ppm::ALL, decider: None, control: Control::default() });
    let requests: Vec<_> = (0..64).map(request).collect();
    let mut group = c.benchmark_group("route");
    let mut next = requests.iter().cycle();
    group.bench_function("by hand", |b| b.iter(|| by_hand(black_box(next.next().unwrap()))));
    group.bench_function("plan", |b| b.iter(|| router.route(black_box(next.next().unwrap())).pool));
    group.finish();
}

fn policies(c: &mut Criterion) {
    let engine = engine();
    let mut group = c.benchmark_group("policy");
    let sticky = policy(&engine, Kind::Routing, "sticky-share", "{}");
    group.bench_function("make-plan, sticky-share", |b| b.iter(|| sticky.make_plan(&situation(), b"").answer.unwrap()));

    let check = check();
    for name in ["thresholds", "sequential", "thresholds-rhai"] {
        let judge = bundled(&engine, &format!("policies/{name}"));
        let memory = judge.judge(&check, b"").memory;
        group.bench_function(format!("judge, {name}"), |b| b.iter(|| judge.judge(&check, &memory).answer.unwrap()));
        let mut warm = judge.warm();
        let warm_name = format!("judge, {name}, kept instance");
        group.bench_function(warm_name, |b| b.iter(|| warm.judge(&check, &memory).answer.unwrap()));
    }

    let decider = policy(&engine, Kind::Routing, "ring-decide", "{}");
    let mut packed = Vec::new();
    let attributes = ["beta", "execute", "session-1", "POST", "/v1/programs/execute", "localhost", "*/*", "bench"];
    frame::pack(&mut packed, 900_000, SHARE, attributes.into_iter().map(Some));
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
