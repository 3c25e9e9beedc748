//! Patterns of JSON Pointers: `patterns(["/**/pid", "/items/*/at"])`, read once, and asked for each place.

use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, EvalAltResult, INT};

/// Pointers in which a segment `*` is any one segment and `**` any number of them, also none.
#[derive(Debug, Clone)]
struct Patterns(Arc<[Vec<Segment>]>);

#[derive(Debug)]
enum Segment {
    Rest,
    Any,
    One(String),
}

impl Patterns {
    fn read(texts: Array) -> Result<Self, Box<EvalAltResult>> {
        let patterns: Result<Vec<_>, _> = texts.into_iter().map(|text| parse(&text.to_string())).collect();
        patterns.map(|patterns| Self(patterns.into()))
    }

    /// The number of the first that covers a path, or -1.
    fn first(&mut self, path: Array) -> INT {
        let path: Vec<_> = path.into_iter().map(|step| step.to_string()).collect();
        let found = self.0.iter().position(|pattern| covers(pattern, &path));
        found.and_then(|at| INT::try_from(at).ok()).unwrap_or(-1)
    }
}

fn parse(text: &str) -> Result<Vec<Segment>, Box<EvalAltResult>> {
    let Some(rest) = text.strip_prefix('/') else {
        let empty = text.is_empty().then(Vec::new);
        return empty
            .ok_or_else(|| format!("the pattern `{text}` does not begin with `/`, as a JSON Pointer does").into());
    };
    let segment = |text: &str| match text {
        "**" => Some(Segment::Rest),
        "*" => Some(Segment::Any),
        _ if text.split('~').skip(1).all(|after| after.starts_with(['0', '1'])) => {
            Some(Segment::One(text.replace("~1", "/").replace("~0", "~")))
        }
        _ => None,
    };
    let segments: Option<_> = rest.split('/').map(segment).collect();
    segments.ok_or_else(|| format!("the pattern `{text}` has a `~` that is neither `~0` nor `~1`").into())
}

/// Only the last `**` is ever tried again, so the cost is a product of lengths.
fn covers(pattern: &[Segment], path: &[String]) -> bool {
    let (mut pattern, mut path) = (pattern, path);
    let mut retry: Option<(&[Segment], &[String])> = None;
    loop {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => return true,
            (Some((Segment::Rest, after)), _) => {
                retry = Some((after, path));
                pattern = after;
                continue;
            }
            (Some((segment, after)), Some((step, further)))
                if matches!(segment, Segment::Any) || matches!(segment, Segment::One(text) if text == step) =>
            {
                (pattern, path) = (after, further);
                continue;
            }
            _ => {}
        }
        let Some((after, [_, further @ ..])) = retry else { return false };
        retry = Some((after, further));
        (pattern, path) = (after, further);
    }
}

pub(crate) fn register(engine: &mut Engine) {
    engine
        .register_type_with_name::<Patterns>("Patterns")
        .register_fn("patterns", Patterns::read)
        .register_fn("first", Patterns::first)
        .register_fn("matches", |patterns: &mut Patterns, path: Array| patterns.first(path) >= 0)
        .register_fn("matches", |pattern: &str, path: Array| {
            Patterns::read(vec![Dynamic::from(pattern.to_owned())]).map(|mut patterns| patterns.first(path) >= 0)
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(patterns: &[&str], path: &[&str]) -> INT {
        let texts = patterns.iter().map(|&p| p.into()).collect();
        Patterns::read(texts).unwrap().first(path.iter().map(|&p| p.into()).collect())
    }

    #[test]
    fn the_first_pattern_that_covers_a_path_is_named() {
        let patterns = ["/a/*/c", "/**/pid", "/x~1y", ""];
        assert_eq!(first(&patterns, &["a", "7", "c"]), 0);
        assert_eq!(first(&patterns, &["b", "pid"]), 1);
        assert_eq!(first(&patterns, &["pid"]), 1);
        assert_eq!(first(&patterns, &["x/y"]), 2);
        assert_eq!(first(&patterns, &[]), 3);
        assert_eq!(first(&patterns, &["a", "c"]), -1);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in ["a", "/~2", "/a~"] {
            assert!(parse(wrong).unwrap_err().to_string().contains("the pattern"), "{wrong}");
        }
    }

    #[test]
    fn many_wildcards_stay_cheap() {
        let pattern = "/**/a".repeat(30) + "/b";
        assert_eq!(first(&[&pattern], &["a"; 128]), -1);
    }
}
