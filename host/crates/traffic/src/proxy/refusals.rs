//! What the host answers a caller itself when no upstream answers.

use std::time::Duration;

use hyper::{StatusCode, body::Bytes};

use super::{Reply, ReplyBody, headers::Malformed, path::Ambiguous};
use crate::message::ReplyHead;
use cutover_model::request::{Failure, FailureKind};

/// What a caller is told that gets no answer, because of itself or not.
pub(super) fn unserved(failure: &Failure, by_caller: bool) -> Reply {
    if by_caller && failure.kind == FailureKind::Resource {
        refuse(StatusCode::TOO_MANY_REQUESTS, "caller", &failure.message)
    } else if by_caller {
        refuse_body(failure.kind == FailureKind::Timeout, &failure.message)
    } else {
        refuse(status(failure), failure.kind.name(), &failure.message)
    }
}

/// What a caller is told of a failure.
pub const fn status(failure: &Failure) -> StatusCode {
    match failure.kind {
        FailureKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FailureKind::Resource | FailureKind::System | FailureKind::Initialization => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Connection
        | FailureKind::Communication
        | FailureKind::HealthCheck
        | FailureKind::Session
        | FailureKind::Worker => StatusCode::BAD_GATEWAY,
    }
}

/// A caller who sends more than it may is told when to come back.
pub(super) fn refuse_too_often(wait: Duration) -> Reply {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let message = "this caller has sent more requests than `rate_limit` allows";
    let mut reply = refuse(StatusCode::TOO_MANY_REQUESTS, "rate-limit", message);
    reply.head.fields.set("retry-after", seconds.max(1).to_string());
    reply
}

/// A request that no proxy may pass on.
pub fn refuse_malformed(malformed: Malformed) -> Reply {
    let mut reply = refuse(StatusCode::BAD_REQUEST, "request", &malformed.to_string());
    // Where one message cannot be read, the next cannot be found: the connection ends.
    reply.head.fields.set("connection", "close");
    reply
}

/// A request whose path services read in different ways, where that matters.
pub(super) fn refuse_ambiguous(why: Ambiguous) -> Reply {
    let message = format!(
        "the path can be read in more than one way: {why}; \
         `ambiguous_paths = \"exclusive\"` of the migration lets such paths pass"
    );
    refuse(StatusCode::BAD_REQUEST, "path", &message)
}

/// A request whose body did not come whole, because it is malformed or too `late`.
pub fn refuse_body(late: bool, why: &str) -> Reply {
    let mut reply = refuse(if late { StatusCode::REQUEST_TIMEOUT } else { StatusCode::BAD_REQUEST }, "body", why);
    // Where the next request would begin is not known.
    reply.head.fields.set("connection", "close");
    reply
}

/// An answer of the host itself.
pub fn refuse(status: StatusCode, kind: &str, message: &str) -> Reply {
    Reply::json(status, serde_json::json!({ "error": { "type": kind, "message": message } }).to_string())
}

impl Reply {
    /// JSON. Who is told that there is no room is told when to come back.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let mut head = ReplyHead::of(status);
        head.fields.add("content-type", "application/json");
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            head.fields.add("retry-after", "1");
        }
        Self { head, body: ReplyBody::whole(body) }
    }
}
