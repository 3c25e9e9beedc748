//! What operation a request is, by its method, path and query.
//!
//! Operations are what policies see and what is counted, so there are as many as somebody has named, and one for each
//! standard method for the rest: never one for each path. **Invariant**: a request is a read only if every way to read it
//! says so: a path that some services take for that of an operation that changes something
//! ([`folded`](super::path::folded)), or a field that names another method, makes it none.

mod names;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hyper::Method;

use self::names::Names;
pub use self::names::Pattern;
use super::{
    limit::{Limit, Limiter},
    path::Ambiguous,
};
use crate::{
    message::{RequestHead, rules::HeaderRules},
    observe::Failed,
};
use cutover_model::request::Class;

/// Methods that have an operation of their own where none is configured, and their classes. Safe methods change nothing
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

/// Fields by which many services let a request name another method than its own.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRef {
    /// The name by which it is counted and judged.
    pub name: Arc<str>,
    /// What may be repeated and mirrored of it.
    pub class: Class,
    /// How long its callers and its mirrored requests wait; `None` for the migration's own deadline.
    pub deadline: Option<Duration>,
    /// What counts as failed.
    pub failed: Arc<Failed>,
    /// What is set and removed in the fields of its requests and their answers, if anything.
    pub headers: Option<Arc<HeaderRules>>,
    /// How often each caller may send one, if that is limited.
    pub limit: Option<Arc<Limit>>,
}

/// What holds for operations that are not configured.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// What counts as failed.
    pub failed: Arc<Failed>,
    /// What is set and removed in fields.
    pub headers: Option<Arc<HeaderRules>>,
    /// How often each caller may send a request, all of these operations together.
    pub limiter: Option<Arc<Limiter>>,
}

/// The operation that a request is, and what follows from the request itself.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// The operation, and what the configuration says of it.
    pub kind: &'a OperationRef,
    /// What repeating the request means: the operation's class, or a more careful one.
    pub class: Class,
    /// Whether the request may be sent again without its body (RFC 9110, 9.2.2), as far as anybody has said.
    pub is_idempotent: bool,
}

/// What is made of requests that fit no configured operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rules {
    /// Whether a safe method makes a request a read where operations are named, and none of them is it.
    pub unnamed_reads: bool,
    /// Whether a path that can be read in two ways is served, as an exclusive call, where operations are named by paths.
    pub serves_ambiguous: bool,
}

/// The operations of one migration, found by method, path and query.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    names: Option<Names>,
    methods: ByMethod,
    rules: Rules,
}

/// The operations that requests have by their methods alone, and whether each is configured.
#[derive(Debug, Clone)]
struct ByMethod(Vec<(OperationRef, bool)>);

/// Why patterns cannot be told apart, or are none.
#[derive(Debug, thiserror::Error)]
#[error("the path `{path}` {why}")]
pub struct PatternError {
    /// The pattern that is at fault.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
}

impl Default for ByMethod {
    fn default() -> Self {
        Self::new(&[], &Defaults::default(), true)
    }
}

impl ByMethod {
    fn new(said: &[OperationRef], defaults: &Defaults, reads: bool) -> Self {
        let kind = |(name, class): (&str, Class)| {
            let class = if reads { class } else { Class::Exclusive };
            let usual = || OperationRef {
                name: name.into(),
                class,
                deadline: None,
                failed: Arc::clone(&defaults.failed),
                headers: defaults.headers.clone(),
                limit: defaults.limiter.as_ref().map(Limit::of),
            };
            let said = said.iter().find(|kind| *kind.name == *name).cloned();
            (said.clone().unwrap_or_else(usual), said.is_some())
        };
        Self(METHODS.map(kind).to_vec())
    }

    fn of(&self, method: &Method) -> Option<&(OperationRef, bool)> {
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
        self.0.get(place)
    }
}

impl Catalogue {
    /// The catalogue of configured operations. `said` are those that go by a method's name and are configured;
    /// `defaults` are for the others.
    ///
    /// # Errors
    /// A pattern that is none, or contradicts another.
    pub fn new(
        patterns: Vec<Pattern>,
        said: &[OperationRef],
        defaults: &Defaults,
        rules: Rules,
    ) -> Result<Self, PatternError> {
        let names = if patterns.is_empty() { None } else { Some(Names::new(patterns)?) };
        let methods = ByMethod::new(said, defaults, names.is_none() || rules.unnamed_reads);
        Ok(Self { names, methods, rules })
    }

    /// The names of the operations that requests have by their methods alone.
    pub fn method_names() -> impl Iterator<Item = &'static str> {
        METHODS.into_iter().map(|(name, _)| name)
    }

    /// All of its operations.
    pub fn classes(&self, patterns: &[Pattern]) -> BTreeMap<Arc<str>, Class> {
        let named = patterns.iter().map(|p| (Arc::clone(&p.kind.name), p.kind.class));
        self.methods.0.iter().map(|(kind, _)| (Arc::clone(&kind.name), kind.class)).chain(named).collect()
    }

    /// Those of its operations whose callers are limited.
    pub fn limits(&self, patterns: &[Pattern]) -> Vec<(Arc<str>, Arc<Limit>)> {
        let all = self.methods.0.iter().map(|(kind, _)| kind).chain(patterns.iter().map(|pattern| &pattern.kind));
        all.filter_map(|kind| Some((Arc::clone(&kind.name), Arc::clone(kind.limit.as_ref()?)))).collect()
    }

    /// The deadlines of those of its operations that have one of their own.
    pub fn deadlines(&self, patterns: &[Pattern]) -> BTreeMap<Arc<str>, Duration> {
        let all = self.methods.0.iter().map(|(kind, _)| kind).chain(patterns.iter().map(|pattern| &pattern.kind));
        all.filter_map(|kind| Some((Arc::clone(&kind.name), kind.deadline?))).collect()
    }

    /// What a request is. `path` is its [normal form](super::path::normal), or why it has none.
    ///
    /// # Errors
    /// Why the path has no normal form, if such requests are refused.
    pub fn of<'a>(&'a self, head: &RequestHead, path: Result<&str, Ambiguous>) -> Result<Option<Found<'a>>, Ambiguous> {
        let path = match (path, &self.names) {
            // No operation is named by a path.
            (_, None) => Some(""),
            (Ok(path), _) => Some(path),
            (Err(_), _) if self.rules.serves_ambiguous => None,
            (Err(why), _) => return Err(why),
        };
        let query = head.uri.query().unwrap_or_default();
        let Some(own) = self.one(&head.method, path, query) else { return Ok(None) };
        Ok(Some(self.overridden(own, head, path, query)))
    }

    /// The less harmless of what a request is by its own method and by those that its fields name.
    fn overridden<'a>(&'a self, own: Found<'a>, head: &RequestHead, path: Option<&str>, query: &str) -> Found<'a> {
        let mut found = own;
        for value in OVERRIDES.into_iter().flat_map(|name| head.fields.get_variables(name)) {
            found.is_idempotent = false;
            let method = Method::from_bytes(&value.trim_ascii().to_ascii_uppercase());
            // What is no method, or a list of them, is none that changes nothing.
            let said = method.ok().and_then(|method| self.one(&method, path, query));
            match said {
                Some(said) if found.class == Class::Read && said.class != Class::Read => {
                    found = Found { is_idempotent: false, ..said };
                }
                Some(_) => {}
                None => found.class = Class::Exclusive,
            }
        }
        found
    }

    fn one<'a>(&'a self, method: &Method, path: Option<&str>, query: &str) -> Option<Found<'a>> {
        if let (Some(names), Some(path)) = (&self.names, path)
            && let Some(kind) = names.find(method, path, query)
            && (kind.class != Class::Read || names.alias(method, path, query).is_none())
        {
            return Some(Found::named(kind, method));
        }
        let (kind, is_said) = self.methods.of(method)?;
        let Some(path) = path else {
            return Some(Found { kind, class: Class::Exclusive, is_idempotent: false });
        };
        if let Some(kind) = self.names.as_ref().and_then(|names| names.alias(method, path, query)) {
            return Some(Found::named(kind, method));
        }
        let by_method = Found::named(kind, method);
        Some(Found { is_idempotent: by_method.is_idempotent || !is_said && method.is_idempotent(), ..by_method })
    }
}

impl<'a> Found<'a> {
    /// A safe method of what is not said to be a read changes something after all.
    fn named(kind: &'a OperationRef, method: &Method) -> Self {
        let changes = kind.class != Class::Read;
        let is_idempotent = !changes || method.is_idempotent() && !method.is_safe();
        Self { kind, class: kind.class, is_idempotent }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Version;

    use super::{
        super::{path, query::Wanted},
        *,
    };

    fn kind(name: &str, class: Class) -> OperationRef {
        OperationRef { name: name.into(), class, deadline: None, failed: Arc::default(), headers: None, limit: None }
    }

    fn pattern(name: &str, class: Class, methods: &[&str], path: &str) -> Pattern {
        let methods = methods.iter().map(|&m| m.to_owned()).collect();
        Pattern { kind: kind(name, class), methods, path: path.into(), query: Wanted::default() }
    }

    fn with_query(query: &[(&str, &str)], pattern: Pattern) -> Pattern {
        let query = Wanted::new(query.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())));
        Pattern { query, ..pattern }
    }

    fn of_patterns(patterns: Vec<Pattern>, rules: Rules) -> Catalogue {
        Catalogue::new(patterns, &[], &Defaults::default(), rules).unwrap()
    }

    /// Name, class, and whether it may be sent again.
    fn asked(catalogue: &Catalogue, line: &str, fields: &[(&str, &str)]) -> (String, Class, bool) {
        let (method, target) = line.split_once(' ').unwrap();
        let fields = fields.iter().copied().collect();
        let (method, uri) = (method.parse().unwrap(), target.parse().unwrap());
        let head = RequestHead { method, uri, version: Version::HTTP_11, fields };
        let path = path::normal(head.uri.path());
        let found = catalogue.of(&head, path.as_deref().map_err(|why| *why)).unwrap().unwrap();
        (found.kind.name.to_string(), found.class, found.is_idempotent)
    }

    fn of(catalogue: &Catalogue, line: &str) -> (String, Class) {
        let (name, class, _) = asked(catalogue, line, &[]);
        (name, class)
    }

    fn is(name: &str, class: Class) -> (String, Class) {
        (name.to_owned(), class)
    }

    const READS: Rules = Rules { unnamed_reads: true, serves_ambiguous: false };

    #[test]
    fn a_named_operation_goes_before_the_method() {
        let patterns = vec![
            pattern("list_orders", Class::Read, &["GET"], "/orders"),
            pattern("search", Class::Read, &["POST"], "/orders/search"),
            pattern("order", Class::Exclusive, &[], "/orders/{id}"),
        ];
        let catalogue =
            Catalogue::new(patterns.clone(), &[kind("put", Class::Read)], &Defaults::default(), READS).unwrap();
        for (line, name, class) in [
            ("GET /orders", "list_orders", Class::Read),
            ("HEAD /orders", "list_orders", Class::Read),
            ("POST /orders", "post", Class::Exclusive),
            ("POST /orders/search", "search", Class::Read),
            ("GET /orders/search", "order", Class::Exclusive),
            ("GET /orders/7", "order", Class::Exclusive),
            ("GET /elsewhere", "get", Class::Read),
            ("PUT /elsewhere", "put", Class::Read),
            ("PURGE /elsewhere", "other", Class::Exclusive),
        ] {
            assert_eq!(of(&catalogue, line), is(name, class), "{line}");
        }
        assert_eq!(catalogue.classes(&patterns).len(), 12);
    }

    #[test]
    fn what_nobody_named_is_no_read_where_something_is_named() {
        let named = vec![pattern("list", Class::Read, &[], "/orders")];
        let careful = of_patterns(named.clone(), Rules::default());
        assert_eq!(asked(&careful, "GET /other", &[]), ("get".into(), Class::Exclusive, true));
        assert_eq!(careful.classes(&named)["get"], Class::Exclusive, "policies are told the same");
        assert_eq!(of(&of_patterns(named.clone(), READS), "GET /other"), is("get", Class::Read));
        let said = Catalogue::new(named, &[kind("get", Class::Read)], &Defaults::default(), Rules::default()).unwrap();
        assert_eq!((of(&said, "GET /other").1, of(&said, "HEAD /other").1), (Class::Read, Class::Exclusive));
        assert_eq!(of(&Catalogue::default(), "GET /other/;a"), is("get", Class::Read));
        let says_exclusive = [kind("get", Class::Exclusive)];
        let said = Catalogue::new(vec![], &says_exclusive, &Defaults::default(), Rules::default()).unwrap();
        assert_eq!(asked(&said, "GET /", &[]), ("get".into(), Class::Exclusive, false));
    }

    #[test]
    fn no_spelling_of_an_exclusive_operation_is_a_read() {
        let purge = pattern("purge", Class::Exclusive, &["GET"], "/api/Purge");
        let files = pattern("files", Class::Read, &[], "/api/{*rest}");
        let list = pattern("list", Class::Read, &["GET"], "/api/list");
        let item = pattern("item", Class::Exclusive, &["GET"], "/api/list/{id}");
        let catalogue = of_patterns(vec![purge, files, list, item], READS);
        for path in ["/api/Purge", "/api//Purge", "/api/x/../%50urge", "/api/Purge/", "/api/PURGE", "/api/purge"] {
            assert_eq!(of(&catalogue, &format!("GET {path}")), is("purge", Class::Exclusive), "{path}");
            assert_eq!(of(&catalogue, &format!("HEAD {path}")), is("purge", Class::Exclusive), "{path}");
        }
        assert_eq!(of(&catalogue, "POST /api/purge"), is("files", Class::Read), "which somebody has said");
        assert_eq!(of(&catalogue, "GET /api/list"), is("list", Class::Read));
        assert_eq!(of(&catalogue, "GET /api/LIST/7"), is("item", Class::Exclusive));
        assert_eq!(of(&catalogue, "GET /api/Other"), is("files", Class::Read));
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_is_refused_or_exclusive() {
        let named = vec![pattern("list", Class::Read, &[], "/{*rest}")];
        let head = |target: &str| RequestHead {
            method: Method::GET,
            uri: target.parse().unwrap(),
            version: Version::HTTP_11,
            fields: [].into_iter().collect(),
        };
        let refusing = of_patterns(named.clone(), READS);
        assert_eq!(refusing.of(&head("/a%2fb"), Err(Ambiguous::Slash)).unwrap_err(), Ambiguous::Slash);
        let serving = of_patterns(named, Rules { serves_ambiguous: true, ..READS });
        let found = serving.of(&head("/a%2fb"), Err(Ambiguous::Slash)).unwrap().unwrap();
        assert_eq!((found.class, found.is_idempotent), (Class::Exclusive, false));
        let nothing = Catalogue::default();
        assert_eq!(nothing.of(&head("/a%2fb"), Err(Ambiguous::Slash)).unwrap().unwrap().class, Class::Read);
    }

    #[test]
    fn a_query_tells_operations_of_one_path_apart() {
        let list = pattern("list", Class::Read, &["GET"], "/api");
        let purge = with_query(&[("action", "purge")], pattern("purge", Class::Exclusive, &["GET"], "/api"));
        let show = with_query(&[("action", "show")], pattern("show", Class::Read, &["GET"], "/api"));
        let catalogue = of_patterns(vec![list, purge, show], Rules::default());
        for (target, name) in [
            ("/api", "list"),
            ("/api?page=2", "list"),
            ("/api?action=show", "show"),
            ("/api?action=purge", "purge"),
            ("/api?x=1&ACTION=%50urge", "purge"),
            ("/api?action=show&action=purge", "purge"),
            ("/API?action=purge", "purge"),
        ] {
            assert_eq!(of(&catalogue, &format!("GET {target}")).0, name, "{target}");
        }
    }

    #[test]
    fn a_field_that_names_another_method_never_makes_a_request_more_harmless() {
        let patterns = vec![
            pattern("list", Class::Read, &["GET"], "/orders"),
            pattern("clear", Class::Exclusive, &["DELETE"], "/orders"),
        ];
        let catalogue = of_patterns(patterns, READS);
        for (line, field, value, name, class) in [
            ("GET /orders", "x-http-method-override", "DELETE", "clear", Class::Exclusive),
            ("GET /orders", "x-http-method", " delete ", "clear", Class::Exclusive),
            ("GET /orders", "x-method-override", "PATCH", "patch", Class::Exclusive),
            ("GET /orders", "x_http_method-override", "DELETE", "clear", Class::Exclusive),
            ("GET /orders", "x-http-method-override", "no method", "list", Class::Exclusive),
            ("GET /orders", "x-http-method-override", "GET", "list", Class::Read),
            ("POST /orders", "x-http-method-override", "GET", "post", Class::Exclusive),
        ] {
            let found = asked(&catalogue, line, &[(field, value)]);
            assert_eq!(found, (name.into(), class, false), "{line} {value}");
        }
    }

    #[test]
    fn patterns_that_cannot_be_told_apart_are_refused() {
        let clash = vec![pattern("a", Class::Read, &[], "/x/{a}"), pattern("b", Class::Read, &[], "/x/{b}")];
        let error = Catalogue::new(clash, &[], &Defaults::default(), Rules::default()).unwrap_err();
        assert!(error.to_string().starts_with("the path `/x/{b}`"), "{error}");
    }
}
