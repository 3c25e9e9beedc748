//! Pools of worker processes, V1's and V2's.
//!
//! A pool owns its processes: it starts them, checks one out for each call, restarts the ones that die and stops them
//! all. [`checkout`] decides who gets which worker and is pure; [`process`] speaks the protocol with one worker;
//! [`journal`] makes the state of a session the same on whichever worker serves it; [`workers`] puts them together.
//! **Invariant**: no worker outlives the host, however the host ends ([`guard`]).

mod adapt;
pub mod breaker;
pub mod checkout;
pub mod guard;
pub mod homes;
pub mod journal;
pub mod lifecycle;
pub mod load;
pub mod optimizer;
pub mod process;
pub mod recovery;
pub mod resources;
pub mod restarts;
pub mod spawner;
pub mod spec;
pub mod trend;
pub mod workers;

pub use spec::PoolSpec;
pub use workers::{Call, WorkerPool};
