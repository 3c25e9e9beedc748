//! The registry's part of the admin plane: pushing policies, and seeing which are known.
//!
//! A push is large, so it has a limit of its own, and one body is read at a time: a second push waits for its turn before
//! a byte of it is taken in.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    MAX_REASON, Refusal, Shared, bounded,
    input::{Path, object},
    who,
};
use crate::host::Host;
use cutover_authoring::author::inspect::{Report, Subject, inspect};
use cutover_control::registry::{Offer, PushError};
use cutover_model::{causes::chain, port::Kind};
use cutover_policy_host::{
    dsse::Envelope,
    engine::Imports,
    release::{self, MAX_ENVELOPE, MAX_SETTINGS, Provenance, Release, Settings, check_version},
};

/// How long a push may wait for its turn, and how long its body may take to arrive.
const TURN: Duration = Duration::from_secs(30);
const ARRIVAL: Duration = Duration::from_mins(1);

/// Bytes beyond the limit of a body that are still taken from the wire.
const LISTENED: usize = 64 << 20;

/// Versions that are shown at once: each may be as large as its settings and its script.
const MOST_VERSIONS: usize = 100;

/// A policy to make known.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The policy's name; it must be that in the component's description.
    pub name: String,
    /// The policy's version; it must be that in the component's description.
    pub version: String,
    /// The kind that it is for.
    pub kind: Kind,
    /// The component's bytes in base64.
    pub component: String,
    /// Settings that hold where a migration has none of its own.
    #[serde(default)]
    pub settings: Map<String, Value>,
    /// The script, where the component is an interpreter.
    #[serde(default)]
    pub script: Option<String>,
    /// Whether the component may import the closed stand-in for WASI.
    #[serde(default)]
    pub wasi_stub: bool,
    /// Who wrote it; whoever pushes it, if it is empty.
    #[serde(default)]
    pub author: String,
    /// Why, for the audit.
    pub reason: String,
    /// Who asks, as the caller says.
    #[serde(default)]
    pub actor: String,
    /// Where it came from.
    pub provenance: Provenance,
    /// Who vouches for it: a DSSE envelope.
    #[serde(default)]
    pub envelope: Option<Envelope>,
}

/// A refusal with the name of its cause, for programs.
struct Refused(StatusCode, &'static str, String);

/// The routes under `/api/v1/policies`.
pub(super) fn routes() -> Router<Arc<Host>> {
    let turn = Arc::new(Semaphore::new(1));
    let turn_of_checks = Arc::clone(&turn);
    let push = move |State(host): Shared, body: Body| push(host, Arc::clone(&turn), body);
    let check = move |State(host): Shared, body: Body| check(host, Arc::clone(&turn_of_checks), body);
    Router::new()
        .route("/api/v1/policies", get(list).post(push))
        .route("/api/v1/policies/check", post(check))
        .route("/api/v1/policies/{name}", get(versions))
}

/// The latest version of each name.
async fn list(State(host): Shared) -> Result<Json<Value>, Refusal> {
    let mut policies: Vec<Value> = Vec::new();
    let labels = host.store.release_labels().await?;
    for named in labels.chunk_by(|a, b| a.0 == b.0) {
        let latest = release::latest(named.iter().map(|(_, version)| version.as_str()));
        if let (Some((name, _)), Some(latest)) = (named.first(), latest) {
            let found = host.store.release(name, &latest.to_string()).await?;
            policies.extend(found.map(|release| shown(&host, &release, named.len(), false)));
        }
    }
    Ok(Json(json!({ "policies": policies })))
}

/// The versions of a name, the highest first, in full.
async fn versions(State(host): Shared, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    let mut versions = host.store.release_versions(&name).await?;
    if versions.is_empty() {
        let message = format!("the host knows no policy `{name}`; push it with `cutover policy push`");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    versions.sort_by_cached_key(|version| std::cmp::Reverse(check_version(version).ok()));
    let mut policies = Vec::new();
    for version in versions.iter().take(MOST_VERSIONS) {
        let found = host.store.release(&name, version).await?;
        policies.extend(found.map(|release| shown(&host, &release, versions.len(), true)));
    }
    Ok(Json(json!({ "name": name, "policies": policies })))
}

/// A release as people see it: with whether the host trusts it now, and in full only where it is asked for by name.
fn shown(host: &Host, release: &Release, versions: usize, full: bool) -> Value {
    let mut shown = json!(release);
    if let Some(fields) = shown.as_object_mut() {
        if !full {
            for large in ["settings", "script", "envelope"] {
                fields.remove(large);
            }
        }
        let refused = host.registry.trust.verify(release).err();
        fields.insert("versions".into(), versions.into());
        fields.insert("signatures".into(), release.envelope.as_ref().map_or(0, |e| e.signatures.len()).into());
        fields.insert("accepted".into(), refused.is_none().into());
        fields.insert("why_not".into(), refused.map(|r| r.to_string()).into());
    }
    shown
}

/// A body of at most `limit` bytes. One that is larger is listened to for some time longer, and forgotten: a client that
/// is cut off while it sends does not hear why.
async fn whole(body: Body, limit: usize) -> Result<Vec<u8>, Refused> {
    let (mut pieces, mut bytes, mut length) = (body.into_data_stream(), Vec::new(), 0_usize);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| {
            Refused(StatusCode::BAD_REQUEST, "invalid", format!("the body broke off after {length} bytes: {error}"))
        })?;
        length = length.saturating_add(piece.len());
        if length <= limit {
            bytes.extend_from_slice(&piece);
        } else {
            bytes = Vec::new();
        }
        if length > limit.saturating_add(LISTENED) {
            break;
        }
    }
    let large = || {
        let message = format!(
            "the body has more than {limit} bytes; shrink the component, or raise `host.policy_limits.component_bytes`"
        );
        Refused(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    };
    if length > limit { Err(large()) } else { Ok(bytes) }
}

/// A policy that is offered, and by whom.
async fn offered(host: &Host, turn: &Semaphore, body: Body) -> Result<(Offer, String), Refused> {
    let busy = || Refused(StatusCode::SERVICE_UNAVAILABLE, "busy", "other policies are being pushed; try again".into());
    let _turn = timeout(TURN, turn.acquire()).await.ok().and_then(Result::ok).ok_or_else(busy)?;
    // Base64 takes four bytes for three; settings, script and signatures may all be escaped.
    let limit = host.engine.limits().component_bytes.div_ceil(3) * 4 + 4 * (MAX_SETTINGS + MAX_ENVELOPE);
    let slow =
        |_elapsed| Refused(StatusCode::REQUEST_TIMEOUT, "slow", format!("the body did not arrive in {ARRIVAL:?}"));
    let bytes = timeout(ARRIVAL, whole(body, limit)).await.map_err(slow)??;
    let wrong = |message: String| Refused(StatusCode::BAD_REQUEST, "invalid", message);
    let push: Push = object(&bytes).map_err(wrong)?;
    drop(bytes);
    let component =
        BASE64_STANDARD.decode(&push.component).map_err(|e| wrong(format!("`component` is not base64: {e}")))?;
    let offer = Offer {
        name: push.name,
        version: push.version,
        kind: push.kind,
        component,
        settings: Settings { values: push.settings, script: push.script },
        wasi_stub: push.wasi_stub,
        author: push.author,
        reason: push.reason,
        provenance: push.provenance,
        envelope: push.envelope,
    };
    let refused = |Refusal { status, code, message }| Refused(status, code, message);
    bounded("reason", &offer.reason, MAX_REASON).map_err(refused)?;
    let actor = who(&push.actor).map_err(refused)?.to_owned();
    Ok((offer, actor))
}

/// Whether this host would admit a policy; it is kept nowhere.
async fn check(host: Arc<Host>, turn: Arc<Semaphore>, body: Body) -> Result<Json<Report>, Refused> {
    let (offer, _) = offered(&host, &turn, body).await?;
    let trust = host.registry.trust.screen(&offer.claimed(), offer.envelope.as_ref());
    let engine = Arc::clone(&host.engine);
    let inspected = host.desk.admitting.run(move || {
        let settings = offer.settings.json(offer.kind);
        let imports = Imports::of(offer.wasi_stub);
        inspect(&engine, &Subject { component: &offer.component, kind: Some(offer.kind), settings: &settings, imports })
    });
    let mut report = inspected.await.map_err(PushError::Blocking)?;
    report.problems.extend(trust.err().map(|refused| format!("it {refused}")));
    Ok(Json(report))
}

async fn push(host: Arc<Host>, turn: Arc<Semaphore>, body: Body) -> Result<(StatusCode, Json<Value>), Refused> {
    let (offer, actor) = offered(&host, &turn, body).await?;
    let pushed = host.registry.push(offer, &actor).await?;
    let status = if pushed.new { StatusCode::CREATED } else { StatusCode::OK };
    let label = pushed.release.manifest.label();
    let message = if pushed.new { format!("`{label}` is known now") } else { format!("`{label}` was known already") };
    let policy = shown(&host, &pushed.release, 1, true);
    Ok((status, Json(json!({ "message": message, "new": pushed.new, "policy": policy }))))
}

impl From<PushError> for Refused {
    fn from(error: PushError) -> Self {
        let status = match &error {
            PushError::Invalid { .. } => StatusCode::BAD_REQUEST,
            PushError::Taken { .. } => StatusCode::CONFLICT,
            PushError::Refused { .. } => StatusCode::FORBIDDEN,
            PushError::Policy { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            PushError::Blocking(_) | PushError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, error.cause(), chain(&error))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.2, "code": self.1, "cause": self.1 }))).into_response()
    }
}
