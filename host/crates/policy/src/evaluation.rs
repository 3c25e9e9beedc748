//! Hands what policies in charge were asked, and what they said, to whoever tries candidates out and keeps the log; and
//! tells of failures on the request's path.
//!
//! Both are bounded queues that nobody waits for: what does not fit is left out and counted. A request cannot be slowed
//! down by a candidate.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use super::{
    PolicyError,
    ask::{Asked, PolicyPort},
    slot::Slots,
};
use crate::installed::InstalledPolicy;
use cutover_model::{
    port::{
        AdaptedCall, AdapterCall, AdapterReply, Check, Comparison, Judgement, Kind, Move, Pair, Plan, Progress,
        Situation, Target,
    },
    request::{PoolId, Request},
};

/// Questions that may wait for a candidate.
const JOBS: usize = 256;

/// Failures that may wait for the controller.
const FAILURES: usize = 256;

/// What a policy in charge was asked, and what it said.
#[derive(Debug)]
pub enum Job {
    /// A rollback policy judged a check.
    Judged(Check, Asked<Judgement>),
    /// A stages policy decided on a check and its verdict.
    Staged(Progress, Asked<Move>),
    /// A routing policy made a plan.
    Planned(Situation, Asked<Plan>),
    /// A request was routed to this pool; true if it is mirrored as well.
    Routed(Box<Request>, PoolId, bool),
    /// `decide` was asked about one of the requests that are sampled for the log.
    Sampled(Arc<InstalledPolicy>, Vec<u8>, Target),
    /// A comparison policy compared pairs.
    Compared(Vec<Pair>, Asked<Vec<Comparison>>),
    /// An adapter translated a call.
    Called(AdapterCall, Asked<AdaptedCall>),
    /// An adapter translated the reply to this call.
    Replied(AdapterCall, AdapterReply, Asked<AdapterReply>),
}

/// A policy failed where the controller did not ask it.
#[derive(Debug)]
pub struct Failed {
    /// The kind of policy that failed.
    pub kind: Kind,
    /// Which policy; none if nobody was in charge.
    pub policy: Option<Arc<dyn PolicyPort>>,
    /// Why the policy gave no answer that can be used.
    pub error: PolicyError,
}

/// Where questions and failures are handed in.
#[derive(Debug, Clone)]
pub struct EvaluationQueue {
    slots: Arc<Slots>,
    jobs: mpsc::Sender<Job>,
    failures: mpsc::Sender<Failed>,
    left_out: Arc<AtomicU64>,
}

/// The ends of the queues that are read.
#[derive(Debug)]
pub struct Queues {
    /// What policies in charge were asked and said, for the task that asks candidates and keeps the log.
    pub jobs: mpsc::Receiver<Job>,
    /// Failures on the request's path, for the controller.
    pub failures: mpsc::Receiver<Failed>,
}

impl EvaluationQueue {
    /// The queues of one migration: the end to hand in at, and the ends to read.
    pub fn new(slots: Arc<Slots>) -> (Self, Queues) {
        let (jobs, todo) = mpsc::channel(JOBS);
        let (failures, failed) = mpsc::channel(FAILURES);
        let left_out = Arc::default();
        (Self { slots, jobs, failures, left_out }, Queues { jobs: todo, failures: failed })
    }

    /// Who is in charge of what.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Whether anybody stands by for a kind: what would be handed in need not even be made if nobody does.
    pub fn has_candidate(&self, kind: Kind) -> bool {
        self.slots.get(kind).candidate().is_some()
    }

    /// Hands in what was asked. `make` is called only if a candidate wants to know.
    pub fn submit(&self, kind: Kind, make: impl FnOnce() -> Job) {
        if self.has_candidate(kind) {
            self.log(kind, make());
        }
    }

    /// Hands in what is wanted whether there is a candidate or not.
    pub fn log(&self, kind: Kind, job: Job) {
        if self.jobs.try_send(job).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            if let Some(candidate) = self.slots.get(kind).candidate() {
                candidate.evidence.lock().left_out += 1;
            }
        }
    }

    /// Tells that a policy failed. If too many wait, there is nothing that this one would add.
    pub fn failed(&self, kind: Kind, policy: Option<&Arc<dyn PolicyPort>>, error: &PolicyError) {
        let failed = Failed { kind, policy: policy.cloned(), error: error.clone() };
        // What does not fit is one of more than 256 failures that wait: the controller will act on those.
        drop(self.failures.try_send(failed));
    }

    /// The number of jobs that did not fit the queue since the host began.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}
