//! From the shape of the file to types that cannot be wrong. Collects every problem instead of stopping at the first.

mod callers;
mod cookie;
mod failed;
mod failsafe;
mod headers;
mod http;
mod listener;
mod operations;
mod policies;
mod trust;
mod workers;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::operations::operations;
use super::{Bundles, Config, MigrationConfig, PlaneConfig, Problem, limits, raw};
use cutover_control::{
    migration::{
        controller::Patience,
        flags::Flags,
        rails::{Hours, Rails},
    },
    notify,
};
use cutover_model::{
    clock::Wall,
    environment,
    port::Kind,
    request::{PoolId, Ppm},
};
use cutover_policy_host::route::Control;
use cutover_traffic::{
    pool::{
        PoolSpec,
        process::WorkerCommand,
        spec::{HealthChecks, Mode},
    },
    proxy::headers::Forwarding,
};

/// Where a value stands, and where problems with it go.
pub(super) struct At<'a> {
    pub(super) path: String,
    pub(super) problems: &'a mut Vec<Problem>,
}

pub(super) fn config(
    raw: raw::File,
    base: &Path,
    flags: &[(String, String)],
    bundles: Bundles,
) -> Result<Config, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut root = At { path: String::new(), problems: &mut problems };
    let components = raw.host.components.map_or_else(|| environment::components(base), |said| base.join(said));
    let mut host = root.field("host");
    let forwarding = http::forwarding(&mut host.field("http"), &raw.host.http);
    let settings = listener::listener(&mut host.field("http"), &raw.host.http, base);
    let default = raw
        .host
        .http
        .default
        .map(|raw| http::upstreams(&mut host.field("http").field("default"), "default", PoolId::V1, raw, base));
    let mut config = Config {
        http: settings,
        default_upstreams: default,
        forwarding,
        data_plane: host.field("data_plane").address(&raw.host.data_plane),
        admin: host.field("admin").address(&raw.host.admin),
        admin_hosts: host.field("admin_hosts").names(raw.host.admin_hosts),
        admin_plane: http::admin(&mut host.field("admin_plane"), &raw.host.admin_plane),
        store: base.join(&raw.host.store),
        rollback_markers: base.join(&raw.host.rollback_markers),
        policy_folders: policies::folders(&mut host.field("policy_folders"), &raw.host.policy_folders, base),
        policy_cache: policy_cache(raw.host.policy_cache.as_deref(), &raw.host.store, base),
        webhooks: host.field("webhooks").uris(&raw.host.webhooks),
        limits: limits::limits(&mut host.field("policy_limits"), &raw.host.policy_limits),
        patience: patience(&mut host.field("policy_failures"), &raw.host.policy_failures),
        trust: trust::trust(&mut host.field("policy_trust"), raw.host.policy_trust),
        keep_metrics: host.field("keep_metrics").duration(&raw.host.keep_metrics, "1m", "3650d"),
        keep_history: host.field("keep_history").duration(&raw.host.keep_history, "1m", "3650d"),
        keep_policy_log: host.field("keep_policy_log").duration(&raw.host.keep_policy_log, "1m", "3650d"),
        store_bytes: store_bytes(&mut host.field("store_bytes"), raw.host.store_bytes),
        wall: Wall::default(),
        migrations: Vec::new(),
        components,
        source: toml::Table::new(),
    };
    if config.data_plane == config.admin && config.admin.port() != 0 {
        host.field("admin").wrong("is the same as `host.data_plane`; operators need an address of their own");
    }
    if raw.migrations.is_empty() {
        root.field("migrations").wrong("has no migration; add a `[migrations.NAME]`");
    }
    let migrations = migrations(&mut root, raw.migrations, &config, flags, (base, bundles));
    for migration in &migrations {
        http::not_itself(&mut root, &config, migration);
    }
    config.policy_folders.extend(policies::folders_of(&migrations));
    if problems.is_empty() { Ok(Config { migrations, ..config }) } else { Err(problems) }
}

/// Every migration, and the flags that the environment sets, none of which may be for nobody.
fn migrations(
    root: &mut At<'_>,
    raw: BTreeMap<String, raw::Migration>,
    config: &Config,
    flags: &[(String, String)],
    (base, bundles): (&Path, Bundles),
) -> Vec<MigrationConfig> {
    let mut migrations = Vec::new();
    let names: Vec<_> = raw.keys().cloned().collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    for (name, migration_raw) in raw {
        let mut at = root.field(&format!("migrations.{name}"));
        let environment = environment::flags_of(&name, &names, flags).into_iter().collect();
        migrations.extend(migration(
            &mut at,
            &name,
            migration_raw,
            (base, &config.components, bundles),
            config.forwarding,
            environment,
        ));
    }
    for flag in flags {
        let own = std::slice::from_ref(flag);
        if names.iter().any(|name| !environment::flags_of(name, &names, own).is_empty()) {
            continue;
        }
        let (flag, _) = flag;
        root.field(&format!("environment.CUTOVER_FLAG_{flag}")).wrong("names no migration of this configuration");
    }
    migrations
}

/// Where compiled policies are kept; nowhere, if that is what is said.
fn policy_cache(said: Option<&Path>, store: &Path, base: &Path) -> Option<PathBuf> {
    match said {
        None => Some(base.join(store).with_file_name("policy-cache")),
        Some(folder) if folder.as_os_str().is_empty() => None,
        Some(folder) => Some(base.join(folder)),
    }
}

/// An empty store has some hundred kilobytes, and an hour of a busy host some dozen megabytes.
fn store_bytes(at: &mut At<'_>, bytes: u64) -> u64 {
    let (least, most) = (16 << 20, 1 << 50);
    if !(least..=most).contains(&bytes) {
        at.wrong(&format!("is {bytes}; it must be between {least} and {most} bytes"));
    }
    bytes
}

fn patience(at: &mut At<'_>, raw: &raw::PolicyFailures) -> Patience {
    if !(1..=10_000).contains(&raw.count) {
        at.field("count").wrong(&format!("is {}; it must be between 1 and 10000", raw.count));
    }
    Patience { failures: raw.count, within: at.field("within").duration(&raw.within, "1s", "1d") }
}

fn migration(
    at: &mut At<'_>,
    name: &str,
    raw: raw::Migration,
    (base, components, bundles): (&Path, &Path, Bundles),
    forwarding: Forwarding,
    environment: BTreeMap<String, serde_json::Value>,
) -> Option<MigrationConfig> {
    plain(at, name, raw.failover_reserve, &environment);
    let set = http_fields(&raw);
    let session = raw.session.unwrap_or_else(|| vec!["header:x-session-id".into()]);
    let plane = match (raw.v1, raw.v2) {
        (v1 @ (None | Some(raw::Pool::Workers(_))), raw::Pool::Workers(v2)) => {
            only_http(at, &raw.matches, &set);
            let failed = Arc::new(failed::workers(&mut at.field("failed"), &raw.failed));
            let v1 = v1.and_then(raw::Pool::workers);
            PlaneConfig::Operations(Box::new(operations(at, name, (raw.operations, &failed), (v1, *v2), base)))
        }
        (v1 @ (None | Some(raw::Pool::Upstreams(_))), raw::Pool::Upstreams(v2)) => {
            let (matches, operations) = (raw.matches, raw.operations);
            let (failed, v1) = (raw.failed, v1.and_then(raw::Pool::upstreams));
            let raw = raw::HttpMigration {
                matches,
                session,
                session_cookie: raw.session_cookie,
                unnamed: raw.unnamed,
                ambiguous_paths: raw.ambiguous_paths,
                shadow_drop: raw.shadow_drop.unwrap_or_default(),
                headers: raw.headers.unwrap_or_default(),
                rate_limit: raw.rate_limit,
                operations,
                failed,
                v1,
                v2: *v2,
            };
            PlaneConfig::Http(Box::new(http::plane(at, name, raw, forwarding, base)))
        }
        _ => {
            at.field("v2").wrong("is not of the same kind as `v1`; both are workers, or both are upstreams");
            return None;
        }
    };
    let control = control(at, &raw.mirror_back, &raw.holdback);
    if plane.is_v1_absent() && control.holdback > Ppm::ZERO {
        at.field("holdback").wrong("keeps sessions on V1, and `v1` is left out; remove one or put the other back");
    }
    let compares = raw.policies.contains_key(Kind::Comparison.name());
    let rails = rails(&mut at.field("rails"), &raw.rails, compares);
    let check_interval = at.field("check_interval").duration(&raw.check_interval, "100ms", "1h");
    let mut config = MigrationConfig {
        plane,
        salt: raw.salt.unwrap_or_else(|| name.to_owned()),
        failsafe: failsafe::settings(&mut at.field("failsafe"), &raw.failsafe, check_interval),
        check_interval,
        rails,
        deadline: at.field("deadline").duration(&raw.deadline, "1ms", "1h"),
        failover_reserve_percent: raw.failover_reserve,
        shadow_budget: raw.shadow_budget,
        raise_without_v1: raw.raise_without_v1,
        shadow_timeout: at.field("shadow_timeout").duration(&raw.shadow_timeout, "1ms", "1h"),
        control,
        callers: Arc::new(callers::of(at, raw.choice, raw.evidence_rules, base)),
        policies: BTreeMap::new(),
        unreadable: BTreeMap::new(),
        flags: environment,
        name: name.to_owned(),
    };
    let read = policies::policies(&mut at.field("policies"), raw.policies, (base, components, bundles));
    (config.policies, config.unreadable) = read;
    Some(config)
}

/// What can be said of a migration by itself.
fn plain(at: &mut At<'_>, name: &str, failover_reserve: u32, environment: &BTreeMap<String, serde_json::Value>) {
    if !is_name(name, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        at.wrong("is not a name; use 1 to 64 characters of `a-z 0-9 -`");
    }
    if failover_reserve > 99 {
        at.field("failover_reserve").wrong("is a percentage; it must be between 0 and 99");
    }
    if let Err(error) = Flags::new(environment.clone(), BTreeMap::new()) {
        at.field("flags").wrong(&format!("are set wrongly by the environment: {error}"));
    }
}

/// Where nothing is compared, no pair has to be.
fn rails(at: &mut At<'_>, raw: &raw::rails::Rails, compares: bool) -> Rails {
    let hours = raw.hours.as_deref().and_then(|text| {
        let hours = Hours::parse(text);
        if hours.is_none() {
            at.field("hours")
                .wrong(&format!("is `{text}`; it must be days and times in UTC, such as `Mon-Fri 09:00-17:00`"));
        }
        hours
    });
    Rails {
        first_share: at.field("first_share").share(&raw.first_share),
        largest_step: at.field("largest_step").share(&raw.largest_step),
        least_soak: at.field("least_soak").duration(&raw.least_soak, "0s", "365d"),
        min_compared: if compares { raw.min_compared } else { 0 },
        healthy: raw.healthy,
        freeze: raw.freeze,
        hours,
        approval_over: at.field("approval_over").share(&raw.approval_over),
    }
}

/// The fields of a migration that worker pools have not, as far as they are set.
fn http_fields(raw: &raw::Migration) -> Vec<&'static str> {
    let all = [
        ("unnamed", raw.unnamed.is_some()),
        ("ambiguous_paths", raw.ambiguous_paths.is_some()),
        ("shadow_drop", raw.shadow_drop.is_some()),
        ("session_cookie", raw.session_cookie.is_some()),
        ("headers", raw.headers.is_some()),
        ("rate_limit", raw.rate_limit.is_some()),
    ];
    all.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field).collect()
}

/// Refuses what worker pools have not.
fn only_http(at: &mut At<'_>, matches: &[raw::http::Match], set: &[&str]) {
    if !matches.is_empty() {
        at.field("match").wrong("is for HTTP services; worker pools are called at `/v1/{migration}/{operation}`");
    }
    for field in set {
        at.field(field).wrong("is for HTTP services; remove it");
    }
}

fn control(at: &mut At<'_>, mirror_back: &raw::MirrorBack, holdback: &str) -> Control {
    let mut back = at.field("mirror_back");
    let (share, from) = (back.field("share").share(&mirror_back.share), back.field("from").share(&mirror_back.from));
    let held = at.field("holdback").share(holdback);
    if held > Ppm::new(500_000) {
        at.field("holdback").wrong("is more than `50%`; a migration that leaves more on V1 than it moves is none");
    }
    Control { mirror_back: share, mirror_back_from: from, holdback: held }
}

fn pool(at: &mut At<'_>, migration: &str, id: PoolId, raw: raw::Workers, base: &Path) -> PoolSpec {
    let mode = match raw.mode.as_str() {
        "serialized" => Mode::Serialized,
        "concurrent" => Mode::Concurrent,
        other => {
            at.field("mode").wrong(&format!("is `{other}`; it must be `serialized` or `concurrent`"));
            Mode::Concurrent
        }
    };
    let size = workers::size(at, &raw.workers, &raw.optimizer, mode);
    if raw.health_failures == 0 {
        at.field("health_failures").wrong("is 0; a worker is replaced after at least 1 failed health check");
    }
    let directory = raw.directory.map_or_else(|| base.to_owned(), |d| base.join(d));
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    if !directory.is_dir() {
        at.field("directory").wrong(&format!("is `{}`, which is not a folder", directory.display()));
    }
    match raw.command.first() {
        None => at.field("command").wrong("is empty; give the program and its arguments as a list"),
        Some(program) if !environment::finds_program(program, &directory) => {
            at.field("command").wrong(&format!("begins with `{program}`, which is not a program that can be found"));
        }
        Some(_) => {}
    }
    PoolSpec {
        label: format!("{migration}/{id}"),
        id,
        is_absent: false,
        mode,
        size,
        command: WorkerCommand {
            command: raw.command,
            directory,
            environment: raw.environment.into_iter().collect(),
            start_timeout: at.field("start_timeout").duration(&raw.start_timeout, "10ms", "1h"),
        },
        names: Arc::default(),
        warm_up: workers::warm_up(&mut at.field("warm_up"), raw.warm_up),
        queue: workers::queue(&mut at.field("queue"), &raw.queue),
        health: HealthChecks {
            interval: at.field("health_interval").duration(&raw.health_interval, "100ms", "1h"),
            timeout: at.field("health_timeout").duration(&raw.health_timeout, "1ms", "1h"),
            failures: raw.health_failures,
        },
        restarts: workers::restarts(&mut at.field("restarts"), &raw.restarts),
        recovery: workers::errors(&mut at.field("errors"), &raw.errors),
        breaker: workers::breaker(&mut at.field("breaker"), &raw.breaker),
        optimizer: workers::optimizer(&mut at.field("optimizer"), &raw.optimizer),
        drain_timeout: at.field("drain_timeout").duration(&raw.drain_timeout, "0s", "1d"),
        stop: workers::stop(&mut at.field("stop"), &raw.stop),
    }
}

fn is_name(name: &str, allowed: impl Fn(char) -> bool) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}

impl At<'_> {
    pub(super) fn field(&mut self, name: &str) -> At<'_> {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        At { path, problems: self.problems }
    }

    pub(super) fn field_at(&mut self, n: usize) -> At<'_> {
        At { path: format!("{}[{n}]", self.path), problems: self.problems }
    }

    pub(super) fn wrong(&mut self, message: &str) {
        self.problems.push(Problem { path: self.path.clone(), message: message.into() });
    }

    /// Leaves one of problems that are the same.
    pub(super) fn forget_repeated(&mut self) {
        let mut known = Vec::new();
        self.problems.retain(|problem| {
            let new = !known.contains(problem);
            if new {
                known.push(problem.clone());
            }
            new
        });
    }

    fn address(&mut self, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_wrong| {
            self.wrong(&format!("is `{text}`; it must be an address and a port, such as `127.0.0.1:8080`"));
            SocketAddr::from(([127, 0, 0, 1], 0))
        })
    }

    pub(super) fn within(&mut self, number: usize, least: usize, most: usize) {
        if !(least..=most).contains(&number) {
            self.wrong(&format!("is {number}; it must be between {least} and {most}"));
        }
    }

    fn share(&mut self, text: &str) -> Ppm {
        Ppm::parse(text).unwrap_or_else(|| {
            self.wrong(&format!("is `{text}`; it must be a share, such as `5%` or `0.1%`, and not over `100%`"));
            Ppm::ZERO
        })
    }

    pub(super) fn duration(&mut self, text: &str, least: &str, most: &str) -> Duration {
        let parse = |text: &str| humantime::parse_duration(text).ok();
        let (low, high) = (parse(least).unwrap_or_default(), parse(most).unwrap_or(Duration::MAX));
        match parse(text) {
            Some(span) if (low..=high).contains(&span) => span,
            Some(_) => {
                self.wrong(&format!("is `{text}`; it must be between {least} and {most}"));
                low
            }
            None => {
                self.wrong(&format!("is `{text}`; it must be a span of time, such as `{least}` or `5s`"));
                low
            }
        }
    }

    fn uris(&mut self, texts: &[String]) -> Vec<hyper::Uri> {
        let mut uris = Vec::new();
        for text in texts {
            match text.parse::<hyper::Uri>() {
                Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => uris.push(uri),
                Ok(_) | Err(_) => {
                    let shown = notify::masked(text);
                    self.wrong(&format!("has `{shown}`; it must be a URL that begins with `http://`"));
                }
            }
        }
        uris
    }

    /// Names of hosts, without ports.
    fn names(&mut self, names: Vec<String>) -> Vec<String> {
        for name in &names {
            let is_one = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if name.is_empty() || !name.chars().all(is_one) {
                self.wrong(&format!(
                    "has `{name}`; it must be the name of a host without a port, such as `admin.example.com`"
                ));
            }
        }
        names.into_iter().map(|name| name.to_ascii_lowercase()).collect()
    }
}
