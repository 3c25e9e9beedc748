//! What the crates of the host have in common, and nothing that does anything: no sockets, no store, no sandbox.
//!
//! A [`request`] has a class, a session and a deadline; [`clock`] says what time it is, and takes wall clocks for what
//! they are. [`port`] is what policies are asked and what they answer, [`facts`] the batches that they are shown: both
//! mirror the contract in `wit/`. [`environment`] is the only reader of
//! variables. [`causes`] and [`escape`] write errors, and the texts of strangers, for people.

pub mod causes;
pub mod clock;
pub mod environment;
pub mod escape;
pub mod facts;
pub mod port;
pub mod request;
