//! How others talk to a controller: they ask, and look at what it shows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::{seats::Install, snapshot::Snapshot};
use crate::policy::slot::Seat;

/// How others talk to a controller.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) shown: watch::Receiver<Arc<Snapshot>>,
}

/// What is asked of a controller, by whom and why.
#[derive(Debug)]
pub struct Command {
    /// What.
    pub verb: Verb,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<Ordered, String>>,
}

/// What can be asked.
#[derive(Debug)]
pub enum Verb {
    /// Stay where we are.
    Pause,
    /// Go on, or begin again after a rollback.
    Resume,
    /// Take the next step now.
    Advance,
    /// Send everything to V2, because V1 is gone.
    AdvanceWithoutV1,
    /// Everything back to V1.
    Rollback,
    /// Everything back to V1, and V2's workers killed.
    EmergencyRollback,
    /// Set a flag.
    SetFlag(String, Value),
    /// Put a policy somewhere.
    Install(Box<Install>),
}

/// A policy that was admitted and has no seat yet.
#[derive(Debug)]
pub struct Newcomer {
    /// The policy and what people call it.
    pub seat: Seat,
    /// Its component.
    pub component: Vec<u8>,
    /// Fingerprint of what the configuration says.
    pub configured: String,
}

/// What became of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ordered {
    /// One sentence.
    pub message: String,
    /// Details, such as digests.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl Handle {
    /// Asks a controller for something and waits for the answer.
    ///
    /// # Errors
    /// Why it was refused, as a sentence.
    pub async fn ask(&self, verb: Verb, actor: &str, reason: &str) -> Result<Ordered, String> {
        let (reply, answer) = oneshot::channel();
        let command = Command { verb, actor: actor.into(), reason: reason.into(), reply };
        let stopping = |_| "the host is stopping".to_owned();
        self.commands.send(command).await.map_err(|_gone| "the host is stopping".to_owned())?;
        answer.await.map_err(stopping)?
    }

    /// The migration as its controller last left it.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.shown.borrow())
    }

    /// Waits for the next change.
    pub async fn changed(&mut self) -> bool {
        self.shown.changed().await.is_ok()
    }
}
