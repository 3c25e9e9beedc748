//! The host against real workers, real Wasm policies and a real store, in process or as the real binary.
//!
//! `cargo xtask test` builds what these tests need: the guests, as components, and the `cutover` binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed step is a failed test"
)]

mod authoring;
mod bad_input;
mod harness;
mod hostile;
mod isolation;
mod kill;
mod languages;
mod museum;
mod notify;
mod policies;
mod registry;
mod rhai;
mod seats;
mod smith;
mod story;
mod wast;
mod workers;
