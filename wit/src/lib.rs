//! The half of the policy contract that WIT types cannot say: how sessions are hashed, how latencies are bucketed and
//! how the frame of `decide` is packed.
//!
//! Host and guests both use this crate, so that neither can drift from the other. It has no state, does no I/O and
//! refuses to grow anything that only one side needs. The types themselves are in the `.wit` files beside it.

pub mod frame;
pub mod histogram;
pub mod share;
