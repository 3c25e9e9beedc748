//! Cutover moves live traffic from one implementation of a service (V1) to its successor (V2) with no downtime.
//!
//! The story of one request: [`ingress`](cutover_traffic::ingress) reads it;
//! [`dispatch`](cutover_traffic::dispatch) or [`proxy`](cutover_traffic::proxy) asks the
//! [`route`](cutover_policy_host::route) that the plan in force gives it, calls the [`pool`](cutover_traffic::pool) that
//! it names, falls over to V1 if V2 fails a read, and tells [`observe`](cutover_traffic::observe) how long it took; a
//! share of reads that V1 answered is sent to V2 as well ([`shadow`](cutover_traffic::shadow)) and compared
//! ([`compare`](cutover_traffic::compare)).
//!
//! The story of one decision: each second the traffic's counts become a batch; each check interval the controller of the
//! [`migration`](cutover_control::migration) shows the batches to the rollback policy
//! ([`judge`](cutover_control::migration::judge)) and to the stages policy ([`stage`](cutover_control::migration::stage)), takes one pure
//! step, writes the decision to the [`store`](cutover_store), and publishes a new plan, which is the only way
//! back to the requests.
//!
//! Every decision is made by a policy: a sandboxed WebAssembly component ([`cutover_policy_host`]).
//!
//! This crate is the program. [`config`] reads a file into types that cannot be wrong; [`app`] wires a [`host`] together;
//! [`admin`] and [`cli`] are how people take part, [`oci`] how policies come and go; [`handover`] replaces a host by
//! another; [`demo`] shows a migration.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
pub mod handover;
pub mod host;
pub mod oci;
