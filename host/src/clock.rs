//! The only caller of the system's clocks. Everything else takes times as arguments.
#![expect(clippy::disallowed_types, reason = "this is the module that the others must call")]

use std::{
    ops::Add,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

/// A moment on the monotonic clock, in nanoseconds since the process first asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mono(u64);

/// A moment on the wall clock, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Now, for measuring spans.
pub fn mono() -> Mono {
    let span = ORIGIN.get_or_init(Instant::now).elapsed();
    Mono(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

/// Now, for records and soak times. A clock before 1970 reads as 1970.
pub fn unix_ms() -> UnixMs {
    let span = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
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

impl UnixMs {
    /// The span since `earlier`; zero if that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// From RFC 3339 in UTC, such as `2026-01-05T10:00:00Z`; `None` if it is not that or before 1970.
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let span = humantime::parse_rfc3339_weak(text).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(span.as_millis()).ok().map(Self)
    }

    /// As RFC 3339 in UTC, to the millisecond.
    pub fn rfc3339(self) -> String {
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(self.0)).to_string()
    }
}
