//! Orders, what they answer, and what is on record of them.

use hyper::Method;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Detached, cutover, still};
use crate::harness::eventually;

#[tokio::test(flavor = "multi_thread")]
async fn orders_answer_with_the_state_after_them_and_everything_is_on_record() {
    let host = Detached::start(&still(), |text| text, &[]);
    host.json(&["wait", "programs", "--for", "shadow"]);
    let up = host.order(&["advance", "programs", "--to", "30%"]);
    assert_eq!((&up["state"]["share"], &up["state"]["stage"]), (&json!(300_000), &json!(0)), "{up}");
    assert_eq!(host.order(&["advance", "programs"])["state"]["share"], 500_000, "the next stage of the table");
    assert_eq!(host.order(&["retreat", "programs"])["state"]["share"], 300_000);
    assert_eq!(host.order(&["retreat", "programs", "--to", "7%"])["state"]["share"], 70_000);
    let refused = host.verb(&["retreat", "programs", "--reason", "r", "--json"]);
    refused.fails(4, &["\"code\":\"wrong-phase\"", "`rollback` sends everything to V1", "\"exit_code\":4"]);
    host.verb(&["advance", "programs", "--to", "7%", "--reason", "r"]).fails(4, &["`retreat` lowers it"]);
    host.verb(&["advance", "programs", "--to", "lots", "--reason", "r", "--json"])
        .fails(2, &["\"code\":\"usage\"", "25%"]);

    host.verb(&["flags", "set", "programs", "auto_rollback", "false"]).fails(4, &["say why", "nobody goes back to V1"]);
    host.verb(&["flags", "set", "programs", "auto_rollback", "false", "--reason", "a drill"]).succeeds();
    let status = host.verb(&["status"]).succeeds();
    for words in [
        "programs: ramping, between the 6 stages, 7% on V2",
        "next: 10% on V2",
        "held by auto_rollback: nobody goes back to V1 by itself",
        "moved by: `cutover flags set programs auto_rollback true --reason TEXT`",
        "2/2 workers",
    ] {
        assert!(status.contains(words), "no {words:?} in\n{status}");
    }
    assert!(!status.contains(" us,") && !status.contains(" us\n"), "microseconds are nothing for people:\n{status}");
    let decisions = host.json(&["decisions", "programs", "--limit", "2"]);
    let kinds: Vec<_> = decisions["decisions"].as_array().unwrap().iter().map(|d| d["kind"].clone()).collect();
    assert_eq!(kinds, ["retreat", "retreat"]);
    assert!(
        host.verb(&["decisions", "programs"]).succeeds().contains("advance      ramping -> ramping, 30% -> 50% on V2")
    );
    let audit = host.json(&["audit", "programs"]);
    let flag = audit["audit"].as_array().unwrap().iter().find(|entry| entry["action"] == "set-flag").unwrap();
    assert_eq!(flag["detail"]["reason"], "a drill");
    assert!(host.verb(&["audit", "programs"]).succeeds().contains("a drill"));
    let log = host.log();
    assert!(log.contains("WARN") && log.contains("`auto_rollback` to false"), "{log}");
    host.order(&["rollback", "programs"]);
    let log = host.until_logged("rollback: rolled-back").await;
    assert!(log.lines().filter(|line| line.contains("ERROR")).count() == 0, "what a person orders is no error: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flag_that_is_off_is_told_again_by_each_host_that_starts() {
    let host = Detached::start(&still(), |text| text, &[]);
    host.verb(&["flags", "set", "programs", "circuit_breaker", "false", "--reason", "a drill"]).succeeds();
    host.signal(Signal::USR2);
    let log = host.until_logged("the successor serves").await;
    let successor = log.split("successor=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let log = host.until_logged("the flag `circuit_breaker` is off").await;
    assert!(log.contains(&format!("[{successor}]")) && log.contains(&format!("[{}]", host.pid)), "whose line is whose");
    let successor = rustix::process::Pid::from_raw(successor.parse().unwrap()).unwrap();
    rustix::process::kill_process(successor, Signal::TERM).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn v2_is_replaced_in_the_middle_of_a_ramp_and_comes_back_at_the_same_stage() {
    let host = Detached::start(&still(), |text| text, &[]);
    host.json(&["wait", "programs", "--for", "shadow"]);
    host.order(&["advance", "programs"]);
    host.order(&["advance", "programs"]);
    let v2 = |host: &Detached| host.json(&["status", "programs"])["migrations"][0]["workers"]["v2"].clone();
    let before = v2(&host);
    let back = host.order(&["redeploy", "programs"]);
    assert_eq!(back["message"], "V2 is back: programs is ramping, with 10% on V2", "{back}");
    assert_eq!((&back["state"]["stage"], &back["state"]["effective_share"]), (&json!(1), &json!(100_000)), "{back}");
    let after = v2(&host);
    assert_eq!(after.as_array().map(Vec::len), Some(2));
    assert!(after.as_array().unwrap().iter().all(|pid| !before.as_array().unwrap().contains(pid)), "{before} {after}");
    let decisions = host.json(&["decisions", "programs", "--limit", "2"]);
    let kinds: Vec<_> = decisions["decisions"].as_array().unwrap().iter().map(|d| d["kind"].clone()).collect();
    assert_eq!(kinds, ["redeployed", "redeploy"]);
    let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
    assert!(status["last_rollback"].is_null() && status["policy_failures"].as_array().unwrap().is_empty(), "{status}");
    assert!(!host.log().contains("ERROR"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_right_after_the_start_is_no_alarm() {
    let host = Detached::start(&still(), |text| text, &[]);
    host.verb(&["rollback", "programs", "--reason", "at once"]).succeeds();
    let settled = eventually("V2 to settle", async || {
        let status = host.http.admin(Method::GET, "/api/v1/migrations/programs", &Value::Null).await.body;
        (!status["last_rollback"].is_null()).then_some(status)
    });
    let status = settled.await;
    assert_eq!(status["not_starting"], json!([]), "{status}");
    let log = host.log();
    assert!(!log.contains("ERROR") && !log.contains("do not start"), "{log}");
    let refused = host.verb(&["pause", "programs", "--reason", "r"]);
    refused.fails(4, &["rolled-back: nothing moves that could be paused"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_speak_json_with_codes_that_do_not_change() {
    let host = Detached::start(&still(), |text| text, &[]);
    let long = "x".repeat(1_001);
    for (arguments, exit, code) in [
        (vec!["status", "prompts"], 4, "no-migration"),
        (vec!["resume", "programs", "--reason", "r"], 4, "wrong-phase"),
        (vec!["pause", "programs", "--reason", " "], 4, "no-reason"),
        (vec!["pause", "programs", "--reason", &long], 4, "too-long"),
        (vec!["flags", "set", "programs", "shadows", "true"], 4, "unknown-flag"),
        (vec!["explode"], 2, "usage"),
        (vec!["status", "--admin", "127.0.0.1:1"], 3, "unreachable"),
        (vec!["status", "--admin", &host.http.data_plane], 3, "not-admin"),
        (vec!["compare", "accept", "programs", "nothing", "--reason", "r"], 4, "not-found"),
    ] {
        let done = host.verb(&[arguments.as_slice(), &["--json"]].concat());
        assert_eq!((done.code, done.out.as_str()), (Some(exit), ""), "{arguments:?}: {done:?}");
        let said: Value = serde_json::from_str(&done.err).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {done:?}"));
        assert_eq!((&said["error"]["code"], &said["error"]["exit_code"]), (&json!(code), &json!(exit)), "{said}");
        assert!(said["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{said}");
    }
    let words = ["is not the admin plane of a host", "`host.admin`"];
    cutover(&["status", "--admin", &host.http.data_plane], &[]).fails(3, &words);
}
