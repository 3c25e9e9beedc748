//! What a host starts with all the same, and nobody may have meant: said by `cutover check`, and by a host that starts.

use std::collections::BTreeSet;

use super::{Config, MigrationConfig, PlaneConfig, Problem};
use cutover_model::{port::Kind, request::Class};
use cutover_traffic::{
    dispatch::Operation,
    ingress::table::Match,
    pool::{PoolSpec, UpstreamSpec},
};

/// Everything that a person would look at twice.
pub fn advice(config: &Config) -> Vec<Problem> {
    let mut all = Vec::new();
    if !config.admin.ip().is_loopback() {
        let message = format!(
            "is `{}`, which others than this machine reach, and it has no authentication: whoever reaches it may do everything; \
             use `127.0.0.1:{}` unless something before it keeps others away",
            config.admin,
            config.admin.port()
        );
        all.push(problem("host.admin", message));
    }
    if config.http.proxied.as_ref().is_some_and(|trusted| trusted.is_everybody()) {
        let message = "trusts everybody: whoever reaches `host.data_plane` may say that it is somebody else; give the \
                       addresses of the load balancers";
        all.push(problem("host.http.proxy_protocol_from", message.to_owned()));
    }
    all.extend(same_match(&config.migrations));
    for migration in &config.migrations {
        let at = |field: &str| format!("migrations.{}.{field}", migration.name);
        if is_same(&migration.plane) {
            let message = "is the same as `v1`: nothing is compared but the service with itself".to_owned();
            all.push(problem(at("v2"), message));
        }
        if migration.policies.contains_key(&Kind::Adapter) && matches!(migration.plane, PlaneConfig::Http(_)) {
            let message =
                "is never asked: adapters translate calls of workers, and this migration is one of HTTP services";
            all.push(problem(at("policies.adapter"), message.to_owned()));
        }
        all.extend(never_compared(migration).map(|(field, message)| problem(at(field), message)));
        all.extend(too_slow(migration));
    }
    all
}

fn problem(path: impl Into<String>, message: String) -> Problem {
    Problem { path: path.into(), message }
}

/// Migrations that the same requests belong to: one of them gets nothing.
fn same_match(migrations: &[MigrationConfig]) -> Vec<Problem> {
    let mut known: Vec<(&str, &Match)> = Vec::new();
    let mut all = Vec::new();
    // In the order in which the host looks: that of the names.
    let mut ordered: Vec<_> = migrations.iter().collect();
    ordered.sort_by(|a, b| a.name.cmp(&b.name));
    for migration in ordered {
        let PlaneConfig::Http(plane) = &migration.plane else { continue };
        for (n, matches) in plane.matches.iter().enumerate() {
            let path = format!("migrations.{}.match[{n}]", migration.name);
            match known.iter().find(|(_, before)| *before == matches) {
                Some((before, _)) if *before == migration.name => {
                    all.push(problem(path, "is there twice; leave one out".into()));
                }
                Some((before, _)) => {
                    let message = format!(
                        "is the same as one of `{before}`, whose name comes first: `{before}` gets what fits both, and this migration \
                         none of it; make one of them more exact by host, path or headers"
                    );
                    all.push(problem(path, message));
                }
                None => known.push((migration.name.as_str(), matches)),
            }
        }
    }
    all
}

fn is_same(plane: &PlaneConfig) -> bool {
    match plane {
        PlaneConfig::Operations(plane) => {
            let PoolSpec { command: v1, is_absent, .. } = &plane.v1;
            let v2 = &plane.v2.command;
            !is_absent && (&v1.command, &v1.directory, &v1.environment) == (&v2.command, &v2.directory, &v2.environment)
        }
        PlaneConfig::Http(plane) => {
            let of = |pool: &UpstreamSpec| pool.upstreams.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
            !plane.v1.is_absent && of(&plane.v1) == of(&plane.v2)
        }
    }
}

/// Why no pair is ever compared, and with that no stages policy that waits for pairs goes on.
fn never_compared(migration: &MigrationConfig) -> Option<(&'static str, String)> {
    let then = "no pair is ever compared, and a stages policy that waits for pairs never leaves `shadow`";
    if !migration.policies.contains_key(&Kind::Comparison) {
        return Some((
            "policies.comparison",
            format!("is missing, so {then}; name a bundle, such as `policies/json-compare`"),
        ));
    }
    if migration.shadow_budget == 0 {
        return Some(("shadow_budget", format!("is 0, so nothing is mirrored: {then}")));
    }
    let has_reads = match &migration.plane {
        PlaneConfig::Operations(plane) => plane.operations.values().any(|operation| operation.class == Class::Read),
        PlaneConfig::Http(plane) => plane.classes.values().any(|class| *class == Class::Read),
    };
    (!has_reads).then(|| ("operations", format!("has none of class `read`, so nothing is mirrored: {then}")))
}

/// Limits of latency that no call reaches: it has run out of time before.
fn too_slow(migration: &MigrationConfig) -> Vec<Problem> {
    let limits: Vec<_> = match &migration.plane {
        PlaneConfig::Operations(plane) => {
            let limit = |operation: &Operation| Some((operation.failed.slower_than?, operation.deadline));
            plane.operations.iter().filter_map(|(name, operation)| Some((name, limit(operation)?))).collect()
        }
        PlaneConfig::Http(plane) => plane.limits.iter().map(|(name, limit)| (name, *limit)).collect(),
    };
    let slow = limits.into_iter().filter_map(|(name, (limit, deadline))| {
        let deadline = deadline.unwrap_or(migration.deadline);
        let shown = |span: std::time::Duration| humantime::format_duration(span).to_string();
        (limit >= deadline).then(|| {
            let path = format!("migrations.{}.operations.{name}.failed.slower_than", migration.name);
            let message = format!(
                "is `{}`, and the operation's deadline is `{}`: a call has failed by that before; make it shorter",
                shown(limit),
                shown(deadline)
            );
            problem(path, message)
        })
    });
    slow.collect()
}
