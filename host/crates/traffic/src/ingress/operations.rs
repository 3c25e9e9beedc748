//! Operations of worker pools: `POST /v1/{migration}/{operation}` with a JSON object.
//!
//! A request that was accepted runs to its end even if its caller goes away, because a worker that is cut off in the
//! middle of a call has to be replaced. Bodies and waiting calls are bounded.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{Method, StatusCode, body::Bytes};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    dispatch::Dispatch,
    load::{self, Room},
    pool::upstream::{
        Outgoing,
        upload::{Incomplete, Wait},
    },
    proxy::{Reply, refuse, refuse_body, status},
};
use cutover_model::{
    clock,
    request::{Answer, Head, Request, Served},
};

/// The largest body: half of what fits a worker's frame, because JSON may grow when it is written again.
const MAX_BODY: usize = 8 << 20;

/// How long a caller may take to send its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request or session id.
const MAX_ID: usize = 256;

/// One migration, as the ingress sees it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where its requests go.
    pub dispatch: Arc<Dispatch>,
    /// How long its callers wait, unless the operation says otherwise.
    pub deadline: Duration,
}

/// What the ingress knows of a call besides its request.
pub(super) struct Scene<'a> {
    /// Counts the request as served until it is dropped.
    pub(super) served: &'a load::Served,
    /// What there is room for.
    pub(super) room: Room,
    /// Where the call runs to its end, even if the connection is gone.
    pub(super) tasks: &'a TaskTracker,
    /// Counts the call as under way until it has ended.
    pub(super) under_way: TaskTrackerToken,
}

/// The migration and operation that a path names; none if it names no such migration.
pub(super) fn find<'a>(routes: &'a BTreeMap<String, Route>, path: &'a str) -> Option<(&'a Route, &'a str)> {
    let (migration, operation) = path.strip_prefix("/v1/")?.split_once('/').filter(|(_, rest)| !rest.contains('/'))?;
    Some((routes.get(migration)?, operation))
}

/// The refusal of a request that belongs to no migration.
pub(super) fn nothing_here(routes: &BTreeMap<String, Route>, path: &str) -> Reply {
    let migration = path.strip_prefix("/v1/").and_then(|rest| rest.split_once('/')).map(|(migration, _)| migration);
    match migration.filter(|name| !routes.is_empty() && !routes.contains_key(*name)) {
        Some(name) => refuse(StatusCode::NOT_FOUND, "no-migration", &format!("there is no migration `{name}`")),
        None if routes.is_empty() => {
            refuse(StatusCode::NOT_FOUND, "no-route", "no migration serves this host and path")
        }
        None => refuse(StatusCode::NOT_FOUND, "no-route", "nothing is here; call `/v1/{migration}/{operation}`"),
    }
}

/// Reads a call of an operation, and serves it in a task of its own.
pub(super) async fn answer(
    request: Outgoing,
    route: &Route,
    operation: &str,
    Scene { served, mut room, tasks, under_way }: Scene<'_>,
) -> Reply {
    if request.head.method != Method::POST {
        let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "operations are called with POST");
        reply.head.fields.set("allow", "POST");
        return reply;
    }
    let Some((operation, rule)) = route.dispatch.operations.get_key_value(operation) else {
        let message = format!("the migration has no operation `{operation}`");
        return refuse(StatusCode::NOT_FOUND, "no-operation", &message);
    };
    let (operation, deadline) = (Arc::clone(operation), rule.deadline.unwrap_or(route.deadline));
    let comes = request.body.as_whole().is_none();
    if comes {
        // No room is taken while it is the caller who is waited for.
        served.rest();
    }
    let call = match read(request, operation, deadline).await {
        Ok(call) => call,
        Err(reply) => return reply,
    };
    if comes {
        room = served.resume();
        if room == Room::None {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "overload", load::FULL);
        }
    }
    let id = Arc::clone(&call.id);
    let dispatch = Arc::clone(&route.dispatch);
    // A task of its own: it is not dropped with the connection.
    let serve = async move {
        let _until_then = under_way;
        dispatch.serve(call, room).await
    };
    let served = tasks.spawn(serve).await;
    let mut reply = match served {
        Ok(Some(served)) => reply(served),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "no-operation", "there is no such operation"),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "system", &format!("the host failed: {error}")),
    };
    reply.head.fields.set("x-request-id", &*id);
    reply
}

/// Reads headers and body into a request.
async fn read(request: Outgoing, operation: Arc<str>, deadline: Duration) -> Result<Request, Reply> {
    let deadline = clock::mono() + deadline;
    let Outgoing { head, mut body, .. } = request;
    let header = |name: &str| head.fields.text(name).filter(|v| !v.is_empty());
    for name in ["x-request-id", "x-session-id"] {
        let unusable = head.fields.has(name) && head.fields.text(name).is_none_or(|v| v.len() > MAX_ID);
        if unusable {
            let message = format!("`{name}` must be at most {MAX_ID} visible ASCII characters");
            return Err(refuse(StatusCode::BAD_REQUEST, "header", &message));
        }
    }
    let id = header("x-request-id").map_or_else(|| uuid::Uuid::new_v4().to_string().into(), Arc::from);
    let session = header("x-session-id").map(str::to_owned);
    let head = Head {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        host: header("host").unwrap_or_default().to_owned(),
        headers: head.fields.all_text().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let wait = Wait { idle: PATIENCE, total: PATIENCE, bytes: MAX_BODY };
    if let Err(why) = body.gather(wait, false).await {
        return Err(refuse_body(why != Incomplete::Broken, &why.to_string()));
    }
    let collected = match timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let message = format!("the body has more than {MAX_BODY} bytes");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "body", &message));
        }
        Ok(Err(_broken)) => return Err(refuse_body(false, "the caller broke off in the middle of the body")),
        Err(_elapsed) => {
            return Err(refuse(StatusCode::REQUEST_TIMEOUT, "body", &format!("no whole body within {PATIENCE:?}")));
        }
    };
    let arguments = if collected.is_empty() { Ok(Map::new()) } else { serde_json::from_slice(&collected) };
    let mut arguments: Map<String, Value> = arguments.map_err(|error| {
        refuse(StatusCode::BAD_REQUEST, "body", &format!("the body must be a JSON object: {error}"))
    })?;
    let session = one_session(session, arguments.remove("session_id"));
    let session = session.map_err(|why| refuse(StatusCode::BAD_REQUEST, "session", why))?.map(Arc::from);
    Ok(Request { id, operation, session, arguments: Arc::new(arguments), deadline, head: Arc::new(head) })
}

/// The session, which the body may name in the header's place. It must be the one that requests are routed by, or a
/// caller could reach another's state: so it is taken out of the arguments, and two that differ are refused.
fn one_session(header: Option<String>, body: Option<Value>) -> Result<Option<String>, &'static str> {
    match (header, body) {
        (header, None | Some(Value::Null)) => Ok(header),
        (Some(header), Some(Value::String(body))) if header == body => Ok(Some(header)),
        (Some(_), Some(_)) => Err("`x-session-id` and `session_id` in the body differ; give one of them"),
        (None, Some(Value::String(body))) if (1..=MAX_ID).contains(&body.len()) => Ok(Some(body)),
        (None, Some(_)) => Err("`session_id` in the body must be a text of 1 to 256 bytes"),
    }
}

fn reply(served: Served) -> Reply {
    let (status, body) = match served.result {
        Ok(Answer::Success(result)) => (StatusCode::OK, Bytes::from(Box::<str>::from(result).into_string())),
        Ok(Answer::Refused(error)) => {
            let status = match error_type(error.get()).as_deref() {
                Some("not_found") => StatusCode::NOT_FOUND,
                Some("conflict") => StatusCode::CONFLICT,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, Bytes::from(format!(r#"{{"error":{error}}}"#)))
        }
        Err(failure) => (status(&failure), error_body(failure.kind.name(), &failure.message)),
    };
    let mut reply = Reply::json(status, body);
    reply.head.fields.set("x-cutover-pool", served.pool.name());
    reply.head.fields.set("x-cutover-reason", &*served.reason);
    reply
}

fn error_type(error: &str) -> Option<String> {
    let error: Value = serde_json::from_str(error).ok()?;
    Some(error.get("type")?.as_str()?.to_owned())
}

fn error_body(kind: &str, message: &str) -> Bytes {
    Bytes::from(json!({ "error": { "type": kind, "message": message } }).to_string())
}
