//! Policies: what they are asked, how they run, and which one is in charge.
//!
//! [`port`] and [`facts`] say what is asked and answered, [`engine`] runs it in a sandbox, [`slot`] holds the policy that
//! is in charge of one question of one migration, [`registry`] the policies that a host knows; [`cases`] tests them as the
//! host asks them. **A policy can fail; a request cannot fail because of it**: every failure is a [`PolicyError`], which is
//! recorded and answered with the last good plan, with `hold`, or with V1.

pub mod author;
pub mod backtest;
pub mod candidate;
pub mod cases;
pub mod check;
pub mod engine;
pub mod error;
pub mod history;
pub mod keys;
pub mod record;
pub mod rehearsal;
pub mod release;
pub mod replay;
pub mod sign;
pub mod slot;
pub mod trial;
pub mod trust;

pub use error::PolicyError;
