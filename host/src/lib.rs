//! Cutover moves live traffic from one implementation of a service (V1) to its successor (V2) with no downtime.
//!
//! The story of one request: [`ingress`] reads it; [`dispatch`] asks the [`route`] that the plan in force gives it,
//! calls the [`pool`] that it names, falls over to V1 if V2 fails a read, and tells [`observe`] how long it took; a
//! share of reads that V1 answered is [`shadow`]ed to V2 and handed to [`compare`].
//!
//! The story of one decision: each second [`observe`] ends a batch; each check interval the [`migration`] controller
//! shows the batches to the rollback policy ([`judge`]) and the stages policy ([`stage`]), takes one pure step, writes
//! the decision to the [`store`], and publishes a new plan, which is the only way back from here to [`route`].
//!
//! Every decision is made by a [`policy`]: a sandboxed WebAssembly component. [`app`] wires all of it together;
//! [`admin`], [`cli`] and [`notify`] are how people take part.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod handover;
pub mod oci;
