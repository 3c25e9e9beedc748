//! The command line: one file for each verb.
//!
//! Results go to standard output, as text or with `--json` as one JSON object; errors go to standard error as one
//! sentence. Exit codes: 0 done; 1 failed, or the demo broke a promise; 2 wrong usage or configuration; 3 the host
//! cannot be reached; 4 the host refused.

mod check;
mod client;
mod control;
mod demo;
mod flags;
mod history;
mod output;
mod policy;
mod policy_compiler;
mod serve;
mod worker_guard;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Why a verb failed, with its exit code.
#[derive(Debug)]
pub struct Failed {
    code: u8,
    message: String,
}

/// Moves live traffic from one implementation of a service to its successor.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed, or the demo broke a promise; 2 wrong usage or configuration; \
3 the host cannot be reached; 4 the host refused.";

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs the host until it is told to stop.
    Serve(ConfigFile),
    /// Checks a configuration and every policy that it names, without starting anything.
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Also says what a restart with it would change for the migrations in its store; the host may be running.
        #[arg(long)]
        against_store: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Shows where migrations stand.
    Status {
        /// Only this one.
        migration: Option<String>,
        #[command(flatten)]
        host: HostAddress,
    },
    /// Stays at the current share until `resume`.
    Pause(Order),
    /// Goes on after `pause`, or begins again after a rollback.
    Resume(Order),
    /// Takes the next stage now, without waiting for soak or evidence.
    Advance {
        #[command(flatten)]
        order: Order,
        /// Send everything to V2, because V1 is gone and is not coming back.
        #[arg(long)]
        without_v1: bool,
    },
    /// Sends everything to V1, drains V2 and stops it.
    Rollback(Order),
    /// Sends everything to V1 and kills V2's workers.
    EmergencyRollback(Order),
    /// Reads and sets what can be switched while the host runs.
    #[command(subcommand)]
    Flags(Flags),
    /// Writes, tests, publishes, swaps and replays policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Exports what a host recorded.
    #[command(subcommand)]
    History(history::History),
    /// Runs the whole story on this machine: two pools, load, a ramp, a policy swapped live, a fault, a rollback.
    Demo(Demo),
    /// Compiles a policy from standard input to standard output; used by the host itself.
    #[command(hide = true)]
    PolicyCompiler {
        /// Processor time that it may take, in seconds for each core.
        seconds: u64,
        /// Memory that it may take, in bytes.
        bytes: u64,
    },
    /// Ties a worker to the host; used by the host itself.
    #[command(hide = true)]
    WorkerGuard {
        /// The host's process id.
        parent: u32,
        /// The limit of open files that the worker gets.
        #[arg(long)]
        descriptors: Option<u64>,
        /// The worker's command.
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
struct Format {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct HostAddress {
    /// The host's admin plane.
    #[arg(long, value_name = "URL", env = "CUTOVER_ADMIN", default_value = "http://127.0.0.1:8081")]
    admin: String,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Args)]
struct Order {
    /// The migration.
    migration: String,
    /// Why; it goes on record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    host: HostAddress,
}

#[derive(Debug, Subcommand)]
enum Flags {
    /// Shows all flags of a migration.
    List {
        /// The migration.
        migration: String,
        #[command(flatten)]
        host: HostAddress,
    },
    /// Shows one flag.
    Get {
        /// The migration.
        migration: String,
        /// The flag.
        flag: String,
        #[command(flatten)]
        host: HostAddress,
    },
    /// Sets one flag.
    Set {
        /// The migration.
        migration: String,
        /// The flag.
        flag: String,
        /// Its value: `true`, `false` or a number.
        value: String,
        /// Why; it goes on record.
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        #[command(flatten)]
        host: HostAddress,
    },
}

#[derive(Debug, Args)]
struct Demo {
    /// Compress the stage clock 1200 to 1 instead of 120 to 1: an hour becomes 3 seconds.
    #[arg(long)]
    fast: bool,
    /// Where `policies/`, `examples/` and `target/components/` are.
    #[arg(long, value_name = "DIR", default_value = ".")]
    root: PathBuf,
    #[command(flatten)]
    format: Format,
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let verb = Cli::parse().verb;
    // The demo tells its own story.
    output::trace(if matches!(verb, Verb::Demo(_)) { "off" } else { "info" });
    let done = match verb {
        Verb::Serve(file) => serve::run(&file.config),
        Verb::Check { file, against_store, format } => check::run(&file.config, against_store, format.json),
        Verb::Status { migration, host } => control::status(&host, migration.as_deref()),
        Verb::Pause(order) => control::order(&order, "pause", false),
        Verb::Resume(order) => control::order(&order, "resume", false),
        Verb::Advance { order, without_v1 } => control::order(&order, "advance", without_v1),
        Verb::Rollback(order) => control::order(&order, "rollback", false),
        Verb::EmergencyRollback(order) => control::order(&order, "emergency-rollback", false),
        Verb::Flags(flags) => flags::run(flags),
        Verb::Policy(verb) => policy::run(verb),
        Verb::History(verb) => history::run(&verb),
        Verb::Demo(demo) => demo::run(demo),
        Verb::PolicyCompiler { seconds, bytes } => policy_compiler::run(seconds, bytes),
        Verb::WorkerGuard { parent, descriptors, command } => worker_guard::run(parent, descriptors, &command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { code, message }) => {
            output::error(&message);
            ExitCode::from(code)
        }
    }
}

impl Failed {
    fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    fn refused(message: impl Into<String>) -> Self {
        Self { code: 4, message: message.into() }
    }
}
