//! Successors that come to nothing.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// Speaks the protocol as far as `go`, and dies then.
const DIES_AFTER_GO: &str = r#"#!/usr/bin/env python3
import json, os, socket, struct
wire = socket.socket(fileno=0)
def take(n):
    got = b""
    while len(got) < n:
        part = wire.recv(n - len(got))
        if not part: os._exit(9)
        got += part
    return got
def receive():
    a, b = struct.unpack(">II", take(8))
    message = json.loads(take(a))
    take(b)
    return message
while "state" not in receive(): pass
body = b'"prepared"'
wire.sendall(struct.pack(">II", len(body), 0) + body)
assert receive() == "go"
os._exit(7)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_with_a_bad_configuration_changes_nothing() {
    let mut hosts = Plan { programs: false, pool: "", http: "" }.start().await;
    let mut kept = hosts.connect().await;
    let file = hosts.folder.path().join("cutover.toml");
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("check_interval = '200ms'", "check_interval = 'soon'")).unwrap();
    let before = hosts.log().len();
    hosts.signal(Signal::USR2);
    let log = hosts.until_logged(before, "no successor, so this host goes on").await;
    assert!(log.contains("check_interval") && log.contains("soon"), "{log}");
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    assert!(hosts.first.try_wait().unwrap().is_none());
    // It is still the one that decides, and once the file is mended it can be replaced.
    hosts.order("shop", "advance").await;
    fs::write(&file, good).unwrap();
    hosts.replace().await;
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
    hosts.until_ended(0).await;
    assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_dies_after_it_got_the_store_gives_it_back() {
    for programs in [true, false] {
        let names = TempDir::new().unwrap();
        let program = names.path().join("cutover");
        symlink(binary(), &program).unwrap();
        let mut hosts = Plan { programs, pool: "", http: "" }.start_as(&program).await;
        let share = hosts.status("shop").await["share"].clone();
        let mut kept = hosts.connect().await;
        assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
        fs::remove_file(&program).unwrap();
        fs::write(&program, DIES_AFTER_GO).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let before = hosts.log().len();
        hosts.signal(Signal::USR2);
        let (reply, log) = tokio::join!(
            async {
                let mut replies = Vec::new();
                for _ in 0..50 {
                    replies.push(kept.send(get("/", &[])).await.map(|(status, ..)| status));
                }
                replies
            },
            hosts.until_logged(before, "so this host begins again"),
        );
        assert!(log.contains("exit status: 7"), "{log}");
        assert!(reply.iter().all(|status| *status == Ok(200)), "{reply:?}");
        hosts.until_ready().await;
        assert_eq!(hosts.status("shop").await["share"], share);
        // And the next one may be luckier.
        fs::remove_file(&program).unwrap();
        symlink(binary(), &program).unwrap();
        hosts.replace().await;
        hosts.until_ended(0).await;
        assert_eq!(kept.send(get("/", &[])).await.unwrap().0, 200);
        assert_eq!(hosts.status("shop").await["share"], share);
    }
}
