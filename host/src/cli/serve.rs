//! `cutover serve`: runs the host until SIGTERM or SIGINT, then drains it.

use std::path::Path;

use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use super::Failed;
use crate::{app::App, causes::chain, config::Config};

pub(super) fn run(file: &Path) -> Result<(), Failed> {
    let config = Config::load(file).map_err(|e| Failed::usage(chain(&e)))?;
    let guard = std::env::current_exe().map_err(|e| Failed::new(format!("cannot find this program: {e}")))?;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failed::new(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async {
        let app = App::start(config, guard).await.map_err(|e| Failed::new(chain(&e)))?;
        let hook = |kind| signal(kind).map_err(|e| Failed::new(format!("cannot listen for signals: {e}")));
        let (mut term, mut interrupt) = (hook(SignalKind::terminate())?, hook(SignalKind::interrupt())?);
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tokio::select! {
            () = app.shut_down() => Ok(()),
            _ = interrupt.recv() => Err(Failed::new("stopped without draining")),
        }
    })
}
