//! What is asked of a [`Checkout`](super::Checkout) and what it answers.

use tokio::sync::oneshot;

use crate::pool::restarts::Death;

/// Which of the calls that wait goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueOrder {
    /// The one that has waited longest.
    #[default]
    Fifo,
    /// The one that came last: under overload some are served in time instead of none.
    Lifo,
}

/// The bounds of a pool's queue and of its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Regular workers that there are to be.
    pub wanted: usize,
    /// Regular workers that there may be.
    pub regular: usize,
    /// Workers beyond that which may be started while calls wait.
    pub overflow: usize,
    /// The most of these that there may ever be.
    pub max_overflow: usize,
    /// Calls that may run at once.
    pub lanes: usize,
    /// Calls that may wait.
    pub max_waiting: usize,
    /// Which of them goes first.
    pub order: QueueOrder,
    /// Sessions whose home is remembered.
    pub max_sessions: usize,
}

/// What a call gets that asks for a worker.
#[derive(Debug)]
pub enum Turn<W> {
    /// A free worker: the call goes at once.
    Now(Lent<W>),
    /// A place in the queue.
    Later(Pending<W>),
}

/// A place in the queue.
#[derive(Debug)]
pub struct Pending<W> {
    /// To give it up with.
    pub ticket: u64,
    /// Where the worker comes; closed if the pool is.
    pub worker: oneshot::Receiver<Lent<W>>,
}

/// A worker on loan.
#[derive(Debug)]
pub struct Lent<W> {
    /// Its slot, counted from 0.
    pub slot: usize,
    /// Its number: no other worker of the pool has or had it.
    pub number: u64,
    /// The worker itself, to be handed in again.
    pub worker: W,
}

/// Why a call does not even wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The pool is closed.
    Closed,
    /// As many calls wait as may.
    Full,
}

/// What a loan has shown of a worker's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Nothing was learned about it.
    Unchanged,
    /// It passed a health check.
    Good,
    /// It failed a health check.
    Bad,
}

/// Why a worker is not used any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// A call of its missed its deadline: it may be well, and in the middle of a frame.
    Overdue(String),
    /// It failed in any other way.
    Failed(String),
}

/// A worker that has to be ended.
#[derive(Debug)]
pub enum Left<W> {
    /// There is none: it was put back.
    Nothing,
    /// The pool does not need it any more.
    Surplus(W),
    /// It failed too many health checks in a row.
    Sick(W),
}

/// A slot for which a worker has to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vacancy {
    /// The slot, counted from 0.
    pub slot: usize,
    /// How the worker before died, unless it was told to end.
    pub death: Option<Death>,
}
