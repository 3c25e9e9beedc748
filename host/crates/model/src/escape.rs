//! Text of others is text: names, findings, errors and reasons come from policies, workers, upstreams and people, and
//! whoever reads them must not be shown what was not said.
//!
//! What ends a line, moves a cursor, turns the direction of writing or cannot be seen is written out as `\n` or `\u{202e}`
//! where it is printed, logged or sent; it is kept as it is where it is data, as in answers of the admin plane, which are
//! JSON. A line is a line: nobody can write a second one.

use std::borrow::Cow;

/// Whether a character does something to the text around it, or cannot be seen: controls (C0, C1, DEL), line and paragraph
/// separators, and of the format characters those that turn the direction (UAX #9), are invisible or tag.
pub const fn is_harmful(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}'
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}'
        | '\u{ad}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}')
}

/// Text as a part of one line.
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_harmful, |c, out| {
        // As Rust writes it: `\n`, `\u{202e}`.
        for part in c.escape_default() {
            out.push(part);
        }
    })
}

/// Text of several lines that we have put together ourselves, of parts that are lines.
pub fn block(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_harmful(c) && !matches!(c, '\n' | '\t'), |c, out| out.extend(c.escape_default()))
}

/// A JSON document: what would do something is written as JSON can write it, so that it reads as the same.
pub fn json(document: &str) -> Cow<'_, str> {
    escaped(
        document,
        |c| is_harmful(c) && c != '\n',
        |c, out| {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        },
    )
}

/// Text as a part of one line, of at most `most` bytes before it is escaped.
pub fn line_of(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    let (kept, left) = text.split_at(end);
    let mut shown = line(kept).into_owned();
    if !left.is_empty() {
        shown = format!("{shown}.. ({} bytes more)", left.len());
    }
    shown
}

fn escaped(text: &str, is_wrong: impl Fn(char) -> bool, write: impl Fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(&is_wrong) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_wrong(c) { write(c, &mut out) } else { out.push(c) }
    }
    out.into()
}

/// One of each kind of character that does something where text is shown: what texts of strangers are tried with.
pub const HARMFUL: [char; 15] = [
    '\n',
    '\r',
    '\t',
    '\0',
    '\u{1b}',
    '\u{7f}',
    '\u{85}',
    '\u{9b}',
    '\u{202e}',
    '\u{2066}',
    '\u{2028}',
    '\u{feff}',
    '\u{e0041}',
    '\\',
    '"',
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_do_something_is_written_out() {
        assert_eq!(line("a\nb\r\tc\u{1b}[2J\u{202e}d\u{2028}"), "a\\nb\\r\\tc\\u{1b}[2J\\u{202e}d\\u{2028}");
        assert_eq!(block("a\n\tb\u{1b}"), "a\n\tb\\u{1b}");
        assert_eq!(
            line("grüße, 你好, שלום \u{1f469}\u{200d}\u{1f680}"),
            "grüße, 你好, שלום \u{1f469}\u{200d}\u{1f680}"
        );
        assert_eq!(line_of("aaaé", 4), "aaa.. (2 bytes more)");
    }

    /// Any text, and often what does something.
    fn hostile() -> impl Strategy<Value = String> {
        let harmful = proptest::sample::select(&HARMFUL[..]);
        proptest::collection::vec(prop_oneof![any::<char>(), harmful], 0..40).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn a_line_is_a_line_and_harmless_text_stays_as_it_is(text in hostile()) {
            let shown = line(&text);
            prop_assert!(!shown.contains(is_harmful));
            prop_assert_eq!(line(&shown), &*shown, "what was shown is shown again as it is");
            if !text.contains(is_harmful) {
                prop_assert_eq!(&*shown, &*text);
            }
            prop_assert!(block(&text).chars().all(|c| !is_harmful(c) || matches!(c, '\n' | '\t')));
        }

        #[test]
        fn a_json_document_reads_as_the_same(text in hostile()) {
            let document = serde_json::to_string_pretty(&serde_json::json!({ "a": [text] })).unwrap();
            let shown = json(&document);
            prop_assert!(shown.chars().all(|c| !is_harmful(c) || c == '\n'));
            let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
            prop_assert_eq!(read, serde_json::from_str::<serde_json::Value>(&document).unwrap());
        }
    }
}
