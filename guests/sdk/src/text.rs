//! Numbers and values as the sentences of findings show them: `12.3 %`, `2.5x`, `215 ms`, `1h 30m`.

/// The units of a span, longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A share in parts per million as `12.3 %`, exact.
#[must_use]
pub fn percent(ppm: u64) -> String {
    format!("{} %", decimal(ppm, 4))
}

/// A ratio in parts per million as `2.5x`, exact.
#[must_use]
pub fn times(ppm: u64) -> String {
    format!("{}x", decimal(ppm, 6))
}

/// A latency in microseconds as `850 us`, `215 ms` or `1.5 s`, exact.
#[must_use]
pub fn latency(us: u64) -> String {
    match us {
        ..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{} ms", decimal(us, 3)),
        1_000_000.. => format!("{} s", decimal(us, 6)),
    }
}

/// A span of time in milliseconds in its two largest units: `1h 30m`. What is smaller is left out.
#[must_use]
pub fn span(ms: u64) -> String {
    let Some(largest) = UNITS.iter().position(|&(_, unit)| ms >= unit) else { return "0s".into() };
    let mut rest = ms;
    let mut parts = Vec::new();
    for (name, unit) in UNITS.iter().skip(largest).take(2) {
        if rest >= *unit {
            parts.push(format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    parts.join(" ")
}

/// Rounds up to three significant digits, so that what is over its limit also reads as over it.
#[must_use]
pub fn round_up(value: u64) -> u64 {
    let mut unit = 1_u64;
    while value / unit >= 1_000 {
        unit *= 10;
    }
    value.div_ceil(unit).saturating_mul(unit)
}

/// The text, or the beginning of a longer one that ends in `…`; at most `characters` of them.
#[must_use]
pub fn excerpt(text: &str, characters: usize) -> String {
    if text.chars().nth(characters).is_none() {
        return text.to_owned();
    }
    text.chars().take(characters.saturating_sub(1)).chain(['…']).collect()
}

fn decimal(value: u64, digits: u32) -> String {
    let one = 10_u64.pow(digits);
    let width = usize::try_from(digits).unwrap_or_default();
    let fraction = format!("{:0width$}", value % one);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}", value / one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!([percent(123_000), percent(0), percent(1_000), percent(1)], ["12.3 %", "0 %", "0.1 %", "0.0001 %"]);
        assert_eq!([times(3_000_000), times(2_500_000)], ["3x", "2.5x"]);
        assert_eq!([latency(850), latency(215_300), latency(1_500_000)], ["850 us", "215.3 ms", "1.5 s"]);
        assert_eq!([span(0), span(250), span(5_400_000), span(90_061_001)], ["0s", "250ms", "1h 30m", "1d 1h"]);
    }

    #[test]
    fn rounding_never_goes_below() {
        assert_eq!([round_up(0), round_up(999), round_up(100_100), round_up(999_600)], [0, 999, 101_000, 1_000_000]);
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }

    #[test]
    fn excerpts_are_cut_at_characters() {
        assert_eq!([excerpt("äöü", 3), excerpt("äöüß", 3)], ["äöü", "äö…"]);
    }
}
