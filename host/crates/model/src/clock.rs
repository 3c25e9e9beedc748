//! The only caller of the system's clocks. Everything else takes times as arguments.
//!
//! What decides anything rests on the monotonic clock: spans on [`Mono`], and what policies see on a
//! [`timeline`] of its own.
#![expect(clippy::disallowed_types, reason = "this is the module that the others must call")]

pub mod timeline;

use std::{
    ops::Add,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;

/// A moment on the monotonic clock, in nanoseconds since the process first asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(u64);

/// A moment on the wall clock, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The monotonic clock, for spans.
    pub mono: Mono,
    /// The wall clock, for records.
    pub wall: UnixMs,
}

/// A host's clocks. Tests set the wall clock, as somebody sets that of a machine, or make both stand still.
#[derive(Debug, Clone, Default)]
pub struct Wall {
    /// By how many milliseconds the wall clock is set forward.
    offset: Arc<AtomicI64>,
    /// What both clocks show instead of the system's, if they stand still.
    paused: Option<Arc<Mutex<Reading>>>,
}

/// Two looks at a clock that are further apart than this had a thread waiting between them.
const AT_ONCE: Duration = Duration::from_millis(5);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, for measuring spans.
pub fn mono() -> Mono {
    let span = ORIGIN.get_or_init(Instant::now).elapsed();
    Mono(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// Now, for records. A clock before 1970 reads as 1970.
pub fn unix_ms() -> UnixMs {
    let span = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

impl Wall {
    /// Clocks that stand still at `reading` until they are [advanced](Wall::advance).
    pub fn paused(reading: Reading) -> Self {
        Self { offset: Arc::default(), paused: Some(Arc::new(Mutex::new(reading))) }
    }

    /// Moves both clocks, if they stand still; the system's go by themselves.
    pub fn advance(&self, span: Duration) {
        if let Some(paused) = &self.paused {
            let mut reading = paused.lock();
            *reading = Reading { mono: reading.mono + span, wall: reading.wall + span };
        }
    }

    /// Now, for measuring spans.
    pub fn mono(&self) -> Mono {
        self.paused.as_ref().map_or_else(mono, |paused| paused.lock().mono)
    }

    /// The time that the wall clock shows.
    pub fn now(&self) -> UnixMs {
        let now = self.paused.as_ref().map_or_else(unix_ms, |paused| paused.lock().wall);
        UnixMs(now.0.saturating_add_signed(self.offset.load(Ordering::Relaxed)))
    }

    /// Sets the wall clock forward by so many milliseconds; back if negative.
    pub fn step(&self, by_ms: i64) {
        self.offset.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Reads it together with the monotonic clock; again if the thread had to wait in between, which would look like a
    /// step.
    pub fn read(&self) -> Reading {
        let mut reading = Reading { mono: self.mono(), wall: self.now() };
        for _ in 0..3 {
            if self.mono().since(reading.mono) <= AT_ONCE {
                break;
            }
            reading = Reading { mono: self.mono(), wall: self.now() };
        }
        reading
    }
}

impl Mono {
    /// Nanoseconds since the process first asked.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// From nanoseconds, as [`Mono::nanos`] gave them.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The span since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This moment as tokio's timers want it.
    pub fn timer(self) -> tokio::time::Instant {
        let origin = *ORIGIN.get_or_init(Instant::now);
        tokio::time::Instant::from_std(origin + Duration::from_nanos(self.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Add<Duration> for UnixMs {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl UnixMs {
    /// This moment, or the first one after `earlier` if that has not passed.
    #[must_use]
    pub fn after(self, earlier: Self) -> Self {
        self.max(Self(earlier.0.saturating_add(1)))
    }

    /// The span since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// From RFC 3339 in UTC, such as `2026-01-05T10:00:00Z`; `None` if it is not that or before 1970.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let span = humantime::parse_rfc3339_weak(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(span.as_millis()).ok().map(Self)
    }

    /// Reads RFC 3339, with or without a time of day, or milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// A sentence on how times are written.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(ms) = text.parse() {
            return Ok(Self(ms));
        }
        let day = text.len() == "2026-01-01".len();
        let whole = if day { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let time = humantime::parse_rfc3339_weak(&whole).ok();
        let span = time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
        let ms = span.and_then(|span| u64::try_from(span.as_millis()).ok());
        ms.map(Self).ok_or_else(|| {
            format!("`{text}` is not a time; write UTC as `2026-01-31T12:00:00Z` or `2026-01-31`, or milliseconds since 1970")
        })
    }

    /// As HTTP writes dates (RFC 9110, 5.6.7), to the second.
    pub fn http_date(self) -> String {
        httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_millis(self.0))
    }

    /// As RFC 3339 in UTC, to the millisecond.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(self.0)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_moment_comes_twice_and_none_before_another_whatever_the_clock_says() {
        let (mut last, mut all) = (UnixMs(0), Vec::new());
        for now in [5, 5, 5, 6, 9, 3, 11] {
            last = UnixMs(now).after(last);
            all.push(last.0);
        }
        assert_eq!(all, [5, 6, 7, 8, 9, 10, 11]);
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        let noon = UnixMs(1_769_860_800_000);
        for text in ["2026-01-31T12:00:00Z", "2026-01-31 12:00:00", "2026-01-31T12:00:00.000Z", "1769860800000"] {
            assert_eq!(UnixMs::parse(text), Ok(noon), "{text}");
        }
        assert_eq!(UnixMs::parse("2026-01-31"), Ok(UnixMs(noon.0 - 12 * 3_600_000)));
        assert_eq!(UnixMs::parse(&noon.rfc3339()), Ok(noon));
        for wrong in ["", "noon", "2026-13-01", "-5", "1969-12-31T23:59:59Z", "2026-01-31T12:00:00+02:00"] {
            assert!(UnixMs::parse(wrong).unwrap_err().contains("is not a time"), "{wrong}");
        }
    }
}
