//! What gRPC says of a call: its status, which comes in the trailers, or in the head if nothing else comes.
//!
//! The protocol is gRPC over HTTP/2. The codes that are the service's fault are those that google/rpc/code.proto maps
//! to 500 and more in HTTP.

use crate::message::Fields;

const STATUS: &str = "grpc-status";

/// What is said of a member whose call failed.
pub(super) const FAILED: &str = "answered with a failure of gRPC";

/// UNKNOWN, `DEADLINE_EXCEEDED`, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, `DATA_LOSS`.
const FAILURES: [&[u8]; 6] = [b"2", b"4", b"12", b"13", b"14", b"15"];

/// Whether an answer is one of gRPC.
pub(super) fn is_call(fields: &Fields) -> bool {
    let media_type = fields.get("content-type").and_then(|value| value.strip_prefix(b"application/grpc"));
    // What is of another protocol, such as `application/grpc-web`, has its status elsewhere.
    media_type.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Whether the head of an answer says that the service failed; then there is nothing else.
pub(super) fn has_failed(fields: &Fields) -> bool {
    fields.get(STATUS).is_some_and(is_failure)
}

/// Whether trailers say so.
pub(super) fn say_failed(trailers: &hyper::HeaderMap) -> bool {
    trailers.get(STATUS).is_some_and(|code| is_failure(code.as_bytes()))
}

fn is_failure(code: &[u8]) -> bool {
    FAILURES.contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_services_fault_is_a_failure() {
        let failures: Vec<_> = (0..=20_u8).filter(|code| is_failure(code.to_string().as_bytes())).collect();
        assert_eq!(failures, [2, 4, 12, 13, 14, 15]);
        assert!(!is_failure(b"") && !is_failure(b"x"));
        let is = |media_type: &str| is_call(&[("content-type", media_type)].into_iter().collect());
        assert!(is("application/grpc") && is("application/grpc+proto") && is("application/grpc;x=y"));
        assert!(!is("application/grpc-web+proto") && !is("application/json") && !is_call(&Fields::default()));
        assert!(has_failed(&[("grpc-status", "14")].into_iter().collect()) && !has_failed(&Fields::default()));
    }
}
