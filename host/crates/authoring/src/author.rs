//! What authors of policies need before a host sees their policy: a bundle to begin with, its component, what that is,
//! and what it costs. None of it is part of a running host.

pub mod bench;
pub mod build;
pub mod component;
pub mod inspect;
pub mod scaffold;
pub mod workload;
