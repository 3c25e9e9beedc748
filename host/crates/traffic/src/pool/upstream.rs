//! A pool of HTTP upstreams: picks a member, keeps connections, and sends one request at a time over each.
//!
//! Connections belong to the thread that made them ([`idle`]): a request never crosses threads on its way. What is
//! known of members (load, latency, standing) is shared. A closed pool takes no request; what is in flight may end, and
//! [`Signals`] tell long streams when to end and what is left when to give up. **Invariant**: a request that was handed
//! back was never seen by a member.

mod address;
pub mod balance;
pub mod budget;
pub mod callers;
pub mod connection;
mod dial;
mod health;
pub mod idle;
mod interim;
mod member;
pub mod outlier;
mod places;
mod reach;
mod renew;
mod resolve;
mod send;
pub mod upload;
mod wire;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Notify, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    address::{Address, BadAddress},
    connection::{Connector, TlsError, TlsSettings},
    health::HealthCheck,
    interim::Interims,
    member::MemberView,
    places::NoPlace,
    resolve::Lookup,
    send::{Answered, Ask, Outgoing, Reuse, Unanswered},
    wire::{AnswerBody, Torn},
};
use self::{
    budget::Budget,
    callers::{Callers, Source},
    member::Member,
};
pub use crate::pool::upstream::outlier::{Checks, Ejection};
use crate::{
    message::rules::{HeaderRules, Rules},
    pool::upstream::idle::IdlePool,
    proxy_protocol::Version,
};
use cutover_model::{
    clock::{self, Mono},
    facts::Members,
    request::{Failure, FailureKind, PoolId},
};

/// What a pool of upstreams is made of.
#[derive(Debug, Clone)]
pub struct UpstreamSpec {
    /// The name of the migration and of the pool, for logs: `shop/v2`.
    pub label: String,
    /// Whether it is V1's or V2's.
    pub id: PoolId,
    /// Whether the configuration has left it out: it is never open.
    pub is_absent: bool,
    /// The addresses of its members.
    pub upstreams: Vec<Address>,
    /// How connections to them are made.
    pub connector: Connector,
    /// How names are looked up.
    pub lookup: Lookup,
    /// How often names are looked up again.
    pub dns_refresh: Duration,
    /// How long a connection is used for new requests; `None` for as long as it lasts.
    pub max_connection_age: Option<Duration>,
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How long a body may stand still, in either direction, and how long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// How long a body may take.
    pub total_timeout: Duration,
    /// The same for streams of events and calls of gRPC; `None` for as long as they go on.
    pub stream_total_timeout: Option<Duration>,
    /// So many bytes of a body have to be here before a member is asked.
    pub request_buffer: usize,
    /// The part of the places that one caller alone may have, in percent.
    pub caller_share_percent: u32,
    /// Requests that one member is sent at once; over HTTP/1.1 that is connections.
    pub max_connections: usize,
    /// Requests that may wait for one of them to end.
    pub max_waiting: usize,
    /// How often a request is tried again at most.
    pub retries: u32,
    /// The part of requests that may be, in percent.
    pub retry_budget_percent: u32,
    /// When members are ejected.
    pub ejection: Ejection,
    /// The version of the PROXY protocol that connections begin with; `None` for none. Each connection is then one
    /// caller's.
    pub proxy_protocol: Option<Version>,
    /// What is set and removed in the fields of requests and answers, if anything.
    pub headers: Option<Arc<HeaderRules>>,
    /// How members are asked whether they are well; `None` for not at all.
    pub health: Option<HealthCheck>,
    /// How long requests in flight may take when the pool is drained.
    pub drain_timeout: Duration,
    /// How long streams may go on when the pool is drained.
    pub stream_timeout: Duration,
}

impl UpstreamSpec {
    /// What is set and removed in requests.
    fn request_rules(&self) -> Option<&Rules> {
        self.headers.as_ref().map(|headers| &headers.request).filter(|rules| !rules.is_empty())
    }

    /// How long a body may take, or a stream.
    pub const fn total(&self, is_stream: bool) -> Option<Duration> {
        if is_stream { self.stream_total_timeout } else { Some(self.total_timeout) }
    }
}

/// A pool; clones are the same pool.
#[derive(Debug, Clone)]
pub struct UpstreamPool(Arc<Inner>, Arc<[Arc<Handle>]>);

/// The pool, as one serving thread holds on to it: what is counted for each request is then that thread's alone.
#[derive(Debug)]
#[repr(align(128))]
struct Handle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: UpstreamSpec,
    members: Vec<Member>,
    lanes: Vec<IdlePool>,
    budget: Budget,
    open: AtomicBool,
    /// Whether `drain` waits for requests to end.
    draining: AtomicBool,
    waiting: AtomicUsize,
    callers: Callers,
    /// Requests that wait because their callers have more places than they may.
    behind: AtomicUsize,
    /// For those: a request ended.
    freed: Notify,
    /// A request ended, a member is up or down, or the pool was opened or closed.
    changed: Notify,
    /// How often its members were replaced by others.
    replaced: AtomicU64,
    /// Notified when `replaced` goes up.
    renewed: Notify,
    /// How often it was opened after it was drained: whose signals are `signals`.
    era: AtomicU64,
    signals: Mutex<Arc<Signals>>,
    /// Connections without a task of their own; those that are gone are swept away.
    cuts: Mutex<Vec<Weak<wire::Cut>>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

/// What a pool shows of itself.
#[derive(Debug, Serialize)]
pub struct UpstreamView {
    /// Whether it is V1's or V2's.
    pub pool: PoolId,
    /// Whether it lets requests in.
    pub open: bool,
    /// Requests that wait for a place.
    pub waiting: usize,
    /// What is known of each member.
    pub upstreams: Vec<MemberView>,
}

/// What long exchanges listen to.
#[derive(Debug, Default)]
pub struct Signals {
    /// Streams are to end where they can end cleanly.
    pub end: CancellationToken,
    /// Whatever is left is to be given up.
    pub give_up: CancellationToken,
}

/// A request's place at a member. Dropping it frees the place.
#[derive(Debug)]
pub struct Ticket {
    pool: Arc<Handle>,
    member: usize,
    era: u64,
    /// The caller that has it; `None` if the host itself asks.
    source: Option<Source>,
}

impl UpstreamPool {
    /// A pool that is closed. `lanes` is the number of threads that serve requests.
    pub fn new(spec: UpstreamSpec, lanes: usize) -> Self {
        let unseen = spec.health.is_some();
        let members = spec.upstreams.iter().map(|address| Member::new(address.clone(), spec.max_connections, unseen));
        let inner = Arc::new(Inner {
            members: members.collect(),
            lanes: (0..=lanes).map(|_| IdlePool::new(spec.upstreams.len())).collect(),
            budget: Budget::new(spec.retry_budget_percent),
            open: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            callers: Callers::new(),
            behind: AtomicUsize::new(0),
            freed: Notify::new(),
            changed: Notify::new(),
            era: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            renewed: Notify::new(),
            signals: Mutex::default(),
            cuts: Mutex::default(),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            spec,
        });
        for member in 0..inner.members.len() {
            inner.tasks.spawn(health::watch(Arc::clone(&inner), member));
            inner.tasks.spawn(resolve::keep_fresh(Arc::clone(&inner), member));
        }
        inner.tasks.spawn(idle::keep_idle_short(Arc::clone(&inner)));
        let handles = (0..=lanes).map(|_| Arc::new(Handle(Arc::clone(&inner)))).collect();
        Self(inner, handles)
    }

    /// Lets requests in, unless the configuration has left the pool out.
    pub fn open(&self) {
        if self.0.spec.is_absent {
            return;
        }
        let mut signals = self.0.signals.lock();
        if signals.end.is_cancelled() {
            *signals = Arc::default();
            self.0.era.fetch_add(1, Ordering::AcqRel);
        }
        self.0.draining.store(false, Ordering::Release);
        self.0.open.store(true, Ordering::SeqCst);
        drop(signals);
        self.0.changed.notify_waiters();
    }

    /// Whether it lets requests in.
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Acquire)
    }

    /// Waits until a member is usable.
    ///
    /// # Errors
    /// What is known of the members.
    pub async fn ready_by(&self, deadline: Mono) -> Result<(), Failure> {
        loop {
            let changed = self.0.changed.notified();
            if self.is_ready() {
                return Ok(());
            }
            if !self.is_open() || timeout_at(deadline.timer(), changed).await.is_err() {
                let why = self.why_not_whole().unwrap_or_else(|| "no upstream was reached yet".into());
                return Err(Failure::unsent(FailureKind::Initialization, format!("{}: {why}", self.0.spec.label)));
            }
        }
    }

    /// A request came that may be tried again.
    pub fn count_request(&self) {
        self.0.budget.pay_in();
    }

    /// Whether a request may be tried again after so many attempts.
    pub fn may_retry(&self, attempts: u32) -> bool {
        attempts <= self.0.spec.retries && self.0.budget.take()
    }

    /// When a request was last sent to a member.
    pub fn last_dispatch(&self) -> Mono {
        self.0.lanes.iter().map(IdlePool::last_dispatch).max().unwrap_or_default()
    }

    /// Lets no request in any more, at once.
    pub fn close(&self) {
        self.0.open.store(false, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }

    /// Waits for requests in flight, at most as long as the settings say; streams are told to end before that. Returns
    /// those that are left.
    pub async fn drain(&self) -> usize {
        // Either the end of a request sees this, or what is in flight is seen here without it.
        self.0.draining.store(true, Ordering::SeqCst);
        let start = clock::mono();
        let (streams, all) = (start + self.0.spec.stream_timeout, start + self.0.spec.drain_timeout);
        let signals = Arc::clone(&self.0.signals.lock());
        self.until_idle(streams.min(all)).await;
        signals.end.cancel();
        self.until_idle(all).await
    }

    /// Tells streams to end where they can end cleanly.
    pub fn end_streams(&self) {
        self.0.signals.lock().end.cancel();
    }

    /// Gives up what is in flight in a closed pool and closes its connections.
    pub fn stop(&self) {
        let signals = Arc::clone(&self.0.signals.lock());
        signals.end.cancel();
        signals.give_up.cancel();
        self.0.cut_wires();
        self.0.lanes.iter().for_each(IdlePool::clear);
    }

    /// Closes, drains, stops and waits for everything that the pool started.
    pub async fn shut_down(&self) {
        self.close();
        self.drain().await;
        self.stop();
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Whether at least one member is usable.
    pub fn is_ready(&self) -> bool {
        let now = clock::mono();
        self.0.members.iter().any(|member| member.is_usable(now))
    }

    /// Whether a member is there to answer: one that can be reached and passes its checks, however its answers are.
    pub fn can_serve(&self) -> bool {
        self.is_open() && self.0.members.iter().any(Member::is_there)
    }

    /// The pool's members, with those that went down or were ejected since the last time that this was asked.
    pub fn members(&self) -> Members {
        let failures = self.0.members.iter().map(Member::take_failures).sum();
        Members { failures, ..self.members_now() }
    }

    /// The pool's members, leaving the count of failures alone.
    pub fn members_now(&self) -> Members {
        let now = clock::mono();
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Members {
            wanted: small(self.0.members.len()),
            ready: small(self.0.members.iter().filter(|member| member.is_usable(now)).count()),
            failures: 0,
            queued: small(self.0.waiting()),
            rss_bytes: 0,
        }
    }

    /// Which members are not usable, and why, if any.
    pub fn why_not_whole(&self) -> Option<String> {
        if !self.is_open() {
            return None;
        }
        let now = clock::mono();
        let out = self.0.members.iter().filter(|member| !member.is_usable(now) || !member.is_there());
        let out = out.map(Member::why_out);
        let out: Vec<_> = out.collect();
        (!out.is_empty()).then(|| format!("{}: {}", self.0.spec.label, out.join("; ")))
    }

    /// Everything that the pool shows of itself.
    pub fn view(&self) -> UpstreamView {
        let now = clock::mono();
        UpstreamView {
            pool: self.0.spec.id,
            open: self.is_open(),
            waiting: self.0.waiting(),
            upstreams: self.0.members.iter().map(|member| member.view(now)).collect(),
        }
    }

    /// What the pool is made of.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.0.spec
    }

    /// Requests and streams that are under way.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    async fn until_idle(&self, deadline: Mono) -> usize {
        loop {
            let changed = self.0.changed.notified();
            let left = self.0.in_flight();
            if left == 0 || timeout_at(deadline.timer(), changed).await.is_err() {
                return left;
            }
        }
    }
}

impl Inner {
    /// Cuts the connections that have no task of their own, which would listen to the signals.
    fn cut_wires(&self) {
        self.cuts.lock().drain(..).filter_map(|cut| cut.upgrade()).for_each(|cut| cut.cut());
    }

    fn in_flight(&self) -> usize {
        self.members.iter().map(Member::in_flight).sum()
    }

    /// Requests that wait for a place.
    fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire) + self.behind.load(Ordering::Acquire)
    }

    /// A member did not answer.
    fn failed(&self, at: usize, why: &str) {
        let now = clock::mono();
        let out = self.members.iter().filter(|member| !member.is_usable(now)).count();
        let may_go = outlier::may_go(self.members.len(), out, self.spec.ejection);
        let Some(member) = self.members.get(at) else { return };
        if member.failed(self.spec.ejection, may_go, why, now) {
            tracing::warn!(pool = self.spec.label, upstream = %member.address, "ejected after failures in a row: {why}");
            self.changed.notify_waiters();
        }
    }
}

impl Ticket {
    /// The member's place among the pool's.
    pub const fn member(&self) -> usize {
        self.member
    }

    /// What the pool is made of.
    pub fn spec(&self) -> &UpstreamSpec {
        &self.pool.0.spec
    }

    /// What it listens to. A pool that has been opened again since has told this one to end.
    pub fn signals(&self) -> Arc<Signals> {
        let signals = self.pool.0.signals.lock();
        if self.pool.0.era.load(Ordering::Acquire) == self.era {
            return Arc::clone(&signals);
        }
        let past = Signals::default();
        past.end.cancel();
        past.give_up.cancel();
        Arc::new(past)
    }

    /// The member answered with something that counts against it.
    pub fn count_failure(&self, why: &str) {
        self.pool.0.failed(self.member, why);
    }

    /// Tells that the member answered: its failures in a row are forgotten.
    pub fn count_success(&self) {
        if let Some(member) = self.pool.0.members.get(self.member) {
            member.succeeded();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let pool = &self.pool.0;
        if let Some(member) = pool.members.get(self.member) {
            member.leave();
        }
        if let Some(source) = self.source {
            pool.callers.leave(source);
            if pool.behind.load(Ordering::SeqCst) > 0 {
                pool.freed.notify_one();
            }
        }
        if pool.draining.load(Ordering::SeqCst) {
            pool.changed.notify_waiters();
        }
    }
}
