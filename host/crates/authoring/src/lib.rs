//! What people who write policies work with, without a host: neither sockets nor a store.
//!
//! [`author`] scaffolds a policy in a language of their choice, builds it, and says what it costs. [`cases`] are its
//! tests: a table of what it is asked and what it must answer, run in the sandbox that a host has. [`backtest`] asks a
//! policy about recorded checks and compares what it says with what was decided.

pub mod author;
pub mod backtest;
pub mod cases;
