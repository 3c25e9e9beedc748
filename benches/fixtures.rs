//! What several benches begin with: an engine, policies in it, and requests.
#![allow(dead_code, reason = "each bench uses a part of it")]
#![allow(clippy::panic, reason = "a bench that cannot start has nothing to say")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cutover_model::{
    clock::{Mono, UnixMs},
    port::{Kind, Phase, Situation},
    request::{Class, Head, Ppm, Request},
};
use cutover_policy_host::{
    admission::{admit, admit_bundle},
    bundle::Bundle,
    engine::{Engine, KindLimits, Limits, Policy},
};

/// V2's share.
pub(crate) const SHARE: u32 = 250_000;

/// As long as `cutover policy backtest` waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is hashed before a session.
pub(crate) const SALT: &str = "programs";

/// An engine that waits for answers: on a busy machine, a policy that is not given the processor runs out of time.
pub(crate) fn engine() -> Arc<Engine> {
    Engine::new(Limits::alike(KindLimits { time: PATIENCE, decide_time: PATIENCE, ..KindLimits::default() })).unwrap()
}

/// The root of this repository, from either package of benches.
pub(crate) fn root() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    above.into_iter().find(|folder| folder.join("policies").is_dir()).unwrap().to_owned()
}

/// A guest's component, as `cargo xtask guests` builds it.
pub(crate) fn component(guest: &str) -> Vec<u8> {
    let file = root().join(format!("target/components/{guest}.wasm"));
    let read = std::fs::read(&file).map_err(|e| format!("{}: {e}; run `cargo xtask guests`", file.display()));
    read.unwrap()
}

/// A guest with settings.
pub(crate) fn policy(engine: &Arc<Engine>, kind: Kind, guest: &str, settings: &str) -> Policy {
    admit(engine, kind, &component(guest), settings).unwrap()
}

/// A bundle, by its folder in this repository.
pub(crate) fn bundled(engine: &Arc<Engine>, folder: &str) -> Policy {
    let bundle = Bundle::read(&root().join(folder), &root().join("target/components"), &toml::Table::new()).unwrap();
    admit_bundle(engine, &bundle).unwrap()
}

/// A request of a session of its own; of four, one is in the ring and one in another one.
pub(crate) fn request(n: usize) -> Request {
    let mut headers = vec![("accept", "*/*"), ("user-agent", "bench"), ("x-session-id", "s"), ("content-length", "12")];
    match n % 8 {
        1 => headers.push(("x-beta", "beta")),
        5 => headers.push(("x-beta", "internal")),
        3 | 7 => headers.push(("x-beta", "stable")),
        _ => {}
    }
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
            headers: headers.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        }),
    }
}

/// A ramp at [`SHARE`].
pub(crate) fn situation() -> Situation {
    Situation {
        now_ms: UnixMs(0),
        migration: "programs".into(),
        phase: Phase::Ramping,
        stage: 2,
        share: Ppm::new(SHARE),
        salt: SALT.into(),
        operations: vec![("execute".into(), Class::Read)],
    }
}
