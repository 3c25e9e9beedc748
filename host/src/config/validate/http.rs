//! What is said about HTTP, checked.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Arc, time::Duration};

use hyper::{header::HeaderName, http::uri::Authority};

use super::{At, cookie, failed, headers, is_name, operations::own_deadline};
use crate::config::{AdminPlane, Config, HttpConfig, MigrationConfig, PlaneConfig, raw};
use cutover_model::{
    causes::chain,
    request::{Class, PoolId},
};
use cutover_traffic::{
    ingress::{
        reaper::Limits,
        table::{HostMatch, Match},
    },
    pace::Pace,
    pool::{
        UpstreamSpec,
        upstream::{Address, Checks, Connector, Ejection, HealthCheck, Lookup, TlsSettings},
    },
    proxy::{
        catalogue::{Catalogue, Defaults, OperationRef, Pattern, Rules},
        head::SessionKey,
        headers::Forwarding,
        limit::{Limit, Limiter, Per, Rate},
        path,
        query::Wanted,
    },
    proxy_protocol::Version,
};

/// How fast operators' bodies must come and their answers be taken: as those of callers, unless the configuration says
/// otherwise of those.
const ADMIN_PACE: Pace = Pace { rate: 500, grace: Duration::from_secs(10) };

/// How long a body may take, unless the configuration says otherwise: a gigabyte at 2.5 megabits a second.
const BODY: Duration = Duration::from_hours(1);

/// Upstreams that a pool may have.
const MAX_UPSTREAMS: usize = 256;

/// Which version of the PROXY protocol is spoken to upstreams.
fn proxy_protocol(at: &mut At<'_>, raw: Option<&str>) -> Option<Version> {
    match raw? {
        "v1" => Some(Version::V1),
        "v2" => Some(Version::V2),
        other => {
            at.wrong(&format!("is `{other}`; it must be `v1` or `v2`"));
            None
        }
    }
}

/// How connections to the admin plane are served.
pub(super) fn admin(at: &mut At<'_>, raw: &raw::http::AdminPlane) -> AdminPlane {
    at.field("max_connections").within(raw.max_connections, 4, 10_000);
    AdminPlane {
        max_connections: raw.max_connections,
        body_timeout: at.field("body_timeout").duration(&raw.body_timeout, "10ms", "1h"),
        limits: Limits {
            header_timeout: at.field("header_timeout").duration(&raw.header_timeout, "10ms", "1h"),
            keep_alive: at.field("keep_alive").duration(&raw.keep_alive, "10ms", "1d"),
            send_timeout: at.field("send_timeout").duration(&raw.send_timeout, "10ms", "1h"),
            pace: ADMIN_PACE,
        },
    }
}

/// What upstreams are told of callers.
pub(super) fn forwarding(at: &mut At<'_>, raw: &raw::http::Http) -> Forwarding {
    let (x_forwarded, forwarded) = match raw.forwarded.as_str() {
        "x-forwarded" => (true, false),
        "forwarded" => (false, true),
        "both" => (true, true),
        "none" => (false, false),
        other => {
            at.field("forwarded")
                .wrong(&format!("is `{other}`; it must be `x-forwarded`, `forwarded`, `both` or `none`"));
            (true, false)
        }
    };
    at.field("trusted_hops").within(raw.trusted_hops.into(), 1, 16);
    Forwarding { x_forwarded, forwarded, trust: raw.trust_forwarded, trusted_hops: raw.trusted_hops }
}

/// A migration of HTTP services.
pub(super) fn plane(
    at: &mut At<'_>,
    name: &str,
    raw: raw::HttpMigration,
    forwarding: Forwarding,
    base: &Path,
) -> HttpConfig {
    if raw.matches.is_empty() {
        at.field("match")
            .wrong("is missing; say what belongs to the migration, such as `[{ host = \"shop.example.com\" }]`");
    }
    let matches =
        raw.matches.into_iter().enumerate().map(|(n, raw)| one_match(&mut at.field(&format!("match[{n}]")), raw));
    let matches = matches.collect();
    let session = raw.session.iter().enumerate().filter_map(|(n, text)| {
        let key = SessionKey::parse(text);
        if key.is_none() {
            at.field(&format!("session[{n}]"))
                .wrong(&format!("is `{text}`; it must be `header:NAME` or `cookie:NAME`"));
        }
        key
    });
    let session: Vec<_> = session.collect();
    let cookie = raw.session_cookie.and_then(|raw| cookie::of(&mut at.field("session_cookie"), raw, &session, base));
    let defaults = Defaults {
        failed: Arc::new(failed::http(&mut at.field("failed"), &raw.failed)),
        headers: headers::rules(&mut at.field("headers"), &raw.headers),
        limiter: raw.rate_limit.as_ref().and_then(|raw| rate_limit(&mut at.field("rate_limit"), raw)),
    };
    let rules = rules(at, raw.unnamed.as_deref(), raw.ambiguous_paths.as_deref());
    let shadow_drop = shadow_drop(&mut at.field("shadow_drop"), raw.shadow_drop);
    let (patterns, by_method) = operations(&mut at.field("operations"), raw.operations, &defaults);
    let catalogue = Catalogue::new(patterns.clone(), &by_method, &defaults, rules).unwrap_or_else(|error| {
        at.field("operations").wrong(&format!("cannot be told apart: {error}"));
        Catalogue::default()
    });
    let label = |id| format!("{name}/{id}");
    let v1 = raw.v1.map(|v1| upstreams(&mut at.field("v1"), &label(PoolId::V1), PoolId::V1, v1, base));
    let v2 = upstreams(&mut at.field("v2"), &label(PoolId::V2), PoolId::V2, raw.v2, base);
    let v1 = v1.unwrap_or_else(|| UpstreamSpec {
        label: label(PoolId::V1),
        id: PoolId::V1,
        is_absent: true,
        upstreams: Vec::new(),
        ..v2.clone()
    });
    let kinds = patterns.iter().map(|pattern| &pattern.kind).chain(&by_method);
    let limits = kinds.filter_map(|kind| Some((Arc::clone(&kind.name), (kind.failed.slower_than?, kind.deadline))));
    let limits = limits.collect();
    HttpConfig {
        limits,
        matches,
        session,
        cookie,
        classes: catalogue.classes(&patterns),
        deadlines: catalogue.deadlines(&patterns),
        rate_limits: catalogue.limits(&patterns),
        catalogue,
        forwarding,
        shadow_drop,
        v1,
        v2,
    }
}

fn one_match(at: &mut At<'_>, raw: raw::http::Match) -> Match {
    let host = HostMatch::parse(&raw.host).unwrap_or_else(|| {
        at.field("host").wrong(&format!("is `{}`; it must be a name, `*.SUFFIX` or `*`", raw.host));
        HostMatch::Any
    });
    let path = if raw.path.is_empty() { raw.path } else { normal(&mut at.field("path"), &raw.path) };
    let headers = raw.headers.into_iter().filter_map(|(name, value)| match name.parse() {
        Ok(name) => Some((name, value)),
        Err(_invalid) => {
            at.field("headers").wrong(&format!("has `{name}`, which is not the name of a header"));
            None
        }
    });
    let headers = headers.collect();
    Match { host, path, headers }
}

/// A path as requests' paths are matched.
fn normal(at: &mut At<'_>, path: &str) -> String {
    if !path.starts_with('/') {
        at.wrong(&format!("is `{path}`; it must begin with `/`"));
    } else if path.contains(['?', '#']) {
        at.wrong(&format!("is `{path}`; it must be a path without a query"));
    } else {
        match path::normal(path) {
            Ok(normal) => return normal.into_owned(),
            Err(why) => at.wrong(&format!("is `{path}`, which can be read in more than one way: {why}")),
        }
    }
    path.to_owned()
}

/// What is made of requests that nobody has named.
fn rules(at: &mut At<'_>, unnamed: Option<&str>, ambiguous_paths: Option<&str>) -> Rules {
    let mut one_of = |field: &str, said: Option<&str>, [usual, other]: [&str; 2]| match said {
        None => false,
        Some(text) if text == usual => false,
        Some(text) if text == other => true,
        Some(text) => {
            at.field(field).wrong(&format!("is `{text}`; it must be `{usual}` or `{other}`"));
            false
        }
    };
    Rules {
        unnamed_reads: one_of("unnamed", unnamed, ["exclusive", "by-method"]),
        serves_ambiguous: one_of("ambiguous_paths", ambiguous_paths, ["refuse", "exclusive"]),
    }
}

/// Fields that mirrored requests are sent without. What the message itself is made of stays.
fn shadow_drop(at: &mut At<'_>, raw: Vec<String>) -> Vec<String> {
    raw.into_iter()
        .filter_map(|name| match name.parse::<HeaderName>() {
            Ok(name) if ["host", "content-length", "content-type"].contains(&name.as_str()) => {
                at.wrong(&format!("has `{name}`, without which a request is another one"));
                None
            }
            Ok(name) => Some(name.as_str().to_owned()),
            Err(_invalid) => {
                at.wrong(&format!("has `{name}`, which is not the name of a header"));
                None
            }
        })
        .collect()
}

/// Named operations, and those that go by a method.
fn operations(
    at: &mut At<'_>,
    raw: BTreeMap<String, raw::Operation>,
    defaults: &Defaults,
) -> (Vec<Pattern>, Vec<OperationRef>) {
    let (mut patterns, mut by_method) = (Vec::new(), Vec::new());
    for (name, operation) in raw {
        let mut at = at.field(&name);
        if !is_name(&name, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) {
            at.wrong("is not an operation's name; use 1 to 64 characters of `a-z A-Z 0-9 _ - .`");
        }
        if operation.v2_name.is_some() {
            at.field("v2_name").wrong("is for worker pools, whose calls an adapter translates; remove it");
        }
        if operation.class == Class::Replicate || operation.key.is_some() || operation.removes {
            at.wrong("is of HTTP services: the class `replicate`, `key` and `removes` are for worker pools");
        }
        let goes_by_method = Catalogue::method_names().any(|method| method == name);
        let own = operation.failed.as_ref().map(|raw| Arc::new(failed::http(&mut at.field("failed"), raw)));
        let failed = own.unwrap_or_else(|| Arc::clone(&defaults.failed));
        let deadline = own_deadline(&mut at, operation.deadline.as_deref());
        let own = operation.headers.as_ref().and_then(|raw| headers::rules(&mut at.field("headers"), raw));
        let headers = headers::both(defaults.headers.as_ref(), own);
        let own = operation.rate_limit.as_ref().and_then(|raw| rate_limit(&mut at.field("rate_limit"), raw));
        let limit = own.as_ref().or(defaults.limiter.as_ref()).map(Limit::of);
        let kind = OperationRef { name: Arc::from(name), class: operation.class, deadline, failed, headers, limit };
        match operation.path {
            None if goes_by_method && !operation.query.is_empty() => {
                at.field("query").wrong("needs a `path`, and an operation with another name than a method's");
            }
            None if goes_by_method => by_method.push(kind),
            None => at.field("path").wrong("is missing; say which requests it is, such as `/orders/{id}`"),
            Some(_) if goes_by_method => at.wrong("has the name of a method, and can have no path"),
            Some(path) if path.contains('?') => at.field("path").wrong(&in_query(&path)),
            Some(path) => {
                let path = normal(&mut at.field("path"), &path);
                let methods = operation.methods.iter().map(|method| method.to_ascii_uppercase()).collect();
                patterns.push(Pattern { kind, methods, path, query: Wanted::new(operation.query) });
            }
        }
    }
    (patterns, by_method)
}

/// How often each caller may send a request.
fn rate_limit(at: &mut At<'_>, raw: &raw::http::RateLimit) -> Option<Arc<Limiter>> {
    let per = match raw.per.as_str() {
        "address" => Per::Address,
        "session" => Per::Session,
        other => {
            at.field("per").wrong(&format!("is `{other}`; it must be `address` or `session`"));
            return None;
        }
    };
    if let Some(burst) = raw.burst {
        at.field("burst").within(burst as usize, 1, 1_000_000);
    }
    let rate = Rate::parse(&raw.rate, raw.burst);
    if rate.is_none() {
        let what = "a number from 1 to 1000000 in a second, minute or hour, such as `100/s`, `30/m` or `1000/h`";
        at.field("rate").wrong(&format!("is `{}`; it must be {what}", raw.rate));
    }
    rate.map(|rate| Arc::new(Limiter::new(rate, per)))
}

/// How a path with a query is to be written.
fn in_query(path: &str) -> String {
    let (before, query) = path.split_once('?').unwrap_or((path, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| match pair.split_once('=') {
        Some((name, value)) => format!("{name} = \"{value}\""),
        None => format!("{pair} = \"*\""),
    });
    let pairs: Vec<_> = pairs.collect();
    format!("is `{path}`, and has a query; write `path = \"{before}\"` and `query = {{ {} }}`", pairs.join(", "))
}

/// A pool of upstreams.
pub(super) fn upstreams(
    at: &mut At<'_>,
    label: &str,
    id: PoolId,
    raw: raw::http::Upstreams,
    base: &Path,
) -> UpstreamSpec {
    let mut addresses = Vec::new();
    for url in &raw.upstreams {
        match Address::parse(url) {
            Ok(address) => addresses.push(address),
            Err(why) => at.field("upstreams").wrong(&format!("has `{url}`; {why}")),
        }
    }
    at.field("upstreams").within(raw.upstreams.len(), 1, MAX_UPSTREAMS);
    at.field("max_connections").within(raw.max_connections, 1, 1_000_000);
    at.field("max_waiting").within(raw.max_waiting, 0, 1_000_000);
    at.field("retries").within(raw.retries as usize, 0, 100);
    at.field("request_buffer").within(raw.request_buffer, 0, 16 << 20);
    at.field("caller_share").within(raw.caller_share as usize, 1, 100);
    let total = raw.total_timeout.map(|text| at.field("total_timeout").duration(&text, "10ms", "30d"));
    at.field("retry_budget").within(raw.retry_budget as usize, 0, 100);
    at.field("ejection.failures").within(raw.ejection.failures as usize, 1, 1_000);
    at.field("ejection.most").within(raw.ejection.most as usize, 0, 100);
    if raw.tls.client_cert.is_some() != raw.tls.client_key.is_some() {
        at.field("tls").wrong("has only one of `client_cert` and `client_key`; give both, or neither");
    }
    let identity = raw.tls.client_cert.zip(raw.tls.client_key);
    let settings = TlsSettings {
        ca: raw.tls.ca.map(|ca| base.join(ca)),
        server_name: raw.tls.server_name,
        identity: identity.map(|(certificate, key)| (base.join(certificate), base.join(key))),
    };
    let needs_tls = addresses.iter().any(Address::is_tls);
    let connector = Connector::new(raw.http2, needs_tls.then_some(&settings)).unwrap_or_else(|error| {
        at.field("tls").wrong(&format!("cannot be used: {}", chain(&error)));
        Connector::plain(raw.http2)
    });
    UpstreamSpec {
        label: label.to_owned(),
        id,
        is_absent: false,
        upstreams: addresses,
        connector,
        lookup: Lookup::default(),
        dns_refresh: at.field("dns_refresh").duration(&raw.dns_refresh, "10ms", "1d"),
        max_connection_age: raw
            .max_connection_age
            .map(|text| at.field("max_connection_age").duration(&text, "10ms", "30d")),
        connect_timeout: at.field("connect_timeout").duration(&raw.connect_timeout, "1ms", "1h"),
        idle_timeout: at.field("idle_timeout").duration(&raw.idle_timeout, "10ms", "7d"),
        total_timeout: total.unwrap_or(BODY),
        stream_total_timeout: total,
        request_buffer: raw.request_buffer,
        caller_share_percent: raw.caller_share,
        max_connections: raw.max_connections,
        max_waiting: raw.max_waiting,
        retries: raw.retries,
        retry_budget_percent: raw.retry_budget,
        ejection: Ejection {
            failures: raw.ejection.failures,
            time: at.field("ejection.time").duration(&raw.ejection.time, "10ms", "1d"),
            most_percent: raw.ejection.most,
        },
        proxy_protocol: proxy_protocol(&mut at.field("proxy_protocol"), raw.proxy_protocol.as_deref()),
        headers: headers::rules(&mut at.field("headers"), &raw.headers),
        health: raw.health.map(|raw| health(&mut at.field("health"), raw)),
        drain_timeout: at.field("drain_timeout").duration(&raw.drain_timeout, "0s", "1d"),
        stream_timeout: at.field("stream_timeout").duration(&raw.stream_timeout, "0s", "1d"),
    }
}

fn health(at: &mut At<'_>, raw: raw::http::Health) -> HealthCheck {
    if !raw.path.starts_with('/') || raw.path.parse::<hyper::Uri>().is_err() {
        at.field("path").wrong(&format!("is `{}`; it must be a path, such as `/healthz`", raw.path));
    }
    if let Some(host) = raw.host.as_ref().filter(|host| host.contains('@') || host.parse::<Authority>().is_err()) {
        at.field("host").wrong(&format!("is `{host}`; it must be a name or address and at most a port"));
    }
    at.field("failures").within(raw.failures as usize, 1, 1_000);
    at.field("successes").within(raw.successes as usize, 1, 1_000);
    HealthCheck {
        path: raw.path,
        host: raw.host,
        interval: at.field("interval").duration(&raw.interval, "10ms", "1h"),
        timeout: at.field("timeout").duration(&raw.timeout, "1ms", "1h"),
        rule: Checks { failures: raw.failures, successes: raw.successes },
    }
}

/// A host that is its own upstream calls itself until it has no connection left.
pub(super) fn not_itself(root: &mut At<'_>, config: &Config, migration: &MigrationConfig) {
    let PlaneConfig::Http(plane) = &migration.plane else { return };
    for pool in [&plane.v1, &plane.v2].into_iter().filter(|pool| !pool.is_absent) {
        let planes = [("host.data_plane", config.data_plane), ("host.admin", config.admin)];
        for (upstream, (field, own)) in pool.upstreams.iter().flat_map(|upstream| planes.map(|plane| (upstream, plane)))
        {
            let Address::Tcp { host, port, .. } = upstream else { continue };
            let address = host.parse::<IpAddr>().ok();
            let is_here = |address: IpAddr| address == own.ip() || address.is_loopback() && own.ip().is_unspecified();
            let is_local = host.eq_ignore_ascii_case("localhost");
            let is_own =
                address.is_some_and(is_here) || is_local && (own.ip().is_loopback() || own.ip().is_unspecified());
            if own.port() != 0 && *port == own.port() && is_own {
                let mut at = root.field(&format!("migrations.{}.{}.upstreams", migration.name, pool.id));
                at.wrong(&format!(
                    "has `{upstream}`, which is `{field}`: the host would call itself; give the service's address"
                ));
            }
        }
    }
}
