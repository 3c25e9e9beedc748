//! Who decides where requests go.
//!
//! The controller of a [`migration`] ends batches of the traffic, shows them to the rollback policy
//! ([`judge`](migration::judge)) and to the stages policy ([`stage`](migration::stage)) at each check, takes one pure step
//! from one [`state`](cutover_store::state) to the next, writes the decision to the [`store`](cutover_store), and then publishes a plan: that is the only way
//! from here to a request. Operators order it about by its handle. People are told by [`notify`]. The [`registry`] keeps
//! the policies that a host knows, under names and versions.

pub mod migration;
pub mod notify;
pub mod registry;
