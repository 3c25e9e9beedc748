//! Families of metrics as text: as Prometheus has it (version 0.0.4), which is what tools such as `promtool` read, and as
//! `OpenMetrics` has it (version 1.0), for whoever asks for that.

use std::fmt::{self, Write as _};

/// Bounds of histograms of latency in microseconds; one more has what is above.
pub(super) const BOUNDS_US: [u64; 16] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// How metrics are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own text format, version 0.0.4.
    Prometheus,
    /// `OpenMetrics`.
    OpenMetrics,
}

impl Format {
    /// What whoever sends this `Accept` reads.
    pub fn wanted(accept: Option<&str>) -> Self {
        let is_asked = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if is_asked { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The media type of the text.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// One sample's labels.
pub(super) type Labels = Vec<(&'static str, String)>;

/// What a sample has.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Counter(u64),
    /// A counter that is no whole number.
    Sum(f64),
    Gauge(f64),
    /// Calls at most so long as each of [`BOUNDS_US`], all calls, and how long they took together, in seconds.
    Histogram([u64; BOUNDS_US.len()], u64, f64),
}

/// All samples of a name.
#[derive(Debug)]
pub(super) struct Family {
    /// The metric's name without `_total`, which counters get where they are written.
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) samples: Vec<(Labels, Value)>,
}

impl Family {
    pub(super) fn write(&self, out: &mut String, format: Format) -> fmt::Result {
        let Some((_, first)) = self.samples.first() else { return Ok(()) };
        let kind = match first {
            Value::Counter(_) | Value::Sum(_) => "counter",
            Value::Gauge(_) => "gauge",
            Value::Histogram(..) => "histogram",
        };
        let counted = if kind == "counter" { "_total" } else { "" };
        let of_family = if format == Format::Prometheus { counted } else { "" };
        let name = self.name;
        writeln!(out, "# HELP {name}{of_family} {}.", self.help)?;
        writeln!(out, "# TYPE {name}{of_family} {kind}")?;
        for (labels, value) in &self.samples {
            match value {
                Value::Counter(count) => sample(out, name, counted, labels, None, count)?,
                Value::Sum(sum) => sample(out, name, counted, labels, None, sum)?,
                Value::Gauge(value) => sample(out, name, "", labels, None, value)?,
                Value::Histogram(at_most, all, seconds) => {
                    for (bound, count) in BOUNDS_US.iter().zip(at_most) {
                        let bound = super::seconds(*bound).to_string();
                        sample(out, name, "_bucket", labels, Some(&bound), count)?;
                    }
                    sample(out, name, "_bucket", labels, Some("+Inf"), all)?;
                    sample(out, name, "_sum", labels, None, seconds)?;
                    sample(out, name, "_count", labels, None, all)?;
                }
            }
        }
        Ok(())
    }
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &Labels,
    bound: Option<&str>,
    value: &impl fmt::Display,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let all = labels.iter().map(|(label, value)| (*label, value.as_str())).chain(bound.map(|bound| ("le", bound)));
    for (n, (label, value)) in all.enumerate() {
        write!(out, "{}{label}=\"", if n == 0 { '{' } else { ',' })?;
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
    writeln!(out, "{close} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(value: Value) -> Family {
        let labels = vec![("operation", "a \"b\"\\\nc".to_owned())];
        Family { name: "x_calls", help: "Calls", samples: vec![(labels, value)] }
    }

    fn written(family: &Family, format: Format) -> String {
        let mut out = String::new();
        family.write(&mut out, format).unwrap();
        out
    }

    #[test]
    fn a_counter_is_called_total_where_the_format_says_so() {
        let family = family(Value::Counter(3));
        let sample = "x_calls_total{operation=\"a \\\"b\\\"\\\\\\nc\"} 3\n";
        let prometheus = "# HELP x_calls_total Calls.\n# TYPE x_calls_total counter\n";
        assert_eq!(written(&family, Format::Prometheus), format!("{prometheus}{sample}"));
        let open = "# HELP x_calls Calls.\n# TYPE x_calls counter\n";
        assert_eq!(written(&family, Format::OpenMetrics), format!("{open}{sample}"));
        assert_eq!(Format::wanted(Some("application/openmetrics-text;version=1.0.0,*/*")), Format::OpenMetrics);
        assert_eq!(Format::wanted(Some("*/*")), Format::Prometheus);
    }

    #[test]
    fn a_histogram_has_its_bounds_in_seconds_and_all_above_them() {
        let mut at_most = [0; BOUNDS_US.len()];
        at_most[2..].fill(4);
        let text = written(&family(Value::Histogram(at_most, 5, 1.5)), Format::Prometheus);
        assert!(text.contains("le=\"0.0005\"} 0\n") && text.contains("le=\"0.001\"} 4\n"), "{text}");
        assert!(text.contains("le=\"+Inf\"} 5\n") && text.contains("_sum{") && text.ends_with("} 5\n"), "{text}");
    }
}
