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
    /// A core module.
    #[error("is a core WebAssembly module, not a component; turn it into one with `wasm-tools component new`")]
    CoreModule,
    /// More bytes than the host compiles.
    #[error(
        "has {bytes} bytes, more than the {limit} that the host compiles; raise `host.policy_limits.component_bytes` or shrink it"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Wasmtime refuses it.
    #[error("does not compile: {message}")]
    Compile {
        /// What the compiler says.
        message: String,
    },
    /// What it is compiled to is too large.
    #[error(
        "compiles to more than {limit} bytes of machine code and data, which is all that a host keeps of a component; are its \
         data segments far apart? Lay them closer, or shrink it"
    )]
    ImageTooLarge {
        /// The limit.
        limit: usize,
    },
    /// It takes the compiler too long.
    #[error("did not compile within {limit_ms} ms, which `host.policy_limits.compile_time` allows")]
    CompileDeadline {
        /// The limit.
        limit_ms: u64,
    },
    /// The process that compiles ended without a result, or could not be started.
    #[error(
        "is not compiled, because the compiler's process ended: {how}; it may take `host.policy_limits.compile_bytes` \
         of memory"
    )]
    CompilerDied {
        /// How it ended.
        how: String,
    },
    /// Too many others wait to be compiled.
    #[error("cannot be compiled now, because {waiting} others wait for the compiler; try again later")]
    CompilerBusy {
        /// How many.
        waiting: usize,
    },
    /// It wants something from the host.
    #[error("imports {}, but policies import nothing; {}", quoted(.names), advice(.names))]
    Imports {
        /// The imports' names.
        names: Vec<String>,
    },
    /// It does not export the kind.
    #[error("is not a {kind} policy: it exports {}, and `cutover:policy/{kind}@0.1.0` is needed", quoted(.exports))]
    MissingKind {
        /// The kind that was asked for.
        kind: Kind,
        /// What it exports.
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
        /// The version of the host.
        supported: &'static str,
    },
    /// It lacks an interface that every policy of its kind has.
    #[error("does not export `{interface}`, which it must")]
    MissingInterface {
        /// The interface.
        interface: String,
    },
    /// An export has another type than the contract says.
    #[error("exports `{interface}` with another type than the contract: {message}")]
    WrongType {
        /// The interface.
        interface: String,
        /// What differs.
        message: String,
    },
    /// Those that the host trusts do not vouch for it.
    #[error("{refused}")]
    Untrusted {
        /// Why.
        refused: Refused,
    },
    /// It refuses its settings.
    #[error("refuses its settings: {}", .problems.join("; "))]
    Settings {
        /// Each problem with its field.
        problems: Vec<String>,
    },
    /// It answered with an error of its own.
    #[error("answers with an error: {message}")]
    Said {
        /// What it said.
        message: String,
    },
    /// It trapped.
    #[error("trapped: {trap}")]
    Trap {
        /// Which trap.
        trap: String,
    },
    /// It ran out of time.
    #[error("did not answer within {limit_ms} ms, which `host.policy_limits.{setting}` allows")]
    Deadline {
        /// The limit.
        limit_ms: u64,
        /// The setting that it comes from.
        setting: &'static str,
    },
    /// It ran out of fuel.
    #[error("used more than {limit} units of fuel")]
    OutOfFuel {
        /// The limit.
        limit: u64,
    },
    /// It wanted more memory than it may have.
    #[error("wanted more than {limit_bytes} bytes of memory, which `host.policy_limits.memory_bytes` allows")]
    OutOfMemory {
        /// The limit.
        limit_bytes: usize,
    },
    /// It recursed too deeply.
    #[error("overflowed its stack; `host.policy_limits.stack_bytes` is how much there is")]
    StackOverflow,
    /// The question is larger than what it may be asked.
    #[error("was to be asked with {bytes} bytes, more than the {limit} of `host.policy_limits.input_bytes`")]
    InputTooLarge {
        /// About how large the question is.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Its answer breaks the component ABI or the limit on output.
    #[error("gave an answer that cannot be read: {message}")]
    Malformed {
        /// What is wrong with it.
        message: String,
    },
    /// Its answer can be read, and makes no sense.
    #[error("gave an answer that makes no sense: {message}")]
    Nonsense {
        /// What is wrong with it.
        message: String,
    },
    /// It needs more than a policy of its kind may have.
    #[error("needs {needs} {what}, more than the {limit} that `host.policy_limits.{setting}` allows")]
    OverBudget {
        /// Of what.
        what: &'static str,
        /// How many.
        needs: u64,
        /// The limit.
        limit: u64,
        /// The setting that it comes from.
        setting: &'static str,
    },
    /// There are as many policies that are asked per request as the host has room for.
    #[error(
        "is asked per request and needs an instance on each of {threads} threads, and the host has room for {room} such \
         policies; raise `host.policy_limits.live_instances`, or take others out of charge"
    )]
    NoDecideCapacity {
        /// How many there may be.
        room: usize,
        /// On how many threads each has an instance.
        threads: usize,
    },
    /// The host has no room for another instance.
    #[error("cannot be instantiated now: {message}")]
    NoRoom {
        /// What is exhausted.
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

    /// Shorthand for [`PolicyError::Nonsense`].
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
