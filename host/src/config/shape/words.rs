//! What is said of a field that cannot be read: what would be right there, with an example.

use strsim::damerau_levenshtein;

use super::deserializer::Wanted;

/// Fields that take a span of time.
const SPANS: [&str; 44] = [
    "least_soak",
    "backoff",
    "body_timeout",
    "check_interval",
    "close",
    "compile_time",
    "connect_timeout",
    "cool_down",
    "deadline",
    "decide_time",
    "drain_timeout",
    "exponential",
    "header_timeout",
    "health_interval",
    "health_timeout",
    "idle_timeout",
    "interval",
    "keep_alive",
    "keep_history",
    "keep_metrics",
    "keep_policy_log",
    "lasts",
    "linear",
    "longest",
    "min_rate_grace",
    "no_record",
    "no_stages",
    "no_verdict",
    "open_for",
    "overflow_idle",
    "send_timeout",
    "shadow_timeout",
    "slower_than",
    "start_timeout",
    "stream_timeout",
    "term",
    "time",
    "timeout",
    "total_timeout",
    "wait_above",
    "window",
    "within",
    "soak",
    "complete_after",
];

/// Fields that take a share.
const SHARES: [&str; 6] = ["approval_over", "first_share", "from", "holdback", "largest_step", "share"];

/// Whole numbers and what they may be, by the end of their paths.
const NUMBERS: [(&str, &str); 28] = [
    ("admin_plane.max_connections", "4 to 10000"),
    ("caller_share", "1 to 100"),
    ("max_pending", "1 to 1000000"),
    ("min_rate", "0 to 1073741824"),
    ("request_buffer", "0 to 16777216"),
    ("trusted_hops", "1 to 16"),
    ("workers.min", "1 to 1024"),
    ("workers.max", "1 to 1024"),
    ("workers.overflow", "0 to 1024"),
    ("failover_reserve", "0 to 99"),
    ("shadow_budget", "0 on, such as 16"),
    ("http.threads", "1 to 256"),
    ("http.max_connections", "1 to 1000000"),
    ("max_requests", "1 to 1000000"),
    ("max_connections", "1 to 1000000"),
    ("queue.most", "0 to 1000000"),
    ("ejection.most", "0 to 100"),
    ("retry_budget", "0 to 100"),
    ("restarts.count", "0 to 10000"),
    ("policy_failures.count", "1 to 10000"),
    ("health_failures", "1 on, such as 3"),
    ("retries", "0 to 100"),
    ("optimizer.grow_above", "1 to 100"),
    ("optimizer.shrink_below", "0 to 50"),
    ("optimizer.max_overflow", "0 to 1024"),
    ("warm_up.stage", "1 to 1024"),
    ("rate_limit.burst", "1 to 1000000"),
    ("v1_errors", "1 to 100"),
];

/// Other fields, by the end of their paths, as they are written.
const EXAMPLES: [(&str, &str); 35] = [
    ("host.data_plane", "\"127.0.0.1:8080\""),
    ("host.admin", "\"127.0.0.1:8081\""),
    ("host.store", "\"cutover.db\""),
    ("webhooks", "[\"http://127.0.0.1:9000/hook\"]"),
    ("admin_hosts", "[\"admin.example.com\"]"),
    ("class", "\"read\""),
    ("command", "[\"python3\", \"worker.py\"]"),
    ("methods", "[\"GET\"]"),
    ("upstreams", "[\"http://127.0.0.1:9001\"]"),
    ("session", "[\"header:x-session-id\"]"),
    ("match", "[{ host = \"*\", path = \"/api\" }]"),
    ("path", "\"/api/orders/{id}\""),
    ("mode", "\"concurrent\""),
    ("workers", "4"),
    ("operation", "\"execute\""),
    ("bundle", "\"policies/sequential\""),
    ("environment", "{ MODE = \"fast\" }"),
    ("settings", "{ slow_floor = \"50ms\" }"),
    ("certificate", "\"chain.pem\""),
    ("key", "\"key.pem\""),
    ("keys", "[{ name = \"ops\", public_key = \"..\" }]"),
    ("client_ca", "\"clients.pem\""),
    ("client_auth", "\"require\""),
    ("client_subject_header", "\"x-client-subject\""),
    ("client_cert_header", "\"client-cert\""),
    ("client_cert", "\"client.pem\""),
    ("client_key", "\"client-key.pem\""),
    ("proxy_protocol_from", "[\"10.0.0.0/8\"]"),
    ("proxy_protocol", "\"v2\""),
    ("rate_limit", "{ rate = \"100/s\" }"),
    ("rate", "\"100/s\""),
    ("per", "\"address\""),
    ("remove", "[\"server\"]"),
    ("set", "{ x-environment = \"blue\" }"),
    ("calls", "[{ operation = \"load_model\" }]"),
];

/// That a table misses a field.
pub(super) fn missing(field: &str, line: usize) -> String {
    let example = match field {
        "v1" | "v2" => format!("[migrations.NAME.{field}]"),
        _ => format!("{field} = {}", example(&[field.to_owned()]).unwrap_or_else(|| "..".into())),
    };
    format!("(line {line}) misses `{field}`; add it, such as `{example}`")
}

/// That a table has a field that nobody knows.
pub(super) fn unknown(field: &str, known: &[&str], line: usize) -> String {
    let near = known.iter().map(|name| (damerau_levenshtein(field, name), *name)).min();
    match near.filter(|(distance, _)| *distance <= 1 + field.len() / 3) {
        Some((_, name)) => format!("(line {line}) is no field; did you mean `{name}`?"),
        None if known.is_empty() => format!("(line {line}) is no field; nothing may stand there"),
        None => {
            let known: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
            format!("(line {line}) is no field; there are {}", known.join(", "))
        }
    }
}

/// That something else was to be there.
pub(super) fn wrong(path: &[String], wanted: &Wanted, found: &str, line: usize) -> String {
    format!("(line {line}) is `{found}`; it must be {}", right(path, wanted))
}

fn right(path: &[String], wanted: &Wanted) -> String {
    let field = path.last().map(String::as_str).unwrap_or_default();
    let such_as = |what: &str, otherwise: &str| {
        format!("{what}, such as `{}`", example(path).unwrap_or_else(|| otherwise.to_owned()))
    };
    match wanted {
        Wanted::Text if SPANS.contains(&field) => "a span of time, such as `\"30s\"`".into(),
        Wanted::Text if SHARES.contains(&field) => "a share, such as `\"5%\"`".into(),
        Wanted::Text => such_as("text in quotes", "\"..\""),
        Wanted::Whole => {
            let numbers = NUMBERS.iter().find(|(end, _)| ends(path, end)).map(|(_, numbers)| *numbers);
            numbers.map_or_else(
                || "a whole number, such as `10`".into(),
                |numbers| format!("a whole number from {numbers}"),
            )
        }
        Wanted::Number => "a number, such as `0.5`".into(),
        Wanted::Flag => "`true` or `false`".into(),
        Wanted::List => such_as("a list", "[\"..\"]"),
        Wanted::Table => match example(path) {
            Some(example) => format!("a table, such as `{example}`"),
            None => format!("a table, such as `[{}]`", path.join(".")),
        },
        Wanted::OneOf(names) => {
            let mut names: Vec<_> = names.iter().map(|name| format!("`\"{name}\"`")).collect();
            let last = names.pop().unwrap_or_default();
            if names.is_empty() { last } else { format!("{} or {last}", names.join(", ")) }
        }
        Wanted::Words(words) => words.clone(),
    }
}

fn example(path: &[String]) -> Option<String> {
    EXAMPLES.iter().find(|(end, _)| ends(path, end)).map(|(_, example)| (*example).to_owned())
}

/// Whether a path ends so: whole names.
fn ends(path: &[String], end: &str) -> bool {
    let names: Vec<_> = end.split('.').collect();
    path.len() >= names.len() && path.iter().skip(path.len() - names.len()).zip(names).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_told_or_all_that_there_are() {
        let known = ["deadline", "check_interval", "salt"];
        assert_eq!(unknown("dead_line", &known, 3), "(line 3) is no field; did you mean `deadline`?");
        assert_eq!(
            unknown("timeout", &known, 3),
            "(line 3) is no field; there are `deadline`, `check_interval`, `salt`"
        );
    }

    #[test]
    fn a_number_is_told_by_the_longest_end_of_its_path() {
        let path = |text: &str| text.split('.').map(ToOwned::to_owned).collect::<Vec<_>>();
        assert_eq!(right(&path("host.http.threads"), &Wanted::Whole), "a whole number from 1 to 256");
        assert_eq!(right(&path("m.v2.workers.min"), &Wanted::Whole), "a whole number from 1 to 1024");
    }
}
