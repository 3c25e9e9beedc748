//! Turns a WebSocket over HTTP/2 (RFC 8441) into one over HTTP/1.1 for its upstream. Pure.
//!
//! A caller asks by CONNECT with the protocol `websocket`, and is answered with 200 where HTTP/1.1 would change the
//! protocol. The key that an upgrade must have is made by the host, and the caller sees neither the key nor the
//! upstream's answer to it (RFC 8441, 5).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    Method, Request, StatusCode, Version,
    ext::Protocol,
    header::{CONNECTION, HeaderName, HeaderValue, UPGRADE},
};

use crate::proxy::{Reply, refuse};
use cutover_model::request::FailureKind;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");

/// Makes a request for a WebSocket over HTTP/2 one for an upgrade, with a key made of `draw`; whether it was one.
pub(super) fn to_upgrade<B>(request: &mut Request<B>, draw: impl FnOnce() -> u128) -> bool {
    let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
    let is_one = request.version() == Version::HTTP_2
        && request.method() == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket"));
    if !is_one {
        return false;
    }
    *request.method_mut() = Method::GET;
    let fields = request.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(&STANDARD.encode(draw().to_be_bytes())) {
        fields.insert(KEY, key);
    }
    true
}

/// Makes the answer to such a request one of HTTP/2. What is a success there begins the WebSocket, so none may be that did
/// not change the protocol.
pub(super) fn to_answer(mut reply: Reply) -> Reply {
    match reply.head.status {
        StatusCode::SWITCHING_PROTOCOLS => {
            reply.head.status = StatusCode::OK;
            reply.head.reason = None;
            for name in ["connection", "upgrade", "sec-websocket-accept"] {
                reply.head.fields.remove(name);
            }
            reply
        }
        status if status.is_success() => {
            let message = "the upstream did not change the protocol to `websocket`";
            refuse(StatusCode::BAD_GATEWAY, FailureKind::Communication.name(), message)
        }
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::ReplyHead, proxy::ReplyBody};

    fn asked(method: Method, version: Version, protocol: Option<&'static str>) -> Request<()> {
        let mut request = Request::new(());
        (*request.method_mut(), *request.version_mut()) = (method, version);
        request.extensions_mut().extend(
            protocol
                .map(Protocol::from_static)
                .map(|protocol| {
                    let mut extensions = hyper::http::Extensions::new();
                    extensions.insert(protocol);
                    extensions
                })
                .unwrap_or_default(),
        );
        request
    }

    #[test]
    fn a_websocket_over_http_2_is_an_upgrade_and_nothing_else_is() {
        let mut request = asked(Method::CONNECT, Version::HTTP_2, Some("websocket"));
        assert!(to_upgrade(&mut request, || 7));
        assert_eq!(
            (request.method(), &request.headers()[UPGRADE]),
            (&Method::GET, &HeaderValue::from_static("websocket"))
        );
        assert_eq!(request.headers()["sec-websocket-key"], "AAAAAAAAAAAAAAAAAAAABw==");
        for (method, version, protocol) in [
            (Method::CONNECT, Version::HTTP_2, None),
            (Method::CONNECT, Version::HTTP_2, Some("connect-udp")),
            (Method::GET, Version::HTTP_2, None),
            (Method::CONNECT, Version::HTTP_11, Some("websocket")),
        ] {
            let mut request = asked(method.clone(), version, protocol);
            assert!(!to_upgrade(&mut request, || 7) && *request.method() == method && request.headers().is_empty());
        }
    }

    #[test]
    fn only_a_change_of_protocol_is_a_success() {
        let answer = |status| {
            let fields = [("upgrade", "websocket"), ("sec-websocket-accept", "x"), ("sec-websocket-protocol", "chat")];
            let head = ReplyHead { fields: fields.into_iter().collect(), ..ReplyHead::of(status) };
            to_answer(Reply { head, body: ReplyBody::whole("") })
        };
        let begun = answer(StatusCode::SWITCHING_PROTOCOLS).head;
        let names: Vec<_> = begun.fields.all_text().map(|(name, _)| name.to_owned()).collect();
        assert_eq!((begun.status, names), (StatusCode::OK, vec!["sec-websocket-protocol".to_owned()]));
        assert_eq!(answer(StatusCode::OK).head.status, StatusCode::BAD_GATEWAY);
        assert_eq!(answer(StatusCode::FORBIDDEN).head.status, StatusCode::FORBIDDEN);
    }
}
