//! Names of upstreams that lead somewhere else after a while, and connections that grow old.

use std::{
    io,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use cutover::config::PlaneConfig;
use cutover_traffic::pool::upstream::Lookup;

use super::*;

/// A name that leads where the test says.
#[derive(Clone, Default)]
struct Name {
    leads_to: Arc<Mutex<Vec<SocketAddr>>>,
    asked: Arc<AtomicUsize>,
}

impl Name {
    fn lead(&self, to: &[&Upstream]) {
        *self.leads_to.lock().unwrap() = to.iter().map(|upstream| upstream.address).collect();
    }

    fn lookup(&self) -> Lookup {
        let name = self.clone();
        Lookup::by(move |host, _port| {
            assert_eq!(host, "service");
            name.asked.fetch_add(1, Ordering::SeqCst);
            let all = name.leads_to.lock().unwrap().clone();
            async move { if all.is_empty() { Err(io::Error::other("there is no such name")) } else { Ok(all) } }
        })
    }

    async fn asked_again(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        eventually("the name to be looked up", async || (self.asked.load(Ordering::SeqCst) > before + 1).then_some(()))
            .await;
    }
}

async fn start(setup: Setup<'_>, name: &Name) -> Site {
    let folder = TempDir::new().unwrap();
    let mut config = Config::parse(&setup.text(), folder.path(), &[]).unwrap_or_else(|e| panic!("{e}"));
    for migration in &mut config.migrations {
        let PlaneConfig::Http(plane) = &mut migration.plane else { panic!("it is of HTTP services") };
        (plane.v1.lookup, plane.v2.lookup) = (name.lookup(), name.lookup());
    }
    let app = App::start(config, binary()).await.unwrap();
    let site = Site { address: app.data_plane, app, _folder: folder };
    site.until_phase(Phase::Shadow).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_somewhere_else_is_followed_and_no_call_is_dropped() {
    for http2 in [false, true] {
        let (one, two) = (Upstream::http2_too("one", http2).await, Upstream::http2_too("two", http2).await);
        let name = Name::default();
        name.lead(&[&one]);
        let pool = format!("http2 = {http2}\ndns_refresh = '50ms'");
        let urls = vec!["http://service:1".to_owned()];
        let site = start(Setup { v1: urls.clone(), v2: urls, pool: &pool, ..Setup::of(&[], &[]) }, &name).await;
        let who = async || site.get("/").await.json()["name"].as_str().unwrap().to_owned();
        assert_eq!(who().await, "one");
        let slow = site.send(get("/slow/1500", &[]));
        let moved = async {
            eventually("it to be under way", async || (site.in_flight(0) == 1).then_some(())).await;
            name.lead(&[&two]);
            eventually("the new address", async || (who().await == "two").then_some(())).await;
            assert!(site.in_flight(0) == 1, "the old call goes on");
            for _ in 0..10 {
                assert_eq!(who().await, "two");
            }
        };
        let (slow, ()) = tokio::join!(slow, moved);
        assert_eq!((slow.status, &*slow.body), (200, "one"));
        name.lead(&[]);
        name.asked_again().await;
        assert_eq!(who().await, "two", "what it was stays while nobody knows");
        // One that is gone is not waited for: the name is looked up at once.
        drop(two);
        name.lead(&[&one]);
        eventually("the address that is there", async || (site.get("/").await.status == 200).then_some(())).await;
        assert_eq!(who().await, "one");
        site.app.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_too_old_is_used_no_more() {
    for http2 in [false, true] {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let upstream = Upstream::raw(move |stream| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let (io, service) = (TokioIo::new(stream), service_fn(|request| answer("one", request)));
                drop(if http2 {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
                } else {
                    hyper::server::conn::http1::Builder::new().serve_connection(io, service).await
                });
            }
        })
        .await;
        let pool = format!("http2 = {http2}\nmax_connection_age = '200ms'");
        let site = Setup { pool: &pool, ..Setup::of(&[&upstream], &[&upstream]) }.start().await;
        eventually("a third connection", async || {
            assert_eq!(site.get("/").await.status, 200);
            (made.load(Ordering::SeqCst) >= 6).then_some(())
        })
        .await;
        site.app.shut_down().await;
    }
}
