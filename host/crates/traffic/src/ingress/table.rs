//! Which migration a request belongs to: by host, path and headers, the most exact match first.

use std::{collections::BTreeMap, sync::Arc};

use hyper::header::HeaderName;

use super::operations::Route;
use crate::{message::Fields, proxy::Proxy};

/// The migrations that are served, and what a request must be like to belong to one of them.
#[derive(Debug, Default)]
pub struct Table {
    /// Migrations whose operations are called at `/v1/{migration}/{operation}`.
    pub operations: BTreeMap<String, Route>,
    sites: Vec<(Match, Arc<Proxy>)>,
    /// The migration that gets a request which no match fits; `None` if such a request is refused.
    pub otherwise: Option<Arc<Proxy>>,
}

/// What a request must be like to belong to a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The host that it names.
    pub host: HostMatch,
    /// The whole segments that its path begins with; empty for any path.
    pub path: String,
    /// The headers that it has, each with exactly this value.
    pub headers: Vec<(HeaderName, String)>,
}

/// The hosts that a match is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// This host alone: a name in lower case, without a port.
    Exact(String),
    /// All hosts whose names end so, such as `.example.com`.
    Suffix(String),
    /// Every host, written as `*`.
    Any,
}

impl HostMatch {
    /// From a configuration: `shop.example.com`, `*.example.com`, `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let is_name =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(suffix) => {
                (suffix.len() > 1 && suffix.starts_with('.') && is_name(suffix)).then(|| Self::Suffix(suffix.into()))
            }
            None => is_name(&text).then_some(Self::Exact(text)),
        }
    }

    fn fits(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Suffix(suffix) => {
                let start = host.len().checked_sub(suffix.len()).filter(|start| *start > 0);
                start.and_then(|start| host.get(start..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
            Self::Any => true,
        }
    }

    /// The more exact, the larger.
    const fn weight(&self) -> (u8, usize) {
        match self {
            Self::Exact(_) => (2, 0),
            Self::Suffix(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

impl Match {
    fn fits(&self, host: &str, path: &str, fields: &Fields) -> bool {
        let rest = path.strip_prefix(self.path.as_str());
        let whole = rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('/') || self.path.ends_with('/') || self.path.is_empty()
        });
        let has = |(name, value): &(HeaderName, String)| fields.get_all(name.as_str()).any(|v| v == value.as_bytes());
        whole && self.host.fits(host) && self.headers.iter().all(has)
    }

    fn weight(&self) -> ((u8, usize), usize, usize) {
        (self.host.weight(), self.path.len(), self.headers.len())
    }
}

impl Table {
    /// Adds a migration with what belongs to it.
    pub fn add(&mut self, matches: Vec<Match>, proxy: &Arc<Proxy>) {
        self.sites.extend(matches.into_iter().map(|m| (m, Arc::clone(proxy))));
        // The most exact first; of two alike the one that was named first.
        self.sites.sort_by_key(|(m, _)| std::cmp::Reverse(m.weight()));
    }

    /// The migration that serves a request. `host` may have a port.
    pub fn find(&self, host: &str, path: &str, fields: &Fields) -> Option<&Arc<Proxy>> {
        let host = without_port(host);
        let found = self.sites.iter().find(|(m, _)| m.fits(host, path, fields)).map(|(_, proxy)| proxy);
        found.or(self.otherwise.as_ref())
    }
}

/// The name alone: no port, no dot at its end.
fn without_port(host: &str) -> &str {
    let name = match host.rfind(':') {
        // An IPv6 address has colons of its own, inside of brackets.
        Some(at) if !host.get(at..).unwrap_or_default().contains(']') => host.get(..at).unwrap_or(host),
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(host: &str, path: &str, headers: &[(&'static str, &str)]) -> Match {
        let headers = headers.iter().map(|&(n, v)| (HeaderName::from_static(n), v.to_owned())).collect();
        Match { host: HostMatch::parse(host).unwrap(), path: path.into(), headers }
    }

    #[test]
    fn the_most_exact_goes_first() {
        let mut all = [
            one("*", "", &[]),
            one("*.example.com", "", &[]),
            one("shop.example.com", "", &[]),
            one("shop.example.com", "/api", &[]),
            one("shop.example.com", "/api", &[("x-tenant", "acme")]),
        ];
        all.sort_by_key(|m| std::cmp::Reverse(m.weight()));
        let mut fields = Fields::default();
        let find = |host: &str, path: &str, fields: &Fields| {
            let host = without_port(host);
            all.iter().position(|m| m.fits(host, path, fields)).unwrap()
        };
        assert_eq!(find("shop.example.com", "/api/x", &fields), 1);
        assert_eq!(find("SHOP.example.com.:8080", "/apis", &fields), 2);
        assert_eq!(find("a.example.com", "/api", &fields), 3);
        assert_eq!(find("example.com", "/api", &fields), 4);
        assert_eq!(find("[::1]:80", "/", &fields), 4);
        fields.add("x-tenant", "acme");
        assert_eq!(find("shop.example.com", "/api", &fields), 0);
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        for wrong in ["", "*.", "*x", "a b", "a/b", "*.*.com"] {
            assert_eq!(HostMatch::parse(wrong), None, "{wrong}");
        }
    }
}
