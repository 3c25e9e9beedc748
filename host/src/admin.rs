//! The admin plane, on its own listener: health, metrics, status, the verbs, flags, policies.
//!
//! Everything that changes something takes a JSON body with a reason, is refused with a sentence and a status, and is
//! audited by the controller that does it. [`metrics`] renders Prometheus text.

mod history;
pub mod metrics;
pub mod policies;
pub mod seats;
mod status;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State, rejection::JsonRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{Host, Migration},
    migration::{Ordered, Verb},
};

/// Bodies are names, reasons and settings.
const MAX_BODY: usize = 1 << 20;

/// Decisions that are shown.
const DECISIONS: u32 = 100;

/// What goes with everything that changes something.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// Why.
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub actor: String,
}

/// What goes with a verb that moves a migration.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Movement {
    /// Why.
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub actor: String,
    /// `advance` alone: send everything to V2, because V1 is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub without_v1: bool,
}

/// A flag's new value.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetFlag {
    /// The value.
    pub value: Value,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Who.
    #[serde(default)]
    pub actor: String,
}

/// An answer that is not the one that was hoped for.
#[derive(Debug)]
struct Refusal(StatusCode, String);

type Answer<T> = Result<Json<T>, Refusal>;
type Body<T> = Result<Json<T>, JsonRejection>;
type Shared = State<Arc<Host>>;

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, host: Arc<Host>, shutdown: CancellationToken) {
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/v1/status", get(all_status))
        .route("/api/v1/migrations/{migration}", get(one_status))
        .route("/api/v1/migrations/{migration}/{verb}", post(order))
        .route("/api/v1/migrations/{migration}/decisions", get(decisions))
        .route("/api/v1/migrations/{migration}/comparisons", get(comparisons))
        .route("/api/v1/migrations/{migration}/pools", get(pools))
        .route("/api/v1/migrations/{migration}/history", get(history::page))
        .route("/api/v1/migrations/{migration}/flags", get(flags))
        .route("/api/v1/migrations/{migration}/flags/{flag}", put(set_flag))
        .route("/api/v1/migrations/{migration}/policies", get(seats::seats).put(seats::activate))
        .route("/api/v1/migrations/{migration}/candidate", put(seats::stand_by))
        .route("/api/v1/migrations/{migration}/policies/{kind}", put(seats::activate))
        .route(
            "/api/v1/migrations/{migration}/policies/{kind}/candidate",
            get(seats::candidate).put(seats::stand_by).delete(seats::drop_candidate),
        )
        .route("/api/v1/migrations/{migration}/policies/{kind}/candidate/promote", post(seats::promote))
        .route("/api/v1/migrations/{migration}/policies/{kind}/revert", post(seats::revert))
        .route("/api/v1/migrations/{migration}/policy-log", get(seats::log))
        .route("/api/v1/policy-calls/{id}", get(seats::call))
        .route("/api/v1/decisions/{id}", get(seats::decision))
        .route("/api/v1/components/{digest}", get(seats::component))
        .merge(policies::routes())
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "nothing is here; see `/api/v1/status`".into()))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(host);
    let served = axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.cancelled().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "the admin plane ended");
    }
}

async fn ready(State(host): Shared) -> Response {
    let mut waiting: Vec<String> = Vec::new();
    if let Err(error) = host.store.ping().await {
        waiting.push(crate::causes::chain(&error));
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
    (status, Json(json!({ "ready": waiting.is_empty(), "waiting_for": waiting }))).into_response()
}

async fn metrics(State(host): Shared) -> Response {
    match metrics::render(&host) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn all_status(State(host): Shared) -> Json<Value> {
    let all: Vec<_> = host.migrations.values().map(|migration| status::of(&host, migration)).collect();
    Json(json!({ "migrations": all, "warnings": host.warnings }))
}

async fn one_status(State(host): Shared, Path(name): Path<String>) -> Answer<status::Status> {
    Ok(Json(status::of(&host, find(&host, &name)?)))
}

async fn order(
    State(host): Shared,
    Path((name, verb)): Path<(String, String)>,
    body: Body<Movement>,
) -> Answer<Ordered> {
    let migration = find(&host, &name)?;
    let Json(Movement { reason, actor, without_v1 }) = body?;
    let verb = match verb.as_str() {
        "advance" if without_v1 => Verb::AdvanceWithoutV1,
        _ if without_v1 => return Err(Refusal(StatusCode::BAD_REQUEST, "`without_v1` is for `advance`".into())),
        "pause" => Verb::Pause,
        "resume" => Verb::Resume,
        "advance" => Verb::Advance,
        "rollback" => Verb::Rollback,
        "emergency-rollback" => Verb::EmergencyRollback,
        other => return Err(Refusal(StatusCode::NOT_FOUND, format!("there is no verb `{other}`"))),
    };
    if reason.trim().is_empty() {
        return Err(Refusal(StatusCode::BAD_REQUEST, "say why: `reason` is empty".into()));
    }
    migration.handle.ask(verb, who(&actor), &reason).await.map(Json).map_err(conflict)
}

async fn decisions(State(host): Shared, Path(name): Path<String>) -> Answer<Value> {
    find(&host, &name)?;
    let decisions = host.store.decisions(&name, DECISIONS).await;
    let decisions = decisions.map_err(|e| Refusal(StatusCode::INTERNAL_SERVER_ERROR, crate::causes::chain(&e)))?;
    Ok(Json(json!({ "decisions": decisions })))
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
) -> Answer<Ordered> {
    let migration = find(&host, &name)?;
    let Json(SetFlag { value, reason, actor }) = body?;
    let verb = Verb::SetFlag(flag, value);
    migration.handle.ask(verb, who(&actor), &reason).await.map(Json).map_err(conflict)
}

fn find<'a>(host: &'a Host, name: &str) -> Result<&'a Migration, Refusal> {
    let known = || host.migrations.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ");
    let missing = || Refusal(StatusCode::NOT_FOUND, format!("there is no migration `{name}`; there is {}", known()));
    host.migrations.get(name).ok_or_else(missing)
}

fn conflict(why: String) -> Refusal {
    Refusal(StatusCode::CONFLICT, why)
}

fn who(actor: &str) -> &str {
    if actor.is_empty() { "unknown" } else { actor }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}
