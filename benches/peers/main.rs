//! One routing rule, evaluated by Cutover in its three ways and by other rule engines, side by side in one run.
//!
//! The rule: a request goes to V2 if its header `x-beta` is `beta` or `internal`, or if the hash of its session is within
//! the share. Each engine is set up once, as its documentation recommends, and for each request gets a context that is
//! made of the request within the measured loop, as a proxy would have to; so each pays for the same hash. `rule/*` shows
//! it what the rule reads and nothing else, `eight/*` eight attributes, as a host does that does not know the rule.
//! Before anything is measured, all of them answer the same thousand requests, and must agree.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench that cannot start has nothing to say")]

mod cedar;
mod common_expressions;
mod cutovers;
#[path = "../fixtures.rs"]
mod fixtures;
mod native;
mod rego;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use cutover_model::request::{Attribute, Request};
use cutover_contract::share;
use fixtures::{SALT, SHARE, request};

/// Whether a request goes to V2.
pub(crate) type Ask = Box<dyn FnMut(&Request) -> bool>;

/// What an engine is shown of a request, besides the position of its session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shown {
    /// The attribute that the rule reads.
    Rule,
    /// Eight attributes, that one among them.
    Eight,
}

/// Names of attributes as the engines take them, and as Cutover does.
const ATTRIBUTES: [(&str, &str); 8] = [
    ("x_beta", "header:x-beta"),
    ("operation", "operation"),
    ("session", "session"),
    ("method", "method"),
    ("path", "path"),
    ("host", "host"),
    ("accept", "header:accept"),
    ("user_agent", "header:user-agent"),
];

/// Requests that all must agree on.
const AGREED: usize = 1_000;

impl Shown {
    /// The attributes, with the names by which the engines know them.
    pub(crate) fn attributes(self) -> Vec<(&'static str, Attribute)> {
        let shown = match self {
            Self::Rule => 1,
            Self::Eight => ATTRIBUTES.len(),
        };
        ATTRIBUTES.iter().take(shown).map(|(name, ours)| (*name, Attribute::parse(ours).unwrap())).collect()
    }
}

/// Where a request's session stands, for those that cannot hash it themselves.
pub(crate) fn position(request: &Request) -> u32 {
    share::position(SALT, request.session.as_deref().unwrap_or(&request.id))
}

/// What somebody would write by hand.
fn by_hand(request: &Request) -> bool {
    let ring = request.head.headers.iter().find(|(name, _)| name == "x-beta").map(|(_, value)| value.as_str());
    matches!(ring, Some("beta" | "internal")) || share::is_v2(position(request), SHARE)
}

fn engines(shown: Shown) -> Vec<(&'static str, Ask)> {
    vec![
        ("by hand", Box::new(by_hand)),
        ("cutover, plan", cutovers::plan()),
        ("cutover, decide in Rust", cutovers::decide_in_rust(shown)),
        ("cutover, decide in Rhai", cutovers::decide_in_rhai()),
        ("rhai, native", native::rhai(shown)),
        ("cel, variables", common_expressions::variables(shown)),
        ("cel, resolver", common_expressions::resolver(shown)),
        ("cedar", cedar::authorizer(shown)),
        ("regorus, interpreter", rego::interpreter(shown)),
        ("regorus, machine", rego::machine(shown)),
    ]
}

fn peers(c: &mut Criterion) {
    let requests: Vec<_> = (0..64).map(request).collect();
    for (group, shown) in [("rule", Shown::Rule), ("eight", Shown::Eight)] {
        let mut group = c.benchmark_group(group);
        for (name, mut ask) in engines(shown) {
            for request in (0..AGREED).map(request) {
                assert_eq!(ask(&request), by_hand(&request), "{name} does not agree on `{}`", request.id);
            }
            let mut next = requests.iter().cycle();
            group.bench_function(name, |b| b.iter(|| ask(black_box(next.next().unwrap()))));
        }
        group.finish();
    }
}

criterion_group!(benches, peers);
criterion_main!(benches);
