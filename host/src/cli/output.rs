//! The only place that writes to the terminal, but for the log. What others said is shown and does nothing: see [`escape`].

use std::io::{self, Write};

use serde::Serialize;

use cutover_model::escape;

/// One line on standard output. A reader that has gone away is not an error.
pub(super) fn line(text: &str) {
    write(io::stdout().lock(), &escape::line(text));
}

/// Lines on standard output that were put together of lines.
pub(super) fn block(text: &str) {
    write(io::stdout().lock(), &escape::block(text));
}

/// Where many lines go that are ready to be written.
pub(super) fn lines() -> impl Write {
    io::BufWriter::new(io::stdout().lock())
}

/// One JSON document on standard output.
pub(super) fn json(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => write(io::stdout().lock(), &escape::json(&text)),
        Err(failure) => error(&failure.to_string()),
    }
}

/// One line on standard error.
pub(super) fn note(text: &str) {
    write(io::stderr().lock(), &escape::line(text));
}

/// An error on standard error: mostly one line, but a configuration has several problems, and its parser shows where.
pub(super) fn error(message: &str) {
    write(io::stderr().lock(), &escape::block(&format!("cutover: {message}")));
}

fn write(mut to: impl Write, text: &str) {
    drop(writeln!(to, "{text}"));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Any text, and often what does something.
    fn hostile() -> impl Strategy<Value = String> {
        let harmful = proptest::sample::select(&escape::HARMFUL[..]);
        proptest::collection::vec(prop_oneof![any::<char>(), harmful], 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn nobody_writes_a_second_line_to_the_terminal(text in hostile()) {
            let mut out = Vec::new();
            write(&mut out, &escape::line(&text));
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.strip_suffix('\n').unwrap().contains(escape::is_harmful));
        }
    }
}
