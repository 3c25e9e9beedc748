//! Workers as case files write them.

use serde::Deserialize;
use serde_json::Value;

use super::{deal::part, notation::Size};
use cutover_model::facts::Members;

/// Workers of both pools.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Workers {
    pub(super) v1: Pool,
    pub(super) v2: Pool,
}

/// Workers of one pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pool {
    wanted: u32,
    ready: Option<u32>,
    failures: u32,
    queued: u32,
    rss: Growth,
}

/// Memory at the beginning and at the end.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    from: Size,
    to: Size,
}

impl Pool {
    /// They, in second number `second`, from 0.
    pub(super) fn members(&self, second: u64, seconds: u64) -> Members {
        let (from, to) = (i128::from(self.rss.from.0), i128::from(self.rss.to.0));
        let steps = i128::from(seconds.saturating_sub(1).max(1));
        let rss = from + (to - from) * i128::from(second) / steps;
        Members {
            wanted: self.wanted,
            ready: self.ready.unwrap_or(self.wanted),
            failures: u32::try_from(part(self.failures.into(), second, seconds)).unwrap_or(u32::MAX),
            queued: self.queued,
            rss_bytes: u64::try_from(rss).unwrap_or(0),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self { wanted: 4, ready: None, failures: 0, queued: 0, rss: Growth::default() }
    }
}

impl<'de> Deserialize<'de> for Growth {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Grows {
            from: Size,
            to: Size,
        }
        let value = Value::deserialize(deserializer)?;
        let growth = if value.is_object() {
            serde_json::from_value(value).map(|Grows { from, to }| Self { from, to })
        } else {
            serde_json::from_value(value).map(|size| Self { from: size, to: size })
        };
        growth.map_err(serde::de::Error::custom)
    }
}
