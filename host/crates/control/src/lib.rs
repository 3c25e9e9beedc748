//! Who decides where requests go, and what is kept of it.
//!
//! The controller of a [`migration`] ends batches of the traffic, shows them to the rollback policy ([`judge`]) and to the
//! stages policy ([`stage`]) at each check, takes one pure step, writes the decision to the [`store`], and then publishes
//! a plan: that is the only way from here to a request. Operators order it about by its handle. People are told by
//! [`notify`]. The [`registry`] keeps the policies that a host knows, under names and versions.

pub mod judge;
pub mod migration;
pub mod notify;
pub mod registry;
pub mod stage;
pub mod store;
