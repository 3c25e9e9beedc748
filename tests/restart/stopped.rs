//! A host that is stopped, and goes on.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn being_stopped_is_no_soak_and_nobody_is_lost_for_it() {
    let hosts = Plan { programs: false, pool: "", http: "" }.start().await;
    let now = async || hosts.status("shop").await["clock"].clone();
    let before = now().await;
    let began = cutover_model::clock::mono();
    hosts.signal(Signal::STOP);
    // Longer than what counts, and with the failsafe's default of two minutes not long enough to be rolled back for.
    tokio::time::sleep(std::time::Duration::from_secs(12)).await;
    hosts.signal(Signal::CONT);
    let gap = eventually("the gap", async || {
        let clock = now().await;
        (clock["gaps"] != 0).then_some(clock)
    })
    .await;
    let ms = |clock: &Value, pointer: &str| clock.pointer(pointer).unwrap().as_u64().unwrap();
    assert!(ms(&gap, "/last_gap/by_ms") >= 6_000, "{gap}");
    let passed = u64::try_from(cutover_model::clock::mono().since(began).as_millis()).unwrap();
    let counted = ms(&gap, "/now") - ms(&before, "/now");
    assert!(counted + ms(&gap, "/last_gap/by_ms") <= passed + 1_000, "{counted} of {passed}: {gap}");
    hosts.until_logged(0, "the host did not run for").await;
    let status = hosts.status("shop").await;
    assert_eq!((&status["phase"], &status["failsafe"]), (&json!("ramping"), &json!([])), "{status}");
}
