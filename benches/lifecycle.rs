//! What it costs to have a policy: an instance, a compilation, a installed.
//!
//! `instance/*` is what each question but `decide` begins with: a store, an instance and its settings. `compile/*` has a
//! component compiled in this process, beside the same component loaded from the disk cache and from memory. `swap/*` is
//! the part of a swap that requests could notice, beside what is done off their path before it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot start has nothing to say")]

mod fixtures;

use std::{sync::Arc, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use cutover_model::port::Kind;
use cutover_policy_host::{
    engine::{Engine, Limits, Options, Policy, StartUp},
    installed::InstalledPolicy,
    route::{Control, Published, Router},
    slot::Slots,
};
use fixtures::{bundled, component, engine, policy, situation};

/// Bundles from the smallest component to the largest that is written in Rust.
const INSTANCES: [&str; 5] = ["exact-compare", "sticky-share", "thresholds", "sequential", "sticky-share-rhai"];

fn instances(c: &mut Criterion) {
    let engine = engine();
    let mut group = c.benchmark_group("instance");
    for name in INSTANCES {
        let policy = bundled(&engine, &format!("policies/{name}"));
        let part = |of: fn(StartUp) -> Duration| {
            let policy = policy.clone();
            move |rounds| (0..rounds).map(|_| of(policy.start_up().unwrap())).sum()
        };
        let mut store = part(|cost| cost.instantiation);
        group.bench_function(format!("{name}, store and instance"), |b| b.iter_custom(&mut store));
        let mut settings = part(|cost| cost.configuration);
        group.bench_function(format!("{name}, settings"), |b| b.iter_custom(&mut settings));
    }
    group.finish();
}

fn compilations(c: &mut Criterion) {
    let mut group = c.benchmark_group("compile");
    group.sample_size(10);
    for guest in ["sticky-share", "sequential", "rhai"] {
        let bytes = component(guest);
        let cold = || Engine::new(Limits::default()).unwrap();
        let compile = |engine: Arc<Engine>| (engine.compile(&bytes).unwrap(), engine);
        group.bench_function(format!("{guest}, cold"), |b| b.iter_batched(cold, compile, BatchSize::PerIteration));

        let folder = tempfile::tempdir().unwrap();
        let cached = || {
            let options = Options { cache: Some(folder.path().join("cache")), ..Options::default() };
            Engine::start(options).unwrap()
        };
        cached().compile(&bytes).unwrap();
        let load = |engine: Arc<Engine>| {
            let compiled = engine.compile(&bytes).unwrap();
            assert_eq!(engine.compilations().from_disk, 1, "it was not on disk");
            (compiled, engine)
        };
        group.bench_function(format!("{guest}, disk cache"), |b| b.iter_batched(cached, load, BatchSize::PerIteration));

        let warm = cold();
        warm.compile(&bytes).unwrap();
        group.bench_function(format!("{guest}, in memory"), |b| b.iter(|| warm.compile(&bytes).unwrap()));
    }
    group.finish();
}

fn swaps(c: &mut Criterion) {
    let engine = engine();
    let mut group = c.benchmark_group("swap");
    let judge = Arc::new(policy(&engine, Kind::Rollback, "thresholds", "{}"));
    let compiled = judge.compiled().clone();
    group.bench_function("admit what is compiled, thresholds", |b| {
        b.iter(|| Policy::admit(&engine, compiled.clone(), Kind::Rollback, "{}").unwrap());
    });

    let seats = [InstalledPolicy::of(Arc::<Policy>::clone(&judge)), InstalledPolicy::of(judge)];
    let slots = Slots::default();
    let mut next = seats.iter().cycle().cloned();
    group.bench_function("activate", |b| {
        let activate = |installed| slots.get(Kind::Rollback).activate(installed, Vec::new());
        b.iter_batched(|| next.next().unwrap(), activate, BatchSize::SmallInput);
    });

    let routing = policy(&engine, Kind::Routing, "sticky-share", "{}");
    let plan = routing.make_plan(&situation(), b"").answer.unwrap();
    let router = Router::closed();
    let published = || Published {
        plan: plan.clone(),
        v2_serves: true,
        most: cutover_model::request::Ppm::ALL,
        decider: None,
        control: Control::default(),
    };
    group.bench_function("publish a plan", |b| {
        b.iter_batched(published, |published| router.publish(published), BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, instances, compilations, swaps);
criterion_main!(benches);
