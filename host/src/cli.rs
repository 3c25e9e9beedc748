//! The command line: one file for each verb.
//!
//! Results go to standard output, as text or with `--json` as one JSON object; errors go to standard error as one
//! sentence, or with `--json` as one JSON object with a code that does not change. Exit codes: 0 done; 1 failed, or the demo broke a promise; 2 wrong usage or configuration; 3 the host
//! cannot be reached; 4 the host refused.

mod check;
mod client;
mod control;
mod demo;
mod detach;
mod flags;
mod history;
mod log;
mod output;
mod policy;
mod policy_compiler;
mod records;
mod redeploy;
mod serve;
mod store;
mod wait;
mod worker_guard;

use std::{borrow::Cow, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use clap::{Args, Parser, Subcommand};

use cutover_model::request::Ppm;

/// Why a verb failed, with its exit code.
#[derive(Debug)]
pub struct Failed {
    code: u8,
    /// Which kind of failure, for programs.
    kind: Cow<'static, str>,
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
    Serve(Serve),
    /// Waits until the host serves, or a migration is in a phase or at a share.
    Wait(wait::Wait),
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
    Pause(OrderArgs),
    /// Goes on after `pause`, or begins again after a rollback.
    Resume(OrderArgs),
    /// Takes the next stage now, without waiting for soak or evidence.
    Advance {
        #[command(flatten)]
        order: OrderArgs,
        /// Send everything to V2, because V1 is gone and is not coming back.
        #[arg(long)]
        without_v1: bool,
        /// The share of V2 to go to, such as `25%`, instead of that of the next stage.
        #[arg(long, value_name = "SHARE", conflicts_with = "without_v1")]
        to: Option<Share>,
    },
    /// Goes back to the share of the stage before, or to a lower one.
    Retreat {
        #[command(flatten)]
        order: OrderArgs,
        /// The share of V2 to go back to, such as `10%`, instead of that of the stage before.
        #[arg(long, value_name = "SHARE")]
        to: Option<Share>,
    },
    /// Replaces V2 in the middle of a ramp: V1 has its callers meanwhile, and V2 comes back at the same stage.
    Redeploy(redeploy::Redeploy),
    /// Sends everything to V1, drains V2 and stops it.
    Rollback(OrderArgs),
    /// Sends everything to V1 and kills V2's workers.
    EmergencyRollback(OrderArgs),
    /// Reads and sets what can be switched while the host runs.
    #[command(subcommand)]
    Flags(Flags),
    /// Writes, tests, publishes, swaps and replays policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Shows what was decided, by whom and why.
    Decisions(records::Records),
    /// Shows who did what, decisions aside.
    Audit(records::Records),
    /// Shows where V1's and V2's answers differ, and what became of all pairs.
    Comparisons(records::Compared),
    /// Disposes of differences.
    #[command(subcommand)]
    Compare(records::Compare),
    /// Exports what a host recorded.
    #[command(subcommand)]
    History(history::History),
    /// Looks after what outlives the host.
    #[command(subcommand)]
    Store(store::Store),
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
struct Serve {
    #[command(flatten)]
    file: ConfigFile,
    /// Run in the background: returns when the host serves, with its process id, or says why it does not. Its log goes to
    /// a file beside the store, unless `--log-file` names another.
    #[arg(long)]
    detach: bool,
    /// How long `--detach` waits until the host serves.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    log: log::LogTo,
    /// With `--detach`: print JSON.
    #[arg(long)]
    json: bool,
}

/// A share as people write it.
#[derive(Debug, Clone, Copy)]
struct Share(Ppm);

impl FromStr for Share {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ppm::parse(text).map(Self).ok_or("it must be a share of V2, such as `25%`")
    }
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
struct OrderArgs {
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
    let as_json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
    let verb = match Cli::try_parse() {
        Ok(cli) => cli.verb,
        Err(said) if as_json && said.use_stderr() => {
            let message = said.to_string().trim_end().to_owned();
            return told(&Failed::usage(message), true);
        }
        Err(said) => said.exit(),
    };
    match do_verb(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => told(&failed, as_json),
    }
}

fn do_verb(verb: Verb) -> Result<(), Failed> {
    let log_to = if let Verb::Serve(serve) = &verb
        && !serve.detach
    {
        serve.log.clone()
    } else {
        log::LogTo::default()
    };
    // The demo tells its own story.
    log::begin(if matches!(verb, Verb::Demo(_)) { "off" } else { "info" }, &log_to)?;
    match verb {
        Verb::Serve(serve) if serve.detach => detach::run(&serve),
        Verb::Serve(serve) => serve::run(&serve.file.config),
        Verb::Wait(wait) => wait::run(&wait),
        Verb::Check { file, against_store, format } => check::run(&file.config, against_store, format.json),
        Verb::Status { migration, host } => control::status(&host, migration.as_deref()),
        Verb::Pause(order) => control::order(&order, "pause", control::How::default()),
        Verb::Resume(order) => control::order(&order, "resume", control::How::default()),
        Verb::Advance { order, without_v1, to } => {
            control::order(&order, "advance", control::How { without_v1, to: to.map(|Share(to)| to) })
        }
        Verb::Retreat { order, to } => {
            control::order(&order, "retreat", control::How { without_v1: false, to: to.map(|Share(to)| to) })
        }
        Verb::Redeploy(redeploy) => redeploy::run(&redeploy),
        Verb::Rollback(order) => control::order(&order, "rollback", control::How::default()),
        Verb::EmergencyRollback(order) => control::order(&order, "emergency-rollback", control::How::default()),
        Verb::Flags(flags) => flags::run(flags),
        Verb::Policy(verb) => policy::run(verb),
        Verb::Decisions(records) => records::decisions(&records),
        Verb::Audit(records) => records::audit(&records),
        Verb::Comparisons(compared) => records::comparisons(&compared),
        Verb::Compare(compare) => records::compare(&compare),
        Verb::History(verb) => history::run(&verb),
        Verb::Store(verb) => store::run(&verb),
        Verb::Demo(demo) => demo::run(demo),
        Verb::PolicyCompiler { seconds, bytes } => policy_compiler::run(seconds, bytes),
        Verb::WorkerGuard { parent, descriptors, command } => worker_guard::run(parent, descriptors, &command),
    }
}

/// Says why a verb failed.
fn told(failed: &Failed, as_json: bool) -> ExitCode {
    let Failed { code, kind, message } = failed;
    if as_json {
        let error = serde_json::json!({ "error": { "code": kind, "message": message, "exit_code": code } });
        output::note(&error.to_string());
    } else {
        output::error(message);
    }
    ExitCode::from(*code)
}

impl Failed {
    fn new(message: impl Into<String>) -> Self {
        Self::coded("failed", message)
    }

    /// With a name of its own for programs.
    fn coded(kind: &'static str, message: impl Into<String>) -> Self {
        Self { code: 1, kind: kind.into(), message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, ..Self::coded("usage", message) }
    }

    fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, ..Self::coded("unreachable", message) }
    }

    fn refused(message: impl Into<String>) -> Self {
        Self { code: 4, ..Self::coded("refused", message) }
    }

    fn is_unreachable(&self) -> bool {
        self.kind == "unreachable"
    }
}
