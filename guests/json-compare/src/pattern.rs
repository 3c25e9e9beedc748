//! Where in a document: JSON Pointers (RFC 6901), and patterns of them.

/// One step into a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Into an object.
    Key(&'a str),
    /// Into an array.
    Index(usize),
}

/// A pointer with wildcards. A key that is itself `*` or `**` has no pattern of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<Segment>);

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    /// `**`: any number of steps, also none.
    Rest,
    /// `*`: any one step.
    Any,
    /// This key, or this place in an array.
    One(String),
}

impl Pattern {
    /// Reads a pattern; the error is a sentence for people.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let rest = text.strip_prefix('/').ok_or("does not begin with `/`, as a JSON Pointer does")?;
        let segment = |text: &str| match text {
            "**" => Some(Segment::Rest),
            "*" => Some(Segment::Any),
            _ => unescape(text).map(Segment::One),
        };
        let segments: Option<_> = rest.split('/').map(segment).collect();
        segments.map(Self).ok_or_else(|| "has a `~` that is neither `~0` (for `~`) nor `~1` (for `/`)".into())
    }

    /// Whether it covers the whole path. Only the last `**` is ever tried again, so the cost is a product of lengths.
    pub(crate) fn matches(&self, path: &[Step<'_>]) -> bool {
        let (mut pattern, mut path) = (self.0.as_slice(), path);
        let mut retry: Option<(&[Segment], &[Step<'_>])> = None;
        loop {
            match (pattern.split_first(), path.split_first()) {
                (None, None) => return true,
                (Some((Segment::Rest, after)), _) => {
                    retry = Some((after, path));
                    pattern = after;
                    continue;
                }
                (Some((segment, after)), Some((step, further))) if segment.covers(*step) => {
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
}

impl Segment {
    fn covers(&self, step: Step<'_>) -> bool {
        match (self, step) {
            (Self::Rest | Self::Any, _) => true,
            (Self::One(text), Step::Key(key)) => text == key,
            (Self::One(text), Step::Index(index)) => text.parse() == Ok(index),
        }
    }
}

/// The path as a JSON Pointer.
pub(crate) fn pointer(path: &[Step<'_>]) -> String {
    let mut pointer = String::new();
    for step in path {
        pointer.push('/');
        match step {
            Step::Key(key) => pointer.push_str(&key.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => pointer.push_str(&index.to_string()),
        }
    }
    pointer
}

fn unescape(text: &str) -> Option<String> {
    let good = text.split('~').skip(1).all(|after| after.starts_with(['0', '1']));
    good.then(|| text.replace("~1", "/").replace("~0", "~"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        let steps: Vec<_> = path.split('/').skip(1).map(|s| s.parse().map_or(Step::Key(s), Step::Index)).collect();
        Pattern::parse(pattern).unwrap().matches(&steps)
    }

    #[test]
    fn wildcards_stand_for_segments() {
        for (pattern, path) in [
            ("", ""),
            ("/a", "/a"),
            ("/**", ""),
            ("/**", "/a/b"),
            ("/**/pid", "/pid"),
            ("/**/pid", "/a/0/pid"),
            ("/a/*/c", "/a/7/c"),
            ("/a/7", "/a/7"),
            ("/**/b/**/c", "/a/b/x/b/y/c"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("", "/a"),
            ("/a", ""),
            ("/*", ""),
            ("/*", "/a/b"),
            ("/**/pid", "/pid/x"),
            ("/a/8", "/a/7"),
            ("/**/b/c", "/b/x/c"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn keys_are_escaped_as_the_standard_says() {
        let path = [Step::Key("a/b"), Step::Key("~1"), Step::Index(3), Step::Key("")];
        assert_eq!(pointer(&path), "/a~1b/~01/3/");
        assert!(Pattern::parse("/a~1b/~01/3/").unwrap().matches(&path));
    }

    #[test]
    fn many_wildcards_stay_cheap() {
        let pattern = "/**/a".repeat(30) + "/b";
        assert!(!matches(&pattern, &"/a".repeat(128)));
    }

    proptest! {
        #[test]
        fn a_pointer_is_a_pattern_of_its_own_path(keys in prop::collection::vec("[a-c/~0-9]{0,4}", 0..6)) {
            let path: Vec<_> = keys.iter().map(|k| Step::Key(k.as_str())).collect();
            prop_assert!(Pattern::parse(&pointer(&path)).unwrap().matches(&path));
        }

        #[test]
        fn wildcards_match_as_their_definition_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 0..7),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..7),
        ) {
            fn defined(pattern: &[&str], path: &[&str]) -> bool {
                match pattern {
                    [] => path.is_empty(),
                    ["**", rest @ ..] => (0..=path.len()).any(|n| defined(rest, &path[n..])),
                    [one, rest @ ..] => path.first().is_some_and(|s| *one == "*" || one == s) && defined(rest, &path[1..]),
                }
            }
            let join = |parts: &[&str]| parts.iter().flat_map(|part| ["/", part]).collect::<String>();
            prop_assert_eq!(matches(&join(&pattern), &join(&path)), defined(&pattern, &path));
        }
    }
}
