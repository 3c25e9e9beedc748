//! The sandbox: compiles components, checks what they offer, and runs each question under its limits.
//!
//! The only code that names wasmtime. One engine for the process (stores of several engines must not mix); policies
//! import nothing, so the linker stays empty, but for the stand-in for WASI where a bundle asks for it; epochs interrupt
//! what runs too long, a limiter counts memory over all of a guest's memories, and any error throws the instance away.

mod artefacts;
mod ask;
mod bindings;
mod cache;
mod compiler;
mod contract;
mod convert;
mod cost;
mod gate;
mod guest;
mod lanes;
mod limits;
mod policy;
mod size;
mod ticker;
mod warm;
mod wasi_stub;
mod world;

use std::{
    num::NonZero,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, InstancePre, Linker};

use self::{
    artefacts::{Artefact, Artefacts},
    cache::Cache,
    compiler::Compiler,
    guest::{State, said},
    lanes::Lanes,
    ticker::Ticker,
    world::Places,
};
use super::{check, error::PolicyError};
use cutover_model::{clock, port::Kind};

pub use self::{
    ask::WarmPolicy,
    compiler::compile_here,
    contract::CONTRACT,
    limits::{KindLimits, Limits},
    policy::{Policy, StartUp},
};
pub use crate::engine::cost::Needs;

/// What a component may import beside the contract's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Imports {
    /// Nothing but the types of the contract.
    #[default]
    None,
    /// The closed, deterministic stand-in for WASI.
    WasiStub,
}

impl Imports {
    /// What a bundle or release asks for.
    pub const fn of(wasi_stub: bool) -> Self {
        if wasi_stub { Self::WasiStub } else { Self::None }
    }
}

/// This build of the host: its version, and what its dependencies are locked to.
const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), " ", env!("CUTOVER_LOCK"));

/// The one engine of a process.
#[derive(Debug)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    limits: Limits,
    /// Threads that requests are served on.
    threads: usize,
    /// Policies with `decide` that there may be at once.
    permits: usize,
    taken: Arc<AtomicUsize>,
    cache: Cache,
    artefacts: Option<Artefacts>,
    compiler: Compiler,
    counts: Counts,
    ticker: Ticker,
    /// Instances that are made ahead are made one at a time.
    making: Mutex<()>,
    /// Turns of policies that compute for long.
    lanes: Lanes,
}

/// How an engine is to be started.
#[derive(Debug, Default)]
pub struct Options {
    /// What policies may use.
    pub limits: Limits,
    /// The `cutover` binary, to compile in a process of its own; none to compile in this one.
    pub compiler: Option<PathBuf>,
    /// Where compiled components are kept from one start to the next; none to keep none.
    pub cache: Option<PathBuf>,
}

/// Where compiled components came from since the engine was started.
#[derive(Debug, Default)]
struct Counts {
    compiled: AtomicU64,
    from_disk: AtomicU64,
}

/// The same, to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Compilations {
    /// Components that were compiled.
    pub compiled: u64,
    /// Components that were loaded from disk.
    pub from_disk: u64,
    /// Files on disk that were not trusted, and removed.
    pub rejected: u64,
    /// Whether compiled components are kept on disk.
    pub kept_on_disk: bool,
}

/// A component that was compiled and found to speak the contract, not yet configured.
#[derive(Clone)]
pub struct Compiled {
    /// SHA-256 of the component, lower-case hex.
    pub digest: Arc<str>,
    /// The kinds it answers.
    pub kinds: Vec<Kind>,
    /// Whether it can be asked per request.
    pub decides: bool,
    /// What it exports, by name.
    pub exports: Vec<String>,
    /// What it imports, by name: types at the most.
    pub imports: Vec<String>,
    /// The versions of the contract that it names, ascending; one, unless it was put together from parts.
    pub contracts: Vec<String>,
    /// Bytes of the component.
    pub bytes: usize,
    /// Bytes of what it was compiled to.
    pub image_bytes: usize,
    /// What an instance of it needs.
    pub needs: Needs,
    /// Wall-clock time that it took to compile it, or to load it from disk.
    pub compilation: Duration,
    places: Places,
    pre: InstancePre<State>,
}

/// The room for one policy that is asked per request; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct DecidePermit(Arc<AtomicUsize>);

impl Engine {
    /// Starts an engine that compiles in this process and keeps nothing on disk: for tools and tests.
    ///
    /// # Errors
    /// What wasmtime says when the machine cannot give it memory or threads.
    pub fn new(limits: Limits) -> Result<Arc<Self>, EngineError> {
        Self::start(Options { limits, ..Options::default() })
    }

    /// Starts an engine and its ticker.
    ///
    /// # Errors
    /// What wasmtime says when the machine cannot give it memory or threads. A cache that cannot be used is no error.
    pub fn start(options: Options) -> Result<Arc<Self>, EngineError> {
        let Options { limits, compiler, cache } = options;
        let engine = wasmtime::Engine::new(&limits.hardened()).map_err(|e| EngineError(format!("{e:#}")))?;
        let artefacts = cache.and_then(|folder| {
            let opened = Artefacts::open(&folder, &engine, BUILD);
            opened.inspect_err(|error| tracing::warn!("compiled policies are not kept on disk: {error}")).ok()
        });
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let permits = limits.permits(threads);
        let ticker = {
            let most = limits.most();
            Ticker::start(engine.weak(), most.time.max(most.decide_time))?
        };
        Ok(Arc::new(Self {
            wasmtime: engine,
            limits,
            threads,
            permits,
            taken: Arc::default(),
            cache: Cache::default(),
            artefacts,
            compiler: Compiler::new(compiler, &limits),
            counts: Counts::default(),
            ticker,
            making: Mutex::new(()),
            lanes: Lanes::new(threads),
        }))
    }

    /// The limits that every policy runs under.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// What it runs on, for tests that hold its configuration against the suites of the component model.
    #[doc(hidden)]
    pub const fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Room for one more policy that is asked per request.
    fn decide_permit(&self) -> Result<DecidePermit, PolicyError> {
        let one_more = |taken: usize| (taken < self.permits).then_some(taken + 1);
        match self.taken.try_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(DecidePermit(Arc::clone(&self.taken))),
            Err(_) => Err(PolicyError::NoDecideCapacity { room: self.permits, threads: self.threads }),
        }
    }

    /// Compiles a component and checks that it imports nothing and exports the contract. Takes milliseconds for a Rust
    /// guest and seconds for an interpreter: call it off the request's path. A component that was compiled lately is
    /// not compiled again.
    ///
    /// # Errors
    /// Why the component is not admitted.
    pub fn compile(&self, bytes: &[u8]) -> Result<Compiled, PolicyError> {
        self.compile_with(bytes, Imports::None)
    }

    /// [`Engine::compile`] for a component that may import `imports`.
    ///
    /// # Errors
    /// Why the component is not admitted.
    pub fn compile_with(&self, bytes: &[u8], allowed: Imports) -> Result<Compiled, PolicyError> {
        check_header(bytes, self.limits.component_bytes)?;
        // Before the compiler sees it: a few bytes can ask for very many instances.
        let needs = cost::count(bytes).unwrap_or_default();
        self.limits.most().admit(&needs)?;
        let digest = hex::encode(Sha256::digest(bytes));
        let key = format!("{digest}{}", if allowed == Imports::WasiStub { "+wasi-stub" } else { "" });
        self.cache.get_or_compile(&key, || {
            let started = clock::mono();
            let component = match self.load(&digest) {
                Some(component) => component,
                None => self.compile_anew(&digest, bytes)?,
            };
            self.admit(&component, &digest, allowed, bytes.len(), needs, clock::mono().since(started))
        })
    }

    /// Where compiled components came from so far.
    pub fn compilations(&self) -> Compilations {
        Compilations {
            compiled: self.counts.compiled.load(Ordering::Relaxed),
            from_disk: self.counts.from_disk.load(Ordering::Relaxed),
            rejected: self.artefacts.as_ref().map_or(0, Artefacts::rejected),
            kept_on_disk: self.artefacts.is_some(),
        }
    }

    fn load(&self, digest: &str) -> Option<Component> {
        let artefacts = self.artefacts.as_ref()?;
        let loaded = artefacts.read(digest)?.load(&self.wasmtime);
        if loaded.is_ok() {
            self.counts.from_disk.fetch_add(1, Ordering::Relaxed);
        } else {
            artefacts.forget(digest);
        }
        loaded.ok()
    }

    fn compile_anew(&self, digest: &str, bytes: &[u8]) -> Result<Component, PolicyError> {
        let artefact: Artefact = self.compiler.compile(&self.wasmtime, bytes)?;
        let component = artefact.load(&self.wasmtime)?;
        self.counts.compiled.fetch_add(1, Ordering::Relaxed);
        if let Some(artefacts) = &self.artefacts {
            artefacts.write(digest, &artefact);
        }
        Ok(component)
    }

    /// Checks what a component imports and exports.
    fn admit(
        &self,
        component: &Component,
        digest: &str,
        allowed: Imports,
        bytes: usize,
        needs: Needs,
        compilation: Duration,
    ) -> Result<Compiled, PolicyError> {
        let needs = needs.at_least(component.resources_required());
        let ty = component.component_type();
        let imports: Vec<_> = ty.imports(&self.wasmtime).map(|(name, _)| name.to_owned()).collect();
        let exports: Vec<_> = ty.exports(&self.wasmtime).map(|(name, _)| name.to_owned()).collect();
        let contracts = contract::versions(exports.iter());
        if let Some(found) = contracts.last().filter(|_| !contracts.iter().any(|v| contract::speaks(v))) {
            let found = crate::error::said(found);
            return Err(PolicyError::UnknownContract { found, supported: CONTRACT });
        }
        // Types-only imports are satisfied by an empty linker; anything else is named.
        let mut linker = Linker::<State>::new(&self.wasmtime);
        let stub = allowed == Imports::WasiStub;
        if stub {
            let refused = |e: wasmtime::Error| PolicyError::Compile { message: said(&e) };
            wasi_stub::define(&mut linker, component).map_err(refused)?;
        }
        let pre = linker.instantiate_pre(component).map_err(|error| {
            let granted = |name: &str| name.starts_with("cutover:policy/types@") || (stub && crate::wasi::offers(name));
            let names: Vec<_> = imports.iter().filter(|name| !granted(name)).cloned().collect();
            if names.is_empty() {
                PolicyError::Compile { message: said(&error) }
            } else {
                PolicyError::Imports { names: check::names(names) }
            }
        })?;
        let places = Places::find(&pre, &exports)?;
        let image = component.image_range();
        Ok(Compiled {
            digest: digest.into(),
            kinds: places.kinds(),
            decides: places.decides(),
            exports,
            imports,
            contracts,
            bytes,
            image_bytes: image.end.addr().saturating_sub(image.start.addr()),
            needs,
            compilation,
            places,
            pre,
        })
    }
}

impl Drop for DecidePermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("digest", &self.digest).field("kinds", &self.kinds).finish_non_exhaustive()
    }
}

/// The engine could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot start the policy engine: {0}")]
pub struct EngineError(String);

/// Tells components from core modules and from anything else by their first eight bytes (the component model's binary
/// format: magic, version 0x0d, layer 1; a core module has version 1, layer 0).
fn check_header(bytes: &[u8], limit: usize) -> Result<(), PolicyError> {
    match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] if bytes.len() <= limit => Ok(()),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Err(PolicyError::TooLarge { bytes: bytes.len(), limit }),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(PolicyError::CoreModule),
        _ => Err(PolicyError::NotWasm),
    }
}
