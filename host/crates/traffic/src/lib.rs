//! The data plane: what happens to a request, and what is seen of it.
//!
//! [`ingress`] accepts connections and reads requests ([`http1`] by hand where that is faster, [`message`] for what both
//! kinds of services have in common; [`pace`], [`load`] and [`descriptors`] are its limits, [`proxy_protocol`] says who
//! called a proxy). [`dispatch`] sends a call of an operation, and [`proxy`] an HTTP request, to the pool that the plan
//! in force names, and to V1 if V2 fails it and [`failover`] lets it: a [`split`] has both pools, the plan, and what is seen. A [`pool`] has workers or upstreams, and knows
//! which of them are well. [`observe`] counts each call, and ends a batch each second. A share of reads that V1 answered
//! is sent to V2 as well ([`shadow`]), and the answers are held against each other ([`compare`]).
//!
//! It decides nothing: whoever controls it publishes a plan, opens and closes pools, and reads batches.

pub mod compare;
pub mod descriptors;
pub mod dispatch;
pub mod failover;
pub mod http1;
pub mod ingress;
pub mod load;
pub mod message;
pub mod observe;
pub mod pace;
pub mod pool;
pub mod proxy;
pub mod proxy_protocol;
pub mod read_buffer;
pub mod shadow;
pub mod split;
