//! Reads that are mirrored: what becomes of each pair, what is measured, and who is asked what.

use std::io::Write as _;

use brotli::CompressorWriter;
use cutover::host::install::{Attribution, Choice, Source};
use cutover_model::port::Kind;
use cutover_traffic::observe::pairs::Fates;
use flate2::{Compression, write::GzEncoder};

use super::*;
use crate::harness::root;

fn json_of(body: impl Into<Bytes>) -> Answer {
    let mut answer = whole(StatusCode::OK, body);
    answer.headers_mut().insert("content-type", "application/json".parse().unwrap());
    answer
}

fn encoded(encoding: &str, body: Vec<u8>) -> Answer {
    let mut answer = json_of(body);
    answer.headers_mut().insert("content-encoding", encoding.parse().unwrap());
    answer
}

/// A V2 that agrees in its own way, or does not, by path.
fn v2_of(path: &str) -> Answer {
    match path {
        "/gzip" => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(b"{\"a\":1}").unwrap();
            encoded("gzip", encoder.finish().unwrap())
        }
        "/br" => {
            let mut packed = Vec::new();
            CompressorWriter::new(&mut packed, 4_096, 5, 22).write_all(b"{\"a\":1}").unwrap();
            encoded("br", packed)
        }
        "/lz4" => encoded("lz4", vec![1, 2, 3]),
        "/large" => json_of(format!("\"{}\"", "x".repeat(300 << 10))),
        "/html" => whole(StatusCode::OK, "<html>Something went wrong</html>"),
        "/empty" => json_of(""),
        "/failed" => whole(StatusCode::INTERNAL_SERVER_ERROR, "oops"),
        _ => json_of("{\"a\":1}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mirrored_pair_is_accounted_for_and_the_report_says_why_it_was_not_compared() {
    let v1 = Upstream::serving(false, |request: Request<Incoming>| async move {
        Ok(match request.uri().path() {
            "/etag" => whole(StatusCode::NOT_MODIFIED, ""),
            _ => json_of("{\"a\":1}"),
        })
    })
    .await;
    let v2 =
        Upstream::serving(false, |request: Request<Incoming>| async move { Ok(v2_of(request.uri().path())) }).await;
    let site = Setup { mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    for path in ["/same", "/gzip", "/br", "/lz4", "/large", "/html", "/empty", "/failed", "/etag"] {
        assert!(site.get(path).await.status < 400, "{path}");
    }
    let migration = &site.app.host.migrations["shop"];
    let fates = || migration.split.recorder.pairs().totals().get("get").copied().unwrap_or_default();
    let wanted = Fates {
        asked: 9,
        compared: 5,
        different: 2,
        incomparable: 1,
        left_out: 1,
        too_large: 1,
        // An answer of 5xx is none, as for callers.
        unanswered: 1,
        unasked: 0,
    };
    eventually("all pairs to end", async || (fates() == wanted).then_some(())).await;
    let lines = migration.comparer.report().lines;
    let why = |kind: &str| lines.iter().find(|line| line.kind == kind).map(|line| line.v1.clone()).unwrap_or_default();
    assert!(why("incomparable").contains("encoded as `lz4`"), "{lines:?}");
    let unanswered = lines.iter().find(|line| line.kind == "unanswered").unwrap();
    assert!(unanswered.v1.is_empty() && unanswered.v2.contains("500"), "{unanswered:?}");
    assert!(why("too-large").contains("256 KiB") && why("left-out").contains("not modified"), "{lines:?}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_are_put_in_charge_count_from_then_on_and_what_others_found_is_gone() {
    let one = Upstream::serving(false, |_request| async { Ok(json_of("{\"nonce\":1}")) }).await;
    let other = Upstream::serving(false, |_request| async { Ok(json_of("{\"nonce\":2}")) }).await;
    let site = Setup { mirrored: "100%", ..Setup::of(&[&one], &[&other]) }.start().await;
    let host = &site.app.host;
    let report = || host.migrations["shop"].comparer.report();
    site.get("/").await;
    eventually("a difference", async || (report().lines.len() == 1).then_some(())).await;
    let settings = toml::from_str("ignore = [{ path = '/nonce' }]").unwrap();
    let (folder, order) = (root().join("policies/json-compare"), Attribution { actor: "test", reason: "learnt" });
    let choice = Choice { source: Source::Bundle(&folder), settings: &settings, from_defaults: false };
    host.activate("shop", Some(Kind::Comparison), choice, order).await.unwrap();
    // Also while nothing is mirrored.
    eventually("the rules to change", async || (report().rules_changed == 1).then_some(())).await;
    assert!(report().lines.is_empty());
    site.get("/").await;
    eventually("what is ignored", async || report().lines.iter().any(|line| line.ignored).then_some(())).await;
    let fates = report().pairs["get"];
    assert_eq!((fates.compared, fates.different), (2, 1), "the counts since the host began stay");
    site.app.shut_down().await;
}

/// Sends its head at once, and its body a second later.
async fn late_body() -> Upstream {
    Upstream::serving(false, |_request| async {
        let body = futures_util::stream::once(async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Frame::data(Bytes::from("{\"a\":1}")))
        });
        Ok(Response::new(StreamBody::new(Box::pin(body)).boxed()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_program_takes_as_long_on_both_sides_however_late_its_body_is() {
    let (v1, v2) = (late_body().await, late_body().await);
    let site = Setup { mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    assert_eq!(site.get("/report").await.body, "{\"a\":1}");
    assert_eq!((site.counted("get", 0, 1).await.0, site.counted("get", 2, 1).await.0), (1, 1));
    let [v1, _, shadow] = site.app.host.migrations["shop"].history.totals().operations["get"].clone();
    for calls in [v1, shadow] {
        assert!(calls.latency.quantile_us(1_000_000).unwrap() < 1_000_000, "the body is not part of it");
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrored_answer_whose_body_never_ends_is_a_failure_of_v2() {
    let v1 = Upstream::serving(false, |_request| async { Ok(json_of("{\"a\":1}")) }).await;
    let v2 = Upstream::saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    let migration = "match = [{ host = '*' }]\nshadow_timeout = '100ms'";
    let site = Setup { migration, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    assert_eq!(site.get("/").await.body, "{\"a\":1}");
    let (all, errors, timeouts, _) = site.counted("get", 2, 1).await;
    assert_eq!((all, errors, timeouts), (1, 1, 1));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn v1_is_asked_what_v2_has_answered_once_v2_has_everything_but_only_what_changes_nothing() {
    let (asked, mut seen) = mpsc::channel(64);
    let v1 = Upstream::serving(false, move |request: Request<Incoming>| {
        let asked = asked.clone();
        async move {
            let mirrored = request.headers().contains_key("x-cutover-shadow");
            asked.send((request.method().to_string(), mirrored)).await.unwrap();
            Ok(json_of("{\"a\":1}"))
        }
    })
    .await;
    let v2 = Upstream::serving(false, |_request| async { Ok(json_of("{\"a\":2}")) }).await;
    let migration = "match = [{ host = '*' }]\nmirror_back = { share = '100%', from = '90%' }";
    let site = Setup { migration, ..Setup::of(&[&v1], &[&v2]) }.start().await;
    for stage in 0..7 {
        site.ask(CommandKind::Advance).await;
        if stage < 4 {
            let reply = site.send(get("/", &[("x-session-id", "s"), ("x-cutover-pool", "v2")])).await;
            assert_eq!(reply.header("x-cutover-pool"), "v2");
        }
    }
    site.until_phase(Phase::Complete).await;
    assert!(seen.try_recv().is_err(), "V2 has not nearly everything yet");
    for n in 0..3 {
        let reply = site.send(get("/", &[("x-session-id", &format!("s{n}"))])).await;
        assert_eq!((reply.header("x-cutover-pool"), reply.body.as_str()), ("v2", "{\"a\":2}"));
        assert_eq!(site.send(post("/", "x")).await.header("x-cutover-pool"), "v2");
    }
    let v1 = site.counted("get", 0, 3).await;
    assert_eq!((v1.0, v1.1), (3, 0));
    let history = &site.app.host.migrations["shop"].history;
    assert_eq!(history.totals().operations["get"][0].units, 3, "they count by session, as callers' calls do");
    let pairs = site.app.host.migrations["shop"].split.recorder.pairs();
    let fates = || pairs.totals().get("get").copied().unwrap_or_default();
    eventually("the pairs to be compared", async || (fates().different == 3).then_some(())).await;
    for _ in 0..3 {
        assert_eq!(seen.recv().await.unwrap(), ("GET".to_owned(), true));
    }
    site.app.shut_down().await;
    assert!(seen.try_recv().is_err(), "nothing else came to V1");
}
