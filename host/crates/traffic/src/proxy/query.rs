//! The parameters of a query, by which operations are told apart. Pure.
//!
//! Services disagree on which of two parameters of one name counts, on case, and on `;`. So a match that makes the host
//! more careful holds if any reading gives it ([`Wanted::may_fit`]), and a match that it trusts only if all do
//! ([`Wanted::fits`]).

use std::borrow::Cow;

/// What a query must have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted(Vec<(String, String)>);

impl Wanted {
    /// These parameters with these values; one that ends with `*` is the beginning of it.
    pub fn new(all: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(all.into_iter().collect())
    }

    /// How many parameters it names.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it names none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the query has all of them, however it is read.
    pub fn fits(&self, query: &str) -> bool {
        let has = |separators: &[char], (name, value): &(String, String)| {
            let mut found = pairs(query, separators).filter(|(n, _)| n.eq_ignore_ascii_case(name)).peekable();
            found.peek().is_some() && found.all(|(n, v)| n == *name && is(value, &v, false))
        };
        self.0.iter().all(|wanted| has(&['&', ';'], wanted) && has(&['&'], wanted))
    }

    /// Whether the query has all of them in some reading.
    pub fn may_fit(&self, query: &str) -> bool {
        self.0.iter().all(|(name, value)| {
            let has = |(n, v): (Cow<'_, str>, Cow<'_, str>)| n.eq_ignore_ascii_case(name) && is(value, &v, true);
            pairs(query, &['&', ';']).any(has) || pairs(query, &['&']).any(has)
        })
    }
}

/// Whether a value is what is wanted.
fn is(wanted: &str, value: &str, ignores_case: bool) -> bool {
    let (wanted, value) = match wanted.strip_suffix('*') {
        Some(start) => match value.get(..start.len()) {
            Some(begin) => (start, begin),
            None => return false,
        },
        None => (wanted, value),
    };
    if ignores_case { wanted.eq_ignore_ascii_case(value) } else { wanted == value }
}

/// Names and values, decoded.
fn pairs<'a>(query: &'a str, separators: &'a [char]) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
    query.split(separators).filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// As forms are written: `%` and two digits, and `+` for a blank. What is no encoding stays.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        match (byte, after) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok()).unwrap_or(0);
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(all: &[(&str, &str)]) -> Wanted {
        Wanted::new(all.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())))
    }

    #[test]
    fn a_parameter_is_found_however_it_is_written() {
        let purge = wanted(&[("action", "purge")]);
        for query in ["action=purge", "a=b&action=purge", "%61ction=pur%67e", "action=purge&x", "&action=purge&"] {
            assert!(purge.fits(query) && purge.may_fit(query), "{query}");
        }
        for query in ["", "action", "action=list", "reaction=purge", "x=action=purge", "action=purge%"] {
            assert!(!purge.fits(query) && !purge.may_fit(query), "{query}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_may_fit_and_is_not_sure_to() {
        let purge = wanted(&[("action", "purge")]);
        for query in [
            "action=list&action=purge",
            "ACTION=Purge",
            "x=1;action=purge&action=list",
            "Action=purge",
            // Who knows no `;` finds no action at all in the first, and another one in the second.
            "x=1;action=purge",
            "action=purge;x=1",
        ] {
            assert!(!purge.fits(query) && purge.may_fit(query), "{query}");
        }
        let odd = wanted(&[("action", "purge;all")]);
        assert!(odd.may_fit("action=purge;all"));
    }

    #[test]
    fn all_are_wanted_and_a_star_ends_a_beginning() {
        let both = wanted(&[("a", "1"), ("b", "x y*")]);
        assert!(both.fits("b=x+yz&a=1") && both.fits("a=1&b=x%20y") && !both.fits("a=1") && !both.fits("a=1&b=x"));
        assert!(wanted(&[("a", "*")]).fits("a") && !wanted(&[("a", "*")]).fits("b"));
        assert!(Wanted::default().fits("") && Wanted::default().may_fit("x"));
    }
}
