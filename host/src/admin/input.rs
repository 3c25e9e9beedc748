//! What requests bring: parts of the path, the query, and the body. What cannot be used is refused as everything else that
//! this plane refuses: with JSON that says what, where and how to mend it, and no names of the code behind it.

use axum::{
    body::Bytes,
    extract::{
        FromRequest, FromRequestParts, Request,
        path::ErrorKind,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts},
};
use serde::de::DeserializeOwned;

use super::{MAX_BODY, Refusal};

/// Parts of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

/// The query, as an object of its fields.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The body: a JSON object.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(parts)) => Ok(Self(parts)),
            Err(rejection) => Err(Refusal::new(StatusCode::BAD_REQUEST, in_path(rejection))),
        }
    }
}

fn in_path(rejection: PathRejection) -> String {
    let PathRejection::FailedToDeserializePathParams(failed) = rejection else {
        return "the path cannot be read".into();
    };
    match failed.into_kind() {
        // Whatever is not text is a number.
        ErrorKind::ParseErrorAtKey { value, .. }
        | ErrorKind::ParseErrorAtIndex { value, .. }
        | ErrorKind::ParseError { value, .. } => format!("the path has `{}`, which is not a number", shown(&value)),
        ErrorKind::DeserializeError { value, message, .. } => format!("the path has `{}`: {message}", shown(&value)),
        ErrorKind::InvalidUtf8InPathParam { key } => format!("`{key}` in the path is not UTF-8"),
        ErrorKind::WrongNumberOfParameters { .. } | ErrorKind::UnsupportedType { .. } | ErrorKind::Message(_) | _ => {
            "the path cannot be read".into()
        }
    }
}

/// As much of a value as a sentence can hold.
fn shown(value: &str) -> String {
    value.chars().take(100).collect()
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(rejection) => Err(Refusal::new(StatusCode::BAD_REQUEST, in_query(&rejection))),
        }
    }
}

fn in_query(rejection: &QueryRejection) -> String {
    // The innermost error names field and value; those around it, the extractor.
    let mut innermost: &dyn std::error::Error = rejection;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    format!("the query cannot be used: {innermost}")
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        if !is_json(request.headers()) {
            let message = "the body must be JSON, and its `content-type` `application/json`";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message.into()));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {MAX_BODY} bytes"))
            }
            _ => Refusal::new(StatusCode::BAD_REQUEST, "the body broke off".into()),
        })?;
        object(&body).map(Self).map_err(|message| Refusal::new(StatusCode::BAD_REQUEST, message))
    }
}

/// `application/json`, or a type that is written in JSON (RFC 6839, 3.1).
fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json")
}

/// Reads a JSON object. An array would be taken for its fields in their order.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => return Err("the body must be a JSON object: `{\"name\": value, ..}`".into()),
        None => return Err("the body is empty; it must be a JSON object".into()),
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let at = if path == "." { String::new() } else { format!("`{path}`: ") };
        format!("the body cannot be used: {at}{}", error.inner())
    })?;
    json.end().map_err(|error| format!("the body has something after its object: {error}"))?;
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        reason: String,
        #[serde(default)]
        within: Option<Inner>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        limit: u32,
    }

    #[test]
    fn a_body_is_one_object_and_what_is_wrong_is_named_with_its_place() {
        let wrong = |body: &str| object::<Asked>(body.as_bytes()).unwrap_err();
        assert!(wrong("").contains("is empty") && wrong(" \n").contains("is empty"));
        assert!(wrong(r#"["because"]"#).contains("must be a JSON object"));
        assert!(wrong("{}").contains("missing field `reason`"));
        assert!(wrong(r#"{"reason":1}"#).contains("`reason`: invalid type: integer `1`, expected a string"));
        let deep = wrong(r#"{"reason":"x","within":{"limit":-1}}"#);
        assert!(deep.contains("`within.limit`: invalid value"), "{deep}");
        let unknown = wrong(r#"{"reason":"x","reasons":1}"#);
        assert!(unknown.contains("unknown field `reasons`, expected `reason` or `within`"), "{unknown}");
        assert!(wrong(r#"{"reason":"x"} {}"#).contains("after its object"));
        assert!(wrong(r#"{"reason":"#).contains("EOF"));
        assert_eq!(object::<Asked>(br#" {"reason":"x"} "#), Ok(Asked { reason: "x".into(), within: None }));
    }

    #[test]
    fn media_types_that_are_json() {
        let is = |text: &'static str| is_json(&HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]));
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"] {
            assert!(is(json), "{json}");
        }
        for other in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            assert!(!is(other), "{other}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
