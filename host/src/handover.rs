//! A host that takes over from another without a dropped connection.
//!
//! The host that runs ([`Successor`] is its side) starts the same program with the same arguments, and talks to it over a
//! pair of sockets, of which the new host ([`Predecessor`] is its side) has one as its standard input: no name that
//! others could connect to, and nothing that outlives the two.
//!
//! | the old host | the new host |
//! |---|---|
//! | its listening sockets, which pools are open | |
//! | | compiles policies, starts workers; `prepared` |
//! | ends calls of operations, controllers and the store; `go` | |
//! | | opens the store, starts controllers, accepts; `serving` |
//! | connections, each between two requests | |
//! | the end, when its last request has ended | |
//!
//! **Invariant**: until `go` the store is the old host's, and after it the new one's. An old host that has said `go`
//! takes the store back only after the new one has ended. Until the new one says `serving` the old one has every
//! connection, and connections that nobody has accepted yet wait in a queue that both share.

mod predecessor;
mod successor;
mod wire;

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{predecessor::Predecessor, successor::Successor};

/// Goes up when the two would misunderstand each other.
const PROTOCOL: u32 = 1;

/// How long a new host may take until it is prepared: policies may have to be compiled, and workers to load models.
const PREPARE: Duration = Duration::from_mins(5);

/// How long it may take from `go` until it serves. Callers wait meanwhile.
const BEGIN: Duration = Duration::from_secs(30);

/// What the two say to each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Message {
    /// A listening socket comes with it.
    Socket { plane: Plane, given: bool },
    /// These were all, and these pools are open.
    State { protocol: u32, open: Vec<String> },
    /// The new host could take over.
    Prepared,
    /// The new host could not take over.
    Failed { why: String },
    /// The store is the new host's.
    Go,
    /// The new host accepts connections.
    Serving,
    /// A connection comes with it, and what was read of it.
    Connection { is_new: bool },
}

/// Which listener a socket is for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plane {
    Data,
    Admin,
}

/// Why one host does not take over from the other.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The new host's process.
    #[error("cannot start `{program}`")]
    Start {
        /// The path of the program to start.
        program: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The other one ended, or what it says cannot be understood.
    #[error("the other host went away or cannot be understood")]
    Wire(#[from] io::Error),
    /// The store of this host is not to be left to anybody.
    #[error("the store is in trouble, and a new host would begin without what it has: {0}")]
    Store(String),
    /// The new host says that it cannot.
    #[error("the new host cannot take over: {0}")]
    Failed(String),
    /// It says something out of turn.
    #[error("the other host said something unexpected; are its program and this one from one release?")]
    Unexpected,
    /// It takes too long.
    #[error("the new host was not {what} within {limit:?}")]
    Late {
        /// What it was to be.
        what: &'static str,
        /// How long it had.
        limit: Duration,
    },
    /// The host that is to be taken over from speaks another protocol.
    #[error("the running host speaks protocol {theirs} and this one {PROTOCOL}; stop that one and start this one")]
    Protocol {
        /// What the other speaks.
        theirs: u32,
    },
}
