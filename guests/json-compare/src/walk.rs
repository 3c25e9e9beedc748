//! Walks two documents side by side and writes down where they differ.

use std::{
    cmp::Ordering,
    io::{self, Write},
};

use cutover_policy::{Difference, text};
use serde_json::{Map, Number, Value};

use crate::{
    pattern::{Step, pointer},
    settings::Rules,
};

/// Characters of a value that people are shown.
const SHOWN: usize = 200;

/// The differences of one pair.
pub(crate) struct Walk<'a> {
    rules: &'a Rules,
    path: Vec<Step<'a>>,
    /// What the rules ignore.
    pub(crate) ignored: Vec<Difference>,
    /// What they do not.
    pub(crate) different: Vec<Difference>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(rules: &'a Rules) -> Self {
        Self { rules, path: Vec::new(), ignored: Vec::new(), different: Vec::new() }
    }

    /// Compares two values at the current path. Stops early when enough is different.
    pub(crate) fn values(&mut self, v1: &'a Value, v2: &'a Value) {
        if self.different.len() >= self.rules.max_differences {
            return;
        }
        match (v1, v2) {
            _ if v1 == v2 => {}
            (Value::Object(_) | Value::Array(_), _) if self.category().is_some() => {
                self.report("value", Some(v1), Some(v2));
            }
            (Value::Object(a), Value::Object(b)) => self.objects(a, b),
            (Value::Array(a), Value::Array(b)) if self.is_unordered() => self.multisets(v1, v2, a, b),
            (Value::Array(a), Value::Array(b)) => self.arrays(v1, v2, a, b),
            (Value::Number(a), Value::Number(b)) if self.near(a, b) => {}
            _ if kind(v1) == kind(v2) => self.report("value", Some(v1), Some(v2)),
            _ => self.report("type", Some(v1), Some(v2)),
        }
    }

    fn objects(&mut self, a: &'a Map<String, Value>, b: &'a Map<String, Value>) {
        for (key, v1) in a {
            self.at(Step::Key(key), |walk| match b.get(key) {
                Some(v2) => walk.values(v1, v2),
                None => walk.report("missing", Some(v1), None),
            });
        }
        for (key, v2) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
            self.at(Step::Key(key), |walk| walk.report("extra", None, Some(v2)));
        }
    }

    fn arrays(&mut self, v1: &'a Value, v2: &'a Value, a: &'a [Value], b: &'a [Value]) {
        if a.len() == b.len() {
            let (left, right) = (self.keys(a), self.keys(b));
            let in_order = left.iter().map(|(key, _)| key).eq(right.iter().map(|(key, _)| key));
            if !in_order && sorted(left).iter().map(|(key, _)| key).eq(sorted(right).iter().map(|(key, _)| key)) {
                return self.report("order", Some(v1), Some(v2));
            }
        } else {
            self.report("length", Some(&a.len().into()), Some(&b.len().into()));
        }
        for (i, (v1, v2)) in a.iter().zip(b).enumerate() {
            self.at(Step::Index(i), |walk| walk.values(v1, v2));
        }
    }

    /// Pairs what is equal wherever it stands, and the rest in its sorted order.
    fn multisets(&mut self, v1: &'a Value, v2: &'a Value, a: &'a [Value], b: &'a [Value]) {
        let (left, right) = (self.keys(a), self.keys(b));
        let reordered = !left.iter().map(|(key, _)| key).eq(right.iter().map(|(key, _)| key));
        let (equal, rest1, rest2) = pair_off(sorted(left), sorted(right));
        // Equal but for what is ignored within.
        for (i, j) in equal {
            self.elements(a, i, b, j);
        }
        if reordered && rest1.is_empty() && rest2.is_empty() {
            let difference = self.difference("order", "format", Some(v1), Some(v2));
            self.ignore(difference);
        }
        let paired = rest1.len().min(rest2.len());
        for (&i, &j) in rest1.iter().zip(&rest2) {
            self.elements(a, i, b, j);
        }
        for &i in rest1.iter().skip(paired) {
            self.at(Step::Index(i), |walk| walk.report("missing", a.get(i), None));
        }
        for &j in rest2.iter().skip(paired) {
            self.at(Step::Index(j), |walk| walk.report("extra", None, b.get(j)));
        }
    }

    /// The path is that of V1's element.
    fn elements(&mut self, a: &'a [Value], i: usize, b: &'a [Value], j: usize) {
        if let (Some(v1), Some(v2)) = (a.get(i), b.get(j)) {
            self.at(Step::Index(i), |walk| walk.values(v1, v2));
        }
    }

    fn near(&self, a: &Number, b: &Number) -> bool {
        let (Some(x), Some(y)) = (a.as_f64(), b.as_f64()) else { return false };
        let tolerance = self.rules.tolerance;
        let difference = (x - y).abs();
        let integers = !a.is_f64() && !b.is_f64();
        if integers {
            // Unequal integers can be equal as floats, so the smallest difference of theirs is 1.
            return difference.max(1.0) <= tolerance.absolute;
        }
        difference <= tolerance.absolute.max(tolerance.relative * x.abs().max(y.abs()))
    }

    /// What the first rule that covers the current path calls a difference there.
    fn category(&self) -> Option<&'a str> {
        let rule = self.rules.ignore.iter().find(|(pattern, _)| pattern.matches(&self.path));
        rule.map(|(_, category)| category.as_str())
    }

    fn is_unordered(&self) -> bool {
        self.rules.unordered.iter().any(|pattern| pattern.matches(&self.path))
    }

    fn at(&mut self, step: Step<'a>, go: impl FnOnce(&mut Self)) {
        self.path.push(step);
        go(self);
        self.path.pop();
    }

    fn report(&mut self, kind: &str, v1: Option<&Value>, v2: Option<&Value>) {
        if let Some(category) = self.category() {
            let difference = self.difference(kind, category, v1, v2);
            self.ignore(difference);
        } else if self.different.len() < self.rules.max_differences {
            self.different.push(self.difference(kind, "semantic", v1, v2));
        }
    }

    fn ignore(&mut self, difference: Difference) {
        if self.ignored.len() < self.rules.max_differences {
            self.ignored.push(difference);
        }
    }

    fn difference(&self, kind: &str, category: &str, v1: Option<&Value>, v2: Option<&Value>) -> Difference {
        let (v1, v2) = (v1.map(shown).unwrap_or_default(), v2.map(shown).unwrap_or_default());
        Difference { path: pointer(&self.path), kind: kind.into(), category: category.into(), v1, v2 }
    }

    /// Each element's canonical text without what is ignored, and its place.
    fn keys(&mut self, elements: &'a [Value]) -> Vec<(String, usize)> {
        let key = |(i, value)| {
            let mut key = String::new();
            self.at(Step::Index(i), |walk| walk.canonical(value, &mut key));
            (key, i)
        };
        elements.iter().enumerate().map(key).collect()
    }

    /// Keys sorted, whole floats as integers, ignored places and the order of unordered arrays left out.
    fn canonical(&mut self, value: &'a Value, into: &mut String) {
        if self.category().is_some() {
            return;
        }
        match value {
            Value::Object(map) => {
                let mut keys: Vec<_> = map.iter().collect();
                keys.sort_unstable_by_key(|&(key, _)| key);
                into.push('{');
                for (key, value) in keys {
                    self.at(Step::Key(key), |walk| {
                        let before = into.len();
                        into.push_str(&Value::String(key.clone()).to_string());
                        into.push(':');
                        let empty = into.len();
                        walk.canonical(value, into);
                        if into.len() == empty { into.truncate(before) } else { into.push(',') }
                    });
                }
                into.push('}');
            }
            Value::Array(elements) => {
                let mut keys = self.keys(elements);
                if self.is_unordered() {
                    keys = sorted(keys);
                }
                into.push('[');
                for (key, _) in keys {
                    into.push_str(&key);
                    into.push(',');
                }
                into.push(']');
            }
            Value::Number(number) => match number.as_f64() {
                // Up to 2^53 every whole float is just that integer.
                Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 => {
                    // Adding 0 makes -0 one.
                    into.push_str(&(float + 0.0).to_string());
                }
                _ => into.push_str(&number.to_string()),
            },
            Value::Null | Value::Bool(_) | Value::String(_) => into.push_str(&value.to_string()),
        }
    }
}

/// The places of elements with equal keys, and of those of either side that have none. Both lists are sorted.
fn pair_off(left: Vec<(String, usize)>, right: Vec<(String, usize)>) -> (Vec<(usize, usize)>, Vec<usize>, Vec<usize>) {
    let (mut equal, mut rest1, mut rest2) = (Vec::new(), Vec::new(), Vec::new());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return (equal, rest1, rest2),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.cmp(other),
        };
        let one = left.next_if(|_| order.is_le()).map(|(_, i)| i);
        let other = right.next_if(|_| order.is_ge()).map(|(_, i)| i);
        if let (Some(i), Some(j)) = (one, other) {
            equal.push((i, j));
        } else {
            rest1.extend(one);
            rest2.extend(other);
        }
    }
}

fn sorted(mut keys: Vec<(String, usize)>) -> Vec<(String, usize)> {
    keys.sort_unstable();
    keys
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The beginning of a value, without writing a large one in full.
fn shown(value: &Value) -> String {
    struct Beginning(Vec<u8>);
    impl Write for Beginning {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // A character is at most 4 bytes.
            if self.0.len() > 4 * SHOWN {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut beginning = Beginning(Vec::new());
    // It fails only because there is enough.
    serde_json::to_writer(&mut beginning, value).ok();
    text::excerpt(&String::from_utf8_lossy(&beginning.0), SHOWN)
}
