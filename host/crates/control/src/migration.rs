//! The migration controller: where a migration stands, how it moves, and the task that moves it.
//!
//! [`State`](cutover_store::state::State) is plain data, [`step`] the pure function that decides, [`controller`] the
//! shell that feeds it events and performs its effects, [`flags`] what operators can switch. **Invariant**: a decision
//! is persisted before its effect is visible; the one exception is a rollback whose record cannot be written, which is
//! acted on all the same.

pub mod catch_up;
mod checks;
pub mod controller;
pub mod effects;
pub mod evaluation;
pub mod event;
pub mod failsafe;
pub mod flags;
mod guard;
pub mod handle;
pub mod install;
pub mod judge;
pub mod mend;
#[cfg(test)]
mod model;
mod orders;
pub mod outlook;
mod pools;
pub mod presence;
pub mod rails;
mod record;
pub mod snapshot;
pub mod stage;
pub mod step;
mod succession;
mod told;
mod why;
pub mod withhold;

pub use controller::Controller;
pub use event::Transition;
pub use handle::{CommandKind, CommandReply, Declined, Handle};
pub use install::Install;
