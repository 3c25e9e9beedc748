//! Callers who want to choose a pool: who may, when, and what it counts as.

use super::*;

const KEY: &str = "a key that nobody can guess";

/// A site with `override` as these lines say, `KEY` in the file `key`.
async fn site(choice: &str, migration: &str) -> (Site, [Upstream; 2]) {
    let upstreams = [Upstream::named("one").await, Upstream::named("two").await];
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("key"), format!("{KEY}\n")).unwrap();
    let setup = Setup { migration, choice, ..Setup::of(&[&upstreams[0]], &[&upstreams[1]]) };
    let config = Config::parse(&setup.text(), folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let app = App::start(config, binary()).await.unwrap();
    let site = Site { address: app.data_plane, app, _folder: folder };
    site.until_phase(Phase::Shadow).await;
    (site, upstreams)
}

impl Site {
    async fn chosen(&self, headers: &[(&str, &str)]) -> (String, String) {
        let reply = self.send(get("/", headers)).await;
        (reply.header("x-cutover-pool").to_owned(), reply.header("x-cutover-reason").to_owned())
    }

    /// Lets V2 have a hundredth of the sessions.
    async fn ramp(&self) {
        self.ask(CommandKind::Advance).await;
        self.until_phase(Phase::Ramping).await;
    }
}

fn of(pool: &str, reason: &str) -> (String, String) {
    (pool.to_owned(), reason.to_owned())
}

const ANY: &str = "match = [{ host = '*' }]";

#[tokio::test(flavor = "multi_thread")]
async fn nobody_chooses_unless_somebody_may() {
    let (site, _upstreams) = site("", ANY).await;
    assert_eq!(site.chosen(&[("x-cutover-pool", "v2")]).await, of("v1", "otherwise"));
    site.ramp().await;
    let mut on_v2 = 0;
    for n in 0..100 {
        let session = format!("s{n}");
        let (pool, reason) = site.chosen(&[("x-session-id", &session), ("x-cutover-pool", "v2")]).await;
        assert_eq!(reason, "share");
        on_v2 += u32::from(pool == "v2");
    }
    assert!(on_v2 < 30, "the share, and not {on_v2} of 100");
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_key_chooses_once_the_phase_lets_v2_serve_and_is_no_evidence() {
    let (site, _upstreams) = site("[migrations.shop.override]\nkey_file = 'key'", ANY).await;
    let with = |key| [("x-cutover-pool", "v2"), ("x-cutover-key", key), ("x-session-id", "late")];
    assert_eq!(site.chosen(&with(KEY)).await, of("v1", "v2-closed"), "in shadow nobody gets V2");
    site.ramp().await;
    assert_eq!(site.chosen(&with("another key of some length")).await.1, "share");
    for _ in 0..20 {
        assert_eq!(site.chosen(&with(KEY)).await, of("v2", "override-v2"));
    }
    // The one with the wrong key counts, and none of the others.
    let migration = &site.app.host.migrations["shop"];
    let calls = || migration.history.totals().operations.get("get").map_or(0, |of| of[0].requests + of[1].requests);
    eventually("the call to be counted", async || (calls() > 0).then_some(())).await;
    assert_eq!(calls(), 1);
    let apart = migration.split.recorder.apart().totals();
    let counts: Vec<_> = apart.iter().map(|((_, pool), counts)| (pool.name(), counts.calls, counts.failed)).collect();
    assert_eq!(counts, [("v1", 1, 0), ("v2", 20, 0)]);
    // The flag is a limit for them, too.
    site.ask(CommandKind::SetFlag("gradual_rollout_percentage".into(), 0.into())).await;
    assert_eq!(site.chosen(&with(KEY)).await, of("v1", "v2-closed"));
    site.app.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn testers_get_v2_while_it_has_no_other_callers() {
    let (site, _upstreams) = site("[migrations.shop.override]\nkey_file = 'key'\ntesters = true", ANY).await;
    let with = [("x-cutover-pool", "v2"), ("x-cutover-key", KEY)];
    assert_eq!(site.chosen(&with).await, of("v2", "override-v2"));
    site.ask(CommandKind::SetFlag("pool_v2_enabled".into(), false.into())).await;
    assert_eq!(site.chosen(&with).await, of("v1", "v2-closed"));
    site.app.shut_down().await;
}

#[test]
fn an_override_says_who_may() {
    let upstream = vec!["http://127.0.0.1:1".to_owned()];
    let problems = |choice: &str, migration: &str| {
        let setup = Setup { v1: upstream.clone(), v2: upstream.clone(), migration, choice, ..Setup::of(&[], &[]) };
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("short"), "123456789012345\n").unwrap();
        Config::parse(&setup.text(), folder.path(), &[]).unwrap_err().to_string()
    };
    for (choice, said) in [
        ("", "says nobody who may choose; set `key_file"),
        ("key_file = 'none'", "`migrations.shop.override.key_file` cannot be read"),
        ("key_file = 'short'", "`migrations.shop.override.key_file` has to have one line of 16 characters or more"),
        ("key_file = 'short'\nanyone = true", "has both `key_file` and `anyone`"),
        ("anyone = true\nheader = ''", "`migrations.shop.override.header` is no name of a header"),
    ] {
        let choice = format!("[migrations.shop.override]\n{choice}");
        let found = problems(&choice, ANY);
        assert!(found.contains(said), "{found}");
    }
    let found = problems("", "match = [{ host = '*' }]\nevidence_rules = ['Ring']");
    assert!(found.contains("`migrations.shop.evidence_rules` has `Ring`, which is no name of a rule"), "{found}");
}
