//! What policies may use: limits for each kind of question, and limits of the whole host.

use std::time::Duration;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, WasmFeatures};

use super::{Kind, PolicyError, guest::Span};
use crate::engine::cost::Needs;

/// Instances that are kept free for questions off the request's path: as many as tokio has blocking threads.
const QUESTIONS: usize = 512;

/// What one policy may use. Every limit is enforced on every question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindLimits {
    /// Bytes of linear memory, summed over all memories of an instance.
    pub memory_bytes: usize,
    /// Wall-clock time for a question, instantiation and configuration included.
    pub time: Duration,
    /// Wall-clock time for one `decide`.
    pub decide_time: Duration,
    /// Bytes of a question: what the host hands to the policy.
    pub input_bytes: usize,
    /// Bytes that may cross from guest to host in one question.
    pub output_bytes: usize,
    /// Bytes that it may remember from one question to the next. All of them are stored with each.
    pub remember_bytes: usize,
    /// Core instances that a component may consist of.
    pub instances: u32,
    /// Linear memories that they may have together.
    pub memories: u32,
    /// Tables that they may have together.
    pub tables: u32,
    /// Elements of each table.
    pub table_elements: usize,
}

/// What all policies of a host may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of policies that are asked for plans, and of `decide`.
    pub routing: KindLimits,
    /// Of policies that are asked for each call that crosses versions.
    pub adapter: KindLimits,
    /// Of policies that compare.
    pub comparison: KindLimits,
    /// Of policies that judge.
    pub rollback: KindLimits,
    /// Of policies that move the share.
    pub stages: KindLimits,
    /// The largest component that is compiled, in bytes.
    pub component_bytes: usize,
    /// Wall-clock time that a compilation may take, where it can be ended: in a process of its own.
    pub compile_time: Duration,
    /// Memory of a process that compiles, in bytes.
    pub compile_bytes: u64,
    /// Compilations that may run at once in this host.
    pub compilations: usize,
    /// The native stack that a guest may use, in bytes. One for all kinds, because it belongs to the engine.
    pub stack_bytes: usize,
    /// Instances of all policies that may be alive at once.
    pub live_instances: usize,
}

impl Default for KindLimits {
    /// 64 MiB, 250 ms, 5 ms, 8 MiB in, 1 MiB out, 64 KiB to remember, 64 instances with 4 memories and 8 tables of 20 000 elements.
    fn default() -> Self {
        Self {
            // A JavaScript or Python guest brings tens of megabytes of its own.
            memory_bytes: 64 << 20,
            time: Duration::from_millis(250),
            decide_time: Duration::from_millis(5),
            input_bytes: 8 << 20,
            output_bytes: 1 << 20,
            // Of those that ship, `sequential` remembers the most, some kilobytes; twice this is logged for each check.
            remember_bytes: 64 << 10,
            // A Rust guest has 1 to 3 instances, an interpreter with its adapters some dozens.
            instances: 64,
            // A componentised QuickJS has 3.
            memories: 4,
            tables: 8,
            // The largest known is an engine for JavaScript with 7 688.
            table_elements: 20_000,
        }
    }
}

impl Limits {
    /// The same for all kinds, and the defaults for the host.
    pub fn alike(kind: KindLimits) -> Self {
        let host = Self::default();
        Self { routing: kind, adapter: kind, comparison: kind, rollback: kind, stages: kind, ..host }
    }
}

impl Default for Limits {
    /// What [`KindLimits::default`] says, with half the memory and less input for the kinds that are asked per request,
    /// since those have many instances at once, and more input for comparison, which gets bodies.
    fn default() -> Self {
        let kind = KindLimits::default();
        Self {
            routing: KindLimits { memory_bytes: 32 << 20, input_bytes: 1 << 20, ..kind },
            adapter: KindLimits { memory_bytes: 32 << 20, input_bytes: 2 << 20, ..kind },
            comparison: KindLimits { input_bytes: 16 << 20, ..kind },
            rollback: kind,
            stages: kind,
            // The largest that the tools of known languages make is a Python guest of 18 MB.
            component_bytes: 32 << 20,
            // That takes 5 to 20 s on two cores.
            compile_time: Duration::from_mins(1),
            // And 0.5 GiB.
            compile_bytes: 2 << 30,
            compilations: 2,
            // Wasmtime's default is 512 KiB; policies need far less.
            stack_bytes: 512 << 10,
            live_instances: 2_000,
        }
    }
}

impl KindLimits {
    /// Refuses a component that needs more than this before it is instantiated.
    ///
    /// # Errors
    /// What it needs too much of.
    pub(super) fn admit(&self, needs: &Needs) -> Result<(), PolicyError> {
        let within = |what, needs: u64, limit: u64, setting| {
            if needs <= limit { Ok(()) } else { Err(PolicyError::OverBudget { what, needs, limit, setting }) }
        };
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        within("core instances", needs.instances.into(), self.instances.into(), "instances")?;
        within("linear memories", needs.memories.into(), self.memories.into(), "memories")?;
        within("tables", needs.tables.into(), self.tables.into(), "tables")?;
        within("bytes of memory to begin with", needs.memory_bytes, wide(self.memory_bytes), "memory_bytes")?;
        within("elements in a table", needs.table_elements, wide(self.table_elements), "table_elements")
    }

    /// Refuses a question that is larger than this.
    ///
    /// # Errors
    /// How large it is.
    pub(super) const fn admit_input(&self, bytes: usize) -> Result<(), PolicyError> {
        if bytes <= self.input_bytes {
            Ok(())
        } else {
            Err(PolicyError::InputTooLarge { bytes, limit: self.input_bytes })
        }
    }

    /// Refuses an answer with more to remember than this.
    ///
    /// # Errors
    /// How much it is.
    pub(super) fn admit_memory(&self, memory: &[u8]) -> Result<(), PolicyError> {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let (what, setting) = ("bytes to remember", "remember_bytes");
        let (needs, limit) = (wide(memory.len()), wide(self.remember_bytes));
        if needs <= limit { Ok(()) } else { Err(PolicyError::OverBudget { what, needs, limit, setting }) }
    }

    /// How long a call may take.
    pub(super) const fn span(&self, span: Span) -> Duration {
        match span {
            Span::Question | Span::Rest => self.time,
            Span::Decide => self.decide_time,
        }
    }

    /// That a call took longer.
    pub(super) fn passed(&self, span: Span) -> PolicyError {
        let setting = match span {
            Span::Question | Span::Rest => "time",
            Span::Decide => "decide_time",
        };
        PolicyError::Deadline { limit_ms: u64::try_from(self.span(span).as_millis()).unwrap_or(u64::MAX), setting }
    }

    /// The larger one of each limit.
    fn max(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            time: self.time.max(other.time),
            decide_time: self.decide_time.max(other.decide_time),
            input_bytes: self.input_bytes.max(other.input_bytes),
            output_bytes: self.output_bytes.max(other.output_bytes),
            remember_bytes: self.remember_bytes.max(other.remember_bytes),
            instances: self.instances.max(other.instances),
            memories: self.memories.max(other.memories),
            tables: self.tables.max(other.tables),
            table_elements: self.table_elements.max(other.table_elements),
        }
    }
}

impl Limits {
    /// What a policy of a kind may use.
    pub const fn of(&self, kind: Kind) -> &KindLimits {
        match kind {
            Kind::Routing => &self.routing,
            Kind::Adapter => &self.adapter,
            Kind::Comparison => &self.comparison,
            Kind::Rollback => &self.rollback,
            Kind::Stages => &self.stages,
        }
    }

    /// The same, to change it.
    pub const fn of_mut(&mut self, kind: Kind) -> &mut KindLimits {
        match kind {
            Kind::Routing => &mut self.routing,
            Kind::Adapter => &mut self.adapter,
            Kind::Comparison => &mut self.comparison,
            Kind::Rollback => &mut self.rollback,
            Kind::Stages => &mut self.stages,
        }
    }

    /// The most that any kind may use.
    pub(super) fn most(&self) -> KindLimits {
        Kind::ALL.into_iter().fold(self.routing, |most, kind| most.max(*self.of(kind)))
    }

    /// How many policies with `decide` may be there at once: each has an instance on every one of `threads`, and the
    /// other questions need theirs.
    pub(super) fn permits(&self, threads: usize) -> usize {
        let for_questions = QUESTIONS.min(self.live_instances / 2);
        (self.live_instances - for_questions) / threads.max(1)
    }

    /// The engine's configuration, without any feature that policies do not need.
    pub(super) fn hardened(&self) -> Config {
        let mut config = self.code();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(self.pool()));
        config
    }

    /// What decides which code is accepted and what it becomes: everything that a policy does not need is off, and
    /// everything that varies between machines is fixed. The same for any limits but the stack's.
    pub(super) fn code(&self) -> Config {
        let mut config = Config::new();
        // No build of this host has the code for these; off, the parser says so.
        let absent = WasmFeatures::THREADS
            | WasmFeatures::SHARED_EVERYTHING_THREADS
            | WasmFeatures::GC
            | WasmFeatures::FUNCTION_REFERENCES
            | WasmFeatures::EXCEPTIONS
            | WasmFeatures::STACK_SWITCHING
            | WasmFeatures::CM_ASYNC;
        config
            .wasm_features(absent, false)
            .wasm_memory64(false)
            .wasm_tail_call(false)
            .wasm_custom_page_sizes(false)
            .wasm_relaxed_simd(false)
            .cranelift_nan_canonicalization(true)
            .epoch_interruption(true)
            .consume_fuel(true)
            .max_wasm_stack(self.stack_bytes)
            .cranelift_opt_level(OptLevel::Speed)
            .parallel_compilation(true);
        config
    }

    fn pool(&self) -> PoolingAllocationConfig {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let most = self.most();
        let live = count(self.live_instances);
        let mut pool = PoolingAllocationConfig::new();
        // Totals are of what most policies need; what does not fit is refused as `NoRoom`. Interpreters have some
        // thousand table entries, and instances stay small.
        pool.total_component_instances(live)
            .total_core_instances(live.saturating_mul(4).max(most.instances))
            .total_memories(live.saturating_mul(2).max(most.memories))
            .total_tables(live.saturating_mul(4).max(most.tables))
            .max_memory_size(most.memory_bytes)
            .max_component_instance_size(8 << 20)
            .max_core_instance_size(8 << 20)
            .max_core_instances_per_component(most.instances)
            .max_memories_per_component(most.memories)
            .max_memories_per_module(most.memories)
            .max_tables_per_component(most.tables)
            .max_tables_per_module(most.tables)
            .table_elements(most.table_elements)
            .linear_memory_keep_resident(256 << 10)
            .pagemap_scan(Enabled::Auto);
        pool
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_leave_room_for_questions() {
        let limits = |live_instances| Limits { live_instances, ..Limits::default() };
        assert_eq!(limits(2_000).permits(2), 744);
        assert_eq!(limits(2_000).permits(16), 93);
        assert_eq!(limits(64).permits(2), 16);
        assert_eq!(limits(64).permits(0), 32);
    }

    #[test]
    fn the_engine_is_as_hardened_as_it_is_documented() {
        let limits = Limits::default();
        let engine = wasmtime::Engine::new(&limits.hardened()).unwrap();
        let on = engine.get_wasm_features();
        for feature in [
            WasmFeatures::THREADS,
            WasmFeatures::SHARED_EVERYTHING_THREADS,
            WasmFeatures::MEMORY64,
            WasmFeatures::RELAXED_SIMD,
            WasmFeatures::TAIL_CALL,
            WasmFeatures::CUSTOM_PAGE_SIZES,
            WasmFeatures::STACK_SWITCHING,
            WasmFeatures::GC,
            WasmFeatures::EXCEPTIONS,
            WasmFeatures::CM_ASYNC,
        ] {
            assert!(!on.contains(feature), "{feature:?}");
        }
        // Adapters of some languages' tools need these; without the first the compiler panics on them.
        for feature in [WasmFeatures::MULTI_MEMORY, WasmFeatures::EXTENDED_CONST] {
            assert!(on.contains(feature), "{feature:?}");
        }
        assert_eq!(engine.get_cranelift_nan_canonicalization(), Some(true));
        assert!(engine.get_consume_fuel() && engine.get_epoch_interruption());
        assert!(!engine.get_concurrency_support() && !engine.get_shared_memory());
        assert_eq!(engine.get_max_wasm_stack(), limits.stack_bytes);
        let pool = engine.get_pooling_config().unwrap();
        assert_eq!(pool.get_max_memory_size(), 64 << 20);
        assert_eq!(pool.get_max_core_instances_per_component(), 64);
        assert_eq!((pool.get_max_memories_per_component(), pool.get_max_tables_per_component()), (4, 8));
        assert_eq!((pool.get_table_elements(), pool.get_total_component_instances()), (20_000, 2_000));
    }

    #[test]
    fn a_component_that_needs_too_much_is_refused_with_the_setting_to_raise() {
        let limits = KindLimits::default();
        let fits = Needs { instances: 64, memories: 4, tables: 8, memory_bytes: 64 << 20, table_elements: 20_000 };
        assert_eq!(limits.admit(&fits), Ok(()));
        let refused = |needs| match limits.admit(&needs) {
            Err(PolicyError::OverBudget { setting, needs, limit, .. }) => (setting, needs, limit),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(Needs { instances: 65, ..fits }), ("instances", 65, 64));
        assert_eq!(refused(Needs { memories: 5, ..fits }), ("memories", 5, 4));
        assert_eq!(refused(Needs { tables: 9, ..fits }), ("tables", 9, 8));
        assert_eq!(refused(Needs { memory_bytes: 1 << 30, ..fits }), ("memory_bytes", 1 << 30, 64 << 20));
        assert_eq!(refused(Needs { table_elements: 20_001, ..fits }), ("table_elements", 20_001, 20_000));
    }
}
