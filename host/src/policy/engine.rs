//! The sandbox: compiles components, checks what they offer, and runs each question under its limits.
//!
//! The only code that names wasmtime. One engine for the process (stores of several engines must not mix); policies
//! import nothing, so the linker stays empty; epochs interrupt what runs too long, a limiter counts memory over all of
//! a guest's memories, and any error throws the instance away.

mod ask;
mod bindings;
mod cache;
mod contract;
mod convert;
mod guest;
mod policy;
mod warm;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    component::{Component, InstancePre, Linker},
};

use self::{cache::Cache, guest::State, world::Places};
use super::{error::PolicyError, port::Kind};
use crate::clock;

pub use self::{
    ask::{Asked, WarmPolicy},
    contract::CONTRACT,
    policy::{Description, Policy, StartUp},
};

/// How often the epoch advances: the resolution of time limits.
const TICK: Duration = Duration::from_millis(1);

/// The native stack that a guest may use. Wasmtime's default is 512 KiB; policies need far less.
const MAX_WASM_STACK: usize = 256 << 10;

/// What a policy may use. Every limit is enforced on every question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, summed over all memories of an instance.
    pub memory_bytes: usize,
    /// Wall-clock time for a question, instantiation and configuration included.
    pub time: Duration,
    /// Wall-clock time for one `decide`.
    pub decide_time: Duration,
    /// Bytes that may cross from guest to host in one question.
    pub output_bytes: usize,
    /// The largest component that is compiled.
    pub component_bytes: usize,
}

impl Default for Limits {
    /// 32 MiB, 250 ms, 5 ms, 1 MiB, 16 MiB.
    fn default() -> Self {
        Self {
            memory_bytes: 32 << 20,
            time: Duration::from_millis(250),
            decide_time: Duration::from_millis(5),
            output_bytes: 1 << 20,
            component_bytes: 16 << 20,
        }
    }
}

/// The one engine of a process, and the thread that advances its epoch.
#[derive(Debug)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    limits: Limits,
    cache: Cache,
    stop: Arc<AtomicBool>,
    ticker: Option<thread::JoinHandle<()>>,
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
    /// Wall-clock time that compiling took.
    pub compilation: Duration,
    places: Places,
    pre: InstancePre<State>,
}

impl Engine {
    /// Starts the engine and its ticker.
    ///
    /// # Errors
    /// What wasmtime says when the machine cannot give it memory or threads.
    pub fn new(limits: Limits) -> Result<Arc<Self>, EngineError> {
        let engine = wasmtime::Engine::new(&hardened(limits)).map_err(|e| EngineError(format!("{e:#}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ticking, stopped) = (engine.weak(), Arc::clone(&stop));
        let tick = move || {
            while !stopped.load(Ordering::Relaxed) {
                thread::sleep(TICK);
                match ticking.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        };
        let ticker = thread::Builder::new().name("cutover-epochs".into()).spawn(tick);
        let ticker = ticker.map_err(|e| EngineError(format!("cannot start the epoch thread: {e}")))?;
        Ok(Arc::new(Self { wasmtime: engine, limits, cache: Cache::default(), stop, ticker: Some(ticker) }))
    }

    /// The limits that every policy runs under.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Compiles a component and checks that it imports nothing and exports the contract. Takes milliseconds for a Rust
    /// guest and seconds for an interpreter: call it off the request's path. A component that was compiled lately is
    /// not compiled again.
    ///
    /// # Errors
    /// Why the component is not admitted.
    pub fn compile(&self, bytes: &[u8]) -> Result<Compiled, PolicyError> {
        check_header(bytes, self.limits.component_bytes)?;
        let digest = hex::encode(Sha256::digest(bytes));
        self.cache.get_or_compile(&digest, || {
            let started = clock::mono();
            // The compiler is trusted with memory, not with never panicking: a panic costs this policy alone.
            let compiled = catch_unwind(AssertUnwindSafe(|| Component::from_binary(&self.wasmtime, bytes)));
            let component = match compiled {
                Ok(Ok(component)) => component,
                Ok(Err(error)) => return Err(PolicyError::Compile { message: format!("{error:#}") }),
                Err(_panic) => return Err(PolicyError::Compile { message: "the compiler panicked".into() }),
            };
            self.admit(&component, &digest, bytes.len(), clock::mono().since(started))
        })
    }

    /// Checks what a component imports and exports.
    fn admit(
        &self,
        component: &Component,
        digest: &str,
        bytes: usize,
        compilation: Duration,
    ) -> Result<Compiled, PolicyError> {
        let ty = component.component_type();
        let imports: Vec<_> = ty.imports(&self.wasmtime).map(|(name, _)| name.to_owned()).collect();
        let exports: Vec<_> = ty.exports(&self.wasmtime).map(|(name, _)| name.to_owned()).collect();
        let contracts = contract::versions(exports.iter());
        if let Some(found) = contracts.last().filter(|_| !contracts.iter().any(|v| contract::speaks(v))) {
            return Err(PolicyError::UnknownContract { found: found.clone(), supported: CONTRACT });
        }
        // Types-only imports are satisfied by an empty linker; anything else is named.
        let linker = Linker::<State>::new(&self.wasmtime);
        let pre = linker.instantiate_pre(component).map_err(|error| {
            let names: Vec<_> = imports.iter().filter(|n| !n.starts_with("cutover:policy/types@")).cloned().collect();
            if imports.is_empty() {
                PolicyError::Compile { message: format!("{error:#}") }
            } else {
                PolicyError::Imports { names }
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
            compilation,
            places,
            pre,
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            // The thread ends within a tick and has nothing to say.
            drop(ticker.join());
        }
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

/// Everything that a policy does not need is off, and everything that varies between machines is fixed.
fn hardened(limits: Limits) -> Config {
    let mut config = Config::new();
    config
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_custom_page_sizes(false)
        .wasm_relaxed_simd(false)
        .cranelift_nan_canonicalization(true)
        .epoch_interruption(true)
        .consume_fuel(true)
        .max_wasm_stack(MAX_WASM_STACK)
        .cranelift_opt_level(OptLevel::Speed)
        .parallel_compilation(true);
    let mut pool = PoolingAllocationConfig::new();
    // Enough for a `decide` instance per thread of some hundred slots and all concurrent questions; what does not fit
    // is refused as `NoRoom`. Table sizes are those of interpreters (thousands of entries), instances stay small.
    pool.total_component_instances(1_000)
        .total_core_instances(4_000)
        .total_memories(2_000)
        .total_tables(4_000)
        .max_memory_size(limits.memory_bytes)
        .max_component_instance_size(8 << 20)
        .max_core_instance_size(8 << 20)
        .max_core_instances_per_component(64)
        .max_memories_per_component(4)
        .max_tables_per_component(8)
        .max_tables_per_module(4)
        .table_elements(20_000)
        .linear_memory_keep_resident(256 << 10)
        .pagemap_scan(Enabled::Auto);
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}
