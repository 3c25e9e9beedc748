//! The host against real workers, real Wasm policies and a real store, in process or as the real binary.
//!
//! `cargo xtask test` builds what these tests need: the guests, as components, and the `cutover` binary.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::format_collect,
    clippy::format_push_string,
    clippy::match_same_arms,
    clippy::needless_raw_string_hashes,
    clippy::similar_names,
    clippy::wildcard_enum_match_arm,
    clippy::too_many_lines,
    clippy::doc_markdown,
    clippy::disallowed_methods,
    clippy::ref_option,
    reason = "a failed step is a failed test, and what is skipped is said"
)]

mod authoring;
mod backtest;
mod bad_input;
mod bundles;
mod failsafe;
mod harness;
mod hostile;
mod http;
mod isolation;
mod kill;
mod languages;
mod limits;
mod museum;
mod notify;
mod operators;
mod policies;
mod pool;
mod registry;
mod restart;
mod rhai;
mod slots;
mod smith;
mod store;
mod story;
mod tls;
mod wast;
mod workers;
