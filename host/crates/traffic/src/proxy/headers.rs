//! What a proxy must do to headers: it leaves out the message's own framing and connection fields, and adds what the
//! RFCs name.
//!
//! Connection fields are those of RFC 9110, 7.6.1; `Via` is 7.6.3; `Host` and the target's forms are RFC 9112, 3.2;
//! `Forwarded` is RFC 7239. `traceparent` and `tracestate` (W3C Trace Context) pass as they are.

use std::net::{IpAddr, SocketAddr};

use hyper::{
    Method, Uri, Version,
    header::HeaderName,
    http::uri::{PathAndQuery, Scheme},
};

use crate::{
    message::{Fields, RequestHead},
    pool::upstream::callers::Source,
    proxy_protocol::Ends,
};

/// Fields that belong to one connection. The last is what asks for HTTP/2 in the middle of one (RFC 7540, 3.2.1).
const HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "http2-settings"];

/// How the names of fields begin that are the host's own.
const OWN: &[u8] = b"x-cutover-";

/// Fields that say who is behind a proxy.
const FORWARDED: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

/// What upstreams are told of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Forwarding {
    /// Whether `X-Forwarded-For`, `-Host` and `-Proto` are written.
    pub x_forwarded: bool,
    /// Whether the field `Forwarded` is written.
    pub forwarded: bool,
    /// Whether what callers say of themselves in them is kept; otherwise it is thrown away.
    pub trust: bool,
    /// How many proxies are before the host, if they are trusted: the caller is who the first of them was called by.
    pub trusted_hops: u8,
}

/// What TLS vouches for: fields, and what each says, if there is anything to say. Callers themselves never say it.
pub type Vouched = Box<[(HeaderName, Option<Box<str>>)]>;

/// The caller at the other end of a connection: its address, and what TLS says of it.
#[derive(Debug, Clone)]
pub struct Caller {
    ends: Ends,
    address: IpAddr,
    text: Box<str>,
    source: Source,
    tls: bool,
    vouched: Vouched,
}

/// A request that no proxy may pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A request of HTTP/1.1 has no `Host`.
    #[error("a request of HTTP/1.1 must have one `Host`")]
    NoHost,
    /// The request has more than one `Host`.
    #[error("a request must not have more than one `Host`")]
    ManyHosts,
    /// The `Host` is neither a name nor an address.
    #[error("`Host` must be a name or address and at most a port")]
    BadHost,
    /// A target that is neither a path nor a URL of http.
    #[error("the target must be a path, or a URL of `http` or `https`")]
    BadTarget,
}

/// Makes `Host` say which host a request is for; the target goes before the field (RFC 9112, 3.2.2).
///
/// # Errors
/// What is wrong with it.
pub fn host(head: &mut RequestHead) -> Result<(), Malformed> {
    if head.fields.get_all("host").nth(1).is_some() {
        return Err(Malformed::ManyHosts);
    }
    if let Some(authority) = head.uri.authority() {
        // An authority alone is for CONNECT (RFC 9112, 3.2.3).
        let is_http = head.uri.scheme().is_some_and(|s| *s == Scheme::HTTP || *s == Scheme::HTTPS);
        if !(is_http || head.method == Method::CONNECT) || authority.as_str().contains('@') {
            return Err(Malformed::BadTarget);
        }
        head.fields.set("host", authority.as_str());
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
        return Ok(());
    }
    // `*` is the target of OPTIONS alone (RFC 9112, 3.2.4).
    let is_everything = head.uri.path() == "*" && head.method == Method::OPTIONS;
    if !head.uri.path().starts_with('/') && !is_everything {
        return Err(Malformed::BadTarget);
    }
    match head.fields.get("host") {
        None if head.version == Version::HTTP_10 => Ok(()),
        None => Err(Malformed::NoHost),
        // An empty one is what RFC 9112, 3.2 asks for if the target has no authority.
        Some(value) if value.is_empty() || is_host(value) => Ok(()),
        Some(_) => Err(Malformed::BadHost),
    }
}

/// Whether it is a name or an address, and at most a port (RFC 3986, 3.2.2 and 3.2.3).
pub fn is_host(bytes: &[u8]) -> bool {
    let bracket = bytes.iter().rposition(|b| *b == b']');
    let colon = bytes.iter().rposition(|b| *b == b':').filter(|colon| bracket.is_none_or(|end| *colon > end));
    let (name, port) = bytes.split_at(colon.unwrap_or(bytes.len()));
    let in_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(b);
    !name.is_empty() && name.iter().all(in_name) && port.iter().skip(1).all(u8::is_ascii_digit)
}

/// The protocols that a request asks to change to (over HTTP/2 only what the host itself has made such a request of: there
/// is no field for it), but for HTTP/2: that is nothing to change to in the middle
/// of a connection any more (RFC 9113, 3.1).
pub fn upgrade(head: &RequestHead) -> Option<Vec<u8>> {
    if !matches!(head.version, Version::HTTP_11 | Version::HTTP_2) || !head.fields.has("upgrade") {
        return None;
    }
    let is_http2 = |protocol: &str| {
        let name = protocol.split('/').next().unwrap_or_default();
        ["h2c", "h2", "http"].iter().any(|http| name.eq_ignore_ascii_case(http))
    };
    let protocols: Vec<_> = head.fields.tokens("upgrade").filter(|protocol| !is_http2(protocol)).collect();
    let is_passed_on = !protocols.is_empty() && head.fields.has_token("connection", "upgrade");
    is_passed_on.then(|| protocols.join(", ").into_bytes())
}

/// Makes a request's fields those of a request to an upstream. `upgrade` is what it asks to change to, if anything.
pub fn to_upstream(head: &mut RequestHead, caller: &Caller, forwarding: Forwarding, upgrade: Option<&[u8]>) {
    let fields = &mut head.fields;
    let takes_trailers = fields.has_token("te", "trailers");
    remove_connection(fields);
    fields.remove("proxy-authorization");
    // Fields with these names are between callers and the host: they are not passed on to upstreams.
    fields.remove_prefixed(OWN);
    if takes_trailers {
        fields.set("te", "trailers");
    }
    if let Some(protocol) = upgrade {
        fields.set("connection", "upgrade");
        fields.set("upgrade", protocol);
    }
    join_cookies(fields);
    via(fields, head.version);
    if !forwarding.trust {
        for name in FORWARDED {
            fields.remove_variable(name);
        }
    }
    for (name, value) in &caller.vouched {
        fields.remove_variable(name.as_str());
        if let Some(value) = value {
            fields.add(name.as_str(), value.as_bytes());
        }
    }
    forward(fields, caller, forwarding);
    if let Some(left) = max_forwards(&head.method, fields).filter(|left| *left > 0) {
        fields.set("max-forwards", (left - 1).to_string());
    }
}

/// How often a TRACE or OPTIONS may still be passed on (RFC 9110, 7.6.2).
pub fn max_forwards(method: &Method, fields: &Fields) -> Option<u64> {
    if !matches!(*method, Method::TRACE | Method::OPTIONS) {
        return None;
    }
    fields.text("max-forwards")?.parse().ok()
}

/// Makes a response's fields those of a response to a caller. `upgraded` is what it changed to, if it did.
pub fn to_caller(fields: &mut Fields, upgraded: Option<&[u8]>) {
    remove_connection(fields);
    fields.remove("proxy-authenticate");
    if let Some(protocol) = upgraded {
        fields.set("connection", "upgrade");
        fields.set("upgrade", protocol);
    }
}

/// Whether a field, whose name is in lower case, belongs to one connection alone, or is between a proxy and its neighbour.
pub fn is_of_connection(name: &str) -> bool {
    HOP.contains(&name) || matches!(name, "proxy-authorization" | "proxy-authenticate")
}

/// Whether a field, whose name is in lower case, says who is behind a proxy.
pub fn is_forwarded(name: &str) -> bool {
    FORWARDED.contains(&name)
}

/// Removes what belongs to one connection alone. `Trailer` stays: it tells of fields that are passed on.
fn remove_connection(fields: &mut Fields) {
    if !HOP.iter().any(|name| fields.has(name)) {
        return;
    }
    // The usual ones name no field. And a caller must not take away what the message is made of.
    let mut named: Vec<String> = fields
        .tokens("connection")
        .map(str::to_ascii_lowercase)
        .filter(|name| !["keep-alive", "close", "host", "trailer"].contains(&name.as_str()))
        .collect();
    for name in HOP {
        fields.remove(name);
    }
    if !named.is_empty() {
        named.sort_unstable();
        fields.keep_if(|name| named.binary_search_by(|named| named.as_bytes().cmp(name)).is_err());
    }
}

impl Caller {
    /// At one end of a connection, over TLS or not.
    pub fn new(ends: Ends, tls: bool) -> Self {
        let address = ends.source.ip().to_canonical();
        Self {
            ends,
            address,
            text: address.to_string().into(),
            source: Source::of(address),
            tls,
            vouched: Vouched::default(),
        }
    }

    /// With what TLS vouches for.
    #[must_use]
    pub fn vouched(self, vouched: Vouched) -> Self {
        Self { vouched, ..self }
    }

    /// Whether a request came over TLS: to the host, or, if proxies before it are trusted, to the first of them.
    pub fn is_tls(&self, fields: &Fields, forwarding: Forwarding) -> bool {
        let said = fields.text("x-forwarded-proto").filter(|_| forwarding.trust);
        said.map_or(self.tls, |said| said.eq_ignore_ascii_case("https"))
    }

    /// The addresses of a request's caller, as upstreams are told by the PROXY protocol. A caller that is known by what
    /// proxies say has port 0.
    pub fn ends(&self, fields: &Fields, forwarding: Forwarding) -> Ends {
        let address = self.address(fields, forwarding);
        let source = if address == self.address { self.ends.source } else { SocketAddr::new(address, 0) };
        Ends { source, ..self.ends }
    }

    /// The caller of a request, as pools tell callers apart.
    pub fn source(&self, fields: &Fields, forwarding: Forwarding) -> Source {
        if forwarding.trust { Source::of(self.address(fields, forwarding)) } else { self.source }
    }

    /// The address of a request's caller: the other end of the connection, or, if proxies before the host are trusted,
    /// the address that they say.
    pub fn address(&self, fields: &Fields, forwarding: Forwarding) -> IpAddr {
        if !forwarding.trust {
            return self.address;
        }
        let name = if fields.has("x-forwarded-for") { "x-forwarded-for" } else { "forwarded" };
        let said: Vec<_> = fields.tokens(name).collect();
        let hops = usize::from(forwarding.trusted_hops.max(1));
        let said = said.len().checked_sub(hops).and_then(|at| said.get(at)).copied();
        said.and_then(address_in).unwrap_or(self.address)
    }
}

/// The address in an element of `X-Forwarded-For`, or in `for` of one of `Forwarded` (RFC 7239, 4 and 6).
fn address_in(element: &str) -> Option<IpAddr> {
    let node = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    let node = node.unwrap_or(element).trim().trim_matches('"');
    let bare = match node.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => node,
    };
    let without_port = || bare.rsplit_once(':').and_then(|(address, _)| address.parse().ok());
    bare.parse().ok().or_else(without_port)
}

/// Several cookie fields are one on HTTP/1.1 (RFC 9113, 8.2.3).
fn join_cookies(fields: &mut Fields) {
    if fields.get_all("cookie").nth(1).is_some() {
        let joined = fields.get_all("cookie").collect::<Vec<_>>().join(&b"; "[..]);
        fields.set("cookie", joined);
    }
}

fn via(fields: &mut Fields, version: Version) {
    let own = match version {
        Version::HTTP_10 => "1.0 cutover",
        Version::HTTP_2 => "2.0 cutover",
        _ => "1.1 cutover",
    };
    fields.add("via", own);
}

/// Adds to what others have said, who are trusted.
fn forward(fields: &mut Fields, caller: &Caller, forwarding: Forwarding) {
    let protocol = if caller.tls { "https" } else { "http" };
    if forwarding.x_forwarded {
        append(fields, "x-forwarded-for", &caller.text);
        if !fields.has("x-forwarded-proto") {
            fields.add("x-forwarded-proto", protocol);
        }
        if !fields.has("x-forwarded-host") {
            fields.repeat("host", "x-forwarded-host");
        }
    }
    if forwarding.forwarded {
        let node = match caller.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("\"[{address}]\""),
        };
        let quoted = fields.text("host").unwrap_or_default().replace(['"', '\\'], "");
        append(fields, "forwarded", &format!("for={node};host=\"{quoted}\";proto={protocol}"));
    }
}

/// Adds an element to a list.
fn append(fields: &mut Fields, name: &str, element: &str) {
    if !fields.has(name) {
        return fields.add(name, element);
    }
    let mut list: Vec<_> = fields.tokens(name).collect();
    list.push(element);
    let list = list.join(", ");
    fields.set(name, list);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, all: &[(&str, &str)]) -> RequestHead {
        let fields = all.iter().copied().collect();
        RequestHead { method: Method::GET, uri: target.parse().unwrap(), version: Version::HTTP_11, fields }
    }

    fn caller(tls: bool) -> Caller {
        let end = |port| SocketAddr::from(([192, 0, 2, 7], port));
        Caller::new(Ends { source: end(51_000), destination: end(443) }, tls)
    }

    fn sent(headers: &[(&str, &str)], forwarding: Forwarding) -> Vec<String> {
        let mut head = head("/", headers);
        let upgrade = upgrade(&head);
        let caller = caller(true);
        to_upstream(&mut head, &caller, forwarding, upgrade.as_deref());
        let mut out = Vec::new();
        head.fields.write(&mut out, |_| true);
        let mut all: Vec<_> = std::str::from_utf8(&out).unwrap().lines().map(str::to_owned).collect();
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
        let headers = [
            ("host", "shop.example"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "http"),
            ("forwarded", "for=10.0.0.1"),
        ];
        let both = Forwarding { x_forwarded: true, forwarded: true, trust: false, trusted_hops: 1 };
        assert_eq!(
            sent(&headers, both),
            [
                "forwarded: for=192.0.2.7;host=\"shop.example\";proto=https",
                "host: shop.example",
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
    fn what_a_request_may_change_to_is_passed_on_but_for_http_2() {
        for (asked, is) in [
            ("websocket", Some("websocket")),
            ("h2c", None),
            ("websocket, h2c", Some("websocket")),
            ("H2C,WebSocket , HTTP/2.0", Some("WebSocket")),
            ("a/1, b", Some("a/1, b")),
        ] {
            let fields = [("connection", "keep-alive, Upgrade"), ("upgrade", asked)];
            let upgrade = upgrade(&head("/", &fields));
            assert_eq!(upgrade.as_deref(), is.map(str::as_bytes), "{asked}");
        }
        let two = [("connection", "upgrade"), ("upgrade", "h2c"), ("upgrade", "websocket")];
        assert_eq!(upgrade(&head("/", &two)).as_deref(), Some(&b"websocket"[..]));
        assert_eq!(upgrade(&head("/", &[("upgrade", "websocket")])), None, "the connection does not say so");
    }

    #[test]
    fn what_callers_say_in_the_hosts_name_stays_behind() {
        let all = [
            ("x-cutover-shadow", "1"),
            ("x-cutover-pool", "v2"),
            ("x_cutover-pool", "v2"),
            ("x_cutovers", "1"),
            ("x-cutovers", "1"),
            ("a", "b"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x-real-ip", "1.1.1.1"),
        ];
        assert_eq!(sent(&all, Forwarding::default()), ["a: b", "via: 1.1 cutover", "x-cutovers: 1", "x_cutovers: 1"]);
    }

    #[test]
    fn the_caller_is_at_the_other_end_unless_proxies_before_the_host_are_trusted() {
        let peer = caller(false);
        let by = |trust, trusted_hops, headers: &[(&str, &str)]| {
            let fields = headers.iter().copied().collect();
            peer.source(&fields, Forwarding { x_forwarded: true, forwarded: false, trust, trusted_hops })
        };
        let is = |address: &str| Source::of(address.parse().unwrap());
        let said = [("x-forwarded-for", "1.1.1.1, 10.0.0.9"), ("x-forwarded-for", "10.0.0.8")];
        assert_eq!(by(false, 1, &said), is("192.0.2.7"));
        assert_eq!(by(true, 1, &said), is("10.0.0.8"), "who called the proxy, and not what that one said before");
        assert_eq!(by(true, 2, &said), is("10.0.0.9"));
        assert_eq!(by(true, 9, &said), is("192.0.2.7"));
        for (element, address) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("proto=https;For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=\"192.0.2.43:47011\"", "192.0.2.43"),
            ("for=unknown", "192.0.2.7"),
        ] {
            assert_eq!(by(true, 1, &[("forwarded", element)]), is(address), "{element}");
        }
    }

    #[test]
    fn cookies_of_http_2_are_joined() {
        let sent = sent(&[("cookie", "a=1"), ("cookie", "b=2")], Forwarding::default());
        assert_eq!(sent, ["cookie: a=1; b=2", "via: 1.1 cutover"]);
    }

    #[test]
    fn the_target_says_which_host_and_bad_ones_are_refused() {
        let host = |target, headers: &[(&str, &str)]| {
            let mut head = head(target, headers);
            host(&mut head).map(|()| (head.fields.text("host").unwrap().to_owned(), head.uri.to_string()))
        };
        assert_eq!(host("/a?b", &[("host", "x:80")]), Ok(("x:80".into(), "/a?b".into())));
        assert_eq!(host("http://x/a", &[("host", "evil")]), Ok(("x".into(), "/a".into())));
        assert_eq!(host("/", &[]), Err(Malformed::NoHost));
        assert_eq!(host("/", &[("host", "a"), ("host", "a")]), Err(Malformed::ManyHosts));
        for bad in ["a b", "a/b", "user@a", ":80", "a:b", "a:80:b"] {
            assert_eq!(host("/", &[("host", bad)]), Err(Malformed::BadHost), "{bad}");
        }
        for target in ["ftp://x/", "x:80", "x", "*"] {
            assert_eq!(host(target, &[("host", "x")]), Err(Malformed::BadTarget), "{target}");
        }
        assert_eq!(host("http://user@x/", &[("host", "x")]), Err(Malformed::BadTarget));
    }
}
