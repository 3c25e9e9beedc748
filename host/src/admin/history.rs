//! Recorded checks of a migration as JSON Lines, in pages: `GET /api/v1/migrations/{m}/history?from=..&to=..&after=..`.
//!
//! Who wants more than a page asks again with `after` set to the last line's `id`, until a page is empty. Pages keep the
//! store free for decisions in between.

use axum::{
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use serde::Deserialize;

use super::{
    Refusal, Shared, find,
    input::{Path, Query},
};
use cutover_model::clock::UnixMs;

/// Lines of a page: some megabytes at the most.
const PAGE: u32 = 500;

/// Which lines of a history are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Span {
    /// From this moment on: RFC 3339, or milliseconds since 1970.
    from: Option<String>,
    /// Until before this one.
    to: Option<String>,
    /// Those with a higher number.
    #[serde(default)]
    after: i64,
}

pub(super) async fn page(
    State(host): Shared,
    Path(name): Path<String>,
    Query(Span { from, to, after }): Query<Span>,
) -> Result<Response, Refusal> {
    find(&host, &name)?;
    let wrong = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let time = |text: Option<String>, otherwise| text.map_or(Ok(otherwise), |text| UnixMs::parse(&text));
    let (from, to) = (time(from, UnixMs(0)).map_err(wrong)?, time(to, UnixMs(u64::MAX)).map_err(wrong)?);
    let failed = |why: String| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why);
    let checks = host.store.checks(&name, from, to, after, PAGE).await?;
    let mut lines = Vec::new();
    for check in checks {
        check.write(&mut lines).map_err(|e| failed(e.to_string()))?;
    }
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}
