//! `cutover serve`: runs the host until a signal that ends programs, then drains it. At SIGUSR2 it starts its own successor
//! and leaves everything to that; see [`crate::handover`]. At SIGHUP it reads its configuration again, at SIGUSR1 it opens
//! its log again.

mod signals;

use std::{
    ffi::OsString,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{runtime, sync::mpsc, task::JoinSet};

use self::signals::{Signals, Told};
use super::Failed;
use crate::{
    app::{
        App, Prepared,
        sockets::{Found, Sockets},
    },
    config::{Config, advice::advice, given},
    handover::{HandOverError, Predecessor, Successor},
};
use cutover_model::{causes::chain, clock, environment};
use cutover_policy_host::blocking::Blocking;
use cutover_traffic::ingress::transfer::{Adopter, Carried};

/// Threads for questions to policies, which there are as many of as are under way: about ten for each migration at the most.
const QUESTIONS: usize = 2_048;

/// How long the last questions may take when everything has ended.
const LAST: Duration = Duration::from_secs(1);

/// How this process was started.
struct Start {
    file: PathBuf,
    /// The program, which may have been replaced since.
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The program as it is.
    guard: PathBuf,
}

/// A host that runs.
struct Running {
    app: App,
    /// What it runs by, also if the file has changed.
    config: Config,
}

/// What became of a host that was to be left for its successor.
enum Left {
    /// It has none: all goes on.
    Not(Running),
    /// It was told to stop before it had one.
    Stopped(Running),
    /// Its successor serves, and it has ended.
    Gone,
}

pub(super) fn run(file: &Path) -> Result<(), Failed> {
    let given = given::listening().map_err(|e| Failed::usage(format!("cannot use a socket of `LISTEN_FDS`: {e}")))?;
    let start = Start {
        file: file.to_owned(),
        program: environment::program(),
        arguments: std::env::args_os().skip(1).collect(),
        guard: std::env::current_exe().map_err(|e| Failed::new(format!("cannot find this program: {e}")))?,
    };
    let runtime = runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(QUESTIONS).build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    let served = runtime.block_on(serve(&start, given));
    // Everything was joined; what still runs is a question that nobody waits for.
    runtime.shutdown_timeout(LAST);
    served
}

async fn serve(start: &Start, given: Vec<(String, TcpListener)>) -> Result<(), Failed> {
    // First of all: a signal that nobody waits for ends the process.
    let mut signals = Signals::hook()?;
    let predecessor = Predecessor::find().map_err(|e| Failed::new(format!("cannot talk to the running host: {e}")))?;
    let mut tasks = JoinSet::new();
    let mut running = tokio::select! {
        running = begin(start, given, predecessor, &mut tasks) => running?,
        () = signals.stop() => return Ok(()),
    };
    tell(&[NotifyState::Ready]);
    loop {
        let told = tokio::select! {
            told = signals.next() => told,
            () = running.app.store_can_be_had() => Told::Store,
        };
        match told {
            Told::Stop => break,
            Told::Store => {
                running = Box::pin(begin_with_store(running, start, &mut tasks)).await?;
                continue;
            }
            Told::Reload => {
                reload(&running, start).await;
                continue;
            }
            Told::Reopen => {
                reopen();
                continue;
            }
            Told::Successor => {}
        }
        match Box::pin(leave(running, start, &mut signals, &mut tasks)).await? {
            Left::Not(stays) => running = stays,
            Left::Stopped(stops) => {
                running = stops;
                break;
            }
            Left::Gone => return Ok(()),
        }
    }
    tell(&[NotifyState::Stopping]);
    tokio::select! {
        () = running.app.shut_down() => Ok(()),
        () = signals.interrupted() => Err(Failed::new("stopped without draining")),
    }
}

/// Reads the configuration again, and puts in force what can be while callers are served.
async fn reload(running: &Running, start: &Start) {
    tell(&NotifyState::monotonic_usec_now().into_iter().chain([NotifyState::Reloading]).collect::<Vec<_>>());
    let file = start.file.clone();
    let loaded = tokio::task::spawn_blocking(move || Config::load(&file)).await;
    match loaded.map_err(|e| e.to_string()).and_then(|loaded| loaded.map_err(|e| chain(&e))) {
        Ok(config) => running.app.reload(&running.config, &config).await,
        Err(why) => tracing::error!("the configuration is not read again, and all stays as it is: {why}"),
    }
    tell(&[NotifyState::Ready]);
}

fn reopen() {
    match super::log::reopen() {
        Some(Ok(path)) => tracing::info!(log = %path.display(), "the log was opened again"),
        Some(Err(why)) => tracing::error!("the log goes on in the file that was opened before: {why}"),
        None => {
            tracing::info!("SIGUSR1 opens the log's file again, and the log goes to standard error: nothing is done");
        }
    }
}

/// Starts the host, in the place of another if there is one.
async fn begin(
    start: &Start,
    given: Vec<(String, TcpListener)>,
    predecessor: Option<Predecessor>,
    tasks: &mut JoinSet<()>,
) -> Result<Running, Failed> {
    let Some(mut predecessor) = predecessor else {
        let config = load(start).await?;
        let found = Found::given(given, &config);
        let prepared = Prepared::new(config.clone(), start.guard.clone(), found).map_err(|e| Failed::new(chain(&e)))?;
        let (app, _nobody_hands_over) = prepared.start().await.map_err(|e| Failed::new(chain(&e)))?;
        return Ok(Running { app, config });
    };
    match take_over(start, &mut predecessor).await {
        Ok((running, adopter)) => {
            tasks.spawn(predecessor.take_over(adopter));
            Ok(running)
        }
        Err(failed) => {
            predecessor.failed(failed.message.clone()).await;
            Err(failed)
        }
    }
}

async fn take_over(start: &Start, predecessor: &mut Predecessor) -> Result<(Running, Adopter), Failed> {
    let config = load(start).await?;
    let lost = |e: HandOverError| Failed::new(format!("cannot take over from the running host: {}", chain(&e)));
    let (found, open) = predecessor.found().await.map_err(lost)?;
    let prepared = Prepared::new(config.clone(), start.guard.clone(), found);
    let mut prepared = prepared.map_err(|e| Failed::new(chain(&e)))?;
    prepared.could_start().await.map_err(|e| Failed::new(chain(&e)))?;
    prepared.warm_up(&open).await;
    predecessor.prepared().await.map_err(lost)?;
    let (app, adopter) = prepared.start().await.map_err(|e| Failed::new(chain(&e)))?;
    Ok((Running { app, config }, adopter))
}

/// Starts a successor and leaves everything to it.
async fn leave(
    mut running: Running,
    start: &Start,
    signals: &mut Signals,
    tasks: &mut JoinSet<()>,
) -> Result<Left, Failed> {
    tracing::info!(program = %start.program.display(), "starting a successor");
    let now = NotifyState::monotonic_usec_now();
    tell(&now.into_iter().chain([NotifyState::Reloading]).collect::<Vec<_>>());
    let stays = |running, why: &HandOverError| {
        tracing::error!("no successor, so this host goes on: {}", chain(why));
        tell(&[NotifyState::Ready]);
        Ok(Left::Not(running))
    };
    if let Some(why) = running.app.keeps_store().await {
        return stays(running, &HandOverError::Store(why));
    }
    let sockets = match running.app.sockets() {
        Ok(sockets) => sockets,
        Err(error) => return stays(running, &error.into()),
    };
    let mut successor = match Successor::start(&start.program, &start.arguments) {
        Ok(successor) => successor,
        Err(why) => return stays(running, &why),
    };
    let prepared = tokio::select! {
        prepared = successor.prepare(&sockets, running.app.open_pools()) => prepared,
        () = signals.stop() => {
            successor.end().await;
            return Ok(Left::Stopped(running));
        }
    };
    // It may have taken minutes.
    let kept = running.app.keeps_store().await.map_or(Ok(()), |why| Err(HandOverError::Store(why)));
    if let Err(why) = prepared.and(kept) {
        successor.end().await;
        return stays(running, &why);
    }
    let began = clock::mono();
    // Calls of operations need the store, so they wait until the successor has it. Requests to upstreams do not: they are
    // served here until the successor serves, and nobody waits.
    let left = if running.app.does_operations() { Some(running.app.leave().await) } else { None };
    running.app.release().await;
    if let Err(why) = successor.begin().await {
        tracing::error!("the successor has failed, so this host begins again: {}", chain(&why));
        successor.end().await;
        return Box::pin(begin_again(running, left, (start, sockets), tasks)).await.map(Left::Not);
    }
    drop(sockets);
    let pid = successor.pid();
    tell(&pid.map(NotifyState::MainPid).into_iter().chain([NotifyState::Ready]).collect::<Vec<_>>());
    tracing::info!(successor = pid, took = ?clock::mono().since(began), "the successor serves; draining");
    let mut left = match left {
        Some(left) => left,
        None => running.app.leave().await,
    };
    let nobody_takes = running.app.nobody_takes();
    let carried = async {
        match successor.carry(&mut left).await {
            Ok(carried) => tracing::info!(carried, "connections were handed over"),
            Err(error) => {
                tracing::warn!("connections that are left end here: {}", chain(&error));
                nobody_takes.cancel();
            }
        }
        // Whoever still waits to be given away is closed.
        drop(left);
    };
    tokio::select! {
        _ = async { tokio::join!(carried, running.app.drain()) } => {}
        () = signals.interrupted() => return Err(Failed::new("stopped without draining")),
    }
    tracing::info!("stopped");
    Ok(Left::Gone)
}

/// Begins again with the store that could not be had before. Callers notice nothing but that calls of operations wait.
async fn begin_with_store(mut running: Running, start: &Start, tasks: &mut JoinSet<()>) -> Result<Running, Failed> {
    tracing::info!("the store can be had; beginning again with it");
    let sockets = running.app.sockets().map_err(|e| Failed::new(format!("cannot begin again: {e}")))?;
    let left = if running.app.does_operations() { Some(running.app.leave().await) } else { None };
    running.app.release().await;
    Box::pin(begin_again(running, left, (start, sockets), tasks)).await
}

/// Starts a host in the place of one that had let go of its store, with all that this one has.
async fn begin_again(
    running: Running,
    left: Option<mpsc::Receiver<Carried>>,
    (start, sockets): (&Start, Sockets),
    tasks: &mut JoinSet<()>,
) -> Result<Running, Failed> {
    let Running { app: mut old, config } = running;
    let prepared = Prepared::new(config.clone(), start.guard.clone(), sockets.into());
    let mut prepared = prepared.map_err(|e| Failed::new(chain(&e)))?;
    // Callers wait: no longer than they have to.
    prepared.warm_up(&[]).await;
    let (app, mut adopter) = prepared.start().await.map_err(|e| Failed::new(chain(&e)))?;
    let mut left = match left {
        Some(left) => left,
        None => old.leave().await,
    };
    tell(&[NotifyState::Ready]);
    tasks.spawn(async move {
        let carried = async {
            while let Some(carried) = left.recv().await {
                adopter.adopt(carried).await;
            }
            drop(adopter);
        };
        tokio::join!(carried, old.drain());
    });
    Ok(Running { app, config })
}

/// Reads the configuration and what it names, on a thread of its own: a disk that hangs must not keep the process from
/// being stopped.
async fn load(start: &Start) -> Result<Config, Failed> {
    let file = start.file.clone();
    let reading = Blocking::new("reading the configuration", 1, Duration::ZERO, Duration::MAX);
    let loaded = reading.run(move || Config::load_to_serve(&file)).await.map_err(|e| Failed::new(chain(&e)))?;
    let config = loaded.map_err(|e| Failed::usage(chain(&e)))?;
    for warning in advice(&config) {
        tracing::warn!("the configuration: {warning}");
    }
    Ok(config)
}

/// Tells systemd, if it started the host.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told how the host is");
    }
}
