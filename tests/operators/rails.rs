//! What no policy passes.

use cutover_control::migration::CommandKind;
use cutover_model::{port::Phase, request::Ppm};

use crate::harness::{Setup, bundle, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_wants_everything_at_once_is_held_and_a_person_is_not() {
    let all =
        "stages = [{ share = '100%' }], shadow = { soak = '0s', min_compared = 1 }, pairs = { min_coverage = '0%' }";
    let host = Setup::default().with("stages", bundle("standard-stages", all)).start().await;
    host.until("the shadow phase", |s| s.state.phase == Phase::Shadow).await;
    host.http.create("ada").await;
    let held = eventually("the rail", async || {
        host.http.greet("ada", &[]).await;
        host.migration()
            .handle
            .snapshot()
            .waiting_for
            .iter()
            .find(|finding| finding.rule == "rail-first-share")
            .cloned()
    });
    assert!(held.await.note.contains("the first share would be 100%, and 50% is the most"));
    assert_eq!(host.migration().handle.snapshot().state.phase, Phase::Shadow);
    host.ask(CommandKind::Advance).await.unwrap();
    let now = host.migration().handle.snapshot();
    assert_eq!((now.state.phase, now.state.share), (Phase::Ramping, Ppm::ALL));
    host.app.shut_down().await;
}
