//! Where a request of a migration goes, and the cookie by which its session is known again.

use std::sync::Arc;

use super::{
    Proxy,
    affinity::{self, Visit},
    head::View,
    path::Form,
};
use crate::{
    message::{ReplyHead, RequestHead},
    observe::Session,
};
use cutover_model::{clock, request::PoolId};
use cutover_policy_host::route::{By, Route};

/// What routing made of a request.
pub(super) struct Routed {
    pub route: Route,
    /// Its session for counting; `None` if it has none that is known.
    pub session: Option<Session>,
    /// Its session by the host's cookie; `None` if the host sets none.
    pub visit: Option<Visit>,
}

impl Proxy {
    /// Where a request goes, and as whose.
    pub(super) fn route(&self, head: &mut RequestHead, form: &Form, id: &str, operation: &Arc<str>) -> Routed {
        let known = self.session.iter().find_map(|key| key.of(&head.fields));
        let cookie = self.cookie.as_ref();
        let visit = cookie.map(|cookie| cookie.visit(&head.fields, known, clock::unix_ms(), || fastrand::u128(..)));
        let session = visit.as_ref().map(|visit| visit.id.as_str()).or(known);
        let home = cookie.zip(visit.as_ref()).and_then(|(cookie, visit)| cookie.home(visit));
        let path = form.or_as_it_came(head.uri.path());
        let view = View { head, path, id, operation, session, home };
        let route = self.split.route(&view, || view.copy());
        // A caller that never sends the cookie back would be a new session with each call: it counts as one without a
        // session.
        let is_counted = visit.as_ref().is_none_or(|visit| visit.is_known);
        let session = session.filter(|_| is_counted).map(|key| self.split.recorder.session(key));
        if let Some(cookie) = cookie {
            cookie.strip(&mut head.fields);
        }
        Routed { route, session, visit }
    }

    /// Whether V1 may answer for V2 as far as the session goes: where pools have sessions apart, V1 does not know it.
    pub(super) fn may_go_to_v1(&self, visit: Option<&Visit>) -> bool {
        let home = self.cookie.as_ref().zip(visit).and_then(|(cookie, visit)| cookie.home(visit));
        home.is_none_or(|home| home.pool == PoolId::V1)
    }

    /// Sets the host's cookie with an answer of a pool, where it has to be.
    pub(super) fn mark(
        &self,
        head: &mut ReplyHead,
        visit: Option<Visit>,
        (route, pool): (&Route, PoolId),
        is_tls: bool,
    ) {
        let Some((cookie, visit)) = self.cookie.as_ref().zip(visit) else { return };
        // A new session is at home where it was answered. What a rule or the caller chose later, or V1 answered for V2, says
        // nothing of where it is.
        let is_home = visit.is_new || route.by == By::Share && pool == route.pool;
        if is_home
            && !affinity::is_shared(&head.fields)
            && let Some(set) = cookie.set(&visit, pool, clock::unix_ms(), is_tls)
        {
            head.fields.add("set-cookie", set);
        }
    }
}
