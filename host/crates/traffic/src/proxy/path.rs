//! The normal form of a path, by which requests are matched to operations and migrations. Pure.
//!
//! Most services take many spellings for one path: `/a//b`, `/a/./b`, `/%61/b`. The host matches them in one form, that
//! of RFC 3986, 6.2.2 with slashes merged; upstreams get the path as it came. A path that services read in different
//! ways, such as one with an encoded slash, has no normal form ([`Ambiguous`]), and the host concludes nothing from it.

use std::{borrow::Cow, fmt::Write as _};

/// Why a path can be read in more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// `%2f` is a slash to some and a part of a name to others.
    #[error("it has an encoded slash")]
    Slash,
    /// So is a backslash, encoded or not.
    #[error("it has a backslash")]
    Backslash,
    /// `;a=b` belongs to the name, or does not.
    #[error("it has `;`, which begins a parameter to some services")]
    Parameter,
    /// A control character, which ends a name to some; encoded or not.
    #[error("it has a control character")]
    Control,
    /// A `%` without two hexadecimal digits, or bytes that some take for another way to write ASCII.
    #[error("it has a percent-encoding that is none")]
    Encoding,
    /// More `..` than there are segments, or `..` after an empty segment, which is one to some.
    #[error("its `..` lead to different places, or above the root")]
    Dots,
}

/// The normal form of a path, apart from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Form {
    /// The path is in normal form already.
    #[default]
    Same,
    /// The normal form, which differs from the path.
    Other(Box<str>),
    /// The path has no normal form, because it can be read in two ways.
    None(Ambiguous),
}

impl Form {
    /// Finds the normal form of a path.
    pub fn of(path: &str) -> Self {
        match normal(path) {
            Ok(Cow::Borrowed(_)) => Self::Same,
            Ok(Cow::Owned(other)) => Self::Other(other.into()),
            Err(why) => Self::None(why),
        }
    }

    /// The form, of the path that it is of.
    ///
    /// # Errors
    /// Why there is none.
    pub fn path<'a>(&'a self, path: &'a str) -> Result<&'a str, Ambiguous> {
        match self {
            Self::Same => Ok(path),
            Self::Other(other) => Ok(other),
            Self::None(why) => Err(*why),
        }
    }

    /// The same, or the path as it came if it has none.
    pub fn or_as_it_came<'a>(&'a self, path: &'a str) -> &'a str {
        self.path(path).unwrap_or(path)
    }
}

/// The one form of a path; it itself if it has that already. A target that is no path, such as `*`, stays as it is.
///
/// # Errors
/// Why it has none.
pub fn normal(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    if is_normal(path.as_bytes()) || !path.starts_with('/') {
        return Ok(Cow::Borrowed(path));
    }
    let text = decode(path.as_bytes())?;
    segments(&text).map(Cow::Owned)
}

/// Whether nothing in it needs a closer look: it is that of nearly all requests.
fn is_normal(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        match byte {
            b'/' | b'.' if after_slash => return false,
            b'%' | b';' | b'\\' | ..=b' ' | 0x7f.. => return false,
            _ => after_slash = byte == b'/',
        }
    }
    true
}

/// Decodes what needs no encoding, and writes what does in one way.
fn decode(path: &[u8]) -> Result<String, Ambiguous> {
    let mut text = String::with_capacity(path.len());
    let mut rest = path.iter().copied();
    while let Some(byte) = rest.next() {
        let (byte, is_encoded) = if byte == b'%' {
            let digits = (rest.next().and_then(digit), rest.next().and_then(digit));
            let (Some(high), Some(low)) = digits else { return Err(Ambiguous::Encoding) };
            (high << 4 | low, true)
        } else {
            (byte, false)
        };
        match byte {
            b'\\' => return Err(Ambiguous::Backslash),
            b'/' if is_encoded => return Err(Ambiguous::Slash),
            b';' => return Err(Ambiguous::Parameter),
            ..=0x1f | 0x7f => return Err(Ambiguous::Control),
            // They begin nothing in UTF-8 but longer ways to write ASCII.
            0xc0 | 0xc1 => return Err(Ambiguous::Encoding),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(byte)),
            b'!'..=b'~' if !is_encoded => text.push(char::from(byte)),
            // Writing to a text cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    Ok(text)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Merges slashes, and goes where dots lead.
fn segments(path: &str) -> Result<String, Ambiguous> {
    let mut kept: Vec<&str> = Vec::new();
    let mut has_empty = false;
    let mut all = path.split('/').skip(1).peekable();
    let mut ends_with_slash = false;
    while let Some(segment) = all.next() {
        let is_last = all.peek().is_none();
        ends_with_slash = is_last && matches!(segment, "" | "." | "..");
        match segment {
            "" => has_empty |= !is_last,
            ".." if has_empty || kept.pop().is_none() => return Err(Ambiguous::Dots),
            "." | ".." => {}
            name => kept.push(name),
        }
    }
    let end = if ends_with_slash && !kept.is_empty() { "/" } else { "" };
    Ok(format!("/{}{end}", kept.join("/")))
}

/// A normal path as services read it that ignore case, and a slash at its end; none if it is that already.
pub fn folded(path: &str) -> Option<String> {
    let short = path.strip_suffix('/').filter(|short| !short.is_empty()).unwrap_or(path);
    let differs = short.len() < path.len() || short.bytes().any(|byte| byte.is_ascii_uppercase());
    differs.then(|| short.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_path_are_one() {
        for (path, is) in [
            ("/api/purge", "/api/purge"),
            ("/api//purge", "/api/purge"),
            ("//api///purge", "/api/purge"),
            ("/api/./purge", "/api/purge"),
            ("/api/x/../purge", "/api/purge"),
            ("/api/%70urge", "/api/purge"),
            ("/api/%2e%2E/api/purge", "/api/purge"),
            ("/api/purge/", "/api/purge/"),
            ("/api/purge/.", "/api/purge/"),
            ("/api/purge/x/..", "/api/purge/"),
            ("/", "/"),
            ("//", "/"),
            ("/a/..", "/"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/café", "/caf%C3%A9"),
            ("/a%20b%7Ec", "/a%20b~c"),
            ("/%2540", "/%2540"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/a:b@c,d=e!$&'()*+", "/a:b@c,d=e!$&'()*+"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(is), "{path}");
        }
        assert!(matches!(normal("/api/purge/7.json"), Ok(Cow::Borrowed(_))), "nothing is copied");
    }

    #[test]
    fn what_can_be_read_in_two_ways_has_no_form() {
        for (path, why) in [
            ("/api%2fpurge", Ambiguous::Slash),
            ("/api/..%2Fpurge", Ambiguous::Slash),
            ("/api\\purge", Ambiguous::Backslash),
            ("/api%5cpurge", Ambiguous::Backslash),
            ("/api/purge;a=b", Ambiguous::Parameter),
            ("/api/..;/purge", Ambiguous::Parameter),
            ("/api/purge%3Ba", Ambiguous::Parameter),
            ("/api/purge%00", Ambiguous::Control),
            ("/api/purge%0a", Ambiguous::Control),
            ("/api/purge%7F", Ambiguous::Control),
            ("/api/%", Ambiguous::Encoding),
            ("/api/%7", Ambiguous::Encoding),
            ("/api/%zz", Ambiguous::Encoding),
            ("/api/%+1", Ambiguous::Encoding),
            ("/api%c0%afpurge", Ambiguous::Encoding),
            ("/..", Ambiguous::Dots),
            ("/a/../../b", Ambiguous::Dots),
            ("/a//../b", Ambiguous::Dots),
        ] {
            assert_eq!(normal(path), Err(why), "{path}");
        }
    }

    #[test]
    fn case_and_a_slash_at_the_end_can_be_ignored() {
        assert_eq!(folded("/api/PURGE").as_deref(), Some("/api/purge"));
        assert_eq!(folded("/api/purge/").as_deref(), Some("/api/purge"));
        assert_eq!((folded("/api/purge"), folded("/")), (None, None));
    }

    proptest! {
        #[test]
        fn a_normal_path_is_its_own_form(path in "/([a-z./%;\\\\é]|%[0-9a-fA-F]{2}){0,12}") {
            if let Ok(once) = normal(&path) {
                let twice = normal(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(once.starts_with('/') && !once.contains("//") && !once.contains("/../"), "{}", once);
            }
        }

        #[test]
        fn any_letter_may_be_encoded(path in "/[a-z0-9._~-]{1,8}(/[a-z0-9_~-]{1,8}){0,3}", at in any::<prop::sample::Index>()) {
            let at = at.index(path.len());
            let byte = path.as_bytes()[at];
            prop_assume!(byte != b'/');
            let encoded = format!("{}%{byte:02x}{}", &path[..at], &path[at + 1..]);
            prop_assert_eq!(normal(&encoded), normal(&path));
        }
    }
}
