//! What counts as failed, checked.

use super::At;
use crate::config::raw::failed::Failed as Raw;
use cutover_traffic::observe::failed::{Failed, Header, Is, Place, Pointer, Statuses};

/// Places that may be looked at for one answer: the body is read for each.
const MAX_PLACES: usize = 16;

/// What counts as failed for HTTP services.
pub(super) fn http(at: &mut At<'_>, raw: &Raw) -> Failed {
    for (name, given) in [("result", &raw.result), ("refusal", &raw.refusal)] {
        if given.is_some() {
            at.field(name).wrong("is for worker pools; say `body` for HTTP services");
        }
    }
    Failed {
        statuses: raw
            .status
            .as_ref()
            .map_or_else(|| Failed::default().statuses, |all| statuses(&mut at.field("status"), all)),
        headers: raw.header.iter().filter_map(|(name, value)| header(&mut at.field("header"), name, value)).collect(),
        body: places(&mut at.field("body"), raw.body.as_ref()),
        slower_than: raw.slower_than.as_ref().map(|text| at.field("slower_than").duration(text, "1ms", "1h")),
        ..Failed::default()
    }
}

/// What counts as failed for worker pools.
pub(super) fn workers(at: &mut At<'_>, raw: &Raw) -> Failed {
    let given = [("status", raw.status.is_some()), ("header", !raw.header.is_empty()), ("body", raw.body.is_some())];
    for (name, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        at.field(name).wrong("is for HTTP services; say `result` or `refusal` for worker pools");
    }
    Failed {
        body: places(&mut at.field("result"), raw.result.as_ref()),
        refusal: places(&mut at.field("refusal"), raw.refusal.as_ref()),
        slower_than: raw.slower_than.as_ref().map(|text| at.field("slower_than").duration(text, "1ms", "1h")),
        ..Failed::default()
    }
}

fn statuses(at: &mut At<'_>, raw: &toml::Value) -> Statuses {
    let mut statuses = Statuses::default();
    let toml::Value::Array(all) = raw else {
        at.wrong("must be a list, such as `[\"5xx\", 429]`");
        return statuses;
    };
    for (n, value) in all.iter().enumerate() {
        match range(value) {
            Some((first, last)) => statuses.add(first, last),
            None => at.field_at(n).wrong(&format!(
                "is `{}`; it must be a status from 100 to 599, a class such as `5xx`, or a range such as `500-503`",
                shown(value)
            )),
        }
    }
    statuses
}

fn range(value: &toml::Value) -> Option<(u16, u16)> {
    let status = |number: i64| u16::try_from(number).ok().filter(|status| (100..=599).contains(status));
    let parse = |text: &str| status(text.parse().ok()?);
    match value {
        toml::Value::Integer(number) => status(*number).map(|status| (status, status)),
        toml::Value::String(text) => match (text.strip_suffix("xx"), text.split_once('-')) {
            (Some(class), _) => parse(&format!("{class}00")).map(|first| (first, first + 99)),
            (None, Some((first, last))) => {
                parse(first.trim()).zip(parse(last.trim())).filter(|(first, last)| first <= last)
            }
            (None, None) => parse(text).map(|status| (status, status)),
        },
        toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_)
        | toml::Value::Table(_) => None,
    }
}

fn header(at: &mut At<'_>, name: &str, value: &str) -> Option<Header> {
    if name.parse::<hyper::header::HeaderName>().is_err() {
        at.wrong(&format!("has `{name}`, which is not the name of a header"));
        return None;
    }
    let begins = value.ends_with('*');
    let value = value.strip_suffix('*').unwrap_or(value).to_owned();
    if value.contains('*') {
        at.field(name).wrong("has a `*` before its end; only one at the end stands for anything");
    }
    Some(Header { name: name.to_ascii_lowercase(), value, begins })
}

fn places(at: &mut At<'_>, raw: Option<&toml::Value>) -> Vec<Place> {
    match raw {
        None => Vec::new(),
        Some(toml::Value::Table(table)) => place(at, table).into_iter().collect(),
        Some(toml::Value::Array(all)) => {
            if all.len() > MAX_PLACES {
                at.wrong(&format!("has {} places; there may be {MAX_PLACES}", all.len()));
            }
            let all = all.iter().enumerate().filter_map(|(n, value)| {
                let mut at = at.field_at(n);
                if value.as_table().is_none() {
                    at.wrong("must be a table, such as `{ pointer = \"/error\" }`");
                }
                place(&mut at, value.as_table()?)
            });
            all.collect()
        }
        Some(_) => {
            at.wrong("must be a table, such as `{ pointer = \"/error\" }`, or a list of such");
            Vec::new()
        }
    }
}

fn place(at: &mut At<'_>, table: &toml::Table) -> Option<Place> {
    for name in table.keys().filter(|name| !["pointer", "is", "equals"].contains(&name.as_str())) {
        at.field(name).wrong("is unknown; there are `pointer`, and `is` or `equals`");
    }
    let pointer = match table.get("pointer") {
        Some(toml::Value::String(text)) => Pointer::parse(text),
        _ => None,
    };
    if pointer.is_none() {
        at.field("pointer").wrong("must be a JSON Pointer (RFC 6901), such as `/error` or `/items/0/state`");
    }
    let is = match (table.get("is").map(|is| is.as_str()), table.get("equals")) {
        (Some(_), Some(_)) => {
            at.wrong("has both `is` and `equals`; leave out one of them");
            None
        }
        (None | Some(Some("present")), None) => Some(Is::Present),
        (Some(Some("absent")), None) => Some(Is::Absent),
        (Some(_), None) => {
            at.field("is").wrong("must be `present` or `absent`; for a value say `equals`");
            None
        }
        (None, Some(toml::Value::Array(all))) => equal(&mut at.field("equals"), all),
        (None, Some(value)) => equal(&mut at.field("equals"), std::slice::from_ref(value)),
    };
    Some(Place { pointer: pointer?, is: is? })
}

fn equal(at: &mut At<'_>, all: &[toml::Value]) -> Option<Is> {
    let scalars = all.iter().map(|value| match value {
        toml::Value::String(text) => Some(text.as_str().into()),
        toml::Value::Integer(number) => Some((*number).into()),
        toml::Value::Float(number) => Some((*number).into()),
        toml::Value::Boolean(is) => Some((*is).into()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    });
    let scalars: Option<Vec<_>> = scalars.collect();
    if scalars.as_ref().is_none_or(Vec::is_empty) {
        at.wrong("must be a text, a number, `true` or `false`, or a list of such");
    }
    scalars.map(Is::Equal)
}

fn shown(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Problem;

    fn read(check: fn(&mut At<'_>, &Raw) -> Failed, text: &str) -> (Failed, Vec<String>) {
        let (raw, mut problems) = (toml::from_str(text).unwrap(), Vec::<Problem>::new());
        let failed = check(&mut At { path: "failed".into(), problems: &mut problems }, &raw);
        (failed, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn statuses_are_numbers_classes_and_ranges() {
        let (failed, problems) = read(http, r#"status = ["5xx", 429, "403", "300 - 302"]"#);
        assert_eq!(problems, Vec::<String>::new());
        let fails: Vec<_> = (100..500).filter(|status| failed.statuses.contains(*status)).collect();
        assert_eq!(fails, [300, 301, 302, 403, 429]);
        assert!(failed.statuses.contains(500) && failed.statuses.contains(599));
        assert_eq!(read(http, "").0, Failed::default());
        assert_eq!(read(http, "status = []").0.statuses, Statuses::default());
    }

    #[test]
    fn fields_places_and_time_are_read() {
        let text = r#"
            header = { X-Error = "*", x-state = "bad" }
            body = [{ pointer = "/error" }, { pointer = "/data", is = "absent" }, { pointer = "/ok", equals = [false, "no"] }]
            slower_than = "2s"
        "#;
        let (failed, problems) = read(http, text);
        assert_eq!(problems, Vec::<String>::new());
        let header = |name: &str, value: &str, begins| Header { name: name.into(), value: value.into(), begins };
        assert_eq!(failed.headers, [header("x-error", "", true), header("x-state", "bad", false)]);
        let is: Vec<_> = failed.body.into_iter().map(|place| place.is).collect();
        assert_eq!(is, [Is::Present, Is::Absent, Is::Equal(vec![json!(false), json!("no")])]);
        assert_eq!(failed.slower_than, Some(std::time::Duration::from_secs(2)));
        let (failed, problems) = read(workers, r#"refusal = { pointer = "/type", equals = "conflict" }"#);
        assert!(problems.is_empty() && failed.body.is_empty() && failed.refusal.len() == 1);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place_and_how_to_mend_it() {
        type Check = fn(&mut At<'_>, &Raw) -> Failed;
        let all: [(Check, &str, &str); 14] = [
            (http, r#"status = "5xx""#, "`failed.status` must be a list"),
            (http, r#"status = ["5xx", 99]"#, "`failed.status[1]` is `99`; it must be a status from 100 to 599"),
            (http, r#"status = ["6xx"]"#, "`failed.status[0]` is `6xx`"),
            (http, r#"status = ["503-500"]"#, "`failed.status[0]` is `503-500`"),
            (http, r#"header = { "a b" = "*" }"#, "`failed.header` has `a b`, which is not the name"),
            (http, r#"header = { x = "a*b" }"#, "`failed.header.x` has a `*` before its end"),
            (http, r#"body = { pointer = "error" }"#, "`failed.body.pointer` must be a JSON Pointer"),
            (http, r#"body = [{ pointer = "/a", is = "here" }]"#, "`failed.body[0].is` must be `present` or `absent`"),
            (http, r#"body = { pointer = "/a", is = "absent", equals = 1 }"#, "`failed.body` has both"),
            (http, r#"body = { pointer = "/a", equals = [] }"#, "`failed.body.equals` must be a text"),
            (http, r#"body = { pointer = "/a", at = 1 }"#, "`failed.body.at` is unknown"),
            (http, r#"slower_than = "2""#, "`failed.slower_than` is `2`; it must be a span of time"),
            (http, r#"refusal = { pointer = "/a" }"#, "`failed.refusal` is for worker pools; say `body`"),
            (workers, "status = [429]", "`failed.status` is for HTTP services; say `result` or `refusal`"),
        ];
        for (check, text, words) in all {
            let (_, problems) = read(check, text);
            assert!(matches!(problems.as_slice(), [one] if one.starts_with(words)), "{text}: {problems:?}");
        }
    }
}
