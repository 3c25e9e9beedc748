//! Turns calls into facts: one [`Observation`] for each call, one [`Batch`](cutover_model::facts::Batch) for each
//! second, and a history of batches.
//!
//! Recording takes a lock for some tens of nanoseconds; nothing here does I/O or asks a policy. What policies judge and
//! what is stored are the same integer counts, so that a decision can be repeated from the record.

pub mod apart;
pub mod failed;
mod field;
pub mod history;
pub mod machine;
pub mod marks;
pub mod pairs;
pub mod recorder;
pub mod sessions;
mod tally;

pub use failed::Failed;
pub use history::{History, PoolWindow};
pub use pairs::{Asked, Pairs, Uncompared};
pub use recorder::{Measured, Observation, Outcome, Recorder};
pub use sessions::Session;
