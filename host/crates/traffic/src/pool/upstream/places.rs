//! Gets a request a place at a member: which member, and what is done when all places are taken.
//!
//! Requests that find all places taken wait in turn. A caller that has too many places ([`callers`]) waits behind all
//! others, and gets only a place that ends while it no longer has too many.

use std::sync::{Arc, atomic::Ordering};

use tokio::time::timeout_at;

use super::{
    Inner, Ticket, UpstreamPool, balance,
    callers::{self, Source},
    member::{Member, Waiting},
};
use crate::pool::upstream::idle;
use cutover_model::{
    clock::Mono,
    request::{Failure, FailureKind},
};

/// Why a request gets no place.
#[derive(Debug)]
pub struct NoPlace {
    /// The failure that the pool has then.
    pub failure: Failure,
    /// Whether it is its caller that has too many.
    pub by_caller: bool,
}

impl UpstreamPool {
    /// A place for a request of a caller at a member, another one than `avoid` if there is another. Waits if all places are
    /// taken, or the caller has too many of them.
    ///
    /// # Errors
    /// Unsent: the pool is closed or full, or no place became free in time.
    pub async fn check_out(
        &self,
        source: Option<Source>,
        avoid: Option<usize>,
        deadline: Mono,
        now: Mono,
    ) -> Result<Ticket, NoPlace> {
        let inner = &self.0;
        let closed = || Err(Failure::unsent(FailureKind::System, format!("{} is closed", inner.spec.label)).into());
        if !self.is_open() {
            return closed();
        }
        let at = inner.choose(avoid, now);
        let (Some(member), Some(handle)) = (inner.members.get(at), idle::of(&self.1)) else {
            let message = format!("{} has no upstream", inner.spec.label);
            return Err(Failure::unsent(FailureKind::System, message).into());
        };
        if !inner.may_have_another(source, member) {
            Box::pin(inner.wait_behind(source, member, deadline)).await?;
        } else if !member.enter() {
            Box::pin(inner.wait(member, deadline)).await?;
        }
        let era = inner.era.load(Ordering::Acquire);
        let ticket = Ticket { pool: Arc::clone(handle), member: at, era, source };
        if let Some(source) = source {
            inner.callers.enter(source);
        }
        // A task that closes the pool looks at what is in flight after that: one of the two sees the other.
        if inner.open.load(Ordering::SeqCst) { Ok(ticket) } else { closed() }
    }
}

impl Inner {
    /// A member that is usable and not to be avoided. If there is none, any member: a pool whose members all look bad
    /// is more likely misjudged than gone, and refusing the request would not help its caller.
    fn choose(&self, avoid: Option<usize>, now: Mono) -> usize {
        let (members, chance) = (self.members.len(), fastrand::u64(..));
        let usable = |at: usize| self.members.get(at).is_some_and(|member| member.is_usable(now));
        let cost = |at: usize| self.members.get(at).map_or(u64::MAX, |member| member.cost(now));
        balance::choose(members, chance, |at| usable(at) && Some(at) != avoid, cost)
            .or_else(|| balance::choose(members, chance, usable, cost))
            .or_else(|| balance::choose(members, chance, |at| Some(at) != avoid, cost))
            .unwrap_or(0)
    }

    async fn wait(&self, member: &Member, deadline: Mono) -> Result<(), Failure> {
        let refused = |message| Err(Failure::unsent(FailureKind::Resource, message));
        let label = &self.spec.label;
        let _waiting = Waiting::new(&self.waiting);
        if self.waiting.load(Ordering::Acquire) > self.spec.max_waiting {
            return refused(format!("{label} is full; try again later"));
        }
        if timeout_at(deadline.timer(), member.enter_in_turn()).await.is_err() {
            return refused(format!("no connection of {label} became free in time"));
        }
        Ok(())
    }

    /// Whether a caller may have another place, at this member.
    fn may_have_another(&self, source: Option<Source>, member: &Member) -> bool {
        let Some(source) = source else { return true };
        let (own, share) = (self.callers.places(source), self.spec.caller_share_percent);
        // What is free at one member is enough to know, as a rule.
        callers::may_have_another(own, member.free(), share)
            || callers::may_have_another(own, self.members.iter().map(Member::free).sum(), share)
    }

    /// Waits until a caller that has too many places may have another. Others go before it.
    async fn wait_behind(&self, source: Option<Source>, member: &Member, deadline: Mono) -> Result<(), NoPlace> {
        let label = &self.spec.label;
        let refused = |what: &str, full: String| {
            // It is the caller that has too many only if others would get a place.
            let by_caller = self.members.iter().any(|member| member.free() > 0);
            let greedy = || format!("this caller has as many requests at {label} as one may have, and {what}");
            let message = if by_caller { greedy() } else { full };
            Err(NoPlace { failure: Failure::unsent(FailureKind::Resource, message), by_caller })
        };
        let _waiting = Waiting::new(&self.behind);
        if self.behind.load(Ordering::Acquire) > self.spec.max_waiting {
            return refused("too many wait; try again later", format!("{label} is full; try again later"));
        }
        let entered = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if self.may_have_another(source, member) && member.enter() {
                    return;
                }
                freed.await;
            }
        };
        if timeout_at(deadline.timer(), entered).await.is_err() {
            return refused("none of them ended in time", format!("no connection of {label} became free in time"));
        }
        Ok(())
    }
}

impl From<Failure> for NoPlace {
    fn from(failure: Failure) -> Self {
        Self { failure, by_caller: false }
    }
}
