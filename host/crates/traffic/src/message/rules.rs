//! Fields that the configuration sets and removes in the heads of messages. Pure.

use hyper::{
    HeaderMap,
    header::{HeaderName, HeaderValue},
};

use super::{Fields, is_variable};

/// Rules for the fields of requests and of their answers.
#[expect(missing_docs, reason = "the names and types of the fields say what they are")]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderRules {
    pub request: Rules,
    pub response: Rules,
}

/// What is done with the fields of one kind of message. A name is either set or removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names in lower case, and the only value that each has from then on.
    set: Vec<(HeaderName, HeaderValue)>,
    /// Names in lower case.
    removed: Vec<HeaderName>,
}

impl HeaderRules {
    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }

    /// These, and after them others, which have the last word.
    #[must_use]
    pub fn then(&self, later: &Self) -> Self {
        Self { request: self.request.then(&later.request), response: self.response.then(&later.response) }
    }
}

impl Rules {
    /// Sets some fields and removes others. One that is to be both is set.
    pub fn new(set: Vec<(HeaderName, HeaderValue)>, removed: Vec<HeaderName>) -> Self {
        let removed = removed.into_iter().filter(|name| set.iter().all(|(other, _)| other != name)).collect();
        Self { set, removed }
    }

    /// Whether nothing is done.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.removed.is_empty()
    }

    /// These, and after them others, which have the last word.
    #[must_use]
    fn then(&self, later: &Self) -> Self {
        let is_earlier = |name: &HeaderName| !later.touches(name.as_str().as_bytes());
        let set = self.set.iter().filter(|(name, _)| is_earlier(name)).chain(&later.set).cloned().collect();
        let removed = self.removed.iter().filter(|name| is_earlier(name)).chain(&later.removed).cloned().collect();
        Self { set, removed }
    }

    /// Whether a field, whose name is in lower case, does not stay as it is: `_` is `-`, since services that take fields as
    /// variables cannot tell them apart.
    pub fn touches(&self, name: &[u8]) -> bool {
        let mut names = self.set.iter().map(|(name, _)| name).chain(&self.removed);
        names.any(|touched| is_variable(name, touched.as_str().as_bytes()))
    }

    /// Removes and sets the fields of a head.
    pub fn apply(&self, fields: &mut Fields) {
        for name in &self.removed {
            fields.remove_variable(name.as_str());
        }
        for (name, value) in &self.set {
            fields.remove_variable(name.as_str());
            fields.set(name.as_str(), value.as_bytes());
        }
    }

    /// Removes and sets the fields of a map, as hyper has them.
    pub fn apply_to_map(&self, fields: &mut HeaderMap) {
        let touched: Vec<_> = fields.keys().filter(|name| self.touches(name.as_str().as_bytes())).cloned().collect();
        for name in &touched {
            fields.remove(name);
        }
        for (name, value) in &self.set {
            fields.insert(name.clone(), value.clone());
        }
    }

    /// Writes the lines of the fields that are set.
    pub fn write_set(&self, out: &mut Vec<u8>) {
        for (name, value) in &self.set {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                out.extend_from_slice(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(set: &[(&'static str, &'static str)], removed: &[&'static str]) -> Rules {
        let set = set.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        Rules::new(set.collect(), removed.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    fn after(rules: &Rules) -> Vec<(String, String)> {
        let mut fields: Fields = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-c", "4")].into_iter().collect();
        let mut map = fields.to_map();
        let mut written = Vec::new();
        fields.write(&mut written, |name| !rules.touches(name));
        rules.write_set(&mut written);
        rules.apply(&mut fields);
        rules.apply_to_map(&mut map);
        let sorted = |fields: &Fields| {
            let mut all: Vec<_> = fields.all_text().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            all.sort();
            all
        };
        let all = sorted(&fields);
        assert_eq!(sorted(&Fields::from(&map)), all, "the same in a map");
        let mut lines: Vec<_> = std::str::from_utf8(&written).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines, all.iter().map(|(n, v)| format!("{n}: {v}")).collect::<Vec<_>>(), "the same as lines");
        all
    }

    fn is(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_is_set_is_the_only_one_of_its_name_and_what_is_removed_is_gone() {
        assert_eq!(
            after(&rules(&[("x-a", "5"), ("x-d", "6")], &["x-b", "x-e"])),
            is(&[("x-a", "5"), ("x-c", "4"), ("x-d", "6")])
        );
        let untouched = after(&Rules::default());
        assert_eq!(untouched.len(), 4);
        assert!(Rules::default().is_empty() && !rules(&[], &["x-a"]).is_empty());
        assert_eq!(after(&rules(&[("x-b", "5")], &["x-b"]))[2], ("x-b".to_owned(), "5".to_owned()), "set, not removed");
    }

    #[test]
    fn another_spelling_of_the_same_variable_is_the_same_field() {
        let rules = rules(&[("x-a-b", "5")], &["x-c-d"]);
        let mut fields: Fields =
            [("x_a_b", "1"), ("x-a_b", "2"), ("x_c-d", "3"), ("x-c_d", "4"), ("xacd", "5")].into_iter().collect();
        let mut map = fields.to_map();
        rules.apply(&mut fields);
        rules.apply_to_map(&mut map);
        let left = is(&[("xacd", "5"), ("x-a-b", "5")]);
        assert_eq!(fields.all_text().map(|(n, v)| (n.to_owned(), v.to_owned())).collect::<Vec<_>>(), left);
        let mut of_map: Vec<_> = Fields::from(&map).all_text().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        of_map.sort();
        assert_eq!(of_map, is(&[("x-a-b", "5"), ("xacd", "5")]));
        assert!(["x_a-b", "x-c_d"].iter().all(|name| rules.touches(name.as_bytes())) && !rules.touches(b"xacd"));
    }

    #[test]
    fn the_later_rule_has_the_last_word() {
        let first = rules(&[("x-a", "5"), ("x-d", "6")], &["x-b"]);
        let both = first.then(&rules(&[("x-b", "7")], &["x-a"]));
        assert_eq!(after(&both), is(&[("x-b", "7"), ("x-c", "4"), ("x-d", "6")]));
        assert_eq!(first.then(&Rules::default()), first);
        assert_eq!(Rules::default().then(&first), first);
    }
}
