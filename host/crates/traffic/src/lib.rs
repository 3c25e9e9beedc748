//! The data plane: what happens to a request, and what is seen of it.
//!
//! [`ingress`] accepts connections and reads requests: [`http1`] is read by hand where that is faster, and [`message`]
//! is what both kinds of services have in common. [`pace`], [`load`] and [`descriptors`] are its limits, and
//! [`proxy_protocol`] says who called a load balancer. [`dispatch`] sends a call of an operation, and [`proxy`] an HTTP
//! request, to the pool that the plan in force names; V1 answers if V2 fails it and [`failover`] allows that. A
//! [`split`] has both pools, the plan, and the counts. A [`pool`] has workers or upstreams, and knows which of them are
//! well. [`observe`] counts each call, and ends a batch each second. A share of the reads that V1 answered is sent to
//! V2 as well ([`shadow`]), and the two answers are compared ([`compare`]).
//!
//! The data plane decides nothing: the control plane publishes a plan, opens and closes pools, and reads batches.

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
