//! Who may ask the admin plane: whoever asks for it by an address of this machine, the address that it listens at, or a
//! name that is configured.
//!
//! A page in an operator's browser can make that ask whatever address it likes; and where a foreign name is made to mean
//! this machine (DNS rebinding), the page may read the answers, too. The browser then says in `Host` which name it was,
//! and in `Origin` whose page asks. Programs that are no browsers say what they like: this is no authentication.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{HOST, ORIGIN},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::{PLANE, Refusal};

/// Refuses what comes by a foreign name, and says whose answer it is.
pub(super) async fn guard(
    address: Option<SocketAddr>,
    names: Arc<ArcSwap<Vec<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let foreign = foreign(request.headers(), request.uri().host(), address.map(|address| address.ip()), &names.load());
    let mut response = match foreign {
        None => next.run(request).await,
        Some(message) => Refusal::coded(StatusCode::FORBIDDEN, "foreign-host", message).into_response(),
    };
    response.headers_mut().insert(PLANE, HeaderValue::from_static("admin"));
    response
}

/// Why a request is refused.
fn foreign(headers: &HeaderMap, target: Option<&str>, bound: Option<IpAddr>, names: &[String]) -> Option<String> {
    let refuse = |field: &str, value: &str| {
        Some(format!(
            "`{field}` is `{}`, which is not how this plane may be asked for; ask for its address, or add the name to \
             `host.admin_hosts`",
            value.chars().take(100).collect::<String>()
        ))
    };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let hosts = headers.get_all(HOST).iter().map(text);
    // A target in absolute form counts instead of the field (RFC 9112, section 3.2.2); neither may be foreign.
    for host in hosts.chain(target.map(ToOwned::to_owned)) {
        if !is_ours(without_port(&host), bound, names) {
            return refuse("Host", &host);
        }
    }
    for origin in headers.get_all(ORIGIN).iter().map(text) {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if !host.is_some_and(|host| is_ours(without_port(host), bound, names)) {
            return refuse("Origin", &origin);
        }
    }
    None
}

fn is_ours(host: &str, bound: Option<IpAddr>, names: &[String]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        // An address cannot be made to mean another machine, so whoever listens at all of them is asked by any.
        return address.is_loopback() || bound.is_none_or(|bound| bound == address || bound.is_unspecified());
    }
    host == "localhost" || host.ends_with(".localhost") || names.contains(&host)
}

/// The name or address alone; that of IPv6 with its brackets.
fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(at) if !host.get(at..).unwrap_or_default().contains(']') => host.get(..at).unwrap_or(host),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bound: &str, fields: &[(&'static str, &'static str)]) -> bool {
        let headers = fields.iter().map(|&(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let names = ["admin.example.com".to_owned()];
        foreign(&headers.collect(), None, Some(bound.parse().unwrap()), &names).is_some()
    }

    #[test]
    fn only_names_and_addresses_of_this_plane_may_be_asked_for() {
        for ours in ["127.0.0.1:8081", "localhost", "LOCALHOST:1", "[::1]:8081", "127.9.9.9", "admin.example.com:80"] {
            assert!(!refused("127.0.0.1", &[("host", ours)]), "{ours}");
        }
        for foreign in ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "", "xlocalhost"] {
            assert!(refused("127.0.0.1", &[("host", foreign)]), "{foreign}");
        }
        assert!(!refused("10.0.0.1", &[("host", "10.0.0.1:8081")]), "the address that it listens at");
        assert!(!refused("0.0.0.0", &[("host", "10.0.0.9:8081")]), "it listens at all of them");
        assert!(refused("0.0.0.0", &[("host", "evil.example")]));
        assert!(!refused("127.0.0.1", &[]), "a program that says nothing");
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let with = |origin| refused("127.0.0.1", &[("host", "127.0.0.1:8081"), ("origin", origin)]);
        assert!(!with("http://127.0.0.1:8081") && !with("http://localhost:3000") && !with("https://admin.example.com"));
        for foreign in ["http://evil.example", "null", "https://10.0.0.1", "file://", "localhost"] {
            assert!(with(foreign), "{foreign}");
        }
    }
}
