//! One HTTP request through a migration: route, send, retry, fail over, observe, mirror.
//!
//! Bodies stream both ways. A request is sent again only if its upstream has not seen any of it, or if it is idempotent
//! (RFC 9110, 9.2.2), has no body and got no byte of an answer; how many are is bounded by a budget. A `read` without a
//! body that V2 fails, also by a status of 500 or more, is answered by V1 within the caller's deadline. The deadline is
//! for the head of the answer; a body may take as long as it moves.

mod account;
pub mod catalogue;
mod download;
pub mod head;
pub mod headers;
mod journey;
pub mod mirror;
mod tunnel;

use std::{sync::Arc, time::Duration};

use hyper::{
    Request, Response, StatusCode, Version,
    body::Bytes,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, RETRY_AFTER},
    http::request::Parts,
    upgrade::OnUpgrade,
};
use tokio_util::task::TaskTracker;

pub use self::download::{Cut, Download, ReplyBody};
use self::{
    account::{Account, Whose},
    catalogue::Catalogue,
    head::{SessionKey, View},
    headers::{Caller, Forwarding, Malformed},
    journey::{Arrived, Journey, said},
    mirror::HttpMirror,
};
use crate::{
    clock,
    http1::ADDED,
    load::{NO_ROOM, Room},
    observe::Outcome,
    pool::{
        UpstreamPool,
        upstream::{
            Answered, Ticket,
            upload::{Progress, Upload},
        },
    },
    request::{Class, Failure, FailureKind, PoolId},
    split::Split,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const POOL: HeaderName = HeaderName::from_static("x-cutover-pool");
const REASON: HeaderName = HeaderName::from_static("x-cutover-reason");

/// What a caller gets.
pub type Reply = Response<ReplyBody>;

/// What one migration's HTTP requests pass through.
#[derive(Debug)]
pub struct Proxy {
    /// What routes them.
    pub split: Arc<Split>,
    /// The pool that is being replaced.
    pub v1: UpstreamPool,
    /// Its successor.
    pub v2: UpstreamPool,
    /// What operation a request is.
    pub catalogue: Catalogue,
    /// Where the sticky key is looked for, in this order.
    pub session: Vec<SessionKey>,
    /// How long callers wait for the head of an answer.
    pub deadline: Duration,
    /// The part of that time that is kept for V1 after V2 failed a read, in percent.
    pub failover_reserve_percent: u32,
    /// What upstreams are told of callers.
    pub forwarding: Forwarding,
    /// Whether callers are told which pool answered, and why.
    pub says_pool: bool,
    /// Where reads are mirrored.
    pub mirror: Arc<HttpMirror>,
}

/// Where and when a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The host that it is for.
    pub host: &'a HeaderValue,
    /// Who sent it.
    pub caller: &'a Caller,
    /// What there is room for.
    pub room: Room,
    /// Where connections that change their protocol live on: a part of the thread that serves them.
    pub tasks: &'a TaskTracker,
}

impl Proxy {
    /// Serves a request for `host`, as far as there is room.
    pub async fn serve(
        &self,
        mut parts: Parts,
        (upload, progress): (Upload, Option<Arc<Progress>>),
        scene: Scene<'_>,
    ) -> Reply {
        let Scene { host, caller, room, tasks } = scene;
        if let Some(reply) = answer_here(&parts) {
            return reply;
        }
        let Some(kind) = self.catalogue.of(&parts.method, parts.uri.path()) else {
            return refuse(StatusCode::NOT_FOUND, "no-operation", "there is no such operation");
        };
        // One growth of the map instead of several, if any.
        parts.headers.reserve(ADDED);
        let id = request_id(&mut parts);
        let (route, session) = {
            let id = id.to_str().unwrap_or_default();
            let view = View {
                parts: &parts,
                id,
                operation: &kind.name,
                session: self.session.iter().find_map(|key| key.of(&parts.headers)),
                host: host.to_str().unwrap_or_default(),
            };
            let session = view.session.map(|key| self.split.recorder.session(key));
            (self.split.route(&view, || view.copy()), session)
        };
        if route.pool == PoolId::V2 && room < Room::V2 {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", NO_ROOM);
        }
        let mirror = route.mirror && room >= Room::Mirrors;
        let upgrade = headers::upgrade(&parts);
        let changing = upgrade.is_some().then(|| parts.extensions.remove::<OnUpgrade>()).flatten();
        headers::to_upstream(&mut parts, host, caller, self.forwarding, upgrade.clone());
        let repeatable = upload.is_empty() && upgrade.is_none() && parts.method.is_idempotent();
        let started = clock::mono();
        let journey = Journey {
            again: repeatable || (mirror && upload.is_empty()),
            repeatable,
            may_fail_over: kind.class == Class::Read && repeatable,
            whose: Whose { recorder: &self.split.recorder, operation: &kind.name, class: kind.class, session },
            progress,
            started,
            deadline: started + self.deadline,
        };
        let mut request = Box::new(Request::from_parts(parts, upload));
        // HTTP/2 has no way to say that the body is wanted.
        let can_ask = !self.v1.spec().connector.is_http2() && !self.v2.spec().connector.is_http2();
        expect(&mut request, can_ask);
        let Arrived { result, pool } = journey.travel(self, request, route.pool).await;
        let mut reply = match result {
            Ok((answered, ticket)) if answered.response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                change(answered, ticket, changing.map(|caller| (caller, tasks)), journey.whose, pool)
            }
            Ok((answered, ticket)) => self.pass_on(answered, ticket, journey.whose, pool, mirror),
            Err(failure) => refuse(status(&failure), failure.kind.name(), &failure.message),
        };
        let headers = reply.headers_mut();
        headers.insert(REQUEST_ID, id);
        if !self.says_pool {
            return reply;
        }
        headers.insert(POOL, HeaderValue::from_static(pool.name()));
        let reason = if pool == route.pool { &*route.reason } else { "failover" };
        if let Ok(reason) = HeaderValue::from_str(reason) {
            headers.insert(REASON, reason);
        }
        reply
    }

    /// An answer for the caller.
    fn pass_on(&self, answered: Answered, ticket: Ticket, whose: Whose<'_>, pool: PoolId, mirror: bool) -> Reply {
        let Answered { response, request, mut reuse, took } = answered;
        let (mut parts, mut body) = response.into_parts();
        let outcome = if is_failure(parts.status) {
            ticket.count_failure(&said(parts.status));
            Outcome::Failed(FailureKind::Worker)
        } else {
            ticket.count_success();
            Outcome::Answered
        };
        headers::to_caller(&mut parts.headers, None);
        parts.version = Version::HTTP_11;
        let media_type = parts.headers.get(CONTENT_TYPE);
        let is_events = media_type.is_some_and(|value| value.as_bytes().starts_with(b"text/event-stream"));
        let mirrored = (mirror && pool == PoolId::V1 && !is_events)
            .then(|| self.mirror.begin(whose.operation, request, parts.status, media_type))
            .flatten();
        let is_ended = hyper::body::Body::is_end_stream(&body);
        if let Some(whole) = body.take_whole().or_else(|| is_ended.then(Bytes::new)) {
            reuse.keep(&mut body, &ticket);
            whose.observe(pool, outcome, false, took);
            if let Some(mut original) = mirrored {
                original.see(&whole);
                original.compare();
            }
            return Response::from_parts(parts, ReplyBody::whole(whole));
        }
        let mut account = Account::new(whose, pool, took, outcome, mirrored);
        if is_events {
            // It may go on for days: it counts now.
            account.close(None);
        }
        let download = Download::new(body, (ticket, reuse), account, is_events);
        Response::from_parts(parts, ReplyBody::Download(Box::new(download)))
    }

    const fn pool(&self, id: PoolId) -> &UpstreamPool {
        match id {
            PoolId::V1 => &self.v1,
            PoolId::V2 => &self.v2,
        }
    }
}

/// The upstream changes the protocol: from now on bytes are passed on as they come.
fn change(
    answered: Answered,
    ticket: Ticket,
    caller: Option<(OnUpgrade, &TaskTracker)>,
    whose: Whose<'_>,
    pool: PoolId,
) -> Reply {
    let Answered { mut response, took, .. } = answered;
    let Some((caller, tasks)) = caller else {
        ticket.count_failure("changed the protocol without having been asked");
        Account::new(whose, pool, took, Outcome::Failed(FailureKind::Communication), None).close(None);
        let message = "the upstream changed the protocol without having been asked";
        return refuse(StatusCode::BAD_GATEWAY, FailureKind::Communication.name(), message);
    };
    ticket.count_success();
    Account::new(whose, pool, took, Outcome::Answered, None).close(None);
    let upstream = hyper::upgrade::on(&mut response);
    let (mut parts, _) = response.into_parts();
    let protocol = parts.headers.get(hyper::header::UPGRADE).cloned();
    let is_websocket = protocol.as_ref().is_some_and(|p| p.as_bytes().eq_ignore_ascii_case(b"websocket"));
    headers::to_caller(&mut parts.headers, protocol);
    tasks.spawn(tunnel::run(caller, upstream, ticket, is_websocket));
    Response::from_parts(parts, ReplyBody::whole(""))
}

/// Statuses that are the pool's failure.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
}

/// The caller's id of a request, or a new one.
fn request_id(parts: &mut Parts) -> HeaderValue {
    let given = parts.headers.get(REQUEST_ID).filter(|id| (1..=256).contains(&id.len()) && id.to_str().is_ok());
    if let Some(id) = given {
        return id.clone();
    }
    let mut text = [0; 32];
    let random = fastrand::u128(..).to_be_bytes();
    let encoded = hex::encode_to_slice(random, &mut text).ok().and_then(|()| HeaderValue::from_bytes(&text).ok());
    let id = encoded.unwrap_or_else(|| HeaderValue::from_static("none"));
    parts.headers.insert(REQUEST_ID, id.clone());
    id
}

/// What the host answers itself: a TRACE or OPTIONS that must not be passed on any further, and CONNECT.
fn answer_here(parts: &Parts) -> Option<Reply> {
    if parts.method == hyper::Method::CONNECT {
        let message = "the host is no forward proxy; `CONNECT` is not served";
        return Some(refuse(StatusCode::NOT_IMPLEMENTED, "method", message));
    }
    if headers::max_forwards(&parts.method, &parts.headers) != Some(0) {
        return None;
    }
    if parts.method == hyper::Method::TRACE {
        return Some(refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "`TRACE` ends here, and nothing is echoed"));
    }
    let mut reply = Response::new(ReplyBody::whole(""));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    Some(reply)
}

/// Lets the upstream say whether it wants the body, if the caller waits for that.
fn expect(request: &mut Request<Upload>, can_ask: bool) {
    let Some(expectation) = request.headers().get(EXPECT) else { return };
    let waits = expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if !can_ask || !waits || request.body().is_empty() {
        request.headers_mut().remove(EXPECT);
        return;
    }
    let asked = request.body_mut().hold_back();
    hyper::ext::on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            asked.open();
        }
    });
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

/// A request that no proxy may pass on.
pub fn refuse_malformed(malformed: Malformed) -> Reply {
    let mut reply = refuse(StatusCode::BAD_REQUEST, "request", &malformed.to_string());
    // Who cannot be understood once is not listened to any further.
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// An answer of the host itself.
pub fn refuse(status: StatusCode, kind: &str, message: &str) -> Reply {
    let body = serde_json::json!({ "error": { "type": kind, "message": message } }).to_string();
    let mut reply = Response::new(ReplyBody::whole(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}
