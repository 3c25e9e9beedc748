//! The only place that writes to the terminal, but for the log.

use std::{
    borrow::Cow,
    io::{self, Write},
};

use serde::Serialize;

/// One line on standard output. A reader that has gone away is not an error.
pub(super) fn line(text: &str) {
    drop(writeln!(io::stdout().lock(), "{}", harmless(text)));
}

/// Where many lines go that are ready to be written.
pub(super) fn lines() -> impl Write {
    io::BufWriter::new(io::stdout().lock())
}

/// One JSON document on standard output.
pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(failure) => error(&failure.to_string()),
    }
}

/// One line on standard error.
pub(super) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", harmless(text)));
}

/// An error on standard error.
pub(super) fn error(message: &str) {
    note(&format!("cutover: {message}"));
}

/// Text that a terminal shows and does not obey: findings, names and errors come from policies.
fn harmless(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(is_harmful) { text.replace(is_harmful, "\u{fffd}").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_a_policy_says() {
        assert_eq!(harmless("a\tb\nc \u{e9}"), "a\tb\nc \u{e9}");
        assert_eq!(harmless("\u{1b}]0;title\u{7}\u{9b}2J\r"), "\u{fffd}]0;title\u{fffd}\u{fffd}2J\u{fffd}");
    }
}
