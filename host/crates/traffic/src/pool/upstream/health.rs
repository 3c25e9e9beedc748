//! Active checks: asks members how they are, each from a task of its own.
//!
//! A pool without checks has no news of members that get no requests: they are probed by a connection, which says whether
//! somebody is there ([`reach`](super::reach)) and nothing about how its answers would be.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use hyper::{Method, Version};
use tokio::time::timeout;

use super::{Inner, Outgoing, member::Member};
use crate::{message::RequestHead, pool::upstream::outlier::Checks};
use cutover_model::{causes::chain, clock};

/// How members are checked: with a GET that has to be answered with a status below 400.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The path that is asked for.
    pub path: String,
    /// The `Host` that is asked for; the member's address unless it is set.
    pub host: Option<String>,
    /// The time between two checks; at most a second while the member is not usable.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// After how many results a member counts as up or down.
    pub rule: Checks,
}

/// Checks a member while the pool is open, until the pool is shut down.
pub(super) async fn watch(pool: Arc<Inner>, at: usize) {
    let Some(member) = pool.members.get(at) else { return };
    let Some(check) = &pool.spec.health else { return probe(&pool, member).await };
    loop {
        let changed = pool.changed.notified();
        if !pool.open.load(Ordering::Acquire) {
            // A pool that is shut down changes nothing any more.
            tokio::select! {
                () = changed => continue,
                () = pool.shutdown.cancelled() => return,
            }
        }
        let replaced = pool.replaced.load(Ordering::Acquire);
        let asked = timeout(check.timeout, ask(&pool, member, check)).await;
        let result =
            asked.unwrap_or_else(|_elapsed| Err(format!("no answer to a health check within {:?}", check.timeout)));
        if pool.replaced.load(Ordering::Acquire) != replaced {
            // It was another that was asked.
            continue;
        }
        let why = result.as_ref().err().cloned().unwrap_or_default();
        if member.checked(check.rule, result) {
            let (label, upstream) = (&pool.spec.label, &member.address);
            if why.is_empty() {
                tracing::info!(pool = label, %upstream, "up");
            } else {
                tracing::warn!(pool = label, %upstream, "down: {why}");
            }
            pool.changed.notify_waiters();
        }
        // The first answers are wanted soon: a pool is not ready before.
        let wait =
            if member.is_usable(clock::mono()) { check.interval } else { check.interval.min(Duration::from_secs(1)) };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // It may be another by now.
            () = pool.renewed.notified() => {}
            () = pool.shutdown.cancelled() => return,
        }
    }
}

/// Connects to a member that has not answered anything for a while, while the pool is open, until it is shut down.
async fn probe(pool: &Inner, member: &Member) {
    let mut probed = clock::mono();
    loop {
        let wait = member.reach.wait(probed, clock::mono()).max(Duration::from_millis(1));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = pool.shutdown.cancelled() => return,
        }
        let now = clock::mono();
        if member.reach.wait(probed, now) > Duration::ZERO {
            continue;
        }
        probed = now;
        if pool.open.load(Ordering::Acquire) {
            match pool.connect(member, None).await {
                Ok(_) => member.reach.meet(clock::mono()),
                Err(failure) => member.miss(&failure.message),
            }
        }
    }
}

/// On a connection of its own, so that it says something about connecting, too.
async fn ask(pool: &Inner, member: &Member, check: &HealthCheck) -> Result<(), String> {
    let sender = pool.connect(member, None).await.map_err(|failure| failure.message)?;
    let authority = member.address.authority();
    let host = check.host.as_deref().unwrap_or(&authority);
    let fields = [("host", host), ("user-agent", "cutover-health-check")].into_iter().collect();
    let uri = check.path.parse().map_err(|e: hyper::http::uri::InvalidUri| chain(&e))?;
    let head = RequestHead { method: Method::GET, uri, version: Version::HTTP_11, fields };
    match sender.send((pool, &member.address), &mut Some(Outgoing::of(head)), false).await {
        Ok(begun) if begun.head.status.as_u16() < 400 => Ok(()),
        Ok(begun) => Err(format!("a health check was answered with {}", begun.head.status)),
        Err(failed) => Err(format!("a health check failed: {}", chain(&failed.why))),
    }
}
