//! How others talk to a controller: they ask, and look at what it shows.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::snapshot::Snapshot;
use crate::migration::install::Install;
use cutover_model::{
    clock::{Mono, timeline::Clock},
    request::Ppm,
};
use cutover_policy_host::{PolicyError, installed::InstalledPolicy};

/// How others talk to a controller.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    /// For orders that take something from V2: they pass those that wait for anything else.
    pub(super) urgent: mpsc::Sender<Command>,
    pub(super) shown: watch::Receiver<Arc<Snapshot>>,
    /// The clock of the migration: orders carry the moment in which they were given.
    pub(super) clock: Clock,
}

/// What is asked of a controller, by whom and why.
#[derive(Debug)]
pub struct Command {
    /// What is to be done.
    pub verb: CommandKind,
    /// Who orders it, as it goes on record.
    pub actor: String,
    /// Why, in the words of the actor; may be empty where no reason is asked for.
    pub reason: String,
    /// When: a step to the next or last stage is one from the stage that there was then.
    pub at: Mono,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<CommandReply, Declined>>,
}

/// Why a command was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Declined {
    /// What kind of refusal it is, for programs.
    pub code: Code,
    /// For people: one sentence.
    pub message: String,
}

/// Which kind of refusal it is. The names do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Not in this phase, or not in this direction.
    WrongPhase,
    /// The migration moved between the order and its turn.
    Moved,
    /// The store did not take it, so nothing was done.
    NotRecorded,
    /// The flag cannot have this value, or the environment has set it.
    WrongFlag,
    /// There is no such flag.
    UnknownFlag,
    /// Something has to be said that was not.
    NoReason,
    /// The host is stopping.
    Stopping,
    /// The bundle is in a folder that requests may not name.
    Folder,
    /// The host is busy with what others asked for, or what was asked for takes too long.
    Busy,
    /// A policy is not what it should be, and why, as its cause is called.
    Policy(&'static str),
    /// Nothing has that name: no migration, no candidate, no operation, no policy to go back to.
    NotFound,
    /// No policy that the host knows has that name, version or digest.
    UnknownPolicy,
    /// Any other refusal; the message says which.
    Refused,
}

impl Code {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::WrongPhase => "wrong-phase",
            Self::Moved => "moved",
            Self::NotRecorded => "not-recorded",
            Self::WrongFlag => "wrong-flag",
            Self::UnknownFlag => "unknown-flag",
            Self::NoReason => "no-reason",
            Self::Stopping => "stopping",
            Self::Folder => "folder",
            Self::Busy => "busy",
            Self::Policy(cause) => cause,
            Self::NotFound => "not-found",
            Self::UnknownPolicy => "unknown-policy",
            Self::Refused => "refused",
        }
    }
}

impl Declined {
    /// A refusal of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl Declined {
    /// A policy failed all that it was shown of what happened.
    pub fn pending(checks: u64, error: &PolicyError) -> Self {
        let message = format!(
            "nothing was changed: it was shown {checks} of the checks since the stage began, as it would have been asked, and \
             failed all of them: the first time it {error}"
        );
        Self::new(Code::Policy(error.cause()), message)
    }
}

/// What can be asked.
#[derive(Debug)]
pub enum CommandKind {
    /// Stay where we are.
    Pause,
    /// Go on, or begin again after a rollback.
    Resume,
    /// Take the next step now.
    Advance,
    /// Go up to this share now.
    AdvanceTo(Ppm),
    /// Go back to this share, or to that of the stage before.
    Retreat(Option<Ppm>),
    /// Replace V2 while V1 has everybody.
    Redeploy,
    /// V2's upstreams were replaced.
    Redeployed,
    /// The differences of an operation that were seen so far are accepted.
    Accept(String),
    /// Send everything to V2, because V1 is gone.
    AdvanceWithoutV1,
    /// Everything back to V1.
    Rollback,
    /// Everything back to V1, and V2's workers killed.
    EmergencyRollback,
    /// Set this flag to this value.
    SetFlag(String, Value),
    /// Put a policy somewhere.
    Install(Box<Install>),
}

/// A policy that was admitted and is in no slot yet.
#[derive(Debug)]
pub struct AdmittedPolicy {
    /// The policy and what people call it.
    pub installed: InstalledPolicy,
    /// The bytes of the policy's component, for the store.
    pub component: Vec<u8>,
    /// Fingerprint of what the configuration says.
    pub configured: String,
    /// What its settings have otherwise than those in force, if those are of the same policy.
    pub changed: Vec<Changed>,
}

/// A setting that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Where, as a path of fields.
    pub setting: String,
    /// What it was; null if it was not said.
    pub from: Value,
    /// What it is now.
    pub to: Value,
}

/// What became of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommandReply {
    /// What was done, as one sentence.
    pub message: String,
    /// Details, such as digests.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl CommandKind {
    /// Whether it takes something from V2, or leaves all as it is.
    const fn is_urgent(&self) -> bool {
        matches!(self, Self::Pause | Self::Rollback | Self::EmergencyRollback)
    }
}

impl Handle {
    /// Asks a controller for something and waits for the answer.
    ///
    /// # Errors
    /// Why it was refused, as a sentence.
    pub async fn ask(&self, verb: CommandKind, actor: &str, reason: &str) -> Result<CommandReply, Declined> {
        let (reply, answer) = oneshot::channel();
        let command = Command { verb, actor: actor.into(), reason: reason.into(), at: self.clock.mono(), reply };
        let stopping = || Declined::new(Code::Stopping, "the host is stopping");
        let queue = if command.verb.is_urgent() { &self.urgent } else { &self.commands };
        queue.send(command).await.map_err(|_gone| stopping())?;
        answer.await.map_err(|_gone| stopping())?
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
