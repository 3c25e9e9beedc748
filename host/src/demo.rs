//! The whole story on one machine: two real pools, real load, a ramp, a policy swapped live, a fault, a rollback.
//!
//! It runs the host as `serve` does and talks to it over HTTP, so that what it shows is what a user gets; only the
//! stage clock is compressed. Nothing is scripted but the load and the fault: when the ramp climbs and when it rolls
//! back is up to the policies.

mod load;
mod replay;
mod setup;
mod summary;
mod throughput;

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use self::load::{Caller, Load};
pub use self::summary::Summary;
use crate::{
    app::{App, StartError},
    config::{Config, ConfigError},
    host::install::{Attribution, Choice, Source},
};
use cutover_control::migration::{CommandKind, Declined, Handle, snapshot::Snapshot};
use cutover_model::{
    clock::{self, Mono},
    facts::Comparisons,
    port::{Kind, Phase},
};

/// The name of the demo's migration.
const MIGRATION: &str = "programs";

/// The stage in which the rollback policy is swapped, and the one in which V2 breaks.
const SWAP_STAGE: u32 = 1;
const FAULT_STAGE: u32 = 3;

/// How the demo is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Compress the stage clock 1200 to 1 instead of 120 to 1.
    pub fast: bool,
    /// Where `policies/`, `examples/` and `target/components/` are.
    pub root: PathBuf,
    /// The `cutover` binary, which starts workers and compiles policies.
    pub guard: PathBuf,
}

/// Why the demo could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Something that it needs is not there.
    #[error("the demo needs `{path}`, which is not there; run `cargo xtask demo` in the repository, or give --root")]
    Missing {
        /// The path of what is missing.
        path: String,
    },
    /// Its folder cannot be used.
    #[error("the demo cannot use its folder")]
    Folder(#[from] std::io::Error),
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The host does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The host refused something.
    #[error("the host refused: {0}")]
    Refused(String),
    /// Something did not happen in time.
    #[error("waited {waited:?} in vain for {what}; the migration is {phase}: {why}")]
    InVain {
        /// What the demo waited for.
        what: &'static str,
        /// How long it waited.
        waited: Duration,
        /// Where the migration stands.
        phase: Phase,
        /// What it says of itself.
        why: String,
    },
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] cutover_store::StoreError),
}

/// Says what happens, with the time since the beginning.
struct Narrator<'a> {
    began: Mono,
    tell: &'a (dyn Fn(&str) + Sync),
}

impl Narrator<'_> {
    fn say(&self, text: &str) {
        let at = clock::mono().since(self.began).as_secs_f64();
        (self.tell)(&format!("[{at:6.1} s] {text}"));
    }
}

/// Tells the story to its end.
///
/// # Errors
/// What kept it from its end. A promise that was broken is not an error but part of the summary.
pub async fn run(options: Options, tell: &(dyn Fn(&str) + Sync)) -> Result<Summary, DemoError> {
    let narrator = Narrator { began: clock::mono(), tell };
    let stage = setup::prepare(&options)?;
    let config = Config::parse(&stage.config, stage.folder(), &[])?;
    narrator.say("starting the host, V1 (1 worker, serialized) and V2 (4 workers, concurrent)");
    let app = App::start(config, options.guard.clone()).await?;
    let told = tell_story(&app, &stage, &options, &narrator).await;
    app.shut_down().await;
    narrator.say("everything is stopped");
    told
}

async fn tell_story(
    app: &App,
    stage: &setup::Stage,
    options: &Options,
    narrator: &Narrator<'_>,
) -> Result<Summary, DemoError> {
    let Some(migration) = app.host.migrations.get(MIGRATION) else {
        return Err(DemoError::Refused("no migration".into()));
    };
    let mut handle = migration.handle.clone();
    let mut summary = Summary::default();
    wait(&mut handle, "both pools", 30, |s| s.state.phase == Phase::Shadow).await?;
    let caller = Caller::new(app.data_plane);
    narrator.say(&format!("creating {} programs, one for each session, on both pools", load::SESSIONS));
    caller.create_programs().await.map_err(DemoError::Refused)?;

    narrator.say("measuring what each pool can do with calls that wait 20 ms");
    let order = |verb| handle.ask(verb, "demo", "the demo goes on");
    let refused = |why: Declined| DemoError::Refused(why.message);
    order(CommandKind::SetFlag("shadow".into(), false.into())).await.map_err(refused)?;
    summary.throughput = throughput::measure(&caller, setup::V2_WORKERS).await.map_err(DemoError::Refused)?;
    order(CommandKind::SetFlag("shadow".into(), true.into())).await.map_err(refused)?;
    let t = &summary.throughput;
    narrator.say(&format!("  V1 {:.0}/s, V2 {:.0}/s: {:.2}x with {} workers", t.v1_rps, t.v2_rps, t.ratio, t.workers));

    narrator.say(&format!("clients send {} calls a second; V1 answers, reads are mirrored to V2", load::RATE));
    let (load, stop) = (Arc::new(Load::new(caller, handle.clone())), CancellationToken::new());
    let running = tokio_util::task::AbortOnDropHandle::new(spawn(Arc::clone(&load).run(stop.clone())));
    let went = climb_and_fall(app, stage, options, narrator, &load, &mut handle, &mut summary).await;
    stop.cancel();
    if let Err(error) = running.await {
        return Err(DemoError::Refused(format!("the load ended early: {error}")));
    }
    went?;
    let totals = migration.history.totals();
    load.fill(&mut summary, &totals);
    summary.decisions = app.host.store.decisions(MIGRATION, 1_000).await?.len();
    narrator.say("asking every policy everything again, on another engine");
    summary.replayed = replay::all(app).await?;
    for line in summary.lines() {
        narrator.say(&line);
    }
    Ok(summary)
}

/// The ramp, the swap, the fault and the rollback.
async fn climb_and_fall(
    app: &App,
    stage: &setup::Stage,
    options: &Options,
    narrator: &Narrator<'_>,
    load: &Load,
    handle: &mut Handle,
    summary: &mut Summary,
) -> Result<(), DemoError> {
    let patience = if options.fast { 60 } else { 900 };
    let mut stages = 0;
    while stages <= FAULT_STAGE {
        let at =
            wait(handle, "the next stage", patience, |s| s.state.phase == Phase::Ramping && s.state.stage >= stages);
        let at = at.await?;
        if stages == 0 {
            let counts = compared(app);
            narrator.say(&format!(
                "shadow: {} pairs the same, {} the same but for timing and identity, {} different",
                counts.same, counts.ignored, counts.different
            ));
        }
        narrator.say(&format!("stage {}: {} of sessions on V2", at.state.stage, at.state.share));
        if at.state.stage == SWAP_STAGE {
            swap(app, stage, narrator, load, summary).await?;
        }
        stages = at.state.stage + 1;
    }
    // Let the judge see V2 healthy at this share first.
    sleep(Duration::from_secs(3)).await;
    narrator.say("now V2's workers break for real: 30 % errors, and 20 ms slower");
    summary.different_before_fault = compared(app).different;
    let injected = clock::unix_ms();
    stage.break_v2()?;
    let fell = wait(handle, "a rollback", patience, |s| s.last_rollback.is_some()).await?;
    if let Some(report) = &fell.last_rollback {
        summary.rolled_back(report, injected);
        narrator.say(&format!(
            "rolled back {} ms after the fault by {}: {}",
            summary.rollback.detected_ms, summary.rollback.policy, report.reason
        ));
    }
    let before = load.counts();
    sleep(Duration::from_secs(2)).await;
    let after = load.counts();
    summary.v2_after_rollback = after.v2_too_late;
    narrator.say(&format!("{} calls since: all on V1", after.total - before.total));
    Ok(())
}

/// Puts another rollback policy in charge while the load goes on.
async fn swap(
    app: &App,
    stage: &setup::Stage,
    narrator: &Narrator<'_>,
    load: &Load,
    summary: &mut Summary,
) -> Result<(), DemoError> {
    let before = load.counts();
    let started = clock::mono();
    let bundle = stage.root.join(setup::SECOND_JUDGE);
    let settings = toml::from_str(setup::JUDGE_SETTINGS).map_err(|error| DemoError::Refused(error.to_string()))?;
    let reason = "the compiled judge instead of the script, which takes more time for the same";
    let choice = Choice { source: Source::Bundle(&bundle), settings: &settings, from_defaults: true };
    let done = app.host.activate(MIGRATION, Some(Kind::Rollback), choice, Attribution { actor: "demo", reason }).await;
    let done = done.map_err(|why| DemoError::Refused(why.message))?;
    let took = clock::mono().since(started);
    sleep(Duration::from_millis(500)).await;
    let swap = summary::Swap::new(&done.detail, took, load.counts().failures - before.failures);
    narrator.say(&format!(
        "  swapped the rollback policy live in {} ms, {} failed calls: {} -> {}",
        swap.took_ms,
        swap.failed_requests,
        summary::short(&swap.from),
        summary::short(&swap.to)
    ));
    summary.swaps.push(swap);
    Ok(())
}

/// What comparisons have said so far.
fn compared(app: &App) -> Comparisons {
    app.host.migrations.get(MIGRATION).map(|m| m.history.totals().comparisons).unwrap_or_default()
}

/// Waits until the migration is as it should be.
async fn wait(
    handle: &mut Handle,
    what: &'static str,
    seconds: u64,
    until: impl Fn(&Snapshot) -> bool,
) -> Result<Arc<Snapshot>, DemoError> {
    let waited = Duration::from_secs(seconds);
    let deadline = clock::mono() + waited;
    loop {
        let snapshot = handle.snapshot();
        if until(&snapshot) {
            return Ok(snapshot);
        }
        if !matches!(timeout_at(deadline.timer(), handle.changed()).await, Ok(true)) {
            let findings = snapshot.verdict.iter().flat_map(|v| &v.findings).chain(&snapshot.waiting_for);
            let notes: Vec<_> = findings.map(|f| f.note.as_str()).collect();
            let why = snapshot.state.because.clone().unwrap_or_else(|| notes.join("; "));
            return Err(DemoError::InVain { what, waited, phase: snapshot.state.phase, why });
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the demo joins what it spawns, or aborts it when it is dropped")]
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> tokio::task::JoinHandle<()> {
    tokio::spawn(task)
}
