//! Calls in V1's shape that V2 serves: the adapter policy translates them and their replies.
//!
//! The policy is asked where V2's worker is called, so that replayed operations are translated like live ones. A call
//! that the adapter does not translate is a call that V2 cannot serve. The adapter cannot change which operation is
//! called: V2 gets the operation that the caller named, under the name that the configuration gives it.

use std::sync::Arc;

use serde_json::{Map, Value, value::RawValue};

use cutover_model::{
    port::{AdaptedCall, AdapterCall, AdapterReply, Kind},
    request::{Answer, Failure, FailureKind},
};
use cutover_policy_host::{
    PolicyError,
    ask::{Asked, PolicyPort},
    check,
    evaluation::{EvaluationQueue, Job},
};

/// A call that was translated, until its reply is translated back.
#[derive(Debug)]
pub(super) struct Translation {
    policy: Arc<dyn PolicyPort>,
    evaluations: EvaluationQueue,
    original: AdapterCall,
    /// The operation to call on V2.
    pub(super) operation: String,
    /// The arguments as V2 takes them.
    pub(super) arguments: Map<String, Value>,
}

impl Translation {
    /// Translates a call of an operation, which V2 has under a name.
    ///
    /// # Errors
    /// The adapter failed, or would have called something else; no worker has seen the call.
    pub(super) async fn of(
        policy: Arc<dyn PolicyPort>,
        evaluations: EvaluationQueue,
        (operation, name): (&str, &str),
        arguments: &Map<String, Value>,
        session: Option<&Arc<str>>,
    ) -> Result<Self, Failure> {
        let original = AdapterCall {
            operation: operation.into(),
            session: session.map_or_else(String::new, ToString::to_string),
            body: serde_json::to_vec(arguments).map_err(|e| Failure::unsent(FailureKind::System, e.to_string()))?,
        };
        let (asked, call) = (Arc::clone(&policy), original.clone());
        let answered = on_blocking_thread(&*policy, move || asked.adapt_call(&call)).await?;
        let answered =
            Asked { answer: answered.answer.and_then(|adapted| check::renamed(adapted, operation, name)), ..answered };
        evaluations.submit(Kind::Adapter, || Job::Called(original.clone(), answered.clone()));
        let AdaptedCall { operation, body, notices } = judged(&evaluations, &policy, answered)?;
        // One line for each call, however many notices there are.
        if let Some((kind, message)) = notices.first() {
            let more = notices.len() - 1;
            tracing::info!(kind, operation = original.operation, more, "{message}");
        }
        let arguments =
            serde_json::from_slice(&body).map_err(|e| Failure::unsent(FailureKind::Worker, e.to_string()))?;
        Ok(Self { policy, evaluations, original, operation, arguments })
    }

    /// Translates what V2's worker answered.
    ///
    /// # Errors
    /// The worker's own failure, or the adapter's.
    pub(super) async fn back(self, answer: Result<Answer, Failure>) -> Result<Answer, Failure> {
        let reply = match answer? {
            Answer::Success(result) => AdapterReply { success: true, body: result.get().into() },
            Answer::Refused(error) => AdapterReply { success: false, body: error.get().into() },
        };
        let Self { policy, evaluations, original, .. } = self;
        let was_sent = |failure| Failure { sent: true, ..failure };
        let (asked, call, got) = (Arc::clone(&policy), original.clone(), reply.clone());
        let answered = on_blocking_thread(&*policy, move || asked.adapt_reply(&call, got)).await.map_err(was_sent)?;
        evaluations.submit(Kind::Adapter, || Job::Replied(original, reply, answered.clone()));
        let reply = judged(&evaluations, &policy, answered).map_err(was_sent)?;
        let body = String::from_utf8(reply.body).ok().and_then(|text| RawValue::from_string(text).ok());
        let body = body.ok_or_else(|| Failure::sent(FailureKind::Worker, "the adapter's reply is not JSON"))?;
        Ok(if reply.success { Answer::Success(body) } else { Answer::Refused(body) })
    }
}

/// The answer, or what V2's callers are told. An adapter that says itself that V2 cannot serve a call has not failed.
fn judged<T>(evaluations: &EvaluationQueue, policy: &Arc<dyn PolicyPort>, asked: Asked<T>) -> Result<T, Failure> {
    asked.answer.map_err(|error| {
        if !matches!(error, PolicyError::Said { .. }) {
            evaluations.failed(Kind::Adapter, Some(policy), &error);
        }
        Failure::unsent(FailureKind::Worker, format!("the adapter policy {error}"))
    })
}

/// Asks when it is the policy's turn, so that no thread waits for others that ask it: they would be all that there are.
async fn on_blocking_thread<T: Send + 'static>(
    policy: &dyn PolicyPort,
    ask: impl FnOnce() -> Asked<T> + Send + 'static,
) -> Result<Asked<T>, Failure> {
    // The semaphore is never closed.
    let turn = match policy.turns() {
        Some(turns) => Arc::clone(turns).acquire_owned().await.ok(),
        None => None,
    };
    let answer = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        ask()
    });
    answer.await.map_err(|e| Failure::unsent(FailureKind::System, format!("the adapter panicked: {e}")))
}
