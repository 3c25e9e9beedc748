//! The one thread that starts worker processes.
//!
//! The kernel ties "die with your parent" to the *thread* that started the process, so that thread must live as long as
//! the host: not a runtime's worker, not one of its blocking threads.

use std::{io, path::PathBuf, sync::mpsc, thread};

use tokio::{
    process::{Child, Command},
    runtime::Handle,
    sync::oneshot,
};

use crate::descriptors;

/// Starts processes, all from one thread.
#[derive(Debug, Clone)]
pub struct Spawner {
    orders: mpsc::SyncSender<SpawnRequest>,
    guard: PathBuf,
}

struct SpawnRequest {
    command: Command,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts that may wait for the thread; each takes about a millisecond.
const QUEUE: usize = 64;

impl Spawner {
    /// Starts the thread. It ends when the last clone is dropped. `guard` is the `cutover` binary, which ties workers
    /// to the host.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(guard: PathBuf, runtime: Handle) -> io::Result<Self> {
        let (orders, queue) = mpsc::sync_channel::<SpawnRequest>(QUEUE);
        thread::Builder::new().name("cutover-spawner".into()).spawn(move || {
            let _entered = runtime.enter();
            while let Ok(SpawnRequest { mut command, reply }) = queue.recv() {
                // If no task waits any more, the child is killed when it is dropped.
                drop(reply.send(command.spawn()));
            }
        })?;
        Ok(Self { orders, guard })
    }

    /// A command that will run under the guard.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.guard);
        command.arg("worker-guard").arg(std::process::id().to_string());
        if let Some(limit) = descriptors::before() {
            command.arg("--descriptors").arg(limit.to_string());
        }
        command.arg("--");
        command
    }

    /// Starts a process.
    ///
    /// # Errors
    /// What the system says.
    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let order = SpawnRequest { command, reply };
        self.orders.try_send(order).map_err(|_full| io::Error::other("too many workers are being started at once"))?;
        answer.await.map_err(|_gone| io::Error::other("the thread that starts workers is gone"))?
    }
}
