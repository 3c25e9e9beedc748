//! The host's own session cookie.

use super::*;

/// A browser: it keeps the cookies that it is given.
#[derive(Default)]
struct Browser(Vec<(String, String)>);

impl Browser {
    /// Asks, and says who answered.
    async fn visit(&mut self, site: &Site, path: &str) -> String {
        let reply = site.send(get(path, &[("cookie", &self.cookies())])).await;
        if reply.status != 200 {
            return format!("{} of {}", reply.status, reply.header("x-cutover-pool"));
        }
        self.keep(&reply);
        reply.header("x-cutover-pool").to_owned()
    }

    fn cookies(&self) -> String {
        let cookies: Vec<_> = self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        cookies.join("; ")
    }

    fn keep(&mut self, reply: &Reply) {
        for set in reply.headers.get_all("set-cookie") {
            let (name, value) = set.to_str().unwrap().split(';').next().unwrap().split_once('=').unwrap();
            self.0.retain(|(had, _)| had != name);
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// A service whose sessions nobody else knows: `/login` begins one and sets its cookie, anything else needs it. A session
/// of before is another one after a login, as services do it.
async fn service(name: &'static str) -> Upstream {
    let sessions = Arc::new(std::sync::Mutex::new(std::collections::BTreeSet::new()));
    Upstream::serving(false, move |request| {
        let sessions = Arc::clone(&sessions);
        async move {
            let text = request.headers().get("cookie").map_or("", |v| v.to_str().unwrap()).to_owned();
            assert!(!text.contains("cutover"), "the host's cookie is nobody's else: {text}");
            let sid = text.split("; ").find_map(|pair| pair.strip_prefix("sid=")).map(str::to_owned);
            let mut sessions = sessions.lock().unwrap();
            let mut answer = whole(StatusCode::OK, name);
            if request.uri().path() == "/login" {
                let sid = format!("{name}-{}", sessions.len());
                let cookie = format!("sid={sid}; Path=/");
                sessions.insert(sid);
                answer.headers_mut().insert("set-cookie", cookie.parse().unwrap());
            } else if !sid.is_some_and(|sid| sessions.contains(&sid)) {
                *answer.status_mut() = StatusCode::UNAUTHORIZED;
            }
            Ok(answer)
        }
    })
    .await
}

/// A site with a key, and the cookie set as the lines say.
async fn site(v1: &Upstream, v2: &Upstream, lines: &str) -> Site {
    let key = TempDir::new().unwrap();
    let file = key.path().join("session.key");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let migration = format!(
        "match = [{{ host = '*' }}]\nsession = ['cookie:sid']\nsession_cookie = {{ key_file = '{}'{lines} }}",
        file.display()
    );
    Setup { migration: &migration, ..Setup::of(&[v1], &[v2]) }.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logs_in_stays_logged_in_where_it_logged_in() {
    let (v1, v2) = (service("one").await, service("two").await);
    let site = site(&v1, &v2, "").await;
    site.ask(CommandKind::Advance).await;
    site.until_phase(Phase::Ramping).await;
    let mut on_v2 = 0;
    for _ in 0..200 {
        let mut browser = Browser::default();
        let first = browser.visit(&site, "/login").await;
        for path in ["/", "/login", "/cart"] {
            assert_eq!(browser.visit(&site, path).await, first);
        }
        on_v2 += usize::from(first == "v2");
    }
    assert!((1..=30).contains(&on_v2), "5 % of 200, and not {on_v2}");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_v1_stays_until_v2_has_everybody() {
    let (v1, v2) = (service("one").await, service("two").await);
    let site = site(&v1, &v2, ", stay = 'creator'").await;
    let mut browsers = Vec::new();
    for _ in 0..100 {
        let mut browser = Browser::default();
        assert_eq!(browser.visit(&site, "/login").await, "v1");
        browsers.push(browser);
    }
    // To the last stage but one.
    for share in [50_000, 100_000, 250_000, 500_000, 750_000] {
        site.ask(CommandKind::Advance).await;
        eventually("the share", async || {
            (site.app.host.migrations["shop"].split.router.share().get() == share).then_some(())
        })
        .await;
        for browser in &mut browsers {
            assert_eq!(browser.visit(&site, "/").await, "v1");
        }
    }
    let mut on_v2 = 0;
    for _ in 0..50 {
        on_v2 += usize::from(Browser::default().visit(&site, "/login").await == "v2");
    }
    assert!((25..=49).contains(&on_v2), "three quarters of 50, and not {on_v2}");
    site.ask(CommandKind::Advance).await;
    eventually("all of them", async || {
        (site.app.host.migrations["shop"].split.router.share().get() == 1_000_000).then_some(())
    })
    .await;
    for browser in &mut browsers {
        assert_eq!(browser.visit(&site, "/login").await, "v2");
        assert_eq!(browser.visit(&site, "/").await, "v2");
    }
    site.app.shut_down().await;
}

/// Who logs in where V2 is down is V1's, and who is V2's is not sent to a V1 that does not know it.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_apart_are_at_home_where_they_were_answered_and_do_not_fail_over() {
    let v1 = service("one").await;
    let down = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_down = Arc::clone(&down);
    let v2 = Upstream::serving(false, move |_request| {
        let down = is_down.load(std::sync::atomic::Ordering::SeqCst);
        async move { Ok(whole(if down { StatusCode::BAD_GATEWAY } else { StatusCode::OK }, "two")) }
    })
    .await;
    let site = site(&v1, &v2, ", stay = 'creator'").await;
    for share in [50_000, 100_000, 250_000, 500_000] {
        site.ask(CommandKind::Advance).await;
        eventually("the share", async || {
            (site.app.host.migrations["shop"].split.router.share().get() == share).then_some(())
        })
        .await;
    }
    let mut failed_over = Vec::new();
    while failed_over.len() < 10 {
        let mut browser = Browser::default();
        let reply = site.send(get("/login", &[])).await;
        if reply.header("x-cutover-reason") == "failover" {
            browser.keep(&reply);
            failed_over.push(browser);
        }
    }
    down.store(false, std::sync::atomic::Ordering::SeqCst);
    for browser in &mut failed_over {
        assert_eq!(browser.visit(&site, "/").await, "v1", "it is logged in there");
    }
    let mut on_v2 = Browser::default();
    while on_v2.visit(&site, "/").await != "v2" {
        on_v2 = Browser::default();
    }
    down.store(true, std::sync::atomic::Ordering::SeqCst);
    let reply = site.send(get("/", &[("cookie", &on_v2.cookies())])).await;
    assert_eq!((reply.status, reply.header("x-cutover-pool")), (502, "v2"), "V1 would log it out");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_says_what_is_configured_and_only_the_hosts_counts() {
    let v1 = Upstream::named("one").await;
    let lines =
        ", name = 'at', lifetime = '1h', path = '/shop', domain = 'shop.example', same_site = 'strict', secure = true";
    let site = site(&v1, &v1, lines).await;
    let first = site.get("/").await;
    let set = first.header("set-cookie");
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Max-Age=3600; Path=/shop; Domain=shop.example; HttpOnly; SameSite=Strict; Secure");
    let again = site.send(get("/", &[("cookie", &format!("a=b; {pair}"))])).await;
    assert_eq!((again.header("set-cookie"), &again.json()["headers"]["cookie"]), ("", &json!("a=b")));
    let forged = pair.replace(".1.", ".2.");
    assert_ne!(forged, pair);
    let refused = site.send(get("/", &[("cookie", &forged)])).await;
    assert!(refused.header("set-cookie").starts_with("at="), "{refused:?}");
    assert_eq!(refused.json()["headers"]["cookie"], Value::Null, "{refused:?}");
    site.app.shut_down().await;
}

#[test]
fn what_is_wrong_with_it_is_said() {
    let folder = TempDir::new().unwrap();
    let text = |lines: &str| {
        let migration = format!("match = [{{ host = '*' }}]\nsession = ['cookie:sid']\nsession_cookie = {{ {lines} }}");
        let setup = Setup {
            v1: vec!["http://a:1".into()],
            v2: vec!["http://b:1".into()],
            migration: &migration,
            ..Setup::of(&[], &[])
        };
        Config::parse(&setup.text(), folder.path(), &[]).unwrap_err().to_string()
    };
    assert!(text("key_file = 'none'").contains("session_cookie.key_file` cannot be read"));
    std::fs::write(folder.path().join("short"), "abc").unwrap();
    assert!(text("key_file = 'short'").contains("has to have one line of 16 characters or more; `openssl rand"));
    std::fs::write(folder.path().join("key"), "0123456789abcdef").unwrap();
    let error = text(
        "key_file = 'key', name = 'a b', path = 'x', domain = 'a;b', same_site = 'some', stay = 'ever', lifetime = '1s'",
    );
    for problem in [
        "session_cookie.name` is `a b`, which is no name of a cookie",
        "session_cookie.path` is `x`, which cannot stand in a cookie; write it like `/shop`",
        "session_cookie.domain` is `a;b`",
        "session_cookie.same_site` is `some`; it must be `lax`, `strict` or `none`",
        "session_cookie.stay` is `ever`; it must be `share`",
        "session_cookie.lifetime` is `1s`; it must be between 1m and 400d",
    ] {
        assert!(error.contains(problem), "{problem}\n{error}");
    }
    assert!(text("key_file = 'key', name = 'sid'").contains("is `sid`, which `session` names, too"));
    assert!(text("key_file = 'key', same_site = 'none', secure = false").contains("browsers refuse"));
}
