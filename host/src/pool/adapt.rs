//! Calls in V1's shape that V2 serves: the adapter policy translates them and their replies.
//!
//! It is asked where V2's worker is called, so that replayed operations are translated like live ones. A call that the
//! adapter does not translate is a call that V2 cannot serve.

use std::sync::Arc;

use serde_json::{Map, Value, value::RawValue};

use crate::{
    policy::{
        PolicyError,
        engine::Policy,
        port::{AdaptedCall, AdapterCall, AdapterReply},
    },
    request::{Answer, Failure, FailureKind},
};

/// One call's translation.
#[derive(Debug)]
pub(super) struct Translation {
    policy: Arc<Policy>,
    original: AdapterCall,
    /// The operation to call on V2.
    pub(super) operation: String,
    /// Its arguments.
    pub(super) arguments: Map<String, Value>,
}

impl Translation {
    /// Translates a call.
    ///
    /// # Errors
    /// The adapter failed; no worker has seen the call.
    pub(super) async fn of(
        policy: Arc<Policy>,
        operation: &str,
        arguments: &Map<String, Value>,
        session: Option<&Arc<str>>,
    ) -> Result<Self, Failure> {
        let original = AdapterCall {
            operation: operation.into(),
            session: session.map_or_else(String::new, ToString::to_string),
            body: serde_json::to_vec(arguments).map_err(|e| Failure::unsent(FailureKind::System, e.to_string()))?,
        };
        let (asked, call) = (Arc::clone(&policy), original.clone());
        let AdaptedCall { operation, body, notices } =
            on_blocking_thread(move || asked.adapt_call(&call).answer).await?;
        for (kind, message) in notices {
            tracing::info!(kind, operation = original.operation, "{message}");
        }
        let arguments =
            serde_json::from_slice(&body).map_err(|e| Failure::unsent(FailureKind::Worker, e.to_string()))?;
        Ok(Self { policy, original, operation, arguments })
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
        let Self { policy, original, .. } = self;
        let reply = on_blocking_thread(move || policy.adapt_reply(&original, reply).answer).await;
        let reply = reply.map_err(|failure| Failure { sent: true, ..failure })?;
        let body = String::from_utf8(reply.body).ok().and_then(|text| RawValue::from_string(text).ok());
        let body = body.ok_or_else(|| Failure::sent(FailureKind::Worker, "the adapter's reply is not JSON"))?;
        Ok(if reply.success { Answer::Success(body) } else { Answer::Refused(body) })
    }
}

async fn on_blocking_thread<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, PolicyError> + Send + 'static,
) -> Result<T, Failure> {
    let answer = tokio::task::spawn_blocking(ask).await;
    let answer = answer.map_err(|e| Failure::unsent(FailureKind::System, format!("the adapter panicked: {e}")))?;
    answer.map_err(|error| Failure::unsent(FailureKind::Worker, format!("the adapter policy {error}")))
}
