//! What is said about the listener of the data plane, checked.

use std::{net::IpAddr, path::Path, sync::Arc, thread};

use ipnet::IpNet;

use super::{At, headers};
use crate::config::raw;
use cutover_model::causes::chain;
use cutover_traffic::{
    ingress::{
        Settings,
        certified::CertificateFields,
        proxied::Trusted,
        reaper::Limits,
        tls::{self, ClientAuth, Tls},
    },
    pace::Pace,
};

/// Threads that may serve.
const MAX_THREADS: usize = 256;

/// How connections are served.
pub(super) fn listener(at: &mut At<'_>, raw: &raw::http::Http, base: &Path) -> Settings {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = raw.threads.unwrap_or(cores);
    at.field("threads").within(threads, 1, MAX_THREADS);
    at.field("max_connections").within(raw.max_connections, 1, 1_000_000);
    at.field("max_pending").within(raw.max_pending, 1, 1_000_000);
    at.field("min_rate").within(usize::try_from(raw.min_rate).unwrap_or(usize::MAX), 0, 1 << 30);
    at.field("max_requests").within(raw.max_requests, 1, 1_000_000);
    let tls = raw.tls.as_ref().and_then(|raw| identity(&mut at.field("tls"), raw, base));
    Settings {
        threads,
        max_connections: raw.max_connections,
        max_in_flight: raw.max_requests,
        max_pending: raw.max_pending,
        limits: Limits {
            header_timeout: at.field("header_timeout").duration(&raw.header_timeout, "10ms", "1h"),
            keep_alive: at.field("keep_alive").duration(&raw.keep_alive, "10ms", "1d"),
            send_timeout: at.field("send_timeout").duration(&raw.send_timeout, "10ms", "1h"),
            pace: Pace {
                rate: raw.min_rate,
                grace: at.field("min_rate_grace").duration(&raw.min_rate_grace, "10ms", "1h"),
            },
        },
        proxied: proxied(at, raw),
        tls,
    }
}

/// Whose headers of the PROXY protocol are believed, if connections begin with one.
fn proxied(at: &mut At<'_>, raw: &raw::http::Http) -> Option<Arc<Trusted>> {
    let mut at = at.field("proxy_protocol_from");
    let mut networks = Vec::new();
    for text in &raw.proxy_protocol_from {
        let alone = text.parse::<IpAddr>().map(IpNet::from);
        match alone.or_else(|_network| text.parse::<IpNet>()) {
            Ok(network) => networks.push(network),
            Err(_neither) => {
                at.wrong(&format!("has `{text}`; it must be an address or a network, such as `10.0.0.0/8`"));
            }
        }
    }
    match (raw.proxy_protocol, raw.proxy_protocol_from.is_empty()) {
        (true, true) => at.wrong(
            "is missing: whoever connects could say who it is; give the addresses of the load balancers, such as \
             `[\"10.0.0.0/8\"]`",
        ),
        (false, false) => at.wrong("is for `proxy_protocol = true`; set that, or leave it out"),
        (true, false) => return Some(Arc::new(Trusted::new(networks))),
        (false, true) => {}
    }
    None
}

/// TLS with callers.
fn identity(at: &mut At<'_>, raw: &raw::http::Identity, base: &Path) -> Option<Tls> {
    let is_optional = match raw.client_auth.as_deref() {
        None | Some("require") => false,
        Some("optional") => true,
        Some(other) => {
            at.field("client_auth").wrong(&format!("is `{other}`; it must be `require` or `optional`"));
            false
        }
    };
    let needs = [
        ("client_auth", raw.client_auth.is_some()),
        ("client_subject_header", raw.client_subject_header.is_some()),
        ("client_cert_header", raw.client_cert_header.is_some()),
    ];
    for (field, _) in needs.into_iter().filter(|(_, is_set)| *is_set && raw.client_ca.is_none()) {
        at.field(field).wrong("needs `client_ca`: nobody vouches for callers otherwise");
    }
    let clients = raw.client_ca.as_ref().map(|ca| ClientAuth { ca: base.join(ca), is_optional });
    let fields = CertificateFields {
        subject: headers::vouched(&mut at.field("client_subject_header"), raw.client_subject_header.as_deref()),
        certificate: headers::vouched(&mut at.field("client_cert_header"), raw.client_cert_header.as_deref()),
    };
    let loaded = tls::server((&base.join(&raw.certificate), &base.join(&raw.key)), clients.as_ref(), fields);
    loaded.map_err(|error| at.wrong(&format!("cannot be used: {}", chain(&error)))).ok()
}
