//! Which migration a request belongs to, and what it is called there.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn several_migrations_share_a_listener_and_the_rest_goes_elsewhere() {
    let (shop, blog, rest) =
        (Upstream::named("shop").await, Upstream::named("blog").await, Upstream::named("rest").await);
    let default = format!("[host.http.default]\nupstreams = ['{}']", rest.url());
    let mut text = Setup {
        http: &default,
        migration: "match = [{ host = 'shop.example', path = '/api' }]",
        ..Setup::of(&[&shop], &[&shop])
    }
    .text();
    let second = Setup {
        migration: "match = [{ host = '*.blog.example' }, { host = '*', headers = { x-tenant = 'blog' } }]",
        ..Setup::of(&[&blog], &[&blog])
    }
    .text();
    text.push_str(&second[second.find("[migrations.shop]").unwrap()..].replace("migrations.shop", "migrations.blog"));
    let folder = TempDir::new().unwrap();
    let config = Config::parse(&text, folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let app = App::start(config, binary()).await.unwrap();
    let site = Site { address: app.data_plane, app, _folder: folder };
    site.until_phase(Phase::Shadow).await;
    for (host, path, tenant, name) in [
        ("shop.example", "/api/x", "", "shop"),
        ("SHOP.example:80", "/api", "", "shop"),
        ("shop.example", "/apix", "", "rest"),
        ("a.blog.example", "/api", "", "blog"),
        ("blog.example", "/", "", "rest"),
        ("elsewhere", "/", "blog", "blog"),
        ("elsewhere", "/v1/shop/execute", "", "rest"),
    ] {
        let request = Request::get(path).header("host", host).header("x-tenant", tenant);
        let reply = site.send(request.body(Full::<Bytes>::default()).unwrap()).await;
        assert_eq!(reply.json()["name"], name, "{host}{path}");
        assert_eq!(reply.header("x-cutover-pool"), if name == "rest" { "" } else { "v1" });
    }
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_are_counted_by_their_names() {
    let v1 = Upstream::named("one").await;
    let migration = "match = [{ host = '*' }]\nsession = ['cookie:sid']\n\
        operations = { order = { class = 'read', path = '/orders/{id}', methods = ['get'] }, post = { class = 'read' } }";
    let site = Setup { migration, ..Setup::of(&[&v1], &[&v1]) }.start().await;
    for (path, cookie) in [("/orders/1", "sid=a"), ("/orders/2", "sid=b"), ("/orders", "x=1"), ("/orders/3/x", "")] {
        assert_eq!(site.get(path).await.status, 200);
        drop(site.send(get(path, &[("cookie", cookie)])).await);
    }
    assert_eq!(site.counted("order", 0, 4).await.0, 4);
    assert_eq!(site.counted("get", 0, 4).await.0, 4);
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_sticks_to_sessions_wherever_they_are() {
    let (v1, v2) = (Upstream::named("one").await, Upstream::named("two").await);
    let migration = "match = [{ host = '*' }]\nsession = ['cookie:sid', 'header:x-user']";
    let site = Setup { migration, ..Setup::of(&[&v1], &[&v2]) }.start().await;
    site.ask(CommandKind::Advance).await;
    site.until_phase(Phase::Ramping).await;
    let of = async |headers: &[(&str, &str)]| site.send(get("/", headers)).await.header("x-cutover-pool").to_owned();
    let mut on_v2 = 0;
    for n in 0..200 {
        let session = format!("u{n}");
        let cookie = format!("theme=dark; sid={session}");
        let by_cookie = of(&[("cookie", &cookie)]).await;
        assert_eq!(by_cookie, of(&[("x-user", &session)]).await, "{session}");
        on_v2 += usize::from(by_cookie == "v2");
    }
    assert!((1..=30).contains(&on_v2), "5 % of 200, and not {on_v2}");
    site.app.shut_down().await;
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let setup = Setup {
        choice: "",
        v1: vec!["http://a/path".into()],
        v2: vec![],
        http: "forwarded = 'all'\nmax_requests = 0\nmax_pending = 0\nmin_rate = 9999999999\nmin_rate_grace = '0s'\ntrusted_hops = 0\ntls = { certificate = 'none.pem', key = 'none.pem' }",
        migration: "match = [{ host = 'a b', path = 'x', headers = { 'a b' = '1' } }]\nsession = ['sid']\n\
            operations = { order = { class = 'read' }, get = { class = 'read', path = '/x' }, a = { class = 'replicate', path = '/a/{id}' }, b = { class = 'read', path = '/a/{x}' } }",
        pool: "connect_timeout = 'soon'\nrequest_buffer = 99999999\ncaller_share = 0\nhealth = { path = 'x', host = 'a b', failures = 0 }\nejection = { most = 101 }",
        host: "admin_plane = { max_connections = 1, body_timeout = 'soon' }",
        mirrored: "0%",
    };
    let text = setup.text();
    let error = Config::parse(&text, &crate::harness::root(), &[]).unwrap_err().to_string();
    for problem in [
        "`host.http.forwarded` is `all`; it must be",
        "`host.http.max_requests` is 0; it must be between",
        "`host.http.max_pending` is 0; it must be between",
        "`host.http.min_rate` is 9999999999; it must be between",
        "`host.http.min_rate_grace` is `0s`; it must be between",
        "`host.http.trusted_hops` is 0; it must be between",
        "`host.admin_plane.max_connections` is 1; it must be between",
        "`host.admin_plane.body_timeout` is `soon`",
        "`migrations.shop.v1.request_buffer` is 99999999; it must be between",
        "`migrations.shop.v1.caller_share` is 0; it must be between",
        "`host.http.tls` cannot be used: cannot read",
        "`migrations.shop.match[0].host` is `a b`; it must be",
        "`migrations.shop.match[0].path` is `x`; it must begin",
        "`migrations.shop.match[0].headers` has `a b`",
        "`migrations.shop.session[0]` is `sid`; it must be `header:NAME` or `cookie:NAME`",
        "`migrations.shop.operations.order.path` is missing",
        "`migrations.shop.operations.get` has the name of a method",
        "`migrations.shop.operations.a` is of HTTP services",
        "`migrations.shop.operations` cannot be told apart: the path `/a/{x}`",
        "`migrations.shop.v1.upstreams` has `http://a/path`; it must be",
        "`migrations.shop.v2.upstreams` is 0; it must be between",
        "`migrations.shop.v1.connect_timeout` is `soon`",
        "`migrations.shop.v1.health.path` is `x`",
        "`migrations.shop.v1.health.host` is `a b`; it must be",
        "`migrations.shop.v1.health.failures` is 0",
        "`migrations.shop.v1.ejection.most` is 101",
    ] {
        assert!(error.contains(problem), "no {problem:?} in {error}");
    }
    let mixed = Setup { v2: vec![], ..setup }.text().replace(
        "[migrations.shop.v2]\nupstreams = []",
        "[migrations.shop.v2]\nworkers = 1\nmode = 'concurrent'\ncommand = ['true']\n[unused]",
    );
    assert!(Config::parse(&mixed, &crate::harness::root(), &[]).is_err());
}
