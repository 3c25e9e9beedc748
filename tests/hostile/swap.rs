//! Policies swapped under load, and who is in charge after a restart.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cutover_control::migration::CommandKind;
use cutover_model::port::{Kind, Phase};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Load, configured_hostile, in_charge, put, status, wat, write_bundle};
use crate::harness::{Host, Setup, bundle, root};

/// Swaps while callers wait for nothing but their answers.
const SWAPS: usize = 1_000;

/// Callers at once.
const CLIENTS: usize = 64;

/// What the host's memory may grow by during the second half of the swaps, when everything that is kept is there.
const MAX_GROWTH: u64 = 48 << 20;

/// Resident memory of this process, which is the host.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn swap(host: &Host, to: &Path) -> String {
    let reply = put(host, Kind::Comparison, to, &json!({})).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    reply.body["detail"]["to"].as_str().unwrap().to_owned()
}

async fn decisions(host: &Host) -> Value {
    host.http.admin(Method::GET, "/api/v1/migrations/programs/decisions", &Value::Null).await.body
}

/// A setup in which nothing moves by itself and no question runs out of time, however slow the machine is.
fn still(folder: &Path) -> Setup {
    Setup { limits: "time = '10s'\ndecide_time = '10s'", ..Setup::default() }
        .with("rollback", configured_hostile(folder, Kind::Rollback, ""))
        .with("stages", bundle("standard-stages", "shadow = { min_compared = 1000000000 }"))
}

/// Two routing policies: with `in = "decide"` each asks for every request, which must find the policy of its own plan.
fn marked(folder: &Path) -> [PathBuf; 2] {
    ["left", "right"].map(|name| {
        let manifest = format!("name = '{name}'\nversion = '1.0.0'\nkind = 'routing'\nguest = 'hostile'\n");
        write_bundle(folder.join(name), &manifest, None)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_swaps_under_load_fail_no_request_and_leak_nothing_and_the_last_one_survives_a_restart() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let setup = still(folder.path());
    let host = setup.start_in(Arc::clone(&folder)).await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    let mut load = Load::start(&host.http, CLIENTS, Duration::ZERO).await;
    host.ask(CommandKind::Advance).await.unwrap();
    let manifest = "name = 'tiny'\nversion = '1.0.0'\nkind = 'comparison'\ncomponent = 'policy.wasm'\n";
    let tiny =
        ["alpha", "omega"].map(|name| write_bundle(folder.path().join(name), manifest, Some(&wat::comparison(name))));
    let routing = marked(folder.path());
    let mut digest = in_charge(&host, Kind::Comparison).await.unwrap();
    let mut half_way = 0;
    for n in 0..SWAPS {
        if n == SWAPS / 2 {
            half_way = resident();
        }
        if n % 4 == 3 {
            // Every other plan asks for each request, which swaps the warm instances, too.
            let settings = if n % 8 == 3 { json!({ "in": "decide" }) } else { json!({}) };
            let reply = put(&host, Kind::Routing, &routing[n % 8 / 4], &settings).await;
            assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
            continue;
        }
        let before = std::mem::replace(&mut digest, swap(&host, &tiny[n % 2]).await);
        assert!(digest != before || n % 4 == 0, "each swap is one");
    }
    let grown = resident().saturating_sub(half_way);
    assert!(grown < MAX_GROWTH, "{grown} bytes more after the second {} swaps", SWAPS / 2);
    load.answers(CLIENTS).await;
    let last = swap(&host, &root().join("policies/exact-compare")).await;
    let answered = load.end().await;
    assert!(answered > SWAPS, "{answered} answers are no load");
    assert_eq!(in_charge(&host, Kind::Comparison).await.as_ref(), Some(&last));
    let before = status(&host).await;
    assert_eq!((&before["policy_failures"], &before["phase"]), (&json!([]), &json!("ramping")));
    let decided = decisions(&host).await;
    assert_eq!(decided["decisions"].as_array().map(Vec::len), Some(2), "{decided}");
    host.app.shut_down().await;

    let host = setup.start_in(Arc::clone(&folder)).await;
    let after = status(&host).await;
    for field in ["phase", "stage", "share", "since", "policies"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(in_charge(&host, Kind::Comparison).await, Some(last));
    assert_eq!(decisions(&host).await, decided);
    host.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_changed_wins_over_the_last_swap_for_the_kind_that_it_changed() {
    let folder = Arc::new(tempfile::TempDir::new().unwrap());
    let setup = still(folder.path());
    let host = setup.start_in(Arc::clone(&folder)).await;
    swap(&host, &root().join("policies/exact-compare")).await;
    let judge = root().join("policies/thresholds");
    let reply = put(&host, Kind::Rollback, &judge, &json!({ "min_requests": 20 })).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    host.app.shut_down().await;

    let changed = setup.with("comparison", bundle("json-compare", "max_differences = 7"));
    for _ in 0..2 {
        let host = changed.start_in(Arc::clone(&folder)).await;
        let active = |kind| host.migration().slots.get(kind).active().unwrap();
        let (comparison, rollback) = (active(Kind::Comparison), active(Kind::Rollback));
        assert_eq!((&*comparison.description().name, &*rollback.description().name), ("json-compare", "thresholds"));
        assert!(comparison.settings().contains("\"max_differences\":7"), "{}", comparison.settings());
        assert!(rollback.settings().contains("\"min_requests\":20"), "{}", rollback.settings());
        host.app.shut_down().await;
    }
}
