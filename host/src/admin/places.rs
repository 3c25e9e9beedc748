//! Leaves room for orders that cannot wait: those about policies, which may take long, have half of the connections at the most.
//!
//! A request keeps its connection until it is answered, and putting a policy in charge may take minutes: it is read, then
//! compiled, then shown what happened. As many such requests as there are connections would keep out the one that takes
//! everything back from V2. So whoever comes when half of them wait is refused at once.

use std::sync::Arc;

use axum::{
    extract::Request,
    http::{Method, StatusCode},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tokio::sync::Semaphore;

use super::Refusal;
use cutover_control::migration::handle::Code;

/// Places for what may take long.
pub(super) fn places(max_connections: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((max_connections / 2).clamp(1, Semaphore::MAX_PERMITS)))
}

/// Refuses what may take long if there is no place for it.
pub(super) async fn guard(places: Arc<Semaphore>, request: Request, next: Next) -> Response {
    if !may_take_long(request.method(), request.uri().path()) {
        return next.run(request).await;
    }
    match places.try_acquire_owned() {
        Ok(_place) => next.run(request).await,
        Err(_taken) => {
            let message = "the host is busy with other orders about policies, which have half of the admin plane's connections \
                           (`host.admin_plane.max_connections`); try again later";
            Refusal::coded(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), message.into()).into_response()
        }
    }
}

/// Whether it is an order about policies: all others are done, or refused, within a check.
fn may_take_long(method: &Method, path: &str) -> bool {
    !method.is_safe() && path.split('/').any(|part| matches!(part, "policies" | "candidate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_about_policies_need_a_place_and_no_others() {
        let long = |method: Method, path: &str| may_take_long(&method, path);
        for verb in ["emergency-rollback", "rollback", "pause", "advance", "retreat"] {
            let path = format!("/api/v1/migrations/m/{verb}");
            assert!(!long(Method::POST, &path), "{verb}");
        }
        assert!(!long(Method::GET, "/api/v1/migrations/m/policies"));
        assert!(long(Method::PUT, "/api/v1/migrations/m/policies"));
        assert!(long(Method::PUT, "/api/v1/migrations/m/policies/rollback"));
        assert!(long(Method::POST, "/api/v1/migrations/m/policies/rollback/revert"));
        assert!(long(Method::PUT, "/api/v1/migrations/m/candidate"));
        assert!(long(Method::POST, "/api/v1/policies"));
    }

    #[test]
    fn half_of_the_connections_are_places_and_there_is_always_one() {
        assert_eq!([1, 2, 3, 64].map(|most| places(most).available_permits()), [1, 1, 1, 32]);
    }
}
