//! The admin plane, on its own listener: health, metrics, status, the verbs, flags, policies.
//!
//! Everything that changes something takes a JSON body with a reason, is refused with a sentence and a status, and is
//! audited by the controller that does it. [`metrics`] renders Prometheus text.

mod asked_by;
mod history;
mod input;
pub mod metrics;
mod places;
pub mod policies;
mod serve;
pub mod slots;
mod status;

pub use crate::config::AdminPlane;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{ACCEPT, CONTENT_TYPE},
    },
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::input::{Body, Path, Query};
use crate::host::{Host, Migration};
use cutover_control::migration::{CommandKind, CommandReply, Declined, handle::Code};
use cutover_model::{causes::chain, request::Ppm};
use cutover_store::StoreError;

/// Bodies are names, reasons and settings.
const MAX_BODY: usize = 1 << 20;

/// Bytes of a reason: a paragraph. It is kept for ever, and sent to webhooks.
const MAX_REASON: usize = 1_000;

/// Bytes of a name of somebody.
const MAX_ACTOR: usize = 100;

/// Decisions and entries of the audit that are shown, unless fewer or more are asked for, and the most that may be.
const SHOWN: u32 = 100;
const MOST_SHOWN: u32 = 10_000;

/// The header that all answers of this plane have, so that nobody takes another's for them.
pub const PLANE: &str = "x-cutover-plane";

/// What goes with everything that changes something.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Why, for the audit; some verbs need one.
    pub reason: String,
    /// Who asks, as the caller says; empty for nobody in particular.
    #[serde(default)]
    pub actor: String,
}

/// What goes with a verb that moves a migration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Movement {
    /// Why, for the audit.
    pub reason: String,
    /// Who asks, as the caller says.
    #[serde(default)]
    pub actor: String,
    /// `advance` alone: send everything to V2, because V1 is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_v1: bool,
    /// `advance` and `retreat` alone: the share to go to, such as `25%`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// `redeploy` alone: V2's upstreams were replaced.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// Whose differences are accepted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Acceptance {
    /// The name of the operation.
    pub operation: String,
    /// Why, for the audit.
    pub reason: String,
    /// Who asks, as the caller says.
    #[serde(default)]
    pub actor: String,
}

/// A flag's new value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFlag {
    /// The flag's new value; its type depends on the flag.
    pub value: Value,
    /// Why, for the audit; needed where a flag weakens the host.
    #[serde(default)]
    pub reason: String,
    /// Who asks, as the caller says.
    #[serde(default)]
    pub actor: String,
}

/// An answer that is not the one that was hoped for.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    /// For programs; it does not change.
    code: &'static str,
    message: String,
}

type Answer<T> = Result<Json<T>, Refusal>;
type Shared = State<Arc<Host>>;

/// Serves the admin plane until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    host: Arc<Host>,
    (names, settings): (Arc<ArcSwap<Vec<String>>>, AdminPlane),
    shutdown: CancellationToken,
) {
    let address = listener.local_addr().ok();
    let places = places::places(settings.max_connections);
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(all_status))
        .route("/api/v1/migrations/{migration}", get(one_status))
        .route("/api/v1/migrations/{migration}/{verb}", post(order))
        .route("/api/v1/migrations/{migration}/decisions", get(decisions))
        .route("/api/v1/migrations/{migration}/audit", get(audit))
        .route("/api/v1/migrations/{migration}/comparisons", get(comparisons))
        .route("/api/v1/migrations/{migration}/comparisons/accept", post(accept))
        .route("/api/v1/migrations/{migration}/pools", get(pools))
        .route("/api/v1/migrations/{migration}/history", get(history::page))
        .route("/api/v1/migrations/{migration}/flags", get(flags))
        .route("/api/v1/migrations/{migration}/flags/{flag}", put(set_flag))
        .route("/api/v1/migrations/{migration}/policies", get(slots::list).put(slots::activate))
        .route("/api/v1/migrations/{migration}/candidate", put(slots::stand_by))
        .route("/api/v1/migrations/{migration}/policies/{kind}", put(slots::activate))
        .route(
            "/api/v1/migrations/{migration}/policies/{kind}/candidate",
            get(slots::candidate).put(slots::stand_by).delete(slots::drop_candidate),
        )
        .route("/api/v1/migrations/{migration}/policies/{kind}/candidate/promote", post(slots::promote))
        .route("/api/v1/migrations/{migration}/policies/{kind}/revert", post(slots::revert))
        .route("/api/v1/migrations/{migration}/policy-log", get(slots::log))
        .route("/api/v1/policy-calls/{id}", get(slots::call))
        .route("/api/v1/decisions/{id}", get(slots::decision))
        .route("/api/v1/components/{digest}", get(slots::component))
        .merge(policies::routes())
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "nothing is here; see `/api/v1/status`".into()))
        .method_not_allowed_fallback(async |method: Method| {
            let message = format!("`{method}` is not for this path; `allow` has the methods that are");
            Refusal::coded(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn(move |request, next| places::guard(Arc::clone(&places), request, next)))
        .layer(from_fn(move |request, next| asked_by::guard(address, Arc::clone(&names), request, next)))
        .with_state(host);
    serve::serve(listener, app, settings, shutdown).await;
}

async fn ready(State(host): Shared) -> Response {
    let mut waiting: Vec<String> = Vec::new();
    if let Err(error) = host.store.ping().await {
        waiting.push(cutover_model::causes::chain(&error));
    } else if let Some(trouble) = host.store.trouble() {
        waiting.push(trouble.why.clone());
    }
    for (name, migration) in &host.migrations {
        let pool = migration.split.who_must_serve();
        if !pool.can_serve() {
            let why = pool.why_not_whole().map(|why| format!(": {why}")).unwrap_or_default();
            waiting.push(format!("{name}: {} is not ready{why}", pool.label()));
        }
    }
    let status = if waiting.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let process = std::process::id();
    (status, Json(json!({ "ready": waiting.is_empty(), "waiting_for": waiting, "process": process }))).into_response()
}

async fn metrics(State(host): Shared, headers: HeaderMap) -> Response {
    let format = metrics::Format::wanted(headers.get(ACCEPT).and_then(|value| value.to_str().ok()));
    match metrics::render(&host, format) {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn all_status(State(host): Shared) -> Json<Value> {
    let all: Vec<_> = host.migrations.values().map(|migration| status::of(&host, migration)).collect();
    Json(json!({ "migrations": all, "warnings": host.warnings }))
}

async fn one_status(State(host): Shared, Path(name): Path<String>) -> Answer<status::Status> {
    Ok(Json(status::of(&host, find(&host, &name)?)))
}

async fn order(State(host): Shared, Path((name, verb)): Path<(String, String)>, body: Body<Movement>) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let Body(Movement { reason, actor, without_v1, to, done }) = body;
    let wrong = |message: &str| Err(Refusal::new(StatusCode::BAD_REQUEST, message.into()));
    let to = match to.as_deref().map(|text| (Ppm::parse(text), text)) {
        None => None,
        Some((Some(share), _)) => Some(share),
        Some((None, text)) => return wrong(&format!("`to` is `{text}`; it must be a share of V2, such as `25%`")),
    };
    let verb = match verb.as_str() {
        "advance" if without_v1 && to.is_none() => CommandKind::AdvanceWithoutV1,
        _ if without_v1 => return wrong("`without_v1` is for `advance`, and goes without `to`"),
        "advance" => to.map_or(CommandKind::Advance, CommandKind::AdvanceTo),
        "retreat" => CommandKind::Retreat(to),
        _ if to.is_some() => return wrong("`to` is for `advance` and `retreat`"),
        "redeploy" if done => CommandKind::Redeployed,
        _ if done => return wrong("`done` is for `redeploy`"),
        "redeploy" => CommandKind::Redeploy,
        "pause" => CommandKind::Pause,
        "resume" => CommandKind::Resume,
        "rollback" => CommandKind::Rollback,
        "emergency-rollback" => CommandKind::EmergencyRollback,
        other => {
            let known = "pause, resume, advance, retreat, redeploy, rollback, emergency-rollback";
            let message = format!("there is no verb `{other}`; the verbs are {known}");
            return Err(Refusal::coded(StatusCode::NOT_FOUND, "no-verb", message));
        }
    };
    needs_reason(&reason)?;
    after(migration, migration.handle.ask(verb, who(&actor)?, &reason).await)
}

/// What was done, with where the migration stands after it.
fn after(migration: &Migration, done: Result<CommandReply, Declined>) -> Answer<Value> {
    let CommandReply { message, detail } = done?;
    let state = &migration.handle.snapshot().state;
    Ok(Json(json!({ "message": message, "detail": detail, "state": state })))
}

async fn accept(State(host): Shared, Path(name): Path<String>, body: Body<Acceptance>) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let Body(Acceptance { operation, reason, actor }) = body;
    needs_reason(&reason)?;
    let done = migration.handle.ask(CommandKind::Accept(operation.clone()), who(&actor)?, &reason).await?;
    migration.comparer.accept(&operation);
    after(migration, Ok(done))
}

/// How many are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    limit: Option<u32>,
}

impl Wanted {
    fn most(&self) -> u32 {
        self.limit.unwrap_or(SHOWN).clamp(1, MOST_SHOWN)
    }
}

async fn decisions(State(host): Shared, Path(name): Path<String>, Query(wanted): Query<Wanted>) -> Answer<Value> {
    find(&host, &name)?;
    let decisions = host.store.decisions(&name, wanted.most()).await;
    Ok(Json(json!({ "decisions": decisions? })))
}

async fn audit(State(host): Shared, Path(name): Path<String>, Query(wanted): Query<Wanted>) -> Answer<Value> {
    find(&host, &name)?;
    let audited = host.store.audited(&name, wanted.most()).await;
    Ok(Json(json!({ "audit": audited? })))
}

async fn comparisons(State(host): Shared, Path(name): Path<String>) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let counts = migration.history.totals().comparisons;
    let left_out = migration.plane.left_out();
    Ok(Json(json!({ "counts": counts, "report": migration.comparer.report(), "left_out": left_out })))
}

async fn pools(State(host): Shared, Path(name): Path<String>) -> Answer<Value> {
    let split = &find(&host, &name)?.split;
    Ok(Json(json!({ "pools": [split.v1.view(), split.v2.view()] })))
}

async fn flags(State(host): Shared, Path(name): Path<String>) -> Answer<Value> {
    Ok(Json(json!({ "flags": find(&host, &name)?.handle.snapshot().flags })))
}

async fn set_flag(
    State(host): Shared,
    Path((name, flag)): Path<(String, String)>,
    body: Body<SetFlag>,
) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let Body(SetFlag { value, reason, actor }) = body;
    bounded("reason", &reason, MAX_REASON)?;
    let verb = CommandKind::SetFlag(flag, value);
    after(migration, migration.handle.ask(verb, who(&actor)?, &reason).await)
}

fn find<'a>(host: &'a Host, name: &str) -> Result<&'a Migration, Refusal> {
    let known = || host.migrations.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    let missing = || {
        let message = format!("there is no migration `{name}`; there is {}", known());
        Refusal::coded(StatusCode::NOT_FOUND, "no-migration", message)
    };
    host.migrations.get(name).ok_or_else(missing)
}

fn who(actor: &str) -> Result<&str, Refusal> {
    bounded("actor", actor, MAX_ACTOR)?;
    // On record these are nobody else.
    if ["host", "policy"].contains(&actor.trim().to_ascii_lowercase().as_str()) {
        let message = format!("`actor` is `{actor}`, which is how the host names itself on record; say who you are");
        return Err(Refusal::coded(StatusCode::BAD_REQUEST, "invalid", message));
    }
    Ok(if actor.is_empty() { "unknown" } else { actor })
}

fn needs_reason(reason: &str) -> Result<(), Refusal> {
    if reason.trim().is_empty() {
        return Err(Refusal::coded(StatusCode::BAD_REQUEST, "no-reason", "say why: `reason` is empty".into()));
    }
    bounded("reason", reason, MAX_REASON)
}

/// What people say goes on record, into notices and logs for ever.
fn bounded(field: &str, text: &str, most: usize) -> Result<(), Refusal> {
    if text.len() <= most {
        return Ok(());
    }
    let message = format!("`{field}` has {} bytes; it may have {most}", text.len());
    Err(Refusal::coded(StatusCode::BAD_REQUEST, "too-long", message))
}

impl Refusal {
    /// With the code that its status has.
    fn new(status: StatusCode, message: String) -> Self {
        let code = match status {
            StatusCode::FORBIDDEN => "forbidden",
            StatusCode::NOT_FOUND => "not-found",
            StatusCode::CONFLICT => "refused",
            StatusCode::PAYLOAD_TOO_LARGE => "too-large",
            status if status.is_server_error() => "failed",
            _ => "bad-request",
        };
        Self { status, code, message }
    }

    const fn coded(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message, "code": self.code }))).into_response()
    }
}

impl From<Declined> for Refusal {
    fn from(Declined { code, message }: Declined) -> Self {
        Self::coded(status_of(code), code.name(), message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        let message = chain(&error);
        match error {
            // It answers, and what it has cannot be read: asking again does not help.
            StoreError::Content(_)
            | StoreError::Packed { .. }
            | StoreError::Answer { .. }
            | StoreError::Memory { .. }
            | StoreError::NoChecks { .. }
            | StoreError::NoCandidate(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, message),
            StoreError::Open { .. }
            | StoreError::Taken { .. }
            | StoreError::MarkersTaken { .. }
            | StoreError::Refuses { .. }
            | StoreError::Gone { .. }
            | StoreError::Late { .. }
            | StoreError::Newer { .. }
            | StoreError::Migrate(_)
            | StoreError::Statement(_) => Self::coded(StatusCode::SERVICE_UNAVAILABLE, "store", message),
        }
    }
}

/// The status of a command that was not done, by why.
const fn status_of(code: Code) -> StatusCode {
    match code {
        Code::NoReason | Code::WrongFlag => StatusCode::BAD_REQUEST,
        Code::Folder => StatusCode::FORBIDDEN,
        Code::NotFound | Code::UnknownPolicy | Code::UnknownFlag => StatusCode::NOT_FOUND,
        Code::Stopping | Code::Busy | Code::NotRecorded => StatusCode::SERVICE_UNAVAILABLE,
        Code::Policy(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Code::WrongPhase | Code::Moved | Code::Refused => StatusCode::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every code that a controller or an installer gives.
    const CODES: [Code; 13] = [
        Code::WrongPhase,
        Code::Moved,
        Code::NotRecorded,
        Code::WrongFlag,
        Code::UnknownFlag,
        Code::NoReason,
        Code::Stopping,
        Code::Folder,
        Code::Busy,
        Code::Policy("trap"),
        Code::NotFound,
        Code::UnknownPolicy,
        Code::Refused,
    ];

    #[test]
    fn the_documentation_has_every_code_with_its_status() {
        let table = include_str!("../../docs/operating.md");
        for code in CODES.into_iter().filter(|code| !matches!(code, Code::Policy(_))) {
            let (name, status) = (format!("`{}`", code.name()), status_of(code).as_u16().to_string());
            let rows = table.lines().filter(|line| line.starts_with('|') && line.contains(&name));
            let mut cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
            assert!(cells.any(|cells| cells.get(3) == Some(&&*status)), "{name} with {status}");
        }
        assert_eq!(status_of(Code::Policy("trap")), StatusCode::UNPROCESSABLE_ENTITY);
    }

    #[test]
    fn a_store_that_is_away_is_no_fault_of_whoever_asks_and_may_be_back() {
        let away = Refusal::from(StoreError::Late { limit: std::time::Duration::from_secs(1) });
        assert_eq!((away.status, away.code), (StatusCode::SERVICE_UNAVAILABLE, "store"));
        let torn = serde_json::from_str::<Value>("{").unwrap_err();
        assert_eq!(Refusal::from(StoreError::Content(torn)).status, StatusCode::INTERNAL_SERVER_ERROR);
    }
}
