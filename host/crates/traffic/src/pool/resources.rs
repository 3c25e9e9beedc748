//! What a process uses, from `/proc` (proc(5)).

use std::{fs, time::Duration};

use serde::Serialize;

use cutover_model::clock::Mono;

/// What a process uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Resident memory in bytes.
    pub rss_bytes: u64,
    /// Processor time since it started, in user and kernel mode.
    #[serde(rename = "cpu_ms", serialize_with = "millis")]
    pub cpu: Duration,
    /// How many threads it has.
    pub threads: u32,
    /// Open descriptors; none if the system does not say.
    pub descriptors: Option<u32>,
}

/// One process, sampled again and again.
#[derive(Debug, Clone, Copy)]
pub struct Gauge {
    at: Mono,
    usage: Usage,
    /// Processor time since the sample before, in parts per million of one processor.
    share_ppm: Option<u32>,
}

impl Usage {
    /// What a process uses; `None` if it does not run.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let page = rustix::param::page_size() as u64;
        let usage = parse(&stat, rustix::param::clock_ticks_per_second(), page)?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(Iterator::count);
        Some(Self { descriptors: descriptors.and_then(|n| u32::try_from(n).ok()), ..usage })
    }
}

impl Gauge {
    /// The next sample of a process, after `before` if that is of the same process.
    pub fn next(before: Option<Self>, at: Mono, usage: Usage) -> Self {
        let share = before.and_then(|before| {
            let used = usage.cpu.checked_sub(before.usage.cpu)?;
            u32::try_from((used.as_nanos() * 1_000_000).checked_div(at.since(before.at).as_nanos())?).ok()
        });
        Self { at, usage, share_ppm: share }
    }

    /// What the process used when it was sampled.
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// Processor time since the sample before, in parts per million of one processor.
    pub const fn share_ppm(&self) -> Option<u32> {
        self.share_ppm
    }
}

/// Reads a `stat` file. The name of the program, the second field, may have anything in it, also spaces and brackets.
fn parse(stat: &str, ticks_per_second: u64, page: u64) -> Option<Usage> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The manual counts fields from 1; here the third comes first.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let (user, system, threads, rss) = (field(14)?, field(15)?, field(20)?, field(24)?);
    let millis = ((user + system) * 1_000).checked_div(ticks_per_second)?;
    Some(Usage {
        rss_bytes: rss * page,
        cpu: Duration::from_millis(millis),
        threads: u32::try_from(threads).ok()?,
        descriptors: None,
    })
}

fn millis<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "7 (a ) (b) S 1 7 7 0 -1 4194304 90 0 0 0 250 150 0 0 20 0 3 0 100 8192000 500 18446744073709551615 0 0";

    #[test]
    fn the_stat_file_is_read_as_its_manual_says() {
        let usage = parse(STAT, 100, 4_096).unwrap();
        let expected = Usage { rss_bytes: 2_048_000, cpu: Duration::from_secs(4), threads: 3, descriptors: None };
        assert_eq!(usage, expected);
        assert_eq!((parse("", 100, 1), parse("7 (a) S", 100, 1), parse(STAT, 0, 1)), (None, None, None));
    }

    #[test]
    fn a_share_is_of_the_time_between_two_samples() {
        let cpu = |ms| Usage { cpu: Duration::from_millis(ms), ..Usage::default() };
        let second = |n: u64| Mono::from_nanos(n * 1_000_000_000);
        let first = Gauge::next(None, second(1), cpu(500));
        assert_eq!(first.share_ppm(), None);
        assert_eq!(Gauge::next(Some(first), second(3), cpu(1_500)).share_ppm(), Some(500_000));
        assert_eq!(Gauge::next(Some(first), second(3), cpu(100)).share_ppm(), None, "another process");
    }

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 0 && usage.threads > 0 && usage.descriptors.unwrap() >= 3, "{usage:?}");
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
