//! Looks up the names of upstreams, again and again, because services move.
//!
//! New connections go where a name leads now. Connections to where it led before end after the requests that they
//! carry.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use super::{Inner, address::Address, member::Member};
use cutover_model::clock::Mono;

type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

type Look = dyn Fn(&str, u16) -> Looking + Send + Sync;

/// How names are looked up: by the system, unless a function is given.
#[derive(Clone, Default)]
pub struct Lookup(Option<Arc<Look>>);

/// The addresses that a member's name leads to.
#[derive(Debug)]
pub(super) struct Places {
    all: ArcSwap<Vec<SocketAddr>>,
    /// How often the addresses have changed.
    era: AtomicU64,
    /// Which of the addresses gets the next connection.
    turn: AtomicUsize,
}

/// Where a connection leads, and until when it is used for new requests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    /// None at a socket of this machine.
    place: Option<SocketAddr>,
    era: u64,
    until: Option<Mono>,
    /// Whose it is, if connections are not shared.
    caller: Option<SocketAddr>,
}

impl Lookup {
    /// Looks names up with a function of name and port, instead of the system's resolver.
    pub fn by<F>(look: impl Fn(&str, u16) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Some(Arc::new(move |host, port| Box::pin(look(host, port)))))
    }

    async fn of(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let mut all = match &self.0 {
            Some(look) => look(host, port).await?,
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        // Each once: the order is the resolver's, which may prefer one to another.
        let mut known = Vec::with_capacity(all.len());
        all.retain(|place| {
            !known.contains(place) && {
                known.push(*place);
                true
            }
        });
        if all.is_empty() { Err(io::Error::other(format!("`{host}` has no address"))) } else { Ok(all) }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Lookup(own)" } else { "Lookup(system)" })
    }
}

impl Places {
    /// The places of an address. A name leads nowhere before it is looked up; a socket has no places at all.
    pub(super) fn of(address: &Address) -> Self {
        let ip = match address {
            Address::Tcp { host, port, .. } => host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, *port)),
            Address::Unix(_) => None,
        };
        let all = ip.into_iter().collect();
        Self { all: ArcSwap::from_pointee(all), era: AtomicU64::new(0), turn: AtomicUsize::new(0) }
    }

    /// All places, beginning with another one each time, and the era that they are of.
    fn in_turn(&self) -> (Vec<SocketAddr>, u64) {
        let era = self.era.load(Ordering::Acquire);
        let mut all = Vec::clone(&self.all.load());
        if !all.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % all.len();
            all.rotate_left(turn);
        }
        (all, era)
    }

    /// Takes note of where the name leads now; true if some that it led to are gone.
    fn lead(&self, now: Vec<SocketAddr>) -> bool {
        let before = self.all.load();
        let is_gone = before.iter().any(|place| !now.contains(place));
        let is_new = now.iter().any(|place| !before.contains(place));
        if is_gone || is_new {
            self.all.store(Arc::new(now));
            self.era.fetch_add(1, Ordering::AcqRel);
        }
        is_gone
    }

    /// Whether a connection leads where the name does, and is not too old.
    pub(super) fn keeps(&self, origin: Origin, now: Mono) -> bool {
        let leads_there = origin.era == self.era.load(Ordering::Acquire)
            || origin.place.is_some_and(|place| self.all.load().contains(&place));
        leads_there && origin.until.is_none_or(|until| now < until)
    }
}

impl Origin {
    /// For a connection that is made now. Each lives for another time, up to a tenth less than `most`, so that not all
    /// end at once.
    pub(super) fn new((place, era): (Option<SocketAddr>, u64), now: Mono, most: Option<Duration>) -> Self {
        let until = most.map(|most| now + most.mul_f64(1.0 - fastrand::f64() / 10.0));
        Self { place, era, until, caller: None }
    }

    /// The same for a connection that is one caller's.
    pub(super) const fn of_caller(self, caller: Option<SocketAddr>) -> Self {
        Self { caller, ..self }
    }

    /// Whose it is, if connections are not shared.
    pub(super) const fn caller(&self) -> Option<SocketAddr> {
        self.caller
    }
}

impl Inner {
    /// Where a new connection to a member may go, in the order in which it is to be tried.
    pub(super) async fn places(&self, member: &Member) -> io::Result<(Vec<SocketAddr>, u64)> {
        let (known, era) = member.places.in_turn();
        if !known.is_empty() {
            return Ok((known, era));
        }
        if let Some((name, port)) = member.address.name() {
            member.places.lead(self.spec.lookup.of(name, port).await?);
        }
        Ok(member.places.in_turn())
    }
}

impl Inner {
    /// Looks a name up again, because no member is where it led; true if it leads somewhere else.
    pub(super) async fn look_again(&self, member: &Member) -> bool {
        let Some((name, port)) = member.address.name() else { return false };
        let before = member.places.era.load(Ordering::Acquire);
        if let Ok(all) = self.spec.lookup.of(name, port).await {
            member.places.lead(all);
        }
        member.places.era.load(Ordering::Acquire) != before
    }
}

/// Looks up again where a member's name leads, until the pool is shut down.
pub(super) async fn keep_fresh(pool: Arc<Inner>, at: usize) {
    let Some(member) = pool.members.get(at) else { return };
    let Some((name, port)) = member.address.name() else { return };
    let mut has_failed = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pool.spec.dns_refresh) => {}
            () = pool.shutdown.cancelled() => return,
        }
        match pool.spec.lookup.of(name, port).await {
            Ok(all) => {
                has_failed = false;
                if member.places.lead(all) {
                    tracing::info!(pool = pool.spec.label, upstream = %member.address, "leads somewhere else");
                    pool.forget_stale(at);
                }
            }
            // What was right before is the best guess.
            Err(error) if !has_failed => {
                has_failed = true;
                tracing::warn!(pool = pool.spec.label, upstream = %member.address, %error, "cannot be looked up");
            }
            Err(_again) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(n: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, n], 80))
    }

    #[test]
    fn connections_take_turns_and_end_where_a_name_leads_no_more() {
        let places = Places::of(&Address::parse("http://service:80").unwrap());
        assert!(places.in_turn().0.is_empty());
        assert!(!places.lead(vec![place(1), place(2)]), "none is gone");
        let firsts: Vec<_> = (0..4).map(|_| places.in_turn().0[0]).collect();
        assert_eq!(firsts, [place(1), place(2), place(1), place(2)]);
        let now = Mono::default();
        let of = |n| Origin::new((Some(place(n)), places.in_turn().1), now, None);
        let (one, two) = (of(1), of(2));
        assert!(places.keeps(one, now) && places.keeps(two, now));
        assert!(places.lead(vec![place(2), place(3)]));
        assert!(!places.keeps(one, now) && places.keeps(two, now));
        assert!(!places.lead(vec![place(3), place(2)]), "the same in another order");
    }

    #[test]
    fn a_connection_lives_as_long_as_it_may_and_a_little_less() {
        let places = Places::of(&Address::parse("http://10.0.0.1:80").unwrap());
        let (all, era) = places.in_turn();
        let now = Mono::default() + Duration::from_secs(100);
        let origin = Origin::new((Some(all[0]), era), now, Some(Duration::from_secs(10)));
        assert!(
            places.keeps(origin, now + Duration::from_secs(8)) && !places.keeps(origin, now + Duration::from_secs(10))
        );
    }

    #[tokio::test]
    async fn a_name_that_leads_nowhere_is_an_error() {
        let lookup = Lookup::by(|_, port| async move { Ok(vec![SocketAddr::from(([127, 0, 0, 1], port)); 3]) });
        assert_eq!(lookup.of("a", 7).await.unwrap(), [SocketAddr::from(([127, 0, 0, 1], 7))]);
        let nothing = Lookup::by(|_, _| async { Ok(Vec::new()) });
        assert!(nothing.of("a", 7).await.is_err());
    }
}
