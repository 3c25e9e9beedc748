//! The whole way: mirrored and compared, ramped, broken, rolled back, with no caller the worse for it.

use std::{
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::harness::root;

/// The example's service; it ends with the test.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Service {
    fn start(name: &str, faults: &str) -> (Self, u16) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = root().join("examples/http/service.py");
        let child =
            Command::new("python3").arg(script).args([&port.to_string(), name, faults]).stdout(Stdio::null()).spawn();
        (Self(child.unwrap()), port)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_ramps_and_goes_back_when_v2_breaks_and_no_caller_sees_it() {
    let folder = TempDir::new().unwrap();
    let faults = folder.path().join("faults.json");
    let ((_one, v1), (_two, v2)) = (Service::start("v1", ""), Service::start("v2", faults.to_str().unwrap()));
    let text = std::fs::read_to_string(root().join("examples/http/cutover.toml")).unwrap();
    let text = text
        .replace("../..", root().to_str().unwrap())
        .replace("components = ", "data_plane = '127.0.0.1:0'\nadmin = '127.0.0.1:0'\ncomponents = ")
        .replace("[migrations.shop]\n", "[migrations.shop]\ncheck_interval = '200ms'\n")
        .replace(
            "min_requests = 20 }",
            "min_requests = 20, stages = [{ share = '50%', soak = '1h' }, { share = '100%' }] }",
        )
        // A busy machine may be as slow as it likes: this is about errors.
        .replace("slow_floor = \"50ms\"", "slow_floor = \"1m\"")
        .replace("9001", &v1.to_string())
        .replace("9002", &v2.to_string());
    assert!(text.contains("slow_floor = \"1m\""), "{text}");
    let config = Config::parse(&text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let app = App::start(config, binary()).await.unwrap();
    let site = Site { address: app.data_plane, app, _folder: folder };
    site.until_phase(Phase::Shadow).await;

    let (stop, calls) = (tokio_util::sync::CancellationToken::new(), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..4)
        .map(|caller| {
            let (address, stop, calls) = (site.address, stop.clone(), Arc::clone(&calls));
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.is_cancelled() {
                    n += 1;
                    // All 200 sessions fail within seconds, and tell the judge nothing more after that.
                    let session = format!("s{caller}-{}", n % 50);
                    let path = format!("/api/orders/{}", 1 + n % 10);
                    let reply = try_open(address, get(&path, &[("x-session-id", &session)])).await.unwrap();
                    assert_eq!(reply.status(), 200, "{reply:?}");
                    drop(reply.collect().await.unwrap());
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    site.until_phase(Phase::Ramping).await;
    let compared = site.app.host.migrations["shop"].history.totals().comparisons;
    assert!(compared.same >= 100 && compared.different == 0, "{compared:?}");
    eventually("V2 to serve", async || (site.counted("order", 1, 1).await.0 > 100).then_some(())).await;
    std::fs::write(&faults, r#"{"errors": 0.5}"#).unwrap();
    site.until_phase(Phase::RolledBack).await;
    let handle = &site.app.host.migrations["shop"].handle;
    let report = eventually("V2 to be drained", async || handle.snapshot().last_rollback.clone()).await;
    let says_why = |rule: &str| rule.contains("error") || rule == "v2-failing";
    assert!(report.findings.iter().any(|finding| says_why(&finding.rule)), "it says why: {report:?}");
    // V1 has it all, and nobody noticed.
    assert_eq!(site.get("/api/orders").await.header("x-cutover-pool"), "v1");
    stop.cancel();
    for caller in callers {
        caller.await.expect("every call was answered");
    }
    assert!(calls.load(Ordering::Relaxed) > 200);
    let (_, errors, _, failed_over) = site.counted("order", 1, 1).await;
    assert!(errors > 0 && failed_over == errors, "V1 answered all {errors} that V2 failed, not {failed_over}");
    site.app.shut_down().await;
}
