//! What operation a request is, by its method and path.
//!
//! Operations are what policies see and what is counted, so there are as many as somebody has named, and one for each
//! standard method for the rest: never one for each path.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::Method;

use crate::{observe::Failed, request::Class};

/// Methods that have an operation of their own where nobody named one, and their classes. Safe methods change nothing
/// (RFC 9110, 9.2.1).
const METHODS: [(&str, Class); 9] = [
    ("get", Class::Read),
    ("head", Class::Read),
    ("options", Class::Read),
    ("trace", Class::Read),
    ("post", Class::Exclusive),
    ("put", Class::Exclusive),
    ("patch", Class::Exclusive),
    ("delete", Class::Exclusive),
    ("other", Class::Exclusive),
];

/// An operation that somebody named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// What it is.
    pub kind: Kind,
    /// Its methods, upper case; any if there are none.
    pub methods: Vec<String>,
    /// Its paths: `/orders/{id}`, `/files/{*rest}`.
    pub path: String,
}

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The operation's name.
    pub name: Arc<str>,
    /// Its class.
    pub class: Class,
    /// How long its callers wait, and its mirrored requests; none for as long as the migration says.
    pub deadline: Option<Duration>,
    /// What counts as failed.
    pub failed: Arc<Failed>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Catalogue {
    paths: matchit::Router<Vec<(Vec<String>, Kind)>>,
    named: bool,
    methods: Vec<Kind>,
}

/// Why patterns cannot be told apart, or are none.
#[derive(Debug, thiserror::Error)]
#[error("the path `{path}` {why}")]
pub struct PatternError {
    /// The pattern.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl Default for Catalogue {
    fn default() -> Self {
        Self { paths: matchit::Router::new(), named: false, methods: by_method(&[], &Arc::default()) }
    }
}

fn by_method(said: &[Kind], failed: &Arc<Failed>) -> Vec<Kind> {
    let kind = |(name, class): (&str, Class)| {
        let usual = || Kind { name: name.into(), class, deadline: None, failed: Arc::clone(failed) };
        said.iter().find(|kind| *kind.name == *name).cloned().unwrap_or_else(usual)
    };
    METHODS.map(kind).to_vec()
}

impl Catalogue {
    /// Of operations that somebody named. `said` are those that go by a method's name and of which something was said;
    /// `failed` is what counts as failed for the others.
    ///
    /// # Errors
    /// A pattern that is none, or contradicts another.
    pub fn new(patterns: Vec<Pattern>, said: &[Kind], failed: &Arc<Failed>) -> Result<Self, PatternError> {
        let mut by_path = BTreeMap::<String, Vec<(Vec<String>, Kind)>>::new();
        for Pattern { kind, methods, path } in patterns {
            by_path.entry(path).or_default().push((methods, kind));
        }
        let (mut paths, named) = (matchit::Router::new(), !by_path.is_empty());
        for (path, kinds) in by_path {
            paths.insert(&path, kinds).map_err(|e| PatternError { path: path.clone(), why: e.to_string() })?;
        }
        Ok(Self { paths, named, methods: by_method(said, failed) })
    }

    /// The names of the operations that requests have by their methods alone.
    pub fn method_names() -> impl Iterator<Item = &'static str> {
        METHODS.into_iter().map(|(name, _)| name)
    }

    /// All of its operations.
    pub fn classes(&self, patterns: &[Pattern]) -> BTreeMap<Arc<str>, Class> {
        let named = patterns.iter().map(|p| (Arc::clone(&p.kind.name), p.kind.class));
        self.methods.iter().map(|kind| (Arc::clone(&kind.name), kind.class)).chain(named).collect()
    }

    /// The deadlines of those of its operations that have one of their own.
    pub fn deadlines(&self, patterns: &[Pattern]) -> BTreeMap<Arc<str>, Duration> {
        let all = self.methods.iter().chain(patterns.iter().map(|pattern| &pattern.kind));
        all.filter_map(|kind| Some((Arc::clone(&kind.name), kind.deadline?))).collect()
    }

    /// What a request is.
    pub fn of(&self, method: &Method, path: &str) -> Option<&Kind> {
        if self.named
            && let Ok(found) = self.paths.at(path)
        {
            let fits = |methods: &[String]| methods.is_empty() || methods.iter().any(|m| m == method.as_str());
            if let Some((_, kind)) = found.value.iter().find(|(methods, _)| fits(methods)) {
                return Some(kind);
            }
        }
        let place = match *method {
            Method::GET => 0,
            Method::HEAD => 1,
            Method::OPTIONS => 2,
            Method::TRACE => 3,
            Method::POST => 4,
            Method::PUT => 5,
            Method::PATCH => 6,
            Method::DELETE => 7,
            _ => 8,
        };
        self.methods.get(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, class: Class) -> Kind {
        Kind { name: name.into(), class, deadline: None, failed: Arc::default() }
    }

    fn pattern(name: &str, class: Class, methods: &[&str], path: &str) -> Pattern {
        let methods = methods.iter().map(|&m| m.to_owned()).collect();
        Pattern { kind: kind(name, class), methods, path: path.into() }
    }

    #[test]
    fn a_named_operation_goes_before_the_method() {
        let patterns = vec![
            pattern("list_orders", Class::Read, &["GET"], "/orders"),
            pattern("search", Class::Read, &["POST"], "/orders/search"),
            pattern("order", Class::Exclusive, &[], "/orders/{id}"),
        ];
        let catalogue = Catalogue::new(patterns.clone(), &[kind("put", Class::Read)], &Arc::default()).unwrap();
        let of = |method: &Method, path: &str| {
            let kind = catalogue.of(method, path).unwrap();
            (kind.name.to_string(), kind.class)
        };
        let is = |name: &str, class| (name.to_owned(), class);
        assert_eq!(of(&Method::GET, "/orders"), is("list_orders", Class::Read));
        assert_eq!(of(&Method::POST, "/orders"), is("post", Class::Exclusive));
        assert_eq!(of(&Method::POST, "/orders/search"), is("search", Class::Read));
        assert_eq!(of(&Method::GET, "/orders/7"), is("order", Class::Exclusive));
        assert_eq!(of(&Method::GET, "/elsewhere"), is("get", Class::Read));
        assert_eq!(of(&Method::PUT, "/elsewhere"), is("put", Class::Read));
        let purge = Method::from_bytes(b"PURGE").unwrap();
        assert_eq!(of(&purge, "/elsewhere"), is("other", Class::Exclusive));
        assert_eq!(catalogue.classes(&patterns).len(), 12);
    }

    #[test]
    fn patterns_that_cannot_be_told_apart_are_refused() {
        let clash = vec![pattern("a", Class::Read, &[], "/x/{a}"), pattern("b", Class::Read, &[], "/x/{b}")];
        let error = Catalogue::new(clash, &[], &Arc::default()).unwrap_err();
        assert!(error.to_string().starts_with("the path `/x/{b}`"), "{error}");
    }
}
