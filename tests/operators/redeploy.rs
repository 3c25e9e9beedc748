//! Upstreams that are replaced in the middle of a ramp.

use serde_json::{Value, json};

use super::{Detached, check::site, still};
use crate::{harness::eventually, http::Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_replaced_by_a_command_or_by_somebody_who_says_so() {
    let upstreams = [Upstream::named("one").await, Upstream::named("two").await];
    let sites = site("shop", &upstreams[0].url(), &upstreams[1].url(), "");
    let instead = |text: String| format!("{}{sites}", text.split_once("[migrations.programs]").unwrap().0);
    let host = Detached::start(&still(), instead, &[]);
    host.json(&["wait", "shop", "--for", "shadow"]);
    host.order(&["advance", "shop"]);
    let status = |host: &Detached| host.json(&["status", "shop"])["migrations"][0].clone();
    let held = host.order(&["redeploy", "shop"]);
    assert_eq!(held["state"]["redeploys"], true, "{held}");
    let now = status(&host);
    assert_eq!((&now["share"], &now["effective_share"]), (&json!(50_000), &json!(0)), "V1 has everybody: {now}");
    assert_eq!(now["outlook"]["holds"][0]["what"], "redeploy", "{now}");
    host.verb(&["advance", "shop", "--reason", "r"]).fails(4, &["until it is back"]);
    let back = eventually("the calls in flight to end", async || {
        let done = host.verb(&["redeploy", "shop", "--done", "--reason", "r"]);
        (done.code == Some(0)).then_some(())
    });
    back.await;
    eventually("V2 to be back", async || (status(&host)["effective_share"] == 50_000).then_some(())).await;

    let done = host.verb(&["redeploy", "shop", "--reason", "r", "--json", "--", "true"]).json();
    assert_eq!(done["message"], "V2 is back: shop is ramping, with 5% on V2", "{done}");
    // Somebody else says it sooner.
    let said =
        format!("{} redeploy shop --done --reason r --admin {}", crate::harness::binary().display(), host.http.admin);
    let told =
        host.verb(&["redeploy", "shop", "--reason", "r", "--", "sh", "-c", &format!("until {said}; do :; done")]);
    assert_eq!(told.code, Some(0), "{told:?}");
    let failed = host.verb(&["redeploy", "shop", "--reason", "r", "--", "false"]);
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert!(failed.err.contains("`false` ended with") && failed.err.contains("`--done`"), "{failed:?}");
    assert_eq!(status(&host)["redeploys"], true, "V1 keeps everybody");
    assert_eq!(host.order(&["rollback", "shop"])["state"]["phase"], "rolled-back");
    assert_eq!(status(&host)["redeploys"], Value::Null);
}

/// Whoever says that V2 was replaced may be early: what the host knows of it is of the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_v2_that_is_said_to_be_back_and_is_not_gets_nobody_until_it_is() {
    for health in ["", "health = { path = '/', interval = '10s' }"] {
        let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
        let sites = site("shop", &v1.url(), &v2.url(), "")
            .replace("[migrations.shop.v2]", &format!("[migrations.shop.v2]\n{health}"));
        let instead = |text: String| format!("{}{sites}", text.split_once("[migrations.programs]").unwrap().0);
        let host = Detached::start(&still(), instead, &[]);
        host.json(&["wait", "shop", "--for", "shadow"]);
        host.order(&["advance", "shop"]);
        let status = |host: &Detached| host.json(&["status", "shop"])["migrations"][0].clone();
        host.order(&["redeploy", "shop"]);
        let address = v2.address();
        drop(v2);
        let said = eventually("the calls in flight to end", async || {
            let done = host.verb(&["redeploy", "shop", "--done", "--reason", "r"]);
            (done.code == Some(0)).then_some(())
        });
        said.await;
        let wait = host.verb(&["wait", "shop", "--for", "complete", "--timeout", "1s"]);
        assert_ne!(wait.code, Some(0));
        let now = status(&host);
        assert_eq!((&now["effective_share"], &now["redeploys"]), (&json!(0), &json!(true)), "{health}: {now}");
        let _v2 = Upstream::instead_of(address, "new").await;
        eventually("V2 to be back", async || (status(&host)["effective_share"] == 50_000).then_some(())).await;
    }
}
