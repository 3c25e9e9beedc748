//! The verbs, each a list of steps.

use std::{
    ffi::{OsStr, OsString},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::{
    dist, flow, guests, languages, lines, process,
    steps::{self, Step},
    toolchain,
    workspace::Workspace,
};

/// Builds, tests and shows Cutover.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
pub(crate) struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the guests and turn them into components in `target/components`.
    Guests,
    /// Build the policies in JavaScript and Python, where npm and pip are there, and run their own tests.
    Languages,
    /// Build everything in release and run `cutover demo --fast`.
    Demo {
        /// Passed on to `cutover demo`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Build the host as it is shipped, for what it does under load; takes half an hour. It is `target/dist/cutover`.
    Dist,
    /// Run all tests: the Python worker's and the workspace's.
    Test,
    /// Run everything that a change must pass.
    Ci,
    /// Run the benches: of the host, and of the host beside other rule engines.
    Bench {
        /// Passed on to `cargo bench`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// The bench that is not in the workspace.
const PEERS: &str = "peers";

const PYTHON: Step = Step { name: "looking for python3", action: toolchain::python };
const TARGET: Step = Step { name: "looking for the wasm target", action: toolchain::wasm_target };
const GUESTS: Step = Step { name: "building guests", action: guests::build };

const LANGUAGES: Step = Step { name: "building policies in other languages", action: languages::build };
const TEST_LANGUAGES: Step = Step { name: "testing policies in other languages", action: languages::test };

const BUILD_GUESTS: &[Step] = &[TARGET, GUESTS];

const PREPARE_DEMO: &[Step] =
    &[PYTHON, TARGET, GUESTS, Step { name: "building cutover in release", action: build_release }];

const DIST: &[Step] = &[
    PYTHON,
    TARGET,
    Step { name: "looking for LLVM's tools", action: toolchain::llvm_tools },
    GUESTS,
    Step { name: "building cutover with counters", action: dist::build_counting },
    Step { name: "showing it load", action: dist::show_load },
    Step { name: "building cutover for that load", action: dist::build_dist },
];

const BUILD_TESTS: Step = Step { name: "building cutover and the tests", action: build_tests };
const TEST_WORKER: Step = Step { name: "testing the Python worker", action: test_worker };
const TEST_WORKSPACE: Step = Step { name: "testing the workspace", action: test_workspace };

const TEST: &[Step] = &[PYTHON, TARGET, GUESTS, BUILD_TESTS, TEST_WORKER, TEST_WORKSPACE];

/// Cheap steps first: a change that is refused should be refused soon.
const CI: &[Step] = &[
    PYTHON,
    TARGET,
    Step { name: "checking the format", action: check_format },
    Step { name: "checking the length of files", action: lines::check },
    Step { name: "checking the flow of imports", action: flow::check },
    Step { name: "checking dependencies", action: check_dependencies },
    TEST_WORKER,
    GUESTS,
    Step { name: "linting the workspace", action: lint_workspace },
    Step { name: "linting guests for wasm", action: guests::lint },
    Step { name: "building the documentation", action: build_docs },
    TEST_LANGUAGES,
    LANGUAGES,
    BUILD_TESTS,
    Step { name: "testing the workspace", action: test_everything },
];

impl Cli {
    /// The exit code is that of the demo or the benches, where they are run.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let workspace = Workspace::load()?;
        match self.verb {
            Verb::Guests => steps::run(BUILD_GUESTS, &workspace)?,
            Verb::Languages => steps::run(&[TEST_LANGUAGES, LANGUAGES], &workspace)?,
            Verb::Dist => steps::run(DIST, &workspace)?,
            Verb::Test => steps::run(TEST, &workspace)?,
            Verb::Ci => steps::run(CI, &workspace)?,
            Verb::Demo { args } => {
                steps::run(PREPARE_DEMO, &workspace)?;
                let mut cutover = workspace.command(workspace.target.join("release/cutover"));
                return process::hand_over(cutover.args(["demo", "--fast"]).args(args));
            }
            Verb::Bench { args } => {
                steps::run(BUILD_GUESTS, &workspace)?;
                return bench(&workspace, &args);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn build_release(workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.cargo(["build", "--release", "--package", "cutover"]))
}

/// The benches of the host, then the one beside its peers. That is a workspace of its own, because its dependencies would
/// change what the host is built with; it is built in the same folder, so that what is the same is built once.
fn bench(workspace: &Workspace, args: &[OsString]) -> Result<ExitCode> {
    let mut hosts = workspace.cargo(["bench", "--package", "cutover-benches"]);
    let mut peers = workspace.cargo(["bench", "--manifest-path", "benches/peers/Cargo.toml"]);
    hosts.args(args);
    peers.env("CARGO_TARGET_DIR", &workspace.target).args(args);
    match named_bench(args) {
        Some(name) if name == PEERS => process::hand_over(&mut peers),
        Some(_) => process::hand_over(&mut hosts),
        None => {
            process::run(&mut hosts)?;
            process::hand_over(&mut peers)
        }
    }
}

/// What `--bench` asks for, as cargo reads it.
fn named_bench(args: &[OsString]) -> Option<&OsStr> {
    let ours = args.iter().take_while(|arg| *arg != "--");
    let mut after = ours.skip_while(|arg| *arg != "--bench").skip(1);
    after.next().map(OsString::as_os_str)
}

/// The binary together with the tests, which start it: built alone it would have other features, and so be built twice.
fn build_tests(workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.cargo(["build", "--workspace", "--tests", "--bin", "cutover"]))
}

fn test_worker(workspace: &Workspace) -> Result<()> {
    process::run(workspace.command("python3").args(["-B", "-m", "unittest", "discover", "-s", "examples/programs"]))
}

fn test_workspace(workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.cargo(["test", "--workspace"]))
}

/// With the components of other languages that were just built: their tests must not be skipped.
fn test_everything(workspace: &Workspace) -> Result<()> {
    let languages = languages::names(workspace);
    process::run(workspace.cargo(["test", "--workspace"]).env("CUTOVER_LANGUAGES", languages))
}

fn check_format(workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.cargo(["fmt", "--all", "--check"]))
}

fn lint_workspace(workspace: &Workspace) -> Result<()> {
    process::run(&mut workspace.cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn build_docs(workspace: &Workspace) -> Result<()> {
    process::run(workspace.cargo(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn check_dependencies(workspace: &Workspace) -> Result<()> {
    if !process::succeeds(&mut workspace.cargo(["deny", "--version"])) {
        eprintln!("    skipped: cargo-deny is not installed");
        return Ok(());
    }
    process::run(&mut workspace.cargo(["deny", "check"]))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_bench_is_asked_for_before_the_dashes() {
        let named = |args: &[&str]| {
            let args: Vec<_> = args.iter().map(OsString::from).collect();
            named_bench(&args).map(OsStr::to_owned)
        };
        assert_eq!(named(&["--bench", "peers", "--", "rule"]), Some("peers".into()));
        assert_eq!(named(&["--", "--bench", "peers"]), None);
        assert_eq!(named(&[]), None);
    }

    #[test]
    fn what_follows_the_dashes_is_passed_on() {
        let cli = Cli::parse_from(["cargo xtask", "demo", "--", "--json", "-v"]);
        assert!(matches!(cli.verb, Verb::Demo { args } if args == ["--json", "-v"]));
    }
}
