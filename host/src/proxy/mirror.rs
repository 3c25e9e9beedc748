//! Mirrors reads to V2 once V1 has answered, inside a budget, and hands both answers in for comparison.
//!
//! **Invariant**: nothing here can delay or change what the caller gets. Mirrored requests run on another runtime than
//! those of callers; what the budget has no room for is left out and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{StatusCode, body::Bytes};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::task::TaskTracker;

use super::grpc;
use crate::{
    clock,
    compare::Comparer,
    observe::{Observation, Outcome, Recorder},
    policy::port::{Pair, Side},
    pool::{
        UpstreamPool,
        upstream::{Ask, Outgoing},
    },
    request::{Class, Failure, FailureKind, PoolId},
};

/// The largest body that is compared; of larger ones only that they were larger.
const MOST: usize = 256 << 10;

/// Says to V2 that nobody waits for the answer.
const MARK: &str = "x-cutover-shadow";

/// Mirrors the reads of one migration.
#[derive(Debug)]
pub struct HttpMirror {
    parts: Setup,
    budget: Arc<Semaphore>,
    left_out: AtomicU64,
}

/// What a mirror is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where requests are mirrored to.
    pub v2: UpstreamPool,
    /// Where they are counted.
    pub recorder: Arc<Recorder>,
    /// Where answers are compared.
    pub comparer: Comparer,
    /// Mirrored requests that may be under way at once.
    pub budget: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// Where they run.
    pub runtime: Handle,
    /// Who waits for them to end.
    pub tasks: TaskTracker,
}

/// A request that is to be mirrored, and V1's answer as far as it has come.
#[derive(Debug)]
pub struct Original {
    mirror: Arc<HttpMirror>,
    operation: Arc<str>,
    request: Outgoing,
    status: StatusCode,
    media_type: String,
    body: Vec<u8>,
    too_large: bool,
    permit: OwnedSemaphorePermit,
}

impl HttpMirror {
    /// Of its parts.
    pub fn new(parts: Setup) -> Self {
        let budget = Arc::new(Semaphore::new(parts.budget));
        Self { parts, budget, left_out: AtomicU64::new(0) }
    }

    /// Begins to mirror a request that V1 answers, if the budget has room. `request` is what V1 was sent.
    pub fn begin(
        self: &Arc<Self>,
        operation: &Arc<str>,
        request: Option<Outgoing>,
        status: StatusCode,
        media_type: Option<&str>,
    ) -> Option<Box<Original>> {
        let (Ok(permit), Some(request)) = (Arc::clone(&self.budget).try_acquire_owned(), request) else {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let media_type = media_type.unwrap_or_default().to_owned();
        Some(Box::new(Original {
            mirror: Arc::clone(self),
            operation: Arc::clone(operation),
            request,
            status,
            media_type,
            body: Vec::new(),
            too_large: false,
            permit,
        }))
    }

    /// Mirrored requests that were left out because the budget was spent, or because their bodies are not here any more.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}

impl Original {
    /// A part of V1's body came by.
    pub fn see(&mut self, data: &Bytes) {
        self.too_large |= self.body.len() + data.len() > MOST;
        if !self.too_large {
            self.body.extend_from_slice(data);
        }
    }

    /// V1's answer is whole: asks V2, and hands both in.
    pub fn compare(self: Box<Self>) {
        let (tasks, runtime) = (self.mirror.parts.tasks.clone(), self.mirror.parts.runtime.clone());
        tasks.spawn_on(async move { self.run().await }, &runtime);
    }

    async fn run(self: Box<Self>) {
        let Self { mirror, operation, request, status, media_type, body, too_large, permit } = *self;
        let Setup { v2, recorder, comparer, timeout: limit, .. } = &mirror.parts;
        let started = clock::mono();
        let asked = timeout(*limit, ask(v2, request, started + *limit)).await;
        let asked = asked.unwrap_or_else(|_elapsed| {
            Err(Failure::sent(FailureKind::Timeout, "the mirrored request was not answered in time"))
        });
        let outcome = match &asked {
            Ok(answer) if answer.has_failed => Outcome::Failed(FailureKind::Worker),
            Ok(_) => Outcome::Answered,
            // A pool that was closed under a mirrored request says nothing about V2.
            Err(failure) if !failure.sent && !v2.is_open() => return,
            Err(failure) => Outcome::Failed(failure.kind),
        };
        recorder.record(Observation {
            operation: &operation,
            class: Class::Read,
            pool: PoolId::V2,
            mirrored: true,
            session: None,
            outcome,
            failed_over: false,
            took: clock::mono().since(started),
        });
        if let Ok(Mirrored { side: v2, is_whole: true, .. }) = asked
            && !too_large
        {
            let v1 = Side { success: status.as_u16() < 400, status: status.as_u16(), media_type, body };
            comparer.submit(Pair { operation: operation.to_string(), v1, v2 });
        }
        drop(permit);
    }
}

/// V2's answer.
struct Mirrored {
    side: Side,
    /// Whether that is all of it.
    is_whole: bool,
    has_failed: bool,
}

async fn ask(v2: &UpstreamPool, mut request: Outgoing, deadline: clock::Mono) -> Result<Mirrored, Failure> {
    let ticket = v2.check_out(None, deadline, clock::mono()).await?;
    request.head.fields.set(MARK, "1");
    let ask = Ask { progress: None, deadline, again: false };
    let mut answered = ticket.send(request, ask).await.map_err(|unanswered| unanswered.failure)?;
    let media_type = answered.head.fields.text("content-type").unwrap_or_default().to_owned();
    let is_call = grpc::is_call(&answered.head.fields);
    let collected = match Limited::new(&mut answered.body, MOST).collect().await {
        Ok(body) => Some(body),
        Err(error) if error.is::<LengthLimitError>() => None,
        Err(error) => {
            let message = format!("the mirrored answer broke off: {error}");
            return Err(Failure::sent(FailureKind::Communication, message));
        }
    };
    // What was not read to its end is closed.
    if collected.is_some() {
        answered.reuse.keep(&mut answered.body, &ticket);
    }
    let status = answered.head.status.as_u16();
    let says_failed = collected.as_ref().and_then(|body| body.trailers()).is_some_and(grpc::say_failed);
    let fails_call = is_call && (says_failed || grpc::has_failed(&answered.head.fields));
    let is_whole = collected.is_some();
    let body = collected.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let side = Side { success: status < 400 && !fails_call, status, media_type, body };
    Ok(Mirrored { side, is_whole, has_failed: status >= 500 || fails_call })
}
