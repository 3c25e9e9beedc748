//! Operations that somebody named, found by method, path and query.

use std::collections::BTreeMap;

use hyper::Method;
use matchit::Router;

use super::{OperationRef, PatternError};
use crate::proxy::{path, query::Wanted};
use cutover_model::request::Class;

/// An operation that is configured, and the requests that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The operation that requests are which fit.
    pub kind: OperationRef,
    /// Its methods, upper case; any if there are none. GET is HEAD, too.
    pub methods: Vec<String>,
    /// Its paths, in normal form: `/orders/{id}`, `/files/{*rest}`.
    pub path: String,
    /// What its query has.
    pub query: Wanted,
}

/// The patterns of one migration, as they are looked up.
#[derive(Debug, Clone)]
pub(super) struct Names {
    exact: Router<Vec<Entry>>,
    /// Each path alone, for requests that the most exact one does not fit by method or query.
    single: Vec<(Router<()>, Vec<Entry>)>,
    /// As services find them that ignore case and a slash at the end. None if nothing changes anything.
    folded: Option<Router<Vec<Entry>>>,
    /// Whether a path of a request that is its own folded form may be another's.
    folds_patterns: bool,
}

/// What a path is, for some methods and queries.
#[derive(Debug, Clone)]
struct Entry {
    methods: Vec<String>,
    query: Wanted,
    kind: OperationRef,
}

impl Names {
    pub(super) fn new(patterns: Vec<Pattern>) -> Result<Self, PatternError> {
        let (mut by_path, mut by_folded) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        let changes = patterns.iter().any(|pattern| pattern.kind.class != Class::Read);
        for Pattern { kind, methods, path, query } in patterns {
            let entry = Entry { methods, query, kind };
            by_folded.entry(folded(&path)).or_default().push(entry.clone());
            by_path.entry(path).or_default().push(entry);
        }
        by_path.values_mut().chain(by_folded.values_mut()).for_each(|entries| sort(entries));
        let folds_patterns = by_path.keys().any(|path| folded(path) != numbered(path));
        let single = by_path.iter().map(|(path, entries)| {
            let one = [(path.clone(), ())].into_iter().collect();
            Ok((router(one)?, entries.clone()))
        });
        let single = single.collect::<Result<_, PatternError>>()?;
        let folded = if changes { Some(router(by_folded)?) } else { None };
        Ok(Self { exact: router(by_path)?, single, folded, folds_patterns })
    }

    /// The most exact operation that a request is.
    pub(super) fn find(&self, method: &Method, path: &str, query: &str) -> Option<&OperationRef> {
        let max_exact = self.exact.at(path).ok()?;
        fitting(max_exact.value, method, query).or_else(|| {
            let others = self.single.iter().filter(|(router, _)| router.at(path).is_ok());
            let others = others.filter_map(|(_, entries)| fitting(entries, method, query));
            others.min_by_key(|kind| kind.class == Class::Read)
        })
    }

    /// The operation that a request is to services that ignore case and a slash at the end, if that changes something.
    pub(super) fn alias(&self, method: &Method, path: &str, query: &str) -> Option<&OperationRef> {
        let router = self.folded.as_ref()?;
        let folded = path::folded(path);
        if folded.is_none() && !self.folds_patterns {
            return None;
        }
        let found = router.at(folded.as_deref().unwrap_or(path)).ok()?;
        fitting(found.value, method, query).filter(|kind| kind.class != Class::Read)
    }
}

/// Those that say most go first, and of two alike the one that changes something.
fn sort(entries: &mut [Entry]) {
    entries.sort_by_key(|entry| (std::cmp::Reverse(entry.query.len()), entry.kind.class == Class::Read));
}

fn fitting<'a>(entries: &'a [Entry], method: &Method, query: &str) -> Option<&'a OperationRef> {
    entries.iter().find(|entry| entry.fits(method, query)).map(|entry| &entry.kind)
}

impl Entry {
    fn fits(&self, method: &Method, query: &str) -> bool {
        // HEAD is what GET is (RFC 9110, 9.3.2).
        let is = |m: &String| m == method.as_str() || *method == Method::HEAD && m == "GET";
        let fits_method = self.methods.is_empty() || self.methods.iter().any(is);
        fits_method
            && (self.query.is_empty()
                || if self.kind.class == Class::Read { self.query.fits(query) } else { self.query.may_fit(query) })
    }
}

fn router<T>(all: BTreeMap<String, T>) -> Result<Router<T>, PatternError> {
    let mut router = Router::new();
    for (path, value) in all {
        router.insert(&path, value).map_err(|e| PatternError { path, why: e.to_string() })?;
    }
    Ok(router)
}

/// A pattern in lower case, without a slash at its end; its parameters have numbers for names.
fn folded(pattern: &str) -> String {
    let numbered = numbered(pattern);
    path::folded(&numbered).unwrap_or(numbered)
}

fn numbered(pattern: &str) -> String {
    let (mut text, mut number, mut rest) = (String::new(), 0, pattern);
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        if let Some((name, behind)) = after.split_once('}').filter(|_| !after.starts_with('{')) {
            let star = if name.starts_with('*') { "*" } else { "" };
            text.extend(["{", star, "p", &number.to_string(), "}"]);
            (number, rest) = (number + 1, behind);
        } else {
            // Two braces are one that is meant.
            let doubled = after.strip_prefix('{');
            text.push_str(if doubled.is_some() { "{{" } else { "{" });
            rest = doubled.unwrap_or(after);
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_folded_but_for_what_matchit_reads() {
        assert_eq!(folded("/Orders/{Id}/Lines/{*Rest}"), "/orders/{p0}/lines/{*p1}");
        assert_eq!(folded("/A{{b/"), "/a{{b");
        assert_eq!(folded("/"), "/");
        assert_eq!(numbered("/Orders/{id}"), "/Orders/{p0}");
    }
}
