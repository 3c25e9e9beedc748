//! What can go wrong with a policy, by cause. All of it is data: recorded, shown, and survived.

use serde::Serialize;

use crate::{trust::Refused, wasi};
use cutover_model::port::Kind;

/// The longest of somebody's texts that is a part of an error, in bytes.
const MAX_SAID: usize = 4096;

/// Why a policy was not admitted, or did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum PolicyError {
    /// Its bundle cannot be read.
    #[error("cannot be read: the configuration {message}")]
    Unreadable {
        /// Which bundle, and what is wrong with it.
        message: String,
    },
    /// The bytes are not WebAssembly.
    #[error("is not WebAssembly: it does not begin with `\\0asm`; build a component with `cargo xtask guests`")]
    NotWasm,
    /// It is a core module, and the host runs components only.
    #[error("is a core WebAssembly module, not a component; turn it into one with `wasm-tools component new`")]
    CoreModule,
    /// More bytes than the host compiles.
    #[error(
        "has {bytes} bytes, more than the {limit} that the host compiles; raise `host.policy_limits.component_bytes` or shrink it"
    )]
    TooLarge {
        /// The size of the component, in bytes.
        bytes: usize,
        /// The most bytes that the host compiles, from `host.policy_limits.component_bytes`.
        limit: usize,
    },
    /// Wasmtime refuses to compile it.
    #[error("does not compile: {message}")]
    Compile {
        /// What the compiler says, cut and on one line.
        message: String,
    },
    /// The machine code and data that it compiles to are larger than what a host keeps.
    #[error(
        "compiles to more than {limit} bytes of machine code and data, which is all that a host keeps of a component; are its \
         data segments far apart? Lay them closer, or shrink it"
    )]
    ImageTooLarge {
        /// The most bytes of machine code and data together: 512 MiB, whoever compiles.
        limit: usize,
    },
    /// It takes the compiler too long.
    #[error("did not compile within {limit_ms} ms, which `host.policy_limits.compile_time` allows")]
    CompileDeadline {
        /// The time that it had, in milliseconds, from `host.policy_limits.compile_time`.
        limit_ms: u64,
    },
    /// The process that compiles ended without a result, or could not be started.
    #[error(
        "is not compiled, because the compiler's process ended: {how}; it may take `host.policy_limits.compile_bytes` \
         of memory"
    )]
    CompilerDied {
        /// How the process ended: its status or signal and its last words, or why it did not start.
        how: String,
    },
    /// Too many others wait to be compiled.
    #[error("cannot be compiled now, because {waiting} others wait for the compiler; try again later")]
    CompilerBusy {
        /// How many components wait already.
        waiting: usize,
    },
    /// It imports something, and the host gives policies nothing.
    #[error("imports {}, but policies import nothing; {}", quoted(.names), advice(.names))]
    Imports {
        /// The names of the imports; never empty.
        names: Vec<String>,
    },
    /// It does not export the interface of the kind that it is to be used as.
    #[error("is not a {kind} policy: it exports {}, and `cutover:policy/{kind}@0.1.0` is needed", quoted(.exports))]
    MissingKind {
        /// The kind that was asked for.
        kind: Kind,
        /// The names of the interfaces that it exports instead; may be empty.
        exports: Vec<String>,
    },
    /// It was built against a contract that this host does not speak.
    #[error(
        "was built against `cutover:policy@{found}`, and this host speaks `cutover:policy@{supported}` and what is \
         compatible with it; rebuild the policy against that, or run a host that speaks the other"
    )]
    UnknownContract {
        /// The version that it names; empty if it names none.
        found: String,
        /// The version of the contract that the host speaks.
        supported: &'static str,
    },
    /// It lacks an interface that every policy of its kind has.
    #[error("does not export `{interface}`, which it must")]
    MissingInterface {
        /// The full name of the interface, with its version.
        interface: String,
    },
    /// An export has another type than the contract says.
    #[error("exports `{interface}` with another type than the contract: {message}")]
    WrongType {
        /// The full name of the interface, with its version.
        interface: String,
        /// What differs from the contract.
        message: String,
    },
    /// The signatures that the host requires are not there or do not count.
    #[error("{refused}")]
    Untrusted {
        /// Why the signatures do not suffice.
        refused: Refused,
    },
    /// It does not accept its settings.
    #[error("refuses its settings: {}", .problems.join("; "))]
    Settings {
        /// Each problem as one sentence that begins with the field.
        problems: Vec<String>,
    },
    /// It answered with an error of its own.
    #[error("answers with an error: {message}")]
    Said {
        /// The policy's own words, cut and on one line.
        message: String,
    },
    /// It trapped while it computed an answer; the instance is thrown away.
    #[error("trapped: {trap}")]
    Trap {
        /// Which trap, in Wasmtime's words.
        trap: String,
    },
    /// It did not answer in time; the host ended the call.
    #[error("did not answer within {limit_ms} ms, which `host.policy_limits.{setting}` allows")]
    Deadline {
        /// The time that it had, in milliseconds.
        limit_ms: u64,
        /// The name of the setting below `host.policy_limits` that sets this time.
        setting: &'static str,
    },
    /// It used up its fuel; the host ended the call.
    #[error("used more than {limit} units of fuel")]
    OutOfFuel {
        /// The units of fuel that it had.
        limit: u64,
    },
    /// It wanted more memory than it may have.
    #[error("wanted more than {limit_bytes} bytes of memory, which `host.policy_limits.memory_bytes` allows")]
    OutOfMemory {
        /// The most bytes of memory that one instance may have.
        limit_bytes: usize,
    },
    /// It recursed too deeply.
    #[error("overflowed its stack; `host.policy_limits.stack_bytes` is how much there is")]
    StackOverflow,
    /// The question is larger than what it may be asked.
    #[error("was to be asked with {bytes} bytes, more than the {limit} of `host.policy_limits.input_bytes`")]
    InputTooLarge {
        /// The size of the question in bytes, estimated.
        bytes: usize,
        /// The most bytes of a question, from `host.policy_limits.input_bytes`.
        limit: usize,
    },
    /// Its answer breaks the component ABI or the limit on output.
    #[error("gave an answer that cannot be read: {message}")]
    Malformed {
        /// Which rule the answer breaks.
        message: String,
    },
    /// Its answer can be read, but contradicts itself or the question.
    #[error("gave an answer that makes no sense: {message}")]
    Nonsense {
        /// What in the answer makes no sense.
        message: String,
    },
    /// The component needs more of something than a policy of its kind may have; found before it is compiled or run.
    #[error("needs {needs} {what}, more than the {limit} that `host.policy_limits.{setting}` allows")]
    OverBudget {
        /// What it needs too much of, with the unit, as the message says it.
        what: &'static str,
        /// How much it needs, in that unit.
        needs: u64,
        /// How much it may have, in that unit.
        limit: u64,
        /// The name of the setting below `host.policy_limits` that sets this limit.
        setting: &'static str,
    },
    /// There are as many policies that are asked per request as the host has room for.
    #[error(
        "is asked per request and needs an instance on each of {threads} threads, and the host has room for {room} such \
         policies; raise `host.policy_limits.live_instances`, or take others out of charge"
    )]
    NoDecideCapacity {
        /// How many policies that are asked per request the host has room for.
        room: usize,
        /// The number of threads on which each such policy has an instance.
        threads: usize,
    },
    /// The host has no room for another instance.
    #[error("cannot be instantiated now: {message}")]
    NoRoom {
        /// What is exhausted, in Wasmtime's words.
        message: String,
    },
}

impl PolicyError {
    /// A short name of the cause, for metrics.
    pub const fn cause(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::NotWasm => "not-wasm",
            Self::CoreModule => "core-module",
            Self::TooLarge { .. } => "too-large",
            Self::Compile { .. } => "compile",
            Self::ImageTooLarge { .. } => "image-too-large",
            Self::CompileDeadline { .. } => "compile-deadline",
            Self::CompilerDied { .. } => "compiler-died",
            Self::CompilerBusy { .. } => "compiler-busy",
            Self::Imports { .. } => "imports",
            Self::MissingKind { .. } => "missing-kind",
            Self::UnknownContract { .. } => "unknown-contract",
            Self::MissingInterface { .. } => "missing-interface",
            Self::WrongType { .. } => "wrong-type",
            Self::Untrusted { .. } => "untrusted",
            Self::Settings { .. } => "settings",
            Self::Said { .. } => "said",
            Self::Trap { .. } => "trap",
            Self::Deadline { .. } => "deadline",
            Self::OutOfFuel { .. } => "out-of-fuel",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::StackOverflow => "stack-overflow",
            Self::InputTooLarge { .. } => "input-too-large",
            Self::OverBudget { .. } => "over-budget",
            Self::NoDecideCapacity { .. } => "no-decide-capacity",
            Self::Malformed { .. } => "malformed",
            Self::Nonsense { .. } => "nonsense",
            Self::NoRoom { .. } => "no-room",
        }
    }

    /// Makes a [`PolicyError::Nonsense`]; the message is cut and put on one line.
    pub fn nonsense(message: impl Into<String>) -> Self {
        Self::Nonsense { message: crate::error::said(&message.into()) }
    }
}

/// How to mend it: what imports WASI alone may have the stand-in.
fn advice(names: &[String]) -> &'static str {
    if names.iter().all(|name| wasi::offers(name)) {
        "build it without WASI (Rust: for `wasm32-unknown-unknown`; other languages: the option `--stub-wasi` of their tools), \
         or say `wasi_stub = true` in its policy.toml for a deterministic stand-in"
    } else {
        "build it without them (Rust: for `wasm32-unknown-unknown`, without WASI)"
    }
}

fn quoted(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".into();
    }
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

/// What somebody says, as a part of an error: cut, and on one line.
pub fn said(text: &str) -> String {
    cutover_model::escape::line_of(text, MAX_SAID)
}
