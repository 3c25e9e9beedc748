//! From TOML to the shape of a configuration: every problem at once, each with its place, and what would be right.
//!
//! `serde` stops at the first problem. So something else stands in for what cannot be read or is missing, and the file is
//! read again, until all of it can be. Words are for people who write the file: no type of this program is named.

mod deserializer;
mod words;

use std::collections::BTreeSet;

use serde::de::DeserializeOwned;
use toml::{Spanned, de::DeTable};

use self::{
    deserializer::{Node, What, Wrong},
    words::{missing, unknown, wrong as wrong_here},
};
use super::Problem;

/// Problems that are told at most: whoever has more has another kind of file.
const MOST: usize = 100;

/// How often a file is read at most.
const READS: usize = 1_000;

/// A place in a file: names, and `[0]` for an item of a list.
pub(super) type Path = Vec<String>;

/// What became of a file.
#[derive(Debug)]
pub(super) struct Read<T> {
    /// What could be read; none if it is not enough to go on.
    pub(super) value: Option<T>,
    /// What could not be read, each with its place.
    pub(super) problems: Vec<Problem>,
    /// Where that is: what is said of these places besides is not true.
    pub(super) doubtful: BTreeSet<Path>,
}

/// Places that are not read as they are.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// Something else stands there, or in the place of what is missing.
    stood_in: BTreeSet<Path>,
    /// Nothing stands there: the field was left out.
    left_out: BTreeSet<Path>,
}

impl Mended {
    /// The next thing to try; false if there is none.
    fn mend(&mut self, path: Path) -> bool {
        !path.is_empty() && (self.stood_in.insert(path.clone()) || self.left_out.insert(path))
    }

    /// Whether a place is below one that something else stands in for: what is wrong there nobody has written.
    fn is_below(&self, path: &Path) -> bool {
        self.stood_in.iter().any(|stood_in| path.len() > stood_in.len() && path.starts_with(stood_in))
    }
}

/// Reads a file that is TOML.
pub(super) fn read<T: DeserializeOwned>(text: &str, file: &Spanned<DeTable<'_>>) -> Read<T> {
    let (mut mended, mut problems, mut value) = (Mended::default(), Vec::new(), None);
    for _ in 0..READS {
        let wrong = match T::deserialize(Node::root(file, &mended)) {
            Ok(read) => {
                value = Some(read);
                break;
            }
            Err(wrong) => wrong,
        };
        let Wrong { path, at, what } = wrong;
        let line = line(text, at.unwrap_or_default());
        let of = |field: &str| path.iter().cloned().chain([field.to_owned()]).collect::<Path>();
        let is_unknown = matches!(what, What::Unknown { .. });
        let (place, shown, message) = match what {
            // What was left out is missing, and with it its table.
            What::Missing(field) if mended.left_out.contains(&of(field)) => (path, None, String::new()),
            What::Missing(field) => (of(field), Some(joined(&path)), missing(field, line)),
            What::Unknown { field, known } => (of(&field), Some(joined(&of(&field))), unknown(&field, known, line)),
            What::Wanted { wanted, found } => {
                let message = wrong_here(&path, &wanted, &found, line);
                let shown = Some(joined(&path));
                (path, shown, message)
            }
            What::Said(said) => {
                let shown = Some(joined(&path));
                (path, shown, format!("(line {line}) {said}"))
            }
        };
        let is_news = !mended.is_below(&place) && !mended.stood_in.contains(&place);
        if let Some(path) = shown.filter(|_| is_news) {
            problems.push(Problem { path, message });
        }
        let goes_on = if is_unknown { mended.left_out.insert(place) } else { mended.mend(place) };
        if !goes_on || problems.len() >= MOST {
            break;
        }
    }
    let doubtful = mended.stood_in.union(&mended.left_out).cloned().collect();
    Read { value, problems, doubtful }
}

/// Whether something is said of a place that was not read as it is, or of what holds it.
pub(super) fn concerns(doubtful: &BTreeSet<Path>, path: &str) -> bool {
    let parts: Vec<_> = path.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect();
    doubtful.iter().any(|left| {
        let shared = left.iter().zip(&parts).take_while(|(a, b)| a == *b).count();
        shared == left.len().min(parts.len())
    })
}

/// As people write it: the items of a list have their number behind it.
fn joined(path: &Path) -> String {
    let dots = path.iter().enumerate().map(|(n, part)| if n == 0 || part.starts_with('[') { "" } else { "." });
    dots.zip(path).flat_map(|(dot, part)| [dot, part]).collect()
}

fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw::File;

    fn said(text: &str) -> Vec<String> {
        let file = DeTable::parse(text).unwrap();
        read::<File>(text, &file).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once_with_its_line_and_what_would_be_right() {
        let text = "\
[host]
data_plain = '127.0.0.1:80'
webhooks = 'http://a/'
[host.http]
max_connections = -1
[migrations.shop]
deadline = 2
[migrations.shop.operations]
list = { class = 'write' }
get = {}
[migrations.shop.v1]
upstreams = 'http://a:1'
[migrations.shop.v2]
mode = 'concurrent'
workers = -1
command = 'python3 worker.py'
";
        insta::assert_snapshot!(said(text).join("\n"), @r#"
        `host.data_plain` (line 2) is no field; did you mean `data_plane`?
        `host.http.max_connections` (line 5) is `-1`; it must be a whole number from 1 to 1000000
        `host.webhooks` (line 3) is `"http://a/"`; it must be a list, such as `["http://127.0.0.1:9000/hook"]`
        `migrations.shop.deadline` (line 7) is `2`; it must be a span of time, such as `"30s"`
        `migrations.shop.operations.get` (line 10) misses `class`; add it, such as `class = "read"`
        `migrations.shop.operations.list.class` (line 9) is `"write"`; it must be `"read"`, `"replicate"` or `"exclusive"`
        `migrations.shop.v1.upstreams` (line 12) is `"http://a:1"`; it must be a list, such as `["http://127.0.0.1:9001"]`
        `migrations.shop.v2.command` (line 16) is `"python3 worker.py"`; it must be a list, such as `["python3", "worker.py"]`
        `migrations.shop.v2.workers` (line 15) is `-1`; it must be a whole number from 1 to 1024, or a table such as `{ min = 1, max = 4 }`
        "#);
    }

    #[test]
    fn a_table_that_misses_something_is_named_and_not_what_would_be_in_it() {
        assert_eq!(
            said("[migrations.shop]\n"),
            ["`migrations.shop` (line 1) misses `v2`; add it, such as `[migrations.NAME.v2]`"]
        );
        assert_eq!(said("host = 1\n"), ["`host` (line 1) is `1`; it must be a table, such as `[host]`"]);
    }

    #[test]
    fn what_is_said_of_what_was_left_out_is_no_news() {
        let left: BTreeSet<Path> = [vec!["migrations".to_owned(), "shop".into(), "v2".into()]].into();
        assert!(concerns(&left, "migrations.shop.v2.workers") && concerns(&left, "migrations"));
        assert!(!concerns(&left, "migrations.shop.v1") && !concerns(&left, "host.admin"));
    }
}
