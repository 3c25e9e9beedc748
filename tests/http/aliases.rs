//! What a request is, however it is written: spellings of a path, queries, other methods in fields, and fields of the host's
//! own.

use super::*;

/// Says which paths it was asked for by mirrored requests.
async fn shadowed() -> (Upstream, mpsc::Receiver<(String, Vec<String>)>) {
    let (seen, requests) = mpsc::channel(64);
    let upstream = Upstream::serving(false, move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let names = request.headers().keys().map(ToString::to_string).collect();
            seen.send((request.uri().to_string(), names)).await.unwrap();
            Ok(whole(StatusCode::OK, "{}"))
        }
    })
    .await;
    (upstream, requests)
}

const OPERATIONS: &str = "[migrations.shop.operations]\n\
    purge = { class = 'exclusive', methods = ['GET'], path = '/api/purge' }\n\
    wipe = { class = 'exclusive', methods = ['GET'], path = '/api/list', query = { action = 'wipe' } }\n\
    list = { class = 'read', methods = ['GET'], path = '/api/list' }\n\
    files = { class = 'read', methods = ['GET'], path = '/api/files/{*rest}' }\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_what_changes_something_is_mirrored_and_each_passes_as_it_came() {
    let (v1, mut asked) = shadowed().await;
    let (v2, mut mirrored) = shadowed().await;
    let migration = format!("match = [{{ host = '*', path = '/api' }}]\n{OPERATIONS}");
    let site = Setup { migration: &migration, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    let get = async |path: &str, fields: &str| {
        let reply = site.raw(format!("GET {path} HTTP/1.1\r\nhost: a\r\n{fields}connection: close\r\n\r\n")).await;
        reply[9..12].to_owned()
    };
    for path in [
        "/api/purge",
        "/api//purge",
        "/api/./purge",
        "/api/x/../purge",
        "/x/../api/purge",
        "/api/%70urge",
        "/%61pi/purge",
        "/api/purge/",
        "/api/PURGE",
        "/api/list?action=wipe",
        "/api/list?x&%61ction=wip%65",
        "/api/list?action=show&ACTION=wipe",
        "/api/unknown",
    ] {
        assert_eq!(get(path, "").await, "200", "{path}");
        assert_eq!(asked.recv().await.unwrap().0, path, "it passes as it came");
    }
    for name in ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"] {
        assert_eq!(get("/api/list", &format!("{name}: DELETE\r\n")).await, "200");
        asked.recv().await.unwrap();
    }
    for path in
        ["/api/purge;a=b", "/api/purge%00", "/api/x%2f..%2fpurge", "/api/..%5cpurge", "/api/%zz", "/api/../../purge"]
    {
        let status = get(path, "").await;
        assert!(status == "400" || path.contains("../..") && status == "404", "{path}: {status}");
    }
    for path in ["/api/list", "/api//list", "/api/l%69st", "/api/files/A/b", "/api/list?action=show"] {
        assert_eq!(get(path, "").await, "200", "{path}");
        assert_eq!(asked.recv().await.unwrap().0, path);
        assert_eq!(mirrored.recv().await.unwrap().0, path, "a read is mirrored, and nothing before it was");
    }
    site.app.shut_down().await;
    assert!(mirrored.try_recv().is_err() && asked.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_can_be_read_in_two_ways_pass_as_exclusive_if_they_may_and_what_is_unnamed_is_a_read_if_that_is_said()
 {
    let (v1, mut asked) = shadowed().await;
    let (v2, mut mirrored) = shadowed().await;
    let migration = format!(
        "match = [{{ host = '*' }}]\nambiguous_paths = 'exclusive'\nunnamed = 'by-method'\n\
         shadow_drop = ['Authorization', 'cookie']\n{OPERATIONS}"
    );
    let site = Setup { migration: &migration, mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    for path in ["/api/purge;a=b", "/api/list;a=b", "/api%2flist", "/api/list%00"] {
        assert_eq!(site.get(path).await.status, 200, "{path}");
        assert_eq!(asked.recv().await.unwrap().0, path);
    }
    let fields = [
        ("authorization", "secret"),
        ("cookie", "a=b"),
        ("accept", "*/*"),
        ("x-cutover-shadow", "1"),
        ("x-cutover-anything", "1"),
        ("x-cutover-pool", "v1"),
    ];
    assert_eq!(site.send(get("/elsewhere", &fields)).await.status, 200);
    let (_, names) = asked.recv().await.unwrap();
    assert!(!names.iter().any(|name| name.starts_with("x-cutover-")), "what callers say is not passed on: {names:?}");
    assert!(names.contains(&"authorization".to_owned()) && names.contains(&"cookie".to_owned()), "{names:?}");
    let (path, names) = mirrored.recv().await.unwrap();
    assert_eq!(path, "/elsewhere", "and nothing before it was mirrored");
    let own: Vec<_> = names.iter().filter(|name| name.starts_with("x-cutover-")).collect();
    assert_eq!(own, ["x-cutover-shadow"], "which the host itself says");
    assert!(!names.contains(&"authorization".to_owned()) && !names.contains(&"cookie".to_owned()), "{names:?}");
    assert!(names.contains(&"accept".to_owned()));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_on_a_read_is_not_mirrored_and_one_to_http_2_is_none() {
    let (v1, mut asked) = shadowed().await;
    let (v2, mut mirrored) = shadowed().await;
    let site = Setup { mirrored: "100%", ..Setup::of(&[&v1], &[&v2]) }.start().await;
    for (upgrade, passed) in [
        ("websocket", true),
        ("websocket, h2c", true),
        ("h2c, websocket", true),
        ("h2c", false),
        ("H2C , HTTP/2.0", false),
    ] {
        let path = format!("/{passed}");
        let upgrade = [("connection", "upgrade, http2-settings"), ("upgrade", upgrade), ("http2-settings", "AAMAAABk")];
        assert_eq!(site.send(get(&path, &upgrade)).await.status, 200);
        let (_, names) = asked.recv().await.unwrap();
        assert_eq!(names.contains(&"upgrade".to_owned()), passed, "{upgrade:?}: {names:?}");
        assert!(!names.contains(&"http2-settings".to_owned()));
        if !passed {
            let (its_path, names) = mirrored.recv().await.unwrap();
            assert_eq!((its_path, names.contains(&"upgrade".to_owned())), (path, false));
        }
    }
    site.app.shut_down().await;
    assert!(mirrored.try_recv().is_err());
}

#[test]
fn what_is_wrong_with_operations_is_said_with_how_to_mend_it() {
    let migration = "match = [{ host = '*', path = '/a%2fb' }]\nunnamed = 'read'\nambiguous_paths = 'pass'\n\
        shadow_drop = ['host', 'a b']\n[migrations.shop.operations]\n\
        purge = { class = 'exclusive', path = '/api?action=purge&all' }\n\
        odd = { class = 'read', path = '/api/x;y' }\nget = { class = 'read', query = { a = 'b' } }\n";
    let setup = Setup { migration, ..Setup::of(&[], &[]) };
    let error = Config::parse(&setup.text(), &crate::harness::root(), &[]).unwrap_err().to_string();
    for problem in [
        "`migrations.shop.match[0].path` is `/a%2fb`, which can be read in more than one way",
        "`migrations.shop.unnamed` is `read`; it must be `exclusive` or `by-method`",
        "`migrations.shop.ambiguous_paths` is `pass`; it must be `refuse` or `exclusive`",
        "`migrations.shop.shadow_drop` has `host`",
        "`migrations.shop.shadow_drop` has `a b`",
        "`migrations.shop.operations.purge.path` is `/api?action=purge&all`, and has a query; \
         write `path = \"/api\"` and `query = { action = \"purge\", all = \"*\" }`",
        "`migrations.shop.operations.odd.path` is `/api/x;y`, which can be read in more than one way",
        "`migrations.shop.operations.get.query` needs a `path`",
    ] {
        assert!(error.contains(problem), "no {problem:?} in {error}");
    }
}
