//! The first request of a migration beside many whose policies are slow to begin.

use std::{fmt::Write as _, fs, net::SocketAddr, time::Duration};

use cutover::{app::App, config::Config};
use cutover_model::{
    clock,
    port::{Kind, Phase},
};
use cutover_policy_host::engine::{Engine, KindLimits, Limits};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::warm::slow_to_begin;
use crate::{
    harness::{PATIENCE, binary, bundle, components, eventually},
    http::Upstream,
};

/// Migrations whose routing policy is asked for each request and is slow to take its settings.
const SLOW: u32 = 49;

/// How long each takes for that, on a machine that does nothing else.
const SETTINGS: Duration = Duration::from_millis(100);

/// Connections over which each is asked at once, so that every thread of the host gets one as a rule.
const CONNECTIONS: usize = 4;

/// A policy whose settings take so long.
fn slow() -> Vec<u8> {
    let limits = Limits::alike(KindLimits { time: Duration::from_secs(20), ..KindLimits::default() });
    let engine = Engine::new(limits).unwrap();
    let rounds = 10_000_000;
    let policy = cutover_policy_host::admission::admit(&engine, Kind::Routing, &slow_to_begin(rounds), "{}").unwrap();
    let takes = policy.start_up().unwrap().configuration;
    slow_to_begin(SETTINGS.as_nanos() * rounds / takes.as_nanos().max(1))
}

fn migration(name: &str, routing: &str, upstreams: [&str; 2]) -> String {
    let [v1, v2] = upstreams;
    format!(
        "[migrations.{name}]\nmatch = [{{ host = '{name}.test' }}]\nsession = ['header:x-session-id']\n\
         [migrations.{name}.v1]\nupstreams = ['{v1}']\n[migrations.{name}.v2]\nupstreams = ['{v2}']\n\
         [migrations.{name}.policies]\nrouting = {routing}\ncomparison = {}\nrollback = {}\nstages = {}\n",
        bundle("json-compare", ""),
        bundle("thresholds", ""),
        bundle("standard-stages", "shadow = { min_compared = 1000000000 }"),
    )
}

/// How long a request takes over a connection of its own, until its whole answer has come.
async fn asked(host: SocketAddr, migration: &str) -> Duration {
    let mut stream = TcpStream::connect(host).await.unwrap();
    let head = format!("GET / HTTP/1.1\r\nhost: {migration}.test\r\nx-session-id: s\r\nconnection: close\r\n\r\n");
    let before = clock::mono();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut reply)).await.expect("an answer").unwrap();
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    clock::mono().since(before)
}

/// The longest of a migration's requests that are made at once.
async fn longest(host: SocketAddr, migration: &'static str) -> Duration {
    let asked = (0..2 * CONNECTIONS).map(|_| asked(host, migration));
    futures_util::future::join_all(asked).await.into_iter().max().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_nine_policies_that_are_slow_to_begin_do_not_keep_the_first_request_of_another_waiting() {
    let (v1, v2) = (Upstream::named("v1").await, Upstream::named("v2").await);
    let urls = [v1.url(), v2.url()];
    let folder = TempDir::new().unwrap();
    let component = tokio::task::spawn_blocking(slow).await.unwrap();
    fs::write(folder.path().join("policy.wasm"), component).unwrap();
    let manifest = "name = 'slow'\nversion = '1.0.0'\nkind = 'routing'\ncomponent = 'policy.wasm'\n";
    fs::write(folder.path().join("policy.toml"), manifest).unwrap();
    let mut text = format!(
        "[host]\ndata_plane = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\nstore = 'test.db'\ncomponents = '{}'\n\
         policy_cache = '{}/policy-cache'\n[host.policy_limits]\ntime = '20s'\n[host.http]\nthreads = 2\n",
        components().display(),
        env!("CARGO_TARGET_TMPDIR"),
    );
    let urls = [&*urls[0], &*urls[1]];
    for n in 0..SLOW {
        let routing = format!("{{ bundle = '.', settings = {{ n = {n} }} }}");
        write!(text, "{}", migration(&format!("slow-{n}"), &routing, urls)).unwrap();
    }
    for other in ["beside", "later"] {
        write!(text, "{}", migration(other, &bundle("sticky-share", ""), urls)).unwrap();
    }
    let config = Config::parse(&text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let app = App::start(config, binary()).await.unwrap();
    let host = app.data_plane;
    // Plans are made when something changes, so that nothing happens from then on.
    for (name, migration) in &app.host.migrations {
        let handle = migration.handle.clone();
        let settled = async || (handle.snapshot().state.phase == Phase::Shadow).then_some(());
        eventually(&format!("{name} to be in shadow"), settled).await;
    }
    let mut times = Vec::new();
    // The second time, nothing is new but the migration that is looked at.
    for first in ["beside", "later"] {
        let mut slow = JoinSet::new();
        for n in 0..SLOW {
            for _ in 0..CONNECTIONS {
                slow.spawn(async move { asked(host, &format!("slow-{n}")).await });
            }
        }
        times.push(longest(host, first).await);
        slow.join_all().await;
    }
    let [beside, later] = times[..] else { panic!("{times:?}") };
    eprintln!("the first request takes {beside:?} beside {SLOW} slow policies, and {later:?} when they are there");
    // Each thread would make half of the instances at least before it gets to it.
    let all = SETTINGS * SLOW;
    assert!(beside < later + all / 4, "{beside:?}, {later:?} when they are there");
    app.shut_down().await;
}
