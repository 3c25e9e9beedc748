//! The data plane: HTTP in, [`Request`]s out to the migrations.
//!
//! `POST /v1/{migration}/{operation}` with a JSON object. A request that was accepted runs to its end even if its caller
//! goes away, because a worker that is cut off in the middle of a call has to be replaced. Connections, headers, bodies
//! and waiting calls are all bounded.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    clock,
    dispatch::Dispatch,
    request::{Answer, Failure, FailureKind, Head, Request, Served},
};

/// Connections that are served at once; the others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;

/// The largest body: half of what fits a worker's frame, because JSON may grow when it is written again.
const MAX_BODY: usize = 8 << 20;

/// How long a caller may take to send its headers, and then its body.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest request or session id.
const MAX_ID: usize = 256;

/// One migration, as the ingress sees it.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where its requests go.
    pub dispatch: Arc<Dispatch>,
    /// How long its callers wait.
    pub deadline: Duration,
}

/// The data plane's listener.
#[derive(Debug)]
pub struct Ingress {
    listener: TcpListener,
    routes: Arc<BTreeMap<String, Route>>,
    tasks: TaskTracker,
}

type Reply = Response<Full<Bytes>>;

impl Ingress {
    /// Listens at `address`; accepted requests run in `tasks`.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn bind(
        address: SocketAddr,
        routes: BTreeMap<String, Route>,
        tasks: TaskTracker,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener, routes: Arc::new(routes), tasks })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until `shutdown`, then lets connections finish their requests.
    pub async fn serve(self, shutdown: CancellationToken) {
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        loop {
            let accepted = async {
                let permit = Arc::clone(&connections).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = accepted => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, as a rule: wait for some to come back instead of spinning.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            // Requests and replies are small and must not wait for each other's acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            let (routes, tasks) = (Arc::clone(&self.routes), self.tasks.clone());
            let service = service_fn(move |request| {
                let (routes, tasks) = (Arc::clone(&routes), tasks.clone());
                async move { Ok::<_, Infallible>(answer(request, &routes, &tasks).await) }
            });
            let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
            self.tasks.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection ended early");
                }
                drop(permit);
            });
        }
        graceful.shutdown().await;
    }
}

async fn answer(request: hyper::Request<Incoming>, routes: &BTreeMap<String, Route>, tasks: &TaskTracker) -> Reply {
    let path = request.uri().path().to_owned();
    let mut parts = path.trim_start_matches('/').split('/');
    let (Some("v1"), Some(migration), Some(operation), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return refuse(StatusCode::NOT_FOUND, "no-route", "nothing is here; call `/v1/{migration}/{operation}`");
    };
    let Some(route) = routes.get(migration) else {
        return refuse(StatusCode::NOT_FOUND, "no-migration", &format!("there is no migration `{migration}`"));
    };
    if request.method() != Method::POST {
        let mut reply = refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "operations are called with POST");
        reply.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return reply;
    }
    let Some((operation, _)) = route.dispatch.operations.get_key_value(operation) else {
        let message = format!("the migration `{migration}` has no operation `{operation}`");
        return refuse(StatusCode::NOT_FOUND, "no-operation", &message);
    };
    let operation = Arc::clone(operation);
    let call = match read(request, operation, route.deadline).await {
        Ok(call) => call,
        Err(reply) => return reply,
    };
    let id = Arc::clone(&call.id);
    let dispatch = Arc::clone(&route.dispatch);
    // A task of its own: it is not dropped with the connection.
    let served = tasks.spawn(async move { dispatch.serve(call).await }).await;
    let mut reply = match served {
        Ok(Some(served)) => reply(served),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "no-operation", "there is no such operation"),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "system", &format!("the host failed: {error}")),
    };
    if let Ok(id) = HeaderValue::from_str(&id) {
        reply.headers_mut().insert("x-request-id", id);
    }
    reply
}

/// Reads headers and body into a request.
async fn read(request: hyper::Request<Incoming>, operation: Arc<str>, deadline: Duration) -> Result<Request, Reply> {
    let deadline = clock::mono() + deadline;
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    for name in ["x-request-id", "x-session-id"] {
        let unusable = parts.headers.get(name).is_some_and(|v| v.to_str().is_err() || v.len() > MAX_ID);
        if unusable {
            let message = format!("`{name}` must be at most {MAX_ID} visible ASCII characters");
            return Err(refuse(StatusCode::BAD_REQUEST, "header", &message));
        }
    }
    let id = header("x-request-id").map_or_else(|| uuid::Uuid::new_v4().to_string().into(), Arc::from);
    let session = header("x-session-id").map(str::to_owned);
    let head = Head {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        host: header("host").unwrap_or_default().to_owned(),
        headers: parts
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
            .collect(),
    };
    let collected = match timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_too_large)) => {
            let message = format!("the body could not be read, or has more than {MAX_BODY} bytes");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, "body", &message));
        }
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
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-cutover-pool", HeaderValue::from_static(served.pool.name()));
    if let Ok(reason) = HeaderValue::from_str(&served.reason) {
        headers.insert("x-cutover-reason", reason);
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    reply
}

const fn status(failure: &Failure) -> StatusCode {
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

fn error_type(error: &str) -> Option<String> {
    let error: Value = serde_json::from_str(error).ok()?;
    Some(error.get("type")?.as_str()?.to_owned())
}

fn refuse(status: StatusCode, kind: &str, message: &str) -> Reply {
    let mut reply = Response::new(Full::new(error_body(kind, message)));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

fn error_body(kind: &str, message: &str) -> Bytes {
    Bytes::from(json!({ "error": { "type": kind, "message": message } }).to_string())
}
