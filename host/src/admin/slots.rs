//! Who sits where: activate, candidate, promote, revert; and the log of what policies were asked.

use std::{path::PathBuf, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Answer, Order, Refusal, Shared, after, find,
    input::{Body, Path, Query},
    needs_reason, who,
};
use crate::host::{
    Host,
    install::{Attribution, Choice, Source},
};
use cutover_control::migration::Install;
use cutover_model::{clock::UnixMs, port::Kind};
use cutover_policy_host::{
    candidate::{Rule, Weighed},
    installed::InstalledPolicy,
    slot::Slot,
};
use cutover_store::calls::{Page, Wanted};

/// Calls that are shown unless fewer are asked for, and the most that may be asked for.
const CALLS: u32 = 50;
const MOST_CALLS: u32 = 1_000;

/// Bytes of a page of calls, unless one is larger: a check of a busy migration may have a megabyte.
const PAGE_BYTES: usize = 8 << 20;

/// A policy to put in charge, or beside the one in charge.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The bundle's folder, on the host's machine; or else `policy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<PathBuf>,
    /// A release of the registry: `NAME@VERSION`, `NAME` for its latest version, or a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Laid over the settings in force, if the policy in charge has the same name; over the policy's own otherwise.
    #[serde(default)]
    pub settings: toml::Table,
    /// Lay them over the policy's own in any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_defaults: bool,
    /// When a candidate is promoted or demoted by itself; not for a policy that is put in charge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Why, for the audit.
    pub reason: String,
    /// Who asks, as the caller says.
    #[serde(default)]
    pub actor: String,
}

/// Which calls are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    kind: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
}

/// `GET .../policies`
pub(super) async fn list(State(host): Shared, Path(name): Path<String>) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let slots = migration.slots.iter().filter_map(|(kind, slot)| shown(kind, slot, migration.clock.now()));
    Ok(Json(json!({ "migration": name, "slots": slots.collect::<Vec<_>>() })))
}

/// `PUT .../policies/{kind}`, and `PUT .../policies` for whatever kind the policy is of.
pub(super) async fn activate(
    State(host): Shared,
    Path(path): Path<Vec<String>>,
    body: Body<Activate>,
) -> Answer<Value> {
    let (name, kind) = named(&host, &path)?;
    let Body(wanted) = body;
    let choice = wanted.choice()?;
    if wanted.rule.is_some() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "a `rule` belongs to a candidate; leave it out".into()));
    }
    let Activate { actor, reason, .. } = &wanted;
    let done = host.activate(name, kind, choice, Attribution { actor: who(actor)?, reason }).await;
    after(find(&host, name)?, done)
}

/// `PUT .../policies/{kind}/candidate`, and `PUT .../candidate` for whatever kind the policy is of.
pub(super) async fn stand_by(
    State(host): Shared,
    Path(path): Path<Vec<String>>,
    body: Body<Activate>,
) -> Answer<Value> {
    let (name, kind) = named(&host, &path)?;
    let Body(wanted) = body;
    let choice = wanted.choice()?;
    let by = Attribution { actor: who(&wanted.actor)?, reason: &wanted.reason };
    let done = host.stand_by(name, kind, choice, wanted.rule.unwrap_or_default(), by).await;
    after(find(&host, name)?, done)
}

/// `GET .../policies/{kind}/candidate`
pub(super) async fn candidate(State(host): Shared, Path((name, kind)): Path<(String, String)>) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let kind = parse_kind(&kind)?;
    let none = || Refusal::new(StatusCode::NOT_FOUND, format!("no {kind} policy of `{name}` is a candidate"));
    candidate_of(migration.slots.get(kind), migration.clock.now()).map(Json).ok_or_else(none)
}

/// `DELETE .../policies/{kind}/candidate`
pub(super) async fn drop_candidate(host: Shared, path: Path<(String, String)>, body: Body<Order>) -> Answer<Value> {
    install(host, path, body, Install::Drop).await
}

/// `POST .../policies/{kind}/candidate/promote`
pub(super) async fn promote(host: Shared, path: Path<(String, String)>, body: Body<Order>) -> Answer<Value> {
    install(host, path, body, Install::Promote).await
}

/// `POST .../policies/{kind}/revert`
pub(super) async fn revert(host: Shared, path: Path<(String, String)>, body: Body<Order>) -> Answer<Value> {
    install(host, path, body, Install::Revert).await
}

async fn install(
    State(host): Shared,
    Path((name, kind)): Path<(String, String)>,
    body: Body<Order>,
    what: fn(Kind) -> Install,
) -> Answer<Value> {
    let migration = find(&host, &name)?;
    let kind = parse_kind(&kind)?;
    let Body(Order { reason, actor }) = body;
    needs_reason(&reason)?;
    let done = host.install(&name, what(kind), Attribution { actor: who(&actor)?, reason: &reason }).await;
    after(migration, done)
}

/// `GET .../policy-log`
pub(super) async fn log(State(host): Shared, Path(name): Path<String>, filter: Query<Filter>) -> Answer<Page> {
    find(&host, &name)?;
    let Query(Filter { kind, before, limit }) = filter;
    let kind = kind.as_deref().map(parse_kind).transpose()?;
    let most = limit.unwrap_or(CALLS).clamp(1, MOST_CALLS);
    let max_bytes = Some(PAGE_BYTES);
    let wanted = Wanted { migration: Some(name), kind, before, most, max_bytes, ..Wanted::default() };
    let mut page = host.store.calls(&wanted).await?;
    page.kept_from = host.store.oldest_call().await?;
    Ok(Json(page))
}

/// `GET /api/v1/policy-calls/{id}`
pub(super) async fn call(State(host): Shared, Path(id): Path<i64>) -> Answer<Value> {
    let wanted = Wanted { id: Some(id), most: 1, ..Wanted::default() };
    let found = host.store.calls(&wanted).await?.calls.into_iter().next();
    let none =
        || Refusal::new(StatusCode::NOT_FOUND, format!("there is no call {id}, or its check is not kept any more"));
    found.map(|call| Json(json!(call))).ok_or_else(none)
}

/// `GET /api/v1/decisions/{id}`
pub(super) async fn decision(State(host): Shared, Path(id): Path<i64>) -> Answer<Value> {
    let found = host.store.decision(id).await?;
    let none = || Refusal::new(StatusCode::NOT_FOUND, format!("there is no decision {id}"));
    found.map(|decision| Json(json!(decision))).ok_or_else(none)
}

/// `GET /api/v1/components/{digest}`
pub(super) async fn component(State(host): State<Arc<Host>>, Path(digest): Path<String>) -> Result<Response, Refusal> {
    let found = host.store.component(&digest).await?;
    let none = || Refusal::new(StatusCode::NOT_FOUND, format!("there is no component `{digest}`"));
    found.map(|bytes| ([(CONTENT_TYPE, "application/wasm")], bytes).into_response()).ok_or_else(none)
}

impl Activate {
    /// Which policy is meant, and that there is a reason.
    fn choice(&self) -> Result<Choice<'_>, Refusal> {
        needs_reason(&self.reason)?;
        let source = match (&self.bundle, &self.policy) {
            (Some(folder), None) => Source::Bundle(folder),
            (None, Some(reference)) => Source::Release(reference),
            (Some(_), Some(_)) | (None, None) => {
                let why = "say which policy: one of `bundle`, a folder on the host's machine, and `policy`, a release";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, why.into()));
            }
        };
        Ok(Choice { source, settings: &self.settings, from_defaults: self.from_defaults })
    }
}

fn parse_kind(kind: &str) -> Result<Kind, Refusal> {
    kind.parse().map_err(|why| Refusal::new(StatusCode::NOT_FOUND, why))
}

/// The migration, which must be there, and the kind, if the path has one.
fn named<'a>(host: &Host, path: &'a [String]) -> Result<(&'a str, Option<Kind>), Refusal> {
    let (name, kind) = match path {
        [name] => (name, None),
        [name, kind, ..] => (name, Some(parse_kind(kind)?)),
        [] => return Err(Refusal::new(StatusCode::NOT_FOUND, "the path names no migration".into())),
    };
    find(host, name)?;
    Ok((name, kind))
}

/// A slot that anybody sits in, or that is held.
fn shown(kind: Kind, slot: &Slot, now: UnixMs) -> Option<Value> {
    let (active, held) = (slot.installed(), slot.held());
    if active.is_none() && held.is_none() {
        return None;
    }
    Some(json!({
        "kind": kind,
        "active": active.map(|installed| installed_json(&installed)),
        "held": held,
        "previous": slot.previous().map(|installed| installed_json(&installed)),
        "candidate": candidate_of(slot, now),
    }))
}

fn installed_json(installed: &InstalledPolicy) -> Value {
    json!({
        "name": installed.title.name,
        "version": installed.title.version,
        "digest": &**installed.policy.digest(),
        "settings": serde_json::from_str::<Value>(installed.policy.settings()).unwrap_or_default(),
    })
}

fn candidate_of(slot: &Slot, now: UnixMs) -> Option<Value> {
    let candidate = slot.candidate()?;
    let evidence = candidate.evidence.lock().clone();
    let age = now.since(candidate.since);
    let outlook = match candidate.rule.weigh(&evidence, age) {
        Weighed::Wait(why) => json!({ "next": "wait", "because": why }),
        Weighed::Promote(why) => json!({ "next": "promote", "because": why }),
        Weighed::Demote(why) => json!({ "next": "demote", "because": why }),
    };
    let mut shown = installed_json(&candidate.installed);
    if let Value::Object(shown) = &mut shown {
        shown.insert("since".into(), json!(candidate.since));
        shown.insert("rule".into(), json!(candidate.rule));
        shown.insert("disagreed_ppm".into(), json!(evidence.disagreed_share()));
        shown.insert("fuel_percent".into(), json!(evidence.fuel_percent()));
        shown.insert("evidence".into(), json!(evidence));
        shown.insert("outlook".into(), outlook);
    }
    Some(shown)
}
