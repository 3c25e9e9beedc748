//! The head of a request, as routing looks at it.

use std::{fmt, sync::Arc};

use hyper::header::HeaderName;

use crate::message::{Fields, RequestHead};
use cutover_model::{
    clock::Mono,
    request::{Attribute, Attributes, Head, Home, Request},
};

/// Where the sticky key of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionKey {
    /// In the header of this name.
    Header(HeaderName),
    /// In the cookie of this name.
    Cookie(String),
}

/// A request's head and what was found out about it.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names and types of the other fields say what they are")]
pub struct View<'a> {
    pub head: &'a RequestHead,
    /// Its path, in normal form if it has one.
    pub path: &'a str,
    pub id: &'a str,
    pub operation: &'a Arc<str>,
    /// The sticky key; `None` if the request has none.
    pub session: Option<&'a str>,
    /// Where its session stays; `None` if sessions do not stay or this one is new.
    pub home: Option<Home>,
}

impl SessionKey {
    /// From a configuration: `header:NAME` or `cookie:NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix("header:") {
            return name.parse().ok().map(Self::Header);
        }
        let name = text.strip_prefix("cookie:")?;
        let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && !b"=;,\"\\".contains(&b));
        is_token.then(|| Self::Cookie(name.to_owned()))
    }

    /// The sticky key, if the request has it here.
    pub fn of<'a>(&self, fields: &'a Fields) -> Option<&'a str> {
        let found = match self {
            Self::Header(name) => fields.text(name.as_str()),
            Self::Cookie(name) => {
                let pairs = fields.texts("cookie").flat_map(|text| text.split(';'));
                let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
                pairs.find(|(key, _)| key == name).map(|(_, value)| value.trim_matches('"'))
            }
        };
        found.filter(|text| !text.is_empty())
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl View<'_> {
    /// The host that the caller asked for.
    fn host(&self) -> &str {
        self.head.fields.text("host").unwrap_or_default()
    }

    /// A copy that outlives the request.
    pub fn copy(&self) -> Request {
        let head = Head {
            method: self.head.method.to_string(),
            path: self.path.to_owned(),
            host: self.host().to_owned(),
            headers: self.head.fields.all_text().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        };
        Request {
            id: self.id.into(),
            operation: Arc::clone(self.operation),
            session: self.session.map(Arc::from),
            arguments: Arc::default(),
            deadline: Mono::default(),
            head: Arc::new(head),
        }
    }
}

impl Attributes for View<'_> {
    fn id(&self) -> &str {
        self.id
    }

    fn operation(&self) -> &str {
        self.operation
    }

    fn attribute(&self, attribute: &Attribute) -> Option<&str> {
        let text = match attribute {
            Attribute::Operation => self.operation,
            Attribute::Session => self.session?,
            Attribute::Method => self.head.method.as_str(),
            Attribute::Path => self.path,
            Attribute::Host => self.host(),
            Attribute::Header(name) => self.head.fields.text(name)?,
        };
        (!text.is_empty()).then_some(text)
    }

    fn home(&self) -> Option<Home> {
        self.home
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_keys_are_headers_and_cookies() {
        let mut fields = Fields::default();
        fields.add("x-session-id", "s1");
        fields.add("cookie", "theme=dark; sid=\"abc\"");
        fields.add("cookie", "other=1");
        let of = |text: &str| SessionKey::parse(text).unwrap().of(&fields).map(str::to_owned);
        assert_eq!(of("header:X-Session-Id").as_deref(), Some("s1"));
        assert_eq!(of("cookie:sid").as_deref(), Some("abc"));
        assert_eq!(of("cookie:other").as_deref(), Some("1"));
        assert_eq!((of("cookie:nothing"), of("header:nothing")), (None, None));
        for wrong in ["sid", "cookie:", "cookie:a=b", "header:", "header:a b", "query:x"] {
            assert_eq!(SessionKey::parse(wrong), None, "{wrong}");
        }
    }
}
