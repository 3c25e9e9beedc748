//! What is said about fields that are set and removed, checked.

use std::sync::Arc;

use hyper::header::{HeaderName, HeaderValue};

use super::At;
use crate::config::raw;
use cutover_traffic::{
    message::rules::{HeaderRules, Rules},
    proxy::headers,
};

/// Whose fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

/// Rules of an operation, a pool or a migration; none if nothing is done.
pub(super) fn rules(at: &mut At<'_>, raw: &raw::http::Headers) -> Option<Arc<HeaderRules>> {
    let rules = HeaderRules {
        request: side(&mut at.field("request"), &raw.request, Side::Request),
        response: side(&mut at.field("response"), &raw.response, Side::Response),
    };
    (!rules.is_empty()).then(|| Arc::new(rules))
}

/// Those of a migration and, after them, those of one of its operations.
pub(super) fn both(first: Option<&Arc<HeaderRules>>, later: Option<Arc<HeaderRules>>) -> Option<Arc<HeaderRules>> {
    match (first, later) {
        (Some(first), Some(later)) => Some(Arc::new(first.then(&later))),
        (Some(one), None) => Some(Arc::clone(one)),
        (None, one) => one,
    }
}

fn side(at: &mut At<'_>, raw: &raw::http::FieldRules, side: Side) -> Rules {
    let mut set = Vec::new();
    for (name, value) in &raw.set {
        let mut at = at.field("set");
        let Some(name) = self::name(&mut at, name, side, true) else { continue };
        match HeaderValue::from_str(value) {
            Ok(text) if name.as_str() == "host" && !headers::is_host(text.as_bytes()) => {
                at.wrong(&format!("has `{value}` for `host`; it must be a name or address and at most a port"));
            }
            Ok(text) if value.trim() == value => set.push((name, text)),
            Ok(_) | Err(_) => {
                at.wrong(&format!("has a value for `{name}` that none can be: one line without spaces at its ends"));
            }
        }
    }
    let mut removed = Vec::new();
    for text in &raw.remove {
        let Some(name) = self::name(&mut at.field("remove"), text, side, false) else { continue };
        if set.iter().any(|(other, _)| *other == name) {
            at.field("remove").wrong(&format!("has `{name}`, which is also set; `set` alone leaves no other of it"));
        }
        removed.push(name);
    }
    Rules::new(set, removed)
}

/// The name of a field that is nobody's but the team's.
fn name(at: &mut At<'_>, text: &str, side: Side, is_set: bool) -> Option<HeaderName> {
    let Ok(name) = text.parse::<HeaderName>() else {
        at.wrong(&format!("has `{text}`, which is not the name of a header"));
        return None;
    };
    match refused(name.as_str(), side, is_set) {
        Some(why) => {
            at.wrong(&format!("has `{name}`, {why}; leave it out"));
            None
        }
        None => Some(name),
    }
}

/// The field in which upstreams are told what TLS vouches for.
pub(super) fn vouched(at: &mut At<'_>, text: Option<&str>) -> Option<HeaderName> {
    let name = name(at, text?, Side::Request, true)?;
    if matches!(name.as_str(), "host" | "cookie" | "content-type") || headers::is_forwarded(name.as_str()) {
        at.wrong(&format!("is `{name}`, which says something else; use another name, such as `x-client-subject`"));
    }
    Some(name)
}

/// Why a field is not for rules.
fn refused(name: &str, side: Side, is_set: bool) -> Option<&'static str> {
    match name {
        _ if headers::is_of_connection(name) => Some("which belongs to one connection and is never passed on"),
        "content-length" | "trailer" => Some("which says where the message ends"),
        "expect" => Some("which is between the caller, the host and the upstream"),
        "x-request-id" => Some("which is the host's to make and to pass on"),
        _ if name.starts_with("x-cutover-") => Some("which is the host's own"),
        "host" if side == Side::Request && !is_set => Some("without which a request is none"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> (Option<Arc<HeaderRules>>, Vec<String>) {
        let raw: raw::http::Headers = toml::from_str(text).unwrap();
        let mut problems = Vec::new();
        let rules = rules(&mut At { path: "m.headers".into(), problems: &mut problems }, &raw);
        (rules, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn fields_of_the_message_itself_and_of_the_host_are_refused() {
        for (text, words) in [
            ("request = { set = { Connection = 'close' } }", "`m.headers.request.set` has `connection`, which belongs"),
            ("request = { remove = ['te'] }", "`m.headers.request.remove` has `te`, which belongs to one connection"),
            ("response = { remove = ['transfer-encoding'] }", "`m.headers.response.remove` has `transfer-encoding`"),
            ("response = { set = { content-length = '0' } }", "which says where the message ends"),
            ("response = { set = { X-Cutover-Pool = 'v2' } }", "`x-cutover-pool`, which is the host's own"),
            ("request = { set = { x-request-id = '1' } }", "which is the host's to make"),
            ("request = { remove = ['host'] }", "`host`, without which a request is none"),
            ("request = { set = { host = 'a b' } }", "has `a b` for `host`; it must be a name"),
            ("request = { set = { 'a b' = 'c' } }", "`a b`, which is not the name of a header"),
            ("request = { set = { x-a = \"1\\r\\nx-b: 2\" } }", "has a value for `x-a` that none can be"),
            ("request = { set = { x-a = ' 1' } }", "has a value for `x-a` that none can be"),
            ("request = { set = { x-a = '1' }, remove = ['X-A'] }", "has `x-a`, which is also set"),
        ] {
            let (_, problems) = problems(text);
            assert!(problems.len() == 1 && problems[0].contains(words), "{text}: {problems:?}");
        }
    }

    #[test]
    fn what_is_anybodys_is_taken_and_nothing_is_no_rule() {
        let (rules, none) =
            problems("request = { set = { Host = 'a:80', X-A = '' } }\nresponse = { remove = ['server'] }");
        assert_eq!((rules.is_some(), none.len()), (true, 0), "{none:?}");
        assert_eq!(problems(""), (None, vec![]));
        assert_eq!(problems("request = { set = {} }").0, None);
    }
}
