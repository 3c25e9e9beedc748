//! What keeps policies apart from each other and from the host: limits, instances, compiled code, contract versions.

mod compiling;
mod first;
mod large;
mod limits;
mod load;
mod warm;

use std::{fs, sync::Arc};

use cutover_model::{
    clock::UnixMs,
    facts::{Batch, Calls, OperationCalls},
    port::{Check, Kind, Phase},
    request::{Class, Ppm},
};
use cutover_policy_host::engine::{Engine, Limits, Policy};

use crate::harness::components;

/// The component of a guest of this workspace.
fn guest(name: &str) -> Vec<u8> {
    fs::read(components().join(name).with_extension("wasm")).unwrap()
}

fn engine() -> Arc<Engine> {
    Engine::new(Limits::default()).unwrap()
}

fn admit(engine: &Arc<Engine>, name: &str, kind: Kind, settings: &str) -> Policy {
    Policy::admit(engine, engine.compile(&guest(name)).unwrap(), kind, settings).unwrap()
}

/// Five seconds in which V2 fails `errors` of 200 sessions each second.
fn check(n: u64, errors: u64) -> Check {
    let calls = |errors| Calls { requests: 200, errors, units: 200, unit_errors: errors, ..Calls::default() };
    let batch = |second: u64| Batch {
        start_ms: UnixMs(second * 1_000),
        duration_ms: 1_000,
        share: Ppm::new(500_000),
        operations: vec![OperationCalls {
            operation: "execute".into(),
            class: Class::Read,
            v1: calls(0),
            v2: calls(errors),
            shadow: Calls::default(),
        }],
        ..Batch::default()
    };
    Check {
        now_ms: UnixMs((n + 1) * 5_000),
        phase: Phase::Ramping,
        stage: 2,
        share: Ppm::new(500_000),
        stage_started_ms: UnixMs(0),
        batches: (n * 5..n * 5 + 5).map(batch).collect(),
    }
}
