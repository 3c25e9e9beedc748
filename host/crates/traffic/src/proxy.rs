//! One HTTP request through a migration: route, send, retry, fail over, observe, mirror.
//!
//! Bodies stream both ways, but for short ones, which are kept. A request is sent again only if its upstream has not seen
//! any of it, or if it got no byte of an answer and is a `read` without a body that was not kept, or idempotent (RFC 9110,
//! 9.2.2) without any body; how many are is bounded by a budget. A `read` of that kind that V2 fails, also by a status of 500
//! or more, is answered by V1 within the caller's deadline. The deadline is for the head of the answer; a body may take as long
//! as it moves.

pub mod affinity;
pub mod catalogue;
mod download;
mod exchange;
mod grpc;
pub mod head;
pub mod headers;
pub mod limit;
pub mod mirror;
pub mod path;
pub mod query;
mod recorder;
mod refusals;
mod routed;
mod tunnel;

use std::{borrow::Cow, sync::Arc, time::Duration};

use hyper::{StatusCode, Version, body::Bytes};
use tokio_util::task::TaskTracker;

use self::{
    affinity::SessionCookie,
    catalogue::{Catalogue, Found, OperationRef},
    download::Events,
    head::SessionKey,
    headers::{Caller, Forwarding},
    limit::Limit,
    mirror::{HttpMirror, Wish},
    path::Form,
    refusals::{refuse_ambiguous, refuse_too_often, unserved},
    routed::Routed,
};
pub use self::{
    download::{Cut, Download, ReplyBody},
    refusals::{refuse, refuse_body, refuse_malformed, status},
    tunnel::Upgrading,
};
use crate::{
    failover::May,
    load::{FULL, NO_ROOM, Room, Served},
    message::{Fields, ReplyHead, RequestHead, rules::HeaderRules},
    observe::Outcome,
    pool::{
        UpstreamPool,
        upstream::{
            Answered, Outgoing, Ticket,
            upload::{Incomplete, Progress, SHORT, Upload, Wait},
        },
    },
    proxy::{
        exchange::{Exchange, ExchangeResult, Flow, Repeats, said},
        recorder::{CallContext, Ended, ResponseRecorder},
    },
    split::Split,
};
use cutover_model::{
    clock,
    request::{Class, FailureKind, PoolId},
};

const REQUEST_ID: &str = "x-request-id";
const POOL: &str = "x-cutover-pool";
const REASON: &str = "x-cutover-reason";

/// What a caller is answered.
#[expect(missing_docs, reason = "the names and types of the fields say what they are")]
#[derive(Debug)]
pub struct Reply {
    pub head: ReplyHead,
    pub body: ReplyBody,
}

/// What one migration's HTTP requests pass through.
#[derive(Debug)]
pub struct Proxy {
    /// Chooses the pool for each request, and counts what became of it.
    pub split: Arc<Split>,
    /// The pool that is being replaced.
    pub v1: UpstreamPool,
    /// The pool that replaces `v1`.
    pub v2: UpstreamPool,
    /// What operation a request is.
    pub catalogue: Catalogue,
    /// Where the sticky key is looked for, in this order.
    pub session: Vec<SessionKey>,
    /// The host's own session cookie, if it sets one; it goes before the keys.
    pub cookie: Option<SessionCookie>,
    /// How long callers wait for the head of an answer, unless their operation says otherwise.
    pub deadline: Duration,
    /// The part of that time that is kept for V1 after V2 failed a read, in percent.
    pub failover_reserve_percent: u32,
    /// What upstreams are told of callers.
    pub forwarding: Forwarding,
    /// Whether a pool is told of callers by the PROXY protocol.
    pub tells_ends: bool,
    /// Operations whose callers are limited.
    pub rate_limits: Vec<(Arc<str>, Arc<Limit>)>,
    /// Whether callers are told which pool answered, and why.
    pub says_pool: bool,
    /// Sends reads to the other pool, too, when the plan says so.
    pub mirror: Arc<HttpMirror>,
}

/// A request that came in.
#[derive(Debug)]
pub struct Received {
    /// The request as it came, before its fields are changed.
    pub request: Outgoing,
    /// How far its body has come, if it has one.
    pub progress: Option<Arc<Progress>>,
    /// Its connection, once that has changed its protocol; if it can.
    pub upgrade: Option<Upgrading>,
}

/// Where and when a request came in.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Where the request came from, and over what connection.
    pub caller: &'a Caller,
    /// The normal form of its path.
    pub form: &'a Form,
    /// What counts it as a request that is served.
    pub served: &'a Served,
    /// What there is room for.
    pub room: Room,
    /// Where connections that change their protocol live on: a part of the thread that serves them.
    pub tasks: &'a TaskTracker,
}

impl Proxy {
    /// Serves a request, as far as there is room. Its `Host` says which host it is for ([`headers::host`]).
    pub async fn serve(&self, received: Received, scene: Scene<'_>) -> Reply {
        let Received { mut request, progress, upgrade: connection } = received;
        let Scene { caller, form, served, mut room, tasks } = scene;
        let head = &mut *request.head;
        if let Some(reply) = answer_here(head) {
            return reply;
        }
        let found = match self.find(head, form, caller) {
            Ok(found) => found,
            Err(refused) => return *refused,
        };
        let kind = found.kind;
        let id = request_id(&mut head.fields);
        let Routed { route, session, visit } = self.route(head, form, &id, &kind.name);
        let flow = if is_stream(head) { Flow::Stream } else { Flow::Body };
        if request.body.as_whole().is_none() {
            let wanted = (route.pool, found.class == Class::Read, flow);
            match self.gather(&mut request.body, head, wanted, served).await {
                Ok(found) => room = found,
                Err(refused) => return refused,
            }
        }
        if route.pool == PoolId::V2 && room < Room::V2 {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", NO_ROOM);
        }
        let source = caller.source(&head.fields, self.forwarding);
        request.ends = self.tells_ends.then(|| Box::new(caller.ends(&head.fields, self.forwarding)));
        let upgrade = headers::upgrade(head);
        let is_tls = caller.is_tls(&head.fields, self.forwarding);
        let mirror = Wish::of(route.mirror && found.class == Class::Read, upgrade.is_some(), room);
        self.to_upstream(head, caller, upgrade.as_deref(), kind);
        let is_here = request.body.as_whole().is_some();
        let repeats = repeats(found, head, &request.body, upgrade.is_some());
        let repeatable = repeats == Repeats::Always;
        let started = clock::mono();
        let exchange = Exchange {
            again: repeatable || (mirror == Wish::Yes && is_here),
            repeats,
            may: May {
                repeat: found.class == Class::Read && repeatable,
                go_to_v1: !self.split.is_v1_gone() && self.may_go_to_v1(visit.as_ref()),
            },
            whose: CallContext::of(&self.split.recorder, kind, session, route.apart),
            progress: progress.filter(|_| !is_here),
            source,
            flow,
            started,
            deadline: started + kind.deadline.unwrap_or(self.deadline),
        };
        expect(&mut request, self.can_ask());
        let ExchangeResult { result, pool, since, by_caller } = exchange.run(self, request, route.pool).await;
        let took = clock::mono().since(since);
        // The answer of a pool that the request was not routed to is not mirrored.
        let mirror = if pool == route.pool { mirror } else { Wish::No };
        let whose = CallContext { stands_in: pool != route.pool, ..exchange.whose };
        let changed = (connection, upgrade.as_deref(), tasks);
        let mut reply = match result {
            Ok(answered) => self
                .answer(*answered, whose, (pool, took), mirror, changed)
                .under([&kind.headers, &self.pool(pool).spec().headers]),
            Err(failure) => unserved(&failure, by_caller),
        };
        self.mark(&mut reply.head, visit, (&route, pool), is_tls);
        reply.head.fields.set(REQUEST_ID, id);
        if self.says_pool {
            let reason = if pool == route.pool { &*route.reason } else { "failover" };
            reply.head.fields.set(POOL, pool.name());
            reply.head.fields.set(REASON, reason);
        }
        reply
    }

    /// Makes a request's fields those of one to an upstream.
    fn to_upstream(&self, head: &mut RequestHead, caller: &Caller, upgrade: Option<&[u8]>, kind: &OperationRef) {
        headers::to_upstream(head, caller, self.forwarding, upgrade);
        if let Some(rules) = &kind.headers {
            rules.request.apply(&mut head.fields);
        }
    }

    /// What operation a request is, if its caller may send one now.
    fn find(&self, head: &RequestHead, form: &Form, caller: &Caller) -> Result<Found<'_>, Box<Reply>> {
        let refused = |reply| Err(Box::new(reply));
        let found = match self.catalogue.of(head, form.path(head.uri.path())) {
            Ok(Some(found)) => found,
            Ok(None) => return refused(refuse(StatusCode::NOT_FOUND, "no-operation", "there is no such operation")),
            Err(why) => return refused(refuse_ambiguous(why)),
        };
        match found.kind.limit.as_ref().map(|limit| self.admit(limit, caller, &head.fields)) {
            None | Some(Ok(())) => Ok(found),
            Some(Err(wait)) => refused(refuse_too_often(wait)),
        }
    }

    /// Counts a request against its caller's limit.
    fn admit(&self, limit: &Limit, caller: &Caller, fields: &Fields) -> Result<(), Duration> {
        let session = || {
            // The session that routing uses; but a cookie that is only made now says nothing of a caller that was seen
            // before.
            let visit = self.cookie.as_ref().map(|cookie| cookie.visit(fields, None, clock::unix_ms(), || 0));
            let signed = visit.filter(|visit| !visit.is_new).map(|visit| Cow::Owned(visit.id));
            signed.or_else(|| self.session.iter().find_map(|key| key.of(fields)).map(Cow::Borrowed))
        };
        limit.admit(caller.address(fields, self.forwarding), session, clock::mono())
    }

    /// What the caller gets of an answer: the answer, or the connection that it begins.
    fn answer(
        &self,
        (answered, ticket): (Answered, Ticket),
        whose: CallContext<'_>,
        (pool, took): (PoolId, Duration),
        mirror: Wish,
        (connection, asked, tasks): (Option<Upgrading>, Option<&[u8]>, &TaskTracker),
    ) -> Reply {
        if answered.head.status != StatusCode::SWITCHING_PROTOCOLS {
            return self.pass_on((answered, ticket), whose, (pool, took), mirror);
        }
        self.mirror.deny(mirror, whose, pool);
        let caller = connection.filter(|_| asked.is_some()).map(|caller| (caller, tasks));
        change((answered, ticket), (caller, asked.unwrap_or_default()), whose, (pool, took))
    }

    /// Whether upstreams can say that they want a body before it is sent: HTTP/2 has no way to pass that on.
    fn can_ask(&self) -> bool {
        !self.v1.spec().connector.is_http2() && !self.v2.spec().connector.is_http2()
    }

    /// Waits for the beginning of a body: enough that the caller seems to mean it, or, of a read, all of it, if it can
    /// be kept. Meanwhile the request takes no room and is sent nowhere. Returns what there is room for then; a caller
    /// that does not send enough is refused.
    async fn gather(
        &self,
        body: &mut Upload,
        head: &RequestHead,
        (pool, is_read, flow): (PoolId, bool, Flow),
        served: &Served,
    ) -> Result<Room, Reply> {
        let (waits, spec) = (head.fields.has("expect"), self.pool(pool).spec());
        // A caller that announces trailers wants them passed on; over HTTP/2 only an upstream asks for a body.
        let is_kept = is_read
            && body.length().is_some_and(|length| length <= SHORT as u64)
            && !head.fields.has("trailer")
            && !(head.version == Version::HTTP_2 && waits);
        let bytes = match body.length() {
            Some(_) if is_kept => spec.request_buffer.max(SHORT),
            // A stream may begin with an answer, and who asks whether its body is wanted is told by the upstream.
            _ if flow == Flow::Stream || waits => 0,
            Some(_) => spec.request_buffer,
            // A caller that does not know how long its body will be may wait for an answer to the first of it.
            None => spec.request_buffer.min(1),
        };
        if bytes > 0 {
            served.rest();
            let wait = Wait { idle: spec.idle_timeout, total: spec.total_timeout, bytes };
            // Apart from the request, which would carry the room for it otherwise: most bodies that are short are here.
            let gathered = Box::pin(body.gather(wait, is_kept)).await;
            gathered.map_err(|why| refuse_body(why != Incomplete::Broken, &why.to_string()))?;
        }
        match served.resume() {
            Room::None => Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", FULL)),
            room @ (Room::V1 | Room::V2 | Room::Mirrors) => Ok(room),
        }
    }

    /// An answer for the caller, and how long its head took.
    fn pass_on(
        &self,
        (answered, ticket): (Answered, Ticket),
        whose: CallContext<'_>,
        (pool, took): (PoolId, Duration),
        mirror: Wish,
    ) -> Reply {
        let Answered { mut head, mut body, request, mut reuse, .. } = answered;
        let is_call = grpc::is_call(&head.fields);
        let fails_call = is_call && grpc::has_failed(&head.fields);
        let mut ended = whose.by_head(pool, &head, took);
        if fails_call {
            ended.outcome = Outcome::Failed(FailureKind::Worker);
        }
        // What the team says of an answer is counted, and changes nothing else.
        let fails_member = is_failure(head.status) || fails_call;
        if fails_member {
            let why = if fails_call { grpc::FAILED.to_owned() } else { said(head.status) };
            ticket.count_failure(&why);
        }
        headers::to_caller(&mut head.fields, None);
        let media_type = head.fields.get("content-type");
        let is_events = media_type.is_some_and(|value| value.starts_with(b"text/event-stream"));
        let mirror = if is_events && mirror == Wish::Yes { Wish::Endless } else { mirror };
        // A call that V1 failed is not one that it answered.
        let begins = !self.mirror.deny(mirror, whose, pool) && mirror == Wish::Yes;
        let mirrored = (begins && !(pool == PoolId::V1 && fails_call))
            .then(|| self.mirror.begin(whose, pool, request, &head))
            .flatten();
        let is_ended = hyper::body::Body::is_end_stream(&body);
        let all = body.take_whole().or_else(|| is_ended.then(Bytes::new));
        // A call that goes on may still fail.
        let is_undecided = is_call && all.is_none() && !fails_member;
        if !fails_member && !is_undecided {
            ticket.count_success();
        }
        if let Some(all) = all {
            reuse.keep(&mut body, &ticket);
            whose.observe(whose.by_body(ended, &head.fields, &all));
            if let Some(mut original) = mirrored {
                original.see(&all);
                original.compare();
            }
            return Reply { head, body: ReplyBody::whole(all) };
        }
        let size = hyper::body::Body::size_hint(&body).lower();
        let mut account = ResponseRecorder::new(whose, ended, &head.fields, size, mirrored);
        if is_events {
            // It may go on for days: it counts now.
            account.leave();
        }
        let events = is_events.then(Events::default);
        let download = Download::new(body, (ticket, reuse), account, (events, is_undecided.then_some(false)));
        Reply { head, body: ReplyBody::Download(Box::new(download)) }
    }

    const fn pool(&self, id: PoolId) -> &UpstreamPool {
        match id {
            PoolId::V1 => &self.v1,
            PoolId::V2 => &self.v2,
        }
    }
}

impl Reply {
    /// With what is set and removed in its fields. That comes last: what it said to the host is what its pool said.
    fn under(mut self, rules: [&Option<Arc<HeaderRules>>; 2]) -> Self {
        for rules in rules.into_iter().flatten() {
            rules.response.apply(&mut self.head.fields);
        }
        self
    }
}

/// The upstream changes the protocol: from now on bytes are passed on as they come.
fn change(
    (answered, ticket): (Answered, Ticket),
    (caller, asked): (Option<(Upgrading, &TaskTracker)>, &[u8]),
    whose: CallContext<'_>,
    (pool, took): (PoolId, Duration),
) -> Reply {
    let Answered { mut head, upgraded, .. } = answered;
    let protocol = head.fields.get("upgrade").map(<[u8]>::to_vec);
    let is_asked =
        |protocol: &[u8]| asked.split(|b| *b == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(protocol));
    let caller = caller.filter(|_| protocol.as_deref().is_none_or(is_asked));
    let (Some((caller, tasks)), Some(upstream)) = (caller, upgraded) else {
        ticket.count_failure("changed the protocol without having been asked");
        whose.observe(Ended::without_answer(pool, FailureKind::Communication, took));
        let message = "the upstream changed the protocol without having been asked";
        return refuse(StatusCode::BAD_GATEWAY, FailureKind::Communication.name(), message);
    };
    ticket.count_success();
    whose.observe(whose.by_head(pool, &head, took));
    let is_websocket = protocol.as_ref().is_some_and(|p| p.eq_ignore_ascii_case(b"websocket"));
    headers::to_caller(&mut head.fields, protocol.as_deref());
    tasks.spawn(tunnel::run(caller, upstream, ticket, is_websocket));
    Reply { head, body: ReplyBody::whole("") }
}

/// Whether it is a call of gRPC: its body may go on for as long as there is something to say.
pub fn is_stream(head: &RequestHead) -> bool {
    head.version == Version::HTTP_2 && grpc::is_call(&head.fields)
}

/// When a request may be sent again. A safe method that is not said to be a read may change something after all. And what
/// depends on how a body came is not for what changes something.
fn repeats(found: Found<'_>, head: &RequestHead, body: &Upload, is_upgrade: bool) -> Repeats {
    match found.class {
        Class::Read | Class::Replicate | Class::Exclusive if is_upgrade => Repeats::Never,
        Class::Read if body.as_whole().is_some() => Repeats::Always,
        Class::Read => Repeats::Never,
        Class::Replicate | Class::Exclusive if !body.is_empty() || !found.is_idempotent => Repeats::Never,
        Class::Replicate | Class::Exclusive if head.method.is_safe() => Repeats::AfterRace,
        Class::Replicate | Class::Exclusive => Repeats::Always,
    }
}

/// Statuses that are the pool's failure.
fn is_failure(status: StatusCode) -> bool {
    status.is_server_error()
}

/// The caller's id of a request, or a new one.
fn request_id(fields: &mut Fields) -> String {
    if let Some(given) = fields.text(REQUEST_ID).filter(|id| (1..=256).contains(&id.len())) {
        return given.to_owned();
    }
    let mut id = [0; 32];
    let random = fastrand::u128(..).to_be_bytes();
    let id = hex::encode_to_slice(random, &mut id).ok().and_then(|()| std::str::from_utf8(&id).ok()).unwrap_or("none");
    fields.set(REQUEST_ID, id);
    id.to_owned()
}

/// What the host answers itself: a TRACE or OPTIONS that must not be passed on any further, and CONNECT.
fn answer_here(head: &RequestHead) -> Option<Reply> {
    if head.method == hyper::Method::CONNECT {
        let message = "the host is no forward proxy; `CONNECT` is not served";
        return Some(refuse(StatusCode::NOT_IMPLEMENTED, "method", message));
    }
    if headers::max_forwards(&head.method, &head.fields) != Some(0) {
        return None;
    }
    if head.method == hyper::Method::TRACE {
        return Some(refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "`TRACE` ends here, and nothing is echoed"));
    }
    Some(Reply { head: ReplyHead::of(StatusCode::NO_CONTENT), body: ReplyBody::whole("") })
}

/// Lets the upstream say whether it wants the body, if the caller waits for that (RFC 9110, 10.1.1).
fn expect(request: &mut Outgoing, can_ask: bool) {
    let Some(expectation) = request.head.fields.get("expect") else { return };
    let waits = expectation.eq_ignore_ascii_case(b"100-continue");
    if can_ask && waits && request.body.as_whole().is_none() {
        request.body.hold_back();
    } else {
        request.head.fields.remove("expect");
    }
}
