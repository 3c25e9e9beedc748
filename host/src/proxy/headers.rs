//! What a proxy must do to headers: the message's own framing and connection stay behind, and what it adds is what the
//! RFCs name.
//!
//! Connection fields are those of RFC 9110, 7.6.1; `Via` is 7.6.3; `Host` and the target's forms are RFC 9112, 3.2;
//! `Forwarded` is RFC 7239. `traceparent` and `tracestate` (W3C Trace Context) pass as they are.

use std::net::IpAddr;

use hyper::{
    HeaderMap, Method, Uri, Version,
    header::{
        CONNECTION, COOKIE, FORWARDED, HOST, HeaderName, HeaderValue, MAX_FORWARDS, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
    },
    http::{
        request::Parts,
        uri::{PathAndQuery, Scheme},
    },
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What upstreams are told of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// `X-Forwarded-For`, `-Host` and `-Proto` are written.
    pub x_forwarded: bool,
    /// `Forwarded` is written.
    pub forwarded: bool,
    /// What callers say of themselves in them is kept; otherwise it is thrown away.
    pub trust: bool,
}

/// Who sends requests over a connection, and how.
#[derive(Debug, Clone)]
pub struct Caller {
    address: IpAddr,
    text: HeaderValue,
    tls: bool,
}

/// Which of the fields that a proxy has to do with a message has.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each field")]
struct Present {
    connection: bool,
    te: bool,
    hop: bool,
    cookie: bool,
    forwarded: bool,
    authorization: bool,
}

/// A request that no proxy may pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// HTTP/1.1 without `Host`.
    #[error("a request of HTTP/1.1 must have one `Host`")]
    NoHost,
    /// More than one.
    #[error("a request must not have more than one `Host`")]
    ManyHosts,
    /// One that is none.
    #[error("`Host` must be a name or address and at most a port")]
    BadHost,
    /// A target that is neither a path nor a URL of http.
    #[error("the target must be a path, or a URL of `http` or `https`")]
    BadTarget,
}

/// The host that a request is for; the target goes before the header (RFC 9112, 3.2.2).
///
/// # Errors
/// What is wrong with it.
pub fn host(parts: &mut Parts) -> Result<HeaderValue, Malformed> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let first = hosts.next().cloned();
    if hosts.next().is_some() {
        return Err(Malformed::ManyHosts);
    }
    if let Some(authority) = parts.uri.authority() {
        let is_http = parts.uri.scheme().is_none_or(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS);
        if !is_http || authority.as_str().contains('@') {
            return Err(Malformed::BadTarget);
        }
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_invalid| Malformed::BadTarget)?;
        parts.headers.insert(HOST, host.clone());
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        parts.uri = Uri::from(path);
        return Ok(host);
    }
    match first {
        None if parts.version == Version::HTTP_10 => Ok(HeaderValue::from_static("")),
        None => Err(Malformed::NoHost),
        // An empty one is what RFC 9112, 3.2 asks for if the target has no authority.
        Some(value) if value.is_empty() || is_host(value.as_bytes()) => Ok(value),
        Some(_) => Err(Malformed::BadHost),
    }
}

/// Whether it is a name or an address, and at most a port (RFC 3986, 3.2.2 and 3.2.3).
fn is_host(bytes: &[u8]) -> bool {
    let bracket = bytes.iter().rposition(|b| *b == b']');
    let colon = bytes.iter().rposition(|b| *b == b':').filter(|colon| bracket.is_none_or(|end| *colon > end));
    let (name, port) = bytes.split_at(colon.unwrap_or(bytes.len()));
    let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b);
    !name.is_empty() && name.iter().all(in_name) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// The protocol that a request of HTTP/1.1 asks to change to.
pub fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    let asks = parts.version == Version::HTTP_11 && has_token(&parts.headers, &CONNECTION, "upgrade");
    let protocol = parts.headers.get(UPGRADE).filter(|_| asks)?;
    // HTTP/2 is not something to change to in the middle of a connection any more (RFC 9113, 3.1).
    (!protocol.as_bytes().eq_ignore_ascii_case(b"h2c")).then(|| protocol.clone())
}

/// Makes a request's headers those of a request to an upstream. `upgrade` is what it asks to change to, if anything.
pub fn to_upstream(
    parts: &mut Parts,
    host: &HeaderValue,
    caller: &Caller,
    forwarding: Forwarding,
    upgrade: Option<HeaderValue>,
) {
    let present = Present::of(&parts.headers);
    let takes_trailers = present.te && has_token(&parts.headers, &TE, "trailers");
    let version = parts.version;
    let headers = &mut parts.headers;
    remove_connection(headers, present);
    if present.authorization {
        headers.remove(PROXY_AUTHORIZATION);
    }
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
    if present.cookie {
        join_cookies(headers);
    }
    via(headers, version);
    if present.forwarded && !forwarding.trust {
        for name in [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, FORWARDED] {
            headers.remove(name);
        }
    }
    forward(headers, host, caller, forwarding, present.forwarded && forwarding.trust);
    if let Some(left) = max_forwards(&parts.method, headers).filter(|left| *left > 0) {
        headers.insert(MAX_FORWARDS, HeaderValue::from(left - 1));
    }
}

/// How often a TRACE or OPTIONS may still be passed on (RFC 9110, 7.6.2).
pub fn max_forwards(method: &Method, headers: &HeaderMap) -> Option<u64> {
    if !matches!(*method, Method::TRACE | Method::OPTIONS) {
        return None;
    }
    headers.get(MAX_FORWARDS)?.to_str().ok()?.parse().ok()
}

/// Makes a response's headers those of a response to a caller. `upgraded` is what it changed to, if it did.
pub fn to_caller(headers: &mut HeaderMap, upgraded: Option<HeaderValue>) {
    let present = Present::of(headers);
    remove_connection(headers, present);
    if present.authorization {
        headers.remove(PROXY_AUTHENTICATE);
    }
    if let Some(protocol) = upgraded {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// Removes what belongs to one connection alone. `Trailer` stays: it tells of fields that are passed on.
fn remove_connection(headers: &mut HeaderMap, present: Present) {
    if present.connection {
        // The usual ones name no field.
        let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
            .filter(|token| !["keep-alive", "close"].iter().any(|usual| token.eq_ignore_ascii_case(usual)))
            .filter_map(|token| token.parse().ok())
            .collect();
        for name in named {
            // A caller must not take away what the message is made of.
            if name != HOST && name != TRAILER {
                headers.remove(name);
            }
        }
        headers.remove(CONNECTION);
    }
    if present.hop || present.te {
        // `Keep-Alive` among them, whether `Connection` named it or not.
        for name in [KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
    }
}

impl Caller {
    /// At an address, over TLS or not.
    pub fn new(address: IpAddr, tls: bool) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::from_str(&address.to_string());
        Self { address, text: text.unwrap_or_else(|_never| HeaderValue::from_static("unknown")), tls }
    }
}

impl Present {
    /// One look at each name is cheaper than a search for each field.
    fn of(headers: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            match name.as_str() {
                "connection" => present.connection = true,
                "te" => present.te = true,
                "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => present.hop = true,
                "cookie" => present.cookie = true,
                "forwarded" | "x-forwarded-for" | "x-forwarded-host" | "x-forwarded-proto" => present.forwarded = true,
                "proxy-authorization" | "proxy-authenticate" => present.authorization = true,
                _ => {}
            }
        }
        present
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers.contains_key(name) && tokens(headers, name).any(|t| t.eq_ignore_ascii_case(token))
}

/// Several cookie fields are one on HTTP/1.1 (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    let Some(first) = cookies.next() else { return };
    let mut joined = first.as_bytes().to_vec();
    let alone = joined.len();
    for cookie in cookies {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    if joined.len() > alone
        && let Ok(joined) = HeaderValue::from_bytes(&joined)
    {
        headers.insert(COOKIE, joined);
    }
}

fn via(headers: &mut HeaderMap, version: Version) {
    let own = match version {
        Version::HTTP_10 => "1.0 cutover",
        Version::HTTP_2 => "2.0 cutover",
        _ => "1.1 cutover",
    };
    headers.append(VIA, HeaderValue::from_static(own));
}

/// `said` says whether there may be fields of others, who are trusted.
fn forward(headers: &mut HeaderMap, host: &HeaderValue, caller: &Caller, forwarding: Forwarding, said: bool) {
    let protocol = if caller.tls { "https" } else { "http" };
    if forwarding.x_forwarded && !said {
        headers.insert(X_FORWARDED_FOR, caller.text.clone());
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(protocol));
        headers.insert(X_FORWARDED_HOST, host.clone());
    } else if forwarding.x_forwarded {
        append(headers, &X_FORWARDED_FOR, caller.text.to_str().unwrap_or_default());
        headers.entry(X_FORWARDED_PROTO).or_insert(HeaderValue::from_static(protocol));
        headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
    }
    if forwarding.forwarded {
        let node = match caller.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let quoted = host.to_str().unwrap_or_default().replace(['"', '\\'], "");
        append(headers, &FORWARDED, &format!("for={node};host=\"{quoted}\";proto={protocol}"));
    }
}

/// Adds an element to a list.
fn append(headers: &mut HeaderMap, name: &HeaderName, element: &str) {
    let before: Vec<_> = tokens(headers, name).collect();
    let list = if before.is_empty() { element.to_owned() } else { format!("{}, {element}", before.join(", ")) };
    if let Ok(list) = HeaderValue::from_str(&list) {
        headers.insert(name, list);
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn parts(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn sent(headers: &[(&str, &str)], forwarding: Forwarding) -> Vec<String> {
        let mut parts = parts("/", headers);
        let upgrade = upgrade(&parts);
        let caller = Caller::new([192, 0, 2, 7].into(), true);
        to_upstream(&mut parts, &HeaderValue::from_static("shop.example"), &caller, forwarding, upgrade);
        let mut all: Vec<_> = parts.headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        all.sort();
        all
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let headers = [
            ("connection", "keep-alive, X-Secret"),
            ("connection", "host"),
            ("host", "shop.example"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers, gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("x-secret", "1"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ];
        assert_eq!(
            sent(&headers, Forwarding::default()),
            [
                "host: shop.example",
                "te: trailers",
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "via: 1.1 cutover",
            ]
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_but_not_to_http_2() {
        let asks = |protocol| [("connection", "Upgrade"), ("upgrade", protocol), ("via", "1.0 edge")];
        assert_eq!(
            sent(&asks("websocket"), Forwarding::default()),
            ["connection: upgrade", "upgrade: websocket", "via: 1.0 edge", "via: 1.1 cutover"]
        );
        assert_eq!(sent(&asks("h2c"), Forwarding::default()), ["via: 1.0 edge", "via: 1.1 cutover"]);
    }

    #[test]
    fn callers_are_believed_only_if_they_are_trusted() {
        let headers = [("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "http"), ("forwarded", "for=10.0.0.1")];
        let both = Forwarding { x_forwarded: true, forwarded: true, trust: false };
        assert_eq!(
            sent(&headers, both),
            [
                "forwarded: for=192.0.2.7;host=\"shop.example\";proto=https",
                "via: 1.1 cutover",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: shop.example",
                "x-forwarded-proto: https",
            ]
        );
        let trusting = sent(&headers, Forwarding { trust: true, ..both });
        assert!(trusting.contains(&"x-forwarded-for: 10.0.0.1, 192.0.2.7".to_owned()), "{trusting:?}");
        assert!(trusting.contains(&"x-forwarded-proto: http".to_owned()), "{trusting:?}");
        assert!(trusting[0].starts_with("forwarded: for=10.0.0.1, for=192.0.2.7;"), "{trusting:?}");
    }

    #[test]
    fn cookies_of_http_2_are_joined() {
        let sent = sent(&[("cookie", "a=1"), ("cookie", "b=2")], Forwarding::default());
        assert_eq!(sent, ["cookie: a=1; b=2", "via: 1.1 cutover"]);
    }

    #[test]
    fn the_target_says_which_host_and_bad_ones_are_refused() {
        let host = |target, headers: &[(&str, &str)]| {
            let mut parts = parts(target, headers);
            host(&mut parts).map(|host| (host.to_str().unwrap().to_owned(), parts.uri.to_string()))
        };
        assert_eq!(host("/a?b", &[("host", "x:80")]), Ok(("x:80".into(), "/a?b".into())));
        assert_eq!(host("http://x/a", &[("host", "evil")]), Ok(("x".into(), "/a".into())));
        assert_eq!(host("/", &[]), Err(Malformed::NoHost));
        assert_eq!(host("/", &[("host", "a"), ("host", "a")]), Err(Malformed::ManyHosts));
        for bad in ["a b", "a/b", "user@a", ":80", "a:b", "a:80:b"] {
            assert_eq!(host("/", &[("host", bad)]), Err(Malformed::BadHost), "{bad}");
        }
        assert_eq!(host("ftp://x/", &[("host", "x")]), Err(Malformed::BadTarget));
        assert_eq!(host("http://user@x/", &[("host", "x")]), Err(Malformed::BadTarget));
    }
}
