//! Policies as a host runs them: sandboxed components that answer what [`port`](cutover_model::port) asks.
//!
//! A [`bundle`] is a policy in a folder. [`trust`] says whose signatures a host believes ([`keys`], [`sign`],
//! [`release`]), [`engine`] compiles a component and runs it with limits of time, memory and fuel, off the request's path
//! as far as it can ([`blocking`]). A [`slot`] holds the policy that is in charge of one question of one migration;
//! beside it a [`candidate`] is asked the same ([`evaluation`]), and one that takes over is shown what happened first
//! ([`catch_up`]). What routing policies answer is a plan: [`route`] applies it to each request without asking anybody.
//! [`record`] keeps what was asked and answered, [`replay`] asks it again, and [`history`] is recorded checks.
//!
//! **A policy can fail; a request cannot fail because of it**: every failure is a [`PolicyError`], which is recorded and
//! answered with the last good plan, with `hold`, or with V1.

pub mod admission;
pub mod ask;
pub mod blocking;
pub mod bundle;
pub mod candidate;
pub mod catch_up;
pub mod check;
pub mod dsse;
pub mod engine;
pub mod error;
pub mod evaluation;
pub mod history;
pub mod installed;
pub mod keys;
pub mod record;
pub mod release;
pub mod replay;
pub mod route;
pub mod sign;
pub mod slot;
pub mod trust;
mod wasi;

pub use error::PolicyError;
