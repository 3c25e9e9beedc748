//! What the verbs that run a policy on this machine have in common: where guests are, and the limits of the host.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;

use super::Failed;
use crate::config::Config;
use cutover_model::{causes::chain, environment};
use cutover_policy_host::{
    bundle::{Bundle, Manifest},
    engine::{Engine, KindLimits, Limits, Options},
};

/// How long a question that a tool asks may take where no host says how long, and a `decide`: what cases find must not
/// depend on how busy this machine is. Whether a host would wait so long, `policy bench` says.
const TIME: Duration = Duration::from_secs(5);
const DECIDE_TIME: Duration = Duration::from_millis(500);

/// Where guests are found, and under which limits they run.
#[derive(Debug, Args)]
pub(super) struct Sandbox {
    /// Where the components of guests are, such as `rhai.wasm`. Otherwise the folder of `CUTOVER_COMPONENTS`, or
    /// `components` here or beside the host's binary, or `target/components`.
    #[arg(long, value_name = "DIR")]
    components: Option<PathBuf>,
    /// Take the limits, and the components if they are not said, from a host's configuration. Otherwise they are those that
    /// hosts have by default; `test` and `bench` give a question 5 s.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A sandbox that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) components: PathBuf,
    pub(super) engine: Arc<Engine>,
}

impl Sandbox {
    /// Reads the configuration, if there is one, and starts the engine.
    pub(super) fn open(&self) -> Result<Opened, Failed> {
        self.open_with(environment::cache(), &Limits::default())
    }

    /// The same for whoever asks questions whose time is not the point.
    pub(super) fn open_patiently(&self) -> Result<Opened, Failed> {
        self.open_with(environment::cache(), &patient())
    }

    /// The same with an engine that compiles what it is given, for whoever measures that.
    pub(super) fn open_without_cache(&self) -> Result<Opened, Failed> {
        self.open_with(None, &patient())
    }

    fn open_with(&self, cache: Option<PathBuf>, usual: &Limits) -> Result<Opened, Failed> {
        let config = self.config.as_deref().map(Config::load).transpose().map_err(|e| Failed::usage(chain(&e)))?;
        let limits = config.as_ref().map_or(*usual, |config| config.limits);
        let components = self.components.clone().or_else(|| config.map(|config| config.components));
        let components = components.unwrap_or_else(|| environment::components(Path::new(".")));
        Ok(Opened { components, engine: engine(&limits, cache)? })
    }
}

/// The limits of a host, with time for a machine that does other things.
fn patient() -> Limits {
    let patient = |kind: KindLimits| KindLimits { time: TIME, decide_time: DECIDE_TIME, ..kind };
    let Limits { routing, adapter, comparison, rollback, stages, .. } = Limits::default();
    Limits {
        routing: patient(routing),
        adapter: patient(adapter),
        comparison: patient(comparison),
        rollback: patient(rollback),
        stages: patient(stages),
        ..Limits::default()
    }
}

/// An engine that keeps what it compiles in the caller's cache: an interpreter takes seconds to compile, and authors ask
/// about it again and again.
pub(super) fn engine(limits: &Limits, cache: Option<PathBuf>) -> Result<Arc<Engine>, Failed> {
    // Without a folder it compiles each time, which is no error.
    let cache = cache.filter(|cache| std::fs::create_dir_all(cache).is_ok()).map(|cache| cache.join("compiled"));
    // In a process of its own and within its limits, as a host does: what one admits the other does.
    let compiler = std::env::current_exe().ok();
    Engine::start(Options { limits: *limits, cache, compiler }).map_err(|e| Failed::new(chain(&e)))
}

impl Opened {
    /// Reads a bundle.
    pub(super) fn bundle(&self, folder: &Path) -> Result<Bundle, Failed> {
        is_folder(folder)?;
        Bundle::read(folder, &self.components, &toml::Table::new()).map_err(|e| said(&e))
    }
}

/// Reads the `policy.toml` of a bundle, whether its component is built or not.
pub(super) fn manifest(folder: &Path) -> Result<Manifest, Failed> {
    is_folder(folder)?;
    Manifest::read(folder).map_err(|e| said(&e))
}

/// What is wrong with a bundle, as the command line's fault.
pub(super) fn said(what: &str) -> Failed {
    Failed::usage(format!("the command line {what}"))
}

fn is_folder(folder: &Path) -> Result<(), Failed> {
    if folder.is_dir() {
        return Ok(());
    }
    let what = if folder.exists() { "is not a folder" } else { "does not exist" };
    Err(Failed::usage(format!(
        "`{}` {what}; name the folder of a bundle, in which a policy.toml is, or begin one with `cutover policy new`",
        folder.display()
    )))
}
